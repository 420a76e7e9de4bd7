"""StreamRec sessions from relayed messages and webhooks, with and without ids and hints."""

from __future__ import annotations

import json
import random
import re
from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracker.domain.deliveries import Delivery
from tests.support.memory_log import MemoryLog
from tracker.projector.projector import Projector
from tracker.sources.contract import SourceSettings
from tracker.sources.streamrec.source import StreamrecSource
from tests.support.memory_views import MemoryViews


START = 1_790_000_000_000_000
Message = tuple[float, dict[str, Any], dict[str, str]]


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(START / 1e6 + seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def sessions_of(messages: list[Message]) -> list[Any]:
    """The rows of all sessions, ordered by id, after projecting the messages (seconds, body, query)."""
    source = StreamrecSource(SourceSettings(name="rec", vendor="streamrec", secrets=("token",)))
    log, views = MemoryLog(), MemoryViews()
    for seconds, body, query in messages:
        arrived = Delivery(
            source="rec",
            body=json.dumps(body).encode(),
            received_at=START + round(seconds * 1e6),
            query=query,
            token="token",
        )
        await log.append(source.verify(arrived))
    await Projector(log, views, batch_size=3).catch_up()
    await log.close()
    return [views.sessions[name] for name in sorted(views.sessions)]


def relayed(seconds: float, kind: str, query: dict[str, str] | None = None, **data: str) -> Message:
    body = {"type": kind, "client_id": "agent", "session_id": "S", "data": data, "sent_at": seconds}
    return seconds, body, query or {}


def uploaded(seconds: float, rec_id: str, began: float, ended: float, query: dict[str, str] | None = None) -> Message:
    body = {
        "status": "upload_ready", "rec_id": rec_id, "client_id": "agent",
        "recording_started_at": iso(began), "recording_stopped_at": iso(ended), "recording_file_duration_ms": 5,
    }  # fmt: skip
    return seconds, body, query or {"sid": "S"}


def finished(seconds: float, began: float, **query: str) -> Message:
    body = {
        "status": "session_finished",
        "client_id": "agent",
        "rec_id": "",
        "started_at": iso(began),
        "stopped_at": iso(seconds),
    }
    return seconds, body, query


def orders(messages: list[Message]) -> list[list[Message]]:
    shuffled = messages.copy()
    random.Random(3).shuffle(shuffled)
    return [messages, messages[::-1], shuffled]


async def test_relayed_recordings_without_an_id_are_matched_with_uploads() -> None:
    messages = [
        relayed(1, "session_start"),
        relayed(10, "recording_start"),
        relayed(40, "recording_stop"),
        relayed(50, "recording_start"),
        relayed(90, "recording_stop"),
        relayed(100, "recording_start"),
        uploaded(120, "second", 50.3, 90.1),
        finished(150, 1.2, sid="S"),
        uploaded(300, "first", 10.2, 40.4),
    ]
    for order in orders(messages):
        (session,) = await sessions_of(order)
        first, second, third = session.recordings
        assert (first.vendor_id, first.started_at, first.stopped_at) == (
            "first",
            START + 10_200_000,
            START + 40_400_000,
        )
        assert (second.vendor_id, second.start_provenance, second.stop_provenance) == ("second", "reported", "reported")
        assert (third.started_at, third.stop_provenance) == (START + 100_000_000, "inferred")
        assert [(step["status"], step["at"]) for step in first.history] == [
            ("started", START + 10_000_000), ("stopped", START + 40_400_000), ("uploaded", START + 300_000_000),
        ]  # fmt: skip
        assert [(gap.kind, gap.subject_id) for gap in session.gaps if "stopped" in gap.kind] == [
            ("recording.stopped", third.vendor_id)
        ]


async def test_a_recording_with_a_hint_and_a_vendor_id_is_one_recording() -> None:
    hint = {"sid": "S", "rid": "mine"}
    messages = [
        relayed(1, "session_start"),
        relayed(10, "recording_start", hint),
        relayed(40, "recording_stop", hint),
        uploaded(60, "theirs", 10.1, 40.1, hint),
        finished(150, 1.2, sid="S"),
    ]
    for order in orders(messages):
        (session,) = await sessions_of(order)
        (recording,) = session.recordings
        assert (recording.vendor_id, recording.start_provenance, recording.upload_status) == (
            "theirs",
            "reported",
            "uploaded",
        )
        assert session.session.completeness == "complete"
        assert session.session.anomalies == []


async def test_a_failed_upload_belongs_to_the_relayed_recording_before_it() -> None:
    messages = [
        relayed(1, "session_start"),
        relayed(10, "recording_start"),
        relayed(40, "recording_stop"),
        (60, {"status": "upload_failed", "rec_id": "x", "client_id": "agent", "upload_status_code": 403}, {"sid": "S"}),
        finished(150, 1.2, sid="S"),
    ]
    for order in orders(messages):
        (session,) = await sessions_of(order)
        (recording,) = session.recordings
        assert (recording.vendor_id, recording.upload_status, recording.upload_http_status) == ("x", "failed", 403)
        assert (recording.started_at, recording.stopped_at) == (START + 10_000_000, START + 40_000_000)


async def test_without_hints_a_relayed_session_and_its_end_are_one_session() -> None:
    messages = [relayed(1, "session_start"), uploaded(60, "r", 10, 40, {"x": "y"}), finished(150, 1.2)]
    for order in orders(messages):
        (session,) = await sessions_of(order)
        assert (session.session.id, session.session.state, session.session.recordings) == ("rec:S", "ended", 1)
        assert (session.session.started_at, session.session.ended_at) == (START + 1_200_000, START + 150_000_000)
        assert session.session.participants == 1


async def test_a_session_is_open_from_its_relayed_start_and_also_known_by_its_end_alone() -> None:
    (session,) = await sessions_of([relayed(1, "session_start")])
    assert (session.session.id, session.session.state, session.session.room_id) == ("rec:S", "open", "agent")
    (session,) = await sessions_of([finished(150, 1.2)])
    assert session.session.id == f"rec:agent_{START // 1000 + 1200}"
    assert (session.session.state, session.session.completeness, session.session.anomalies) == ("ended", "repaired", [])
    assert [(gap.kind, gap.provenance) for gap in session.gaps] == [("session.started", "derived")]


async def test_a_supervisor_whose_end_was_lost_ends_with_the_session_and_is_named() -> None:
    watch = {
        "type": "supervisor_join_session",
        "client_id": "sup",
        "session_id": "W",
        "data": {"session_id_to_monitor": "S"},
    }
    messages = [relayed(1, "session_start"), (20.0, watch, {"sid": "S"}), finished(150, 1.2, sid="S")]
    for order in orders(messages):
        (session,) = await sessions_of(order)
        (row,) = session.supervisor_sessions
        assert (row.id, row.supervisor_client, row.ended_at, row.provenance) == (
            "W",
            "sup",
            START + 150_000_000,
            "inferred",
        )
        assert [anomaly.kind for anomaly in session.session.anomalies] == ["missing_end"]
        assert session.session.completeness == "repaired"


def two_sessions() -> list[Message]:
    """Two sessions of one client: the first relayed, few hints, recordings with late or no ids."""
    second = {"type": "session_start", "client_id": "agent", "session_id": "T", "data": {}}
    watched = {
        "status": "supervisor_session_finished", "supervisor_session_id": "W", "supervisor_client_id": "sup",
        "agent_session_id": "S", "agent_client_id": "agent", "started_at": iso(20), "stopped_at": iso(80),
    }  # fmt: skip
    return [
        relayed(1, "session_start"),
        relayed(10, "recording_start"),
        relayed(40, "recording_stop"),
        relayed(41, "recording_start", {"rid": "mine"}),
        (85.0, watched, {}),
        uploaded(60, "a", 10.3, 40.2, {"x": "y"}),
        uploaded(130, "b", 41.2, 99, {"rid": "mine"}),
        finished(150, 1.2),
        (1000.5, second, {}),
        uploaded(1200, "c", 1010, 1100, {"x": "y"}),
        (1300, {"status": "upload_failed", "rec_id": "a", "client_id": "agent", "upload_status_code": 500}, {}),
        finished(1400, 1000.1),
        finished(2500, 2000),
    ]


def plain(sessions: list[Any]) -> bytes:
    """The rows without fields that depend on the order of arrival."""
    rows = msgspec.to_builtins(sessions)
    for row in rows:
        del row["state"], row["gaps"]
    text = msgspec.json.encode(rows, order="deterministic")
    return re.sub(rb'"(?:first_|last_)?position":\d+', b"", text)


async def test_two_sessions_of_a_client_are_distinguished() -> None:
    first, second, third = await sessions_of(two_sessions())
    assert [s.session.id for s in (first, second, third)] == [
        "rec:S",
        "rec:T",
        f"rec:agent_{START // 1000 + 2_000_000}",
    ]
    assert [[r.vendor_id for r in s.recordings] for s in (first, second, third)] == [["a", "b"], ["c"], []]
    failures = [[step["status"] for step in r.history].count("upload_failed") for r in first.recordings]
    assert failures == [1, 0]
    assert [(r.upload_status, r.upload_http_status) for r in first.recordings] == [("uploaded", None)] * 2
    assert [s.session.state for s in (first, second, third)] == ["ended"] * 3


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
async def test_any_order_with_losses_and_repeats_gives_the_same_sessions(data: st.DataObject) -> None:
    messages = two_sessions()
    lost = data.draw(st.sets(st.sampled_from(range(len(messages))), max_size=5))
    received = [one for n, one in enumerate(messages) if n not in lost]
    order = data.draw(st.permutations(range(len(received))))
    repeats = data.draw(st.lists(st.sampled_from(range(len(received))), max_size=4))
    assert plain(await sessions_of([received[n] for n in [*order, *repeats]])) == plain(await sessions_of(received))
