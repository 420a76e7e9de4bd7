"""The log's schema: migrated equals fresh, and a step that fails leaves nothing behind."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import aiosqlite
import pytest

from tests.contracts.log_contract import LogContract
from tracker.errors import LogCorrupt
from tracker.log.sqlite.migrate import Step, migrate, statements, steps
from tracker.log.sqlite.log import SqliteLog

SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name"


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[aiosqlite.Connection]:
    opened = await aiosqlite.connect(tmp_path / "log.db", isolation_level=None)
    yield opened
    await opened.close()


async def schema(connection: aiosqlite.Connection) -> list[sqlite3.Row]:
    return list(await connection.execute_fetchall(SCHEMA))


def test_the_steps_are_numbered_without_gaps() -> None:
    assert [step.version for step in steps()] == list(range(1, len(steps()) + 1))


async def test_migrated_step_by_step_equals_fresh(connection: aiosqlite.Connection) -> None:
    for end in range(1, len(steps()) + 1):
        assert await migrate(connection, steps()[:end]) == end
    async with aiosqlite.connect(":memory:", isolation_level=None) as fresh:
        await migrate(fresh)
        assert await schema(connection) == await schema(fresh)


async def test_migrating_again_changes_nothing(connection: aiosqlite.Connection) -> None:
    await migrate(connection)
    before = await schema(connection)
    assert await migrate(connection) == len(steps())
    assert await schema(connection) == before


async def test_a_step_that_fails_leaves_nothing_behind(connection: aiosqlite.Connection) -> None:
    await migrate(connection)
    before = await schema(connection)
    version = len(steps()) + 1
    broken = Step(
        version, "broken.sql", f"CREATE TABLE extra (a);\nPRAGMA user_version = {version};\nSELECT no_such_function();"
    )
    with pytest.raises(sqlite3.OperationalError):
        await migrate(connection, (*steps(), broken))
    assert await schema(connection) == before
    good = Step(version, "good.sql", f"CREATE TABLE extra (a);\nPRAGMA user_version = {version};")
    assert await migrate(connection, (*steps(), good)) == version


async def test_a_step_that_forgets_its_number_is_refused(connection: aiosqlite.Connection) -> None:
    with pytest.raises(LogCorrupt, match="user_version"):
        await migrate(connection, (Step(1, "0001_x.sql", "CREATE TABLE a (b);"),))
    assert await schema(connection) == []


async def test_two_processes_that_migrate_at_once_run_each_step_once(tmp_path: Path) -> None:
    pair = [await aiosqlite.connect(tmp_path / "log.db", isolation_level=None) for _ in range(2)]
    assert await asyncio.gather(*[migrate(connection) for connection in pair]) == [len(steps())] * 2
    for connection in pair:
        await connection.close()


async def test_the_log_of_a_newer_tracker_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    await SqliteLog.create(path)
    async with aiosqlite.connect(path, isolation_level=None) as newer:
        await newer.execute("PRAGMA user_version = 99")
    with pytest.raises(LogCorrupt, match="newer Tracker"):
        await SqliteLog.open(path)


def test_a_script_is_split_where_its_statements_end() -> None:
    script = "-- why\nCREATE TRIGGER a BEFORE UPDATE ON b\nBEGIN\n  SELECT 1;\n  SELECT 2;\nEND;\nSELECT\n3;\n"
    assert [part.strip().splitlines()[-1] for part in statements(script)] == ["END;", "3;"]


class TestMigratedLog(LogContract):
    """An old log, migrated step by step, keeps the log's contract."""

    @pytest.fixture
    async def log(self, tmp_path: Path) -> AsyncIterator[SqliteLog]:
        path = tmp_path / "old.db"
        async with aiosqlite.connect(path, isolation_level=None) as old:
            await migrate(old, steps()[:1])
        opened = await SqliteLog.open(path)
        yield opened
        await opened.close()
