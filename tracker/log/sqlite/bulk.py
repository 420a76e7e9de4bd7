"""Many rows in one statement and many statements in one call: each handover between SQLite's thread and ours costs time.

SQLite runs without the GIL and takes it back after each step; while the event loop is busy that takes milliseconds.
`executemany` makes a step for each row: sixty-four waiting deliveries would take the GIL sixty-four times.

Statements are made for powers of two. Unused places are bound to NULL, and rows that begin with NULL are skipped.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import aiosqlite

MAX_ROWS = 512
"""Of up to nine columns: SQLite accepts 32,766 values in a statement."""

Row = tuple[Any, ...]
Statement = tuple[str, Sequence[Any]]
"""SQL and its parameters."""


@functools.cache
def _places(columns: int, rows: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return ", ".join([row] * rows)


def value_chunks(rows: Sequence[Row]) -> Iterator[tuple[str, list[Any]]]:
    """For each `MAX_ROWS` rows: the list of `(?, …)` and its parameters, padded with NULL."""
    for start in range(0, len(rows), MAX_ROWS):
        some = rows[start : start + MAX_ROWS]
        columns, size = len(some[0]), 1 << (len(some) - 1).bit_length()
        values = [value for row in some for value in row]
        yield _places(columns, size), values + [None] * (columns * (size - len(some)))


def insert_statements(into: str, rows: Sequence[Row]) -> list[Statement]:
    """The statements that insert rows `into` a table with its columns, `records (position, …)`. First columns are not NULL."""
    return [(_insert_sql(into, places), values) for places, values in value_chunks(rows)]


async def execute_batch(connection: aiosqlite.Connection, statements: Sequence[Statement]) -> None:
    """Run statements in order, without returning to the event loop between them; stops at the first error."""

    def run(plain: sqlite3.Connection) -> None:
        for sql, values in statements:
            plain.execute(sql, values)

    # The one use of aiosqlite's private parts in this package: it has no public way to run several statements in one call.
    await connection._execute(run, connection._conn)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]


@functools.cache
def _insert_sql(into: str, places: str) -> str:
    return f"INSERT INTO {into} SELECT * FROM (VALUES {places}) WHERE column1 IS NOT NULL"  # noqa: S608 - only placeholders
