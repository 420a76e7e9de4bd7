"""Calls of the shipped declarations: in order, reversed, shuffled, repeated, and with every third delivery lost."""

from __future__ import annotations

import datetime as dt
import json
import random
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest

from tests.flows.projector.test_projector_whole_calls import content
from tests.support.memory_log import MemoryLog
from tests.support.memory_views import MemoryViews
from tracker.config.declarations import shipped_declaration
from tracker.projector.projector import Projector
from tracker.sources.contract import SourceSettings
from tracker.sources.declared.reading import read_declaration
from tracker.sources.declared.source import DeclaredSource
from tracker.sources.declared.vendor import use_declarations

START = 1_790_000_000_000_000
S = 1_000_000


class Sent(NamedTuple):
    """A body, and when it arrives (µs)."""

    body: bytes
    at: int


def iso(seconds: float) -> str:
    return dt.datetime.fromtimestamp(START / S + seconds, dt.UTC).isoformat().replace("+00:00", "Z")


def sent(seconds: float, body: Any) -> Sent:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Sent(encoded, START + round(seconds * S))


def daily() -> list[Sent]:
    def event(seconds: float, kind: str, payload: dict[str, Any]) -> Sent:
        fields = {
            "version": "1.0.0",
            "type": kind,
            "id": f"{kind}-{seconds}",
            "payload": payload,
            "event_ts": START / S + seconds,
        }
        return sent(seconds, fields)

    def person(n: int, joined: float) -> dict[str, Any]:
        return {
            "room": "daily-7", "session_id": f"s-{n}", "user_id": f"u-{n}", "user_name": f"Guest {n}", "owner": n == 1,
            "joined_at": START / S + joined,
        }  # fmt: skip

    meeting = {"meeting_id": "m-1", "room": "daily-7", "start_ts": START / S}
    recording = {
        "type": "cloud", "recording_id": "r-1", "room_name": "daily-7", "start_ts": START // S + 30, "status": "finished",
        "max_participants": 2, "duration": 60, "s3_key": "secret/path",
    }  # fmt: skip
    return [
        event(0, "meeting.started", meeting),
        event(2, "participant.joined", person(1, 2)),
        event(20, "participant.joined", person(2, 20)),
        event(31, "recording.started", {"recording_id": "r-1", "instance_id": "i-1", "start_ts": START // S + 30}),
        event(120, "participant.left", person(2, 20) | {"duration": 100.0}),
        event(150, "participant.left", person(1, 2) | {"duration": 148.0}),
        event(165, "recording.ready-to-download", recording),
        event(175, "meeting.ended", meeting | {"end_ts": START / S + 160}),
    ]


def twilio() -> list[Sent]:
    def event(seconds: float, kind: str, **fields: str) -> Sent:
        room = {"AccountSid": "AC1", "RoomSid": "RM1", "RoomName": "daily", "RoomStatus": "in-progress"}
        stamp = {"StatusCallbackEvent": kind, "Timestamp": iso(seconds), "SequenceNumber": str(seconds)}
        return sent(seconds, urlencode(room | stamp | fields).encode())

    one = {"ParticipantSid": "PA1", "ParticipantIdentity": "u-1"}
    two = {"ParticipantSid": "PA2", "ParticipantIdentity": "u-2"}
    track = {"TrackSid": "MT1", "TrackKind": "video"}
    return [
        event(0, "room-created"),
        event(2, "participant-connected", **one),
        event(4, "track-added", **one, **track),
        event(20, "participant-connected", **two),
        event(30, "recording-started", **one, RecordingSid="RT1"),
        event(90, "recording-completed", **one, RecordingSid="RT1", Duration="60", Size="1000"),
        event(120, "participant-disconnected", **two),
        event(149, "track-removed", **one, **track),
        event(150, "participant-disconnected", **one),
        event(160, "room-ended"),
    ]


def whereby() -> list[Sent]:
    def event(seconds: float, kind: str, **data: Any) -> Sent:
        where = {"meetingId": "77", "roomName": "/daily", "subdomain": "acme", "roomSessionId": "rs-1"}
        return sent(
            seconds, {"id": f"e-{kind}-{seconds}", "apiVersion": "1.0", "createdAt": iso(seconds), "type": kind, "data": where | data}
        )  # fmt: skip

    def person(n: int, role: str = "visitor") -> dict[str, Any]:
        return {"participantId": f"p-{n}", "displayName": f"Guest {n}", "externalId": f"u-{n}", "roleName": role}

    return [
        event(2, "room.client.joined", **person(1)),
        event(20, "room.client.joined", **person(2)),
        event(20.5, "room.session.started"),
        event(29, "room.client.joined", **person(3, "recorder")),
        event(90, "room.client.left", **person(3, "recorder")),
        event(95, "recording.finished", recordingId="r-1", filename="a.mp4"),
        event(120, "room.client.left", **person(2)),
        event(150, "room.client.left", **person(1)),
        event(160, "room.session.ended"),
    ]


def hundred_ms() -> list[Sent]:
    def event(seconds: float, kind: str, **data: Any) -> Sent:
        where = {"room_id": "room-1", "room_name": "daily", "session_id": "ses-1"}
        fields = {"version": "2.0", "id": f"e-{kind}-{seconds}", "app_id": "a", "timestamp": iso(seconds), "type": kind}
        return sent(seconds, fields | {"data": where | data})

    def person(n: int, joined: float) -> dict[str, Any]:
        return {
            "peer_id": f"p-{n}",
            "user_id": f"u-{n}",
            "user_name": f"Guest {n}",
            "role": "guest",
            "joined_at": iso(joined),
        }

    return [
        event(0, "session.open.success", session_started_at=iso(0)),
        event(2, "peer.join.success", **person(1, 2)),
        event(20, "peer.join.success", **person(2, 20)),
        event(120, "peer.leave.success", **person(2, 20), left_at=iso(120), duration=100, reason="left"),
        event(150, "peer.leave.success", **person(1, 2), left_at=iso(150), duration=148, reason="left"),
        event(160, "session.close.success", session_started_at=iso(0), session_stopped_at=iso(160), reason="left"),
        event(
            200,
            "beam.recording.success",
            beam_id="b-1",
            recording_id="r-1",
            size=1000,
            duration=60,
            recording_started_at=iso(30),
        ),
    ]


def nextcloud() -> list[Sent]:
    def event(seconds: float, kind: str, actor: str = "u-1") -> Sent:
        return sent(
            seconds,
            {
                "type": "Activity", "actor": {"type": "Person", "id": f"users/{actor}", "name": actor},
                "object": {"type": "Note", "id": str(seconds), "name": kind, "content": "{}"},
                "target": {"type": "Collection", "id": "conv-1", "name": "Daily"},
            },
        )  # fmt: skip

    return [
        event(2, "call_started"),
        event(20, "call_joined", "u-2"),
        event(120, "call_left", "u-2"),
        event(150, "call_left"),
        event(160, "call_ended"),
    ]


CALLS = {
    "daily": daily(), "twilio-video": twilio(), "whereby": whereby(), "100ms": hundred_ms(), "nextcloud-talk": nextcloud(),
}  # fmt: skip
TIMED = [name for name in CALLS if name != "nextcloud-talk"]
"""Nextcloud's events state no time: what arrives in another order happened in another order."""


async def views_of(name: str, deliveries: list[Sent]) -> MemoryViews:
    text = shipped_declaration(name)
    source = DeclaredSource(SourceSettings(name="s", vendor="declared", declaration=text))
    use_declarations({"s": read_declaration(text)})
    log, views = MemoryLog(), MemoryViews()
    for each in deliveries:
        await log.append(source.verify_trusted(each.body, received_at=each.at, proof={"scheme": "import"}))
    await Projector(log, views).catch_up()
    await log.close()
    return views


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_is_one_ended_session_with_its_people_and_times(name: str) -> None:
    views = await views_of(name, CALLS[name])
    (rows,) = views.sessions.values()
    session = rows.session
    assert (session.state, session.end_provenance if hasattr(session, "end_provenance") else "reported") == (
        "ended",
        "reported",
    )
    assert session.participants == 2
    assert session.ended_at == START + 160 * S
    assert [anomaly for anomaly in session.anomalies if anomaly.kind in {"unreadable", "unknown_event"}] == []
    assert session.recordings == (0 if name == "nextcloud-talk" else 1)
    spans = sorted((row.joined_at, row.left_at) for row in rows.connections if "p-3" not in row.id)
    assert spans == [(START + 2 * S, START + 150 * S), (START + 20 * S, START + 120 * S)]
    assert "secret/path" not in repr(views.entries)


@pytest.mark.parametrize("name", TIMED)
async def test_order_and_repeats_do_not_change_the_views(name: str) -> None:
    call = CALLS[name]
    expected = content(await views_of(name, call))
    for seed in range(5):
        shuffled = call.copy()
        random.Random(seed).shuffle(shuffled)
        assert content(await views_of(name, shuffled)) == expected
    for changed in (call[::-1], call + call, [each for each in call for _ in range(2)]):
        assert content(await views_of(name, changed)) == expected


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("first", range(3))
async def test_with_every_third_delivery_lost_it_is_still_one_session(name: str, first: int) -> None:
    kept = [each for n, each in enumerate(CALLS[name]) if n % 3 != first]
    views = await views_of(name, kept)
    assert len(views.sessions) == 1
    (rows,) = views.sessions.values()
    assert rows.session.participants >= 1


@pytest.mark.parametrize("name", CALLS)
async def test_no_field_of_another_type_makes_an_event_fail(name: str) -> None:
    odd: list[Any] = [None, 7, -1.5, True, "", "\ud800", [], {}, [[]], {"a": {"b": 1}}, 2**70, "x" * 5_000]
    for each in CALLS[name]:
        if name == "twilio-video":
            continue
        body = json.loads(each.body)
        changed = [{**body, field: value} for field in body for value in odd]
        for field, inner in body.items():
            if isinstance(inner, dict):
                changed += [{**body, field: {**inner, deep: value}} for deep in inner for value in odd]
        views = await views_of(name, [Sent(json.dumps(one).encode(), each.at) for one in changed])
        assert views.entries
