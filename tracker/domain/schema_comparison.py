"""Compares the schema of a SQLite file with the one that Tracker makes: a trigger can swallow what is written. Pure.

Statements are compared token by token: comments, spaces and the case of words do not count. A word is what SQLite takes for
one: a no-break space or another letter that only looks like `k` is a change.

Root pages: in a new file SQLite takes them one after another, so their order is always the same, and always the same after
`VACUUM`. Two tables or indexes that exchange their pages are found by that.

LIMIT: a table or an index that is made in a file with free pages may take any of them. So a migration that makes one has to
run `VACUUM`, and so does a repair by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

SELECT_SCHEMA = "SELECT type, name, tbl_name, CAST(sql AS BLOB), rootpage FROM main.sqlite_schema"
"""The rows that `read_schema` takes."""

Key = tuple[str, str]
"""(type, name)."""

# ANALYZE makes these tables. They only help SQLite to choose an index.
STATISTICS: Mapping[Key, tuple[str, str]] = {
    ("table", "sqlite_stat1"): ("sqlite_stat1", "create table sqlite_stat1 ( tbl , idx , stat )"),
    ("table", "sqlite_stat4"): ("sqlite_stat4", "create table sqlite_stat4 ( tbl , idx , neq , nlt , ndlt , sample )"),
}
MAX_NAME_CHARS = 100

_TOKEN = re.compile(
    r"""(?P<space>[ \t\n\f\r]+|--[^\n]*|/\*.*?(?:\*/|\Z)) | (?P<word>\w+) | (?P<quoted>'(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | \[[^]]*\]) | .""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)


class Schema(NamedTuple):
    """The schema of a file, without the tables of `ANALYZE`."""

    objects: Mapping[Key, tuple[str, str]]
    """(type, name) → (table, tokens of its statement)."""
    orders: frozenset[tuple[Key, ...]]
    """Tables and indexes by their root pages: of an expected schema all allowed orders, of a file its order."""
    shares_pages: bool
    """Whether two of them have the same root page."""


def read_schema(rows: Iterable[tuple[Any, ...]]) -> Schema:
    """The schema in the rows of `SELECT_SCHEMA`."""
    objects: dict[Key, tuple[str, str]] = {}
    pages: dict[Key, int] = {}
    for kind, name, table, sql, page in rows:
        key, what = (str(kind), str(name)), (str(table), _tokens(b"" if sql is None else sql))
        if STATISTICS.get(key) == what:
            continue
        objects[key] = what
        if kind in {"table", "index"} and isinstance(page, int) and page:
            pages[key] = page
    order = tuple(sorted(pages, key=pages.__getitem__))
    return Schema(objects, frozenset([order]), len(set(pages.values())) < len(pages))


def find_problems(found: Schema, expected: Schema) -> list[str]:
    """What was added to a schema, changed or removed; empty when it is as expected."""
    ours, theirs = expected.objects, found.objects
    problems = [f"{_named(key)} was added" for key in sorted(theirs.keys() - ours.keys())]
    problems += [f"{_named(key)} is missing" for key in sorted(ours.keys() - theirs.keys())]
    problems += [
        f"{_named(key)} was changed" for key in sorted(ours.keys() & theirs.keys()) if theirs[key] != ours[key]
    ]
    if found.shares_pages:
        problems.append("two tables or indexes share their pages")
    elif not (problems or found.orders <= expected.orders):
        problems.append("tables or indexes have exchanged their pages (`VACUUM` orders those that were made again)")
    return problems


def _named(key: Key) -> str:
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
