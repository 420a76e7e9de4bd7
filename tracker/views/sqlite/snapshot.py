"""The SQLite views as they are at one moment, for as long as somebody reads: one connection in one transaction.

What is saved meanwhile, or swapped in, is not seen. LIMIT: while it is open SQLite cannot shorten the WAL.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import aiosqlite

from tracker.errors import ViewsUnavailable
from tracker.views.sqlite.dump import dump_rows
from tracker.views.sqlite.reader import Row, SqliteReader
from tracker.views.sqlite.file import connect, named_errors

CHUNK = 500


class ViewsSnapshot(SqliteReader):
    """`ViewsReader` of one moment; `frozen` opens it."""

    def __init__(self, path: Path, connection: aiosqlite.Connection) -> None:
        self._path = path
        self._connection = connection
        self._lock = asyncio.Lock()

    async def rows(self, statement: str, bound: Sequence[Any] = ()) -> list[Row]:
        """See `SqliteReading`."""
        async with self._lock:
            with named_errors(self._path):
                return cast("list[Row]", await self._connection.execute_fetchall(statement, bound))

    async def slow_rows(self, statement: str, bound: Sequence[Any] = ()) -> list[Row]:
        """See `SqliteReading`."""
        return await self.rows(statement, bound)

    async def rows_of_snapshot(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> list[list[Row]]:
        """See `SqliteReading`. They all are."""
        return [await self.rows(statement, bound) for statement, bound in statements]

    async def dump(self, *, positions: bool) -> AsyncGenerator[tuple[str, bytes]]:
        """See `ViewsReader`."""
        async with self._lock:
            with named_errors(self._path):
                async with aclosing(dump_rows(self._connection, positions=positions)) as rows:
                    async for dumped in rows:
                        yield dumped

    async def close(self) -> None:
        """See `ViewsReader`."""
        await self._connection.close()


@asynccontextmanager
async def open_snapshot(path: Path) -> AsyncGenerator[ViewsSnapshot]:
    """The views at a path, as they are now. Raises `ViewsMissing`, `ViewsOutdated`, `ViewsUnavailable`."""
    failures: list[Exception] = []

    def connector() -> sqlite3.Connection:
        # A connector that raises leaves aiosqlite's thread to end by itself, maybe after the event loop did.
        try:
            return _connected(path)
        except Exception as error:
            failures.append(error)
            return sqlite3.connect(":memory:")

    connection = await aiosqlite.Connection(connector, CHUNK)
    try:
        if failures:
            raise failures[0]
        views = ViewsSnapshot(path, connection)
        await views.rows("BEGIN")
        # The first look is what fixes the moment.
        await views.projected_position()
        yield views
    finally:
        await connection.close()


def _connected(path: Path) -> sqlite3.Connection:
    """A connection that reads. Views that nobody wrote to since a rebuild are put into WAL mode first.

    Otherwise we would keep the projector from doing that, and from writing, for as long as we read.
    """
    try:
        connection, _ = connect(path, writable=True)
    except ViewsUnavailable:
        # On a disk that cannot be written to there is no projector either.
        connection, _ = connect(path, writable=False)
    connection.execute("PRAGMA query_only = ON")
    return connection
