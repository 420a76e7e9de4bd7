"""Many rows in one statement and many statements in one call: each handover between SQLite's thread and ours costs time.

SQLite runs without the GIL and takes it back after each step; while the event loop is busy that takes milliseconds.
`executemany` makes a step for each row: sixty-four waiting deliveries would take the GIL sixty-four times.

Statements are made for powers of two. Unused places are bound to NULL, and rows that begin with NULL are skipped.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import aiosqlite

from tracker.errors import LogCorrupt

MAX_ROWS = 512
"""Of up to nine columns: SQLite accepts 32,766 values in a statement."""

Result = TypeVar("Result")
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


class Rows(NamedTuple):
    """Rows to insert `into` a table with its columns, such as `records (position, …)`. First columns are not NULL."""

    into: str
    rows: Sequence[Row]


async def write_batch(
    connection: aiosqlite.Connection,
    inserted: Sequence[Rows],
    statements: Sequence[Statement],
    check: Callable[[sqlite3.Connection], None],
) -> None:
    """`check`, insert rows, run statements, read the rows back and commit, without returning to the event loop between them.

    Stops at the first error, uncommitted. Raises `LogCorrupt` when a row is not in the file as it was given, and what `check`
    raises.
    """

    def run(plain: sqlite3.Connection) -> None:
        check(plain)
        chunks = [(into, len(rows), list(value_chunks(rows))) for into, rows in inserted]
        for into, _, parts in chunks:
            for places, values in parts:
                plain.execute(_insert_sql(into, places), values)
        for sql, values in statements:
            plain.execute(sql, values)
        for into, count, parts in chunks:
            stored = sum(plain.execute(_read_back_sql(into, places), values).fetchone()[0] for places, values in parts)
            if stored != count:
                table = into.partition(" ")[0]
                raise LogCorrupt(
                    f"{count - stored} of {count} rows did not arrive in the table {table!r}, and nothing was recorded: "
                    "look for a trigger that swallows them, with `tracker verify`"
                )
        plain.execute("COMMIT")

    await run_in_thread(connection, run)


async def run_in_thread(connection: aiosqlite.Connection, function: Callable[[sqlite3.Connection], Result]) -> Result:
    """Run a function of several statements in the connection's own thread."""
    # The one use of aiosqlite's private parts in this package: it has no public way to run several statements in one call.
    return await connection._execute(function, connection._conn)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType, reportUnknownVariableType]


@functools.cache
def _insert_sql(into: str, places: str) -> str:
    return f"INSERT INTO {into} SELECT * FROM (VALUES {places}) WHERE column1 IS NOT NULL"  # noqa: S608 - only placeholders


@functools.cache
def _read_back_sql(into: str, places: str) -> str:
    table, _, columns = into.partition(" ")
    first, *others = columns.strip("()").split(", ")
    same = "".join(f" AND kept.{name} IS given.column{n}" for n, name in enumerate(others, 2))
    return f"""
SELECT count(*) FROM (VALUES {places}) AS given CROSS JOIN {table} AS kept ON kept.{first} = given.column1{same}"""  # noqa: S608 - only names
