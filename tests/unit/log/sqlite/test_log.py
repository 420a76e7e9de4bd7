"""The SQLite engine keeps the log's contract, also when its file is locked, moved, full or foreign."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.paths import ROOT
from tests.contracts.log_contract import LogContract, delivery
from tracker.domain.deliveries import TRACKER, Appended
from tracker.errors import LogBusy, LogCorrupt, LogMissing, LogUnavailable
from tracker.log.sqlite import log as sqlite, dedupe, tree
from tests.support.memory_log import MemoryLog
from tracker.log.sqlite.log import SqliteLog


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "log.db"


@pytest.fixture
async def log(path: Path) -> AsyncIterator[SqliteLog]:
    await SqliteLog.create(path)
    opened = await SqliteLog.open(path, busy_timeout=0.1)
    yield opened
    await opened.close()


class Watcher:
    """Stores what the log reports to it."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.depths: list[int] = []

    def committed(self, records: int, seconds: float) -> None:
        assert seconds > 0
        self.batches.append(records)

    def depth(self, n: int) -> None:
        self.depths.append(n)


class TestSqliteLog(LogContract):
    """The whole suite."""

    @pytest.fixture
    async def log(self, path: Path) -> AsyncIterator[SqliteLog]:
        await SqliteLog.create(path)
        opened = await SqliteLog.open(path)
        yield opened
        await opened.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(st.tuples(st.sampled_from("ab"), st.text(max_size=2)), max_size=5), max_size=6))
def test_both_engines_answer_any_sequence_of_appends_alike(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[str, str]]]
) -> None:
    async def play() -> None:
        path = tmp_path_factory.mktemp("log") / "log.db"
        await SqliteLog.create(path)
        stored, memory, first = await SqliteLog.open(path), MemoryLog(), dict[tuple[str, str], int]()
        for batch in batches:
            deliveries = [delivery(key, source=source) for source, key in batch]
            answers = await stored.append_all(deliveries)
            assert answers == await memory.append_all(deliveries)
            for pair, answer in zip(batch, answers, strict=True):
                assert answer.duplicate == (pair in first)
                assert answer.position == first.setdefault(pair, len(first) + 1)
        assert [c async for c in stored.read(0)] == [c async for c in memory.read(0)]
        await stored.close()

    asyncio.run(play())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET body = x'00'",
        "UPDATE OR REPLACE records SET position = 2 WHERE position = 1",
        "DELETE FROM records WHERE position = 3",
        "INSERT INTO records VALUES (5, 's', 'v', 'e', 'new', 1, 'webhook', x'', x'')",
        "INSERT INTO records VALUES (0, 's', 'v', 'e', 'new', 1, 'webhook', x'', x'')",
        "INSERT INTO records VALUES (NULL, 's', 'v', 'e', 'new', 1, 'webhook', x'', x'')",
        "INSERT OR REPLACE INTO records VALUES (1, 's', 'v', 'e', 'new', 1, 'webhook', x'', x'')",
        "INSERT OR REPLACE INTO records VALUES (4, 'lk', 'v', 'e', 'k0', 1, 'webhook', x'', x'')",
        "INSERT INTO records VALUES (2, 's', 'v', 'e', 'new', 1, 'webhook', x'', x'') ON CONFLICT DO UPDATE SET body = x''",
        "INSERT INTO records VALUES (4, 's', 'v', 'e', 'new', 'soon', 'webhook', x'', x'')",
        "INSERT INTO records VALUES (4, 's', 'v', 'e', 'new', 1, 'guess', x'', x'')",
    ],
)
async def test_triggers_in_the_file_refuse_every_change(log: SqliteLog, path: Path, statement: str) -> None:
    await log.append_all([delivery(f"k{n}") for n in range(3)])
    before = [chunk async for chunk in log.read(0)]
    with closing(sqlite3.connect(path, isolation_level=None)) as plain, pytest.raises(sqlite3.IntegrityError):
        plain.execute(statement)
    assert [chunk async for chunk in log.read(0)] == before


async def test_two_processes_append_in_turn_and_grow_one_tree(log: SqliteLog, path: Path) -> None:
    other = await SqliteLog.open(path)
    for n in range(6):
        assert await (log, other)[n % 2].append(delivery(f"k{n}")) == Appended(n + 1, duplicate=False)
    assert await log.tree_head() == await other.tree_head()
    assert (await log.tree_head()).size == 6
    await other.close()


async def test_after_a_record_inserted_by_another_program_nothing_is_appended(log: SqliteLog, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as plain:
        plain.execute("INSERT INTO records VALUES (1, 's', 'v', 'e', 'k', 1, 'import', x'', x'')")
    with pytest.raises(LogCorrupt, match="position 1 has no leaf"):
        await log.append(delivery("a"))
    with closing(sqlite3.connect(path)) as plain:
        assert plain.execute("SELECT count(*) FROM records").fetchone() == (1,)


@pytest.mark.parametrize("table", ["leaves", "tiles", "checkpoints"])
async def test_triggers_refuse_every_change_of_the_tree(log: SqliteLog, path: Path, table: str) -> None:
    await log.append_all([delivery(f"k{n}") for n in range(257)])
    await log.store_checkpoint(257, "note")
    with closing(sqlite3.connect(path, isolation_level=None)) as plain:
        names = ", ".join(row[1] for row in plain.execute(f"PRAGMA table_info({table})"))
        for statement in (
            f"DELETE FROM {table}",
            f"UPDATE {table} SET rowid = 7"
            if table == "leaves"
            else f"UPDATE {table} SET {names.split(', ')[-1]} = {names.split(', ')[-1]}",
            f"INSERT OR REPLACE INTO {table} SELECT {names} FROM {table} LIMIT 1",
        ):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                plain.execute(statement)


async def test_a_missing_log_is_refused_and_not_created(path: Path) -> None:
    with pytest.raises(LogMissing, match="tracker init"):
        await SqliteLog.open(path)
    assert not path.exists()
    assert not path.parent.exists()


async def test_an_existing_file_is_never_overwritten(log: SqliteLog, path: Path) -> None:
    await log.append(delivery("a"))
    with pytest.raises(LogUnavailable, match="exists already"):
        await SqliteLog.create(path)
    assert await log.head() == 1
    assert not list(path.parent.glob("*.new"))


@pytest.mark.parametrize("content", [b"", b"this is no database, it is a letter" * 50])
async def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "letter.txt"
    path.write_bytes(content)
    with pytest.raises(LogCorrupt):
        await SqliteLog.open(path)
    assert path.read_bytes() == content


async def test_a_foreign_database_is_refused_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "foreign.db"
    with closing(sqlite3.connect(path)) as plain:
        plain.execute("CREATE TABLE records (position INTEGER PRIMARY KEY)")
        plain.commit()
    before = path.read_bytes()
    with pytest.raises(LogCorrupt, match="not a log of Tracker"):
        await SqliteLog.open(path)
    assert path.read_bytes() == before


async def test_the_connection_syncs_every_commit(log: SqliteLog, path: Path) -> None:
    writer = log._writer  # noqa: SLF001 - a pragma belongs to the connection, so no other connection can show it
    assert writer is not None
    assert list(await writer.execute_fetchall("PRAGMA synchronous")) == [(2,)]
    assert list(await writer.execute_fetchall("PRAGMA journal_mode")) == [("wal",)]


async def test_appended_records_are_there_after_opening_again(log: SqliteLog, path: Path) -> None:
    await log.append_all([delivery("a"), delivery("b")])
    await log.close()
    again = await SqliteLog.open(path)
    assert await again.append(delivery("b")) == Appended(2, duplicate=True)
    assert await again.append(delivery("c")) == Appended(3, duplicate=False)
    await again.close()


async def test_concurrent_appends_share_transactions(path: Path) -> None:
    await SqliteLog.create(path)
    watcher = Watcher()
    log = await SqliteLog.open(path, observe=watcher)
    await asyncio.gather(*[log.append(delivery(f"k{n}")) for n in range(700)])
    assert sum(watcher.batches) == 700
    assert len(watcher.batches) <= 4
    assert max(watcher.batches) <= 500
    assert max(watcher.depths) == 700
    assert watcher.depths[-1] == 0
    await log.close()


async def test_appends_beyond_the_bound_of_the_queue_are_refused_at_once_and_the_others_recorded(path: Path) -> None:
    await SqliteLog.create(path)
    log = await SqliteLog.open(path, queue_bound=3)
    answers = await asyncio.gather(*[log.append(delivery(f"k{n}")) for n in range(10)], return_exceptions=True)
    busy = [answer for answer in answers if isinstance(answer, LogBusy)]
    recorded = [answer.position for answer in answers if isinstance(answer, Appended)]
    assert busy
    assert len(busy) + len(recorded) == 10
    assert sorted(recorded) == list(range(1, await log.head() + 1))
    await log.close()


async def test_while_the_file_is_locked_appends_fail_and_afterwards_they_succeed(log: SqliteLog, path: Path) -> None:
    await log.append(delivery("a"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        answers = await asyncio.gather(*[log.append(delivery(f"k{n}")) for n in range(5)], return_exceptions=True)
        assert [type(answer) for answer in answers] == [LogUnavailable] * 5
        with pytest.raises(LogUnavailable):
            await log.check_writable()
        assert await log.head() == 1
        other.execute("ROLLBACK")
    await log.check_writable()
    assert await log.append(delivery("k0")) == Appended(2, duplicate=False)


async def test_on_a_full_disk_a_batch_is_refused_completely(log: SqliteLog) -> None:
    writer = log._writer  # noqa: SLF001 - the page limit stands for a full disk
    assert writer is not None
    await log.append(delivery("a"))
    ((pages,),) = await writer.execute_fetchall("PRAGMA page_count")
    await writer.execute_fetchall(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(LogUnavailable, match="full"):
        await log.append_all([delivery("small"), delivery("large", body=b"x" * 200_000)])
    assert await log.head() == 1
    assert await log.append(delivery("small")) == Appended(2, duplicate=False)
    await writer.execute_fetchall("PRAGMA max_page_count = 100000")
    assert await log.append(delivery("large", body=b"x" * 200_000)) == Appended(3, duplicate=False)


async def test_a_log_whose_file_was_moved_acknowledges_nothing(log: SqliteLog, path: Path) -> None:
    await log.append(delivery("a"))
    path.rename(path.with_suffix(".away"))
    with pytest.raises(LogUnavailable, match="moved"):
        await log.append(delivery("b"))
    path.with_suffix(".away").rename(path)
    assert await log.append(delivery("b")) == Appended(2, duplicate=False)


async def test_repeating_an_append_whose_answer_was_lost_is_a_duplicate(log: SqliteLog) -> None:
    lost = asyncio.ensure_future(log.append(delivery("a")))
    await asyncio.sleep(0)
    lost.cancel()
    assert await log.append(delivery("a")) == Appended(1, duplicate=True)


async def test_an_append_of_another_connection_wakes_a_waiter(log: SqliteLog, path: Path) -> None:
    other = await SqliteLog.open(path)
    waiter = asyncio.ensure_future(log.wait(0, 30))
    await asyncio.sleep(0.02)
    await other.append(delivery("a"))
    assert await asyncio.wait_for(waiter, 3) == 1
    assert await log.append(delivery("b")) == Appended(2, duplicate=False)
    await other.close()
    assert await log.append(delivery("c")) == Appended(3, duplicate=False)


async def test_two_writers_share_one_sequence_of_positions(log: SqliteLog, path: Path) -> None:
    other = await SqliteLog.open(path)
    patient = await SqliteLog.open(path)
    appends = [
        writer.append(delivery(f"{n}", source=f"s{w}")) for n in range(40) for w, writer in enumerate((other, patient))
    ]
    answers = await asyncio.gather(*appends)
    assert sorted(answer.position for answer in answers) == list(range(1, 81))
    await other.close()
    await patient.close()


async def test_large_records_are_read_in_chunks_of_bounded_size(log: SqliteLog) -> None:
    await log.append_all([delivery(f"k{n}", body=b"x" * 3_000_000) for n in range(5)])
    await log.append(delivery("huge", body=b"x" * 9_000_000))
    assert [[record.position for record in chunk] async for chunk in log.read(0)] == [[1, 2], [3, 4], [5], [6]]


DIES = """
import asyncio, os, sys
from tests.contracts.log_contract import delivery
from tracker.log.sqlite.log import SqliteLog

async def append_and_die() -> None:
    log = await SqliteLog.open(sys.argv[1])
    asyncio.get_running_loop().call_later(0.3, os.kill, os.getpid(), 9)
    n = 0
    while True:
        answers = await asyncio.gather(*[log.append(delivery(f"k{n + step}")) for step in range(7)])
        n += 7
        print(max(answer.position for answer in answers), flush=True)

asyncio.run(append_and_die())
"""


async def test_nothing_acknowledged_is_lost_when_the_process_is_killed(path: Path) -> None:
    await SqliteLog.create(path)
    finished = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", DIES, str(path)], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=20,
    )  # fmt: skip
    assert finished.returncode == -9, finished.stderr
    acknowledged = int(finished.stdout.split()[-1])
    log = await SqliteLog.open(path)
    assert await log.head() >= acknowledged > 0
    positions = [record.position async for chunk in log.read(0) for record in chunk]
    assert positions == list(range(1, await log.head() + 1))
    await log.close()


@pytest.mark.parametrize(
    "statement",
    [dedupe.SELECT_HEAD_AND_DUPLICATES.format(places) for places in ("(?, ?)", ", ".join(["(?, ?)"] * 64))],
)
async def test_duplicates_are_found_by_the_index_on_the_end_of_the_key(
    log: SqliteLog, path: Path, statement: str
) -> None:
    with closing(sqlite3.connect(path)) as plain:
        plan = plain.execute(
            f"EXPLAIN QUERY PLAN {statement}", ["x"] * max(2, statement.count("(?, ?)") * 2)
        ).fetchall()
    steps = [row[3] for row in plan if "records" in row[3]]
    assert any("USING INDEX records_by_end_of_key (<expr>=?)" in line for line in steps), steps
    assert not any(line == "SCAN records" for line in steps), steps


@pytest.mark.parametrize("statement", [sqlite.SELECT_LAST_OF, tree.SELECT_POSITIONS_OF])
async def test_records_of_tracker_itself_are_found_by_their_index(log: SqliteLog, path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as plain:
        plan = plain.execute(f"EXPLAIN QUERY PLAN {statement}", [TRACKER]).fetchall()
    assert any("USING INDEX records_of_tracker" in row[3] for row in plan), plan


async def test_keys_with_the_same_end_are_distinguished(log: SqliteLog) -> None:
    keys = [f"{start}:the same long end of a key" for start in "abc"] + ["key", "a key", ""]
    sent = [delivery(key, source=source) for source in ("lk", "other") for key in keys]
    assert [answer.position for answer in await log.append_all(sent)] == list(range(1, 13))
    assert [answer.duplicate for answer in await log.append_all(sent)] == [True] * 12
    assert [(await log.append(each)).position for each in sent] == list(range(1, 13))


APPEND = """
import asyncio, sys
from tests.contracts.log_contract import delivery
from tracker.log.sqlite.log import SqliteLog

async def append() -> None:
    log = await SqliteLog.open(sys.argv[1])
    await log.append(delivery("from another process"))
    await log.close()

asyncio.run(append())
"""


async def test_a_log_opened_for_reading_follows_what_another_process_appends_and_appends_nothing(path: Path) -> None:
    await SqliteLog.create(path)
    first = await SqliteLog.open(path)
    await first.append(delivery("a"))
    reading = await SqliteLog.open(path, writable=False)
    waiting = asyncio.create_task(reading.wait(1, 20))
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", APPEND, str(path), cwd=ROOT)
    assert await asyncio.wait_for(waiting, 20) == 2
    assert await process.wait() == 0
    assert [record.position async for records in reading.read(0) for record in records] == [1, 2]
    with pytest.raises(LogUnavailable, match="for reading only"):
        await reading.append(delivery("b"))
    await first.close()
    await reading.close()


async def test_a_log_that_is_missing_or_foreign_is_not_opened_for_reading(tmp_path: Path) -> None:
    with pytest.raises(LogMissing):
        await SqliteLog.open(tmp_path / "none.db", writable=False)
    assert not (tmp_path / "none.db").exists()
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE mine (n)")
    with pytest.raises(LogCorrupt):
        await SqliteLog.open(tmp_path / "other.db", writable=False)
