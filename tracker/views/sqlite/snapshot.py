"""The SQLite views at one moment: one connection in one read transaction.

Later saves and swaps are not seen. LIMIT: SQLite cannot truncate the WAL while a snapshot is open.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import aiosqlite

from tracker.domain.polling import IDLE_LOOK_SECONDS
from tracker.errors import ViewsUnavailable
from tracker.views.contract import Look
from tracker.views.sqlite.dump import dump_rows
from tracker.views.sqlite.encoding import decoding
from tracker.views.sqlite.reader import Row, SqliteReader
from tracker.views.sqlite.file import Inode, connect, named_errors, open_connection


class ViewsSnapshot(SqliteReader):
    """`ViewsReader` of one moment. `open_snapshot` opens it."""

    def __init__(self, path: Path, connection: aiosqlite.Connection) -> None:
        self._path = path
        self._connection = connection
        self._lock = asyncio.Lock()

    async def rows(self, statement: str, bound: Sequence[Any] = ()) -> list[Row]:
        async with self._lock:
            with named_errors(self._path):
                return cast("list[Row]", await self._connection.execute_fetchall(statement, bound))

    async def look(self) -> Look:
        """The position never changes."""
        return Look(None, await self.projected_position(), IDLE_LOOK_SECONDS)

    async def slow_rows(self, statement: str, bound: Sequence[Any] = ()) -> list[Row]:
        return await self.rows(statement, bound)

    async def rows_of_snapshot(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> list[list[Row]]:
        return [await self.rows(statement, bound) for statement, bound in statements]

    async def dump(self, *, positions: bool) -> AsyncGenerator[tuple[str, bytes]]:
        async with self._lock:
            with named_errors(self._path):
                with decoding():
                    async with aclosing(dump_rows(self._connection, positions=positions)) as rows:
                        async for dumped in rows:
                            yield dumped

    async def close(self) -> None:
        await self._connection.close()


@asynccontextmanager
async def open_snapshot(path: Path) -> AsyncGenerator[ViewsSnapshot]:
    """A snapshot of the views at a path. Raises `ViewsMissing`, `ViewsOutdated`, `ViewsUnavailable`."""
    connection, _ = await open_connection(lambda: _connected(path))
    try:
        views = ViewsSnapshot(path, connection)
        await views.rows("BEGIN")
        # The first read fixes the moment.
        await views.projected_position()
        yield views
    finally:
        await connection.close()


def _connected(path: Path) -> tuple[sqlite3.Connection, Inode]:
    """A read-only connection. Views that nobody wrote to since a rebuild are put into WAL mode first.

    Otherwise the snapshot would keep the projector from doing that, and so from writing.
    """
    try:
        connection, inode = connect(path, writable=True, any_declarations=True)
    except ViewsUnavailable:
        # On a read-only disk there is no projector either.
        connection, inode = connect(path, writable=False)
    connection.execute("PRAGMA query_only = ON")
    return connection, inode
