"""Bring the schema of a SQLite log up to date with numbered files, each in one transaction.

    0001_log.sql    makes version 9; versions 1 to 8 were never released
    NNNN_what.sql   one step from version NNNN-1 to NNNN, from 0010 on; its last statement writes NNNN into `user_version`

If we die inside a step, SQLite rolls it back and the next start runs it again. Two processes that start together run
each step once: the version is read again under the write lock.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

import aiosqlite
import msgspec

from tracker.errors import LogCorrupt
from tracker.log.schema_check import Schema, SchemaGuard, schema_made_by

APPLICATION_ID = 1414679378
"""`PRAGMA application_id` of every log ("TRKR"), written by the first step."""
FIRST_VERSION = 9
"""The version that the first file makes."""


class Step(msgspec.Struct, frozen=True):
    """One migration file: the `version` it makes, and its text `sql`."""

    version: int
    name: str
    sql: str


def steps() -> tuple[Step, ...]:
    """The steps that ship with this Tracker, in order."""
    files = (
        file for file in (resources.files("tracker.log.sqlite") / "migrations").iterdir() if file.name.endswith(".sql")
    )
    found = (
        Step(max(int(file.name.split("_", 1)[0]), FIRST_VERSION), file.name, file.read_text(encoding="utf-8"))
        for file in files
    )
    return tuple(sorted(found, key=lambda step: step.version))


async def migrate(connection: aiosqlite.Connection, path: Sequence[Step] | None = None) -> int:
    """Run the steps that this file has not seen; return its version.

    The connection must be in autocommit mode (`isolation_level=None`). Raises `LogCorrupt` when the file was written by
    a newer Tracker or by one before the first release, and the driver's error when a step fails: nothing of that step
    is left behind.
    """
    wanted = steps() if path is None else path
    version = await _version(connection)
    if 0 < version < FIRST_VERSION:
        raise LogCorrupt(
            f"the log has schema version {version}: an earlier, unreleased Tracker wrote it, and this one cannot read it. "
            "Keep the file; begin a new log with `tracker init` at another log.path, and import the deliveries again"
        )
    if wanted and version > wanted[-1].version:
        raise LogCorrupt(
            f"the log has schema version {version}, this Tracker knows {wanted[-1].version}: start the newer Tracker"
        )
    for step in wanted:
        if step.version > version:
            version = await _run(connection, step)
    return version


async def _run(connection: aiosqlite.Connection, step: Step) -> int:
    await connection.execute("BEGIN IMMEDIATE")
    try:
        if await _version(connection) < step.version:
            for statement in statements(step.sql):
                await connection.execute(statement)
        version = await _version(connection)
        if version < step.version:
            raise LogCorrupt(f"{step.name} does not set user_version = {step.version}")
        await connection.execute("COMMIT")
    except BaseException:
        await connection.rollback()
        raise
    return version


async def _version(connection: aiosqlite.Connection) -> int:
    ((version,),) = await connection.execute_fetchall("PRAGMA user_version")
    return version


def statements(sql: str) -> Iterator[str]:
    """The statements of a script, one by one: `executescript` would commit the transaction they must share."""
    pending = ""
    for line in sql.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
    if pending.strip():
        yield pending


def log_schema() -> Schema:
    """The schema that the steps make."""
    return _schema_made_by(steps())


@functools.cache
def _schema_made_by(path: tuple[Step, ...]) -> Schema:
    def make(connection: sqlite3.Connection) -> None:
        for step in path:
            connection.executescript(step.sql)

    return schema_made_by(make)


def schema_guard(path: Path) -> SchemaGuard:
    """Checks the schema of the log at `path`."""
    return SchemaGuard(path, "log", log_schema())
