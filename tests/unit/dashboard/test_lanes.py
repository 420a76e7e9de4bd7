"""The rows of a session become lanes; every bar has both ends and their provenance."""

from __future__ import annotations

from typing import Any

import msgspec

from tracker.dashboard.lanes import build_lanes, presence_ms, count_unsure_ends
from tracker.dashboard.lanes_json import lanes_to_json
from tracker.dashboard.lanes import Bar, Lane, SessionParts, entry_keys, stack_bars
from tracker.dashboard.lanes import presence_steps
from tracker.dashboard.session_page import present_since
from tracker.domain.rows import (
    Anomaly,
    ConnectionRow,
    End,
    EntryRow,
    ParticipantRow,
    RecordingRow,
    SessionRow,
    StreamRow,
    SupervisorSessionRow,
)

S = 1_000_000
T = 1_790_000_000 * S


def session(**over: Any) -> SessionRow:
    fields: dict[str, Any] = {
        "id": "lk:R", "source": "lk", "vendor": "livekit", "room_id": "room", "room_name": None, "vendor_ids": {},
        "state": "ended", "created_at": T, "started_at": T, "ended_at": T + 100 * S, "duration_ms": 100_000,
        "start_provenance": "reported", "end": End(reason="normal", vendor_reason=None, provenance="reported"),
        "participants": 1, "peak_participants": 1, "participant_ms": 0, "recordings": 0, "supervisors": 0,
        "completeness": "complete", "anomalies": [], "first_position": 1, "last_position": 9,
        "last_event_at": T + 100 * S, "begins_at": T,
    }  # fmt: skip
    return SessionRow(**fields | over)


def going_on(**over: Any) -> SessionRow:
    return session(state="open", ended_at=None, end=None, duration_ms=None, last_event_at=T + 50 * S, **over)


def participant(name: str, **over: Any) -> ParticipantRow:
    fields: dict[str, Any] = {
        "session_id": "lk:R", "id": name, "identity": name, "name": name.title(), "kind": "standard", "connections": 1,
        "first_joined_at": T, "last_left_at": None, "presence_ms": 0,
    }  # fmt: skip
    return ParticipantRow(**fields | over)


def connection(
    name: str, who: str, start: int | None, end: int | None, by: str = "reported", **over: Any
) -> ConnectionRow:
    fields: dict[str, Any] = {
        "session_id": "lk:R", "id": name, "participant": who, "joined_at": None if start is None else T + start * S,
        "left_at": None if end is None else T + end * S, "duration_ms": None, "join_provenance": "reported",
        "leave": None if end is None else End(reason="left", vendor_reason="CLIENT_INITIATED", provenance=by),
        "aborted": False, "platform": None, "location": None, "ip": None,
    }  # fmt: skip
    return ConnectionRow(**fields | over)


def stream(name: str, who: str, start: int, end: int | None, **over: Any) -> StreamRow:
    fields: dict[str, Any] = {
        "session_id": "lk:R", "id": name, "direction": "published", "stream": name, "participant": who, "connection": who,
        "publisher": None, "media": "video", "label": "camera", "started_at": T + start * S,
        "ended_at": None if end is None else T + end * S, "duration_ms": None, "start_provenance": "reported",
        "end": None if end is None else End(reason="inferred", vendor_reason=None, provenance="inferred"), "detail": {},
    }  # fmt: skip
    return StreamRow(**fields | over)


def recording(**over: Any) -> RecordingRow:
    fields: dict[str, Any] = {
        "id": "lk:EG", "session_id": "lk:R", "vendor_id": "EG", "mode": "ROOM_COMPOSITE", "status": "ready",
        "upload_status": None, "upload_http_status": None, "started_at": T + 10 * S, "first_frame_at": None,
        "first_peerframe_at": None, "stopped_at": T + 90 * S, "duration_ms": None, "size_bytes": None, "url": None,
        "stop_reason": None, "start_provenance": "reported", "stop_provenance": "derived",
        "history": [
            {"status": "started", "at": T + 10 * S, "position": 3}, {"status": "stopped", "at": T + 90 * S, "position": 5},
            {"status": "ready", "at": T + 96 * S, "position": 7},
        ],
    }  # fmt: skip
    return RecordingRow(**fields | over)


def entry(position: int, at: int, kind: str, subject: str | None, **over: Any) -> EntryRow:
    fields: dict[str, Any] = {
        "id": f"{position}-0", "session_id": "lk:R", "position": position, "n": 0, "at": T + at * S,
        "received_at": T + at * S, "kind": kind, "subject_type": kind.split(".")[0], "subject_id": subject, "actor": None,
        "detail": {}, "source": "lk", "provenance": "reported", "clock": "server", "dedupe_key": "k", "hidden": False,
    }  # fmt: skip
    return EntryRow(**fields | over)


def lanes(parts: SessionParts, *, now: int = 200, is_stuck: bool = False) -> Any:
    return build_lanes(parts, now=T + now * S, is_stuck=is_stuck)


def lane(found: Any, key: str) -> Lane:
    return next(each for each in found.lanes if each.key == key)


def test_the_session_comes_first_then_recordings_supervisors_and_people_with_their_media() -> None:
    supervisor = SupervisorSessionRow(
        id="SUP", supervisor_client="boss", agent_session="A", agent_client="agent", session_id="lk:R", started_at=T + 5 * S,
        ended_at=None, duration_ms=None, start_provenance="reported", provenance="reported",
    )  # fmt: skip
    parts = SessionParts(
        session=session(), participants=[participant("alice")], connections=[connection("PA", "alice", 0, 90)],
        streams=[stream("V", "alice", 1, 80)], recordings=[recording()], supervisors=[supervisor],
    )  # fmt: skip
    assert [each.kind for each in lanes(parts).lanes] == ["session", "recording", "supervisor", "participant", "stream"]
    assert lane(lanes(parts), "p:alice/published/camera · video").parent == "p:alice"
    assert lane(lanes(parts), "sup:SUP").bars[0].is_open


def test_every_bar_has_the_provenance_of_both_ends() -> None:
    parts = SessionParts(
        session=session(), participants=[participant("alice")],
        connections=[connection("PA", "alice", 2, 90, by="inferred", join_provenance="derived")],
    )  # fmt: skip
    found = lanes(parts)
    bar = lane(found, "p:alice").bars[0]
    assert (bar.start, bar.end, bar.start_by, bar.end_by) == (T + 2 * S, T + 90 * S, "derived", "inferred")
    assert (bar.reason, bar.note) == ("left", "CLIENT_INITIATED")
    assert count_unsure_ends(found) == (2, 4)


def test_several_joins_of_one_person_are_several_bars_of_one_lane() -> None:
    parts = SessionParts(
        session=session(), participants=[participant("bob")],
        connections=[connection("C", "bob", 0, 10), connection("C~2", "bob", 20, 30)],
    )  # fmt: skip
    found = lane(lanes(parts), "p:bob")
    assert [bar.start for bar in found.bars] == [T, T + 20 * S]
    assert found.rows == 1
    assert {bar.key for bar in found.bars} == {"c:C"}, "entries name the vendor's id"


def test_two_devices_at_the_same_time_are_in_different_rows() -> None:
    bars = [
        Bar(key=name, phase="connection", start=start, end=end, start_by="reported", end_by=by)
        for name, start, end, by in (("a", 0, 10, "reported"), ("b", 5, None, None), ("c", 10, 20, "reported"))
    ]
    placed, rows = stack_bars(bars)
    assert [(bar.key, bar.row) for bar in placed] == [("a", 0), ("b", 1), ("c", 0)]
    assert rows == 2


def test_an_open_bar_has_no_end_and_the_axis_goes_to_now() -> None:
    parts = SessionParts(
        session=going_on(), participants=[participant("alice")], connections=[connection("PA", "alice", 0, None)]
    )
    found = lanes(parts, now=200)
    assert found.is_running
    assert found.until == T + 200 * S
    assert lane(found, "p:alice").bars[0].is_open
    assert lane(found, "session").bars[0].is_open
    assert presence_ms(found) == 200_000, "an open connection counts until now"


def test_presence_leaves_out_the_time_between_two_connections() -> None:
    joins = [connection("1", "bob", 0, 10), connection("2", "bob", 5, 20), connection("3", "bob", 50, None)]
    assert present_since(joins, T + 60 * S) == T + 30 * S
    assert present_since(joins[:2], T + 60 * S) is None
    assert present_since([], T) is None


def test_a_stuck_session_ends_at_its_last_event() -> None:
    found = lanes(SessionParts(session=going_on()), now=500_000, is_stuck=True)
    assert not found.is_running
    assert found.until == T + 50 * S
    assert lane(found, "session").bars[0].is_open


def test_a_recording_shows_its_phases() -> None:
    found = lane(lanes(SessionParts(session=session(), recordings=[recording()])), "rec:EG")
    assert [(bar.phase, bar.start, bar.end) for bar in found.bars] == [
        ("recording", T + 10 * S, T + 90 * S), ("processing", T + 90 * S, T + 96 * S),
    ]  # fmt: skip
    assert [dot.name for dot in found.dots] == ["started", "stopped", "ready"]
    assert found.label == "Recording · room composite"


def test_a_recording_that_is_ready_days_later_does_not_stretch_the_axis() -> None:
    late = [{"status": "ready", "at": T + 500_000 * S, "position": 9}]
    found = lanes(SessionParts(session=session(), recordings=[recording(history=late)]))
    assert found.until == T + 150 * S
    assert found.latest == T + 500_000 * S


def test_steps_count_each_person_once_and_nobody_who_never_connected() -> None:
    people = [participant("alice"), participant("bob"), participant("bot", kind="egress")]
    connections = [
        connection("1", "alice", 0, 50), connection("2", "alice", 20, 60), connection("3", "bob", 10, None),
        connection("4", "bot", 0, None), connection("5", "bob", 5, 8, aborted=True),
    ]  # fmt: skip
    assert presence_steps(people, connections) == [(T, 1), (T + 10 * S, 2), (T + 60 * S, 1)]


def test_a_leave_and_a_join_at_the_same_time_make_no_step() -> None:
    people = [participant("alice"), participant("bob")]
    assert presence_steps(people, [connection("1", "alice", 0, 10), connection("2", "bob", 10, 20)]) == [
        (T, 1),
        (T + 20 * S, 0),
    ]


def test_an_anomaly_is_marked_at_the_time_of_its_record() -> None:
    odd = [
        Anomaly(kind="late_event", position=4, detail="x"), Anomaly(kind="missing_end", position=None, detail="y"),
        Anomaly(kind="missing_start", position=99, detail="z"),
    ]  # fmt: skip
    noticed = [entry(4, 30, "stream.published", "V")]
    found = lanes(SessionParts(session=session(anomalies=odd), anomaly_entries=noticed)).marks
    assert [(mark.at, mark.kind, mark.key) for mark in found] == [
        (T, "missing_start", None), (T + 30 * S, "late_event", "s:V"), (T + 100 * S, "missing_end", None),
    ]  # fmt: skip


def test_a_broadcast_is_drawn_from_its_entries() -> None:
    activities = [entry(3, 10, "broadcast.started", "B"), entry(5, 40, "broadcast.stopped", "B")]
    bar = lane(lanes(SessionParts(session=session(), activities=activities)), "act:broadcast:B").bars[0]
    assert (bar.start, bar.end, bar.end_by) == (T + 10 * S, T + 40 * S, "reported")


def test_a_stream_of_an_unknown_person_is_shown() -> None:
    found = lanes(SessionParts(session=session(), streams=[stream("V", "ghost", 1, 2)]))
    assert lane(found, "p:").label == "unknown person"


def test_subscriptions_are_one_lane_for_each_publisher() -> None:
    received = [
        stream(f"V{n}", "bob", n, 50, direction="received", publisher="alice", connection="PB", id=f"V{n}@PB")
        for n in range(3)
    ]
    parts = SessionParts(
        session=session(), participants=[participant("alice"), participant("bob")], streams=received,
        connections=[connection("PA", "alice", 0, 60), connection("PB", "bob", 0, 60)],
    )  # fmt: skip
    found = lane(lanes(parts), "p:bob/received/alice")
    assert (found.label, found.rows, found.bars[0].key) == ("from Alice", 3, "r:V0@PB")


def test_entries_name_the_bars_they_belong_to() -> None:
    joined = entry(1, 0, "participant.joined", "alice", detail={"connection": "PA~2"})
    assert entry_keys(joined) == ("c:PA", "p:alice")
    assert entry_keys(entry(1, 0, "subscription.started", "V", actor="PB")) == ("r:V@PB", "p:PB")
    assert entry_keys(entry(1, 0, "recording.started", "EG")) == ("rec:EG",)
    assert entry_keys(entry(1, 0, "session.ended", None)) == ("session",)
    assert entry_keys(entry(1, 0, "ingress.started", "IN")) == ("act:ingress:IN",)


def test_the_script_gets_the_same_bars_as_columns() -> None:
    parts = SessionParts(
        session=session(), participants=[participant("alice")], connections=[connection("PA", "alice", 2, 90)],
        streams=[stream("V", "alice", 3, None)], recordings=[recording()],
    )  # fmt: skip
    drawn = lanes(parts)
    columns = msgspec.json.decode(msgspec.json.encode(lanes_to_json(drawn)))
    bars, words = columns["bars"], columns["words"]
    again = [
        (
            columns["lanes"][bars["lane"][n]][5],
            bars["start"][n],
            bars["end"][n],
            words[bars["end_by"][n]],
            bars["key"][n],
        )
        for n in range(len(bars["lane"]))
    ]
    assert again == [
        (each.key, bar.start - T, None if bar.end is None else bar.end - T, bar.end_by, bar.key)
        for each in drawn.lanes for bar in each.bars
    ]  # fmt: skip
    assert columns["lanes"][-1][3] == 2, "a stream's parent is the lane of its person"
