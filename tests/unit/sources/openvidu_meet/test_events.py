"""OpenVidu Meet: signatures over time and raw bytes, and the interpretation of every event of 3.4 – 3.9."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.paths import ROOT
from tracker.domain import facts as known
from tracker.domain.deliveries import Delivery, Record, Verified
from tracker.errors import SignatureMismatch, SignatureMissing, SignatureStale
from tracker.domain.facts import (
    AnyFact,
    Fact,
    ParticipantJoined,
    ParticipantLeft,
    RecordingAborted,
    RecordingFact,
    RecordingFailed,
    RecordingLimitReached,
    RecordingProcessing,
    RecordingReady,
    RecordingStarted,
    RecordingStopped,
    SessionEnded,
    SessionStarted,
    Unknown,
)
from tracker.sources.contract import Source, SourceSettings
from tracker.sources.openvidu_meet.events import interpret
from tracker.sources.openvidu_meet.source import RULES, OpenviduMeetSource


F = TypeVar("F", bound=Fact)
SAMPLES = ROOT / "tests" / "samples"
SENT = 1_783_584_000_000
RECEIVED = SENT * 1000 + 70_123
KEYS = ("meet-api-key", "ovmeet-Schlüssel-é")
SOURCE: Source = OpenviduMeetSource(SourceSettings(name="meet", vendor="openvidu_meet", secrets=KEYS))

SIGNED = [json.loads(line) for line in (SAMPLES / "openvidu-meet-signed.jsonl").read_bytes().splitlines()]


def whole(body: dict[str, Any]) -> dict[str, Any]:
    """The webhook that contains a sampled data object."""
    if "event" in body:
        return body
    name = "recordingUpdated" if "recordingId" in body else "meetingStarted"
    return {"event": name, "creationDate": SENT, "data": body}


SAMPLED = [whole(json.loads(line)["body"]) for line in (SAMPLES / "openvidu-meet.jsonl").read_bytes().splitlines()] + [
    json.loads(sample["body_text"]) for sample in SIGNED
]

KINDS = {
    "meetingStarted": ["session.started"],
    "meetingEnded": ["session.ended"],
    "participantJoined": ["participant.joined"],
    "participantLeft": ["participant.left"],
    "participantRoleChanged": ["unknown"],
    "participantHandChanged": ["unknown"],
    "testEvent": ["test"],
    "recording starting": ["recording.started"],
    "recording active": ["recording.processing"],
    "recording ending": ["recording.processing"],
    "recording complete": ["recording.stopped", "recording.ready"],
    "recording failed": ["recording.failed"],
    "recording aborted": ["recording.aborted"],
    "recording limit_reached": ["recording.stopped", "recording.limit_reached"],
}


def encoded(body: object) -> bytes:
    """JSON as Node writes it: compact, with only the necessary escapes."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def signed(body: bytes, *, key: str = KEYS[0], stamp: str = str(SENT), at: int = RECEIVED, **headers: str) -> Delivery:
    signature = hmac.new(key.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    both = {"x-timestamp": stamp, "x-signature": signature} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    return Delivery(source="meet", body=body, received_at=at, headers=both)


def recorded(verified: Verified) -> Record:
    return Record(position=1, **msgspec.structs.asdict(verified))


def record_of(body: bytes) -> Record:
    return recorded(SOURCE.verify_trusted(body, received_at=RECEIVED, proof={}))


def facts_from(event: str, data: object, **envelope: Any) -> tuple[Fact, ...]:
    return interpret(record_of(encoded({"event": event, "creationDate": SENT, "data": data} | envelope)))


def only(kind: type[F], event: str, data: object, **envelope: Any) -> F:
    (fact,) = facts_from(event, data, **envelope)
    assert type(fact) is kind
    return fact


def kinds(facts: tuple[Fact, ...]) -> list[str]:
    return [str(type(fact).__struct_config__.tag) for fact in facts]


# --- proofs ----------------------------------------------------------------------------------------------------------

BODY = encoded({"event": "meetingStarted", "creationDate": SENT, "data": {"roomId": "café-1", "roomName": "Café 👩‍🚀"}})


@pytest.mark.parametrize("sample", SIGNED, ids=lambda sample: str(sample["case"]))
def test_every_signed_sample_is_authentic_and_becomes_the_facts_of_the_table(sample: dict[str, Any]) -> None:
    source = OpenviduMeetSource(SourceSettings(name="meet", vendor="openvidu_meet", secrets=("other", sample["key"])))
    stamp, body = sample["headers"]["x-timestamp"], base64.b64decode(sample["body_b64"])
    arrived = Delivery(source="meet", body=body, received_at=int(stamp) * 1000 + 9_000, headers=sample["headers"])

    verified = source.verify(arrived)

    assert json.loads(verified.proof) == {
        "scheme": "hmac-sha256", "timestamp": stamp, "signature": sample["headers"]["x-signature"], "key": 1,
    }  # fmt: skip
    assert (verified.event, verified.body) == (json.loads(body)["event"], body)
    facts = interpret(recorded(verified))
    assert kinds(facts) == expected_kinds(json.loads(body))
    assert all(fact.anomalies == () and fact.clock == "server" for fact in facts)
    assert {fact.at for fact in facts} == {int(stamp) * 1000}


def test_a_stored_proof_can_be_verified_again() -> None:
    verified = SOURCE.verify(signed(BODY, key=KEYS[1]))
    proof = json.loads(verified.proof)
    again = signed(verified.body, key=KEYS[proof["key"]], stamp=proof["timestamp"])
    assert again.headers["x-signature"] == proof["signature"]


@pytest.mark.parametrize(("key", "index"), list(zip(KEYS, (0, 1), strict=True)))
def test_during_a_key_rotation_both_keys_are_accepted_and_the_proof_names_which(key: str, index: int) -> None:
    assert json.loads(SOURCE.verify(signed(BODY, key=key)).proof)["key"] == index


def test_the_signature_is_over_the_sent_bytes_not_over_json_written_again() -> None:
    again = json.dumps(json.loads(BODY), separators=(",", ":")).encode()
    good = signed(BODY)
    assert SOURCE.verify(good).body == BODY
    with pytest.raises(SignatureMismatch):
        SOURCE.verify(msgspec.structs.replace(good, body=again))


@pytest.mark.parametrize(
    "changed", [BODY[:-1], BODY + b" ", BODY + b"\n", BODY.replace(b"Started", b"Ended"), b"", b"\xef\xbb\xbf" + BODY]
)
def test_a_changed_body_is_refused(changed: bytes) -> None:
    good = signed(BODY)
    assert SOURCE.verify(good)
    with pytest.raises(SignatureMismatch):
        SOURCE.verify(msgspec.structs.replace(good, body=changed))


@pytest.mark.parametrize("key", ["", "meet-api-ke", "meet-api-key ", "MEET-API-KEY", "ovmeet-Schlussel-e"])
def test_a_wrong_key_is_refused_and_the_error_shows_no_key(key: str) -> None:
    assert SOURCE.verify(signed(BODY))
    with pytest.raises(SignatureMismatch) as refused:
        SOURCE.verify(signed(BODY, key=key))
    assert not any(secret in str(refused.value) for secret in KEYS)


def test_a_source_without_a_key_refuses_every_delivery() -> None:
    source = OpenviduMeetSource(SourceSettings(name="meet", vendor="openvidu_meet", secrets=("",)))
    with pytest.raises(SignatureMismatch):
        source.verify(signed(BODY, key=""))


@pytest.mark.parametrize("side", [-1, 1])
def test_a_timestamp_may_differ_by_two_minutes_and_no_more(side: int) -> None:
    edge = SENT * 1000 + side * 120_000_000
    assert SOURCE.verify(signed(BODY, at=edge))
    with pytest.raises(SignatureStale, match="past" if side > 0 else "future"):
        SOURCE.verify(signed(BODY, at=edge + side))


def test_another_timestamp_with_the_same_signature_is_refused() -> None:
    good = signed(BODY)
    later = {**good.headers, "x-timestamp": str(SENT + 1)}
    assert SOURCE.verify(good)
    with pytest.raises(SignatureMismatch):
        SOURCE.verify(msgspec.structs.replace(good, headers=later))


def test_an_old_delivery_with_a_wrong_signature_is_a_mismatch() -> None:
    with pytest.raises(SignatureMismatch):
        SOURCE.verify(signed(BODY, key="wrong", at=RECEIVED + 10**10))


@pytest.mark.parametrize("missing", ["x-timestamp", "x-signature"])
@pytest.mark.parametrize("empty", [True, False])
def test_a_delivery_without_one_of_the_headers_has_no_proof(missing: str, empty: bool) -> None:
    headers = dict(signed(BODY).headers)
    headers[missing] = ""
    if not empty:
        del headers[missing]
    with pytest.raises(SignatureMissing):
        SOURCE.verify(Delivery(source="meet", body=BODY, received_at=RECEIVED, headers=headers))


@pytest.mark.parametrize(
    "stamp",
    [
        "x",
        "-1",
        "+1783584000000",
        "1783584000000.0",
        "1e12",
        "１７８３５８４００００００",
        "1783584000000\n5",
        "9" * 400,
    ]
    + ["178358400000é", "\udce9", "\ud83d", "0x10", "1_783_584_000_000", " "],
)
def test_a_timestamp_that_is_not_a_number_is_refused(stamp: str) -> None:
    with pytest.raises(SignatureMismatch):
        SOURCE.verify(signed(BODY, x_timestamp=stamp))


@pytest.mark.parametrize(
    "signature",
    ["x", "00", "0" * 63, "0" * 65, "g" * 64, "é" * 64, "\udce9" * 64, "０" * 64, "sha256=" + "0" * 64, " "],
)
def test_a_signature_of_another_form_is_refused(signature: str) -> None:
    with pytest.raises(SignatureMismatch):
        SOURCE.verify(signed(BODY, x_signature=signature))


def test_a_signature_in_upper_case_or_with_space_around_it_is_the_same() -> None:
    good = signed(BODY)
    loud = good.headers["x-signature"].upper()
    verified = SOURCE.verify(signed(BODY, x_signature=f" {loud}\t"))
    assert verified.proof == SOURCE.verify(good).proof


def test_no_key_is_stored_or_printed() -> None:
    verified = SOURCE.verify(signed(BODY))
    assert not any(key in repr(verified) + repr(SOURCE) for key in KEYS)
    assert set(json.loads(verified.proof)) == {"scheme", "timestamp", "signature", "key"}


@pytest.mark.parametrize("body", [b"", b"not json", b"[]", b"\xff\xfe", b'{"event":7}', b'{"a":1,"a":2}'])
def test_an_authentic_unreadable_body_is_recorded_without_an_event_name(body: bytes) -> None:
    verified = SOURCE.verify(signed(body))
    assert (verified.event, verified.body) == ("", body)


def test_a_repeat_is_recognised_by_its_bytes() -> None:
    verified = SOURCE.verify(signed(BODY))
    assert verified.dedupe_key == hashlib.sha256(BODY).hexdigest()
    assert verified.dedupe_key == SOURCE.verify(signed(BODY, key=KEYS[1])).dedupe_key == record_of(BODY).dedupe_key
    assert verified.dedupe_key != record_of(BODY + b" ").dedupe_key


def test_an_imported_record_keeps_its_proof() -> None:
    verified = SOURCE.verify_trusted(BODY, received_at=5, proof={"file": "hooks.jsonl", "line": 3})
    assert (verified.origin, verified.event) == ("import", "meetingStarted")
    assert json.loads(verified.proof) == {"file": "hooks.jsonl", "line": 3}


# --- interpretation of samples ---------------------------------------------------------------------------------------


def expected_kinds(body: dict[str, Any]) -> list[str]:
    event = str(body["event"])
    if event.startswith("recording"):
        return KINDS[f"recording {body['data']['status']}"]
    return KINDS[event]


def stated_moment(body: dict[str, Any], fact: Fact) -> float:
    """The time of the sample's event, ms."""
    person = body["data"].get("participant", {})
    if isinstance(fact, RecordingStopped):
        return float(body["data"]["endDate"])
    if isinstance(fact, ParticipantJoined):
        return float(person["joinDate"])
    return float(person["leaveDate"] if isinstance(fact, ParticipantLeft) else body["creationDate"])


@pytest.mark.parametrize("body", SAMPLED, ids=lambda body: str(body["event"]))
def test_every_sample_becomes_the_facts_of_the_table(body: dict[str, Any]) -> None:
    facts = interpret(record_of(encoded(body)))

    assert kinds(facts) == expected_kinds(body)
    assert facts == interpret(record_of(encoded(body))), "reading is pure"
    assert msgspec.json.decode(msgspec.json.encode(facts), type=tuple[AnyFact, ...]) == facts
    assert all(fact.anomalies == () and fact.clock == "server" for fact in facts)
    if body["event"] == "testEvent":
        return
    for fact in facts:
        assert fact.place is not None
        assert (fact.place.run, fact.place.room, fact.place.room_name) == (None, "room-123", "room") or (
            fact.place.room == "room-456"
        )
        assert ("roomId", fact.place.room) in fact.place.ids
        data = body["data"]
        begun = data.get("startDate") or data.get("participant", {}).get("joinDate") or body["creationDate"]
        assert fact.place.at == round(begun * 1000)
        assert fact.at == round(stated_moment(body, fact) * 1000)
        shown = json.dumps(fact.detail) + repr(fact)
        assert not [secret for secret in ("secret", "654321", "987654", "://") if secret in shown]


def test_a_meeting_starts_and_ends_at_its_events_not_at_the_creation_of_its_room() -> None:
    data = {"roomId": "r-1", "roomName": "Räume", "creationDate": 1_620_000_000_000, "status": "active_meeting"}
    started, ended = only(SessionStarted, "meetingStarted", data), only(SessionEnded, "meetingEnded", data)
    assert (started.at, started.started_at, ended.at) == (SENT * 1000,) * 3
    assert started.place is not None
    assert ended.place is not None
    assert (started.place.starts_at, started.place.ends_at) == (SENT * 1000, None)
    assert (ended.place.starts_at, ended.place.ends_at) == (None, SENT * 1000)
    assert (started.place.room, started.place.room_name, started.place.ids) == ("r-1", "Räume", (("roomId", "r-1"),))


@pytest.mark.parametrize(
    ("fields", "reason", "vendor_reason"),
    [
        ({}, "normal", None),
        ({"status": "active_meeting", "meetingEndAction": "delete"}, "normal", None),
        ({"reason": "max_duration_reached"}, "timeout", "max_duration_reached"),
        ({"cause": "max_duration_reached"}, "timeout", "max_duration_reached"),
        ({"reason": "something_new"}, "unknown", "something_new"),
    ],
)
def test_meeting_ended_ends_the_meeting_whatever_its_status(
    fields: dict[str, Any], reason: str, vendor_reason: str | None
) -> None:
    ended = only(SessionEnded, "meetingEnded", {"roomId": "r"} | fields)
    assert (ended.reason, ended.vendor_reason) == (reason, vendor_reason)


def person(**fields: Any) -> dict[str, Any]:
    who = {"participantIdentity": "alice-1", "participantName": "Alice", "role": "moderator", "joinDate": SENT - 80}
    return {"roomId": "r", "roomName": "R", "participant": who | fields}


def test_a_join_and_its_leave_are_one_connection_by_identity_and_join() -> None:
    joined = only(ParticipantJoined, "participantJoined", person(externalId="u-42", metadata='{"d":"x"}'))
    left = only(
        ParticipantLeft, "participantLeft", person(leaveDate=SENT - 1, leaveReason="voluntary_leave"), creationDate=SENT
    )
    when = (SENT - 80) * 1000
    assert (joined.at, joined.joined_at, left.at, left.joined_at) == (when, when, (SENT - 1) * 1000, when)
    assert (joined.connection, joined.identity, joined.name) == ("alice-1", "alice-1", "Alice")
    assert (left.connection, left.identity, left.keyed_by_join) == ("alice-1", "alice-1", joined.keyed_by_join)
    assert joined.keyed_by_join
    assert joined.detail == {"role": "moderator", "externalId": "u-42", "metadata": '{"d":"x"}'}
    assert joined.place is not None
    assert left.place is not None
    assert joined.place.at == left.place.at == when, "a leave lies where its join lies"


def test_a_join_without_a_time_has_the_time_of_its_event() -> None:
    joined = only(ParticipantJoined, "participantJoined", person(joinDate=0))
    left = only(ParticipantLeft, "participantLeft", person(joinDate=0))
    assert (joined.at, joined.joined_at, joined.clock) == (SENT * 1000, None, "server")
    assert (left.at, left.joined_at) == (SENT * 1000, None)


@pytest.mark.parametrize(
    ("vendor_reason", "reason"),
    [
        ("voluntary_leave", "left"),
        ("network_disconnect", "network_lost"),
        ("server_shutdown", "server_shutdown"),
        ("participant_kicked", "removed"),
        ("meeting_ended", "closed_by_server"),
        ("meeting_ended_by_self", "closed_by_server"),
        ("duplicate_identity", "replaced"),
        ("unknown", "unknown"),
        ("something_new", "unknown"),
        (None, "unknown"),
    ],
)
def test_every_leave_reason_is_mapped_and_the_vendors_kept(vendor_reason: str | None, reason: str) -> None:
    left = only(ParticipantLeft, "participantLeft", person(leaveReason=vendor_reason))
    assert (left.reason, left.vendor_reason) == (reason, vendor_reason)


@pytest.mark.parametrize("event", ["participantRoleChanged", "participantHandChanged"])
def test_a_role_or_a_raised_hand_is_shown_without_an_anomaly(event: str) -> None:
    fact = only(Unknown, event, person(handRaised=True) | {"origin": "participant"})
    assert fact.anomalies == ()
    assert (fact.subject_type, fact.subject_id, fact.actor) == ("participant", "alice-1", "alice-1")
    assert (fact.detail["event"], fact.detail["origin"]) == (event, "participant")
    assert fact.detail["participant"]["handRaised"] is True
    assert fact.place is not None
    assert fact.place.room == "r"


def recording(status: str | None, **fields: Any) -> dict[str, Any]:
    return {"recordingId": "r--x--EG_1--u7", "roomId": "r--x", "roomName": "R", "status": status} | fields


def test_a_recording_goes_through_its_states() -> None:
    begun, ended = SENT - 60_000 + 0.4568, SENT - 0.5432
    (starting,) = facts_from("recordingStarted", recording("starting"))
    (active,) = facts_from("recordingUpdated", recording("active", startDate=begun))
    (ending,) = facts_from("recordingUpdated", recording("ending", startDate=begun))
    stopped, ready = facts_from(
        "recordingEnded",
        recording(
            "complete", startDate=begun, endDate=ended, duration=60.00000000000001, size=77, details="End reason: X"
        ),
    )
    micros = (SENT - 60_000) * 1000 + 457
    assert isinstance(starting, RecordingStarted)
    assert isinstance(active, RecordingProcessing)
    assert isinstance(ending, RecordingProcessing)
    assert isinstance(stopped, RecordingStopped)
    assert isinstance(ready, RecordingReady)
    assert [starting.started_at, active.started_at, stopped.started_at, ready.started_at] == [None, *[micros] * 3]
    assert (stopped.at, stopped.precision, ready.at) == (SENT * 1000 - 543, "us", SENT * 1000)
    assert stopped.stopped_at == ready.stopped_at == SENT * 1000 - 543
    assert (ready.duration_ms, ready.size_bytes, ready.reason, ready.vendor_reason) == (
        60_000, 77, "normal", "End reason: X",
    )  # fmt: skip
    assert (active.duration_ms, active.size_bytes, active.reason, active.stopped_at) == (None, None, None, None)
    for fact in (starting, active, ending, stopped, ready):
        assert fact.recording == "r--x--EG_1--u7"
        assert not fact.keyed_by_start
        assert fact.place is not None
        assert fact.place.anchor == fact.recording
        assert fact.place.ids == (("roomId", "r--x"), ("recordingId", "r--x--EG_1--u7"), ("egress_id", "EG_1"))
        assert fact.place.at == (SENT * 1000 if fact is starting else micros)


@pytest.mark.parametrize(
    ("status", "fields", "expected", "reason"),
    [
        ("failed", {"error": "no media", "errorCode": 412}, [RecordingFailed], "server_failure"),
        ("failed", {"endDate": SENT}, [RecordingStopped, RecordingFailed], "server_failure"),
        ("aborted", {}, [RecordingAborted], "server_failure"),
        ("limit_reached", {"endDate": SENT}, [RecordingStopped, RecordingLimitReached], "timeout"),
        ("complete", {}, [RecordingStopped, RecordingReady], "normal"),
        ("COMPLETE", {"endDate": None}, [RecordingStopped, RecordingReady], "normal"),
        ("polished", {}, [RecordingStopped], "unknown"),
        (None, {}, [RecordingStopped], "unknown"),
    ],
)
def test_every_end_of_a_recording_has_its_kind(
    status: str | None, fields: dict[str, Any], expected: list[type[Fact]], reason: str
) -> None:
    facts = facts_from("recordingEnded", recording(status, **fields))
    assert [type(fact) for fact in facts] == expected
    for fact in facts:
        assert isinstance(fact, RecordingFact)
        assert (fact.reason, fact.status, fact.vendor_reason) == (reason, status, fields.get("error"))


@pytest.mark.parametrize(
    ("event", "status", "expected"),
    [
        ("recordingStarted", "active", RecordingStarted),
        ("recordingStarted", None, RecordingStarted),
        ("recordingUpdated", "polishing", RecordingProcessing),
        ("recordingUpdated", None, RecordingProcessing),
    ],
)
def test_with_an_unknown_status_the_name_of_the_event_decides(
    event: str, status: str | None, expected: type[Fact]
) -> None:
    assert [type(fact) for fact in facts_from(event, recording(status))] == [expected]


@pytest.mark.parametrize("number", [99, -1, 0, 2**70])
def test_an_enumeration_value_that_is_a_number_is_kept_beside_a_neutral_value(number: int) -> None:
    left = only(ParticipantLeft, "participantLeft", person(leaveReason=number))
    assert (left.reason, left.vendor_reason) == ("unknown", str(number))
    assert only(RecordingProcessing, "recordingUpdated", recording(None) | {"status": number}).status == str(number)
    ended = only(SessionEnded, "meetingEnded", {"roomId": "r", "reason": number})
    assert (ended.reason, ended.vendor_reason) == ("unknown", str(number))


def test_a_recording_without_its_room_is_placed_by_its_id() -> None:
    (fact,) = facts_from("recordingStarted", {"recordingId": "a--b--EG_1--u", "status": "starting", "roomId": None})
    assert fact.place is not None
    assert fact.place.room == "a--b"


def test_an_encoding_may_be_a_word_or_an_object() -> None:
    advanced = {"video": {"width": 1920, "framerate": 30.0}, "audio": {"codec": "OPUS"}}
    for encoding in ("H264_720P_30", advanced):
        (fact,) = facts_from("recordingStarted", recording("starting", encoding=encoding))
        assert fact.detail["encoding"] == encoding


def test_a_test_event_is_about_the_source() -> None:
    fact = only(known.Test, "testEvent", {"message": "This is a test webhook event"})
    assert (fact.place, fact.subject_type, fact.detail) == (
        None, "source", {"message": "This is a test webhook event"},
    )  # fmt: skip


def test_an_unknown_event_is_placed_in_its_session_without_possible_secrets() -> None:
    data = {
        "roomId": "r", "roomName": "R", "hands": 3, "moderatorUrl": "https://m/room/r?secret=s3cret",
        "link": "see https:\\/\\/m\\/room?secret=s3cret", "door": "/room/r?secret=s3cret", "access": {"u": "s3cret"},
    }  # fmt: skip
    fact = only(Unknown, "roomFrozen", data)
    assert fact.anomalies == (("unknown_event", "roomFrozen"),)
    assert (fact.detail["event"], fact.detail["data"]["hands"]) == ("roomFrozen", 3)
    assert fact.place is not None
    assert (fact.place.room, fact.subject_id) == ("r", "r")
    assert "s3cret" not in repr(fact)
    assert only(Unknown, "serverFrozen", {}).place is None


def test_a_header_and_a_body_with_different_times_are_an_anomaly() -> None:
    assert [fact.anomalies for fact in interpret(recorded(SOURCE.verify(signed(BODY))))] == [()]
    moved = interpret(recorded(SOURCE.verify(signed(BODY, stamp=str(SENT + 1)))))
    assert [kind for fact in moved for kind, _ in fact.anomalies] == ["clock_skew"]
    assert [fact.at for fact in moved] == [SENT * 1000]


@pytest.mark.parametrize("sent", [None, 0, -5, "5", True, 10**40, 1e308, 1.7e300, [], 253_402_300_800_000])
def test_without_a_usable_time_the_time_of_arrival_is_used(sent: object) -> None:
    fact = only(SessionStarted, "meetingStarted", {"roomId": "r"}, creationDate=sent)
    assert (fact.at, fact.clock, fact.precision) == (RECEIVED, "receiver", "us")
    assert [kind for kind, _ in fact.anomalies] == ["unreadable"]


@pytest.mark.parametrize(
    ("seconds", "milliseconds"),
    [
        (3.6, 3600),
        (60.00000000000001, 60_000),
        (0, 0),
        (None, None),
        (-1, None),
        (1e300, None),
        ("3", None),
        (True, None),
    ],
)
def test_a_duration_is_seconds_with_noise(seconds: object, milliseconds: int | None) -> None:
    _, ready = facts_from("recordingEnded", recording("complete", duration=seconds))
    assert isinstance(ready, RecordingReady)
    assert ready.duration_ms == milliseconds


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"event":""}',
        b'{"event":7,"creationDate":5}',
        b'{"event":"meetingStarted"}',
        b'{"event":"meetingStarted","creationDate":5,"data":[]}',
        b'{"event":"meetingStarted","creationDate":5,"data":{"roomId":"a","roomId":"b"}}',
        b'{"event":"meetingStarted","creationDate":NaN,"data":{"roomId":"a"}}',
        b'{"event":"participantJoined","creationDate":5,"data":{"roomId":"a"}}',
        b'{"event":"participantLeft","creationDate":5,"data":{"roomId":"a","participant":{}}}',
        b'{"event":"recordingEnded","creationDate":5,"data":{"roomId":"a"}}',
        b'{"event":"recordingEnded","creationDate":5,"data":{"recordingId":"a"}}',
        b'{"event":"meetingStarted","creationDate":' + b"9" * 5000 + b"}",
        b'{"event":"meetingStarted","x":' + b"[" * 99999,
        b"\xff\xfe\x00{",
    ],
)
def test_an_unreadable_body_is_an_unknown_event(body: bytes) -> None:
    (fact,) = interpret(record_of(body))
    assert isinstance(fact, Unknown)
    assert "unreadable" in {kind for kind, _ in fact.anomalies}
    assert msgspec.json.encode(fact)


def test_a_second_start_within_seconds_is_the_same_start() -> None:
    assert RULES.tolerance == 10_000_000
    assert not RULES.ends_only


# --- any bytes, any mutation -----------------------------------------------------------------------------------------


def reading_is_sound(body: bytes) -> None:
    record = record_of(body)
    facts = interpret(record)
    assert facts
    assert facts == interpret(record)
    assert msgspec.json.decode(msgspec.json.encode(facts), type=tuple[AnyFact, ...]) == facts
    assert b"?secret=" not in msgspec.json.encode(facts)
    record.event.encode()


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=20)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=20), ANY_TEXT | st.just(str(SENT)), ANY_TEXT | st.just("0" * 64))
def test_any_headers_are_refused_and_nothing_else_is_raised(body: bytes, stamp: str, signature: str) -> None:
    headers = {"x-timestamp": stamp, "x-signature": signature}
    with pytest.raises((SignatureMissing, SignatureMismatch)):
        SOURCE.verify(Delivery(source="meet", body=body, received_at=RECEIVED, headers=headers))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_interpreted_without_raising(body: bytes) -> None:
    reading_is_sound(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def mutated(data: st.DataObject, value: Any) -> Any:
    """The value with some fields, at any depth, removed or replaced."""
    if not isinstance(value, dict):
        return data.draw(JSON) if data.draw(st.integers(0, 9)) == 0 else value
    changed = {name: mutated(data, inner) for name, inner in value.items() if name not in {"roles", "config"}}
    if changed and data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(changed)))
        if data.draw(st.booleans()):
            del changed[name]
        else:
            changed[name] = data.draw(JSON)
    return changed


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_mutation_of_a_sample_is_interpreted_without_raising(data: st.DataObject) -> None:
    reading_is_sound(json.dumps(mutated(data, data.draw(st.sampled_from(SAMPLED)))).encode())


# --- docs ------------------------------------------------------------------------------------------------------------


def test_the_page_lists_what_every_event_becomes() -> None:
    page = (ROOT / "docs" / "reference" / "vendors" / "openvidu_meet.md").read_text("utf-8")
    table = page.split("| vendor event | timeline kind |\n")[1].split("\n\n")[0].splitlines()[1:]
    documented: set[str] = set()
    for row in table:
        event, kind = row.strip("|").split("|")
        shown = [name for name in event.split("(")[0].split("`") if name.strip()]
        status = re.findall(r"`([a-z_]+)`", event.partition("(")[2])
        if not shown[0].isalpha():
            assert (shown, kind.strip()) == ([" anything else "], "`unknown`")
            continue
        documented.add(shown[0])
        data = person() | recording(status[0] if status else "polishing", endDate=SENT)
        assert kinds(facts_from(shown[0], data)) == re.findall(r"`([^`]+)`", kind), row
    assert documented == {str(body["event"]) for body in SAMPLED} | {"participantRoleChanged"}
