"""The views in one SQLite file: a connection to write for the projector, and connections to read.

After a swap (`file.swap_in`) a reading connection notices before each query that the name means another file, and reopens it.
The writing connection reopens it only when the projector calls `refresh`, because the projector's caches belong to the old file.
Saves between a swap and `refresh` go to the old file, which nobody reads any more. The projector then continues from the
projected position of the new file, so nothing is lost.

LIMIT: readers share two connections, one of them for slow queries, and wait for each other.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import aiosqlite
import structlog

from tracker.errors import ViewsDamaged, ViewsOutdated, ViewsUnavailable
from tracker.domain.facts import Micros
from tracker.domain.polling import LOOK_SECONDS, look_seconds
from tracker.domain.rows import SessionRows
from tracker.domain.text_cache import drop_text_caches
from tracker.views.sqlite import schema
from tracker.views.sqlite import writer as sql
from tracker.views.contract import Look, MergeResult, Changes, Result, RoomParts, RoomReader, SavedEntry
from tracker.views.sqlite.merge import SELECT_SHARED_ROOMS, SELECT_THEIR_STATES, merge_part, rooms_of_parts
from tracker.views.sqlite.rooms import SqliteRooms
from tracker.views.sqlite.row_diff import SavedRows
from tracker.views.sqlite.counts import select_counts, update_counts
from tracker.views.sqlite.dump import dump_rows
from tracker.views.sqlite.encoding import decoding, decompress_state
from tracker.views.sqlite.reader import Row, SqliteReader
from tracker.views.sqlite.refusals import replace_refused
from tracker.views.sqlite.schema import HAS_TRIGRAMS
from tracker.views.sqlite.file import Inode, SchemaGuard, damaged, schema_problem, connect, create_file, finish_building, find_inode, is_views_file, named_errors, open_connection, start_building, swap_in  # fmt: skip
from tracker.views.sqlite.search_index import update_texts

__all__ = ["SqliteViews", "swap_in"]

_log = structlog.get_logger("views")

DATA_VERSION = "PRAGMA data_version"
"""Another number after each commit of another connection, of this or another process."""

P = ParamSpec("P")
T = TypeVar("T")


class _Connection:
    """One connection to the file that has the name. Hold `lock` around every use, including reopening."""

    def __init__(self, path: Path, *, writable: bool, building: bool = False) -> None:
        self.lock = asyncio.Lock()
        self._path = path
        self._writable = writable
        self._building = building
        self._connection: aiosqlite.Connection | None = None
        self._inode: Inode | None = None
        self._closed = False
        self.times_opened = 0

    async def open(self) -> aiosqlite.Connection:
        """The connection, opened if necessary. Call it with `lock` held."""
        if self._closed:
            raise ViewsUnavailable(f"the views at {self._path} are closed")
        if self._connection is None:
            self._connection, self._inode = await open_connection(
                lambda: connect(self._path, writable=self._writable, building=self._building)
            )
            self.times_opened += 1
        return self._connection

    @property
    def is_open(self) -> bool:
        """Whether the file is open."""
        return self._connection is not None

    async def refresh(self) -> bool:
        """Reopen if the name means another file now; returns whether it does. Call it with `lock` held."""
        if self._connection is not None and find_inode(self._path) == self._inode:
            return False
        await self._disconnect()
        await self.open()
        return True

    async def close(self) -> None:
        """Wait for the current user, then close for good."""
        async with self.lock:
            self._closed = True
            await self._disconnect()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


class SqliteViews(SqliteReader):
    """`ViewsReader` and, if opened writable, `ViewsWriter` over one file."""

    def __init__(self, path: Path, *, writable: bool, building: bool = False) -> None:
        self._path = path
        self._building = building
        self._writer = _Connection(path, writable=True, building=building) if writable else None
        self._saved_rows = SavedRows()
        self._guard = SchemaGuard(path)
        self._damage: tuple[Inode, str] | None = None
        self._look = Look(None, 0, 0.0)
        self._looked_at = self._changed_at = -math.inf
        """Event loop seconds."""
        self._opened_at_look = 0
        self._is_uncommitted = False
        """Whether the open transaction continues with the next save."""
        # Views that are being built are one long transaction, which only its own connection can see.
        whole = self._writer if building else None
        self._reader = whole or _Connection(path, writable=False)
        # Slow queries have a connection of their own: nobody else waits for a search or for statistics.
        self._searcher = whole or _Connection(path, writable=False)

    @staticmethod
    async def create(path: Path | str) -> None:
        """Create an empty views file at position 0, with its parent directories.

        It replaces views that are already there. Any other file raises `ViewsUnavailable` and stays.
        """
        await asyncio.to_thread(create_file, Path(path))

    @classmethod
    async def open(cls, path: Path | str, *, writable: bool) -> SqliteViews:
        """Open an existing views file. Raises `ViewsMissing`, `ViewsOutdated`, `ViewsUnavailable`; then nothing is created."""
        views = cls(Path(path), writable=writable)
        await views._open()
        return views

    @classmethod
    async def build(cls, path: Path | str, *, after: int = 0) -> SqliteViews:
        """Create new, empty views for a rebuild, at a path where no file exists.

        Fast but not crash-safe: nothing else can open them before `finish`, and after a crash they are useless.
        `after`: they are a part that holds only the records after this position; other views `merge` it.
        """
        await asyncio.to_thread(start_building, Path(path), after)
        views = cls(Path(path), writable=True, building=True)
        await views._open()
        return views

    async def finish(self) -> None:
        """Complete and close views made by `build`. From then on they are opened like any others."""
        await self.close_partial()
        await asyncio.to_thread(finish_building, self._path)

    async def close_partial(self) -> None:
        """Close views made by `build` unfinished, for other views to `merge`."""
        handle = self._writing_connection()
        async with handle.lock:
            with self._named_errors():
                await (await handle.open()).commit()
        await self.close()

    async def merge(self, part: Path) -> MergeResult:
        """See `MergeableViews`. Only for views made by `build`. Afterwards `part` is not read any more."""
        handle = self._writing_connection()
        async with handle.lock:
            with self._named_errors():
                return await _run_in_thread(await handle.open(), merge_part, part)

    async def shared_rooms(self, after: tuple[str, str], *, limit: int) -> list[tuple[str, str]]:
        return [(source, room) for source, room in await self._read_back(SELECT_SHARED_ROOMS, [*after, limit])]

    async def read_parts(self, read: Callable[[RoomParts], Result]) -> Result:
        handle = self._writing_connection()
        async with handle.lock:
            with self._named_errors():
                return await _run_in_thread(await handle.open(), _read_parts, read)

    async def part_states(self, session_ids: Sequence[str]) -> dict[str, bytes]:
        found = await self._read_back(SELECT_THEIR_STATES, [sql.json_list(session_ids)])
        return {name: decompress_state(packed) for name, packed in found}

    async def _open(self) -> None:
        if self._writer is not None and not HAS_TRIGRAMS:
            _log.warning(
                "this SQLite has no FTS5 with trigrams: a search with `q` scans all sessions and takes seconds; install SQLite 3.34 or later"
            )
        try:
            for handle in self._connections:
                async with handle.lock:
                    await handle.open()
        except BaseException:
            await self.close()
            raise

    @property
    def is_open(self) -> bool:
        """Whether there is a file to write to. A query opens it, if it can be."""
        return self._writer is not None and self._writer.is_open

    @property
    def _connections(self) -> list[_Connection]:
        # The writer first: it puts a swapped-in file into WAL mode.
        return [*([] if self._writer is None else [self._writer]), self._reader, self._searcher]

    @property
    def damage(self) -> tuple[Inode, str] | None:
        """The file under the name in which damage was found while reading or writing, and what was found."""
        if self._damage is not None and find_inode(self._path) != self._damage[0]:
            self._damage = None
        return self._damage

    def generation(self) -> object:
        return find_inode(self._path)

    async def look(self) -> Look:
        """See `ViewsReader`. It looks at most every 25 ms; after a swap it drops the caches of texts (`domain/text_cache`)."""
        clock = asyncio.get_running_loop().time
        async with self._reader.lock:
            if clock() - self._looked_at < LOOK_SECONDS / 2:
                return self._look
            with self._named_errors():
                await self._reader.refresh()
                connection = await self._reader.open()
                ((data_version,),) = await connection.execute_fetchall(DATA_VERSION)
                opened, version, position = self._reader.times_opened, self._look.version, self._look.position
                self._looked_at = clock()
                if version != (opened, data_version):
                    ((position,),) = await connection.execute_fetchall(sql.SELECT_POSITION)
                    version, self._changed_at = (opened, data_version), self._looked_at
                    if opened != self._opened_at_look:
                        self._opened_at_look = opened
                        drop_text_caches()
            self._look = Look(version, position, look_seconds(self._looked_at - self._changed_at))
            return self._look

    async def refresh(self) -> bool:
        """See `ViewsWriter`. Raises `ViewsMissing` if the file was removed and not replaced."""
        replaced: list[bool] = []
        for handle in self._connections:
            async with handle.lock:
                with self._named_errors():
                    replaced.append(await handle.refresh())
        if replaced[0]:
            self._saved_rows = SavedRows()
        return replaced[0]

    async def close(self) -> None:
        # The readers first: the writer closes last, folds the WAL into the file and removes it.
        for handle in reversed(self._connections):
            with self._named_errors():
                await handle.close()

    async def rows(self, statement: str, bound: Sequence[Any] = ()) -> list[Row]:
        return await self._rows(self._reader, statement, bound)

    async def slow_rows(self, statement: str, bound: Sequence[Any] = ()) -> list[Row]:
        return await self._rows(self._searcher, statement, bound)

    async def _rows(self, handle: _Connection, statement: str, bound: Sequence[Any]) -> list[Row]:
        async with handle.lock:
            with self._named_errors():
                await handle.refresh()
                connection = await handle.open()
                return cast("list[Row]", await connection.execute_fetchall(statement, bound))

    async def rows_of_snapshot(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> list[list[Row]]:
        async with self._searcher.lock:
            with self._named_errors():
                await self._searcher.refresh()
                connection = await self._searcher.open()
                try:
                    await connection.execute_fetchall("BEGIN")
                    return [
                        cast("list[Row]", await connection.execute_fetchall(statement, bound))
                        for statement, bound in statements
                    ]
                finally:
                    await asyncio.shield(connection.rollback())

    async def dump(self, *, positions: bool) -> AsyncGenerator[tuple[str, bytes]]:
        """See `ViewsReader`. It has a connection of its own, so other queries do not wait."""
        handle = _Connection(self._path, writable=False)
        try:
            with self._named_errors():
                connection = await handle.open()
                await connection.execute_fetchall("BEGIN")
                with decoding():
                    async with aclosing(dump_rows(connection, positions=positions)) as rows:
                        async for dumped in rows:
                            yield dumped
        finally:
            await handle.close()

    async def states(self, session_ids: Sequence[str]) -> dict[str, bytes]:
        found = await self._read_back(sql.SELECT_STATES, [sql.json_list(session_ids)])
        return dict(self._decoded(lambda row: (row[0], decompress_state(row[1])), found))

    def state_undecodable(self, error: Exception) -> ViewsDamaged:
        found = damaged(self._path, f"a folded state cannot be read: {type(error).__name__}")
        self._note_damage(find_inode(self._path), found)
        return found

    def _decoded(self, decode: Callable[[Row], T], rows: Iterable[Row]) -> list[T]:
        with self._named_errors():
            return super()._decoded(decode, rows)

    async def read_rooms(self, read: Callable[[RoomReader], Result]) -> Result:
        handle = self._writing_connection()
        async with handle.lock:
            with self._named_errors():
                return await _run_in_thread(await handle.open(), _read_rooms, read)

    async def session_entries(self, session_id: str) -> list[SavedEntry]:
        return self._decoded(sql.decode_saved_entry, await self._read_back(sql.SELECT_SESSION_ENTRIES, [session_id]))

    async def unreported_sessions(self, source: str, *, silent_since: Sequence[tuple[Micros, Micros]]) -> list[str]:
        bound = [sql.json_list(silent_since), source]
        return [row[0] for row in await self._read_back(sql.SELECT_UNREPORTED_SESSIONS, bound)]

    async def never_joined_sessions(self, source: str, *, begins_before: Micros) -> list[str]:
        return [row[0] for row in await self._read_back(sql.SELECT_NEVER_JOINED_SESSIONS, [source, begins_before])]

    async def save(self, changes: Changes, *, commit: bool = True) -> None:
        handle = self._writing_connection()
        async with handle.lock:
            with self._named_errors():
                connection = await handle.open()
                if connection.in_transaction and not self._building and not self._is_uncommitted:
                    # The last save was cancelled twice, so its rollback may not have run.
                    await connection.rollback()
                self._is_uncommitted = False
                try:
                    await _run_in_thread(
                        connection, _save, changes, None if self._building else self._saved_rows, self._guard, commit
                    )
                except BaseException:
                    # Also if cancelled: the next save must not find this transaction open.
                    await asyncio.shield(connection.rollback())
                    raise
                self._is_uncommitted = not commit

    async def count_set_aside(self) -> int:
        return int((await self._read_back(sql.COUNT_SET_ASIDE, []))[0][0])

    async def rollback(self) -> None:
        handle = self._writing_connection()
        async with handle.lock:
            with self._named_errors():
                self._is_uncommitted = False
                connection = await handle.open()
                if connection.in_transaction and not self._building:
                    await connection.rollback()

    async def _read_back(self, statement: str, bound: Sequence[Any]) -> list[Row]:
        """The rows that the projector reads, from the file it writes to: after a swap the old one, until `refresh`."""
        handle = self._writing_connection()
        async with handle.lock:
            with self._named_errors():
                connection = await handle.open()
                return cast("list[Row]", await connection.execute_fetchall(statement, bound))

    def _writing_connection(self) -> _Connection:
        if self._writer is None:
            raise ViewsUnavailable(f"the views at {self._path} were opened for reading only")
        return self._writer

    @contextmanager
    def _named_errors(self) -> Generator[None]:
        inode = find_inode(self._path)
        try:
            with named_errors(self._path):
                try:
                    yield
                except ViewsOutdated:
                    if is_views_file(self._path):
                        raise
                    raise ViewsDamaged(f"the views at {self._path} were replaced by another file") from None
        except ViewsDamaged as error:
            self._note_damage(inode, error)
            raise
        except ViewsUnavailable as error:
            # A missing column or index is an error of the statement, not of the file.
            found = schema_problem(self._path) if isinstance(error.__cause__, sqlite3.Error) else None
            if found is None:
                raise
            self._note_damage(inode, found)
            raise found from error

    def _note_damage(self, inode: Inode | None, error: ViewsDamaged) -> None:
        if inode is not None:
            self._damage = inode, str(error)


def _read_rooms(connection: sqlite3.Connection, read: Callable[[RoomReader], Result]) -> Result:
    return read(SqliteRooms(connection))


def _read_parts(connection: sqlite3.Connection, read: Callable[[RoomParts], Result]) -> Result:
    return read(rooms_of_parts(connection))


def _save(
    connection: sqlite3.Connection, changes: Changes, saved_rows: SavedRows | None, guard: SchemaGuard, commit: bool
) -> None:
    """One save, in the connection's thread. `saved_rows` is None for views that are being built."""
    if not connection.in_transaction:
        connection.execute("BEGIN IMMEDIATE")
    if saved_rows is not None:
        guard.check(connection)
    if changes.declarations is not None and schema.interpret_by(changes.declarations) and saved_rows is not None:
        connection.execute(schema.SAVE_STAMP, [schema.full_stamp()])
    try:
        numbers, fresh = sql.begin_save(connection, sql.collect_names(changes))
    except Exception as error:
        changes = replace_refused(changes, error)
        numbers, fresh = sql.begin_save(connection, sql.collect_names(changes))
    if saved_rows is None:
        # All saves are one transaction: a page that many saves change is written to the file once.
        _execute(connection, changes, numbers, fresh, {})
        return
    known = saved_rows.find(changes, connection.execute(sql.SELECT_POSITION).fetchone()[0])
    before = select_counts(connection, changes, numbers, known)
    changes = _execute(connection, changes, numbers, fresh, known)
    update_counts(connection, before, changes)
    if HAS_TRIGRAMS:
        update_texts(connection, changes, numbers, fresh, known)
    if commit:
        connection.commit()
    saved_rows.remember(changes)


def _execute(
    connection: sqlite3.Connection, changes: Changes, numbers: sql.Numbers, fresh: set[str],
    known: Mapping[str, SessionRows],
) -> Changes:  # fmt: skip
    """Execute the statements of a save; without what SQLite refuses. Returns the changes that were saved."""
    try:
        sql.execute_save(connection, changes, numbers, fresh, known)
    except Exception as error:
        changes = replace_refused(changes, error)
        # A part of the statements was executed: nothing is known to be there, and nothing is new.
        sql.execute_save(connection, changes, numbers, set())
    return changes


async def _run_in_thread(
    connection: aiosqlite.Connection,
    what: Callable[Concatenate[sqlite3.Connection, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Run a function of several statements at once: each way into that thread and back costs as much as twenty rows."""
    held = connection._conn  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    run = connection._execute  # noqa: SLF001  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType, reportUnknownVariableType]
    return await run(what, held, *args, **kwargs)
