"""Names and times in vendors' JSON: a name is never JSON, and a time is read in every form of ISO 8601."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.paths import SAMPLES
from tracker.domain.deliveries import Record
from tracker.domain.facts import ParticipantJoined
from tracker.sources import registry
from tracker.sources.json_reading import iso_moment, person_name

ANA = '{"clientData":"Ana"}'


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (ANA + '%/%{"serverData":"x"}', "Ana"),
        ('Ana%/%{"role":1}', "Ana"),
        ('{"role":1}%/%' + ANA, "Ana"),
        ('{"role":1}%/%{"other":2}', None),
        (json.dumps({"clientData": ANA}), "Ana"),
        (json.dumps({"clientData": json.dumps({"clientData": ANA})}), "Ana"),
        (json.dumps(ANA), "Ana"),
        ('{\\"clientData\\":\\"Ana\\"}', "Ana"),
        ('{"name":{"nickname":"Ana"}}', "Ana"),
        (" " + ANA, "Ana"),
        ('{"clientData":"Ana"', None),
        ('{"clientData":Ana}', None),
        ("{'clientData': 'Ana'}", None),
        ('{clientData:"Ana"}', None),
        ('[{"clientData":"Ana"}]', None),
        ("[object Object]", None),
        ("{}", None),
        ("{", None),
        ("[1, 2]", None),
        ('{"clientData":7}', None),
        ('{"clientData":true}', None),
        ('{"clientData":"{broken\\""}', '{broken"'),
        ("Ana", "Ana"),
        ("[VIP] Ana", "[VIP] Ana"),
        ("{Ana}", "{Ana}"),
        ('"Ana" the Great', '"Ana" the Great'),
        ("Ana: 100%/day", "Ana: 100%/day"),
        ("", None),
        (None, None),
    ],
)
def test_a_persons_name_is_never_json(text: object, name: str | None) -> None:
    assert person_name(text) == name


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["clientData", "name", "a", "b"]), inner),
    max_leaves=8,
)


def _is_json_of_more_than_a_word(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except ValueError:
        return False


@given(VALUES, st.integers(0, 3), st.booleans())
def test_no_json_of_an_application_is_shown_as_a_name(value: Any, nested: int, cut: bool) -> None:
    text = json.dumps(value)
    for _ in range(nested):
        text = json.dumps({"clientData": text})
    if cut and isinstance(value, dict | list) and nested:
        text = text[:-1]
    name = person_name(text)
    assert name is None or not _is_json_of_more_than_a_word(name)
    assert name is None or not name.startswith('{"')


@pytest.mark.parametrize("vendor", ["openvidu", "livekit", "plugnmeet", "openvidu_meet"])
@pytest.mark.parametrize(
    ("text", "name"), [(ANA, "Ana"), (ANA + '%/%{"x":1}', "Ana"), ('{"broken', None), ("Bob", "Bob")]
)
def test_no_vendors_event_gives_json_as_a_name(vendor: str, text: str, name: str | None) -> None:
    person: dict[str, Any]
    match vendor:
        case "openvidu":
            body: dict[str, Any] = {"event": "participantJoined", "sessionId": "S", "timestamp": 9, "connectionId": "c"}
            body["clientData"] = text
        case "openvidu_meet":
            person = {"participantIdentity": "p", "participantName": text}
            body = {"event": "participantJoined", "creationDate": 9, "data": {"roomId": "r", "participant": person}}
        case "livekit":
            person = {"sid": "PA_1", "identity": "p", "name": text, "joinedAt": "9"}
            body = {"event": "participant_joined", "id": "1", "createdAt": "9", "room": {"sid": "RM_1", "name": "r"}}
            body["participant"] = person
        case _:
            person = {"sid": "PA_1", "identity": "p", "name": text, "joined_at": "9"}
            body = {
                "event": "participant_joined",
                "id": "1",
                "created_at": "9",
                "room": {"sid": "RM_1", "room_id": "r"},
            }
            body["participant"] = person
    record = Record(
        position=1, source="s", vendor=vendor, event="", dedupe_key="k", received_at=1_700_000_000_000_000,
        origin="webhook", proof=b"{}", body=json.dumps(body).encode(),
    )  # fmt: skip
    joined = [fact for fact in registry.interpret(record) if isinstance(fact, ParticipantJoined)]
    assert [fact.name for fact in joined] == [name]


MOMENT = datetime(2024, 5, 1, 3, 0, 4, 123_000, UTC)


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("2024-05-01T03:00:04,123Z", 123_000),
        ("20240501T030004.123Z", 123_000),
        ("20240501T030004Z", 0),
        ("2024-05-01T05:00:04+02", 0),
        ("2024-05-01T08:30:04+0530", 0),
        ("2024-05-01T03:00:04.123456789Z", 123_456),
        ("2024-05-01T03:00:04.1+00:00", 100_000),
        ("2024-W18-3T03:00:04Z", 0),
        ("2024-05-01 03:00:04z", 0),
    ],
)
def test_a_time_is_read_in_every_form_of_iso_8601(text: str, micros: int) -> None:
    assert iso_moment(text) == 1_714_532_404_000_000 + micros


def test_a_time_without_seconds_is_the_start_of_its_minute() -> None:
    assert iso_moment("2024-05-01T03:00Z") == iso_moment("20240501T0300Z") == 1_714_532_400_000_000
    assert iso_moment("2024-05-01T03Z") == 1_714_532_400_000_000


@pytest.mark.parametrize(
    "text",
    [
        "2024-05-01T03:00:04",
        "2024-05-01",
        "20240501",
        "2024-05-01x03:00:04Z",
        "2024-05-01T03:00:04Z ",
        "T03:00Z",
        "٢٠٢٤-05-01T03:00Z",
        5,
    ],
)
def test_text_that_is_no_time_with_a_zone_is_none(text: object) -> None:
    assert iso_moment(text) is None


@given(
    st.datetimes(datetime(1971, 1, 1), datetime(9000, 1, 1)),  # noqa: DTZ001
    st.integers(-23 * 60, 23 * 60),
    st.sampled_from(["T", " "]),
    st.sampled_from([".", ","]),
)
def test_every_time_in_iso_8601_is_read(naive: datetime, zone: int, between: str, point: str) -> None:
    at = naive.replace(tzinfo=timezone(timedelta(minutes=zone)))
    expected = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert iso_moment(at.isoformat(sep=between).replace(".", point)) == expected
    basic = f"{at:%Y%m%dT%H%M%S}{point}{at.microsecond:06d}{at:%z}"
    assert iso_moment(basic) == expected


def test_the_samples_of_recordings_hold_measured_zeros() -> None:
    lines = (SAMPLES / "field" / "openvidu-02" / "webhooks.jsonl").read_bytes().splitlines()
    found = {}
    for line in lines:
        record = Record(
            position=1, source="s", vendor="openvidu", event="", dedupe_key="k", received_at=1, origin="webhook",
            proof=b"{}", body=line,
        )  # fmt: skip
        (fact,) = registry.interpret(record)
        if fact.__struct_config__.tag.startswith("recording"):
            found[fact.__struct_config__.tag] = (fact.duration_ms, fact.size_bytes)
    assert found == {
        "recording.started": (None, None),
        "recording.stopped": (None, None),
        "recording.ready": (0, 0),
    }
