"""Encrypts the rows of a SQLite log on the way in; decrypts them, or recognises erased ones, on the way out.

plain       proof and body as they were received, or compressed (`log/record_compression.py`)
encrypted   proof empty, body encrypted; the leaf has a commitment; the data key is in the key store
erased      as encrypted, and an erasure names it; the data key is destroyed
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from tracker.domain.deliveries import KEY_LOST, Record, Verified
from tracker.errors import LogCorrupt, LogUnavailable
from tracker.log.keys.frame_keys import EncryptedCopy, record_aad
from tracker.log.record_compression import Pair
from tracker.log.sqlite.dictionaries import DictionaryStore, bounded
from tracker.log.sqlite.tree import SELECT_ANY_ENCRYPTED, SELECT_COPIES, SELECT_ERASURES, SELECT_ENCRYPTED
from tracker.log.keys.key_store import DataKey, KeyStore

Row = tuple[Any, ...]
Fetch = Callable[[str, Sequence[Any]], Awaitable[list[Row]]]


class RecordEncryption:
    """Encrypts and decrypts the records of one log.

    Without a `key_store`, new records are stored unencrypted. `start` raises if the log already has encrypted records.
    """

    def __init__(self, key_store: KeyStore | None) -> None:
        self.key_store = key_store
        self._has_plain = True
        self._is_replica = False

    def start(self, size: int, first_encrypted: int | None, *, is_replica: bool) -> None:
        """Call it when a log is opened. It has `size` records, the first encrypted one at `first_encrypted`.

        `is_replica`: the keys of its records are those of the stream's frames.

        Raises `LogUnavailable` (`reason` "no_master_key") where there are encrypted records and no master key is configured.
        """
        self._is_replica = is_replica
        if self.key_store is None and first_encrypted is not None:
            raise LogUnavailable(
                f"records from position {first_encrypted} on are encrypted, but no master key is configured: "
                "name it under [sealing] keys",
                reason="no_master_key",
            )
        # Once encryption is on it stays on: all plain records stand before the first encrypted one.
        self._has_plain = size > 0 and first_encrypted != 1

    def dedupe_hashes(self, verified: Verified) -> tuple[str, ...]:
        """The dedupe key to store, first, and the keys under which the same delivery may have been stored before."""
        if self.key_store is None:
            return (verified.dedupe_key,)
        hashed = self.key_store.dedupe_hash(verified.source, verified.dedupe_key)
        return (hashed, verified.dedupe_key) if self._has_plain else (hashed,)

    async def encrypt(self, rows: list[Row]) -> tuple[list[Row], list[bytes | None]]:
        """The rows as they go into the log, and their commitments. Their data keys are durable on return.

        Keys become durable before records: an unused key does no harm, a record without its key is lost.
        """
        if self.key_store is None:
            return rows, [None] * len(rows)
        found: list[Row] = []
        commitments: list[bytes | None] = []
        keys = await self.key_store.make_keys(rows[0][0], rows[-1][0])
        for row in rows:
            one = self.key_store.encrypt(row[0], row[2], row[7], row[8], keys[row[0]])
            found.append((*row[:7], b"", one.body))
            commitments.append(one.commitment)
        return found, commitments

    async def keys(self, after: int, until: int, fetch: Fetch) -> dict[int, DataKey]:
        """The data keys of positions `after` < p <= `until` that have not been destroyed; none without a key store."""
        if self.key_store is None:
            return {}
        if not self._is_replica:
            return await self.key_store.keys(after, until)
        first: dict[int, EncryptedCopy] = {}
        for position, frame, n in await fetch(SELECT_COPIES, (after, until)):
            first.setdefault(position, EncryptedCopy(frame, n))
        keys = await self.key_store.keys_of_copies(first.values())
        return {position: keys[copy] for position, copy in first.items() if copy in keys}

    async def records(self, rows: Sequence[Row], fetch: Fetch, dictionaries: DictionaryStore) -> Iterator[list[Record]]:
        """The records in rows of the log, which have no gaps, in lists of at most 8 MiB (or one record).

        Raises `LogUnavailable`, `LogCorrupt`, also while the lists are iterated.
        """
        await dictionaries.load(rows)
        encrypted: set[int] = set()
        bounds = (rows[0][0] - 1, rows[-1][0])
        if self.key_store is not None or await fetch(SELECT_ANY_ENCRYPTED, ()):
            encrypted = {position for position, _ in await fetch(SELECT_ENCRYPTED, bounds)}
        if not encrypted:
            return bounded(record_of(row, dictionaries.plain(row)) for row in rows)
        if self.key_store is None:
            raise LogUnavailable(
                "records are encrypted, but no master key is configured: name it under [sealing] keys",
                reason="no_master_key",
            )
        erased: dict[int, int] = dict(await fetch(SELECT_ERASURES, bounds))  # pyright: ignore[reportArgumentType]
        keys = await self.keys(*bounds, fetch)
        key_store = self.key_store

        def read(row: Row) -> Record:
            position = row[0]
            if position not in encrypted:
                return record_of(row, dictionaries.plain(row))
            if position in erased or position not in keys:
                return record_of(row, (b"{}", b""), erased.get(position, KEY_LOST))
            aad = record_aad(row[1], row[4])
            try:
                return record_of(row, key_store.decrypt(position, row[8], keys[position], aad=aad))
            except LogCorrupt:
                # A stranger may publish other bytes under a frame's id, and no reader would get past them. `verify` can
                # tell them from a changed record.
                if not self._is_replica:
                    raise
                return record_of(row, (b"{}", b""), KEY_LOST)

        return bounded(map(read, rows))


def record_of(row: Row, content: Pair, erased_by: int | None = None) -> Record:
    """A row as a record, with its plain proof and body."""
    position, source, vendor, event, dedupe_key, received_at, origin, _, _ = row
    return Record(
        position=position, source=source, vendor=vendor, event=event, dedupe_key=dedupe_key,
        received_at=received_at, origin=origin, proof=content[0], body=content[1], erased_by=erased_by,
    )  # fmt: skip
