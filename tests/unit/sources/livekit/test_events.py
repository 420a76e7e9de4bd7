"""LiveKit: every sample is verified and read; the four units of time; missing fields; secrets that are never shown."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.paths import TESTS
from tracker.domain.deliveries import Delivery, Record, Verified
from tracker.errors import KeyUnknown, SignatureMismatch, SignatureMissing, SignatureStale
from tracker.domain.facts import (
    AgentJobEnded,
    AgentJobStarted,
    AnyFact,
    BroadcastStarted,
    BroadcastStopped,
    BroadcastUpdated,
    Fact,
    IngressEnded,
    IngressStarted,
    ParticipantConnectionAborted,
    ParticipantJoined,
    ParticipantLeft,
    RecordingAborted,
    RecordingFailed,
    RecordingLimitReached,
    RecordingProcessing,
    RecordingReady,
    RecordingStarted,
    RecordingStopped,
    SessionEnded,
    SessionResumed,
    SessionStarted,
    StreamPublished,
    StreamUnpublished,
    Unknown,
)
from tracker.sources.contract import Source, SourceSettings
from tracker.sources.livekit.events import interpret
from tracker.sources.livekit.source import LivekitSource
from tracker.sources.registry import stored_delivery


F = TypeVar("F", bound=Fact)
Json = dict[str, Any]
RECEIVED = 1_800_000_000_123_456
S, MS = 1_000_000, 1_000
SAMPLES: list[Json] = [
    json.loads(line) for line in (TESTS / "samples" / "livekit-signed.jsonl").read_bytes().splitlines()
]
BY_NAME: dict[str, Json] = {sample["name"]: sample for sample in SAMPLES}
EVERY_SAMPLE = [pytest.param(sample, id=sample["name"]) for sample in SAMPLES]
ONE, TWO = "RM_8kQxA1fixt01", "RM_8kQxA1fixt02"
BEGAN = 1_786_000_000_123_000

KINDS = {
    "room_started": ["session.started"],
    "room_finished": ["session.ended"],
    "participant_joined": ["participant.joined"],
    "participant_left": ["participant.left"],
    "participant_connection_aborted": ["participant.connection_aborted"],
    "track_published": ["stream.published"],
    "track_unpublished": ["stream.unpublished"],
    "egress_started": ["recording.started"],
    "egress_updated": ["recording.processing"],
    "egress_ended": ["recording.stopped", "recording.ready"],
    "ingress_started": ["ingress.started"],
    "ingress_ended": ["ingress.ended"],
    "agent_job_started": ["agent_job.started"],
    "agent_job_ended": ["agent_job.ended"],
    "room_metadata_updated": ["unknown"],
}
KINDS_OF = {
    "room_started/same-sid-again": ["session.resumed"],
    "verbatim/python-sdks-test": ["session.resumed"],
    "egress_ended/failed-no-id": ["recording.failed"],
    "minimal": ["unknown"],
}
RUNS = {
    "minimal": None, "cloud/track_unpublished-2026-02": "RM_nHPUfmxXrHry", "verbatim/python-sdks-test": "RM_hycBMAjmt6Ub",
    "verbatim/node-sdks-test": "RM_TkVjUvAqgzKz", "verbatim/kotlin-test": "RM_TkVjUvAqgzKz",
    "room_started/name-reused": TWO, "room_started/same-sid-again": TWO, "participant_joined/unicode": TWO,
    "participant_joined/egress-kind": TWO, "room_finished/num-dropped": TWO, "unknown/event-type": TWO,
    "unknown/enum-number": TWO,
}  # fmt: skip
ROOMS = {
    "cloud/track_unpublished-2026-02": "974b6e04-0617-4ae7-90f9-7202e5e998e9", "verbatim/python-sdks-test": "Demo Room",
    "verbatim/node-sdks-test": "mytestroom", "verbatim/kotlin-test": "mytestroom",
}  # fmt: skip


def source_of(sample: Json) -> Source:
    return LivekitSource(SourceSettings(name="lk", vendor="livekit", keys={sample["key"]: sample["secret"]}))


def delivery_of(sample: Json, **changed: Any) -> Delivery:
    fields: Json = {
        "source": "lk",
        "body": sample["body_text"].encode(),
        "received_at": sample["now"] * S,
        "headers": {name.lower(): value for name, value in sample["headers"].items()},
    }
    return Delivery(**(fields | changed))


def recorded(verified: Verified) -> Record:
    return Record(position=1, **msgspec.structs.asdict(verified))


def record_of(body: bytes) -> Record:
    source = LivekitSource(SourceSettings(name="lk", vendor="livekit"))
    return recorded(source.verify_trusted(body, received_at=RECEIVED, proof={"file": "f", "line": 1}))


def facts_of(name: str) -> tuple[Fact, ...]:
    return interpret(recorded(source_of(BY_NAME[name]).verify(delivery_of(BY_NAME[name]))))


def sample(kind: type[F], name: str) -> F:
    (fact,) = facts_of(name)
    assert isinstance(fact, kind)
    return fact


def facts_from(event: str, **fields: Any) -> tuple[Fact, ...]:
    return interpret(record_of(json.dumps({"event": event, **fields}).encode()))


def only(kind: type[F], event: str, **fields: Any) -> F:
    (fact,) = facts_from(event, **fields)
    assert isinstance(fact, kind)
    return fact


def run_of(fact: Fact) -> str | None:
    return None if fact.place is None else fact.place.run


def kinds(facts: tuple[Fact, ...]) -> list[str]:
    return [str(type(fact).__struct_config__.tag) for fact in facts]


ROOM: Json = {"sid": "RM_1", "name": "standup"}
FULL: Json = ROOM | {"creationTime": "1786000000", "creationTimeMs": "1786000000123"}
ALICE: Json = {"sid": "PA_1", "identity": "alice", "joinedAt": "1786000009", "joinedAtMs": "1786000009481"}


# --- proofs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", EVERY_SAMPLE)
def test_every_sample_verifies_at_its_time_and_again_from_its_record(sample: Json) -> None:
    source, delivery = source_of(sample), delivery_of(sample)
    verified = source.verify(delivery)

    assert (verified.source, verified.vendor, verified.origin) == ("lk", "livekit", "webhook")
    assert (verified.event, verified.body, verified.received_at) == (
        sample["event"],
        delivery.body,
        delivery.received_at,
    )
    assert json.loads(verified.proof) == {"scheme": "jwt", "jwt": sample["headers"]["Authorization"]}
    assert sample["secret"] not in verified.proof.decode()
    again = stored_delivery(recorded(verified))
    assert again is not None
    assert source.verify(again) == verified


def test_one_changed_byte_is_not_authentic() -> None:
    sample = BY_NAME["room_started"]
    for body in (sample["body_text"] + "\n", sample["body_text"].replace("standup", "stand-up"), ""):
        with pytest.raises(SignatureMismatch):
            source_of(sample).verify(delivery_of(sample, body=body.encode()))


def test_the_token_is_read_only_from_the_authorization_header() -> None:
    sample = BY_NAME["room_started"]
    token = sample["headers"]["Authorization"]
    source = source_of(sample)
    for headers in ({}, {"hash-token": token}, {"authorization": ""}, {"authorization": " "}):
        with pytest.raises(SignatureMissing):
            source.verify(delivery_of(sample, headers=headers))
    with pytest.raises(SignatureMismatch, match="Bearer"):
        source.verify(delivery_of(sample, headers={"authorization": f"Bearer {token}"}))
    assert source.verify(delivery_of(sample, headers={"authorization": f" {token}\t"}))


def test_the_time_of_arrival_decides_whether_a_token_is_stale() -> None:
    sample = BY_NAME["room_started"]
    for late in (400, -100):
        with pytest.raises(SignatureStale):
            source_of(sample).verify(delivery_of(sample, received_at=(sample["now"] + late) * S))


def test_another_deployments_webhook_is_distinguished_from_a_forged_one() -> None:
    sample = BY_NAME["room_started"]
    with pytest.raises(KeyUnknown):
        source_of(sample | {"key": "APIother"}).verify(delivery_of(sample))
    with pytest.raises(SignatureMismatch):
        source_of(sample | {"secret": "another secret of the same key"}).verify(delivery_of(sample))


def test_a_source_never_prints_its_secrets() -> None:
    sample = BY_NAME["room_started"]
    assert sample["secret"] not in repr(source_of(sample))


# --- keys ------------------------------------------------------------------------------------------------------------


def test_variants_retries_and_second_urls_of_one_event_have_one_key() -> None:
    keys: dict[tuple[str, str], set[str]] = {}
    for sample in SAMPLES:
        body = json.loads(sample["body_text"])
        if "id" in body:
            key = source_of(sample).verify(delivery_of(sample)).dedupe_key
            keys.setdefault((body["event"], body["id"]), set()).add(key)
    assert all(len(found) == 1 for found in keys.values())
    assert len(keys) == len({key for found in keys.values() for key in found}) == 37


@pytest.mark.parametrize("fields", [{}, {"id": ""}, {"id": 7}, {"id": None}])
def test_the_key_of_an_event_without_an_id_is_of_its_bytes(fields: Json) -> None:
    one = record_of(json.dumps({"event": "room_started", "room": ROOM} | fields).encode())
    two = record_of(json.dumps({"event": "room_started", "room": FULL} | fields).encode())
    assert one.dedupe_key.startswith("sha256:")
    assert one.dedupe_key != two.dedupe_key


def test_one_id_under_two_event_names_is_two_events() -> None:
    one, two = (record_of(json.dumps({"event": event, "id": "EV_1"}).encode()) for event in ("a", "b"))
    assert one.dedupe_key != two.dedupe_key


def test_an_imported_record_keeps_its_proof() -> None:
    record = record_of(b'{"event":"room_started"}')
    assert (record.origin, json.loads(record.proof), record.event) == (
        "import",
        {"file": "f", "line": 1},
        "room_started",
    )


# --- interpretation of samples ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", EVERY_SAMPLE)
def test_every_sample_becomes_the_facts_of_the_table(sample: Json) -> None:
    name = sample["name"].split("#")[0]
    body = json.loads(sample["body_text"])
    record = recorded(source_of(sample).verify(delivery_of(sample)))
    facts = interpret(record)

    assert kinds(facts) == KINDS_OF.get(name, KINDS[sample["event"]])
    assert {run_of(fact) for fact in facts} == {RUNS.get(name, ONE)}
    assert {fact.place.room if fact.place else None for fact in facts} == {
        None if name == "minimal" else ROOMS.get(name, "daily-standup")
    }
    assert facts == interpret(record), "reading is pure"
    assert msgspec.json.decode(msgspec.json.encode(facts), type=tuple[AnyFact, ...]) == facts
    for fact in facts:
        assert fact.clock == ("receiver" if name == "minimal" else "server")
        if "createdAt" in body and not isinstance(fact, RecordingStopped):
            assert abs(fact.at - int(body["createdAt"]) * S) < 2 * S
    person = body.get("participant", {})
    if person:
        assert [getattr(fact, "identity", None) for fact in facts] == [person["identity"]]
        assert [getattr(fact, "connection", None) for fact in facts] == [person["sid"]]
    expected = {
        "minimal": ["unreadable"],
        "unknown/event-type": ["unknown_event"],
        "room_finished/num-dropped": ["number_mismatch"],
    }
    assert [kind for fact in facts for kind, _ in fact.anomalies] == expected.get(name, [])


def test_both_spellings_of_a_body_mean_the_same() -> None:
    for sample in SAMPLES:
        plain = BY_NAME[sample["name"].split("#")[0]]
        if json.loads(plain["body_text"]) == json.loads(sample["body_text"]):
            mine = interpret(recorded(source_of(sample).verify(delivery_of(sample))))
            assert mine == interpret(recorded(source_of(plain).verify(delivery_of(plain))))


# --- rooms -----------------------------------------------------------------------------------------------------------


def test_a_room_starts_at_its_creation_to_the_millisecond() -> None:
    started = sample(SessionStarted, "room_started")
    assert (started.at, started.started_at, started.precision) == (BEGAN, BEGAN, "ms")
    assert started.place is not None
    assert (started.place.run, started.place.room, started.place.starts_at) == (ONE, "daily-standup", BEGAN)
    assert started.place.ids == (("room_sid", ONE), ("room_name", "daily-standup"))


def test_servers_of_2021_send_seconds_and_no_id() -> None:
    started = sample(SessionStarted, "verbatim/node-sdks-test")
    assert (started.at, started.precision, started.clock) == (1_628_545_903 * S, "s", "server")


def test_a_room_announced_twice_is_resumed() -> None:
    first = sample(SessionStarted, "room_started/name-reused")
    again = sample(SessionResumed, "room_started/same-sid-again")
    assert run_of(first) == run_of(again) == TWO
    assert first.at == again.started_at == BEGAN + 200 * S
    assert again.at == 1_786_000_260 * S


def test_a_repeated_announcement_is_recognised_in_any_order() -> None:
    kinds_by_delay = {
        delay: kinds(facts_from("room_started", room=FULL, createdAt=str(1_786_000_000 + delay)))
        for delay in (0, 1, 5, 6, 60)
    }
    assert kinds_by_delay == {
        delay: ["session.started" if delay <= 5 else "session.resumed"] for delay in kinds_by_delay
    }


def test_a_room_without_a_creation_time_starts_at_its_announcement() -> None:
    started = only(SessionStarted, "room_started", room=ROOM, createdAt="1786000000")
    assert started.at == started.started_at == 1_786_000_000 * S
    assert started.place is not None
    assert started.place.starts_at == started.at
    unstamped = only(SessionStarted, "room_started", room=ROOM)
    assert (unstamped.at, unstamped.clock) == (RECEIVED, "receiver")
    assert unstamped.place is not None
    assert unstamped.place.starts_at is None


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        ("ROOM_END_API_DELETE", "closed_by_server"),
        ("ROOM_END_IDLE_TIMEOUT", "normal"),
        ("ROOM_END_SERVER_SHUTDOWN", "server_shutdown"),
        ("ROOM_END_SUPERSEDED", "superseded"),
        ("ROOM_END_OPEN_FAILED", "server_failure"),
        ("ROOM_END_UNKNOWN", "unknown"),
        ("ROOM_END_OF_A_LATER_VERSION", "unknown"),
        (17, "unknown"),
        (None, "unknown"),
    ],
)
def test_every_end_reason_of_a_room_is_mapped_and_the_vendors_kept(theirs: str | int | None, reason: str) -> None:
    ended = only(SessionEnded, "room_finished", room=FULL, createdAt="1786000131", roomEndReason=theirs)
    assert (ended.reason, ended.vendor_reason) == (reason, None if theirs is None else str(theirs))
    assert (ended.at, ended.started_at) == (1_786_000_131 * S, BEGAN)
    assert ended.place is not None
    assert (ended.place.starts_at, ended.place.ends_at) == (BEGAN, ended.at)


def test_a_room_of_less_than_a_second_does_not_end_before_its_start() -> None:
    ended = only(SessionEnded, "room_finished", room=FULL, createdAt="1786000000")
    assert ended.at == ended.started_at == BEGAN
    assert ended.place is not None
    assert ended.place.ends_at == BEGAN


def test_lost_webhooks_that_the_server_reports_are_anomalies() -> None:
    ended = sample(SessionEnded, "room_finished/num-dropped")
    assert ended.anomalies == (("number_mismatch", "sender reports 2 dropped webhooks"),)


# --- people ----------------------------------------------------------------------------------------------------------


def test_a_join_has_milliseconds_and_all_details_of_the_person() -> None:
    joined = sample(ParticipantJoined, "participant_joined/alice")
    assert (joined.at, joined.joined_at, joined.precision) == (1_786_000_001_481_000, 1_786_000_001_481_000, "ms")
    assert (joined.connection, joined.identity, joined.name) == ("PA_alice7Yk2Qx1", "user-alice", "Alice")
    assert (joined.person, joined.keyed_by_join) == ("standard", False)
    assert joined.detail == {
        "metadata": '{"email":"alice@example.org"}',
        "attributes": {"app.tenant": "acme", "role": "host"},
    }


@pytest.mark.parametrize("theirs", [False, 0, "x", ["a"], 1.5])
def test_attributes_that_are_no_object_are_not_shown(theirs: object) -> None:
    joined = only(ParticipantJoined, "participant_joined", room=ROOM, participant=ALICE | {"attributes": theirs})
    assert "attributes" not in joined.detail


def test_before_2025_a_join_has_seconds() -> None:
    alice = {name: value for name, value in ALICE.items() if name != "joinedAtMs"}
    joined = only(ParticipantJoined, "participant_joined", room=ROOM, participant=alice, createdAt="1786000010")
    assert (joined.at, joined.precision) == (1_786_000_009 * S, "s")


def test_a_leave_alone_gives_the_whole_interval() -> None:
    left = sample(ParticipantLeft, "participant_left/alice")
    assert (left.joined_at, left.at) == (1_786_000_001_481_000, 1_786_000_100 * S)
    assert (left.reason, left.vendor_reason) == ("left", "CLIENT_INITIATED")
    assert left.place is not None
    assert left.place.at == left.joined_at


def test_a_leave_in_the_second_of_its_join_does_not_precede_it() -> None:
    left = only(ParticipantLeft, "participant_left", room=ROOM, participant=ALICE, createdAt="1786000009")
    assert left.at == left.joined_at == 1_786_000_009_481_000
    earlier = only(ParticipantLeft, "participant_left", room=ROOM, participant=ALICE, createdAt="1786000008")
    assert earlier.at == 1_786_000_008 * S, "a clock that is wrong by more is shown, not mended"


def test_a_reconnect_is_another_connection_of_the_same_person() -> None:
    again = sample(ParticipantJoined, "participant_joined/bob-reconnect")
    left = sample(ParticipantLeft, "participant_left/bob-old-sid")
    assert again.identity == left.identity == "user-bob"
    assert again.connection != left.connection
    assert again.at < left.at
    assert (left.reason, left.vendor_reason) == ("replaced", "DUPLICATE_IDENTITY")


def test_a_participant_that_never_became_active_failed_to_join() -> None:
    aborted = sample(ParticipantConnectionAborted, "participant_connection_aborted/carol")
    assert (aborted.reason, aborted.vendor_reason) == ("join_failed", "JOIN_FAILURE")
    assert (aborted.joined_at, aborted.at) == (1_786_000_012_481_000, 1_786_000_025 * S)
    silent = only(ParticipantConnectionAborted, "participant_connection_aborted", room=ROOM, participant=ALICE)
    assert (silent.reason, silent.vendor_reason) == ("join_failed", None)


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        ("CLIENT_INITIATED", "left"),
        ("DUPLICATE_IDENTITY", "replaced"),
        ("SERVER_SHUTDOWN", "server_shutdown"),
        ("PARTICIPANT_REMOVED", "removed"),
        ("ROOM_DELETED", "closed_by_server"),
        ("ROOM_CLOSED", "closed_by_server"),
        ("STATE_MISMATCH", "network_lost"),
        ("SIGNAL_CLOSE", "network_lost"),
        ("CONNECTION_TIMEOUT", "network_lost"),
        ("MEDIA_FAILURE", "network_lost"),
        ("JOIN_FAILURE", "join_failed"),
        ("MIGRATION", "migrated"),
        ("USER_UNAVAILABLE", "left"),
        ("USER_REJECTED", "left"),
        ("SIP_TRUNK_FAILURE", "server_failure"),
        ("AGENT_ERROR", "server_failure"),
        ("OF_A_LATER_VERSION", "unknown"),
        (99, "unknown"),
        (None, "unknown"),
    ],
)
def test_every_leave_reason_is_mapped_and_the_vendors_kept(theirs: str | int | None, reason: str) -> None:
    left = only(ParticipantLeft, "participant_left", room=ROOM, participant=ALICE | {"disconnectReason": theirs})
    assert (left.reason, left.vendor_reason) == (reason, None if theirs is None else str(theirs))


@pytest.mark.parametrize(
    ("fields", "person"),
    [
        ({}, "standard"),
        ({"kind": "STANDARD"}, "standard"),
        ({"kind": 0}, "standard"),
        ({"kind": "SIP"}, "sip"),
        ({"kind": 2}, "egress"),
        ({"kind": "CONNECTOR"}, "connector"),
        ({"kind": 77}, "kind_77"),
        ({"kind": 7}, "connector"),
        ({"kind": 8}, "bridge"),
        ({"kind": 5}, "kind_5"),
        ({"permission": {"hidden": True}}, "hidden"),
        ({"kind": "AGENT", "permission": {"hidden": True}}, "agent"),
        ({"permission": {"agent": True}}, "agent"),
        ({"permission": {"agent": True, "hidden": True}}, "agent"),
        ({"permission": {"recorder": True, "hidden": True}}, "egress"),
        ({"permission": {"recorder": True}}, "egress"),
        ({"kind": "SIP", "permission": {"agent": False}}, "sip"),
        ({"permission": {"canPublish": True, "agent": False, "hidden": False}}, "standard"),
    ],
)
def test_the_kind_of_a_participant_is_read(fields: Json, person: str) -> None:
    joined = only(ParticipantJoined, "participant_joined", room=ROOM, participant=ALICE | fields)
    assert joined.person == person


NUMBERS = {
    1: "CLIENT_INITIATED", 2: "DUPLICATE_IDENTITY", 3: "SERVER_SHUTDOWN", 4: "PARTICIPANT_REMOVED", 5: "ROOM_DELETED",
    6: "STATE_MISMATCH", 7: "JOIN_FAILURE", 8: "MIGRATION", 9: "SIGNAL_CLOSE", 10: "ROOM_CLOSED", 11: "USER_UNAVAILABLE",
    12: "USER_REJECTED", 13: "SIP_TRUNK_FAILURE", 14: "CONNECTION_TIMEOUT", 15: "MEDIA_FAILURE", 16: "AGENT_ERROR",
}  # fmt: skip
"""DisconnectReason of livekit-protocol 1.1.29."""


@pytest.mark.parametrize("event", ["participant_left", "participant_connection_aborted"])
@pytest.mark.parametrize("number", NUMBERS)
def test_a_reason_that_is_newer_than_the_server_means_the_same_as_its_name(number: int, event: str) -> None:
    by_number, by_name = (
        facts_from(event, room=ROOM, participant=ALICE | {"disconnectReason": reason})
        for reason in (number, NUMBERS[number])
    )
    assert by_number == by_name
    assert getattr(by_number[0], "vendor_reason", None) == NUMBERS[number]


@pytest.mark.parametrize(
    ("number", "name", "reason"),
    [
        (1, "ROOM_END_API_DELETE", "closed_by_server"),
        (2, "ROOM_END_IDLE_TIMEOUT", "normal"),
        (3, "ROOM_END_SERVER_SHUTDOWN", "server_shutdown"),
        (4, "ROOM_END_SUPERSEDED", "superseded"),
        (5, "ROOM_END_OPEN_FAILED", "server_failure"),
    ],
)
def test_the_end_reason_of_a_room_as_a_number_means_the_same_as_its_name(number: int, name: str, reason: str) -> None:
    ended = only(SessionEnded, "room_finished", room=FULL, createdAt="1786000131", roomEndReason=number)
    assert (ended.reason, ended.vendor_reason) == (reason, name)


def test_every_number_of_an_ingress_or_job_state_has_a_name() -> None:
    info = {"ingressId": "IN_1", "roomName": "standup", "state": {"roomId": "RM_1", "status": 4}}
    assert only(IngressEnded, "ingress_ended", ingressInfo=info).vendor_reason == "ENDPOINT_COMPLETE"
    job = {"id": "AJ_1", "room": ROOM, "state": {"status": 4}}
    cancelled = only(AgentJobEnded, "agent_job_ended", job=job)
    assert (cancelled.reason, cancelled.vendor_reason) == ("closed_by_server", "JS_CANCELLED")


def test_a_recorder_is_not_a_person_and_a_caller_is() -> None:
    assert sample(ParticipantJoined, "participant_joined/egress-kind").person == "egress"
    caller = sample(ParticipantJoined, "participant_joined/unicode")
    assert (caller.person, caller.identity) == ("sip", "user-ü中")
    assert caller.name == 'Zoë 😀 "Q" \\ tab\there'


def test_an_event_without_a_room_but_with_its_name_finds_its_run_by_time() -> None:
    joined = only(ParticipantJoined, "participant_joined", room={"name": "standup"}, participant=ALICE)
    assert joined.place is not None
    assert (joined.place.run, joined.place.room, joined.place.at) == (None, "standup", 1_786_000_009_481_000)


# --- tracks ----------------------------------------------------------------------------------------------------------


def test_absent_fields_are_read_as_zeros() -> None:
    micro = sample(StreamPublished, "track_published/alice-mic")
    camera = sample(StreamPublished, "track_published/alice-cam")
    screen = sample(StreamPublished, "track_published/bob-screen")
    assert (micro.media, micro.label, micro.stream) == ("audio", "microphone", "TR_AMNTtQxevMRbsr")
    assert (camera.media, camera.label, camera.detail["width"]) == ("video", "camera", 1280)
    assert (screen.media, screen.label) == ("video", "screen")
    assert (micro.connection, micro.identity) == ("PA_alice7Yk2Qx1", "user-alice")


def test_a_publication_has_microseconds() -> None:
    published = sample(StreamPublished, "track_published/alice-mic")
    assert (published.at, published.precision) == (1_786_000_004_526_591, "us")


@pytest.mark.parametrize("version", [{}, {"unixMicro": "1786000304000000"}, {"unixMicro": "soon"}, {"unixMicro": "-5"}])
def test_a_version_of_another_time_is_no_publication(version: Json) -> None:
    published = only(
        StreamPublished, "track_published", room=ROOM, track={"sid": "TR_1", "version": version}, createdAt="1786000004"
    )
    assert (published.at, published.precision) == (1_786_000_004 * S, "s")


def test_a_track_may_end_after_its_person_left() -> None:
    ended = sample(StreamUnpublished, "track_unpublished/bob-screen")
    left = sample(ParticipantLeft, "participant_left/bob-old-sid")
    assert ended.connection == left.connection
    assert ended.at > left.at


def test_a_track_of_less_than_a_second_does_not_end_before_its_start() -> None:
    track = {"sid": "TR_1", "version": {"unixMicro": "1786000004526591"}}
    ended = only(StreamUnpublished, "track_unpublished", room=ROOM, track=track, createdAt="1786000004")
    assert ended.at == 1_786_000_004_526_591


# --- egress ----------------------------------------------------------------------------------------------------------

FILE: Json = {"roomComposite": {"roomName": "standup", "fileOutputs": [{"filepath": "x.mp4"}]}}
RTMP: Json = {
    "roomComposite": {"roomName": "standup", "streamOutputs": [{"urls": ["rtmp://live.example/app/STREAMKEY"]}]}
}
BOTH: Json = {"roomComposite": FILE["roomComposite"] | RTMP["roomComposite"]}
RUNNING: Json = {"egressId": "EG_1", "roomId": "RM_1", "roomName": "standup", "startedAt": "1786000033000000001"}
OVER: Json = RUNNING | {"endedAt": "1786000133000000000", "updatedAt": "1786000134000000000"}


def egress(event: str, *infos: Json) -> tuple[Fact, ...]:
    info: Json = {}
    for more in infos:
        info |= more
    return facts_from(event, egressInfo=info, createdAt="1786000134")


def test_released_servers_name_the_room_of_an_egress_only_inside() -> None:
    for name in ("egress_started", "egress_updated", "egress_ended"):
        assert facts_of(name) == facts_of(f"{name}/released-no-room")


def test_a_recording_goes_through_its_states() -> None:
    started = sample(RecordingStarted, "egress_started")
    active = sample(RecordingProcessing, "egress_updated")
    stopped, ready = facts_of("egress_ended")
    assert isinstance(stopped, RecordingStopped)
    assert isinstance(ready, RecordingReady)
    assert {fact.recording for fact in (started, active, stopped, ready)} == {"EG_fixtureRmComp"}
    assert [fact.status for fact in (started, active, ready)] == ["EGRESS_STARTING", "EGRESS_ACTIVE", "EGRESS_COMPLETE"]
    assert (started.mode, started.at, started.started_at) == ("room_composite", 1_786_000_030 * S, None)
    assert (active.started_at, ready.started_at) == (1_786_000_033 * S, 1_786_000_033 * S)
    assert (stopped.at, stopped.stopped_at, ready.at) == (1_786_000_133 * S, 1_786_000_133 * S, 1_786_000_134 * S)
    assert (ready.duration_ms, ready.size_bytes) == (100_000, 48_576_120)
    assert ready.url == "https://recordings.s3.eu-central-1.amazonaws.com/rec/daily-standup.mp4"
    assert (ready.reason, ready.vendor_reason) == ("normal", "End reason: Source closed")
    assert ready.place is not None
    assert ("egress_id", "EG_fixtureRmComp") in ready.place.ids


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        ("EGRESS_COMPLETE", RecordingReady, "normal"),
        ("EGRESS_FAILED", RecordingFailed, "server_failure"),
        ("EGRESS_ABORTED", RecordingAborted, "unknown"),
        ("EGRESS_LIMIT_REACHED", RecordingLimitReached, "timeout"),
        (3, RecordingReady, "normal"),
    ],
)
def test_every_end_of_a_recording(status: str | int, kind: type[Fact], reason: str) -> None:
    stopped, outcome = egress("egress_ended", OVER, FILE, {"status": status})
    assert (type(stopped), type(outcome)) == (RecordingStopped, kind)
    assert getattr(outcome, "reason", None) == reason
    (unstated,) = egress("egress_ended", RUNNING, FILE, {"status": status})
    assert type(unstated) is kind


@pytest.mark.parametrize("status", [None, "EGRESS_ENDING", "EGRESS_OF_A_LATER_VERSION", 42])
def test_an_end_with_any_other_status_is_a_stop(status: str | int | None) -> None:
    (stopped,) = egress("egress_ended", OVER, FILE, {"status": status})
    assert isinstance(stopped, RecordingStopped)
    assert (stopped.at, stopped.reason) == (1_786_000_133 * S, "unknown")
    assert stopped.status == ("EGRESS_STARTING" if status is None else str(status))


def test_an_egress_without_an_id_is_identified_by_its_event() -> None:
    failed = sample(RecordingFailed, "egress_ended/failed-no-id")
    assert failed.recording == "egress:EV_fix000000022"
    assert failed.detail == {"error": "egress launcher not found", "participant": "user-alice"}
    assert (failed.mode, failed.vendor_reason) == ("participant", "egress launcher not found")
    one, two = (
        only(
            RecordingFailed,
            "egress_ended",
            egressInfo={"roomName": "r", "status": "EGRESS_FAILED"},
            createdAt=at,
            id=id_,
        )
        for at, id_ in (("1786000134", None), ("1786000135", None))
    )
    assert one.recording != two.recording


def test_an_egress_with_only_stream_outputs_is_a_broadcast() -> None:
    (started,) = egress("egress_started", RUNNING, RTMP)
    (active,) = egress("egress_updated", RUNNING, RTMP, {"status": "EGRESS_ACTIVE"})
    (ending,) = egress("egress_updated", RUNNING, RTMP, {"status": "EGRESS_ENDING"})
    (stopped,) = egress(
        "egress_ended", OVER, RTMP, {"status": "EGRESS_COMPLETE", "details": "End reason: StopEgress API"}
    )
    assert isinstance(started, BroadcastStarted)
    assert isinstance(active, BroadcastUpdated)
    assert isinstance(ending, BroadcastUpdated)
    assert (active.ending, ending.ending) == (False, True)
    assert isinstance(stopped, BroadcastStopped)
    assert {fact.activity for fact in (started, active, ending, stopped)} == {"EG_1"}
    assert active.started_at == 1_786_000_033 * S
    assert (stopped.at, stopped.reason, stopped.vendor_reason) == (
        1_786_000_133 * S,
        "normal",
        "End reason: StopEgress API",
    )


@pytest.mark.parametrize(
    "info",
    [
        {"streamResults": [{"url": "rtmp://live.example/app/STREAMKEY", "startedAt": "1"}]},
        {"stream": {"info": [{"url": "rtmp://live.example/app/STREAMKEY"}]}},
        {
            "web": {
                "url": "https://x.example/?token=STREAMKEY",
                "stream": {"urls": ["srt://live.example?streamid=STREAMKEY"]},
            }
        },
        {"track": {"trackId": "TR_1", "websocketUrl": "wss://x.example/STREAMKEY"}},
        {"egress": {"outputs": [{"stream": {"urls": ["rtmps://live.example/app/STREAMKEY"]}}]}},
    ],
)
def test_a_broadcast_is_known_by_request_or_result_of_any_version(info: Json) -> None:
    (started,) = egress("egress_started", RUNNING, info)
    assert isinstance(started, BroadcastStarted)
    assert b"STREAMKEY" not in msgspec.json.encode(started)


@pytest.mark.parametrize(
    "info",
    [
        FILE,
        {},
        {"participant": {"identity": "alice"}},
        {"fileResults": [{"filename": "x.mp4"}]},
        {"segmentResults": [{"playlistName": "x.m3u8"}]},
        {"imageResults": [{"filenamePrefix": "x"}]},
        {"track": {"trackId": "TR_1", "file": {"filepath": "x"}}},
        {"web": {"url": "https://x.example", "segmentOutputs": [{"filenamePrefix": "x"}]}},
        {"egress": {"outputs": [{"file": {"filepath": "x"}}]}},
    ],
)
def test_an_egress_with_file_outputs_or_none_is_a_recording(info: Json) -> None:
    (started,) = egress("egress_started", RUNNING, info)
    assert isinstance(started, RecordingStarted)


TARGETS = [
    {"url": "rtmp://a.example/app/STREAMKEY", "startedAt": "1786000033000000000"},
    {"url": "rtmp://b.example/app/STREAMKEY", "retries": 2, "status": "FAILED", "error": "rtmp://b.example/app/STREAMKEY: EOF"},
]  # fmt: skip


def test_a_change_of_a_broadcasts_target_is_an_update_that_shows_each_target_without_its_key() -> None:
    (update,) = egress("egress_updated", RUNNING, {"status": "EGRESS_ACTIVE", "streamResults": TARGETS})
    assert isinstance(update, BroadcastUpdated)
    assert update.detail["targets"] == [
        {"url": "rtmp://a.example/…", "status": "ACTIVE"},
        {"url": "rtmp://b.example/…", "status": "FAILED", "error": "rtmp://b.example/… EOF", "retries": 2},
    ]
    assert b"STREAMKEY" not in msgspec.json.encode(update)
    (by_number,) = egress("egress_updated", RUNNING, {"status": 1, "streamResults": [TARGETS[1] | {"status": 2}]})
    assert by_number.detail["targets"][0]["status"] == "FAILED"


def test_the_last_state_of_every_target_stands_at_the_end_of_a_broadcast() -> None:
    (stopped,) = egress("egress_ended", OVER, RTMP, {"status": "EGRESS_COMPLETE", "streamResults": TARGETS})
    assert isinstance(stopped, BroadcastStopped)
    assert [target["status"] for target in stopped.detail["targets"]] == ["ACTIVE", "FAILED"]


WEB = {"web": {"url": "https://player.example/?token=STREAMKEY", "fileOutputs": [{"filepath": "show.mp4"}]}}


def test_an_egress_of_a_web_page_is_a_recording_in_a_session_of_its_own() -> None:
    info = {"egressId": "EG_w"} | WEB
    started = facts_from("egress_started", egressInfo=info, createdAt="1786000032")
    ended = facts_from(
        "egress_ended",
        egressInfo=info
        | {"status": "EGRESS_COMPLETE", "startedAt": "1786000033000000000", "endedAt": "1786000133000000000"},
        createdAt="1786000134",
    )
    assert kinds(started) == ["recording.started", "session.started"]
    assert kinds(ended) == ["recording.stopped", "recording.ready", "session.ended"]
    assert {run_of(fact) for fact in started + ended} == {"EG_w"}
    assert {fact.place.ids for fact in started + ended if fact.place} == {(("egress_id", "EG_w"),)}
    assert not [fact for fact in started + ended if fact.anomalies]
    assert b"STREAMKEY" not in msgspec.json.encode(started + ended)


def test_a_web_page_that_is_sent_to_a_stream_is_a_broadcast_in_a_session_of_its_own() -> None:
    info = {
        "egressId": "EG_w",
        "web": {"url": "https://x.example", "streamOutputs": [{"urls": ["rtmp://a.example/k"]}]},
    }
    assert kinds(facts_from("egress_started", egressInfo=info)) == ["broadcast.started", "session.started"]
    failed = facts_from("egress_ended", egressInfo=info | {"status": "EGRESS_FAILED", "error": "no signal"})
    assert kinds(failed) == ["broadcast.stopped", "session.ended"]
    assert getattr(failed[1], "reason", None) == "server_failure"


def test_an_update_of_a_web_egress_neither_begins_nor_ends_its_session() -> None:
    assert kinds(facts_from("egress_updated", egressInfo={"egressId": "EG_w"} | WEB)) == ["recording.processing"]


def test_an_egress_that_names_its_room_only_in_its_request_belongs_to_that_room() -> None:
    for request in ({"roomComposite": {"roomName": "r"}}, {"track_composite": {"room_name": "r"}}):
        (started,) = facts_from("egress_started", egressInfo={"egressId": "EG_1"} | request, createdAt="1786000032")
        assert started.place is not None
        assert (started.place.run, started.place.room) == (None, "r")


def test_an_egress_with_neither_room_nor_id_is_unreadable() -> None:
    fact = only(Unknown, "egress_ended", egressInfo=WEB)
    assert fact.anomalies == (("unreadable", "egress_ended without room and egressInfo.egressId"),)


def test_an_egress_may_be_a_recording_and_a_broadcast() -> None:
    assert kinds(egress("egress_started", RUNNING, BOTH)) == ["recording.started", "broadcast.started"]
    facts = facts_from("egress_ended", egressInfo=OVER | BOTH | {"status": "EGRESS_COMPLETE"}, numDropped=1)
    assert kinds(facts) == ["recording.stopped", "recording.ready", "broadcast.stopped"]
    assert [len(fact.anomalies) for fact in facts] == [1, 0, 0], "a loss is reported once"


def test_the_location_of_a_segmented_recording_is_its_playlist() -> None:
    results = [
        {"playlistLocation": "https://user:pw@s.example/a.m3u8?X-Signature=abc", "duration": "9000000000", "size": "7"}
    ]
    _, ready = egress("egress_ended", OVER, {"segmentResults": results, "status": "EGRESS_COMPLETE"})
    assert isinstance(ready, RecordingReady)
    assert (ready.url, ready.duration_ms, ready.size_bytes) == ("https://s.example/a.m3u8", 9_000, 7)


# --- ingress and agents ----------------------------------------------------------------------------------------------


def test_an_ingress_finds_its_run_whatever_the_version() -> None:
    for name in ("ingress_started", "ingress_ended"):
        assert facts_of(name) == facts_of(f"{name}/released-no-room")
    info = {"ingressId": "IN_1", "roomName": "standup", "state": {"startedAt": "1786000035000000000"}}
    started = only(IngressStarted, "ingress_started", ingressInfo=info, createdAt="1786000036")
    assert started.place is not None
    assert (started.place.run, started.place.room, started.place.at) == (None, "standup", 1_786_000_035 * S)


def test_an_ingress_states_its_start_and_end() -> None:
    started = sample(IngressStarted, "ingress_started")
    ended = sample(IngressEnded, "ingress_ended")
    assert started.activity == ended.activity == "IN_fixtureWhip01"
    assert started.at == ended.started_at == 1_786_000_035 * S
    assert (ended.at, ended.reason, ended.identity) == (1_786_000_101 * S, "normal", "obs-1")
    assert started.detail["input_type"] == "WHIP_INPUT"
    assert started.detail["status"] == "ENDPOINT_PUBLISHING"


def test_a_failed_ingress_has_its_reason_without_its_key() -> None:
    state = {
        "status": "ENDPOINT_ERROR",
        "roomId": "RM_1",
        "error": "cannot read rtmp://in.example/app/STREAMKEY: refused",
    }
    ended = only(
        IngressEnded, "ingress_ended", ingressInfo={"ingressId": "IN_1", "state": state}, createdAt="1786000101"
    )
    assert (ended.reason, ended.vendor_reason) == ("server_failure", "cannot read rtmp://in.example/… refused")


def test_an_agents_job_has_a_start_and_an_end() -> None:
    started = sample(AgentJobStarted, "agent_job_started")
    ended = sample(AgentJobEnded, "agent_job_ended")
    assert started.activity == ended.activity == "AJ_fixture000001"
    assert started.at == ended.started_at == 1_786_000_045 * S
    assert (ended.at, ended.reason, ended.vendor_reason) == (1_786_000_060 * S, "normal", "JS_SUCCESS")
    assert started.detail["agent_name"] == "notetaker"
    assert started.place is not None
    assert ("job_id", "AJ_fixture000001") in started.place.ids
    inside = only(AgentJobStarted, "agent_job_started", job={"id": "AJ_1", "room": ROOM})
    assert run_of(inside) == "RM_1"


# --- what is new, missing or broken ----------------------------------------------------------------------------------


def test_an_unknown_event_is_placed_in_its_session_and_shown_raw() -> None:
    unknown = sample(Unknown, "unknown/event-type")
    assert unknown.detail == {
        "event": "room_metadata_updated",
        "room": {"sid": TWO, "name": "daily-standup", "metadata": "x"},
    }
    assert (unknown.at, unknown.clock, run_of(unknown)) == (1_786_000_400 * S, "server", TWO)
    assert unknown.anomalies == (("unknown_event", "room_metadata_updated"),)


def test_an_unknown_field_is_shown_beside_what_is_known() -> None:
    joined = only(
        ParticipantJoined,
        "participant_joined",
        room=ROOM,
        participant=ALICE,
        dequeuedAt="1",
        cloud={"region": "eu"},
        sipToken="x",
    )
    assert joined.detail == {"dequeuedAt": "1", "cloud": {"region": "eu"}}


def test_snake_case_is_read_as_well() -> None:
    person = {"sid": "PA_1", "identity": "a", "joined_at_ms": "1786000009481", "disconnect_reason": "MIGRATION"}
    left = only(ParticipantLeft, "participant_left", room=ROOM, participant=person, created_at="1786000020")
    assert (left.joined_at, left.at, left.reason) == (1_786_000_009_481_000, 1_786_000_020 * S, "migrated")


@pytest.mark.parametrize("event", [event for event in KINDS if KINDS[event] != ["unknown"]])
def test_an_event_without_other_fields_is_unreadable(event: str) -> None:
    fact = only(Unknown, event)
    # An egress may be of a web page, which has no room.
    missing = "egressInfo" if event.startswith("egress_") else "room"
    assert fact.anomalies == (("unreadable", f"{event} without {missing}"),)
    assert (fact.at, fact.clock, fact.place, fact.detail) == (RECEIVED, "receiver", None, {"event": event})


@pytest.mark.parametrize("event", [event for event in KINDS if not event.startswith("room_")])
def test_an_event_without_its_subject_is_unreadable_but_placed_in_its_session(event: str) -> None:
    fact = only(Unknown, event, room=ROOM, createdAt="1786000000")
    assert [kind for kind, _ in fact.anomalies] == ["unreadable"]
    assert (run_of(fact), fact.at) == ("RM_1", 1_786_000_000 * S)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"7", b'"room_started"', b"{", b"\xff\xfe\x00", b"{}", b'{"event":7}', b'{"event":""}',
        b'{"event":null,"room":{"sid":"RM_1"}}', b'{"event":"room_started","room":[]}', b'{"event":"room_started","room":"x"}',
        b'{"a":' * 99_999, b'{"event":"room_started","x":' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"event":"room_started","n":' + b"9" * 5_000 + b"}",
    ],
)  # fmt: skip
def test_an_unreadable_body_is_an_unknown_event(body: bytes) -> None:
    (fact,) = interpret(record_of(body))
    assert isinstance(fact, Unknown)
    assert "unreadable" in dict(fact.anomalies)
    assert fact.clock == "receiver"


@pytest.mark.parametrize("created_at", ["soon", -1, "99999999999999", 1.5, True, [], "1786000000.5"])
def test_an_impossible_time_is_replaced_by_the_arrival_and_reported(created_at: object) -> None:
    joined = only(ParticipantLeft, "participant_left", room=ROOM, participant={"sid": "PA_1"}, createdAt=created_at)
    assert (joined.at, joined.clock, joined.precision) == (RECEIVED, "receiver", "us")
    assert [kind for kind, _ in joined.anomalies] == ["clock_skew"]


@pytest.mark.parametrize("created_at", ["1786000000", 1786000000, 1786000000.0])
def test_a_time_may_be_a_string_or_a_number(created_at: object) -> None:
    left = only(ParticipantLeft, "participant_left", room=ROOM, participant={"sid": "PA_1"}, createdAt=created_at)
    assert (left.at, left.clock, left.anomalies) == (1_786_000_000 * S, "server", ())


# --- what must never be shown ----------------------------------------------------------------------------------------

SECRETS = re.compile(rb"SECRETSTREAMKEYx|6bJ5xqk|ICkSr2r|2Pvdj|ingress\.example\.org/w|\{access_key\}|\{secret\}|eyJ")


@pytest.mark.parametrize("sample", EVERY_SAMPLE)
def test_no_sample_shows_a_secret(sample: Json) -> None:
    facts = interpret(recorded(source_of(sample).verify(delivery_of(sample))))
    assert not SECRETS.search(msgspec.json.encode(facts))


HIDDEN = "HIDDENHIDDEN"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJBUEkifQ." + HIDDEN


@pytest.mark.parametrize("event", [*KINDS, "ingress_updated", ""])
def test_secrets_of_any_object_stay_in_the_raw_record(event: str) -> None:
    address = f"rtmp://user:{HIDDEN}@live.example/app/{HIDDEN}"
    text = json.dumps(
        {"apiKey": HIDDEN, "deep": json.dumps({"password": HIDDEN, "join": f"https://x.example/{HIDDEN}"})}
    )
    error = f"failed at {address}, {JWT}, wss:\\/\\/x.example\\/{HIDDEN}"
    outputs = {"fileOutputs": [{"s3": {"accessKey": HIDDEN, "secret": HIDDEN}}], "streamOutputs": [{"urls": [address]}]}
    fields: Json = {
        "room": FULL | {"turnPassword": HIDDEN, "metadata": text},
        "participant": ALICE | {"metadata": text, "attributes": {"a": address, "joinToken": HIDDEN, "b": JWT}},
        "track": {"sid": "TR_1", "encryptionKey": HIDDEN},
        "egressInfo": OVER | {
            "status": "EGRESS_FAILED", "error": error, "details": error, "roomComposite": outputs,
            "streamResults": [{"url": address}], "fileResults": [{"location": f"https://s.example/a.mp4?X-Amz-Signature={HIDDEN}"}],
            "manifestLocation": f"https://s.example/m.json?sig={HIDDEN}",
        },
        "ingressInfo": {
            "ingressId": "IN_1", "streamKey": HIDDEN, "url": address, "name": address, "participantName": JWT,
            "state": {"error": error, "roomId": "RM_1"},
        },
        "job": {"id": "AJ_1", "room": FULL, "state": {"error": error}, "metadata": text},
        "createdAt": "1786000134",
        "newField": address, "newObject": {"token": HIDDEN, "list": [address, JWT, text]}, "newToken": HIDDEN,
    }  # fmt: skip
    facts = facts_from(event, **fields)
    assert HIDDEN not in msgspec.json.encode(facts).decode()


def test_an_ordinary_text_is_shown_as_it_is() -> None:
    texts = {"metadata": '{"b": 1,  "a": "ä"}', "attributes": {"note": "a: b // c, 5 > 3"}}
    joined = only(ParticipantJoined, "participant_joined", room=ROOM, participant=ALICE | texts)
    assert joined.detail == texts


# --- arbitrary input -------------------------------------------------------------------------------------------------


def reading_is_sound(body: bytes) -> None:
    record = record_of(body)
    facts = interpret(record)
    assert facts
    assert facts == interpret(record)
    assert msgspec.json.decode(msgspec.json.encode(facts), type=tuple[AnyFact, ...]) == facts
    for fact in facts:
        assert msgspec.json.decode(msgspec.json.encode(fact.detail)) == fact.detail
    record.event.encode()
    record.dedupe_key.encode()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_interpreted_without_raising(body: bytes) -> None:
    reading_is_sound(body)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=8)
    | st.integers(-(10**20), 10**20).map(str)
    | st.sampled_from(["{}", "[[]]", "1e999", '"\\ud800"', "rtmp://a/b", "NaN", "EGRESS_FAILED"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
BODIES: list[Json] = [json.loads(sample["body_text"]) for sample in SAMPLES if "#" not in sample["name"]]


def places_of(value: Json, *path: str) -> list[tuple[str, ...]]:
    inner = [
        place for name, field in value.items() if isinstance(field, dict) for place in places_of(field, *path, name)
    ]
    return [*((*path, name) for name in value), *inner]


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_any_mutation_of_a_sample_is_interpreted_without_raising(data: st.DataObject) -> None:
    body = json.loads(json.dumps(data.draw(st.sampled_from(BODIES))))
    for path in data.draw(st.lists(st.sampled_from(places_of(body)), max_size=4, unique=True)):
        inner = body
        for name in path[:-1]:
            inner = inner.get(name, {}) if isinstance(inner, dict) else {}
        if not isinstance(inner, dict):
            continue
        if data.draw(st.booleans()):
            inner.pop(path[-1], None)
        else:
            inner[path[-1]] = data.draw(JSON)
    reading_is_sound(json.dumps(body).encode())


def test_json_nested_in_texts_is_read_without_raising() -> None:
    text = "[]"
    for _ in range(12):
        text = json.dumps(["[" * 40 + text + "]" * 40])[: 1 << 20]
        text = json.dumps([text])
    reading_is_sound(json.dumps({"event": "new", "room": ROOM | {"metadata": text}, "x": text}).encode())


# --- docs ------------------------------------------------------------------------------------------------------------


def test_the_page_lists_what_every_event_becomes() -> None:
    page = (TESTS.parent / "docs" / "reference" / "vendors" / "livekit.md").read_text("utf-8")
    assert "| vendor event | timeline kind |" in page
    table = page.split("| vendor event | timeline kind |\n|---|---|\n")[1].split("\n\n")[0]
    rows = [re.findall(r"`([^`]+)`", row) for row in table.splitlines()]
    documented: dict[str, set[str]] = {}
    for name, *_, kind in rows[:-1]:
        documented.setdefault(name, set()).add(kind)
    assert set(documented) == set(KINDS) - {"room_metadata_updated"}
    assert rows[-1] == ["unknown"]
    for sample in SAMPLES:
        facts = interpret(recorded(source_of(sample).verify(delivery_of(sample))))
        assert set(kinds(facts)) <= documented.get(sample["event"], set()) | {"unknown"}
    shown = {kind for sample in SAMPLES for kind in kinds(facts_of(sample["name"]))}
    broadcasts = {
        kind
        for event in ("egress_started", "egress_updated", "egress_ended")
        for kind in kinds(egress(event, OVER, RTMP))
    }
    ends = {
        kind
        for status in ("FAILED", "ABORTED", "LIMIT_REACHED")
        for kind in kinds(egress("egress_ended", OVER, FILE, {"status": f"EGRESS_{status}"}))
    }
    assert {kind for found in documented.values() for kind in found} | {"unknown"} == shown | broadcasts | ends


def test_the_page_lists_every_reason() -> None:
    page = (TESTS.parent / "docs" / "reference" / "vendors" / "livekit.md").read_text("utf-8")
    for theirs, ours in re.findall(r"^\| `([A-Z_]+)` \| `([a-z_]+)` \|$", page, re.MULTILINE):
        if theirs.startswith("ROOM_END_"):
            (fact,) = facts_from("room_finished", room=FULL, roomEndReason=theirs)
        elif theirs.startswith("EGRESS_"):
            fact = egress("egress_ended", OVER, FILE, {"status": theirs})[-1]
        elif theirs.startswith("JS_"):
            (fact,) = facts_from("agent_job_ended", job={"id": "AJ_1", "room": ROOM, "state": {"status": theirs}})
        else:
            (fact,) = facts_from("participant_left", room=ROOM, participant=ALICE | {"disconnectReason": theirs})
        assert getattr(fact, "reason", None) == ours, theirs
