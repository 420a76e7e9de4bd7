"""SQLite views: opening, swapping, query plans and speed."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tracker.domain.polling import LOOK_SECONDS
from tracker.domain.text_cache import text_cache
from tracker.errors import ViewsMissing, ViewsOutdated, ViewsUnavailable
from tracker.domain.rows import EntryRow
from tracker.views.sqlite import queries as sql
from tracker.views.sqlite import rooms
from tracker.domain.room_marks import KEYED, Mark, MarkChange
from tracker.views.contract import RoomUpdate, Changes, SavedEntry, SessionFilter
from tracker.views.sqlite.views import SqliteViews, swap_in
from tracker.views.cursors import encode_cursor
from tracker.views.sqlite.session_filters import count_statement, with_single_source, find_candidates
from tracker.views.sqlite.session_search import sessions_statement


def entries(first: int, last: int) -> list[SavedEntry]:
    """One entry for each position, without a session."""
    return [
        SavedEntry(
            row=EntryRow(
                id=f"{position}-0", session_id=None, position=position, n=0, at=position, received_at=position, kind="test",
                subject_type="node", subject_id=None, actor=None, detail={"text": "x" * 100}, source="ov", provenance="reported",
                clock="server", dedupe_key=f"{position:064}", hidden=False,
            ),
            room="Room", placed_at=position, session_ref=b"p" * 20,
        )
        for position in range(first, last + 1)
    ]  # fmt: skip


async def opened(path: Path, position: int = 0) -> SqliteViews:
    """New views at `position`, with one entry for each position."""
    await SqliteViews.create(path)
    views = await SqliteViews.open(path, writable=True)
    await views.save(Changes(position=position, entries=entries(1, position)))
    return views


def is_intact(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_file_that_cannot_be_opened_leaves_no_thread_behind(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    asyncio.run(SqliteViews.create(path))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE meta SET value = 'older' WHERE key = 'stamp'")
    before = threading.active_count()
    for _ in range(30):
        with pytest.raises(ViewsOutdated):
            asyncio.run(SqliteViews.open(path, writable=False))
    # The thread of a closed connection ends soon; an exception in it would be reported as a warning.
    until = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() <= before


async def test_missing_and_foreign_files_raise_different_errors(tmp_path: Path) -> None:
    with pytest.raises(ViewsMissing):
        await SqliteViews.open(tmp_path / "none.db", writable=True)
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "text.db").write_text("not a database, but long enough to look at" * 40)
    with pytest.raises(ViewsOutdated):
        await SqliteViews.open(tmp_path / "text.db", writable=False)
    await SqliteViews.create(tmp_path / "old.db")
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection, connection:
        connection.execute("UPDATE meta SET value = 'older' WHERE key = 'stamp'")
    with pytest.raises(ViewsOutdated):
        await SqliteViews.open(tmp_path / "old.db", writable=False)


async def test_readers_cannot_save(tmp_path: Path) -> None:
    await (await opened(tmp_path / "views.db", 2)).close()
    views = await SqliteViews.open(tmp_path / "views.db", writable=False)
    assert await views.projected_position() == 2
    with pytest.raises(ViewsUnavailable):
        await views.save(Changes(position=3))
    await views.close()
    await views.close()
    with pytest.raises(ViewsUnavailable):
        await views.projected_position()


async def test_a_save_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    views = await opened(tmp_path / "views.db", 1)
    with pytest.raises(ViewsUnavailable):
        await views.save(
            Changes(
                position=2,
                entries=entries(2, 2),
                rooms=[RoomUpdate("ov", "Room", [MarkChange(KEYED, None, Mark(1, 0, None))])],
            )
        )  # pyright: ignore[reportArgumentType]
    assert await views.projected_position() == 1
    assert await views.record_sessions(2) == []
    await views.save(Changes(position=2, entries=entries(2, 2)))
    assert await views.projected_position() == 2
    await views.close()


async def test_readers_do_not_see_uncommitted_saves_and_a_failing_save_undoes_them(
    tmp_path: Path,
) -> None:
    views = await opened(tmp_path / "views.db", 1)
    await views.save(Changes(position=2, entries=entries(2, 2)), commit=False)
    assert [await views.projected_position(), await views.record_sessions(2), len(await views.entries_after(0, 0, limit=9))] == [
        1, [], 1,
    ]  # fmt: skip
    with pytest.raises(ViewsUnavailable):
        await views.save(
            Changes(position=3, rooms=[RoomUpdate("ov", "Room", [MarkChange(KEYED, None, Mark(1, 0, None))])])
        )  # pyright: ignore[reportArgumentType]
    await views.save(Changes(position=2, entries=entries(2, 2)))
    assert len(await views.entries_after(0, 0, limit=9)) == 2
    await views.save(Changes(position=3, entries=entries(3, 3)), commit=False)
    await views.close()
    views = await SqliteViews.open(tmp_path / "views.db", writable=True)
    assert [await views.projected_position(), len(await views.entries_after(0, 0, limit=9))] == [2, 2]
    await views.close()


async def _rebuild(path: Path) -> None:
    fresh = path.with_name("fresh.db")
    views = await opened(fresh, 30)
    await views.close()
    swap_in(fresh, path)


def rebuild_elsewhere(path: str) -> None:
    """Like `tracker rebuild` in another process."""
    import asyncio

    asyncio.run(_rebuild(Path(path)))


async def test_a_swap_by_another_process_is_noticed_and_damages_nothing(tmp_path: Path) -> None:
    path = tmp_path / "views.db"
    running = await opened(path, 5)
    other = multiprocessing.get_context("spawn").Process(target=rebuild_elsewhere, args=(str(path),))
    other.start()
    other.join(20)
    assert other.exitcode == 0
    # Between the swap and refresh the writer still has the old file, which has lost its name.
    await running.save(Changes(position=2_005, entries=entries(6, 2_005)))
    assert await running.projected_position() == 30
    assert await running.refresh() is True
    assert await running.refresh() is False
    assert len(await running.entries_after(0, 0, limit=100)) == 30
    await running.save(Changes(position=31, entries=entries(31, 31)))
    assert await running.projected_position() == 31
    assert is_intact(path)
    await running.close()
    assert is_intact(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["views.db", "views.db-lock"]
    again = await SqliteViews.open(path, writable=False)
    assert len(await again.entries_after(0, 0, limit=100)) == 31
    await again.close()


async def test_closing_the_old_file_leaves_the_wal_of_the_new_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "views.db"
    old = await opened(path, 5)
    await _rebuild(path)
    new = await SqliteViews.open(path, writable=True)
    await new.save(Changes(position=31, entries=entries(31, 31)))
    await old.close()
    assert (tmp_path / "views.db-wal").stat().st_size > 0
    late = await SqliteViews.open(path, writable=False)
    assert await late.projected_position() == 31
    await late.close()
    await new.close()
    assert is_intact(path)


async def test_only_closed_views_are_swapped_in_and_only_over_views(tmp_path: Path) -> None:
    views = await opened(tmp_path / "fresh.db", 1)
    with pytest.raises(ViewsUnavailable):
        swap_in(tmp_path / "fresh.db", tmp_path / "views.db")
    assert not (tmp_path / "views.db").exists()
    await views.close()
    with closing(sqlite3.connect(tmp_path / "log.db")) as connection, connection:
        connection.execute("CREATE TABLE records (position INTEGER PRIMARY KEY)")
    for refused in (tmp_path / "log.db", tmp_path):
        with pytest.raises(ViewsUnavailable):
            swap_in(tmp_path / "fresh.db", refused)
    with pytest.raises(ViewsUnavailable):
        await SqliteViews.create(tmp_path / "log.db")
    assert is_intact(tmp_path / "log.db")


async def test_removed_views_are_missing_until_they_are_created_again(tmp_path: Path) -> None:
    path = tmp_path / "views.db"
    views = await opened(path, 3)
    path.unlink()
    with pytest.raises(ViewsMissing):
        await views.refresh()
    with pytest.raises(ViewsMissing):
        await views.projected_position()
    await SqliteViews.create(path)
    assert await views.refresh() is True
    assert await views.projected_position() == 0
    await views.close()


EVERY = {
    "source": "a", "sources": ("a", "b"), "room": "a", "identity": "a", "state": "open", "from_at": 1, "to_at": 2,
    "has": ("recording",), "min_duration_ms": 5, "q": "abc",
}  # fmt: skip
"""A value of each filter of the list of sessions."""

COMBINED = [
    *({} if alone is None else {alone: EVERY[alone]} for alone in (None, *EVERY)),
    *({one: EVERY[one], other: EVERY[other]} for one, other in itertools.combinations(EVERY, 2)),
    *({one: EVERY[one] for one in EVERY if one != without} for without in EVERY),
    *({"state": state} | more for state in ("ended", "stuck") for more in ({}, {"source": "a"}, {"has": ("anomaly",)}, {"min_duration_ms": 1})),
    {"has": ("supervisor", "anomaly", "recording")}, EVERY,
]  # fmt: skip


def statements_of(filters: dict[str, Any], cursor: str | None = None) -> list[tuple[str, list[Any]]]:
    """All statements that may read a page of sessions: by a scan, from each candidate, and the count of candidates."""
    wanted = with_single_source(SessionFilter(**filters))
    found = find_candidates(wanted)
    statements = [
        sessions_statement(wanted, limit=5, cursor=cursor, candidate=candidate) for candidate in (None, *found)
    ]
    return [*statements, count_statement(found)] if found else statements


PLANNED: list[tuple[str, list[Any]]] = [
    statement for filters in COMBINED for cursor in (None, encode_cursor("sessions", (5, "a"))) for statement in statements_of(filters, cursor)
]  # fmt: skip
CHILDREN = [
    statement + after + sql.NEWEST_FIRST
    for statement in (
        sql.SELECT_PARTICIPANTS,
        sql.SELECT_RECORDINGS,
        sql.SELECT_SUPERVISOR_SESSIONS,
        *(sql.SELECT_PARTICIPANTS + condition for condition in sql.IDENTITY_OR_NAME),
        *(sql.SELECT_SUPERVISOR_SESSIONS + condition for condition in sql.SUPERVISOR_OR_AGENT),
        sql.SELECT_RECORDINGS + sql.AND_STATUS,
    )
    for after in ("", sql.AND_SOURCES, sql.AND_BEFORE)
]
OF_ONE = [
    statement + sql.AND_OF_SESSION + after + sql.OLDEST_FIRST
    for statement in (
        sql.SELECT_PARTICIPANTS,
        sql.SELECT_CONNECTIONS,
        sql.SELECT_STREAMS,
        sql.SELECT_RECORDINGS,
        sql.SELECT_SUPERVISOR_SESSIONS,
    )
    for after in ("", sql.AND_AFTER)
]
PLANNED += [
    (statement, ["[]" if "json_each" in statement else "a"] * statement.count("?"))
    for statement in [*CHILDREN, *OF_ONE]
]
PLANNED += [
    (sql.SELECT_SESSION, ["a"]),
    (sql.SELECT_SESSIONS_BY_ID, ["[]", 5]),
    (sql.SELECT_SET_ASIDE, [5]),
    (sql.SELECT_TIMELINE + sql.ENTRIES_IN_TIME, ["a", 5]),
    (sql.SELECT_TIMELINE + sql.AND_ENTRY_KINDS + sql.AND_ENTRY_SUBJECT + sql.AND_ENTRY_AFTER + sql.ENTRIES_IN_TIME, ["a", "[]", "a", 1, 1, 1, 1, 1, 5]),
    (sql.SELECT_ENTRIES_AFTER, [1, 2, 5]),
    (sql.SELECT_SESSION_POSITIONS, ["a", 1, 5]),
    (sql.SELECT_RECORD_SESSIONS, [1]),
    (sql.SELECT_LOOKUP, ["a", 5]),
    (sql.SELECT_PLACED_SESSIONS, ["a", "b", 1, 2, 5]),
    (sql.SELECT_SUPERVISOR_SESSION, ["a"]),
    (sql.SELECT_ROOM_SUMMARIES + sql.SUMMARIES_BY_ROOM, [5]),
    (sql.SELECT_ROOM_SUMMARIES + sql.AND_SUMMARY_SOURCE + sql.AND_SUMMARY_AFTER + sql.SUMMARIES_BY_ROOM, ["a", "a", "a", 5]),
    (sql.SELECT_OPEN, [None]),
    (sql.SELECT_PEAK, [None, 1, 2]),
]  # fmt: skip


def plan_of(connection: sqlite3.Connection, statement: str, bound: list[Any]) -> list[str]:
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", bound)]


async def test_no_query_scans_a_table(tmp_path: Path) -> None:
    await SqliteViews.create(tmp_path / "views.db")
    tables = {
        "s",
        "p",
        "l",
        "sessions",
        "entries",
        "gaps",
        "participants",
        "recordings",
        "supervisor_sessions",
        "names",
    }
    with closing(sqlite3.connect(tmp_path / "views.db")) as connection:
        for statement, bound in PLANNED:
            plan = plan_of(connection, statement, bound)
            scans = [step.split() for step in plan if step.startswith("SCAN")]
            assert not [scan for scan in scans if scan[1] in tables and "USING" not in scan], (statement, plan)


ROOM_QUERIES = {
    rooms.SELECT_ROOM_NUMBER: ["a", "b"],
    rooms.SELECT_FIRST_MARKS: [1],
    rooms.SELECT_MARKS: [1, 2, 3, 4, 5, 6, 7],
    rooms.SELECT_MARKS_BACKWARDS: [1, 2, 3, 4, 5, 6, 7],
    rooms.SELECT_NAMED_MARK: [1, 2, "a"],
    rooms.SELECT_ROOM_ENTRIES: ["[]", "a", "b"],
    rooms.SELECT_ANCHORED_ENTRIES: ["[]", "a", "b"],
    rooms.SELECT_SESSIONS_WITHOUT_NEXT_RUN: ["[]", "a", "b"],
}


async def test_every_query_about_a_room_reads_a_span_of_an_index(tmp_path: Path) -> None:
    assert {value for name, value in vars(rooms).items() if name.startswith("SELECT_")} == ROOM_QUERIES.keys()
    bounds = (
        "at>? AND at<?",
        "name=?",
        "placed_at>? AND placed_at<?",
        "anchor=?",
        "next_run_after>? AND next_run_after<?",
        "rowid",
    )
    await SqliteViews.create(tmp_path / "views.db")
    with closing(sqlite3.connect(tmp_path / "views.db")) as connection:
        for statement, bound in ROOM_QUERIES.items():
            plan = plan_of(connection, statement.format(table="room_marks", condition="true"), bound)
            assert not [step for step in plan if "TEMP B-TREE" in step], (statement, plan)
            searches = [step for step in plan if step.startswith("SEARCH")]
            assert searches, (statement, plan)
            for step in searches:
                assert any(each in step for each in (*bounds, "room=?)")), (statement, plan)


async def test_these_tests_cover_every_statement() -> None:
    planned_text = "\n".join(statement for statement, _ in PLANNED)
    known = {name: value for name, value in vars(sql).items() if name.startswith("SELECT_") and isinstance(value, str)}
    assert [name for name, value in known.items() if value not in planned_text] == []


async def test_lists_are_read_in_the_order_of_an_index(tmp_path: Path) -> None:
    await SqliteViews.create(tmp_path / "views.db")
    many = [
        sessions_statement(with_single_source(SessionFilter(**filters)), limit=5, cursor=None) for filters in COMBINED
    ]
    lists = [*many, *((statement, bound) for statement, bound in PLANNED if statement in {*CHILDREN, *OF_ONE})]
    with closing(sqlite3.connect(tmp_path / "views.db")) as connection:
        for statement, bound in [*lists, (sql.SELECT_TIMELINE + sql.ENTRIES_IN_TIME, ["a", 5])]:
            plan = plan_of(connection, statement, bound)
            assert not [step for step in plan if "TEMP B-TREE" in step], (statement, plan)
        for conditions, head in (
            (sql.IDENTITY_OR_NAME, sql.SELECT_PARTICIPANTS),
            (sql.SUPERVISOR_OR_AGENT, sql.SELECT_SUPERVISOR_SESSIONS),
        ):
            arms = " UNION ALL ".join(head + condition for condition in conditions)
            plan = plan_of(connection, arms + sql.NEWEST_FIRST, ["a", "a", "a", 5])
            assert not [step for step in plan if "TEMP B-TREE" in step], plan


async def test_five_thousand_entries_are_saved_in_less_than_a_second(tmp_path: Path) -> None:
    views = await opened(tmp_path / "views.db")
    many = entries(1, 5_000)
    began = time.perf_counter()
    await views.save(Changes(position=5_000, entries=many))
    taken = time.perf_counter() - began
    await views.close()
    # Twice the bound: the machine may be busy with other tests.
    assert taken < 1.0
    print(f"{taken * 1000:.0f} ms")


async def test_views_being_built_cannot_be_opened_until_they_are_finished(tmp_path: Path) -> None:
    path = tmp_path / "views.db"
    views = await SqliteViews.build(path)
    await views.save(Changes(position=3, entries=entries(1, 3)))
    assert len(await views.read_rooms(lambda rooms: rooms.room_entries("ov", "Room", [(1, 9)], ()))) == 3
    with pytest.raises(ViewsOutdated):
        await SqliteViews.open(path, writable=False)
    await views.finish()
    finished = await SqliteViews.open(path, writable=True)
    assert await finished.projected_position() == 3
    await finished.save(Changes(position=4, entries=entries(4, 4)))
    await finished.close()
    await SqliteViews.create(tmp_path / "made.db")
    shapes: list[list[Any]] = []
    for each in (path, tmp_path / "made.db"):
        with closing(sqlite3.connect(each)) as connection:
            shapes.append(connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall())
    assert shapes[0] == shapes[1]


async def test_an_unfinished_file_is_never_swapped_in(tmp_path: Path) -> None:
    await (await opened(tmp_path / "views.db", 2)).close()
    await (await SqliteViews.build(tmp_path / "fresh.db")).close()
    with pytest.raises(ViewsOutdated):
        swap_in(tmp_path / "fresh.db", tmp_path / "views.db")
    assert is_intact(tmp_path / "views.db")


async def test_a_look_finds_every_save_and_every_swap_and_a_swap_drops_the_caches_of_texts(tmp_path: Path) -> None:
    path = tmp_path / "views.db"
    writer = await opened(path, 1)
    reader = await SqliteViews.open(path, writable=False)
    first = await reader.look()
    assert (first.position, (await reader.look()).version) == (1, first.version)
    await writer.save(Changes(position=2))
    await asyncio.sleep(LOOK_SECONDS)
    second = await reader.look()
    assert (second.position, second.version != first.version, second.pause) == (2, True, LOOK_SECONDS)
    cached = text_cache(8)(str.upper)
    cached("a sender's text")
    other = await opened(tmp_path / "new.db", 7)
    await other.close()
    swap_in(tmp_path / "new.db", path)
    await asyncio.sleep(LOOK_SECONDS)
    third = await reader.look()
    assert (third.position, third.version != second.version) == (7, True)
    assert cached.cache_info().currsize == 0  # type: ignore[attr-defined]
    await writer.close()
    await reader.close()


async def test_looks_close_together_read_the_file_once(tmp_path: Path) -> None:
    path = tmp_path / "views.db"
    writer = await opened(path, 1)
    reader = await SqliteViews.open(path, writable=False)
    looks = await asyncio.gather(*(reader.look() for _ in range(100)))
    assert len(set(looks)) == 1
    path.unlink()
    await asyncio.sleep(LOOK_SECONDS)
    with pytest.raises(ViewsMissing):
        await reader.look()
    await writer.close()
    await reader.close()
