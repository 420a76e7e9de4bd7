"""plugNmeet: proofs by a token in either header, dedupe keys, and the interpretation of every event of every version."""

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
from tracker.domain.deliveries import Delivery, Record, Verified
from tracker.errors import DeliveryRejected, KeyUnknown, SignatureMismatch, SignatureMissing, SignatureStale
from tracker.domain.facts import (
    AnalyticsReady,
    AnyFact,
    ArtifactCreated,
    BroadcastStopped,
    Fact,
    ParticipantJoined,
    ParticipantLeft,
    RecordingFailed,
    RecordingProcessing,
    RecordingReady,
    RecordingStarted,
    RecordingStopped,
    SessionCreated,
    SessionEnded,
    SessionResumed,
    SessionStarted,
    StreamPublished,
    StreamUnpublished,
    TranscriptionEnded,
    Unknown,
)
from tracker.sources.contract import Source, SourceSettings
from tracker.sources.plugnmeet.events import interpret
from tracker.sources.plugnmeet.source import RULES, PlugnmeetSource


F = TypeVar("F", bound=Fact)
Json = dict[str, Any]
SAMPLES = [json.loads(line) for line in (ROOT / "tests/samples/plugnmeet-signed.jsonl").read_bytes().splitlines()]
BY_NAME = {sample["name"]: sample for sample in SAMPLES}
KEY, SECRET = "plugnmeet", "a-secret-of-this-test-only-0123456789"
NOW = 1_786_000_000
SID = "0c9f1d8e-6a57-4d0b-9a86-6a4f5b3c1d20"
ROOM: Json = {"sid": SID, "room_id": "room01"}
BODY = json.dumps({"event": "room_started", "room": ROOM, "id": "EV_1", "created_at": str(NOW)}).encode()
SOURCE: Source = PlugnmeetSource(SourceSettings(name="pnm", vendor="plugnmeet", keys={KEY: SECRET, "second": "other"}))

KINDS = {
    "room_created": ["session.created"],
    "room_started": ["session.started"],
    "session_ended": ["session.ended"],
    "room_finished": ["session.ended"],
    "participant_joined": ["participant.joined"],
    "participant_left": ["participant.left"],
    "track_published": ["stream.published"],
    "track_unpublished": ["stream.unpublished"],
    "start_recording": ["recording.started"],
    "end_recording": ["recording.stopped"],
    "end_recording/error": ["recording.stopped", "recording.failed"],
    "recording_proceeded": ["recording.ready"],
    "recording_transcoding_finished": ["recording.processing"],
    "start_rtmp": ["broadcast.started"],
    "end_rtmp": ["broadcast.stopped"],
    "speech_to_text_session_started": ["transcription.started"],
    "speech_to_text_session_ended": ["transcription.ended"],
    "speech_to_text_total_usage": ["transcription.usage"],
    "artifact_created": ["artifact.created"],
    "analytics_proceeded": ["analytics.ready"],
}
"""Vendor event, or the name of a sample with more facts → timeline kinds."""


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def named(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


def made(*, body: bytes = BODY, secret: str = SECRET, alg: str = "HS256", **other: Any) -> str:
    """plugNmeet's token for a body, made by hand; `other` replaces claims, None removes one."""
    hashes = {"HS384": hashlib.sha384, "HS512": hashlib.sha512}
    claims = {"iss": KEY, "nbf": NOW, "iat": NOW, "exp": NOW + 300, "sha256": named(body)} | other
    claims = {name: value for name, value in claims.items() if value is not None}
    signed = ".".join(base64url(json.dumps(part).encode()) for part in ({"alg": alg, "typ": "JWT"}, claims))
    signature = b"" if alg == "none" else hmac.digest(secret.encode(), signed.encode(), hashes.get(alg, hashlib.sha256))
    return f"{signed}.{base64url(signature)}"


GOOD = made()


def verified(headers: dict[str, str], body: bytes = BODY, *, now: int = NOW) -> Verified:
    return SOURCE.verify(Delivery(source="pnm", body=body, received_at=now * 1_000_000, headers=headers))


def record_of(body: bytes) -> Record:
    admitted = SOURCE.verify_trusted(body, received_at=1_800_000_000_123_456, proof={"file": "x.jsonl", "line": 1})
    return Record(position=1, **msgspec.structs.asdict(admitted))


def facts_from(
    event: str, *, room: Json | None = None, created_at: int | None = NOW, **fields: Any
) -> tuple[Fact, ...]:
    body: Json = {"event": event, "room": ROOM | (room or {}), **fields}
    return interpret(record_of(json.dumps(body | ({"created_at": str(created_at)} if created_at else {})).encode()))


def only(kind: type[F], event: str, **fields: Any) -> F:
    (fact,) = facts_from(event, **fields)
    assert isinstance(fact, kind)
    return fact


def sampled(name: str) -> tuple[Fact, ...]:
    return interpret(record_of(BY_NAME[name]["body_text"].encode()))


def kinds(facts: tuple[Fact, ...]) -> list[str]:
    return [str(type(fact).__struct_config__.tag) for fact in facts]


def person(identity: str = "alice-01", **other: Any) -> Json:
    return {"sid": "PA_1", "identity": identity, "joined_at": str(NOW), "joined_at_ms": f"{NOW}481"} | other


# --- proofs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", SAMPLES, ids=list(BY_NAME))
def test_every_sample_verifies_at_its_time_and_becomes_the_facts_of_the_table(sample: Json) -> None:
    source = PlugnmeetSource(
        SourceSettings(name="pnm", vendor="plugnmeet", keys={sample["key"]: sample["secret"]}),
    )
    body, headers = sample["body_text"].encode(), {name.lower(): value for name, value in sample["headers"].items()}
    delivery = Delivery(source="pnm", body=body, received_at=sample["now"] * 1_000_000, headers=headers)
    proved = source.verify(delivery)

    assert (proved.source, proved.vendor, proved.body, proved.origin) == ("pnm", "plugnmeet", body, "webhook")
    assert proved.event == sample["event"].lower()
    assert json.loads(proved.proof) == {"scheme": "jwt", "jwt": headers.get("authorization", headers.get("hash-token"))}

    facts = interpret(Record(position=1, **msgspec.structs.asdict(proved)))
    assert kinds(facts) == KINDS.get(sample["name"], KINDS[proved.event])
    for fact in facts:
        assert fact.anomalies == ()
        assert fact.place is not None
        assert fact.place.run == json.loads(body)["room"]["sid"]
        assert fact.place.room == "room01"
    assert msgspec.json.decode(msgspec.json.encode(facts), type=tuple[AnyFact, ...]) == facts


def test_the_token_may_be_in_either_header() -> None:
    assert json.loads(verified({"authorization": GOOD}).proof)["jwt"] == GOOD
    assert json.loads(verified({"hash-token": GOOD}).proof)["jwt"] == GOOD
    assert json.loads(verified({"authorization": GOOD, "hash-token": "x"}).proof)["jwt"] == GOOD


@pytest.mark.parametrize("filled", ["", " ", "Basic dXNlcjpwYXNz", "Bearer " + GOOD, "a.b.c", "-"])
def test_a_proxys_authorization_header_does_not_hide_the_hash_token(filled: str) -> None:
    assert json.loads(verified({"authorization": filled, "hash-token": GOOD}).proof)["jwt"] == GOOD
    with pytest.raises(DeliveryRejected):
        verified({"authorization": filled})


def test_a_forged_authorization_is_refused_even_with_a_good_hash_token() -> None:
    with pytest.raises(SignatureMismatch):
        verified({"authorization": made(secret="of somebody else"), "hash-token": GOOD})


JOIN = {"sub": "alice-01", "name": "Alice", "room_id": "room01", "sha256": None, "exp": NOW + 600}
ATTACKS = {
    "alg none": (SignatureMismatch, made(alg="none")),
    "HS384": (SignatureMismatch, made(alg="HS384")),
    "HS512": (SignatureMismatch, made(alg="HS512")),
    "RS256 with the secret as key": (SignatureMismatch, made(alg="RS256")),
    "no sha256": (SignatureMismatch, made(sha256=None)),
    "sha256 in hex, as in the vendor's blog": (SignatureMismatch, made(sha256=hashlib.sha256(BODY).hexdigest())),
    "sha256 unpadded": (SignatureMismatch, made(sha256=named(BODY).rstrip("="))),
    "sha256 of other bytes": (SignatureMismatch, made(body=BODY + b"\n")),
    "a participant's join token": (SignatureMismatch, made(**JOIN)),
    "no exp": (SignatureMismatch, made(exp=None)),
    "expired": (SignatureStale, made(nbf=NOW - 400, iat=NOW - 400, exp=NOW - 61)),
    "from the future": (SignatureStale, made(nbf=NOW + 61, iat=NOW + 61, exp=NOW + 361)),
    "another issuer": (KeyUnknown, made(iss="APIlivekit")),
    "another of our issuers": (SignatureMismatch, made(iss="second")),
    "no issuer": (SignatureMismatch, made(iss=None)),
    "another secret": (SignatureMismatch, made(secret="of somebody else")),
    "Bearer": (SignatureMismatch, "Bearer " + GOOD),
    "two tokens": (SignatureMismatch, f"{GOOD}, {GOOD}"),
    "nothing": (SignatureMissing, ""),
}


@pytest.mark.parametrize("header", ["authorization", "hash-token"])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=list(ATTACKS))
def test_every_attack_is_refused_next_to_the_delivery_it_imitates(attack: tuple[Any, str], header: str) -> None:
    expected, token = attack
    assert verified({header: GOOD}).event == "room_started"
    with pytest.raises(expected) as refused:
        verified({header: token})
    assert isinstance(refused.value, DeliveryRejected)
    assert SECRET not in str(refused.value)
    assert not token or token not in str(refused.value)


@pytest.mark.parametrize("changed", [BODY + b"\n", BODY.replace(b"room01", b"room02"), BODY.replace(b", ", b","), b""])
def test_a_changed_body_is_refused(changed: bytes) -> None:
    assert verified({"authorization": GOOD}).body == BODY
    with pytest.raises(SignatureMismatch):
        verified({"authorization": GOOD}, changed)


def test_a_delivery_without_headers_has_no_signature() -> None:
    with pytest.raises(SignatureMissing):
        verified({})


def test_a_token_is_valid_for_a_minute_after_its_end() -> None:
    assert verified({"authorization": GOOD}, now=NOW + 359)
    with pytest.raises(SignatureStale):
        verified({"authorization": GOOD}, now=NOW + 360)


def test_an_authentic_body_that_is_not_json_is_recorded() -> None:
    proved = verified({"authorization": made(body=b"not json")}, b"not json")
    assert (proved.event, proved.dedupe_key) == ("", f"sha256:{hashlib.sha256(b'not json').hexdigest()}")


def test_the_source_prints_no_secret() -> None:
    assert repr(SOURCE) == "PlugnmeetSource('pnm')"


# --- keys --------------------------------------------------------------------------------------------------------------


def key(**fields: Any) -> str:
    return SOURCE.verify_trusted(json.dumps(fields).encode(), received_at=1, proof={}).dedupe_key


def test_a_retry_and_a_second_address_repeat_event_and_id() -> None:
    assert (
        key(event="room_started", id="EV_1", created_at="1")
        == key(event="room_started", id="EV_1")
        == "room_started:EV_1"
    )


def test_two_different_ends_with_one_id_are_two_records() -> None:
    first, second = (BY_NAME[f"legacy/{event}-shared-id"] for event in ("session_ended", "room_finished"))
    assert json.loads(first["body_text"])["id"] == json.loads(second["body_text"])["id"]
    keys = {SOURCE.verify_trusted(s["body_text"].encode(), received_at=1, proof={}).dedupe_key for s in (first, second)}
    assert keys == {"session_ended:EV_pnSharedId01", "room_finished:EV_pnSharedId01"}


def test_an_upper_case_name_is_the_same_event() -> None:
    assert key(event="START_RECORDING", id="1") == key(event="start_recording", id="1")


@pytest.mark.parametrize("event_id", ["", None, 7, ["EV_1"]])
def test_the_key_of_an_event_without_an_id_is_of_its_bytes(event_id: object) -> None:
    body = json.dumps({"event": "START_RECORDING", "id": event_id}).encode()
    admitted = SOURCE.verify_trusted(body, received_at=1, proof={"file": "old.jsonl", "line": 3})
    assert admitted.dedupe_key == f"sha256:{hashlib.sha256(body).hexdigest()}"
    assert admitted.event == "start_recording"
    assert (admitted.origin, json.loads(admitted.proof)) == ("import", {"file": "old.jsonl", "line": 3})


# --- rooms -------------------------------------------------------------------------------------------------------------


def test_runs_are_distinguished_by_sid_with_five_seconds_of_tolerance() -> None:
    assert RULES.tolerance == 5_000_000
    first, second = sampled("room_created")[0].place, sampled("room_created/second-run")[0].place
    assert first is not None
    assert second is not None
    assert (first.room, first.room_name) == (second.room, second.room_name) == ("room01", "Algebra 101")
    assert first.run != second.run
    assert first.ids == (("room_sid", SID), ("room_id", "room01"))


def test_the_creation_of_a_room_is_plugnmeets_and_its_start_livekits() -> None:
    created = only(SessionCreated, "room_created", room={"creation_time": str(NOW - 2)})
    started = only(SessionStarted, "room_started", room={"creation_time": str(NOW - 1)})
    assert (created.at, created.started_at, created.precision) == ((NOW - 2) * 10**6, (NOW - 2) * 10**6, "s")
    assert (started.at, started.started_at) == ((NOW - 1) * 10**6, (NOW - 1) * 10**6)
    assert started.place is not None
    assert started.place.starts_at == started.at


def test_milliseconds_are_preferred_to_seconds() -> None:
    started = only(SessionStarted, "room_started", room={"creation_time": str(NOW), "creation_time_ms": f"{NOW}250"})
    assert started.started_at == NOW * 10**6 + 250_000


def test_a_room_announced_again_is_resumed_and_begins_nothing_new() -> None:
    resumed = only(SessionResumed, "room_started", room={"creation_time": str(NOW - 600)})
    assert (resumed.at, resumed.started_at) == (NOW * 10**6, (NOW - 600) * 10**6)


def test_an_old_room_made_ahead_of_its_first_join_is_started_all_the_same() -> None:
    started = only(SessionStarted, "room_started", room={"sid": "RM_old", "creation_time": str(NOW - 600)})
    assert started.started_at == (NOW - 600) * 10**6


def test_both_ends_end_the_session_and_state_its_start() -> None:
    for event in ("session_ended", "room_finished"):
        ended = only(SessionEnded, event, room={"creation_time": str(NOW - 90)})
        assert (ended.at, ended.started_at, ended.reason) == (NOW * 10**6, (NOW - 90) * 10**6, "unknown")
        assert ended.detail["event"] == event
        assert ended.place is not None
        assert (ended.place.starts_at, ended.place.ends_at) == ((NOW - 90) * 10**6, NOW * 10**6)


def test_a_creation_time_of_zero_is_ignored() -> None:
    assert only(SessionEnded, "room_finished", room={"creation_time": "0"}).started_at is None


def test_only_a_join_close_to_the_creation_gives_the_start() -> None:
    near = only(ParticipantJoined, "participant_joined", room={"creation_time": str(NOW - 1)}, participant=person())
    # An event of an older run, carrying the sid of the next one, would move its start into the past.
    far = only(ParticipantJoined, "participant_joined", room={"creation_time": str(NOW - 406)}, participant=person())
    assert near.place is not None
    assert far.place is not None
    assert (near.place.starts_at, far.place.starts_at) == ((NOW - 1) * 10**6, None)


def test_no_secret_of_the_metadata_is_shown() -> None:
    metadata = {
        "room_title": "T",
        "parent_room_id": "parent",
        "is_breakout_room": True,
        "webhook_url": "https://hook.example/secret1",
        "logout_url": "https://out.example/?k=secret2",
        "room_features": {
            "end_to_end_encryption_features": {"encryption_key": "secret3"},
            "sip_dial_in_features": {"pin": "secret4"},
        },
        "extra_data": {
            "course": "42",
            "moderatorPW": "secret5",
            "join_url": "https://a.example/secret6",
            "notes": ["see https://u:secret7@b.example/secret8?x=1"],
            "inner": '{"password":"secret9"}',
        },
    }
    for value in (metadata, metadata | {"extra_data": json.dumps(metadata["extra_data"])}):
        created = only(SessionCreated, "room_created", room={"metadata": json.dumps(value)})
        assert b"secret" not in msgspec.json.encode(created)
        assert created.detail["parent_room_id"] == "parent"
        assert created.detail["is_breakout_room"] is True
        assert created.detail["extra_data"]["course"] == "42"
        assert created.detail["extra_data"]["notes"] == ["see https://b.example/…"]


@pytest.mark.parametrize("metadata", ["", "{", "[]", "7", "null", "[" * 100_000, '{"room_title":7,"extra_data":[[]]}'])
def test_metadata_that_is_not_an_object_is_ignored(metadata: str) -> None:
    created = only(SessionCreated, "room_created", room={"metadata": metadata})
    assert created.place is not None
    assert created.place.room_name is None


# --- people and tracks -------------------------------------------------------------------------------------------------


def test_a_join_has_milliseconds_and_the_leave_states_it_too() -> None:
    joined = only(ParticipantJoined, "participant_joined", participant=person(name="Alice"), created_at=NOW + 1)
    left = only(
        ParticipantLeft, "participant_left", participant=person(disconnect_reason="DUPLICATE_IDENTITY"), created_at=NOW + 90
    )  # fmt: skip
    assert joined.at == joined.joined_at == left.joined_at == NOW * 10**6 + 481_000
    assert (joined.precision, joined.connection, joined.identity, joined.name) == ("ms", "PA_1", "alice-01", "Alice")
    assert (left.at, left.reason, left.vendor_reason) == ((NOW + 90) * 10**6, "replaced", "DUPLICATE_IDENTITY")
    assert left.place is not None
    assert left.place.at == left.joined_at


def test_an_end_never_precedes_its_start_within_their_second() -> None:
    left = only(ParticipantLeft, "participant_left", participant=person())
    track = {"sid": "TR_1", "version": {"unix_micro": f"{NOW}900000"}}
    gone = only(StreamUnpublished, "track_unpublished", track=track)
    assert (left.at, left.precision) == (left.joined_at, "s")
    assert gone.at == NOW * 10**6 + 900_000


def test_the_time_of_arrival_is_no_start_of_a_run() -> None:
    for event in ("room_created", "room_started"):
        (fact,) = facts_from(event, created_at=None)
        assert fact.place is not None
        assert (fact.clock, fact.place.starts_at) == ("receiver", None)


@pytest.mark.parametrize(
    ("identity", "kind"),
    [
        ("alice-01", "standard"),
        ("RECORDER_BOT", "egress"),
        ("RTMP_BOT", "egress"),
        ("ingres_alice", "ingress"),
        ("pnm_agent-transcription", "agent"),
        ("pnm_tts_agent-de", "agent"),
        ("sip_4912345", "sip"),
        ("recorder_bot", "standard"),
        ("my_sip_phone", "standard"),
    ],
)
def test_recorders_and_agents_are_recognised_by_their_names(identity: str, kind: str) -> None:
    assert only(ParticipantJoined, "participant_joined", participant=person(identity)).person == kind


def test_livekits_kind_is_used_where_the_name_is_not_known() -> None:
    hidden = {"permission": {"hidden": True}}
    assert only(ParticipantJoined, "participant_joined", participant=person(kind="AGENT")).person == "agent"
    assert only(ParticipantJoined, "participant_joined", participant=person(**hidden)).person == "hidden"


def test_a_caller_has_one_identity_in_joins_and_tracks() -> None:
    joined = only(ParticipantJoined, "participant_joined", participant=person("sip_4912345"))
    track = only(
        StreamPublished,
        "track_published",
        participant={"sid": "PA_1", "identity": "sip_+4912345"},
        track={"sid": "TR_1"},
    )
    assert joined.identity == track.identity == "sip_4912345"
    assert (
        only(ParticipantJoined, "participant_joined", participant=person("a+b@example.org")).identity
        == "a+b@example.org"
    )


def test_a_persons_metadata_shows_no_address_and_no_secret() -> None:
    metadata = json.dumps(
        {"profile_pic": "https://p.example/secret1?sig=secret2", "access_token": "secret3", "is_admin": True}
    )
    joined = only(ParticipantJoined, "participant_joined", participant=person(metadata=metadata))
    assert "secret" not in joined.detail["metadata"]
    assert "is_admin" in joined.detail["metadata"]


def test_a_track_is_published_at_livekits_time() -> None:
    audio, video = sampled("track_published")[0], sampled("track_published/video")[0]
    assert isinstance(audio, StreamPublished)
    assert isinstance(video, StreamPublished)
    assert (audio.at, audio.precision) == (1_786_000_004_526_591, "us")
    assert (audio.media, audio.label, video.media, video.label) == ("audio", "microphone", "video", "camera")
    assert audio.place is not None
    assert audio.place.starts_at is None
    (gone,) = sampled("track_unpublished")
    assert isinstance(gone, StreamUnpublished)
    assert (gone.stream, gone.at) == (audio.stream, 1_786_000_060_000_000)


def test_a_version_far_from_the_event_is_not_its_time() -> None:
    track = {"sid": "TR_1", "version": {"unix_micro": str((NOW - 100) * 10**6)}}
    assert only(StreamPublished, "track_published", track=track).at == NOW * 10**6


# --- recordings and artifacts ------------------------------------------------------------------------------------------


def recording(message: str | None = "success", **other: Any) -> Json:
    head: Json = {"record_id": "REC_1", "recorder_id": "node_01", "file_path": "", "file_size": 0}
    return head | ({} if message is None else {"recorder_msg": message}) | other


def test_a_successful_recording_stops_and_is_ready() -> None:
    stopped = only(RecordingStopped, "end_recording", recording_info=recording())
    assert (stopped.recording, stopped.at, stopped.reason, stopped.vendor_reason) == (
        "REC_1",
        NOW * 10**6,
        "normal",
        None,
    )
    info = recording(file_path="node_01/a.mp4", file_size=48.57)
    ready = only(RecordingReady, "recording_proceeded", recording_info=info)
    assert (ready.url, ready.size_bytes) == ("node_01/a.mp4", 48_570_000)


def test_an_error_of_the_recorder_is_a_failure_and_shows_no_address() -> None:
    message = "write rtmp://live.example/app/streamkey1: broken pipe"
    stopped, failed = facts_from("end_recording", recording_info=recording(message))
    assert isinstance(stopped, RecordingStopped)
    assert isinstance(failed, RecordingFailed)
    assert (failed.recording, failed.reason) == ("REC_1", "server_failure")
    assert failed.vendor_reason == stopped.vendor_reason == "write rtmp://live.example/… broken pipe"
    assert b"streamkey" not in msgspec.json.encode((stopped, failed))
    over = only(BroadcastStopped, "end_rtmp", recording_info=recording(message))
    assert (over.activity, over.reason) == ("REC_1", "server_failure")
    assert b"streamkey" not in msgspec.json.encode(over)


def test_a_recorder_without_a_message_reports_no_failure() -> None:
    assert only(RecordingStopped, "end_recording", recording_info=recording(None)).reason == "unknown"
    assert only(RecordingStopped, "end_recording", recording_info=recording("Success ")).reason == "normal"


@pytest.mark.parametrize("message", ["no error", "No Error", " process completed ", "started", "success", ""])
def test_the_success_message_of_every_recorder_version_is_no_failure(message: str) -> None:
    stopped = only(RecordingStopped, "end_recording", recording_info=recording(message))
    assert (stopped.vendor_reason, stopped.reason) == (None, "normal" if message.strip() else "unknown")
    over = only(BroadcastStopped, "end_rtmp", recording_info=recording(message))
    assert over.vendor_reason is None
    assert only(RecordingStarted, "start_recording", recording_info=recording(message)).vendor_reason is None


@pytest.mark.parametrize("message", ["had error", "Error: net::ERR_CONNECTION_REFUSED", "no error page was found"])
def test_every_other_message_of_a_recorder_is_a_failure(message: str) -> None:
    assert kinds(facts_from("end_recording", recording_info=recording(message))) == [
        "recording.stopped",
        "recording.failed",
    ]


@pytest.mark.parametrize(
    ("message", "size", "size_bytes"),
    [
        ("process completed", 512, 536_870_912),
        ("Process completed", 1.5, 1_572_864),
        ("process completed", 0.01, 10_486),
        ("success", 512, 512_000_000),
        (None, 512, 512_000_000),
        ("process completed", 0, None),
    ],
)
def test_the_old_recorder_states_sizes_in_mib_and_the_new_one_in_mb(
    message: str | None, size: float, size_bytes: int | None
) -> None:
    info = recording(message, file_path="a.mp4", file_size=size)
    assert only(RecordingReady, "recording_proceeded", recording_info=info).size_bytes == size_bytes


@pytest.mark.parametrize(
    ("number", "reason"), [(13, "server_failure"), (14, "network_lost"), (16, "server_failure"), (99, "unknown")]
)
def test_a_reason_of_livekit_that_is_newer_than_the_server_is_read_by_its_number(number: int, reason: str) -> None:
    left = only(
        ParticipantLeft, "participant_left", participant={"sid": "PA_1", "identity": "a", "disconnect_reason": number}
    )
    assert left.reason == reason


@pytest.mark.parametrize(
    ("permission", "kind"), [({"agent": True}, "agent"), ({"recorder": True}, "egress"), ({}, "standard")]
)
def test_an_agent_of_livekit_before_kinds_is_known_by_its_permission(permission: Json, kind: str) -> None:
    joined = only(
        ParticipantJoined, "participant_joined", participant={"sid": "PA_1", "identity": "a", "permission": permission}
    )
    assert joined.person == kind


def test_transcoding_is_a_step_unless_it_failed() -> None:
    assert only(RecordingProcessing, "recording_transcoding_finished", recording_info=recording()).recording == "REC_1"
    failed = only(RecordingFailed, "recording_transcoding_finished", recording_info=recording("ffmpeg: exit status 1"))
    assert failed.vendor_reason == "ffmpeg: exit status 1"


@pytest.mark.parametrize("size", [0, -1, "x", None, True, 1e300, [], 10**30])
def test_an_invalid_size_is_not_shown(size: object) -> None:
    assert only(RecordingReady, "recording_proceeded", recording_info=recording(file_size=size)).size_bytes is None


def test_an_event_of_an_old_version_without_id_and_time_has_the_time_of_arrival() -> None:
    (started,) = sampled("legacy/START_RECORDING-no-id")
    assert isinstance(started, RecordingStarted)
    assert (started.at, started.clock, started.precision) == (1_800_000_000_123_456, "receiver", "us")
    assert started.place is not None
    assert started.place.run == "RM_oldLiveKitSid"


def test_the_start_of_a_transcription_follows_from_its_end_and_length() -> None:
    (started,), (ended,) = sampled("speech_to_text_session_started"), sampled("speech_to_text_session_ended")
    assert isinstance(ended, TranscriptionEnded)
    assert (ended.activity, ended.identity, ended.started_at) == ("alice-01", "alice-01", started.at)
    (usage,) = sampled("speech_to_text_total_usage")
    assert usage.detail == {"total_usage_s": 43}


def test_an_artifact_names_its_file_or_its_usage() -> None:
    (summary,), (usage,) = (
        sampled("artifact_created/MEETING_SUMMARY"),
        sampled("artifact_created/MEETING_SUMMARY_USAGE"),
    )
    assert isinstance(summary, ArtifactCreated)
    assert isinstance(usage, ArtifactCreated)
    assert summary.detail["size_bytes"] == 1024
    assert usage.detail["token_usage"]["total_tokens"] == 1500
    assert usage.detail["reference_artifact_id"] == summary.subject_id
    (chat,) = sampled("artifact_created/AI_TEXT_CHAT_INTERACTION_USAGE")
    assert chat.actor == "alice-01"


def test_the_form_of_the_documentation_is_read_like_the_wire() -> None:
    (fact,) = sampled("docs/artifact_created-sample")
    assert isinstance(fact, ArtifactCreated)
    assert (fact.at, fact.clock) == (1_761_815_000_000_000, "server")
    assert fact.detail["type"] == "MEETING_SUMMARY"
    assert fact.place is not None
    assert fact.place.room_name == "Test Room"


def test_analytics_and_their_artifact_have_one_id() -> None:
    (made_,), (ready,) = sampled("artifact_created/MEETING_ANALYTICS"), sampled("analytics_proceeded")
    assert isinstance(made_, ArtifactCreated)
    assert isinstance(ready, AnalyticsReady)
    assert made_.subject_id == ready.subject_id


# --- unreadable bodies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["room_ended", "participant_connection_aborted", "egress_started", "Ünknown"])
def test_an_unknown_event_is_shown(event: str) -> None:
    fact = only(Unknown, event, new_field={"deep": ["x"]}, secret_token="hidden", participant=person())
    assert fact.anomalies == (("unknown_event", event.lower()),)
    assert fact.detail["new_field"] == {"deep": ["x"]}
    assert fact.detail["participant"]["identity"] == "alice-01"
    assert "secret_token" not in fact.detail
    assert fact.place is not None
    assert fact.place.run == SID


@pytest.mark.parametrize(
    "body", [b"", b"not json", b"[]", b"7", b"null", b"\xff\xfe\x00", b"[" * 200_000, b'{"a":' * 9_999]
)
def test_a_body_that_is_not_an_object_is_unreadable(body: bytes) -> None:
    (fact,) = interpret(record_of(body))
    assert isinstance(fact, Unknown)
    assert [kind for kind, _ in fact.anomalies] == ["unreadable"]
    assert (fact.at, fact.clock, fact.place) == (1_800_000_000_123_456, "receiver", None)


@pytest.mark.parametrize(
    "event",
    ["participant_joined", "participant_left", "track_published", "track_unpublished", "start_recording", "end_recording",
     "recording_proceeded", "recording_transcoding_finished", "start_rtmp", "end_rtmp", "speech_to_text_session_started",
     "speech_to_text_session_ended"],
)  # fmt: skip
def test_an_event_without_its_subject_is_unreadable(event: str) -> None:
    assert [kind for kind, _ in only(Unknown, event).anomalies] == ["unreadable"]


@pytest.mark.parametrize("event", KINDS)
def test_an_event_without_a_room_is_unreadable(event: str) -> None:
    (fact,) = interpret(record_of(json.dumps({"event": event.split("/")[0], "created_at": "1786000000"}).encode()))
    assert isinstance(fact, Unknown)
    assert [kind for kind, _ in fact.anomalies] == ["unreadable"]


def test_dropped_webhooks_of_an_old_sender_are_reported() -> None:
    assert only(SessionEnded, "room_finished", num_dropped=3).anomalies[0][0] == "number_mismatch"


@settings(max_examples=60, deadline=None)
@given(body=st.binary(max_size=200))
def test_any_bytes_are_interpreted_without_raising(body: bytes) -> None:
    assert msgspec.json.encode(interpret(record_of(body)))


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["-1", "9" * 25, "\ud800", '{"a":1}', "RECORDER_BOT", "sip_+"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


def mutated(value: Any, data: st.DataObject) -> Any:
    """The value with one field, at any depth, replaced or removed."""
    if not isinstance(value, dict) or not value or data.draw(st.integers(0, 3)) == 0:
        return data.draw(ANYTHING)
    name = data.draw(st.sampled_from(sorted(value)))
    rest = {other: field for other, field in value.items() if other != name}
    return rest if data.draw(st.integers(0, 5)) == 0 else {**rest, name: mutated(value[name], data)}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_mutation_of_a_sample_is_interpreted_without_raising(data: st.DataObject) -> None:
    value = json.loads(data.draw(st.sampled_from(SAMPLES))["body_text"])
    for _ in range(data.draw(st.integers(1, 3))):
        value = mutated(value, data)
    record = record_of(json.dumps(value).encode())
    facts = interpret(record)
    assert facts
    assert facts == interpret(record)
    assert all(-(2**63) <= fact.at < 2**63 for fact in facts)
    assert msgspec.json.decode(msgspec.json.encode(facts), type=tuple[AnyFact, ...])
    assert msgspec.msgpack.encode(facts)


# --- docs --------------------------------------------------------------------------------------------------------------


def test_the_page_lists_what_every_event_becomes() -> None:
    page = (ROOT / "docs/reference/vendors/plugnmeet.md").read_text("utf-8")
    table = page.split("| vendor event | timeline kind |\n|---|---|\n")[1].split("\n\n")[0]
    rows = [row.strip("|").split("|") for row in table.splitlines()]
    documented = {(re.findall(r"`([^`]+)`", event)[0], kind.strip(" `")) for event, kind in rows if "`" in event}
    read = {
        (sample["event"].lower(), kind)
        for sample in SAMPLES
        for kind in kinds(interpret(record_of(sample["body_text"].encode())))
    }
    more = {("room_started", "session.resumed"), ("recording_transcoding_finished", "recording.failed")}
    assert documented == read | more
    assert rows[-1][0].strip() == "anything else"
    assert rows[-1][1].strip() == "`unknown`"
