"""Compares the schema of a log or a key store with the one that Tracker makes (`domain/schema_comparison`).

    at open, and in a transaction after the schema changed ─► every table, index, view and trigger ─► `LogCorrupt` names the first
                                                              that was added, changed or is missing

SQLite counts every change of a schema (`PRAGMA schema_version`), but anyone can set that number back. A transaction compares
the whole schema if that number moved, or if another connection wrote into the file (`PRAGMA data_version`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tracker.domain import schema_comparison
from tracker.domain.schema_comparison import SELECT_SCHEMA, Schema, read_schema
from tracker.errors import LogCorrupt


def schema_made_by(make: Callable[[sqlite3.Connection], object]) -> Schema:
    """The schema that `make` makes in an empty database; its pages may be in the order that `VACUUM` gives them."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        make(connection)
        made = read_schema(connection.execute(SELECT_SCHEMA))
        connection.execute("VACUUM")
        return made._replace(orders=made.orders | read_schema(connection.execute(SELECT_SCHEMA)).orders)


def find_problems(connection: sqlite3.Connection, expected: Schema) -> list[str]:
    """What was added to the schema of a file, changed or removed; empty when it is as expected."""
    return schema_comparison.find_problems(read_schema(connection.execute(SELECT_SCHEMA)), expected)


class SchemaGuard:
    """Checks the schema of one file, again only after it changed. Call it in the thread of the connection.

    `kind`: what the file is, for messages.
    """

    def __init__(self, path: Path, kind: str, expected: Schema) -> None:
        self._path = path
        self._kind = kind
        self._expected = expected
        self._checked: tuple[sqlite3.Connection, int, int] | None = None
        """The connection and its numbers at the last check. Each connection counts the writes of others by itself."""

    def check(self, connection: sqlite3.Connection) -> None:
        """Raise `LogCorrupt` where the schema is not as expected. Within a transaction it cannot change afterwards."""
        ((version,),) = connection.execute("PRAGMA schema_version")
        ((writes,),) = connection.execute("PRAGMA data_version")
        if self._checked is not None and self._checked[0] is connection and self._checked[1:] == (version, writes):
            return
        self._checked = None
        problems = find_problems(connection, self._expected)
        if problems:
            raise LogCorrupt(
                f"{self._path}: the schema of the {self._kind} is not the one that Tracker made: {'; '.join(problems[:5])}. "
                "Nothing is written into it, because deliveries could be lost: find out who changed it; drop what was added "
                "(with the sqlite3 shell), or restore the file from a copy"
            )
        self._checked = connection, version, writes
