"""Many rows in one statement and many statements in one go: each time SQLite's thread and ours wait for each other costs.

SQLite runs without the interpreter and asks for it back after each step; while the event loop is busy that takes milliseconds.
`executemany` takes a step for each row: sixty-four waiting deliveries asked sixty-four times.

Statements are made for powers of two; places left over are bound to NULL, and rows that begin with it are none.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import aiosqlite

MOST_ROWS = 512
"""Of nine columns: SQLite takes up to 32,766 values in a statement."""

Row = tuple[Any, ...]
Statement = tuple[str, Sequence[Any]]
"""SQL, and what is bound to it."""


@functools.cache
def _places(columns: int, rows: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return ", ".join([row] * rows)


def value_chunks(rows: Sequence[Row]) -> Iterator[tuple[str, list[Any]]]:
    """For at most `MOST_ROWS` at once: the list of `(?, …)` and what is bound to it; NULL where there is no row."""
    for start in range(0, len(rows), MOST_ROWS):
        some = rows[start : start + MOST_ROWS]
        columns, size = len(some[0]), 1 << (len(some) - 1).bit_length()
        values = [value for row in some for value in row]
        yield _places(columns, size), values + [None] * (columns * (size - len(some)))


def insert_statements(into: str, rows: Sequence[Row]) -> list[Statement]:
    """What puts rows `into` a table with its columns, `records (position, …)`; none of the first column is NULL."""
    return [(_inserting(into, places), values) for places, values in value_chunks(rows)]


async def execute_batch(connection: aiosqlite.Connection, statements: Sequence[Statement]) -> None:
    """Run one after the other, without coming back to the event loop between them; what fails is the last that ran."""

    def run(plain: sqlite3.Connection) -> None:
        for sql, values in statements:
            plain.execute(sql, values)

    # aiosqlite gives every call of its own to its thread in this way; it has no public name for several.
    await connection._execute(run, connection._conn)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]


@functools.cache
def _inserting(into: str, places: str) -> str:
    return f"INSERT INTO {into} SELECT * FROM (VALUES {places}) WHERE column1 IS NOT NULL"  # noqa: S608 - only placeholders
