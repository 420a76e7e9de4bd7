"""Which data keys the encrypted frames of a replica need: those of their records that are not erased.

    copies, erasures ─► a temporary table by frame, filled once ─► frames in stream order, page by page

The log is only read. What it applies meanwhile is not included.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiosqlite

from tracker.errors import LogUnavailable

PAGE = 200
CREATE_ERASED = "CREATE TEMP TABLE erased_ahead (position INTEGER PRIMARY KEY)"
CREATE_NEEDED = """
CREATE TEMP TABLE needed (
    sequence INTEGER, n INTEGER, position INTEGER, is_erased INTEGER, PRIMARY KEY (sequence, n)
) WITHOUT ROWID
"""
FILL = """
INSERT INTO needed SELECT sequence, n, position,
    position IN (SELECT position FROM erasures) OR position IN (SELECT position FROM erased_ahead) FROM copies
"""
COUNT = "SELECT count(*) FROM frames"
SELECT_PAGE = f"""
SELECT sequence, id, n, position, is_erased
FROM (SELECT sequence, id FROM frames WHERE sequence > ? ORDER BY sequence LIMIT {PAGE}) LEFT JOIN needed USING (sequence)
ORDER BY sequence, n
"""  # noqa: S608 - a constant number


class RequiredKeys(NamedTuple):
    """One frame. `wanted`: n → position of its records that are not erased; `erased`: the n of those that are."""

    frame: bytes
    wanted: dict[int, int]
    erased: set[int]


class RequiredKeysReader:
    """Opened by `open_required_keys`. `count`: of frames."""

    def __init__(self, connection: aiosqlite.Connection, count: int) -> None:
        self._connection = connection
        self.count = count

    async def pages(self) -> AsyncGenerator[list[RequiredKeys]]:
        """All frames in stream order, at most 200 a list. Raises `LogUnavailable`."""
        after = 0
        while True:
            try:
                rows = list(await self._connection.execute_fetchall(SELECT_PAGE, (after,)))
            except sqlite3.Error as error:
                raise LogUnavailable(f"the log cannot be read now: {error}") from error
            if not rows:
                return
            after, page = rows[-1][0], dict[int, RequiredKeys]()
            for sequence, frame, n, position, is_erased in rows:
                one = page.setdefault(sequence, RequiredKeys(frame, {}, set()))
                if is_erased:
                    one.erased.add(n)
                elif n is not None:
                    one.wanted[n] = position
            yield list(page.values())


@asynccontextmanager
async def open_required_keys(path: Path, erased: Iterable[int] = ()) -> AsyncGenerator[RequiredKeysReader]:
    """The keys that the replica at `path` needs. `erased`: positions that messages not applied here erase.

    Raises `LogUnavailable`.
    """
    try:
        connection = await aiosqlite.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise LogUnavailable(f"{path} cannot be opened: {error}") from error
    try:
        await connection.execute(CREATE_ERASED)
        await connection.executemany("INSERT OR IGNORE INTO erased_ahead VALUES (?)", [(each,) for each in erased])
        await connection.execute(CREATE_NEEDED)
        await connection.execute(FILL)
        ((count,),) = await connection.execute_fetchall(COUNT)
        yield RequiredKeysReader(connection, count)
    except sqlite3.Error as error:
        raise LogUnavailable(f"{path} cannot be read now: {error}") from error
    finally:
        await connection.close()
