"""Compares the schema of a SQLite file with the one that Tracker makes: a trigger can swallow what is written.

    at open, and in a transaction after the schema changed ─► every table, index, view and trigger ─► `LogCorrupt` names the first
                                                              that was added, changed or is missing

Statements are compared token by token: comments, spaces and the case of words do not count. A word is what SQLite takes for
one: a no-break space or another letter that only looks like `k` is a change.

SQLite counts every change of a schema (`PRAGMA schema_version`), but anyone can set that number back. A transaction compares
the whole schema if that number moved, or if another connection wrote into the file (`PRAGMA data_version`).
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

from tracker.errors import LogCorrupt

Schema = Mapping[tuple[str, str], tuple[str, str]]
"""(type, name) → (table, tokens of its statement)."""

SELECT_SCHEMA = "SELECT type, name, tbl_name, CAST(sql AS BLOB) FROM main.sqlite_schema"
SELECT_SHARED_PAGES = """
SELECT count(*) - count(DISTINCT rootpage) FROM main.sqlite_schema WHERE type IN ('table', 'index') AND rootpage <> 0"""
# ANALYZE makes these tables. They only help SQLite to choose an index.
STATISTICS: Schema = {
    ("table", "sqlite_stat1"): ("sqlite_stat1", "create table sqlite_stat1 ( tbl , idx , stat )"),
    ("table", "sqlite_stat4"): ("sqlite_stat4", "create table sqlite_stat4 ( tbl , idx , neq , nlt , ndlt , sample )"),
}
MAX_NAME_CHARS = 100

_TOKEN = re.compile(
    r"""(?P<space>[ \t\n\f\r]+|--[^\n]*|/\*.*?(?:\*/|\Z)) | (?P<word>\w+) | (?P<quoted>'(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | \[[^]]*\]) | .""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)


def read_schema(connection: sqlite3.Connection) -> dict[tuple[str, str], tuple[str, str]]:
    """The schema of a file, without the tables of `ANALYZE`."""
    found = {
        (str(kind), str(name)): (str(table), _tokens(b"" if sql is None else sql))
        for kind, name, table, sql in connection.execute(SELECT_SCHEMA)
    }
    return {key: value for key, value in found.items() if STATISTICS.get(key) != value}


def schema_made_by(make: Callable[[sqlite3.Connection], object]) -> Schema:
    """The schema that `make` makes in an empty database."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        make(connection)
        return read_schema(connection)


def find_problems(connection: sqlite3.Connection, expected: Schema) -> list[str]:
    """What was added to the schema of a file, changed or removed; empty when it is as expected."""
    found = read_schema(connection)
    problems = [f"{_named(key)} was added" for key in sorted(found.keys() - expected.keys())]
    problems += [f"{_named(key)} is missing" for key in sorted(expected.keys() - found.keys())]
    problems += [
        f"{_named(key)} was changed" for key in sorted(expected.keys() & found.keys()) if found[key] != expected[key]
    ]
    ((shared,),) = connection.execute(SELECT_SHARED_PAGES)
    if shared:
        problems.append("two tables or indexes share their pages")
    return problems


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


def _named(key: tuple[str, str]) -> str:
    kind, name = key
    return f"the {kind} {name[:MAX_NAME_CHARS]!a}"


def _tokens(sql: bytes | str) -> str:
    text = sql.decode("utf-8", "backslashreplace") if isinstance(sql, bytes) else sql
    if "\0" in text:  # SQLite reads a statement only up to there
        return text
    return " ".join(
        token[0].lower() if token.lastgroup == "word" else token[0]
        for token in _TOKEN.finditer(text)
        if token.lastgroup != "space"
    )
