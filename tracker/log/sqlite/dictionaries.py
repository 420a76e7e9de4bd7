"""Between the rows of a SQLite log and the dictionaries it keeps: packed on the way in, unpacked on the way out.

    the first 1,000 records of a source   stay as they came
      └─ a thread trains a dictionary ─► `dictionaries`, durable ─► the records after that are packed with it
    every 100,000 records of a source     another is trained, and kept where it packs a tenth smaller

If we die before a dictionary is durable, the next process trains it; if we die after, the next process uses it. Two that
append at once: the second to come with a dictionary finds the first one's, under the write lock, and takes that.

Records are not packed, and none trained on, where they are sealed: a dictionary holds pieces of bodies, for ever.
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
LOOKED_AT = 20_000
"""How many records before us count as seen, when a log is opened."""
AGAIN = 100_000
UNPACKED_BYTES = 8 * 1024 * 1024

Row = tuple[Any, ...]
Fetch = Callable[[str, Sequence[Any]], Awaitable[list[Row]]]
Plain = TypeVar("Plain", Record, StoredRecord)
Said = tuple[str, str]
"""(source, vendor)"""
Alone = Callable[[Callable[[aiosqlite.Connection], Awaitable[None]]], Awaitable[None]]
"""Runs something in a transaction of its own, between two commits."""


class DictionaryStore:
    """The dictionaries of one log. `fetch` reads it, `alone` writes to it."""

    def __init__(self, fetch: Fetch, alone: Alone) -> None:
        self._fetch = fetch
        self._alone = alone
        self._packers: dict[int, Packer] = {0: Packer()}
        self._last = 0
        self._current: dict[Said, int] | None = None
        self._seen: dict[Said, int] = {}
        self._training: asyncio.Task[None] | None = None

    async def packed(self, rows: Sequence[Row], commitments: Sequence[bytes | None]) -> list[Row]:
        """Rows as they go into the log; the sealed ones stay as they are. Starts a training where one is due."""
        if self._current is None:
            self._seen = {(source, vendor): n for source, vendor, n in await self._fetch(SELECT_COUNTS, (LOOKED_AT,))}
            await self._look_for_dictionaries()
        found: list[Row] = []
        for row, commitment in zip(rows, commitments, strict=True):
            found.append(row if commitment is not None else self._one(row))
        if commitments[-1] is None and (self._training is None or self._training.done()):
            due = next((said for said in self._seen if self._is_due(said)), None)
            if due is not None:
                self._seen[due] = 0
                self._training = asyncio.create_task(self._train(due), name="log-training")
        return found

    def _one(self, row: Row) -> Row:
        said = (row[1], row[2])
        self._seen[said] = self._seen.get(said, 0) + 1
        number = (self._current or {}).get(said)
        if number is None and is_packed(row[7], row[8]):
            number = 0
        frame = None if number is None else self._packers[number].pack(row[7], row[8])
        return row if frame is None else (*row[:7], b"", frame)

    def _is_due(self, said: Said) -> bool:
        return self._seen[said] >= (AGAIN if said in (self._current or {}) else SAMPLE)

    async def _train(self, said: Said) -> None:
        """Where it fails nothing is lost: the next one is due so many records later."""
        with contextlib.suppress(LogError):
            held = (self._current or {}).get(said)
            rows = await self._fetch(SELECT_LATEST, (*said, SAMPLED_BYTES, SAMPLE))
            await self.load(rows)
            than = None if held is None else self._packers[held].dictionary
            made = await asyncio.to_thread(train_better, [self.plain(row) for row in rows], than)
            if made is not None:
                await self._alone(lambda connection: _keep(connection, said, held, made))
            await self._look_for_dictionaries()

    async def _look_for_dictionaries(self) -> None:
        """Also another process's. Only what can be used is current."""
        await self._load()
        found = {(source, vendor): number for source, vendor, number in await self._fetch(SELECT_CURRENT, ())}
        self._current = {said: number for said, number in found.items() if number in self._packers}

    async def load(self, rows: Iterable[Row]) -> None:
        """Have the dictionaries that these rows of the log need, as far as there are any."""
        if any(is_packed(row[7], row[8]) for row in rows):
            await self._load()

    async def _load(self) -> None:
        """Those that are new: they are few, and only ever added to."""
        for number, held in await self._fetch(SELECT_DICTIONARIES, (self._last,)):
            self._last = number
            # A dictionary that is missing or damaged is told at each record that needs it.
            with contextlib.suppress(ValueError):
                self._packers[number] = Packer(held)

    def plain(self, row: Row) -> Pair:
        """(proof, body) of a row in clear, as they came; `load` it first. Raises `LogCorrupt` where it does not unpack."""
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
        raise LogCorrupt(f"the record at position {row[0]} does not unpack, it was changed: {why}")

    def as_it_came(self, row: Row) -> Pair:
        """The same, but as it stands where it does not unpack: its leaf will not fit."""
        try:
            return self.plain(row)
        except LogCorrupt:
            return row[7], row[8]

    async def close(self) -> None:
        """Let go of a training under way; whoever appends to the log next begins it again."""
        if self._training is not None:
            self._training.cancel()
            await asyncio.wait([self._training])


def bounded(records: Iterable[Plain]) -> Iterator[list[Plain]]:
    """The same in lists of at most 8 MiB (or one record), taken one after the other: what is packed may be much."""
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


async def _keep(connection: aiosqlite.Connection, said: Said, held: int | None, made: bytes) -> None:
    """Keep a dictionary, unless another process kept one since `held` was the current one."""
    ((current,),) = await connection.execute_fetchall(SELECT_CURRENT_OF, said)
    if current == held:
        ((last,),) = await connection.execute_fetchall(SELECT_LAST_ID)
        await connection.execute(INSERT_DICTIONARY, (last + 1, *said, with_id(made, last + 1)))
