"""The views in one SQLite file: a writing connection for the projector, a reading one for the ways out.

Both look, before they are used, whether the name still means the file they opened: after a swap (`sqlite_swapping`) the
reader goes over to the new file by itself, and the writer when the projector calls `refresh`, because what the
projector remembers belongs to the old one. What is saved between a swap and `refresh` goes into the old file, which
nobody reads any more; the projector then starts again from the new checkpoint and nothing is lost.

LIMIT: reads share two connections, one for what may take long, and wait for each other.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import aiosqlite
import structlog

from tracker.errors import ViewsUnavailable
from tracker.domain.facts import Micros
from tracker.views.sqlite import writer as sql
from tracker.views.contract import MergeResult, Changes, SavedEntry, SharedRoom
from tracker.views.sqlite.merge import SELECT_SHARED_ROOMS, SELECT_THEIR_STATES, merge_part
from tracker.views.sqlite.row_diff import SavedRows
from tracker.views.sqlite.counts import select_counts, update_counts
from tracker.views.sqlite.dump import dump_rows
from tracker.views.sqlite.encoding import decompress_state
from tracker.views.sqlite.reader import Row, SqliteReader
from tracker.views.sqlite.schema import HAS_TRIGRAMS
from tracker.views.sqlite.file import Inode, connect, create_file, finish_building, find_inode, named_errors, start_building, swap_in  # fmt: skip
from tracker.views.sqlite.search_index import update_texts

__all__ = ["SqliteViews", "swap_in"]

_log = structlog.get_logger("views")

P = ParamSpec("P")
T = TypeVar("T")

CHUNK = 500
"""Rows a dump fetches at a time."""


class _Door:
    """One connection to whatever file has the name; `lock` is held around every use, reopening included."""

    def __init__(self, path: Path, *, writable: bool, building: bool = False) -> None:
        self.lock = asyncio.Lock()
        self._path = path
        self._writable = writable
        self._building = building
        self._connection: aiosqlite.Connection | None = None
        self._inode: Inode | None = None
        self._closed = False

    async def open(self) -> aiosqlite.Connection:
        """The connection, opened where it is not; with `lock` held."""
        if self._closed:
            raise ViewsUnavailable(f"the views at {self._path} are closed")
        if self._connection is None:
            found: list[Inode | Exception] = []

            def connector() -> sqlite3.Connection:
                # A connector that raises leaves aiosqlite's thread to end by itself, maybe after the event loop did.
                try:
                    connection, inode = connect(self._path, writable=self._writable, building=self._building)
                except Exception as error:
                    found.append(error)
                    return sqlite3.connect(":memory:")
                found.append(inode)
                return connection

            connection = await aiosqlite.Connection(connector, CHUNK)
            if isinstance(found[0], Exception):
                await connection.close()
                raise found[0]
            self._connection, self._inode = connection, found[0]
        return self._connection

    async def refresh(self) -> bool:
        """Go over to the file that has the name now; True when it is another one. With `lock` held."""
        if self._connection is not None and find_inode(self._path) == self._inode:
            return False
        await self._let_go()
        await self.open()
        return True

    async def close(self) -> None:
        """Wait for who uses it, then close for good."""
        async with self.lock:
            self._closed = True
            await self._let_go()

    async def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


class SqliteViews(SqliteReader):
    """`ViewsWriter` (when opened writable) and `ViewsReader` over one file."""

    def __init__(self, path: Path, *, writable: bool, building: bool = False) -> None:
        self._path = path
        self._building = building
        self._writer = _Door(path, writable=True, building=building) if writable else None
        self._kept = SavedRows()
        self._goes_on = False
        """Whether the open transaction waits for the next save."""
        # Views being built are one long transaction, which only its own connection can look into.
        whole = self._writer if building else None
        self._reader = whole or _Door(path, writable=False)
        # What may take seconds has a connection of its own: nobody else waits for a search or for statistics.
        self._searcher = whole or _Door(path, writable=False)

    @staticmethod
    async def create(path: Path | str) -> None:
        """Make an empty views file at checkpoint 0, with its parent directories.

        Views already there are swapped out; another kind of file there raises `ViewsUnavailable` and is left alone. `open` it next.
        """
        await asyncio.to_thread(create_file, Path(path))

    @classmethod
    async def open(cls, path: Path | str, *, writable: bool) -> SqliteViews:
        """Open the views file. Raises `ViewsMissing`, `ViewsOutdated`, `ViewsUnavailable`; nothing is made then."""
        views = cls(Path(path), writable=writable)
        await views._open()
        return views

    @classmethod
    async def build(cls, path: Path | str, *, after: int = 0) -> SqliteViews:
        """New, empty views at a path where there is nothing, to be filled in one go by a rebuild.

        Fast and not safe: nothing else can open them before `finish`, and after a crash they are worth nothing.
        `after`: they are of the records after that position only, and are put by for others to `absorb`.
        """
        await asyncio.to_thread(start_building, Path(path), after)
        views = cls(Path(path), writable=True, building=True)
        await views._open()
        return views

    async def finish(self) -> None:
        """Close views of `build` and make them whole: from then on they are opened like any others."""
        await self.close_partial()
        await asyncio.to_thread(finish_building, self._path)

    async def close_partial(self) -> None:
        """Close views of `build` as they are, for others to `absorb`."""
        door = self._writing_door()
        async with door.lock:
            with self._named_errors():
                await (await door.open()).commit()
        await self.close()

    async def merge(self, part: Path, join_rooms: Callable[[bytes, bytes], bytes]) -> MergeResult:
        """See `HalvedViews`. Into views of `build` only; nothing more is read of `part` then."""
        door = self._writing_door()
        async with door.lock:
            with self._named_errors():
                return await _in_its_thread(await door.open(), merge_part, part, join_rooms)

    async def shared_rooms(self, after: tuple[str, str], *, limit: int) -> list[SharedRoom]:
        """See `HalvedViews`."""
        return [SharedRoom(*row) for row in await self._written(SELECT_SHARED_ROOMS, [*after, limit])]

    async def part_states(self, session_ids: Sequence[str]) -> dict[str, bytes]:
        """See `HalvedViews`."""
        found = await self._written(SELECT_THEIR_STATES, [sql.json_list(session_ids)])
        return {name: decompress_state(packed) for name, packed in found}

    async def _open(self) -> None:
        if self._writer is not None and not HAS_TRIGRAMS:
            _log.warning("this SQLite has no FTS5 with trigrams (3.34): `q` looks at every session and takes seconds")
        try:
            for door in self._doors:
                async with door.lock:
                    await door.open()
        except BaseException:
            await self.close()
            raise

    @property
    def _doors(self) -> list[_Door]:
        # The writer first: it is the one that puts a swapped-in file into WAL mode.
        return [*([] if self._writer is None else [self._writer]), self._reader, self._searcher]

    async def refresh(self) -> bool:
        """See `ViewsWriter`. Raises `ViewsMissing` when the file vanished and nothing took its place."""
        replaced: list[bool] = []
        for door in self._doors:
            async with door.lock:
                with self._named_errors():
                    replaced.append(await door.refresh())
        if replaced[0]:
            self._kept = SavedRows()
        return replaced[0]

    async def close(self) -> None:
        """See `ViewsWriter`."""
        # The reader first: the writer, closing last, folds the WAL into the file and leaves it alone on the disk.
        for door in reversed(self._doors):
            with self._named_errors():
                await door.close()

    async def rows(self, statement: str, bound: Sequence[Any] = ()) -> list[Row]:
        """See `SqliteReading`."""
        return await self._rows(self._reader, statement, bound)

    async def slow_rows(self, statement: str, bound: Sequence[Any] = ()) -> list[Row]:
        """See `SqliteReading`."""
        return await self._rows(self._searcher, statement, bound)

    async def _rows(self, door: _Door, statement: str, bound: Sequence[Any]) -> list[Row]:
        async with door.lock:
            with self._named_errors():
                await door.refresh()
                connection = await door.open()
                return cast("list[Row]", await connection.execute_fetchall(statement, bound))

    async def rows_of_snapshot(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> list[list[Row]]:
        """See `SqliteReading`."""
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
        """See `ViewsReader`. On a connection of its own: other reads go on meanwhile."""
        door = _Door(self._path, writable=False)
        try:
            with self._named_errors():
                connection = await door.open()
                await connection.execute_fetchall("BEGIN")
                async with aclosing(dump_rows(connection, positions=positions)) as rows:
                    async for dumped in rows:
                        yield dumped
        finally:
            await door.close()

    async def states(self, session_ids: Sequence[str]) -> dict[str, bytes]:
        """See `ViewsWriter`."""
        found = await self._written(sql.SELECT_STATES, [sql.json_list(session_ids)])
        return {name: decompress_state(packed) for name, packed in found}

    async def rooms(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], bytes]:
        """See `ViewsWriter`."""
        found = await self._written(sql.SELECT_ROOMS, [sql.json_list(keys)])
        return {(source, room): state for source, room, state in found}

    async def room_entries(
        self, source: str, room: str, from_at: Micros | None, to_at: Micros | None
    ) -> list[SavedEntry]:
        """See `ViewsWriter`."""
        bound = [source, room, sql.EARLIEST if from_at is None else from_at, sql.LATEST if to_at is None else to_at]
        return [sql.decode_saved_entry(row) for row in await self._written(sql.SELECT_ROOM_ENTRIES, bound)]

    async def session_entries(self, session_id: str) -> list[SavedEntry]:
        """See `ViewsWriter`."""
        return [sql.decode_saved_entry(row) for row in await self._written(sql.SELECT_SESSION_ENTRIES, [session_id])]

    async def unreported_sessions(self, source: str, *, begins_before: Micros) -> list[str]:
        """See `ViewsWriter`."""
        return [row[0] for row in await self._written(sql.SELECT_UNREPORTED_SESSIONS, [source, begins_before])]

    async def never_joined_sessions(self, source: str, *, begins_before: Micros) -> list[str]:
        """See `ViewsWriter`."""
        return [row[0] for row in await self._written(sql.SELECT_NEVER_JOINED_SESSIONS, [source, begins_before])]

    async def save(self, changes: Changes, *, commit: bool = True) -> None:
        """See `ViewsWriter`."""
        door = self._writing_door()
        async with door.lock:
            with self._named_errors():
                connection = await door.open()
                if connection.in_transaction and not self._building and not self._goes_on:
                    # A save cancelled twice: its rollback may not have been sent.
                    await connection.rollback()
                self._goes_on = False
                try:
                    await _in_its_thread(connection, _save, changes, None if self._building else self._kept, commit)
                except BaseException:
                    # Also when cancelled: the next save must not find this one's transaction open.
                    await asyncio.shield(connection.rollback())
                    raise
                self._goes_on = not commit

    async def rollback(self) -> None:
        """See `ViewsWriter`."""
        door = self._writing_door()
        async with door.lock:
            with self._named_errors():
                self._goes_on = False
                connection = await door.open()
                if connection.in_transaction and not self._building:
                    await connection.rollback()

    async def _written(self, statement: str, bound: Sequence[Any]) -> list[Row]:
        """What the projector reads back: from the file it writes to, even after a swap, until it calls `refresh`."""
        door = self._writing_door()
        async with door.lock:
            with self._named_errors():
                connection = await door.open()
                return cast("list[Row]", await connection.execute_fetchall(statement, bound))

    def _writing_door(self) -> _Door:
        if self._writer is None:
            raise ViewsUnavailable(f"the views at {self._path} were opened for reading only")
        return self._writer

    @contextmanager
    def _named_errors(self) -> Generator[None]:
        with named_errors(self._path):
            yield


def _save(connection: sqlite3.Connection, changes: Changes, kept: SavedRows | None, commit: bool) -> None:
    """One save, from its beginning to its commit, if there is no `more` to come; `kept` None: into views being built."""
    numbers, fresh = sql.begin_save(connection, sql.collect_names(changes))
    if kept is None:
        # One transaction for all: what a save writes is written again by the next ones, and once to the file.
        sql.execute_save(connection, changes, numbers, fresh)
        return
    held = kept.find(changes, connection.execute(sql.SELECT_POSITION).fetchone()[0])
    before = select_counts(connection, changes, numbers, held)
    sql.execute_save(connection, changes, numbers, fresh, held)
    update_counts(connection, before, changes)
    if HAS_TRIGRAMS:
        update_texts(connection, changes, numbers, fresh, held)
    if commit:
        connection.commit()
    kept.remember(changes)


async def _in_its_thread(
    connection: aiosqlite.Connection,
    what: Callable[Concatenate[sqlite3.Connection, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Run a function of several statements at once: each way into that thread and back costs as much as twenty rows."""
    held = connection._conn  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    run = connection._execute  # noqa: SLF001  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType, reportUnknownVariableType]
    return await run(what, held, *args, **kwargs)
