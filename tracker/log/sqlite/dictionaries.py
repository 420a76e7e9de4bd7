"""The dictionaries of a SQLite log: they compress its rows on the way in and decompress them on the way out.

    the first 1,000 records of a source   are stored uncompressed
      └─ a thread trains a dictionary ─► `dictionaries`, durable ─► later records are compressed with it
    every 100,000 records of a source     another is trained, and used if it compresses a tenth better

If we die before a dictionary is durable, the next process trains it; if we die after, the next process uses it. When two
processes train at once, the second finds the first one's dictionary under the write lock, and uses that.

Encrypted records are neither compressed nor trained on here: a dictionary holds pieces of bodies, for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import aiosqlite

from tracker.domain.deliveries import Record
from tracker.errors import LogCorrupt, LogError
from tracker.log.contract import StoredRecord
from tracker.log.record_compression import MAGIC, Packer, Pair, train_better, dictionary_of, is_packed, with_id

SELECT_CURRENT = "SELECT source, vendor, max(id) FROM dictionaries GROUP BY source, vendor"
SELECT_CURRENT_OF = "SELECT max(id) FROM dictionaries WHERE source = ? AND vendor = ?"
SELECT_LAST_ID = "SELECT coalesce(max(id), 0) FROM dictionaries"
SELECT_DICTIONARIES = "SELECT id, bytes FROM dictionaries WHERE id > ? ORDER BY id"
INSERT_DICTIONARY = """
INSERT INTO dictionaries (id, source, vendor, made_at_position, bytes)
SELECT ?, ?, ?, (SELECT coalesce(max(position), 0) FROM records), ?
"""
SELECT_COUNTS = """
SELECT source, vendor, count(*) FROM (SELECT source, vendor FROM records ORDER BY position DESC LIMIT ?)
GROUP BY source, vendor
"""
# The index of sources would find them by dedupe key, which is no order of time.
SELECT_LATEST = """
SELECT position, source, vendor, event, dedupe_key, received_at, origin, proof, body
FROM records NOT INDEXED WHERE source = ? AND vendor = ? AND length(body) <= ? ORDER BY position DESC LIMIT ?
"""
SAMPLE = 1_000
SAMPLED_BYTES = 16 * 1024
COUNTED_RECORDS = 20_000
"""How many of the latest records count towards the next training when a log is opened."""
RETRAIN_RECORDS = 100_000
UNPACKED_BYTES = 8 * 1024 * 1024

Row = tuple[Any, ...]
Fetch = Callable[[str, Sequence[Any]], Awaitable[list[Row]]]
Plain = TypeVar("Plain", Record, StoredRecord)
SourceVendor = tuple[str, str]
"""(source, vendor)"""
RunExclusive = Callable[[Callable[[aiosqlite.Connection], Awaitable[None]]], Awaitable[None]]
"""Runs a function in a transaction of its own, between two commits."""


class DictionaryStore:
    """The dictionaries of one log. `fetch` reads it, `run_exclusive` writes to it."""

    def __init__(self, fetch: Fetch, run_exclusive: RunExclusive) -> None:
        self._fetch = fetch
        self._run_exclusive = run_exclusive
        self._packers: dict[int, Packer] = {0: Packer()}
        self._last = 0
        self._current: dict[SourceVendor, int] | None = None
        self._seen: dict[SourceVendor, int] = {}
        self.training: asyncio.Task[None] | None = None

    async def compress(self, rows: Sequence[Row], commitments: Sequence[bytes | None]) -> list[Row]:
        """The rows as they go into the log; encrypted ones stay as they are. Starts a training where one is due."""
        if self._current is None:
            self._seen = {
                (source, vendor): n for source, vendor, n in await self._fetch(SELECT_COUNTS, (COUNTED_RECORDS,))
            }
            await self._find_current()
        found: list[Row] = []
        for row, commitment in zip(rows, commitments, strict=True):
            found.append(row if commitment is not None else self._compress_one(row))
        if commitments[-1] is None and (self.training is None or self.training.done()):
            due = next((key for key in self._seen if self._is_due(key)), None)
            if due is not None:
                self._seen[due] = 0
                self.training = asyncio.create_task(self._train(due), name="log-training")
        return found

    def _compress_one(self, row: Row) -> Row:
        key = (row[1], row[2])
        self._seen[key] = self._seen.get(key, 0) + 1
        number = (self._current or {}).get(key)
        if number is None and is_packed(row[7], row[8]):
            number = 0
        frame = None if number is None else self._packers[number].pack(row[7], row[8])
        return row if frame is None else (*row[:7], b"", frame)

    def _is_due(self, key: SourceVendor) -> bool:
        return self._seen[key] >= (RETRAIN_RECORDS if key in (self._current or {}) else SAMPLE)

    async def _train(self, key: SourceVendor) -> None:
        """A failure loses nothing: the next training is due later."""
        with contextlib.suppress(LogError):
            held = (self._current or {}).get(key)
            rows = await self._fetch(SELECT_LATEST, (*key, SAMPLED_BYTES, SAMPLE))
            await self.load(rows)
            than = None if held is None else self._packers[held].dictionary
            made = await asyncio.to_thread(train_better, [self.plain(row) for row in rows], than)
            if made is not None:
                await self._run_exclusive(lambda connection: _store(connection, key, held, made))
            await self._find_current()

    async def _find_current(self) -> None:
        """Find the newest usable dictionaries, including those of other processes."""
        await self._load()
        found = {(source, vendor): number for source, vendor, number in await self._fetch(SELECT_CURRENT, ())}
        self._current = {key: number for key, number in found.items() if number in self._packers}

    async def load(self, rows: Iterable[Row]) -> None:
        """Load the dictionaries that these rows of the log need, as far as they exist."""
        if any(is_packed(row[7], row[8]) for row in rows):
            await self._load()

    async def _load(self) -> None:
        """Load new dictionaries: they are few, and never change."""
        for number, held in await self._fetch(SELECT_DICTIONARIES, (self._last,)):
            self._last = number
            # A missing or damaged dictionary is reported with each record that needs it.
            with contextlib.suppress(ValueError):
                self._packers[number] = Packer(held)

    def plain(self, row: Row) -> Pair:
        """The plain (proof, body) of an unencrypted row; `load` it first. Raises `LogCorrupt` where it does not decompress."""
        proof, body = row[7], row[8]
        if proof or body[:4] != MAGIC:
            return proof, body
        try:
            packer = self._packers.get(dictionary_of(body))
            if packer is not None:
                return packer.unpack(body)
            why = "its dictionary is missing or damaged"
        except ValueError as error:
            why = str(error)
        raise LogCorrupt(f"the record at position {row[0]} does not decompress, so it was changed: {why}")

    def plain_or_stored(self, row: Row) -> Pair:
        """The same, but as stored where it does not decompress: its leaf will not fit."""
        try:
            return self.plain(row)
        except LogCorrupt:
            return row[7], row[8]

    async def close(self) -> None:
        """Cancel a running training; the next process that appends starts it again."""
        if self.training is not None:
            self.training.cancel()
            await asyncio.wait([self.training])


def bounded(records: Iterable[Plain]) -> Iterator[list[Plain]]:
    """The same in lists of at most 8 MiB (or one record), made one at a time: decompressed records may be large."""
    part: list[Plain] = []
    held = 0
    for record in records:
        more = len(record.proof) + len(record.body)
        held += more
        if held > UNPACKED_BYTES and part:
            yield part
            part, held = [], more
        part.append(record)
    if part:
        yield part


async def _store(connection: aiosqlite.Connection, key: SourceVendor, before: int | None, made: bytes) -> None:
    """Store a dictionary, unless another process stored one since `before` was current."""
    ((current,),) = await connection.execute_fetchall(SELECT_CURRENT_OF, key)
    if current == before:
        ((last,),) = await connection.execute_fetchall(SELECT_LAST_ID)
        await connection.execute(INSERT_DICTIONARY, (last + 1, *key, with_id(made, last + 1)))
