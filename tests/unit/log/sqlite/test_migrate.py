"""The log's schema: a migrated schema equals a new one, and a failed step changes nothing."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import aiosqlite
import pytest

from tests.contracts.log_contract import LogContract
from tracker.errors import LogCorrupt
from tracker.log.sqlite import migrate as migrations
from tracker.log.sqlite.migrate import FIRST_VERSION, Step, migrate, statements, steps
from tracker.log.sqlite.log import SqliteLog

SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name"
LATEST = steps()[-1].version
NEXT = Step(
    LATEST + 1,
    f"{LATEST + 1:04}_extra.sql",
    f"CREATE TABLE extra (a);\nCREATE INDEX extra_a ON extra (a);\nPRAGMA user_version = {LATEST + 1};",
)


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[aiosqlite.Connection]:
    opened = await aiosqlite.connect(tmp_path / "log.db", isolation_level=None)
    yield opened
    await opened.close()


async def schema(connection: aiosqlite.Connection) -> list[sqlite3.Row]:
    return list(await connection.execute_fetchall(SCHEMA))


def test_the_first_step_creates_version_9_and_the_others_are_numbered_without_gaps() -> None:
    assert [step.version for step in steps()] == list(range(FIRST_VERSION, FIRST_VERSION + len(steps())))
    assert [step.name[:5] for step in steps()] == ["0001_", *(f"{step.version:04}_" for step in steps()[1:])]


def test_each_step_ends_by_writing_its_own_version() -> None:
    for step in steps():
        *_, last = statements(step.sql)
        assert re.fullmatch(rf"PRAGMA user_version = {step.version};", last.strip())


async def test_a_schema_migrated_step_by_step_equals_a_new_one(connection: aiosqlite.Connection) -> None:
    path = (*steps(), NEXT)
    for end in range(1, len(path) + 1):
        assert await migrate(connection, path[:end]) == path[end - 1].version
    async with aiosqlite.connect(":memory:", isolation_level=None) as fresh:
        await migrate(fresh, path)
        assert await schema(connection) == await schema(fresh)


async def test_migrating_again_changes_nothing(connection: aiosqlite.Connection) -> None:
    await migrate(connection)
    before = await schema(connection)
    assert await migrate(connection) == LATEST
    assert await schema(connection) == before


async def test_a_failed_step_changes_nothing(connection: aiosqlite.Connection) -> None:
    await migrate(connection)
    before = await schema(connection)
    broken = Step(NEXT.version, "broken.sql", f"{NEXT.sql}\nSELECT no_such_function();")
    with pytest.raises(sqlite3.OperationalError):
        await migrate(connection, (*steps(), broken))
    assert await schema(connection) == before
    assert await migrate(connection, (*steps(), NEXT)) == NEXT.version


async def test_a_step_that_does_not_write_its_version_is_refused(connection: aiosqlite.Connection) -> None:
    with pytest.raises(LogCorrupt, match="user_version"):
        await migrate(connection, (Step(FIRST_VERSION, "0001_x.sql", "CREATE TABLE a (b);"),))
    assert await schema(connection) == []


async def test_two_processes_that_migrate_at_once_run_each_step_once(tmp_path: Path) -> None:
    pair = [await aiosqlite.connect(tmp_path / "log.db", isolation_level=None) for _ in range(2)]
    path = (*steps(), NEXT)
    assert await asyncio.gather(*[migrate(connection, path) for connection in pair]) == [NEXT.version] * 2
    for connection in pair:
        await connection.close()


async def set_version(path: Path, version: int) -> None:
    await SqliteLog.create(path)
    async with aiosqlite.connect(path, isolation_level=None) as file:
        await file.execute(f"PRAGMA user_version = {version}")


async def test_a_log_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    await set_version(path, 99)
    with pytest.raises(LogCorrupt, match="newer Tracker"):
        await SqliteLog.open(path)


@pytest.mark.parametrize("version", range(1, FIRST_VERSION))
async def test_a_log_of_an_unreleased_version_is_refused_with_advice(tmp_path: Path, version: int) -> None:
    path = tmp_path / "log.db"
    await set_version(path, version)
    refusal = f"version {version}: an earlier, unreleased Tracker wrote it.*new log with `tracker init`"
    with pytest.raises(LogCorrupt, match=refusal):
        await SqliteLog.open(path)


def test_a_script_is_split_where_its_statements_end() -> None:
    script = "-- why\nCREATE TRIGGER a BEFORE UPDATE ON b\nBEGIN\n  SELECT 1;\n  SELECT 2;\nEND;\nSELECT\n3;\n"
    assert [part.strip().splitlines()[-1] for part in statements(script)] == ["END;", "3;"]


class TestMigratedLog(LogContract):
    """A log of the previous version, migrated when it is opened, keeps the log's contract."""

    @pytest.fixture
    async def log(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SqliteLog]:
        path = tmp_path / "old.db"
        await SqliteLog.create(path)
        shipped = steps()
        monkeypatch.setattr(migrations, "steps", lambda: (*shipped, NEXT))
        opened = await SqliteLog.open(path)
        yield opened
        await opened.close()
        async with aiosqlite.connect(path) as file:
            assert await file.execute_fetchall("PRAGMA user_version") == [(NEXT.version,)]
