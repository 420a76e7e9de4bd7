"""The log in one SQLite file: WAL, synchronous=FULL, group commit, triggers that refuse every change.

    append ── group_commit ── writer connection:  BEGIN IMMEDIATE · which are repeats? · INSERT … · COMMIT
    read, head, record ────── reader connection:  read-only, its own thread, never waits for the writer

A position is `max(position) + 1` under the write lock, so several processes (a server and an importer) may append to one
file. If we die before COMMIT returns, nobody got an answer and the sender's repeat finds either nothing or the record.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import aiosqlite

from tracker.domain.deliveries import Appended, Record, Verified
from tracker.errors import LogCorrupt, LogUnavailable
from tracker.log.merkle.tree import Frontier
from tracker.log.group_commit import QUEUE_BYTES, GroupCommit, LogObserver
from tracker.log.sqlite.file import FileIdentity, create_file, open_reader, open_writer
from tracker.log.sqlite.dedupe import assign_positions
from tracker.log.sqlite.dictionaries import DictionaryStore
from tracker.log.sqlite.proving import COLUMNS, SqliteTreeReader
from tracker.log.sqlite.bulk import Statement, execute_batch, insert_statements
from tracker.log.sqlite.encryption import RecordEncryption
from tracker.log.sqlite.tree import (
    INSERT_ERASURE,
    INSERT_TILE,
    LEAVES,
    SELECT_SIZE_AND_FIRST_SEALED,
    frontier_of,
    appended_tiles,
)
from tracker.log.keys.key_store import KeyStore
from tracker.log.keys.frame_store import DataKey

CHUNK_RECORDS = 1000
CHUNK_BYTES = 8 * 1024 * 1024
FAILURE_SECONDS = 30.0
POLL_SECONDS = 0.2
"""How soon `wait` notices what another process appended."""

Written = TypeVar("Written")

RECORDS = f"records ({COLUMNS})"
SELECT_FOLLOWED = "SELECT name FROM stream"
SELECT_HEAD = "SELECT coalesce(max(position), 0) FROM records"
SELECT_LAST_OF = "SELECT coalesce(max(position), 0) FROM records WHERE source = ?"
SELECT_RECORD = f"SELECT {COLUMNS} FROM records WHERE position = ?"  # noqa: S608
# length() of a BLOB reads no content, so measuring a chunk before fetching it costs next to nothing.
SELECT_CHUNK_END = """
SELECT max(position) FROM (
    SELECT position, sum(length(body) + length(proof)) OVER (ORDER BY position) AS bytes
    FROM records WHERE position > :after AND position <= :until ORDER BY position LIMIT :records
) WHERE bytes <= :bytes OR position = :after + 1
"""
SELECT_CHUNK = f"SELECT {COLUMNS} FROM records WHERE position > ? AND position <= ? ORDER BY position"  # noqa: S608


class Change(NamedTuple, Generic[Written]):
    """What a transaction answers, the tree's right edge after it (None: it did not grow), and what is still to be run."""

    answer: Written
    frontier: Frontier | None = None
    statements: Sequence[Statement] = ()


class SqliteLog(SqliteTreeReader):
    """The contract of `Log` in one file. Made by `create` and opened by `open`, never by its constructor."""

    # With NORMAL a power cut was measured to lose 2 % of what was acknowledged.
    synchronous: ClassVar[str] = "FULL"

    def __init__(
        self,
        path: Path,
        connections: tuple[aiosqlite.Connection, aiosqlite.Connection],
        *,
        queue_bound: int,
        observe: LogObserver | None,
        busy_timeout: float,
        vault: KeyStore | None = None,
    ) -> None:
        self.path = path
        self._writer: aiosqlite.Connection | None = connections[0]
        self._reader = connections[1]
        self._busy_timeout = busy_timeout
        self._whereabouts = FileIdentity(path)
        self._changed = asyncio.Event()
        self._closed = False
        self._frontier: Frontier | None = None
        self._failed: tuple[float, str] | None = None
        self._follows: str | None = None
        self._sealing = RecordEncryption(vault)
        self._packing = DictionaryStore(self._fetch, self._write_alone)
        self._group_commit = GroupCommit(self._commit, queue_bound=queue_bound, observe=observe)

    @classmethod
    async def create(cls, path: str | Path) -> None:
        """Make an empty log and its directory. Raises `LogUnavailable` when there is something at `path` already."""
        await create_file(Path(path))

    @classmethod
    async def open(
        cls,
        path: str | Path,
        *,
        queue_bound: int = 10_000,
        observe: LogObserver | None = None,
        busy_timeout: float = 3.0,
        vault: KeyStore | None = None,
        sealed_stay: bool = False,
    ) -> Self:
        """Open an existing log and bring its schema up to date.

        `vault`: seals new records and opens sealed ones; it is closed with the log, or when this raises.
        `sealed_stay`: without a vault, sealed records can be proved (`read_kept`), not read. For whoever has no master key.
        `queue_bound` in records; `busy_timeout` in seconds, how long to wait for another process that is writing.
        Raises `LogMissing`, `LogCorrupt` (not a log of ours, or a newer Tracker's) or `LogUnavailable`.
        """
        real = Path(path).resolve()
        async with contextlib.AsyncExitStack() as undo:
            if vault is not None:
                undo.push_async_callback(vault.close)
            writing = await open_writer(real, busy_timeout=busy_timeout, synchronous=cls.synchronous)
            undo.push_async_callback(writing.close)
            reading = await open_reader(real, busy_timeout=busy_timeout)
            undo.push_async_callback(reading.close)
            log = cls(
                real, (writing, reading),
                queue_bound=queue_bound, observe=observe, busy_timeout=busy_timeout, vault=vault,
            )  # fmt: skip
            undo.push_async_callback(log._group_commit.close)
            log._follows = next((name for (name,) in await log._fetch(SELECT_FOLLOWED)), None)
            ((size, first_sealed),) = await log._fetch(SELECT_SIZE_AND_FIRST_SEALED)
            if not sealed_stay or vault is not None:
                log._sealing.begun(size, first_sealed, is_replica=log._follows is not None)
            undo.pop_all()
        return log

    @property
    def max_batch_bytes(self) -> int:
        """See `Log.most_bytes`."""
        return QUEUE_BYTES

    async def append(self, verified: Verified) -> Appended:
        """See `Log.append`."""
        return (await self._group_commit.append([verified]))[0]

    def append_for(self, answer: asyncio.Future[Appended], verified: Verified) -> None:
        """See `Log.append_for`."""
        self._group_commit.append_for(answer, verified)

    async def append_all(self, batch: Sequence[Verified]) -> list[Appended]:
        """See `Log.append_all`. Shares its transaction with whatever else is waiting."""
        return await self._group_commit.append(batch) if batch else []

    async def check_writable(self) -> None:
        """Whether records could be taken now: an empty transaction that waits its turn. Raises as `append` does.

        An empty transaction writes nothing, so a write that failed is remembered: until one succeeds, or 30 s.
        """
        await self._group_commit.append([])
        if self._failed is not None:
            at, reason = self._failed
            ago = asyncio.get_running_loop().time() - at
            # Not for ever: whoever sends nothing to a server that is not ready would never see it ready again.
            if ago < FAILURE_SECONDS:
                raise LogUnavailable(f"the last append failed {ago:.0f} s ago, none has succeeded since: {reason}")

    async def _commit(self, batch: Sequence[Verified], *, erasing: Sequence[int] = ()) -> list[Appended]:
        """All of the batch in one transaction. Called by one task only, so the connection needs no lock.

        `erasing`: the positions that the one record of the batch says are erased.
        """
        if self._follows is not None and batch:
            raise LogUnavailable(
                f"{self.path} is a replica of the stream {self._follows}, which alone says what comes next: "
                'write log.engine = "jetstream"'
            )

        async def write(connection: aiosqlite.Connection) -> Change[list[Appended]]:
            answers, rows = await assign_positions(connection, batch, self._sealing.dedupe_hashes)
            if not rows:
                return Change(answers)
            frontier, statements = await self._grown(connection, *await self._sealing.sealed(rows))
            statements += [(INSERT_ERASURE, (position, rows[0][0])) for position in erasing]
            return Change(answers, frontier, statements)

        return await self._in_transaction(write, remember=bool(batch))

    async def _in_transaction(
        self, write: Callable[[aiosqlite.Connection], Awaitable[Change[Written]]], *, remember: bool
    ) -> Written:
        """What `write` answers, once what it wrote and the statements it left are durable.

        `remember`: a failure is one of records, not of a probe. Called by one task only.
        """
        self._whereabouts.check()
        connection = await self._writing()
        begun = False
        try:
            await connection.execute("BEGIN IMMEDIATE")
            begun = True
            change = await write(connection)
            await execute_batch(connection, [*change.statements, ("COMMIT", ())])
        except BaseException as error:
            await self._back_out(connection)
            if begun and remember:
                self._failed = (asyncio.get_running_loop().time(), str(error))
            if isinstance(error, sqlite3.Error):
                raise LogUnavailable(f"the log cannot take records now: {error}") from error
            raise
        # Also after the commit: it may have gone to a file that nobody will ever open again.
        self._whereabouts.check()
        if change.frontier is not None:
            self._frontier = change.frontier
            self._failed = None
            self._changed.set()
            self._changed = asyncio.Event()
        return change.answer

    async def _grown(
        self, connection: aiosqlite.Connection, rows: list[tuple[Any, ...]], commitments: Sequence[bytes | None]
    ) -> tuple[Frontier, list[Statement]]:
        """The tree's right edge after these records, and what puts them, their leaves and the tiles they fill in."""
        held = self._frontier
        # Another process may have appended since; its records are under us now.
        if held is None or held.size != rows[0][0] - 1:
            held = await frontier_of(connection)
        if held.size != rows[0][0] - 1:
            raise LogCorrupt(
                f"{self.path}: the record at position {held.size + 1} has no leaf, it was put in around Tracker: "
                "find it with `tracker verify`"
            )
        frontier = held.copy()
        leaves, full = appended_tiles(frontier, rows, commitments)
        # The leaves are over the plain bytes, so the tree is the same however they are kept.
        records = insert_statements(RECORDS, await self._packing.packed(rows, commitments))
        return frontier, [*records, *insert_statements(LEAVES, leaves), *((INSERT_TILE, tile) for tile in full)]

    async def _write_alone(self, work: Callable[[aiosqlite.Connection], Awaitable[None]]) -> None:
        """Run something that adds no record in a transaction between two commits. Raises `LogUnavailable`."""

        async def write(connection: aiosqlite.Connection) -> Change[None]:
            return Change(await work(connection))

        await self._group_commit.run_exclusive(lambda: self._in_transaction(write, remember=False))

    async def _writing(self) -> aiosqlite.Connection:
        if self._writer is None:
            self._writer = await open_writer(self.path, busy_timeout=self._busy_timeout, synchronous=self.synchronous)
        return self._writer

    async def _back_out(self, connection: aiosqlite.Connection) -> None:
        try:
            await connection.rollback()
        except sqlite3.Error:
            # A connection that cannot roll back is worth nothing; the next append opens a new one.
            self._writer = None
            with contextlib.suppress(sqlite3.Error):
                await connection.close()

    async def head(self) -> int:
        """See `Log.head`."""
        ((head,),) = await self._fetch(SELECT_HEAD)
        return head

    async def record(self, position: int) -> Record | None:
        """See `Log.record`."""
        rows = await self._fetch(SELECT_RECORD, (position,))
        return next(iter(await self._sealing.records(rows, self._fetch, self._packing)))[0] if rows else None

    async def last_from_source(self, source: str) -> int:
        """See `Log.last_of`."""
        ((position,),) = await self._fetch(SELECT_LAST_OF, (source,))
        return position

    async def read(self, after: int, *, limit: int | None = None) -> AsyncIterator[list[Record]]:
        """See `Log.read`. Lists of at most 1000 records and, unless one alone is larger, 8 MiB.

        No transaction stays open between two lists: a slow reader must not keep the WAL from being checkpointed.
        Raises `LogCorrupt` when a position is missing.
        """
        after = max(after, 0)
        until = await self.head()
        if limit is not None:
            until = min(until, after + limit)
        while after < until:
            bounds = {"after": after, "until": until, "records": CHUNK_RECORDS, "bytes": CHUNK_BYTES}
            ((found,),) = await self._fetch(SELECT_CHUNK_END, bounds)
            end: int = after if found is None else found
            rows = await self._fetch(SELECT_CHUNK, (after, end))
            if not rows or [row[0] for row in rows] != list(range(after + 1, end + 1)):
                raise LogCorrupt(f"{self.path}: positions are missing after {after}: restore the log from a copy")
            for records in await self._sealing.records(rows, self._fetch, self._packing):
                yield records
            after = end

    async def wait(self, after: int, timeout: float) -> int:
        """See `Log.wait`. Our own appends wake it at once, another process's within 200 ms."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            changed = self._changed  # taken before the look at the head, or an append between the two goes unnoticed
            head = await self.head()
            left = deadline - loop.time()
            if head > after or left <= 0:
                return head
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, POLL_SECONDS)):
                    await changed.wait()

    async def append_erasure(self, verified: Verified, positions: Sequence[int]) -> Appended:
        """See `Log.append_erasure`. The record and what it erases are in one transaction, on a connection of its own."""
        return await self._group_commit.run_exclusive(lambda: self._erase(verified, positions))

    async def _erase(self, verified: Verified, positions: Sequence[int]) -> Appended:
        return (await self._commit([verified], erasing=positions))[0]

    async def _keys(self, after: int, until: int) -> dict[int, DataKey]:
        return await self._sealing.keys(after, until, self._fetch)

    async def destroy_keys(self, positions: Sequence[int]) -> None:
        """See `Log.destroy_keys`."""
        if self._sealing.vault is None:
            raise LogUnavailable("records are kept in clear: without [sealing] keys nothing can be erased")
        await self._sealing.vault.destroy(positions)

    async def close(self) -> None:
        """See `Log.close`."""
        await self._packing.close()
        await self._group_commit.close()
        if self._closed:
            return
        self._closed = True
        self._changed.set()
        # The reader first: the last connection to go checkpoints the WAL, and a read-only one cannot.
        for connection in (self._reader, self._writer):
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    await connection.close()
        if self._sealing.vault is not None:
            await self._sealing.vault.close()

    async def _fetch(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        if self._closed:
            raise LogUnavailable("the log is closed: the server is stopping")
        try:
            rows = await self._reader.execute_fetchall(sql, parameters)  # pyright: ignore[reportArgumentType]
            return [tuple(row) for row in rows]
        except sqlite3.OperationalError as error:
            raise LogUnavailable(f"the log cannot be read now: {error}") from error
        except sqlite3.DatabaseError as error:
            raise LogCorrupt(f"{self.path} is damaged: {error}") from error
        except OverflowError as error:
            raise LogUnavailable("positions are at most 2^63 - 1") from error
