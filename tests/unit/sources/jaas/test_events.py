"""JaaS: the facts of its events."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.domain import facts
from tracker.domain.deliveries import Record
from tracker.domain.facts import Fact
from tracker.sources.jaas.events import interpret

SENT_MS = 1_790_000_000_000
RECEIVED = 1_790_000_005_000_000
SESSION, FQN = "7d2a", "vpaas-magic-cookie-c1/daily"
PERSON = {
    "id": "u-7",
    "name": "Guest B",
    "moderator": "false",
    "participantJid": "5c1e@8x8.vc",
    "participantId": "5c1e0000",
}


def read(event: str, data: Any = None, **envelope: Any) -> tuple[Fact, ...]:
    body: dict[str, Any] = {
        "idempotencyKey": "k1", "customerId": "c1", "appId": "vpaas-magic-cookie-c1", "eventType": event, "sessionId": SESSION,
        "timestamp": SENT_MS, "fqn": FQN, "data": {} if data is None else data,
    } | envelope  # fmt: skip
    return interpret(record(msgspec.json.encode({name: value for name, value in body.items() if value is not ...})))


def record(body: bytes) -> Record:
    return Record(
        position=1, source="jaas", vendor="jaas", event="", dedupe_key="k1", received_at=RECEIVED, origin="webhook",
        proof=b"{}", body=body,
    )  # fmt: skip


def only(event: str, data: Any = None, **envelope: Any) -> Any:
    (fact,) = read(event, data, **envelope)
    assert fact.anomalies == ()
    return fact


def test_a_room_is_a_run_with_the_session_id_as_its_key() -> None:
    started = only("ROOM_CREATED", {"conference": "daily@conference.8x8.vc", "isBreakout": False})
    assert (type(started), started.at, started.clock) == (facts.SessionStarted, SENT_MS * 1000, "server")
    assert (started.place.run, started.place.room, started.place.room_name) == (SESSION, FQN, "daily")
    assert started.place.ids == (("sessionId", SESSION), ("fqn", FQN))
    ended = only("ROOM_DESTROYED")
    assert (type(ended), ended.place.run, ended.place.ends_at) == (facts.SessionEnded, SESSION, SENT_MS * 1000)


def test_a_breakout_room_is_a_run_of_its_own() -> None:
    started = only("ROOM_CREATED", {"isBreakout": True, "breakoutRoomId": "b1"})
    assert (started.place.run, started.place.room) == (f"{SESSION}/b1", f"{FQN}/b1")
    assert (started.place.room_name, started.place.parent) == ("daily / b1", SESSION)


def test_a_connection_is_a_jid() -> None:
    joined, left = only("PARTICIPANT_JOINED", PERSON), only("PARTICIPANT_LEFT", PERSON | {"disconnectReason": "kicked"})
    assert (joined.connection, joined.identity, joined.name, joined.person) == (
        "5c1e@8x8.vc",
        "u-7",
        "Guest B",
        "standard",
    )
    assert (left.connection, left.reason, left.vendor_reason) == ("5c1e@8x8.vc", "removed", "kicked")
    assert joined.detail["moderator"] is False


@pytest.mark.parametrize(
    ("vendor", "reason"),
    [
        ("left", "left"), ("kicked", "removed"), ("switch_room", "left"), ("unrecoverable_error", "network_lost"),
        ("unknown", "unknown"), (None, "unknown"), ("new", "unknown"),
    ],
)  # fmt: skip
def test_every_reason_of_a_leave_keeps_the_word_of_the_vendor(vendor: str | None, reason: str) -> None:
    left = only("PARTICIPANT_LEFT", PERSON | {"disconnectReason": vendor})
    assert (left.reason, left.vendor_reason) == (reason, vendor)


@pytest.mark.parametrize("call", ["DIAL_IN", "DIAL_OUT", "SIP_CALL_IN", "SIP_CALL_OUT"])
def test_people_on_the_phone_are_people(call: str) -> None:
    data = {"participantJid": "ph@8x8.vc", "nick": "+49 30 1", "direction": "in"}
    joined = only(f"{call}_STARTED", data)
    left = only(f"{call}_ENDED", {"participantJid": "ph@8x8.vc"})
    assert (joined.person, joined.name, joined.connection) == ("sip", "+49 30 1", "ph@8x8.vc")
    assert (type(left), left.connection) == (facts.ParticipantLeft, "ph@8x8.vc")


def test_a_recorder_whose_start_was_missed_is_no_person() -> None:
    for event in ("PARTICIPANT_JOINED", "PARTICIPANT_LEFT"):
        assert type(only(event, {"conference": "daily@conference.8x8.vc"})) is facts.Unknown


def test_a_recording_is_matched_by_time_until_its_upload_names_it() -> None:
    started, stopped = only("RECORDING_STARTED"), only("RECORDING_ENDED", timestamp=SENT_MS + 60_000)
    assert (started.nameless, stopped.nameless) == (True, True)
    uploaded = only(
        "RECORDING_UPLOADED",
        {
            "recordingSessionId": "R1", "durationSec": 60, "startTimestamp": SENT_MS, "endTimestamp": SENT_MS + 60_000,
            "preAuthenticatedLink": "https://files.example/x?sig=SECRET",
        },
    )  # fmt: skip
    assert (uploaded.recording, uploaded.duration_ms, uploaded.started_at) == ("R1", 60_000, SENT_MS * 1000)
    assert uploaded.url is None


@pytest.mark.parametrize(
    "event", ["RECORDING_UPLOADED", "TRANSCRIPTION_UPLOADED", "CHAT_UPLOADED", "FEEDBACK", "NEW_EVENT"]
)
def test_a_link_that_grants_access_is_in_no_fact(event: str) -> None:
    data = {"preAuthenticatedLink": "https://files.example/LINK?sig=SECRET", "recordingSessionId": "R1"}
    shown = msgspec.json.encode(read(event, data))
    assert b"SECRET" not in shown
    assert b"LINK" not in shown


def test_uploads_of_texts_are_artifacts() -> None:
    assert only("CHAT_UPLOADED").subject_id == "chat"
    assert only("TRANSCRIPTION_UPLOADED").subject_id == "transcription"


def test_a_live_stream_is_a_broadcast() -> None:
    started, stopped = only("LIVE_STREAM_STARTED"), only("LIVE_STREAM_ENDED")
    assert (started.activity, type(started), type(stopped)) == (
        stopped.activity, facts.BroadcastStarted, facts.BroadcastStopped,
    )  # fmt: skip


@pytest.mark.parametrize(
    "event", ["USAGE", "POLL_CREATED", "PARTICIPANT_JOINED_LOBBY", "DOCUMENT_SAVED", "ROLE_CHANGED"]
)
def test_known_events_without_a_meaning_are_shown_raw_and_are_no_anomaly(event: str) -> None:
    assert type(only(event, [{"email": "x"}] if event == "USAGE" else {"count": 1})) is facts.Unknown


def test_the_question_for_settings_is_no_anomaly() -> None:
    (fact,) = interpret(record(b'{"fqn":"vpaas-magic-cookie-c1/daily"}'))
    assert (type(fact), fact.anomalies) == (facts.Unknown, ())


@pytest.mark.parametrize(
    ("event", "envelope", "anomaly"),
    [
        ("NEW_EVENT", {}, ("unknown_event", "NEW_EVENT")),
        ("", {}, ("unreadable", "no event name")),
        ("ROOM_CREATED", {"sessionId": ...}, ("unreadable", "sessionId is missing")),
        ("PARTICIPANT_JOINED", {"data": {"id": "u-7"}}, ("unreadable", "data.participantJid is missing")),
        ("RECORDING_UPLOADED", {}, ("unreadable", "data.recordingSessionId is missing")),
        ("ROOM_CREATED", {"timestamp": "soon"}, ("unreadable", "timestamp is no time in epoch milliseconds")),
    ],
)
def test_what_cannot_be_read_is_named(event: str, envelope: dict[str, Any], anomaly: tuple[str, str]) -> None:
    (fact,) = read(event, **envelope)
    assert fact.anomalies == (anomaly,)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*PERSON, "conference", "breakoutRoomId"]), inner, max_size=5),
    max_leaves=8,
)  # fmt: skip


@given(
    st.sampled_from(["ROOM_CREATED", "PARTICIPANT_JOINED", "PARTICIPANT_LEFT", "RECORDING_UPLOADED", "DIAL_IN_STARTED", "X"]),
    JSON, JSON, JSON,
)  # fmt: skip
def test_no_body_raises(event: str, data: Any, session: Any, timestamp: Any) -> None:
    for fact in read(event, data, sessionId=session, timestamp=timestamp):
        msgspec.json.encode(fact)
