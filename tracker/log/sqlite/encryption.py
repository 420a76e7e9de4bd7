"""Between the rows of a SQLite log and what they say: sealed on the way in, opened or known to be erased on the way out.

kept in clear   proof and body as they came, or packed (`log/record_compression.py`)
sealed          proof empty, body sealed; the leaf has a commitment; the key is in the vault
erased          as sealed, and an erasure says so; the key is gone
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from tracker.domain.deliveries import KEY_LOST, Record, Verified
from tracker.errors import LogCorrupt, LogUnavailable
from tracker.log.keys.frame_keys import EncryptedCopy, record_aad
from tracker.log.record_compression import Pair
from tracker.log.sqlite.dictionaries import DictionaryStore, bounded
from tracker.log.sqlite.tree import SELECT_ANY_SEALED, SELECT_COPIES, SELECT_ERASURES, SELECT_SEALED
from tracker.log.keys.key_store import KeyStore
from tracker.log.keys.frame_store import DataKey

Row = tuple[Any, ...]
Fetch = Callable[[str, Sequence[Any]], Awaitable[list[Row]]]


class RecordEncryption:
    """What one log does with bodies. `vault` None: kept in clear, and refused where others were sealed before."""

    def __init__(self, vault: KeyStore | None) -> None:
        self.vault = vault
        self._has_clear = True
        self._is_replica = False

    def begun(self, size: int, first_sealed: int | None, *, is_replica: bool) -> None:
        """Told when a log is opened: `size` records, the first sealed one of them at `first_sealed`.

        `is_replica`: the keys of its records are those of the stream's frames.

        Raises `LogUnavailable` where sealed records are there and no master key is configured.
        """
        self._is_replica = is_replica
        if self.vault is None and first_sealed is not None:
            raise LogUnavailable(
                f"records from position {first_sealed} on are sealed, but no master key is configured: "
                "name it under [sealing] keys",
                reason="no_master_key",
            )
        # Sealed once, sealed for ever: what is in clear stands before the first sealed record.
        self._has_clear = size > 0 and first_sealed != 1

    def dedupe_hashes(self, verified: Verified) -> tuple[str, ...]:
        """The dedupe key to keep, and those under which the same delivery may have been kept before."""
        if self.vault is None:
            return (verified.dedupe_key,)
        sealed = self.vault.dedupe_hash(verified.source, verified.dedupe_key)
        return (sealed, verified.dedupe_key) if self._has_clear else (sealed,)

    async def sealed(self, rows: list[Row]) -> tuple[list[Row], list[bytes | None]]:
        """The rows as they go into the log, and their commitments; the keys that open them are durable on return.

        Before the records are durable: a key too many does no harm, a record without its key is lost.
        """
        if self.vault is None:
            return rows, [None] * len(rows)
        found: list[Row] = []
        commitments: list[bytes | None] = []
        keys = await self.vault.make_keys(rows[0][0], rows[-1][0])
        for row in rows:
            one = self.vault.encrypt(row[0], row[2], row[7], row[8], keys[row[0]])
            found.append((*row[:7], b"", one.body))
            commitments.append(one.commitment)
        return found, commitments

    async def keys(self, after: int, until: int, fetch: Fetch) -> dict[int, DataKey]:
        """The data keys of positions `after` < p <= `until` that are still there; none without a vault."""
        if self.vault is None:
            return {}
        if not self._is_replica:
            return await self.vault.keys(after, until)
        first: dict[int, EncryptedCopy] = {}
        for position, frame, n in await fetch(SELECT_COPIES, (after, until)):
            first.setdefault(position, EncryptedCopy(frame, n))
        keys = await self.vault.keys_of_copies(first.values())
        return {position: keys[copy] for position, copy in first.items() if copy in keys}

    async def records(self, rows: Sequence[Row], fetch: Fetch, packing: DictionaryStore) -> Iterator[list[Record]]:
        """What rows of the log say, by position without gaps, in lists of at most 8 MiB (or one record).

        Raises `LogUnavailable`, `LogCorrupt`, also while the lists are taken.
        """
        await packing.load(rows)
        sealed: set[int] = set()
        bounds = (rows[0][0] - 1, rows[-1][0])
        if self.vault is not None or await fetch(SELECT_ANY_SEALED, ()):
            sealed = {position for position, _ in await fetch(SELECT_SEALED, bounds)}
        if not sealed:
            return bounded(record_of(row, packing.plain(row)) for row in rows)
        if self.vault is None:
            raise LogUnavailable("records are sealed, but no master key is configured: name it under [sealing] keys")
        erased: dict[int, int] = dict(await fetch(SELECT_ERASURES, bounds))  # pyright: ignore[reportArgumentType]
        keys = await self.keys(*bounds, fetch)
        vault = self.vault

        def opened(row: Row) -> Record:
            position = row[0]
            if position not in sealed:
                return record_of(row, packing.plain(row))
            if position in erased or position not in keys:
                return record_of(row, (b"{}", b""), erased.get(position, KEY_LOST))
            about = record_aad(row[1], row[4])
            try:
                return record_of(row, vault.decrypt(position, row[8], keys[position], about=about))
            except LogCorrupt:
                # A stranger may put bytes into the stream under a frame's id: nobody would get past them. `verify` tells
                # them from a record that was changed.
                if not self._is_replica:
                    raise
                return record_of(row, (b"{}", b""), KEY_LOST)

        return bounded(map(opened, rows))


def record_of(row: Row, kept: Pair, erased_by: int | None = None) -> Record:
    """A row as a record, with proof and body as they came."""
    position, source, vendor, event, dedupe_key, received_at, origin, _, _ = row
    return Record(
        position=position, source=source, vendor=vendor, event=event, dedupe_key=dedupe_key,
        received_at=received_at, origin=origin, proof=kept[0], body=kept[1], erased_by=erased_by,
    )  # fmt: skip
