"""Every change of a schema is found, and changes without a meaning are ignored."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tracker.errors import LogCorrupt
from tracker.log.schema_check import SchemaGuard, find_problems, schema_made_by

MADE = """
CREATE TABLE a (n INTEGER PRIMARY KEY, t TEXT) STRICT;
CREATE TABLE b (n INTEGER PRIMARY KEY, t TEXT UNIQUE) STRICT;
CREATE INDEX a_by_t ON a (t);
CREATE UNIQUE INDEX b_by_t ON b (t) WHERE n > 1;
CREATE VIEW seen AS SELECT n FROM a;
CREATE TRIGGER kept BEFORE UPDATE ON a BEGIN SELECT RAISE(ABORT, 'Never -- ever'); END;
"""
EXPECTED = schema_made_by(lambda connection: connection.executescript(MADE))


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as opened:
        opened.executescript(MADE)
        yield opened


def test_a_new_schema_has_no_problems(connection: sqlite3.Connection) -> None:
    assert find_problems(connection, EXPECTED) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("CREATE TRIGGER x BEFORE INSERT ON a BEGIN SELECT RAISE(IGNORE); END", "the trigger 'x' was added"),
        ("CREATE TRIGGER x AFTER INSERT ON a BEGIN DELETE FROM a; END", "the trigger 'x' was added"),
        ("CREATE TRIGGER x INSTEAD OF INSERT ON seen BEGIN SELECT 1; END", "the trigger 'x' was added"),
        ("CREATE TABLE x (n)", "the table 'x' was added"),
        ("CREATE VIEW x AS SELECT 1", "the view 'x' was added"),
        ("CREATE UNIQUE INDEX x ON a (t)", "the index 'x' was added"),
        ("DROP TRIGGER kept", "the trigger 'kept' is missing"),
        ("DROP INDEX a_by_t", "the index 'a_by_t' is missing"),
        ("DROP INDEX b_by_t; CREATE INDEX b_by_t ON b (t) WHERE n > 1", "the index 'b_by_t' was changed"),
        ("DROP INDEX b_by_t; CREATE UNIQUE INDEX b_by_t ON b (t) WHERE n > 2", "the index 'b_by_t' was changed"),
        ("DROP INDEX a_by_t; CREATE INDEX a_by_t ON a (t COLLATE NOCASE)", "the index 'a_by_t' was changed"),
        ("DROP VIEW seen; CREATE VIEW seen AS SELECT n + 0 AS n FROM a", "the view 'seen' was changed"),
        ("ALTER TABLE a ADD COLUMN more TEXT", "the table 'a' was changed"),
        ("ALTER TABLE b RENAME TO c", "the table 'b' is missing"),
        ("DROP TABLE b; CREATE VIEW b AS SELECT 1 AS n, 't' AS t", "the view 'b' was added"),
        (
            "DROP TRIGGER kept; CREATE TRIGGER kept BEFORE UPDATE ON a BEGIN SELECT RAISE(ABORT, 'never -- ever'); END",
            "the trigger 'kept' was changed",
        ),
        (
            "DROP TRIGGER kept; CREATE TRIGGER kept BEFORE UPDATE ON b BEGIN SELECT RAISE(ABORT, 'Never -- ever'); END",
            "the trigger 'kept' was changed",
        ),
        (
            "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema "
            "WHERE name = 'b') WHERE name = 'a'",
            "two tables or indexes share their pages",
        ),
        *(
            (
                "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = "
                f"(SELECT sum(rootpage) FROM sqlite_schema WHERE name IN ('{one}', '{other}')) - rootpage "
                f"WHERE name IN ('{one}', '{other}')",
                "tables or indexes have exchanged their pages (`VACUUM` orders those that were made again)",
            )
            for one, other in (("a", "b"), ("a_by_t", "b_by_t"), ("b", "a_by_t"))
        ),
        (
            "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET name = 'sqlite_stat1' WHERE name = 'kept'",
            "the trigger 'sqlite_stat1' was added",
        ),
    ],
)  # fmt: skip
def test_everything_added_changed_or_missing_is_named(
    connection: sqlite3.Connection, change: str, problem: str
) -> None:
    connection.executescript(change)
    assert problem in find_problems(connection, EXPECTED)


@pytest.mark.parametrize(
    "change",
    [
        "ANALYZE",
        "VACUUM",
        "DROP INDEX a_by_t; create  index\n a_by_t -- why\n ON a /* what */ (t)",
        "INSERT INTO a VALUES (1, 'x')",
    ],
)
def test_changes_without_a_meaning_are_ignored(connection: sqlite3.Connection, change: str) -> None:
    connection.executescript("INSERT INTO b VALUES (1, 'x')")
    connection.executescript(change)
    assert find_problems(connection, EXPECTED) == []


def test_a_name_with_control_characters_is_escaped(connection: sqlite3.Connection) -> None:
    connection.execute('CREATE TABLE "\x1b[2J\u202e" (n)')
    (problem,) = find_problems(connection, EXPECTED)
    assert problem == r"the table '\x1b[2J\u202e' was added"


def test_a_guard_finds_what_another_connection_planted_and_its_removal(tmp_path: Path) -> None:
    path = tmp_path / "file.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as mine, closing(sqlite3.connect(path)) as theirs:
        mine.executescript(MADE)
        guard = SchemaGuard(path, "log", EXPECTED)
        guard.check(mine)
        theirs.executescript("CREATE TRIGGER x BEFORE INSERT ON a BEGIN SELECT RAISE(IGNORE); END")
        for _ in range(2):
            with pytest.raises(LogCorrupt, match="the trigger 'x' was added.*drop what was added"):
                guard.check(mine)
        theirs.executescript("DROP TRIGGER x")
        guard.check(mine)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("kept", "RAISE(ABORT", "\u00a0RAISE(ABORT"),
        ("kept", "SELECT RAISE", "SELECT\u2028 RAISE"),
        ("kept", "SELECT RAISE", "SELECT\x0bRAISE"),
        ("b_by_t", "WHERE n > 1", "WHERE n\u00a0> 1"),
        ("a_by_t", "INDEX a_by_t", "\u0130NDEX a_by_t"),
        ("kept", "kept BEFORE", "\u212aept BEFORE"),
        ("b_by_t", "WHERE n > 1", "--\0\nWHERE n > 1"),
    ],
    ids=["no-break space", "line separator", "vertical tab", "in a word", "dotted I", "kelvin sign", "nul"],
)
def test_what_only_looks_the_same_is_a_change(connection: sqlite3.Connection, name: str, old: str, new: str) -> None:
    ((sql,),) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (name,))
    assert old in sql
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (sql.replace(old, new), name))
    assert [problem for problem in find_problems(connection, EXPECTED) if f"'{name}' was changed" in problem]


def test_a_guard_is_not_misled_by_a_version_that_was_set_back(tmp_path: Path) -> None:
    path = tmp_path / "file.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as mine, closing(sqlite3.connect(path)) as theirs:
        mine.executescript(MADE)
        guard = SchemaGuard(path, "log", EXPECTED)
        guard.check(mine)
        ((version,),) = mine.execute("PRAGMA schema_version")
        theirs.executescript("CREATE TRIGGER x BEFORE INSERT ON a BEGIN SELECT RAISE(IGNORE); END")
        mine.execute("SELECT * FROM a").fetchall()  # reads the schema with the trigger
        theirs.executescript(f"PRAGMA schema_version = {version}")
        for _ in range(2):
            with pytest.raises(LogCorrupt, match="the trigger 'x' was added"):
                guard.check(mine)
