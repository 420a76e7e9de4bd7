"""The contract of the views, through its writing and its reading interface."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tracker.errors import ParameterInvalid
from tracker.domain.rows import Anomaly, ConnectionRow, End, EntryRow, ParticipantRow, RecordingRow, SessionRow, SessionRows, StreamRow, SupervisorSessionRow  # fmt: skip
from tracker.domain.room_marks import ANCHOR, EARLIEST, END, KEYED, LATEST, LOOSE, SPAN, Mark, MarkChange, Marks
from tracker.views.contract import Changes, RoomUpdate, SavedEntry, SessionFilter, SourceRow, ViewsWriter
from tests.support.memory_views import MemoryViews
from tracker.views.sqlite.views import SqliteViews

SECOND = 1_000_000
T0 = 1_795_219_200 * SECOND  # 2026-11-21T00:00:00Z
DAY = 86_400 * SECOND
ROOM = RoomUpdate("ov", "Room", [MarkChange(KEYED, None, Mark(T0, 0, "a"))])
REPORTED = End(reason="normal", vendor_reason="last", provenance="reported")


def session_rows(
    key: str, *, source: str = "ov", begins_at: int = T0, ended_at: int | None = None, **more: Any
) -> SessionRows:
    """One session of room "Room" with Ann, a recording and a supervisor. `more` replaces fields of the row."""
    name = f"{source}:{key}"
    fields: dict[str, Any] = {
        "id": name, "source": source, "vendor": "openvidu", "room_id": "Room", "room_name": "The room",
        "vendor_ids": {"sessionId": ["Room"]}, "state": "open" if ended_at is None else "ended",
        "created_at": None, "started_at": begins_at, "ended_at": ended_at,
        "duration_ms": None if ended_at is None else (ended_at - begins_at) // 1000, "start_provenance": "reported",
        "end": None if ended_at is None else REPORTED, "participants": 1, "peak_participants": 1, "participant_ms": 5,
        "recordings": 1, "supervisors": 1, "completeness": "open", "anomalies": [], "first_position": 1,
        "last_position": 2, "last_event_at": begins_at + SECOND, "begins_at": begins_at,
    }  # fmt: skip
    fields.update(more)
    ann = ParticipantRow(
        session_id=name, id="p1", identity="ann", name="Ann Ångström", kind="standard", connections=1,
        first_joined_at=begins_at, last_left_at=None, presence_ms=5,
    )  # fmt: skip
    connections = tuple(
        ConnectionRow(
            session_id=name, id=f"c{i}", participant="p1", joined_at=begins_at + i, left_at=None, duration_ms=None,
            join_provenance="reported", leave=None, aborted=False, platform=None, location=None, ip=None,
        )
        for i in range(3)
    )  # fmt: skip
    stream = StreamRow(
        session_id=name, id="s1", direction="published", stream="s1", participant="p1", connection="c1", publisher=None,
        media="video", label=None, started_at=None, ended_at=None, duration_ms=None, start_provenance=None, end=None,
        detail={"fps": 30},
    )  # fmt: skip
    recording = RecordingRow(
        id=f"{name}/r1", session_id=name, vendor_id="r1", mode="composed", status="ready", upload_status=None,
        upload_http_status=None, started_at=begins_at, first_frame_at=None, first_peerframe_at=None, stopped_at=None,
        duration_ms=None, size_bytes=None, url=None, stop_reason=None, start_provenance="reported",
        stop_provenance=None, history=[{"status": "ready", "at": begins_at, "position": 2}],
    )  # fmt: skip
    supervisor = SupervisorSessionRow(
        id=f"{source}:sup-{key}", supervisor_client="boss", agent_session=key, agent_client="agent", session_id=name,
        started_at=begins_at, ended_at=None, duration_ms=None, start_provenance="reported", provenance="reported",
    )  # fmt: skip
    return SessionRows(
        session=SessionRow(**fields), lookups=("Room", key), participants=(ann,), connections=connections,
        streams=(stream,), recordings=(recording,), supervisor_sessions=(supervisor,), gaps=(),
        state=b"folded " + key.encode(),
    )  # fmt: skip


def entry(
    position: int,
    n: int = 0,
    *,
    session_id: str | None = "ov:a",
    at: int = T0,
    placed_at: int = T0,
    anchor: str | None = None,
    **more: Any,
) -> SavedEntry:
    """One entry of room "Room". `more` replaces fields of its row."""
    fields: dict[str, Any] = {
        "id": f"{position}-{n}", "session_id": session_id, "position": position, "n": n, "at": at, "received_at": at + 7,
        "kind": "participant.joined", "subject_type": "participant", "subject_id": "p1", "actor": "ann", "detail": {"x": [1]},
        "source": "ov", "provenance": "reported", "clock": "server", "dedupe_key": f"key-{position}", "hidden": False,
    }  # fmt: skip
    fields.update(more)
    return SavedEntry(row=EntryRow(**fields), room="Room", placed_at=placed_at, session_ref=b"place", anchor=anchor)


@pytest.fixture
async def views(tmp_path: Path) -> AsyncIterator[SqliteViews]:
    path = tmp_path / "deep" / "views.db"
    await SqliteViews.create(path)
    views = await SqliteViews.open(path, writable=True)
    yield views
    await views.close()


async def ids(views: SqliteViews, **filters: Any) -> list[str]:
    rows, _ = await views.find_sessions(SessionFilter(**filters), limit=50, cursor=None)
    return [row.id for row in rows]


async def all_pages(ask: Any) -> list[Any]:
    rows, cursor = await ask(None)
    found = list(rows)
    while cursor is not None:
        rows, cursor = await ask(cursor)
        assert rows
        found += rows
    return found


async def test_new_views_are_at_position_zero_and_empty(views: SqliteViews) -> None:
    assert await views.projected_position() == 0
    assert await ids(views) == []
    assert await views.sources() == []


async def test_saved_rows_are_read_back_unchanged(views: SqliteViews) -> None:
    rows = session_rows("a", anomalies=[Anomaly(kind="late_event", position=2, detail="x")])
    source = SourceRow(source="ov", vendor="openvidu", last_received_at=9, records=2, state=b"s")
    saved = [entry(1), entry(2)]
    await views.save(Changes(position=2, sessions=[rows], entries=saved, rooms=[ROOM], sources=[source]))
    assert await views.projected_position() == 2
    assert await views.session("ov:a") == rows.session
    assert await views.states(["ov:a", "ov:none"]) == {"ov:a": b"folded a"}
    assert await views.sources() == [source]
    assert await views.session_entries("ov:a") == saved
    here: dict[str, Any] = {"session_id": "ov:a", "sources": None, "limit": 5, "cursor": None}
    assert (await views.participants(identity=None, **here))[0] == list(rows.participants)
    assert (await views.connections("ov:a", limit=5, cursor=None))[0] == list(rows.connections)
    assert (await views.streams("ov:a", limit=5, cursor=None))[0] == list(rows.streams)
    assert (await views.recordings(status="ready", **here))[0] == list(rows.recordings)
    assert (await views.supervisor_sessions(client="boss", **here))[0] == list(rows.supervisor_sessions)
    assert (
        await views.supervisor_session("sup-a")
        == await views.supervisor_session("ov:sup-a")
        == list(rows.supervisor_sessions)
    )


async def test_a_second_save_replaces_a_session_and_removing_deletes_it(views: SqliteViews) -> None:
    await views.save(
        Changes(position=1, sessions=[session_rows("a"), session_rows("b")], entries=[entry(1, session_id="ov:b")])
    )
    replaced = session_rows("a", participants=4)
    await views.save(Changes(position=2, sessions=[replaced], removed=["ov:b"], entries=[entry(1, session_id="ov:a")]))
    assert await ids(views) == ["ov:a"]
    assert await views.session("ov:a") == replaced.session
    assert await views.lookup("b", None) == []
    assert len((await views.participants(session_id=None, identity="ann", sources=None, limit=9, cursor=None))[0]) == 1
    assert await views.states(["ov:b"]) == {}
    assert await views.session_entries("ov:b") == []
    assert await views.record_sessions(1) == ["ov:a"]


@pytest.fixture(params=["sqlite", "memory"])
async def writer(request: pytest.FixtureRequest, views: SqliteViews) -> ViewsWriter:
    return views if request.param == "sqlite" else MemoryViews()


async def test_an_uncommitted_save_is_visible_after_the_next_commit(writer: ViewsWriter) -> None:
    await writer.save(Changes(position=1, sessions=[session_rows("a")], entries=[entry(1)]))
    await writer.save(Changes(position=2, sessions=[session_rows("b")], entries=[entry(2)]), commit=False)
    assert await writer.projected_position() == 1
    # The writer goes on from what it has writer.
    assert await writer.states(["ov:b"]) == {"ov:b": b"folded b"}
    assert await writer.session_entries("ov:a") == [entry(1), entry(2)]
    await writer.save(Changes(position=3, rooms=[ROOM]))
    assert await writer.projected_position() == 3
    await writer.rollback()
    assert await writer.projected_position() == 3
    assert await writer.states(["ov:b"]) == {"ov:b": b"folded b"}


async def test_rollback_undoes_uncommitted_saves(writer: ViewsWriter) -> None:
    await writer.save(Changes(position=1, sessions=[session_rows("a")], entries=[entry(1)]))
    for position in (2, 3):
        await writer.save(Changes(position=position, removed=["ov:a"], entries=[entry(position)]), commit=False)
    await writer.rollback()
    assert await writer.projected_position() == 1
    assert await writer.states(["ov:a"]) == {"ov:a": b"folded a"}
    assert await writer.session_entries("ov:a") == [entry(1)]
    await writer.save(Changes(position=2, sessions=[session_rows("b")]))
    assert sorted(await writer.states(["ov:a", "ov:b"])) == ["ov:a", "ov:b"]


async def test_filters_select_sessions_and_the_newest_comes_first(views: SqliteViews) -> None:
    odd = Anomaly(kind="overlap", position=None, detail="")
    sessions = [
        session_rows("a", begins_at=T0, ended_at=T0 + 60 * SECOND),
        session_rows("b", begins_at=T0 + SECOND, recordings=0, supervisors=0, room_id="Other_x", parent_id="ov:a"),
        session_rows("c", source="lk", begins_at=T0 + DAY, anomalies=[odd]),
    ]
    await views.save(Changes(position=1, sessions=sessions))
    assert await ids(views) == ["lk:c", "ov:b", "ov:a"]
    assert await ids(views, source="ov") == ["ov:b", "ov:a"]
    assert await ids(views, sources=("lk",)) == ["lk:c"]
    assert await ids(views, sources=()) == []
    assert await ids(views, room="Room") == ["lk:c", "ov:a"]
    assert await ids(views, room="The room") == ["lk:c", "ov:b", "ov:a"]
    assert await ids(views, identity="ann", source="lk") == ["lk:c"]
    assert await ids(views, state="ended") == ["ov:a"]
    assert await ids(views, state="stuck", stuck_before={"ov": T0 + 2 * SECOND, "lk": T0}) == ["ov:b"]
    assert await ids(views, from_at=T0 + SECOND, to_at=T0 + DAY) == ["ov:b"]
    assert await ids(views, has=("recording", "supervisor")) == ["lk:c", "ov:a"]
    assert await ids(views, has=("anomaly",)) == ["lk:c"]
    assert await ids(views, min_duration_ms=60_000) == ["ov:a"]
    assert await ids(views, parent_id="ov:a") == ["ov:b"]
    assert await ids(views, parent_id="ov:a", state="ended") == []
    assert await ids(views, parent_id="ov:b") == []
    assert await ids(views, q="her_") == ["ov:b"]
    assert await ids(views, q="%") == []
    assert await ids(views, q="Ångst", state="open", source="lk") == ["lk:c"]
    for bad in ({"state": "x"}, {"has": ("x",)}):
        with pytest.raises(ParameterInvalid):
            await ids(views, **bad)


async def test_pages_neither_overlap_nor_leave_gaps(views: SqliteViews) -> None:
    sessions = [session_rows(f"{i:02}", begins_at=T0 + i // 3, room_id=f"R{i}") for i in range(11)]
    await views.save(
        Changes(position=9, sessions=sessions, entries=[entry(i, i % 2, at=T0 + i // 4) for i in range(1, 10)])
    )
    found = await all_pages(lambda c: views.find_sessions(SessionFilter(), limit=2, cursor=c))
    assert [row.id for row in found] == [f"ov:{i:02}" for i in reversed(range(11))]
    found = await all_pages(lambda c: views.timeline("ov:a", kinds=(), subject=None, limit=2, cursor=c))
    assert sorted(row.position for row in found) == list(range(1, 10))
    assert [row.at for row in found] == sorted(row.at for row in found)
    found = await all_pages(
        lambda c: views.participants(session_id=None, identity=None, sources=("ov",), limit=3, cursor=c)
    )
    assert len({row.session_id for row in found}) == len(found) == 11
    found = await all_pages(lambda c: views.connections("ov:00", limit=1, cursor=c))
    assert [row.id for row in found] == ["c0", "c1", "c2"]
    found = await all_pages(lambda c: views.find_rooms(source=None, sources=None, limit=4, cursor=c))
    assert [room.room_id for room in found] == sorted(f"R{i}" for i in range(11))


@pytest.mark.parametrize("cursor", ["", "x", "é", "W10", "bnVsbA", "WyJzZXNzaW9ucyIsMV0", "WyJ0aW1lbGluZSIsMSwiYSJd"])
async def test_an_invalid_cursor_is_refused(views: SqliteViews, cursor: str) -> None:
    with pytest.raises(ParameterInvalid) as refused:
        await views.find_sessions(SessionFilter(), limit=2, cursor=cursor)
    assert refused.value.parameter == "cursor"


async def test_entries_of_one_moment_are_in_causal_order_whatever_the_order_of_arrival(views: SqliteViews) -> None:
    kinds = ["session.created", "participant.joined", "stream.published", "signal.sent", "signal.sent",
             "stream.unpublished", "participant.left", "session.ended", "recording.ready"]  # fmt: skip
    keys = [f"key-{number}" for number in range(9)]
    shown: dict[str, list[str]] = {}
    for name, arrival in (("a", range(9)), ("b", reversed(range(9))), ("c", (4, 8, 0, 2, 6, 1, 3, 5, 7))):
        lines = [
            entry(position, session_id=f"ov:{name}", kind=kinds[place], dedupe_key=keys[place])
            for position, place in enumerate(arrival, 9 * len(shown) + 1)
        ]
        await views.save(Changes(position=9 * len(shown) + 9, sessions=[session_rows(name)], entries=lines))
        found = await all_pages(
            lambda c, name=name: views.timeline(f"ov:{name}", kinds=(), subject=None, limit=2, cursor=c)
        )
        assert [row.kind for row in found] == kinds
        shown[name] = [row.dedupe_key for row in found]
    assert shown["a"] == shown["b"] == shown["c"]


async def test_a_timeline_shows_gaps_but_no_hidden_entries_and_the_live_order_has_neither(views: SqliteViews) -> None:
    gap = entry(2, 1_000_000, at=T0 + 1, received_at=None, kind="participant.left").row
    rows = msgspec.structs.replace(session_rows("a"), gaps=(gap,))
    lines = [entry(1), entry(2, at=T0 + 2), entry(2, 1, hidden=True), entry(3, session_id=None, kind="test")]
    await views.save(Changes(position=3, sessions=[rows], entries=lines))

    async def shown(session_id: str | None, *kinds: str) -> list[str]:
        return [
            row.id for row in (await views.timeline(session_id, kinds=kinds, subject="p1", limit=9, cursor=None))[0]
        ]

    assert await shown("ov:a") == ["1-0", "2-1000000", "2-0"]
    assert await shown("ov:a", "participant.left", "test") == ["2-1000000"]
    assert await shown(None) == ["3-0"]
    assert [row.id for row in await views.entries_after(1, 0, limit=9)] == ["2-0", "3-0"]
    assert await views.session_positions("ov:a", limit=9, after=1) == [2]


async def test_every_id_of_a_session_finds_it(views: SqliteViews) -> None:
    sessions = [session_rows("a"), session_rows("b", source="lk", begins_at=T0 + 9)]
    await views.save(Changes(position=1, sessions=sessions, entries=[entry(1, placed_at=T0 + 5_000)]))

    async def found(any_id: str, sources: tuple[str, ...] | None = None) -> list[str]:
        return [row.id for row in await views.lookup(any_id, sources)]

    assert await found("ov:a") == await found("a") == await found("ov:Room") == ["ov:a"]
    assert await found("Room") == ["lk:b", "ov:a"]
    assert await found("Room", ("ov",)) == ["ov:a"]
    assert await found("ov:a", ("lk",)) == []
    assert await found(f"ov:Room_{(T0 + 5_000) // 1000}") == ["ov:a"]
    assert await found("ov:Room_1") == await found("nothing") == []


async def test_room_entries_are_those_in_the_windows_and_those_with_the_anchors(writer: ViewsWriter) -> None:
    saved = [entry(i, placed_at=T0 + i, anchor="r" if i == 5 else None) for i in (1, 2, 3, 4, 5)]
    await writer.save(Changes(position=5, entries=saved))

    async def found(windows: list[tuple[int, int]], *anchors: str, room: str = "Room") -> list[int]:
        entries = await writer.read_rooms(lambda rooms: rooms.room_entries("ov", room, windows, anchors))
        assert [each for each in saved if each in entries] == entries
        return [each.row.position for each in entries]

    assert await found([(T0 + 2, T0 + 3), (T0 + 4, T0 + 9)]) == [2, 4, 5]
    assert await found([(T0 + 1, T0 + 2)], "r", "s") == [1, 5]
    assert await found([(T0, T0 + 9)], "r", room="other") == []


async def test_sessions_that_wait_for_the_next_run_are_found_by_the_moment_since_when(writer: ViewsWriter) -> None:
    sessions = [msgspec.structs.replace(session_rows(f"s{i}"), next_run_after=T0 + i) for i in (1, 2, 3)]
    await writer.save(Changes(position=1, sessions=sessions))
    changed = msgspec.structs.replace(sessions[2], next_run_after=T0 + 7)
    await writer.save(Changes(position=2, sessions=[changed]))

    async def found(*windows: tuple[int, int], room: str = "Room") -> list[str]:
        return sorted(await writer.read_rooms(lambda rooms: rooms.sessions_without_next_run("ov", room, windows)))

    assert await found((T0 + 1, T0 + 2), (T0 + 3, T0 + 9)) == ["ov:s1", "ov:s3"]
    assert await found((T0 + 2, T0 + 7)) == ["ov:s2"]
    assert await found((T0, T0 + 9), room="other") == []


def marks_in_any_order(marks: Marks) -> None:
    assert list(marks.select(KEYED)) == [Mark(T0, 0, "a"), Mark(T0 + 5, 0, "b"), Mark(T0 + 5, 0, "c")]
    assert list(marks.select(KEYED, T0 + 1, limit=1)) == [Mark(T0 + 5, 0, "b")]
    assert list(marks.select(KEYED, high=T0 + 5, limit=2, backwards=True)) == [
        Mark(T0 + 5, 0, "c"),
        Mark(T0 + 5, 0, "b"),
    ]
    assert list(marks.select(SPAN, T0, T0, until_from=T0 + 2, until_to=T0 + 3)) == [Mark(T0, T0 + 3)]
    assert list(marks.select(SPAN, until_from=T0 + 9)) == []
    assert marks.named(KEYED, "b") == Mark(T0 + 5, 0, "b")
    assert marks.named(LOOSE, "b") is marks.named(ANCHOR, "b") is marks.named(LOOSE, "x") is None


async def test_marks_are_added_moved_and_removed(writer: ViewsWriter) -> None:
    assert await writer.read_rooms(lambda rooms: rooms.marks("ov", "Room")) is None
    loose = Mark(T0 + 1, T0 + 4, "b")
    added = [
        MarkChange(KEYED, None, Mark(T0 + 5, 0, "c")),
        MarkChange(KEYED, None, Mark(T0 + 9, 0, "a")),
        MarkChange(LOOSE, None, loose),
    ]
    spans = [MarkChange(SPAN, None, Mark(T0, T0 + until)) for until in (1, 3)]
    await writer.save(
        Changes(position=1, rooms=[RoomUpdate("ov", "Room", [*added, *spans]), RoomUpdate("ov", "other", added)])
    )
    moved = [
        MarkChange(KEYED, Mark(T0 + 9, 0, "a"), Mark(T0, 0, "a")), MarkChange(KEYED, None, Mark(T0 + 5, 0, "b")),
        MarkChange(LOOSE, loose, None), MarkChange(END, None, Mark(T0)), spans[0],
    ]  # fmt: skip
    for _ in range(2):
        await writer.save(Changes(position=2, rooms=[RoomUpdate("ov", "Room", moved)]))

    def check(marks: Marks | None) -> None:
        assert marks is not None
        marks_in_any_order(marks)

    await writer.read_rooms(lambda rooms: check(rooms.marks("ov", "Room")))


async def test_sessions_without_an_end_or_without_joins_are_found(views: SqliteViews) -> None:
    inferred = End(reason="inferred", vendor_reason=None, provenance="inferred")
    empty = msgspec.structs.replace(session_rows("d"), connections=(), streams=())
    sessions = [
        session_rows("a"),
        session_rows("b", ended_at=T0 + 1),
        session_rows("c", ended_at=T0 + 1, end=inferred),
        empty,
    ]
    await views.save(Changes(position=1, sessions=sessions))
    last = session_rows("a").session.last_event_at
    spans = [(EARLIEST, last), (last, last + 1), (last, LATEST)]
    assert await views.unreported_sessions("ov", silent_since=spans) == ["ov:a", "ov:c", "ov:d"]
    assert await views.unreported_sessions("ov", silent_since=[(EARLIEST, last), (last + 1, LATEST)]) == []
    assert await views.unreported_sessions("other", silent_since=spans) == []
    assert await views.never_joined_sessions("ov", begins_before=T0 + 1) == ["ov:d"]


async def test_stats_count_sessions_by_day_and_the_peak(views: SqliteViews) -> None:
    sessions = [
        session_rows("a", begins_at=T0, ended_at=T0 + 10 * SECOND),
        session_rows("b", begins_at=T0 + 5 * SECOND, ended_at=T0 + 20 * SECOND),
        session_rows("c", begins_at=T0 + 10 * SECOND),
        session_rows("d", source="lk", begins_at=T0 + DAY),
    ]
    source = SourceRow(source="ov", vendor="openvidu", last_received_at=3, records=1, state=b"")
    await views.save(Changes(position=1, sessions=sessions, sources=[source]))
    assert await views.stats(from_at=T0, to_at=T0 + DAY, sources=None) == {
        "open": 2,
        "sessions": 3,
        "days": [{"day": "2026-11-21", "sessions": 3, "participants": 3, "participant_ms": 15, "recordings": 3}],
        "peak": {"sessions": 2, "at": T0 + 5 * SECOND},
        "sources": [{"source": "ov", "vendor": "openvidu", "sessions": 3, "open": 1, "last_received_at": 3}],
    }
    assert (await views.stats(from_at=T0, to_at=T0 + 2 * DAY, sources=("lk",)))["sessions"] == 1
    assert (await views.stats(from_at=T0 - DAY, to_at=T0, sources=None))["peak"] == {"sessions": 0, "at": None}


async def test_a_dump_is_sorted_and_can_leave_out_the_order_of_arrival(views: SqliteViews, tmp_path: Path) -> None:
    await SqliteViews.create(tmp_path / "other.db")
    other = await SqliteViews.open(tmp_path / "other.db", writable=True)
    first = [entry(1, dedupe_key="x"), entry(2, dedupe_key="y")]
    second = [entry(2, dedupe_key="x"), entry(1, dedupe_key="y", received_at=3)]
    await views.save(Changes(position=2, sessions=[session_rows("a")], entries=first))
    await other.save(Changes(position=2, sessions=[session_rows("a", first_position=2)], entries=second))
    for positions in (True, False):
        left = [row async for row in views.dump(positions=positions)]
        right = [row async for row in other.dump(positions=positions)]
        assert [key for key, _ in left] == sorted({key for key, _ in left})
        assert (left == right) is not positions
    await other.close()
