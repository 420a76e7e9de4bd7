"""Which data keys the sealed frames of a replica need: those of their records that are not erased.

    copies, erasures ─► a temporary table by frame, made once ─► frames in stream order, page by page

The log is only read. What it applies meanwhile is not seen.
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
TOLD = "CREATE TEMP TABLE told (position INTEGER PRIMARY KEY)"
NEEDED = """
CREATE TEMP TABLE needed (
    sequence INTEGER, n INTEGER, position INTEGER, gone INTEGER, PRIMARY KEY (sequence, n)
) WITHOUT ROWID
"""
FILL = """
INSERT INTO needed SELECT sequence, n, position,
    position IN (SELECT position FROM erasures) OR position IN (SELECT position FROM told) FROM copies
"""
COUNT = "SELECT count(*) FROM frames"
SELECT_PAGE = f"""
SELECT sequence, id, n, position, gone
FROM (SELECT sequence, id FROM frames WHERE sequence > ? ORDER BY sequence LIMIT {PAGE}) LEFT JOIN needed USING (sequence)
ORDER BY sequence, n
"""  # noqa: S608 - a number of ours


class RequiredKeys(NamedTuple):
    """One frame: `wanted` are the positions of its records by their place in it, `gone` the places of erased ones."""

    frame: bytes
    wanted: dict[int, int]
    gone: set[int]


class RequiredKeysReader:
    """Opened by `needed_keys`."""

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
            for sequence, frame, n, position, is_gone in rows:
                one = page.setdefault(sequence, RequiredKeys(frame, {}, set()))
                if is_gone:
                    one.gone.add(n)
                elif n is not None:
                    one.wanted[n] = position
            yield list(page.values())


@asynccontextmanager
async def open_required_keys(path: Path, erased: Iterable[int] = ()) -> AsyncGenerator[RequiredKeysReader]:
    """What the replica at `path` needs now. `erased`: positions that the stream says are, though it is not applied here.

    Raises `LogUnavailable`.
    """
    try:
        connection = await aiosqlite.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise LogUnavailable(f"{path} cannot be opened: {error}") from error
    try:
        await connection.execute(TOLD)
        await connection.executemany("INSERT OR IGNORE INTO told VALUES (?)", [(each,) for each in erased])
        await connection.execute(NEEDED)
        await connection.execute(FILL)
        ((count,),) = await connection.execute_fetchall(COUNT)
        yield RequiredKeysReader(connection, count)
    except sqlite3.Error as error:
        raise LogUnavailable(f"{path} cannot be read now: {error}") from error
    finally:
        await connection.close()
