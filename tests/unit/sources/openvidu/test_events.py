"""OpenVidu 2: proofs by a fixed header, dedupe keys, and the interpretation of every event of every version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.paths import SAMPLES
from tracker.domain.deliveries import Delivery, Record, Verified
from tracker.errors import SignatureMismatch, SignatureMissing
from tracker.domain.facts import (
    AnyFact,
    BroadcastStarted,
    BroadcastStopped,
    Fact,
    FilterEvent,
    NodeCrashed,
    NodeStatus,
    ParticipantJoined,
    ParticipantLeft,
    RecordingFact,
    RecordingProcessing,
    RecordingReady,
    RecordingStarted,
    RecordingStopped,
    SessionCreated,
    SessionEnded,
    SignalSent,
    StreamFact,
    StreamPublished,
    StreamUnpublished,
    SubscriptionEnded,
    SubscriptionStarted,
    Unknown,
)
from tracker.sources.contract import Source, SourceSettings
from tracker.sources.openvidu.events import interpret
from tracker.sources.openvidu.source import RULES, OpenviduSource
from tracker.sources.openvidu.wire import Event


F = TypeVar("F", bound=Fact)
RECEIVED = 1_800_000_000_123_456
SECRETS = ("first-secret", "zweites-Geheimnis-é")
SOURCE: Source = OpenviduSource(SourceSettings(name="ov", vendor="openvidu", secrets=SECRETS, header="X-Hook-Key"))

KINDS = {
    "sessionCreated": "session.created",
    "sessionDestroyed": "session.ended",
    "participantJoined": "participant.joined",
    "participantLeft": "participant.left",
    "webrtcConnectionCreated OUTBOUND": "stream.published",
    "webrtcConnectionCreated INBOUND": "subscription.started",
    "webrtcConnectionDestroyed OUTBOUND": "stream.unpublished",
    "webrtcConnectionDestroyed INBOUND": "subscription.ended",
    "recordingStatusChanged started": "recording.started",
    "recordingStatusChanged stopped": "recording.stopped",
    "recordingStatusChanged ready": "recording.ready",
    "recordingStatusChanged failed": "recording.failed",
    "recordingStarted": "recording.started",
    "recordingStopped": "recording.stopped",
    "signalSent": "signal.sent",
    "filterEventDispatched": "filter.event",
    "nodeCrashed": "node.crashed",
    "nodeRecovered": "node.recovered",
    "mediaNodeStatusChanged": "node.status",
    "autoscaling": "node.status",
    "HANodeRegistered": "node.status",
    "HANodeDeregistered": "node.status",
}


def delivery(headers: dict[str, str], body: bytes = b"{}") -> Delivery:
    return Delivery(source="ov", body=body, received_at=RECEIVED, headers=headers)


def admitted(body: bytes, **proof: str | int) -> Verified:
    return SOURCE.verify_trusted(body, received_at=RECEIVED, proof=proof)


def record_of(body: bytes, **proof: str | int) -> Record:
    return Record(position=1, **msgspec.structs.asdict(admitted(body, **proof)))


def facts_from(event: str, **inner: Any) -> tuple[Fact, ...]:
    return interpret(record_of(json.dumps({**inner, "event": event}).encode()))


def only(kind: type[F], event: str, **inner: Any) -> F:
    (fact,) = facts_from(event, **inner)
    assert isinstance(fact, kind)
    return fact


def lines(*names: str) -> Iterator[tuple[str, int, bytes]]:
    for name in names:
        for number, line in enumerate((SAMPLES / name).read_bytes().splitlines(), 1):
            yield name, number, line


EVERY_LINE = [
    pytest.param(line, id=f"{name}:{number}")
    for name, number, line in lines("openvidu2-webhook.jsonl", "openvidu2-cdr.jsonl", "openvidu2-timelines.jsonl")
]


# --- proofs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("secret", "key"), [(SECRETS[0], 0), (SECRETS[1], 1)])
def test_a_delivery_with_any_of_the_secrets_is_authentic_and_the_proof_names_the_key(secret: str, key: int) -> None:
    verified = SOURCE.verify(delivery({"x-hook-key": secret}, b'{"event":"sessionCreated"}'))

    assert json.loads(verified.proof) == {"scheme": "header", "header": "X-Hook-Key", "key": key}
    assert (verified.source, verified.vendor, verified.event) == ("ov", "openvidu", "sessionCreated")
    assert (verified.origin, verified.received_at) == ("webhook", RECEIVED)
    assert verified.body == b'{"event":"sessionCreated"}'


def test_a_delivery_without_the_header_carries_no_proof() -> None:
    with pytest.raises(SignatureMissing, match="OPENVIDU_WEBHOOK_HEADERS"):
        SOURCE.verify(delivery({"authorization": SECRETS[0]}))


@pytest.mark.parametrize(
    "wrong", ["", "first-secre", "first-secret2", "FIRST-SECRET", "Basic first-secret", "\udce9", "\ud83d"]
)
def test_a_wrong_header_is_refused_and_the_error_shows_no_secret(wrong: str) -> None:
    with pytest.raises(SignatureMismatch) as refused:
        SOURCE.verify(delivery({"x-hook-key": wrong}))

    assert not any(secret in str(refused.value) for secret in SECRETS)


def test_a_source_without_secrets_refuses_every_delivery() -> None:
    source = OpenviduSource(SourceSettings(name="ov", vendor="openvidu", secrets=("",)))
    with pytest.raises(SignatureMismatch):
        source.verify(delivery({"authorization": ""}))


def test_no_secret_is_stored_or_printed() -> None:
    verified = SOURCE.verify(delivery({"x-hook-key": SECRETS[0]}))
    assert SECRETS[0] not in repr(verified) + repr(SOURCE)


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", EVERY_LINE)
def test_a_webhook_and_its_cdr_line_have_one_key(line: bytes) -> None:
    fields = json.loads(line)
    name = fields.pop("event", None) or next(iter(fields))
    inner = fields.get(name, fields)
    shuffled = dict(reversed(inner.items()))

    as_webhook = admitted(json.dumps({"event": name, **shuffled}, indent=1, ensure_ascii=False).encode())
    as_cdr_line = admitted(json.dumps({name: inner}).encode())

    assert admitted(line).dedupe_key == as_webhook.dedupe_key == as_cdr_line.dedupe_key
    assert admitted(line).event == as_webhook.event == as_cdr_line.event == name


def test_the_key_is_the_hash_of_the_canonical_name_and_fields() -> None:
    body = '{"timestamp": 1.0, "sessionId": "Räume", "event": "sessionCreated"}'
    canonical = '["sessionCreated",{"sessionId":"Räume","timestamp":1}]'
    assert admitted(body.encode()).dedupe_key == hashlib.sha256(canonical.encode()).hexdigest()


ANY_TEXT = st.text(st.characters(codec=None), max_size=8)
ANY_FIELDS = st.dictionaries(
    ANY_TEXT,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(ANY_FIELDS)
def test_the_canonical_text_equals_pythons_json(fields: dict[str, Any]) -> None:
    # Keys are stored for ever: a faster encoder has to write the same bytes.
    text = json.dumps(["filterEventDispatched", fields], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    event = Event(name="filterEventDispatched", fields=fields, is_json=True, value=fields)
    assert event.canonical == text.encode("utf-8", "surrogatepass")


def test_events_that_differ_in_one_field_have_two_keys() -> None:
    keys = {admitted(line).dedupe_key for name in ("openvidu2-timelines.jsonl",) for _, _, line in lines(name)}
    assert len(keys) == 58


def recording(**fields: Any) -> dict[str, Any]:
    return {"id": "R", "startTime": 1000, "timestamp": 2000, "status": "stopped", "size": 0, "duration": 0.0, **fields}


def test_a_recording_event_is_the_same_whatever_size_it_was_printed_with() -> None:
    webhook = admitted(json.dumps({**recording(size=9, duration=8.6), "event": "recordingStatusChanged"}).encode())
    cdr_line = admitted(json.dumps({"recordingStatusChanged": recording()}).encode())
    assert webhook.dedupe_key == cdr_line.dedupe_key


@pytest.mark.parametrize("other", [{"id": "S"}, {"startTime": 1001}, {"timestamp": 2001}, {"status": "ready"}])
def test_a_recording_event_differs_by_id_start_status_and_time(other: dict[str, Any]) -> None:
    one = admitted(json.dumps({"recordingStatusChanged": recording()}).encode())
    two = admitted(json.dumps({"recordingStatusChanged": recording(**other)}).encode())
    assert one.dedupe_key != two.dedupe_key


@pytest.mark.parametrize(
    "body", [b"", b"not json", b'{"a":1,"a":2}', b'{"a":NaN}', b'{"a":1e999}', b"\xff\xfe", b"{" * 9999]
)
def test_the_key_of_a_body_that_is_not_json_is_of_its_bytes(body: bytes) -> None:
    assert admitted(body).dedupe_key == hashlib.sha256(body).hexdigest()


def test_a_list_that_looks_like_a_canonical_event_does_not_take_its_key() -> None:
    event = admitted(b'{"sessionCreated":{"sessionId":"S"}}')
    assert admitted(b'["sessionCreated",{"sessionId":"S"}]').dedupe_key != event.dedupe_key


def test_an_imported_record_keeps_its_proof() -> None:
    verified = admitted(b'{"sessionCreated":{}}', file="CDR.2024-05-03_10-00-00.log", line=7, run="10-00-00")
    assert verified.origin == "import"
    assert json.loads(verified.proof) == {"file": "CDR.2024-05-03_10-00-00.log", "line": 7, "run": "10-00-00"}


# --- interpretation of samples ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", EVERY_LINE)
def test_every_sample_becomes_the_facts_of_the_table(line: bytes) -> None:
    fields = json.loads(line)
    name = fields.pop("event", None) or next(iter(fields))
    inner = fields.get(name, fields)
    variant = inner.get("connection") if name.startswith("webrtc") else inner.get("status", "")
    facts = interpret(record_of(line))

    assert {type(fact).__struct_config__.tag for fact in facts} == {KINDS[f"{name} {variant}".strip()]}
    assert all(fact.anomalies == () and fact.at == inner["timestamp"] * 1000 for fact in facts)
    assert facts == interpret(record_of(line)), "reading is pure"
    assert msgspec.json.decode(msgspec.json.encode(facts), type=tuple[AnyFact, ...]) == facts
    if "sessionId" in inner:
        (fact,) = facts
        assert fact.place is not None
        assert fact.place.room == inner["sessionId"]
        assert fact.place.run == inner.get("uniqueSessionId", fact.place.run)
        assert fact.place.at == inner.get("startTime", inner["timestamp"]) * 1000


def test_a_session_without_a_run_id_gets_the_key_that_newer_versions_send() -> None:
    created = only(SessionCreated, "sessionCreated", sessionId="My", timestamp=1564400000000)
    ended = only(
        SessionEnded,
        "sessionDestroyed",
        sessionId="My",
        timestamp=1564400080920,
        startTime=1564400000000,
        reason="lastParticipantLeft",
    )
    assert created.place is not None
    assert ended.place is not None
    assert created.place.run == ended.place.run == "My_1564400000000"
    assert created.place.starts_at == ended.place.starts_at == created.started_at == 1564400000000000
    assert created.place.ids == (("sessionId", "My"), ("uniqueSessionId", "My_1564400000000"))
    assert ended.place.ends_at == ended.at == 1564400080920000
    assert (ended.reason, ended.vendor_reason) == ("normal", "lastParticipantLeft")


def test_any_event_with_a_unique_session_id_gives_the_start_of_its_run() -> None:
    joined = only(
        ParticipantJoined,
        "participantJoined",
        sessionId="a_b",
        uniqueSessionId="a_b_1714770057250",
        timestamp=1714770058750,
        connectionId="con_1",
    )
    assert joined.place is not None
    assert (joined.place.run, joined.place.starts_at) == ("a_b_1714770057250", 1714770057250000)


def test_a_short_number_in_a_unique_session_id_is_no_start() -> None:
    signal = only(SignalSent, "signalSent", sessionId="S", uniqueSessionId="S_1", timestamp=1795227538222)
    assert signal.place is not None
    assert (signal.place.run, signal.place.room, signal.place.starts_at) == ("S_1", "S", None)


@pytest.mark.parametrize("unique", ["weird", "weird_", "weird_7", "weird_99999999999999999999", "_"])
def test_a_unique_session_id_of_another_shape_is_still_the_run(unique: str) -> None:
    joined = only(ParticipantJoined, "participantJoined", uniqueSessionId=unique, timestamp=5, connectionId="c")
    assert joined.place is not None
    assert (joined.place.run, joined.place.starts_at, joined.place.room) == (unique, None, None)


def test_a_leave_states_its_join_and_a_missing_reason_is_unknown() -> None:
    left = only(
        ParticipantLeft, "participantLeft", sessionId="S", timestamp=9000, startTime=4000, participantId="con_1"
    )
    assert (left.connection, left.identity, left.joined_at, left.keyed_by_join) == ("con_1", "con_1", 4000000, True)
    assert (left.reason, left.vendor_reason) == ("unknown", None)
    assert left.place is not None
    assert left.place.at == 4000000


@pytest.mark.parametrize(
    ("vendor_reason", "reason"),
    [
        ("lastParticipantLeft", "normal"),
        ("sessionClosedByServer", "closed_by_server"),
        ("mediaServerDisconnect", "server_failure"),
        ("mediaServerReconnect", "server_failure"),
        ("nodeCrashed", "server_failure"),
        ("openviduServerStopped", "server_shutdown"),
        ("automaticStop", "timeout"),
        ("disconnect", "left"),
        ("forceDisconnectByUser", "removed"),
        ("forceDisconnectByServer", "removed"),
        ("networkDisconnect", "network_lost"),
        ("unsubscribe", "normal"),
        ("unpublish", "normal"),
        ("forceUnpublishByUser", "removed"),
        ("forceUnpublishByServer", "removed"),
        ("recordingStoppedByServer", "normal"),
        ("broadcastStoppedByServer", "normal"),
        ("somethingNew", "unknown"),
    ],
)
def test_every_end_reason_is_mapped_and_the_vendors_kept(vendor_reason: str, reason: str) -> None:
    left = only(ParticipantLeft, "participantLeft", sessionId="S", timestamp=9, connectionId="c", reason=vendor_reason)
    assert (left.reason, left.vendor_reason) == (reason, vendor_reason)


@pytest.mark.parametrize("number", [99, -1, 0, 2**70])
def test_an_enumeration_value_that_is_a_number_is_kept_beside_a_neutral_value(number: int) -> None:
    left = only(ParticipantLeft, "participantLeft", sessionId="S", timestamp=9, connectionId="c", reason=number)
    assert (left.reason, left.vendor_reason) == ("unknown", str(number))
    step = only(RecordingProcessing, "recordingStatusChanged", sessionId="S", timestamp=9, id="R", status=number)
    assert step.status == str(number)


@pytest.mark.parametrize(
    ("client_data", "name"),
    [
        ("Mike", "Mike"),
        ('{"clientData":"Mike"}', "Mike"),
        ('{"nome":"João","ruolo":1}', "João"),
        ('{"nickname":" Ana "}', "Ana"),
        ('"Mike"', "Mike"),
        ("007", "007"),
        ('{"role":"x"}', None),
        ("[]", None),
        ("null", None),
        ("", None),
        (None, None),
        (7, None),
        ("\ud800", "\ufffd"),
    ],
)
def test_a_name_is_read_from_client_data(client_data: object, name: str | None) -> None:
    joined = only(
        ParticipantJoined, "participantJoined", sessionId="S", timestamp=9, connectionId="c", clientData=client_data
    )
    assert joined.name == name


def test_a_camera_is_not_a_person_and_unknown_is_no_location() -> None:
    def joined(**more: Any) -> ParticipantJoined:
        return only(ParticipantJoined, "participantJoined", **{"sessionId": "S", "timestamp": 9, **more})

    assert joined(connectionId="ipc_x").person == joined(connectionId="x", platform="IPCAM").person == "ipcam"
    person = joined(
        connectionId="con_x", platform="Chrome", location="unknown", ip="10.0.0.1", serverData="sd", role="P"
    )
    assert (person.person, person.platform, person.location, person.ip) == ("standard", "Chrome", None, "10.0.0.1")
    assert person.detail == {"serverData": "sd", "role": "P"}


def leg(direction: str, **more: Any) -> dict[str, Any]:
    return {"sessionId": "S", "timestamp": 9, "connectionId": "c", "connection": direction, **more}


@pytest.mark.parametrize(
    ("fields", "media", "label"),
    [
        ({"audioEnabled": True, "videoEnabled": True, "videoSource": "SCREEN"}, "audio+video", "screen"),
        ({"audioEnabled": False, "videoEnabled": True, "videoSource": "CAMERA"}, "video", "camera"),
        ({"audioEnabled": True, "videoEnabled": False}, "audio", "microphone"),
        ({"audioEnabled": False, "videoEnabled": False}, None, None),
        ({}, None, None),
    ],
)
def test_the_media_of_a_stream_are_read(fields: dict[str, Any], media: str | None, label: str | None) -> None:
    stream = only(StreamPublished, "webrtcConnectionCreated", **leg("OUTBOUND", streamId="str_1", **fields))
    assert (stream.media, stream.label, stream.stream, stream.keyed_by_start) == (media, label, "str_1", True)


def test_a_stream_without_an_id_is_named_by_its_publisher() -> None:
    published = only(StreamFact, "webrtcConnectionCreated", **leg("OUTBOUND"))
    ended = only(StreamUnpublished, "webrtcConnectionDestroyed", **leg("OUTBOUND", startTime=5))
    received = only(SubscriptionStarted, "webrtcConnectionCreated", **leg("INBOUND", receivingFrom="p"))
    stopped = only(SubscriptionEnded, "webrtcConnectionDestroyed", **leg("INBOUND", receivingFrom="p", startTime=5))
    assert (published.stream, ended.stream, ended.started_at) == ("c", "c", 5000)
    assert (received.stream, received.connection, received.publisher) == ("p", "c", "p")
    assert (stopped.stream, stopped.started_at) == ("p", 5000)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [('{"width":640,"height":480}', {"width": 640, "height": 480}), ("1920x1080", "1920x1080"), (None, None)],
)
def test_video_dimensions_are_parsed_where_they_can_be(raw: object, shown: object) -> None:
    stream = only(StreamPublished, "webrtcConnectionCreated", **leg("OUTBOUND", videoDimensions=raw))
    assert stream.detail["videoDimensions"] == shown


@pytest.mark.parametrize(
    "uri",
    [
        "rtsp://admin:s3cret@cam.example/live",
        "rtsp://admin:s3cret/@x@cam.example/live",
        "rtsp://cam.example/live?user=admin&password=s3cret",
        "rtsp://cam.example/user=admin&password=s3cret&channel=1",
    ],
)
def test_a_camera_address_is_shown_without_its_password(uri: str) -> None:
    stream = only(StreamPublished, "webrtcConnectionCreated", **leg("OUTBOUND", rtspUri=uri, token="s3cret"))
    assert "cam.example" in stream.detail["rtspUri"]
    assert "s3cret" not in repr(stream)
    assert "admin" not in repr(stream)


def test_a_recording_goes_through_its_states() -> None:
    fields = {"sessionId": "S", "id": "R", "startTime": 1000, "outputMode": "COMPOSED", "size": 77, "duration": 8.6}
    started, stopped, ready, other = (
        only(RecordingFact, "recordingStatusChanged", **fields, timestamp=at, status=status, reason="automaticStop")
        for at, status in ((1000, "started"), (5000, "stopped"), (9000, "ready"), (9500, "polishing"))
    )
    assert isinstance(started, RecordingStarted)
    assert isinstance(stopped, RecordingStopped)
    assert isinstance(ready, RecordingReady)
    assert isinstance(other, RecordingProcessing)
    assert {fact.started_at for fact in (started, stopped, ready, other)} == {1000000}
    assert [fact.stopped_at for fact in (started, stopped, ready)] == [None, 5000000, None]
    assert (ready.duration_ms, ready.size_bytes, ready.mode, ready.reason) == (8600, 77, "COMPOSED", "timeout")
    assert (started.duration_ms, started.size_bytes, started.reason) == (None, None, None)
    assert other.status == "polishing"
    assert ready.keyed_by_start
    assert not ready.legacy
    assert ready.place is not None
    assert ready.place.at == 1000000
    assert ("recordingId", "R") in ready.place.ids


def test_the_old_recording_events_are_marked() -> None:
    started = only(RecordingStarted, "recordingStarted", sessionId="S", id="R", timestamp=1000, duration=0, size=0)
    stopped = only(RecordingStopped, "recordingStopped", sessionId="S", id="R", timestamp=5000, startTime=1000)
    earliest = only(RecordingStopped, "recordingStopped", sessionId="S", id="R", timestamp=5000, duration=4)
    assert started.legacy
    assert stopped.legacy
    assert (started.started_at, stopped.started_at, earliest.started_at) == (1000000, 1000000, None)
    assert (stopped.stopped_at, earliest.duration_ms) == (5000000, 4000)


def test_a_signal_of_the_server_has_no_actor() -> None:
    fields = {"sessionId": "S", "timestamp": 9, "to": ["a"], "type": None, "data": "{}"}
    assert only(SignalSent, "signalSent", **fields, **{"from": "c"}).actor == "c"
    signal = only(SignalSent, "signalSent", **fields, **{"from": None})
    assert (signal.actor, signal.detail) == (None, {"to": ["a"], "type": None, "data": "{}"})


def test_a_filter_event_is_about_a_stream() -> None:
    fact = only(
        FilterEvent, "filterEventDispatched", sessionId="S", timestamp=9, participantId="c", streamId="s", data="{a=b}"
    )
    assert (fact.actor, fact.subject_type, fact.subject_id, fact.detail) == ("c", "stream", "s", {"data": "{a=b}"})


def test_a_broadcast_belongs_to_its_session() -> None:
    started = only(BroadcastStarted, "broadcastStarted", sessionId="S", timestamp=9)
    stopped = only(BroadcastStopped, "broadcastStopped", sessionId="S", timestamp=12, reason="broadcastStoppedByServer")
    assert started.activity == stopped.activity == "S"
    assert stopped.reason == "normal"


def test_a_crashed_node_is_one_fact_and_one_for_each_of_its_sessions() -> None:
    node, *sessions = facts_from(
        "nodeCrashed", id="media_1", timestamp=9000, timeOfDisconnection=7000, sessionIds=["A", "B", "A", 5, None]
    )
    assert all(isinstance(fact, NodeCrashed) and fact.subject_id == "media_1" for fact in (node, *sessions))
    assert node.place is None
    assert [(fact.place.room, fact.place.at, fact.at) for fact in sessions if fact.place] == [
        ("A", 7000000, 9000000),
        ("B", 7000000, 9000000),
    ]
    assert all("sessionIds" not in fact.detail for fact in sessions)


def test_node_events_name_the_node() -> None:
    assert only(NodeStatus, "HANodeRegistered", timestamp=9, nodeId="master_1").subject_id == "master_1"
    scaling = only(NodeStatus, "autoscaling", timestamp=9, clusterId="C", reason="free text")
    assert (scaling.subject_type, scaling.subject_id, scaling.detail["reason"]) == ("cluster", "C", "free text")


def test_an_unknown_event_is_placed_in_its_session() -> None:
    fact = only(Unknown, "sessionFrozen", sessionId="S", timestamp=9, extra={"a": [1]})
    assert fact.anomalies == (("unknown_event", "sessionFrozen"),)
    assert fact.detail == {"event": "sessionFrozen", "extra": {"a": [1]}}
    assert fact.place is not None
    assert fact.place.room == "S"
    assert only(Unknown, "clusterFrozen", timestamp=9).place is None


def test_an_imported_line_names_the_run_of_the_server_that_wrote_it() -> None:
    body = b'{"nodeCrashed":{"id":"n","timestamp":9,"sessionIds":["A"]}}'
    assert {fact.server_run for fact in interpret(record_of(body, file="f", line=1, run="10-00-00"))} == {"10-00-00"}
    old = record_of(body, file="CDR.2024-05-03_10-00-00.log", line=1, run="10-00-00")
    assert {fact.server_run for fact in interpret(old)} == {"2024-05-03_10-00-00"}
    new = record_of(body, file="CDR.2024-05-03_10-00-00.log", line=1, run="2024-05-03_10-00-00", folder="node-a")
    assert {fact.server_run for fact in interpret(new)} == {"node-a/2024-05-03_10-00-00"}
    assert {fact.server_run for fact in interpret(record_of(body))} == {None}


# --- hostile and broken bodies ---------------------------------------------------------------------------------------


def test_a_body_of_an_old_version_that_is_not_utf8_is_read_and_marked() -> None:
    body = (SAMPLES / "openvidu2-body-v2.15-latin1.bin").read_bytes()
    (fact,) = interpret(record_of(body))
    # A shortened event without a participantId: a person joined, and the name is shown with its accents.
    assert isinstance(fact, ParticipantJoined)
    assert (fact.name, fact.identity) == ("èñ ?? ?", None)
    assert {kind for kind, _ in fact.anomalies} == {"unreadable", "lossy_encoding"}
    joined = interpret(record_of(body.replace(b'"clientData"', b'"connectionId":"c","clientData"')))[0]
    assert isinstance(joined, ParticipantJoined)
    assert joined.name == "èñ ?? ?"
    assert [kind for kind, _ in joined.anomalies] == ["lossy_encoding"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",
        b"null",
        b"[]",
        b"7",
        b'"sessionCreated"',
        b"{}",
        b'{"event":7}',
        b'{"event":""}',
        b'{"event":"sessionCreated","sessionId":"a","sessionId":"b","timestamp":5}',
        b'{"event":"sessionCreated","sessionId":"a","timestamp":NaN}',
        b'{"event":"sessionCreated","sessionId":"a","timestamp":1e999}',
        b'{"event":"sessionCreated","sessionId":"a","timestamp":' + b"9" * 5000 + b"}",
        b'{"event":"sessionCreated","timestamp":5}',
        b'{"event":"sessionCreated","x":' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"event":"sessionCreated","x":' + b"[" * 99999,
        b'{"event":"recordingStatusChanged","sessionId":"a","timestamp":5}',
        b'{"event":"webrtcConnectionCreated","sessionId":"a","timestamp":5,"connectionId":"c"}',
        b'{"event":"webrtcConnectionCreated","sessionId":"a","timestamp":5,"connectionId":"c","connection":"INBOUND"}',
        b'{"event":"recordingStatusChanged","sessionId":"a","timestamp":5}',
        b'{"event":"broadcastStarted","timestamp":5}',
        b"\xff\xfe\x00{",
    ],
)
def test_an_unreadable_body_is_an_unknown_event(body: bytes) -> None:
    (fact,) = interpret(record_of(body))
    assert isinstance(fact, Unknown)
    assert "unreadable" in dict(fact.anomalies)
    assert msgspec.json.encode(fact)


def test_a_byte_order_mark_is_ignored() -> None:
    assert isinstance(
        interpret(record_of(b'\xef\xbb\xbf{"event":"sessionCreated","sessionId":"a","timestamp":5}'))[0], SessionCreated
    )


@pytest.mark.parametrize(
    ("timestamp", "anomaly"),
    [
        (None, "unreadable"),
        (0, "clock_skew"),
        (-5, "clock_skew"),
        (10**40, "clock_skew"),
        ("5", "clock_skew"),
        (True, "clock_skew"),
    ],
)
def test_without_a_usable_timestamp_the_time_of_arrival_is_used(timestamp: object, anomaly: str) -> None:
    created = only(SessionCreated, "sessionCreated", sessionId="S", timestamp=timestamp)
    assert (created.at, created.clock, created.precision) == (RECEIVED, "receiver", "us")
    assert [kind for kind, _ in created.anomalies] == [anomaly]
    assert created.started_at is None
    assert created.place is not None
    assert (created.place.run, created.place.starts_at) == (None, None)


def test_an_absurd_start_is_ignored_and_reported() -> None:
    left = only(ParticipantLeft, "participantLeft", sessionId="S", timestamp=9, startTime=-1, connectionId="c")
    assert (left.joined_at, [kind for kind, _ in left.anomalies]) == (None, ["clock_skew"])


def test_the_rules_end_a_run_that_nobody_joined_after_75_minutes() -> None:
    assert RULES.never_joined_after == 75 * 60 * 1_000_000
    assert not RULES.ends_only


def reading_is_sound(body: bytes) -> None:
    record = record_of(body)
    facts = interpret(record)
    assert facts
    assert facts == interpret(record)
    assert msgspec.json.decode(msgspec.json.encode(facts), type=tuple[AnyFact, ...]) == facts
    record.event.encode()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_interpreted_without_raising(body: bytes) -> None:
    reading_is_sound(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
SAMPLE_EVENTS = [json.loads(line.values[0]) for line in EVERY_LINE]  # pyright: ignore[reportArgumentType]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_mutation_of_a_sample_is_interpreted_without_raising(data: st.DataObject) -> None:
    event = data.draw(st.sampled_from(SAMPLE_EVENTS))
    name = None if "event" in event else next(iter(event))
    fields = dict(event if name is None else event[name])
    for key in data.draw(st.lists(st.sampled_from(sorted(fields)), max_size=4, unique=True)):
        if data.draw(st.booleans()):
            del fields[key]
        else:
            fields[key] = data.draw(JSON)
    body = fields if name is None else {name: fields}
    reading_is_sound(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("event", "missing"),
    [
        ({"connection": "OUTBOUND", "streamId": "str_1", "reason": "disconnect"}, "participantId"),
        ({"connection": "INBOUND", "streamId": "str_1", "reason": "disconnect"}, "sessionId"),
        ({"connection": "INBOUND", "connectionId": "con_1", "reason": "disconnect"}, "streamId and receivingFrom"),
    ],
)
def test_an_event_without_a_needed_field_shows_all_others_and_names_the_first_one(
    event: dict[str, Any], missing: str
) -> None:
    name = "webrtcConnectionDestroyed"
    fields = event | {"timestamp": 1_783_584_000_000, "startTime": 1_783_583_000_000}
    (fact,) = interpret(record_of(json.dumps({name: fields}).encode()))
    assert isinstance(fact, Unknown)
    assert fact.anomalies[0] == ("unreadable", f"{missing} {'are' if ' and ' in missing else 'is'} missing")
    assert fact.detail == event | {"event": name}
