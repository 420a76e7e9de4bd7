"""After an erasure a fact has no text of the vendor but the ids of rooms, runs and recordings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import parse_qs

import msgspec
import pytest

from tests.support.samples import LATER, samples
from tracker.demo.calls import VENDORS
from tracker.domain.deliveries import Record
from tracker.domain.facts import Fact
from tracker.domain.redaction import pseudonymize_everyone
from tracker.sources import registry

CANARY = "canary-7f3"
STAYS = {
    "openvidu": {"sessionId", "sessionIds", "uniqueSessionId", "id", "nodeId", "clusterId"},
    "openvidu_meet": {"roomId", "recordingId"},
    "livekit": {"sid", "name", "id", "egressId", "roomId", "roomName", "ingressId"},
    "plugnmeet": {"sid", "room_id", "record_id"},
    "bigbluebutton": {
        "internal-meeting-id",
        "external-meeting-id",
        "record-id",
        "parent-id",
        "workflow",
        "meetingId",
        "meeting_id",
        "internal_meeting_id",
    },
    "jitsi": {"room_jid", "room_name", "breakout_room_id"},
    "jaas": {"sessionId", "fqn", "breakoutRoomId", "recordingSessionId"},
    "declared": {"id", "uuid"},
    "streamrec": {"session_id", "agent_session_id", "supervisor_session_id", "rec_id"},
}
"""Fields whose text an erasure keeps: names of rooms, runs, recordings, ingresses, jobs and nodes."""
WHERE = {"place", "recording", "activity", "agent_session", "subject_id"}
"""Fields of facts that may contain such a text."""


def rename(text: str) -> str:
    return f"erased-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def erased(vendor: str, body: Any) -> Iterator[tuple[Fact, dict[str, Any]]]:
    record = Record(
        position=1, source="s", vendor=vendor, event="", dedupe_key="k", received_at=LATER, origin="webhook",
        proof=b"{}", body=json.dumps(body).encode(),
    )  # fmt: skip
    for fact in registry.interpret(record):
        remaining = pseudonymize_everyone(fact, rename, room_is_person=registry.rules(vendor).room_is_person)
        yield fact, msgspec.to_builtins(remaining)


def texts(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict):
        for key, inner in cast("dict[str, Any]", value).items():
            yield from texts(inner, (*path, key))
    elif isinstance(value, list):
        for n, inner in enumerate(cast("list[Any]", value)):
            yield from texts(inner, (*path, n))
    elif isinstance(value, str):
        yield path


def replaced(value: Any, path: tuple[str | int, ...], new: str) -> Any:
    if not path:
        return new
    copied = value.copy()
    copied[path[0]] = replaced(value[path[0]], path[1:], new)
    return copied


def content(body: bytes) -> Any:
    """The JSON of a body, or of the field `event` of a form; None where there is none."""
    if body[:1] == b"{":
        return json.loads(body.decode("latin1"))
    events = parse_qs(body.decode("latin1")).get("event")
    return json.loads(events[0]) if events else None


@pytest.mark.parametrize("vendor", VENDORS)
def test_no_text_of_a_delivery_is_left_in_what_remains_but_the_ids_of_rooms_runs_and_recordings(vendor: str) -> None:
    shown_fields: set[str] = set()
    for sample in samples():
        body = content(sample.body) if sample.vendor == vendor else None
        for path in texts(body):
            name = next(part for part in reversed(path) if isinstance(part, str))
            for fact, remaining in erased(vendor, replaced(body, path, CANARY)):
                shown_fields |= {name} if CANARY in repr(fact) else set()
                left = {field for field, value in remaining.items() if CANARY in repr(value)}
                assert not left or (name in STAYS[vendor] and left <= WHERE), (path, left, remaining)
                if "place" in left:
                    assert "room_name" not in remaining["place"]
    # Before the erasure the canary was in facts, in many fields of each vendor.
    assert len(shown_fields) > (6 if vendor == "jitsi" else 10), "Jitsi's bodies are small"


@pytest.mark.parametrize(
    ("vendor", "body", "secret"),
    [
        ("plugnmeet", {"event": "end_recording", "recording_info": {"record_id": "r", "recorder_msg": "Ana hung up"}}, "Ana"),
        ("plugnmeet", {"event": "analytics_proceeded", "analytics": {"file_id": "zoe-and-bob"}}, "zoe"),
        ("plugnmeet", {"event": "artifact_created", "room_artifact": {"artifact_id": "ana-summary"}}, "ana"),
        ("plugnmeet", {"event": "speech_to_text_session_started", "speech_service": {"user_id": "ana"}}, "ana"),
        ("livekit", {"event": "egress_ended", "egressInfo": {"egressId": "EG_1", "error": "Ana left", "status": "Ana"}}, "Ana"),
        ("livekit", {"event": "participant_joined", "participant": {"sid": "PA_1", "identity": "x", "kind": "ANA"}}, "ana"),
        ("openvidu", {"event": "participantLeft", "sessionId": "S", "participantId": "c", "reason": "Ana was rude"}, "Ana"),
    ],
)  # fmt: skip
def test_free_text_and_words_that_a_vendor_made_up_are_gone(vendor: str, body: dict[str, Any], secret: str) -> None:
    body = body | ({} if vendor == "openvidu" else {"room": {"sid": "RM_1", "name": "r", "room_id": "r"}, "id": "EV_1"})
    ((fact, remaining), *others) = erased(vendor, body)
    assert secret in repr(fact)
    assert all(secret not in repr(each) for each in (remaining, *(other for _, other in others)))


def test_numbers_stay_after_an_erasure() -> None:
    body = {
        "event": "participant_joined", "room": {"sid": "RM_1", "name": "r"}, "createdAt": "1790000000",
        "participant": {"sid": "PA_1", "identity": "ana", "kind": "SIP", "joinedAt": "1790000000"},
    }  # fmt: skip
    ((fact, remaining),) = erased("livekit", body)
    assert (remaining["person"], remaining["at"], remaining["joined_at"]) == ("sip", fact.at, 1_790_000_000_000_000)
    assert remaining["place"]["run"] == "RM_1"
