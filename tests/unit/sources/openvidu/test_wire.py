"""One event in several records: its dedupe key, and how copies are recognised."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.paths import SAMPLES
from tracker.domain.deliveries import Record
from tracker.domain.facts import EventCopy
from tracker.sources.openvidu.wire import dedupe_key, event_copy, former_keys, read_event

JOINED = {"sessionId": "S", "timestamp": 1600000001000, "participantId": "con_1", "platform": "x", "serverData": ""}
LOGGED = {"elastic_type": "cdr", "clusterId": "c.example", "cluster_id": "c.example", "master_node_id": "master_1"}


def webhook(name: str, fields: dict[str, Any], encoding: str = "utf-8") -> bytes:
    return json.dumps(fields | {"event": name}, ensure_ascii=False).encode(encoding, "replace")


def cdr(name: str, fields: dict[str, Any], encoding: str = "utf-8") -> bytes:
    return json.dumps({name: fields}, ensure_ascii=False).encode(encoding, "replace")


def key_of(body: bytes) -> str:
    return dedupe_key(body, read_event(body))


def copy_of(body: bytes, dedupe: str | None = None) -> EventCopy:
    record = Record(
        position=1, source="ov", vendor="openvidu", event="", dedupe_key=key_of(body) if dedupe is None else dedupe,
        received_at=1, origin="webhook", proof=b"{}", body=body,
    )  # fmt: skip
    found = event_copy(read_event(body), record)
    assert found is not None
    return found


def joined(name: str) -> dict[str, Any]:
    return JOINED | {"clientData": json.dumps({"clientData": name}, ensure_ascii=False)}


# the dedupe key


@pytest.mark.parametrize("added", [LOGGED, {"@timestamp": "t", "@version": "1"}, {"elastic_type": "cdr"}])
def test_the_fields_that_only_a_logger_adds_do_not_count(added: dict[str, str]) -> None:
    plain, logged = cdr("participantJoined", joined("Pat")), webhook("participantJoined", joined("Pat") | added)
    assert key_of(plain) == key_of(logged)
    assert read_event(plain).fields == read_event(logged).fields


def test_a_nodes_event_has_its_own_cluster_field() -> None:
    fields = {"id": "n1", "timestamp": 1600000001000, "clusterId": "c.example"}
    assert key_of(cdr("nodeCrashed", fields)) != key_of(cdr("nodeCrashed", fields | {"clusterId": "d.example"}))
    assert key_of(cdr("nodeCrashed", fields)) == key_of(webhook("nodeCrashed", fields | {"elastic_type": "cdr"}))


def test_the_keys_of_samples_never_change() -> None:
    for file in ("openvidu2-cdr.jsonl", "openvidu2-webhook.jsonl", "openvidu2-timelines.jsonl"):
        for body in (SAMPLES / file).read_bytes().splitlines():
            assert former_keys(body) == (key_of(body),)


def test_the_former_key_of_a_logged_event_has_all_its_fields() -> None:
    body = webhook("participantJoined", joined("Pat") | LOGGED)
    text = json.dumps(["participantJoined", joined("Pat") | LOGGED], sort_keys=True, separators=(",", ":"))
    assert former_keys(body) == (hashlib.sha256(text.encode()).hexdigest(),)
    assert former_keys(b"no json") == ()


def test_a_recordings_name_counts_only_if_an_encoding_may_have_damaged_it() -> None:
    fields = {"id": "r", "startTime": 1, "status": "ready", "timestamp": 2, "size": 5}
    assert key_of(cdr("recordingStatusChanged", fields | {"name": "a"})) == key_of(
        webhook("recordingStatusChanged", fields | {"name": "b", "size": 0})
    )
    readable, damaged = (cdr("recordingStatusChanged", fields | {"name": name}) for name in ("سلام", "????"))
    assert key_of(readable) != key_of(damaged)
    assert copy_of(readable).key == copy_of(damaged).key
    assert former_keys(readable) == former_keys(damaged)


# copies of one event

DAMAGES = {
    "ISO-8859-1, as webhooks up to 2.17": lambda text: text.encode("iso-8859-1", "replace").decode("iso-8859-1"),
    "ASCII, as a log without a locale": lambda text: text.encode("ascii", "replace").decode(),
    "U+FFFD, as a reader of UTF-8 writes": lambda text: text.encode("iso-8859-1", "replace").decode("utf-8", "replace"),
    "UTF-8 read as ISO-8859-1": lambda text: text.encode().decode("iso-8859-1"),
    "a ? for each byte": lambda text: text.encode().decode("ascii", "replace").replace("\ufffd", "?"),
}


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", ["علی رضایی", "李雷", "Łukasz Żak", "Zoë 😀", "Олег?"])
def test_a_damaged_copy_of_an_event_is_recognised_as_a_copy_and_as_damaged(how: str, name: str) -> None:
    readable = copy_of(cdr("participantJoined", joined(name)))
    damaged = copy_of(webhook("participantJoined", joined(DAMAGES[how](name))))
    assert readable.key == damaged.key
    assert readable.damage < damaged.damage or readable.text == damaged.text


@settings(deadline=None)
@given(st.text("abc ?!.éüßñçЖдиعليرضا李雷王さ한국😀ŁżČ"), st.sampled_from(sorted(DAMAGES)))
def test_a_damaged_copy_of_a_text_in_any_script_has_its_key_and_no_less_damage(text: str, how: str) -> None:
    readable = copy_of(cdr("signalSent", JOINED | {"data": text}))
    damaged = copy_of(cdr("signalSent", JOINED | {"data": DAMAGES[how](text)}))
    assert readable.key == damaged.key
    assert readable.damage <= damaged.damage


@pytest.mark.parametrize(
    "other",
    [
        JOINED | {"timestamp": 1600000001001, "data": "سلام"},
        JOINED | {"participantId": "con_2", "data": "سلام"},
        JOINED | {"data": "سلام!"},
        JOINED | {"data": "a سلام"},
        JOINED | {"data": "سلام", "type": "chat"},
    ],
)
def test_events_that_differ_in_anything_else_are_no_copies(other: dict[str, Any]) -> None:
    assert copy_of(cdr("signalSent", JOINED | {"data": "سلام"})).key != copy_of(cdr("signalSent", other)).key


def test_two_readable_texts_at_the_same_time_are_two_events() -> None:
    first, second = (copy_of(cdr("signalSent", JOINED | {"data": text})) for text in ("سلام", "خدا"))
    assert (first.damage, second.damage) == (0, 0)
    assert first.text != second.text


def test_the_copy_of_a_plain_event_is_named_by_its_dedupe_key() -> None:
    body = cdr("sessionCreated", {"sessionId": "S", "timestamp": 1600000000000})
    assert (
        copy_of(body)
        == copy_of(body, "hmac:0")
        == copy_of(webhook("sessionCreated", {"sessionId": "S", "timestamp": 1600000000000}))
    )
    assert copy_of(body).key == key_of(body)
