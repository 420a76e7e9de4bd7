"""OpenVidu Meet's meetings of one room are distinguished without an id, with late, early, repeated and lost events."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.memory_log import MemoryLog
from tracker.projector.projector import Projector
from tracker.sources.contract import SourceSettings
from tracker.sources.openvidu_meet.source import OpenviduMeetSource
from tests.support.memory_views import MemoryViews


START = 1_790_000_000_000
Message = tuple[float, str, dict[str, Any]]


async def sessions_of(messages: list[Message]) -> list[Any]:
    """The rows of all sessions, ordered by id, after projecting the messages (seconds, event, data)."""
    source = OpenviduMeetSource(SourceSettings(name="meet", vendor="openvidu_meet"))
    log, views = MemoryLog(), MemoryViews()
    for seconds, event, data in messages:
        sent = ms(seconds)
        body = json.dumps({"event": event, "creationDate": sent, "data": {"roomId": "r-1", "roomName": "R"} | data})
        await log.append(source.verify_trusted(body.encode(), received_at=sent * 1000 + 5_000, proof={}))
    await Projector(log, views, batch_size=3).catch_up()
    await log.close()
    return [views.sessions[name] for name in sorted(views.sessions)]


def ms(seconds: float) -> int:
    return START + round(seconds * 1000)


def joined(sent: float, who: str, at: float) -> Message:
    return sent, "participantJoined", {"participant": {"participantIdentity": who, "joinDate": ms(at)}}


def left(sent: float, who: str, at: float, until: float, why: str = "voluntary_leave") -> Message:
    fields = {"participantIdentity": who, "joinDate": ms(at), "leaveDate": ms(until), "leaveReason": why}
    return sent, "participantLeft", {"participant": fields}


def recorded(sent: float, event: str, status: str, **fields: float) -> Message:
    return sent, event, {"recordingId": "r-1--EG_1--u", "status": status} | fields


def meeting(base: float) -> list[Message]:
    """Joins stamped before the start, a repeated start, one person twice, a late end and its repeat."""
    return [
        joined(base - 1, "alice", base - 2),
        (base, "meetingStarted", {}),
        (base + 4, "meetingStarted", {}),
        joined(base + 6, "bob", base + 5),
        left(base + 30, "bob", base + 5, base + 30, "network_disconnect"),
        joined(base + 33, "bob", base + 32),
        left(base + 60, "alice", base - 2, base + 60),
        left(base + 60.2, "bob", base + 32, base + 60),
        (base + 80, "meetingEnded", {"status": "open"}),
        (base + 81, "meetingEnded", {"status": "open"}),
    ]


def orders(messages: list[Message]) -> list[list[Message]]:
    shuffled = messages.copy()
    random.Random(3).shuffle(shuffled)
    return [messages, messages[::-1], shuffled]


async def test_meetings_of_one_room_are_different_sessions_and_rejoins_count_once() -> None:
    for order in orders(meeting(0) + meeting(100)):
        sessions = await sessions_of(order)
        assert [rows.session.id for rows in sessions] == [f"meet:r-1_{ms(base)}" for base in (0, 100)]
        for rows, base in zip(sessions, (0, 100), strict=True):
            assert (rows.session.started_at, rows.session.ended_at) == (ms(base) * 1000, ms(base + 81) * 1000)
            assert (rows.session.participants, rows.session.peak_participants) == (2, 2)
            assert (rows.session.completeness, rows.session.anomalies) == ("complete", [])
            assert {person.id: (person.connections, person.presence_ms) for person in rows.participants} == {
                "alice": (1, 62_000), "bob": (2, 53_000),
            }  # fmt: skip


async def test_a_recording_ready_after_its_meeting_belongs_to_it_and_one_without_an_end_ends_with_it() -> None:
    messages = [
        *meeting(0),
        recorded(10, "recordingStarted", "starting"),
        recorded(12, "recordingUpdated", "active", startDate=ms(11) + 0.4568),
        recorded(
            120,
            "recordingEnded",
            "complete",
            startDate=ms(11) + 0.4568,
            endDate=ms(79) + 0.5,
            duration=68.00000000000001,
        ),
        *meeting(100),
    ]
    for order in orders(messages):
        first, second = await sessions_of(order)
        (recording,) = first.recordings
        assert (recording.vendor_id, recording.status, recording.duration_ms) == ("r-1--EG_1--u", "ready", 68_000)
        assert (recording.stopped_at, recording.stop_provenance) == (ms(79) * 1000 + 500, "reported")
        assert not second.recordings
    for order in orders([one for one in messages if one[1] != "recordingEnded"]):
        first, _ = await sessions_of(order)
        assert (first.recordings[0].stopped_at, first.recordings[0].stop_provenance) == (ms(81) * 1000, "inferred")
        assert {anomaly.kind for anomaly in first.session.anomalies} == {"missing_end"}


async def test_a_lost_end_is_superseded_by_the_next_start() -> None:
    messages = [one for one in meeting(0) if one[1] != "meetingEnded"] + meeting(100)
    for order in orders(messages):
        first, second = await sessions_of(order)
        assert (first.session.end.reason, first.session.end.provenance) == ("superseded", "inferred")
        assert (first.session.ended_at, first.session.completeness) == (ms(60) * 1000, "repaired")
        assert first.session.end.not_after == ms(100) * 1000
        assert second.session.completeness == "complete"


async def test_a_lost_start_gives_a_provisional_meeting_until_it_arrives() -> None:
    messages = meeting(0)
    without = [one for one in messages if one[1] != "meetingStarted"]
    for order in orders(without):
        (rows,) = await sessions_of(order)
        assert rows.session.id == f"meet:r-1_{ms(-2)}"
        assert (rows.session.state, rows.session.participants) == ("ended", 2)
        assert {anomaly.kind for anomaly in rows.session.anomalies} == {"missing_start"}
    (rows,) = await sessions_of(without + [one for one in messages if one[1] == "meetingStarted"])
    assert rows.session.id == f"meet:r-1_{ms(0)}"
    assert rows.session.completeness == "complete"


async def test_a_participant_without_a_leave_leaves_at_the_end_of_the_meeting() -> None:
    messages = [one for one in meeting(0) if not (one[1] == "participantLeft" and one[0] > 60)] + [
        (99.0, "testEvent", {"message": "x"})
    ]
    for order in orders(messages):
        (rows,) = await sessions_of(order)
        last = rows.connections[-1]
        assert (last.participant, last.left_at, last.leave.provenance) == ("bob", ms(81) * 1000, "inferred")
        assert rows.session.completeness == "repaired"


async def test_a_meeting_that_was_forced_to_end_has_the_reason() -> None:
    (rows,) = await sessions_of([(0, "meetingStarted", {}), (60, "meetingEnded", {"reason": "max_duration_reached"})])
    assert (rows.session.end.reason, rows.session.end.vendor_reason, rows.session.end.provenance) == (
        "timeout", "max_duration_reached", "reported",
    )  # fmt: skip


def plain(sessions: list[Any]) -> bytes:
    """The rows without fields that depend on the order of arrival."""
    rows = msgspec.to_builtins(sessions)
    for row in rows:
        del row["state"], row["gaps"]
    text = msgspec.json.encode(rows, order="deterministic")
    return re.sub(rb'"(?:first_|last_)?position":\d+', b"", text)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
async def test_any_order_with_losses_and_repeats_gives_the_same_sessions(data: st.DataObject) -> None:
    messages = [
        *meeting(0),
        recorded(10, "recordingStarted", "starting"),
        recorded(95, "recordingEnded", "complete", startDate=ms(11), endDate=ms(79)),
        *meeting(100),
    ]
    lost = data.draw(st.sets(st.sampled_from(range(len(messages))), max_size=4))
    received = [one for n, one in enumerate(messages) if n not in lost]
    order = data.draw(st.permutations(range(len(received))))
    repeats = data.draw(st.lists(st.sampled_from(range(len(received))), max_size=4))
    assert plain(await sessions_of([received[n] for n in [*order, *repeats]])) == plain(await sessions_of(received))
