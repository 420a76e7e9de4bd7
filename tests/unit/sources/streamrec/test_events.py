"""StreamRec: proofs by a token in the path, end events that state both ends, and messages that an application relays."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.paths import ROOT
from tracker.domain.deliveries import Delivery, Record, Verified
from tracker.errors import SignatureMismatch, SignatureMissing
from tracker.domain.facts import (
    AnyFact,
    Fact,
    RecordingStarted,
    RecordingStopped,
    RecordingUploaded,
    RecordingUploadFailed,
    SessionEnded,
    SessionStarted,
    SupervisorSessionEnded,
    SupervisorSessionStarted,
    Unknown,
)
from tracker.sources.contract import Source, SourceSettings
from tracker.sources.streamrec.events import interpret
from tracker.sources.streamrec.source import RULES, StreamrecSource
from tracker.sources.json_reading import iso_moment


F = TypeVar("F", bound=Fact)
RECEIVED = 1_790_000_000_123_456
TOKENS = ("kYx0-unguessable-7wQ", "zweites-Geheimnis-é")
SOURCE: Source = StreamrecSource(SourceSettings(name="rec", vendor="streamrec", secrets=TOKENS))

SAMPLES = [
    json.loads(line) for line in (ROOT / "tests" / "samples" / "streamrec.jsonl").read_bytes().splitlines() if line
]
WEBHOOKS = [sample["body"] for sample in SAMPLES if sample["api"] == "streamrec-webhook"]
BODIES = [sample["body"] for sample in SAMPLES]

CLIENT, SESSION, WATCH, REC = "agent-7", "6760fea3-589c", "5061fd09-834c", "cdf24e22-4d2e"
RELAYED: dict[str, dict[str, Any]] = {
    "session_start": {
        "type": "session_start", "client_id": CLIENT, "session_id": SESSION,
        "data": {
            "sdp": {"type": "offer", "sdp": "v=0 s3cret"}, "version": "v1.2.3", "webhook_url": "https://t/hooks/rec/s3cret",
        },
    },
    "recording_start": {
        "type": "recording_start", "client_id": CLIENT, "session_id": SESSION,
        "data": {"rec_id": REC, "upload_url": "https://s3/x?sig=s3cret", "webhook_url": "https://t/hooks/rec/s3cret"},
    },
    "recording_stop": {"type": "recording_stop", "client_id": CLIENT, "session_id": SESSION, "data": {"rec_id": REC}},
    "supervisor_join_session": {
        "type": "supervisor_join_session", "client_id": "sup-0", "session_id": WATCH,
        "data": {"sdp": {"sdp": "v=0 s3cret"}, "session_id_to_monitor": SESSION, "webhook_url": "https://t/s3cret"},
    },
}  # fmt: skip

KINDS = {
    "upload_ready": ["recording.stopped", "recording.uploaded"],
    "upload_failed": ["recording.upload_failed"],
    "session_finished": ["session.ended"],
    "supervisor_session_finished": ["supervisor_session.ended"],
    "session_start": ["session.started"],
    "recording_start": ["recording.started"],
    "recording_stop": ["recording.stopped"],
    "supervisor_join_session": ["supervisor_session.started"],
    "recording_state": ["unknown"],
    "sdp_update": ["unknown"],
    "candidate": ["unknown"],
}


def arrived(body: bytes = b"{}", *, token: str | None = TOKENS[0], **query: str) -> Delivery:
    return Delivery(source="rec", body=body, received_at=RECEIVED, query=query, token=token)


def recorded(verified: Verified) -> Record:
    return Record(position=1, **msgspec.structs.asdict(verified))


def read(body: object, **query: str) -> tuple[Fact, ...]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return interpret(recorded(SOURCE.verify(arrived(raw, **query))))


def only(kind: type[F], body: object, **query: str) -> F:
    (fact,) = read(body, **query)
    assert type(fact) is kind
    return fact


def kinds(facts: tuple[Fact, ...]) -> list[str]:
    return [str(type(fact).__struct_config__.tag) for fact in facts]


def at(text: str) -> int:
    """µs of a time with `Z` and at most µs precision."""
    return round(datetime.fromisoformat(text).timestamp() * 1_000_000)


# --- proofs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("token", "key"), [(TOKENS[0], 0), (TOKENS[1], 1)])
def test_a_delivery_with_any_of_the_tokens_is_authentic_and_the_proof_names_which(token: str, key: int) -> None:
    verified = SOURCE.verify(arrived(b'{"status":"upload_ready"}', token=token))
    assert json.loads(verified.proof) == {"scheme": "url_token", "key": key}
    assert (verified.event, verified.origin, verified.received_at) == ("upload_ready", "webhook", RECEIVED)
    assert verified.body == b'{"status":"upload_ready"}'


@pytest.mark.parametrize("token", [None, ""])
def test_a_delivery_without_a_token_has_no_proof(token: str | None) -> None:
    with pytest.raises(SignatureMissing, match="webhook_url"):
        SOURCE.verify(arrived(token=token))


@pytest.mark.parametrize(
    "token",
    [
        TOKENS[0][:-1],
        TOKENS[0] + "x",
        TOKENS[0].upper(),
        f" {TOKENS[0]}",
        "é",
        "zweites-Geheimnis-e\u0301",
        "\udce9",
        "\ud83d",
    ]
    + ["０" * 20, TOKENS[0] + "\x00", "*" * 5000],
)
def test_a_wrong_token_is_refused_and_the_error_shows_no_token(token: str) -> None:
    assert SOURCE.verify(arrived())
    with pytest.raises(SignatureMismatch) as refused:
        SOURCE.verify(arrived(token=token))
    assert not any(known in str(refused.value) for known in (*TOKENS, token) if len(known) > 1)


def test_a_source_without_tokens_refuses_every_delivery() -> None:
    source = StreamrecSource(SourceSettings(name="rec", vendor="streamrec", secrets=("",)))
    for token in (None, "", "x"):
        with pytest.raises((SignatureMissing, SignatureMismatch)):
            source.verify(arrived(token=token))


def test_no_token_is_stored_or_printed() -> None:
    verified = SOURCE.verify(arrived(sid=f"x{TOKENS[0]}", rid=TOKENS[0]))
    assert not any(token in repr(verified) + repr(SOURCE) for token in TOKENS)


def test_only_hints_of_the_query_are_stored_with_the_proof() -> None:
    verified = SOURCE.verify(arrived(sid=SESSION, rid=REC, key="s3cret"))
    assert json.loads(verified.proof) == {"scheme": "url_token", "key": 0, "sid": SESSION, "rid": REC}
    assert set(json.loads(SOURCE.verify(arrived(sid="", rid="x" * 201)).proof)) == {"scheme", "key"}


def test_a_repeat_is_recognised_by_its_bytes_whatever_its_url() -> None:
    body = json.dumps(WEBHOOKS[0]).encode()
    keys = {SOURCE.verify(each).dedupe_key for each in (arrived(body), arrived(body, token=TOKENS[1], sid="x"))}
    assert keys == {hashlib.sha256(body).hexdigest()}
    assert SOURCE.verify_trusted(body, received_at=5, proof={}).dedupe_key in keys
    assert SOURCE.verify(arrived(body + b" ")).dedupe_key not in keys


def test_an_imported_record_keeps_its_proof_and_hints() -> None:
    verified = SOURCE.verify_trusted(
        json.dumps(WEBHOOKS[2]).encode(), received_at=5, proof={"file": "f", "line": 3, "sid": "s"}
    )
    assert (verified.origin, verified.event) == ("import", "session_finished")
    (fact,) = interpret(recorded(verified))
    assert fact.place is not None
    assert fact.place.run == "s"


# --- interpretation of samples ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", WEBHOOKS, ids=lambda body: str(body["status"]))
def test_every_webhook_becomes_the_facts_of_the_table(body: dict[str, Any]) -> None:
    facts = read(body)
    assert kinds(facts) == KINDS[body["status"]]
    assert facts == read(body), "reading is pure"
    assert msgspec.json.decode(msgspec.json.encode(facts), type=tuple[AnyFact, ...]) == facts
    assert all(fact.anomalies == () for fact in facts)
    for fact in facts:
        assert fact.place is not None
        assert fact.place.room == body.get("client_id", body.get("agent_client_id"))
        assert fact.place.run == body.get("agent_session_id")
        assert fact.detail == ({"msg": body["msg"]} if "msg" in body else {})


@pytest.mark.parametrize("body", list(RELAYED.values()), ids=list(RELAYED))
def test_every_relayed_message_becomes_the_facts_of_the_table(body: dict[str, Any]) -> None:
    facts = read(body)
    assert kinds(facts) == KINDS[body["type"]]
    (fact,) = facts
    assert (fact.at, fact.clock, fact.precision, fact.anomalies) == (RECEIVED, "receiver", "us", ())
    assert fact.place is not None
    assert fact.place.run == SESSION
    assert "s3cret" not in repr(facts)
    assert msgspec.json.decode(msgspec.json.encode(facts), type=tuple[AnyFact, ...]) == facts


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: str(sample["api"]))
def test_every_sample_is_read_or_shown_and_never_with_a_secret(sample: dict[str, Any]) -> None:
    body = sample["body"]
    facts = read(body)
    name = body.get("status") or body.get("type")
    known = sample["api"] in {"streamrec-webhook", "streamrec-rtm"}
    assert kinds(facts) == (KINDS[name] if known else ["unknown"])
    marks = {kind for fact in facts for kind, _ in fact.anomalies}
    assert marks == (set() if known else {"unknown_event"} if name else {"unreadable"})
    shown = msgspec.json.encode(facts).decode()
    for secret in ("webhook_url", 'sdp"', "guest_token", "MY_PRIVATE", "epYFN", "X-Amz", "https:", "yourserver"):
        assert secret not in shown


def test_an_upload_gives_start_and_stop_of_its_recording() -> None:
    stopped, uploaded = read(WEBHOOKS[0])
    assert isinstance(stopped, RecordingStopped)
    assert isinstance(uploaded, RecordingUploaded)
    began, ended = at("2021-09-13T14:36:31.104Z"), at("2021-09-13T14:50:02.951Z")
    for fact in (stopped, uploaded):
        assert (fact.recording, fact.status) == ("cdf24e22-4d2e-44ce-b775-3b1ddcb04ca0", "upload_ready")
        assert (fact.started_at, fact.stopped_at) == (began, ended)
        assert (fact.duration_ms, fact.size_bytes) == (811_563, 48_213_377)
        assert fact.place is not None
        assert (fact.place.at, fact.place.anchor) == (began, fact.recording)
        assert fact.place.ids == (("client_id", "streamrec-demo-client"), ("rec_id", fact.recording))
    assert (stopped.at, stopped.clock, stopped.reason) == (ended, "server", "normal")
    assert (uploaded.at, uploaded.clock) == (RECEIVED, "receiver")
    assert stopped.first_frame_at == at("2021-09-13T14:36:31.388Z")
    assert stopped.first_peerframe_at == at("2021-09-13T14:36:31.207Z")


def test_nanoseconds_are_cut_and_an_unset_time_is_none() -> None:
    stopped, _ = read(WEBHOOKS[5])
    assert isinstance(stopped, RecordingStopped)
    assert stopped.started_at == at("2021-09-13T14:36:31.104512Z")
    assert stopped.first_peerframe_at is None
    assert stopped.anomalies == ()


def test_an_upload_without_times_has_the_time_of_its_message() -> None:
    body = {name: value for name, value in WEBHOOKS[0].items() if not name.endswith("_at")}
    fact = only(RecordingUploaded, body)
    assert (fact.at, fact.clock, fact.started_at, fact.stopped_at) == (RECEIVED, "receiver", None, None)
    assert {kind for kind, _ in fact.anomalies} == {"unreadable"}


def test_a_failed_upload_has_no_time_and_follows_its_recording() -> None:
    fact = only(RecordingUploadFailed, WEBHOOKS[1])
    assert (fact.at, fact.clock, fact.http_status, fact.status) == (RECEIVED, "receiver", 403, "upload_failed")
    assert fact.place is not None
    assert (fact.place.run, fact.place.anchor) == (None, fact.recording)
    assert only(RecordingUploadFailed, WEBHOOKS[1], sid=SESSION).place == msgspec.structs.replace(
        fact.place, run=SESSION, ids=(("client_id", "streamrec-demo-client"), ("session_id", SESSION), ("rec_id", fact.recording))
    )  # fmt: skip


def test_a_finished_session_states_both_its_ends() -> None:
    fact = only(SessionEnded, WEBHOOKS[2])
    began, ended = at("2021-09-13T14:36:29.538Z"), at("2021-09-13T14:53:26.719Z")
    assert (fact.at, fact.started_at, fact.clock, fact.reason) == (ended, began, "server", "normal")
    assert fact.place is not None
    assert (fact.place.run, fact.place.room) == (None, "streamrec-demo-client")
    assert (fact.place.at, fact.place.starts_at, fact.place.ends_at) == (began, began, ended)
    assert ("rec_id", "cdf24e22-4d2e-44ce-b775-3b1ddcb04ca0") in fact.place.ids


def test_an_empty_rec_id_names_no_recording_and_never_the_session() -> None:
    for rec_id in ("", None, SESSION, 7):
        fact = only(SessionEnded, WEBHOOKS[3] | {"rec_id": rec_id})
        assert fact.place is not None
        assert fact.place.run is None
        assert fact.place.anchor == (SESSION if rec_id == SESSION else None)


def test_a_hint_names_the_session_and_its_own_field_before_it() -> None:
    for body, query in ((WEBHOOKS[2], {"sid": SESSION}), (WEBHOOKS[2] | {"session_id": SESSION}, {"sid": "other"})):
        fact = only(SessionEnded, body, **query)
        assert fact.place is not None
        assert (fact.place.run, ("session_id", SESSION) in fact.place.ids) == (SESSION, True)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"stopped_at": None}, "unreadable"),
        ({"started_at": "yesterday"}, "unreadable"),
        ({"started_at": "0001-01-01T00:00:00Z"}, "unreadable"),
        ({"started_at": "2021-09-13T15:36:29.538Z"}, "end_before_start"),
    ],
)
def test_a_session_without_one_of_its_times_is_over_and_reported(fields: dict[str, Any], wrong: str) -> None:
    fact = only(SessionEnded, WEBHOOKS[2] | fields)
    assert [kind for kind, _ in fact.anomalies] == [wrong]
    if "stopped_at" in fields:
        assert (fact.at, fact.clock) == (RECEIVED, "receiver")
        assert fact.place is not None
        assert (fact.place.starts_at, fact.place.ends_at) == (fact.started_at, RECEIVED)


@pytest.mark.parametrize("naive", ["2021-09-13T14:36:29.538", "20210913T143629,538", "2021-W37-1 14:36:29.538"])
def test_a_time_without_an_offset_is_taken_for_utc_and_reported(naive: str) -> None:
    fact = only(SessionEnded, WEBHOOKS[2] | {"started_at": naive, "stopped_at": "2021-09-13T17:36:29.538+02:00"})
    assert (fact.started_at, fact.at, fact.clock) == (1_631_543_789_538_000, 1_631_547_389_538_000, "server")
    assert fact.anomalies == (("clock_skew", "started_at states no offset from UTC: UTC is assumed"),)
    stopped, uploaded = read(WEBHOOKS[0] | {"recording_started_at": naive, "recording_first_frame_written_at": naive})
    assert isinstance(stopped, RecordingStopped)
    assert (stopped.started_at, stopped.first_frame_at) == (1_631_543_789_538_000, 1_631_543_789_538_000)
    assert [len(stopped.anomalies), len(uploaded.anomalies)] == [1, 0]


def test_a_supervisor_session_belongs_to_the_agents_session() -> None:
    joined = only(SupervisorSessionStarted, RELAYED["supervisor_join_session"], sid=SESSION)
    ended = only(SupervisorSessionEnded, WEBHOOKS[4])
    assert (joined.activity, joined.supervisor_client, joined.agent_session) == (WATCH, "sup-0", SESSION)
    assert (ended.activity, ended.supervisor_client, ended.agent_client, ended.agent_session) == (
        "5061fd09-834c-1efa-be18-4a08eb54996f", "sup-0", "client-0", "6760fea3-589c-4253-b1c6-3d87123be956",
    )  # fmt: skip
    assert (ended.started_at, ended.at) == (at("2021-09-13T14:40:00Z"), at("2021-09-13T14:45:10.250Z"))
    assert ended.place is not None
    assert (ended.place.run, ended.place.room, ended.place.at) == (ended.agent_session, "client-0", ended.started_at)
    assert ("supervisor_session_id", ended.activity) in ended.place.ids


def watching(**data: str) -> dict[str, Any]:
    return RELAYED["supervisor_join_session"] | {"data": data}


def test_a_supervisors_session_is_named_by_its_client_or_by_the_url() -> None:
    by_client = only(SupervisorSessionStarted, watching(client_id_to_monitor=CLIENT))
    by_hint = only(SupervisorSessionStarted, watching(), sid=SESSION)
    flat = only(SupervisorSessionStarted, watching() | {"session_id_to_monitor": SESSION})
    assert by_client.place is not None
    assert by_hint.place is not None
    assert flat.place is not None
    assert (by_client.place.run, by_client.place.room) == (None, CLIENT)
    assert by_hint.place.run == flat.place.run == SESSION
    assert by_hint.place.room is None, "the sender of the message is the supervisor"


def test_a_supervisor_without_its_agent_is_shown_without_a_session() -> None:
    for query in ({}, {"sid": WATCH}):
        fact = only(SupervisorSessionStarted, watching(), **query)
        assert (fact.place, fact.activity) == (None, WATCH)
        assert [kind for kind, _ in fact.anomalies] == ["unreadable"]


def test_a_session_is_live_from_its_relayed_start() -> None:
    fact = only(SessionStarted, RELAYED["session_start"])
    assert fact.place is not None
    assert (fact.place.run, fact.place.room, fact.place.starts_at) == (SESSION, CLIENT, RECEIVED)
    assert fact.place.ids == (("client_id", CLIENT), ("session_id", SESSION))
    assert fact.detail == {"version": "v1.2.3"}


def test_a_relayed_recording_is_identified_by_its_id_or_the_hint_or_its_time() -> None:
    by_id = only(RecordingStarted, RELAYED["recording_start"], rid="mine")
    by_hint = only(RecordingStarted, RELAYED["recording_start"] | {"data": {}}, rid="mine")
    by_time = only(RecordingStopped, RELAYED["recording_stop"] | {"data": {}})
    assert (by_id.recording, by_id.alias, by_id.nameless) == (REC, "mine", False)
    assert (by_hint.recording, by_hint.alias, by_hint.nameless) == ("mine", None, False)
    assert (by_time.recording, by_time.nameless) == (f"{SESSION}/{RECEIVED // 1000}", True)
    assert by_time.place is not None
    assert (by_time.place.anchor, by_time.place.run) == (None, SESSION)
    assert only(RecordingStarted, RELAYED["recording_start"], rid=REC).alias is None


@pytest.mark.parametrize("name", ["recording_state", "sdp_update", "candidate"])
def test_signalling_is_shown_by_its_name_without_an_anomaly(name: str) -> None:
    fact = only(Unknown, RELAYED["session_start"] | {"type": name}, sid=SESSION)
    assert (fact.anomalies, fact.detail) == ((), {"event": name})
    assert fact.place is not None
    assert fact.place.run == SESSION
    assert only(Unknown, RELAYED["session_start"] | {"type": name}).place is None


def test_an_unknown_event_is_shown_by_its_name() -> None:
    for body in ({"status": "session_frozen", "client_id": CLIENT, "link": "s3cret"}, {"type": "session_frozen"}):
        fact = only(Unknown, body)
        assert (fact.anomalies, fact.detail) == ((("unknown_event", "session_frozen"),), {"event": "session_frozen"})


def test_the_event_of_a_message_is_its_status_or_its_type() -> None:
    assert SOURCE.verify(arrived(b'{"type":"session_start","status":"open"}')).event == "session_start"
    assert SOURCE.verify(arrived(b'{"type":"webhook","status":"upload_ready"}')).event == "upload_ready"
    assert SOURCE.verify(arrived(b'{"type":"new","status":"newer"}')).event == "newer"
    assert SOURCE.verify(arrived(b'{"status":7}')).event == SOURCE.verify(arrived(b"\xff")).event == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2021-09-13T14:36:29.538Z", 1_631_543_789_538_000),
        ("2021-09-13T14:36:29Z", 1_631_543_789_000_000),
        ("2021-09-13T14:36:29.123456789Z", 1_631_543_789_123_456),
        ("2021-09-13T16:36:29.5+02:00", 1_631_543_789_500_000),
        ("2021-09-13T16:36:29+0200", 1_631_543_789_000_000),
        ("2021-09-13 14:36:29z", 1_631_543_789_000_000),
        ("2021-09-13T14:36:29", None),
        ("2021-09-13", None),
        ("0001-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+23:59", None),
        ("9999-12-31T23:59:59-23:59", None),
        ("2021-02-30T14:36:29Z", None),
        ("２０２１-09-13T14:36:29Z", None),
        (1_631_543_789, None),
        (None, None),
    ],
)
def test_times_are_iso_with_a_zone(text: object, expected: int | None) -> None:
    assert iso_moment(text) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"status":7}',
        b'{"status":"upload_ready"}',
        b'{"status":"upload_ready","rec_id":"r"}',
        b'{"status":"upload_failed","client_id":""}',
        b'{"status":"session_finished","started_at":"2021-09-13T14:36:29Z"}',
        b'{"status":"supervisor_session_finished","agent_client_id":"c"}',
        b'{"status":"supervisor_session_finished","supervisor_session_id":"c"}',
        b'{"type":"session_start","data":[]}',
        b'{"type":"recording_start"}',
        b'{"type":"supervisor_join_session","client_id":"x"}',
        b'{"status":"session_finished","client_id":"a","client_id":"b"}',
        b'{"status":"session_finished","client_id":NaN}',
        b'{"status":"session_finished","x":' + b"[" * 99999,
        b"\xff\xfe\x00{",
    ],
)
def test_an_unreadable_body_is_an_unknown_event(body: bytes) -> None:
    fact = only(Unknown, body)
    assert "unreadable" in {kind for kind, _ in fact.anomalies}
    assert fact.place is None


def test_the_rules_expect_nothing_at_starts() -> None:
    assert RULES.ends_only
    assert RULES.room_is_person


# --- any bytes, any mutation -----------------------------------------------------------------------------------------


def reading_is_sound(body: bytes, **query: str) -> None:
    record = recorded(SOURCE.verify(arrived(body, **query)))
    facts = interpret(record)
    assert facts
    assert facts == interpret(record)
    assert msgspec.json.decode(msgspec.json.encode(facts), type=tuple[AnyFact, ...]) == facts
    record.event.encode()


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=20)


@settings(max_examples=100, deadline=None)
@given(ANY_TEXT, ANY_TEXT)
def test_any_other_token_is_refused_and_any_hint_is_accepted(token: str, hint: str) -> None:
    with pytest.raises((SignatureMissing, SignatureMismatch)):
        SOURCE.verify(arrived(token=token))
    reading_is_sound(b'{"type":"session_start"}', sid=hint, rid=hint)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.text(max_size=5))
def test_any_bytes_are_interpreted_without_raising(body: bytes, hint: str) -> None:
    reading_is_sound(body, sid=hint)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_mutation_of_a_sample_is_interpreted_without_raising(data: st.DataObject) -> None:
    body = dict(data.draw(st.sampled_from([*BODIES, *RELAYED.values()])))
    for name in data.draw(st.lists(st.sampled_from(sorted(body)), max_size=4, unique=True)):
        if data.draw(st.booleans()):
            del body[name]
        else:
            body[name] = data.draw(JSON)
    reading_is_sound(json.dumps(body).encode())


# --- docs ------------------------------------------------------------------------------------------------------------


def test_the_page_lists_what_every_event_becomes() -> None:
    page = (ROOT / "docs" / "reference" / "vendors" / "streamrec.md").read_text("utf-8")
    table = page.split("| vendor event | timeline kind |\n")[1].split("\n\n")[0].splitlines()[1:]
    documented: dict[str, list[str]] = {}
    for row in table:
        event, kind = row.strip("|").split("|")
        name = re.search(r"`([a-z_]+)`", event)
        documented[name[1] if name else event.strip()] = re.findall(r"`([^`]+)`", kind)
    assert documented.pop("anything else") == kinds(read({"status": "session_frozen"}))
    assert documented == KINDS
    shown = {body["status"]: kinds(read(body)) for body in WEBHOOKS}
    shown |= {name: kinds(read(RELAYED["session_start"] | {"type": name})) for name in documented if name not in shown}
    shown |= {name: kinds(read(body)) for name, body in RELAYED.items()}
    assert documented == shown
