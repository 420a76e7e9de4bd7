"""The log in one SQLite file: WAL, synchronous=FULL, group commit, and triggers that refuse every change.

    append ── group_commit ── writer connection:  BEGIN IMMEDIATE · find duplicates · INSERT … · COMMIT
    read, head, record ────── reader connection:  read-only, its own thread, never waits for the writer
    wait ──────────────────── looks at `PRAGMA data_version`, so it sees what any process appends

A position is `max(position) + 1` under the write lock, so several processes (a server and an importer) may append to one
file. If we die before COMMIT returns, no sender got an answer, and a repeat finds either nothing or the record.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import aiosqlite

from tracker.domain.deliveries import Appended, Record, Verified
from tracker.domain.polling import look_seconds
from tracker.errors import LogCorrupt, LogUnavailable
from tracker.log.cluster.messages import DivergenceReport
from tracker.log.contract import StoredLeaf, StoredRecord, TreeHead
from tracker.log.merkle.leaf import stored_digest
from tracker.log.merkle.tree import Frontier, root_at
from tracker.log.group_commit import QUEUE_BYTES, GroupCommit, LogObserver
from tracker.log.schema_check import find_problems
from tracker.log.sqlite.file import FileIdentity, create_file, open_reader, open_writer
from tracker.log.sqlite.migrate import log_schema, schema_guard
from tracker.log.sqlite.dedupe import assign_positions
from tracker.log.sqlite.dictionaries import DictionaryStore, bounded
from tracker.log.sqlite.bulk import Rows, Statement, run_in_thread, write_batch
from tracker.log.sqlite.encryption import RecordEncryption
from tracker.log.sqlite.tree import (
    ERASURES,
    INSERT_CHECKPOINT,
    LEAVES,
    SELECT_CHECKPOINT,
    SELECT_CHECKPOINTS,
    SELECT_ERASED,
    SELECT_ERASURES_MADE,
    SELECT_LAST_CHECKPOINT,
    SELECT_LEAF,
    SELECT_POSITIONS_OF,
    SELECT_POSITIONS_OF_EVENT,
    SELECT_SIZE_AND_FIRST_ENCRYPTED,
    SELECT_SURPLUS_TILE,
    SELECT_TREE_SIZE,
    TILES,
    appended_tiles,
    frontier_of,
    tile_query,
)
from tracker.log.sqlite.trust import (
    SELECT_ANNOUNCED_KEY,
    SELECT_COSIGNATURES,
    SELECT_DIVERGENCE_REPORTS,
    SELECT_HOLDERS,
    SELECT_SIGNING,
    read_divergence_reports,
)
from tracker.log.keys.key_store import DataKey, KeyStore

CHUNK_RECORDS = 1000
CHUNK_BYTES = 8 * 1024 * 1024
FAILURE_SECONDS = 30.0

Written = TypeVar("Written")

COLUMNS = "position, source, vendor, event, dedupe_key, received_at, origin, proof, body"
STORED_RECORDS = 500
SELECT_STORED = f"""
SELECT {", ".join(f"records.{name}" for name in COLUMNS.split(", "))}, leaves.hash, leaves.commitment
FROM records LEFT JOIN leaves USING (position) WHERE records.position > ? ORDER BY records.position LIMIT ?
"""  # noqa: S608 - only column names are put in
RECORDS = f"records ({COLUMNS})"
SELECT_FOLLOWED = "SELECT name FROM stream"
DATA_VERSION = "PRAGMA data_version"
"""Another number after each commit of another connection, of this or another process."""
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
    """A transaction's answer, the tree's right edge after it (None: it did not grow), and what is still to be written in it.

    `inserted`: rows that are read back before the commit. `statements` run after they were inserted.
    """

    answer: Written
    frontier: Frontier | None = None
    inserted: Sequence[Rows] = ()
    statements: Sequence[Statement] = ()


class SqliteLog:
    """The contract of `ServedLog` in one file. Made by `create` and opened by `open`, never by its constructor."""

    # With NORMAL a power cut was measured to lose 2 % of what was acknowledged.
    synchronous: ClassVar[str] = "FULL"

    def __init__(
        self,
        path: Path,
        connections: tuple[aiosqlite.Connection | None, aiosqlite.Connection],
        *,
        queue_bound: int,
        observe: LogObserver | None,
        busy_timeout: float,
        key_store: KeyStore | None = None,
    ) -> None:
        self.path = path
        self._writer: aiosqlite.Connection | None = connections[0]
        self._is_writable = connections[0] is not None
        self._reader = connections[1]
        self._busy_timeout = busy_timeout
        self._identity = FileIdentity(path)
        self._schema = schema_guard(path)
        self._changed_at = -math.inf
        """When `wait` last saw a change (event loop seconds)."""
        self._closed = False
        self._frontier: Frontier | None = None
        self._failed: tuple[float, str] | None = None
        self._follows: str | None = None
        self._encryption = RecordEncryption(key_store)
        self.dictionaries = DictionaryStore(self._fetch, self._write_exclusive)
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
        key_store: KeyStore | None = None,
        encrypted_unread: bool = False,
        check_schema: bool = True,
        writable: bool = True,
    ) -> Self:
        """Open an existing log and bring its schema up to date.

        `key_store`: encrypts new records and decrypts others; it is closed with the log, or when this raises.
        `encrypted_unread`: without a key store, encrypted records can be proved (`read_stored`) but not read.
        `check_schema`: False opens a log with a changed schema too, to read it; appending still raises `LogCorrupt`.
        `writable`: False opens it only to read, as another process of a server does; the file is not changed.
        `queue_bound` in records; `busy_timeout` in seconds, how long to wait for another process that is writing.
        Raises `LogMissing`, `LogCorrupt` (not a Tracker log, or written by a newer version) or `LogUnavailable`.
        """
        real = Path(path).resolve()
        async with contextlib.AsyncExitStack() as undo:
            if key_store is not None:
                undo.push_async_callback(key_store.close)
            writing = None
            if writable:
                writing = await open_writer(
                    real, busy_timeout=busy_timeout, synchronous=cls.synchronous, check_schema=check_schema
                )
                undo.push_async_callback(writing.close)
            reading = await open_reader(real, busy_timeout=busy_timeout)
            undo.push_async_callback(reading.close)
            log = cls(
                real, (writing, reading),
                queue_bound=queue_bound, observe=observe, busy_timeout=busy_timeout, key_store=key_store,
            )  # fmt: skip
            undo.push_async_callback(log._group_commit.close)
            log._follows = next((name for (name,) in await log._fetch(SELECT_FOLLOWED)), None)
            ((size, first_encrypted),) = await log._fetch(SELECT_SIZE_AND_FIRST_ENCRYPTED)
            if not encrypted_unread or key_store is not None:
                log._encryption.start(size, first_encrypted, is_replica=log._follows is not None)
            undo.pop_all()
        return log

    @property
    def max_batch_bytes(self) -> int:
        return QUEUE_BYTES

    async def append(self, verified: Verified) -> Appended:
        return (await self._group_commit.append([verified]))[0]

    def append_for(self, answer: asyncio.Future[Appended], verified: Verified) -> None:
        self._group_commit.append_for(answer, verified)

    async def append_all(self, batch: Sequence[Verified]) -> list[Appended]:
        """Append many; they share a transaction with other waiting appends."""
        return await self._group_commit.append(batch) if batch else []

    async def check_writable(self) -> None:
        """Check with an empty transaction, queued as any other, that records could be appended. Raises as `append` does.

        An empty transaction writes nothing, so a failed write counts too: until one succeeds, or for 30 s.
        """
        await self._group_commit.append([])
        if self._failed is not None:
            at, reason = self._failed
            ago = asyncio.get_running_loop().time() - at
            # Not for ever: without deliveries, which are not sent to a server that is not ready, it would never be ready again.
            if ago < FAILURE_SECONDS:
                raise LogUnavailable(f"the last append failed {ago:.0f} s ago, none has succeeded since: {reason}")

    async def _commit(self, batch: Sequence[Verified], *, erasing: Sequence[int] = ()) -> list[Appended]:
        """Append the batch in one transaction. Called by one task only, so the connection needs no lock.

        `erasing`: the positions that the batch's only record erases.
        """
        if self._follows is not None and batch:
            raise LogUnavailable(
                f"{self.path} is a replica of the stream {self._follows}, and only the stream can append to it: "
                'write log.engine = "jetstream"'
            )

        async def write(connection: aiosqlite.Connection) -> Change[list[Appended]]:
            answers, rows = await assign_positions(connection, batch, self._encryption.dedupe_hashes)
            if not rows:
                return Change(answers)
            frontier, inserted = await self._grow(connection, *await self._encryption.encrypt(rows))
            erased = Rows(ERASURES, [(position, rows[0][0]) for position in erasing])
            return Change(answers, frontier, [*inserted, erased])

        return await self._in_transaction(write, remember=bool(batch))

    async def _in_transaction(
        self, write: Callable[[aiosqlite.Connection], Awaitable[Change[Written]]], *, remember: bool
    ) -> Written:
        """Run `write` and write the rest of its change in one durable transaction; return its answer.

        `remember`: a failure counts in `check_writable`. Called by one task only.
        """
        self._identity.check()
        connection = await self._writing()
        begun = False
        try:
            await connection.execute("BEGIN IMMEDIATE")
            begun = True
            change = await write(connection)
            await write_batch(connection, change.inserted, change.statements, self._schema.check)
        except BaseException as error:
            await self._roll_back(connection)
            if begun and remember:
                self._failed = (asyncio.get_running_loop().time(), str(error))
            if isinstance(error, sqlite3.Error):
                raise LogUnavailable(f"the log cannot take records now: {error}") from error
            raise
        # Again after the commit: it may have gone to a file that was deleted or moved meanwhile.
        self._identity.check()
        if change.frontier is not None:
            self._frontier = change.frontier
            self._failed = None
        return change.answer

    async def _grow(
        self, connection: aiosqlite.Connection, rows: list[tuple[Any, ...]], commitments: Sequence[bytes | None]
    ) -> tuple[Frontier, list[Rows]]:
        """The tree's right edge after these records, and the rows to insert: records, leaves and filled tiles."""
        held = self._frontier
        # Another process may have appended since.
        if held is None or held.size != rows[0][0] - 1:
            held = await frontier_of(connection)
        if held.size != rows[0][0] - 1:
            raise LogCorrupt(
                f"{self.path}: the record at position {held.size + 1} has no leaf, so it was not appended by Tracker: "
                "find it with `tracker verify`"
            )
        frontier = held.copy()
        leaves, full = appended_tiles(frontier, rows, commitments)
        # Leaves cover the uncompressed bytes, so the tree does not depend on compression.
        records = await self.dictionaries.compress(rows, commitments)
        return frontier, [Rows(RECORDS, records), Rows(LEAVES, leaves), Rows(TILES, full)]

    async def _write_exclusive(self, work: Callable[[aiosqlite.Connection], Awaitable[None]]) -> None:
        """Run `work`, which adds no record, in a transaction between two commits. Raises `LogUnavailable`."""

        async def write(connection: aiosqlite.Connection) -> Change[None]:
            return Change(await work(connection))

        await self._group_commit.run_exclusive(lambda: self._in_transaction(write, remember=False))

    async def _writing(self) -> aiosqlite.Connection:
        if self._writer is None:
            if not self._is_writable:
                raise LogUnavailable(f"{self.path} was opened for reading only")
            self._writer = await open_writer(self.path, busy_timeout=self._busy_timeout, synchronous=self.synchronous)
        return self._writer

    async def _roll_back(self, connection: aiosqlite.Connection) -> None:
        try:
            await connection.rollback()
        except sqlite3.Error:
            # A connection that cannot roll back is unusable; the next append opens a new one.
            self._writer = None
            with contextlib.suppress(sqlite3.Error):
                await connection.close()

    async def head(self) -> int:
        ((head,),) = await self._fetch(SELECT_HEAD)
        return head

    async def record(self, position: int) -> Record | None:
        rows = await self._fetch(SELECT_RECORD, (position,))
        return next(iter(await self._encryption.records(rows, self._fetch, self.dictionaries)))[0] if rows else None

    async def last_from_source(self, source: str) -> int:
        ((position,),) = await self._fetch(SELECT_LAST_OF, (source,))
        return position

    async def read(self, after: int, *, limit: int | None = None) -> AsyncIterator[list[Record]]:
        """Lists of at most 1000 records and, unless one alone is larger, 8 MiB.

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
            for records in await self._encryption.records(rows, self._fetch, self.dictionaries):
                yield records
            after = end

    async def wait(self, after: int, timeout: float) -> int:
        """It looks every 25 ms whether anybody appended, every 200 ms after a quiet minute (`domain/polling`)."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        seen: int | None = None
        while True:
            ((version,),) = await self._fetch(DATA_VERSION)
            if seen is None or version != seen:
                if seen is not None:
                    self._changed_at = loop.time()
                seen = version
                head = await self.head()
                if head > after:
                    return head
            left = deadline - loop.time()
            if left <= 0:
                return await self.head()
            await asyncio.sleep(min(left, look_seconds(loop.time() - self._changed_at)))

    # `TreeReader`: what proves the log

    async def tree_head(self) -> TreeHead:
        ((size,),) = await self._fetch(SELECT_TREE_SIZE)
        # Full tiles never change, and only the first `size` leaves count: concurrent appends do no harm.
        return TreeHead(size, await root_at(size, self.tile))

    async def tile(self, level: int, n: int) -> list[bytes]:
        return [row[0] for row in await self._fetch(*tile_query(level, n))]

    async def leaf(self, position: int) -> StoredLeaf | None:
        rows = await self._fetch(SELECT_LEAF, (position,))
        if not rows:
            return None
        (row,) = rows
        leaf, commitment = row[9:]
        await self.dictionaries.load(rows)
        proof, body = self.dictionaries.plain_or_stored(row) if commitment is None else row[7:9]
        keys = await self._keys(position - 1, position)
        salt = keys[position].salt if position in keys else None
        return StoredLeaf(position, leaf, stored_digest(proof, body), commitment, salt)

    async def read_stored(self, after: int) -> AsyncIterator[list[StoredRecord]]:
        after, until = max(after, 0), await self.head()
        while after < until:
            rows = await self._fetch(SELECT_STORED, (after, STORED_RECORDS))
            if not rows:
                return
            await self.dictionaries.load(rows)
            for part in bounded(map(self._stored, rows)):
                yield part
            after = rows[-1][0]

    def _stored(self, row: tuple[Any, ...]) -> StoredRecord:
        if row[7] or row[10] is not None:
            return StoredRecord(*row)
        position, source, vendor, event, key, received_at, origin, _, _, leaf, _ = row
        proof, body = self.dictionaries.plain_or_stored(row)
        return StoredRecord(position, source, vendor, event, key, received_at, origin, proof, body, leaf, None)

    async def positions_from_source(self, source: str, *, event: str | None = None) -> list[int]:
        rows = (
            await self._fetch(SELECT_POSITIONS_OF, (source,))
            if event is None
            else await self._fetch(SELECT_POSITIONS_OF_EVENT, (source, event))
        )
        return [position for (position,) in rows]

    async def erased_positions(self, after: int, limit: int) -> list[tuple[int, int]]:
        return [(position, by) for position, by in await self._fetch(SELECT_ERASED, (after, limit))]

    async def erasures_made_by(self, after: int, until: int) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for position, by in await self._fetch(SELECT_ERASURES_MADE, (after, until)):
            found.setdefault(by, []).append(position)
        return found

    async def data_keys(self, after: int, until: int) -> dict[int, DataKey]:
        return await self._keys(after, until)

    async def surplus_tile(self) -> tuple[int, int] | None:
        rows = await self._fetch(SELECT_SURPLUS_TILE)
        return (rows[0][0], rows[0][1]) if rows else None

    async def store_checkpoint(self, size: int, note: str) -> bool:
        """Stored on a connection of its own: the writing one may be in a transaction."""
        try:
            connection = await open_writer(self.path, busy_timeout=self._busy_timeout)
            try:
                await connection.execute("BEGIN IMMEDIATE")
                if await connection.execute_fetchall(SELECT_CHECKPOINT, (size,)):
                    return False
                await connection.execute(INSERT_CHECKPOINT, (size, note))
                await connection.execute("COMMIT")
                return True
            finally:
                await connection.close()
        except sqlite3.Error as error:
            raise LogUnavailable(f"the checkpoint cannot be stored: {error}") from error

    async def checkpoints(self, *, after: int = 0, limit: int | None = None) -> list[tuple[int, str]]:
        rows = await self._fetch(SELECT_CHECKPOINTS, (after, -1 if limit is None else limit))
        return [(size, note) for size, note in rows]

    async def cosignatures(self, size: int) -> list[str]:
        return [line for _, line in await self._fetch(SELECT_COSIGNATURES, (size,))]

    async def signing_node(self, size: int) -> str | None:
        """The node that signed the checkpoint of that size, in a cluster."""
        return next((node for (node,) in await self._fetch(SELECT_SIGNING, (size,))), None)

    async def announced_key(self) -> str | None:
        """The verifier key that the node of the first checkpoint announced, in a cluster."""
        return next((key for (key,) in await self._fetch(SELECT_ANNOUNCED_KEY)), None)

    async def nodes_holding(self, size: int) -> list[str]:
        """The nodes that signed or cosigned the checkpoint of that size, the signing node first."""
        return [node for (node,) in await self._fetch(SELECT_HOLDERS, (size,))]

    async def divergence_reports(self) -> list[DivergenceReport]:
        """The reports of nodes that hold another tree and have not been replaced since."""
        return read_divergence_reports(await self._fetch(SELECT_DIVERGENCE_REPORTS))

    async def last_checkpoint(self) -> tuple[int, str] | None:
        rows = await self._fetch(SELECT_LAST_CHECKPOINT)
        return (rows[0][0], rows[0][1]) if rows else None

    # Erasing

    async def append_erasure(self, verified: Verified, positions: Sequence[int]) -> Appended:
        """The record and what it erases are stored in one transaction."""
        return await self._group_commit.run_exclusive(lambda: self._erase(verified, positions))

    async def _erase(self, verified: Verified, positions: Sequence[int]) -> Appended:
        return (await self._commit([verified], erasing=positions))[0]

    async def _keys(self, after: int, until: int) -> dict[int, DataKey]:
        return await self._encryption.keys(after, until, self._fetch)

    async def destroy_keys(self, positions: Sequence[int]) -> None:
        if self._encryption.key_store is None:
            raise LogUnavailable("records are not encrypted: without [sealing] keys nothing can be erased")
        await self._encryption.key_store.destroy(positions)

    async def schema_problems(self) -> list[str]:
        """What was added to the schema of the file, changed or removed. Raises `LogCorrupt` where it cannot be read."""
        try:
            return await run_in_thread(self._reader, lambda plain: find_problems(plain, log_schema()))
        except sqlite3.Error as error:
            raise LogCorrupt(f"{self.path} is damaged: {error}") from error

    async def close(self) -> None:
        await self.dictionaries.close()
        await self._group_commit.close()
        if self._closed:
            return
        self._closed = True
        # The reader first: the last connection to close checkpoints the WAL, and a read-only one cannot.
        for connection in (self._reader, self._writer):
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    await connection.close()
        if self._encryption.key_store is not None:
            await self._encryption.key_store.close()

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
