"""A log whose schema was changed records nothing, and no delivery is answered that did not arrive."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import aiosqlite
import pytest

from tests.contracts.log_contract import delivery
from tracker.domain.deliveries import Appended
from tracker.errors import LogCorrupt
from tracker.config.encryption import MasterKey
from tracker.log.keys.key_store import KeyStore
from tracker.log.sqlite.bulk import Rows, write_batch
from tracker.log.sqlite.log import SqliteLog
from tracker.log.sqlite.replica import Replica, StreamEntry

SWALLOW = "CREATE TRIGGER swallow BEFORE INSERT ON records WHEN NEW.position > 1 BEGIN SELECT RAISE(IGNORE); END"
PLANTED = {
    "a trigger that ignores": SWALLOW,
    "one that ignores leaves": SWALLOW.replace("ON records", "ON leaves"),
    "one that ignores some": SWALLOW.replace("NEW.position > 1", "NEW.position % 2 = 0"),
    "one that deletes afterwards": "DROP TRIGGER records_are_never_deleted; CREATE TRIGGER swallow AFTER INSERT ON records "
    "BEGIN DELETE FROM records WHERE position = NEW.position; END",
    "one that changes afterwards": "DROP TRIGGER records_are_never_updated; CREATE TRIGGER swallow AFTER INSERT ON records "
    "BEGIN UPDATE records SET body = x'00' WHERE position = NEW.position; END",
    "a view over the table": "ALTER TABLE records RENAME TO kept; CREATE VIEW records AS SELECT * FROM kept; "
    "CREATE TRIGGER swallow INSTEAD OF INSERT ON records BEGIN SELECT 1; END",
    "a missing trigger": "DROP TRIGGER positions_have_no_gaps",
    "a unique index": "CREATE UNIQUE INDEX swallow ON records (event) WHERE event = 'x'",
}


def plant(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.executescript(sql)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
async def log(path: Path) -> AsyncIterator[SqliteLog]:
    await SqliteLog.create(path)
    opened = await SqliteLog.open(path)
    yield opened
    await opened.close()


@pytest.mark.parametrize("sql", PLANTED.values(), ids=PLANTED)
async def test_a_log_with_a_changed_schema_is_not_opened(path: Path, sql: str) -> None:
    await SqliteLog.create(path)
    plant(path, sql)
    with pytest.raises(LogCorrupt, match=r"log\.db: the schema of the log is not the one that Tracker made.*restore"):
        await SqliteLog.open(path)


@pytest.mark.parametrize("sql", PLANTED.values(), ids=PLANTED)
async def test_after_a_change_of_the_schema_an_open_log_answers_no_delivery(
    log: SqliteLog, path: Path, sql: str
) -> None:
    assert await log.append(delivery("a")) == Appended(1, duplicate=False)
    plant(path, sql)
    with pytest.raises(LogCorrupt):
        await log.append_all([delivery("b"), delivery("c")])
    with pytest.raises(LogCorrupt):
        await log.check_writable()


async def test_an_open_log_records_again_once_the_trigger_is_dropped(log: SqliteLog, path: Path) -> None:
    plant(path, SWALLOW)
    with pytest.raises(LogCorrupt, match="the trigger 'swallow' was added"):
        await log.append_all([delivery("a"), delivery("b")])
    plant(path, "DROP TRIGGER swallow")
    assert await log.append_all([delivery("a"), delivery("b")]) == [
        Appended(1, duplicate=False),
        Appended(2, duplicate=False),
    ]
    await log.check_writable()


async def test_a_log_with_a_changed_schema_can_be_read_and_its_problems_are_named(path: Path) -> None:
    await SqliteLog.create(path)
    plant(path, f"{SWALLOW}; DROP INDEX records_by_end_of_key")
    log = await SqliteLog.open(path, check_schema=False)
    assert await log.schema_problems() == [
        "the trigger 'swallow' was added", "the index 'records_by_end_of_key' is missing",
    ]  # fmt: skip
    with pytest.raises(LogCorrupt):
        await log.append(delivery("a"))
    await log.close()


async def test_statistics_and_a_vacuum_change_nothing(log: SqliteLog, path: Path) -> None:
    await log.append(delivery("a"))
    plant(path, "ANALYZE; VACUUM")
    assert await log.append(delivery("b")) == Appended(2, duplicate=False)
    assert await log.schema_problems() == []


@pytest.mark.parametrize("version", [0, -1])
async def test_a_version_that_was_reset_is_named(path: Path, version: int) -> None:
    await SqliteLog.create(path)
    plant(path, f"PRAGMA user_version = {version}")
    with pytest.raises(LogCorrupt, match="user_version"):
        await SqliteLog.open(path)


async def test_a_checkpoint_is_not_stored_into_a_changed_log(log: SqliteLog, path: Path) -> None:
    await log.append(delivery("a"))
    plant(path, SWALLOW.replace("ON records WHEN NEW.position > 1", "ON checkpoints"))
    with pytest.raises(LogCorrupt, match="swallow"):
        await log.store_checkpoint(1, "a note")


async def test_a_replica_applies_nothing_into_a_changed_file(path: Path) -> None:
    await Replica.init(path, log_id="id", stream="s")
    replica = await Replica.open(path)
    one = ("lk", "livekit", "room_started", "a", 1, "webhook", b"{}", b"{}", None)
    assert await replica.apply([StreamEntry(1, b"1", [one])]) == [[Appended(1, duplicate=False)]]
    plant(path, SWALLOW)
    two = ("lk", "livekit", "room_started", "b", 1, "webhook", b"{}", b"{}", None)
    with pytest.raises(LogCorrupt):
        await replica.apply([StreamEntry(2, b"2", [two])])
    await replica.close()
    with pytest.raises(LogCorrupt, match="swallow"):
        await Replica.open(path)


@pytest.mark.parametrize(
    "trigger",
    [
        "CREATE TRIGGER x BEFORE INSERT ON t WHEN NEW.n = 600 BEGIN SELECT RAISE(IGNORE); END",
        "CREATE TRIGGER x AFTER INSERT ON t WHEN NEW.n = 600 BEGIN DELETE FROM t WHERE n = NEW.n; END",
        "CREATE TRIGGER x AFTER INSERT ON t WHEN NEW.n = 600 BEGIN UPDATE t SET b = x'01' WHERE n = NEW.n; END",
        "CREATE TEMP TRIGGER x AFTER INSERT ON main.t WHEN NEW.n = 600 BEGIN DELETE FROM t WHERE n = NEW.n; END",
    ],
)
async def test_missing_rows_are_noticed_before_the_commit(trigger: str) -> None:
    async with aiosqlite.connect(":memory:", isolation_level=None) as connection:
        await connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, b BLOB) STRICT")
        await connection.execute(trigger)
        rows = Rows("t (n, b)", [(n, None if n == 7 else bytes([0, n % 256])) for n in range(1, 701)])
        await connection.execute("BEGIN")
        with pytest.raises(LogCorrupt, match="1 of 700 rows did not arrive in the table 't'"):
            await write_batch(connection, [rows], [], lambda _: None)
        await connection.rollback()
        await connection.execute("DROP TRIGGER x")
        await connection.execute("BEGIN")
        await write_batch(connection, [rows], [], lambda _: None)
        assert await connection.execute_fetchall("SELECT count(*) FROM t") == [(700,)]


SWALLOW_KEYS = "CREATE TRIGGER swallow BEFORE INSERT ON keys BEGIN SELECT RAISE(IGNORE); END"


async def test_a_key_store_with_a_changed_schema_is_not_opened(tmp_path: Path) -> None:
    path, master = tmp_path / "keys.db", MasterKey("m", bytes(32))
    await KeyStore.create(path, [master])
    plant(path, SWALLOW_KEYS)
    with pytest.raises(LogCorrupt, match="the schema of the key store .*the trigger 'swallow' was added"):
        await KeyStore.open(path, [master])


async def test_a_record_whose_key_would_be_swallowed_is_not_recorded(tmp_path: Path, path: Path) -> None:
    keys, master = tmp_path / "keys.db", MasterKey("m", bytes(32))
    await SqliteLog.create(path)
    await KeyStore.create(keys, [master])
    log = await SqliteLog.open(path, key_store=await KeyStore.open(keys, [master]))
    plant(keys, SWALLOW_KEYS)
    with pytest.raises(LogCorrupt, match="swallow"):
        await log.append(delivery("a"))
    plant(keys, "DROP TRIGGER swallow")
    assert await log.append(delivery("a")) == Appended(1, duplicate=False)
    assert [record.body async for chunk in log.read(0) for record in chunk] == [delivery("a").body]
    await log.close()
