"""The demo's calls look like the vendors' deliveries, and their proofs are valid."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest

from tests.support.paths import SAMPLES
from tracker.demo.calls import ISSUERS, VENDORS, sign, whole_call
from tracker.sources.sample_calls import CALL_SECONDS


START = 1_786_000_000_000_000
SECRET = "a-secret-of-more-than-thirty-two-bytes"


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_same_arguments_give_the_same_bytes(vendor: str) -> None:
    assert whole_call(vendor, START) == whole_call(vendor, START)
    assert {each.body for each in whole_call(vendor, START)}.isdisjoint(
        {each.body for each in whole_call(vendor, START, seed=1)}
    )


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_deliveries_of_a_call_are_ordered_and_within_its_time(vendor: str) -> None:
    call = whole_call(vendor, START)
    times = [each.at for each in call]
    assert times == sorted(times)
    assert times[0] >= START
    assert times[-1] <= START + CALL_SECONDS * 1_000_000
    assert len({each.body for each in call}) == len(call)


@pytest.mark.parametrize("vendor", VENDORS)
def test_pace_shortens_a_call_without_changing_its_events(vendor: str) -> None:
    quick = whole_call(vendor, START, pace=0.05)
    assert [each.event for each in quick] == [each.event for each in whole_call(vendor, START)]
    assert quick[-1].at <= START + CALL_SECONDS * 50_000


def shape(value: object, path: str = "") -> set[str]:
    """Every key path of a JSON value, with [] for list items."""
    if isinstance(value, dict):
        paths: set[str] = set()
        for key, inner in value.items():
            paths |= {f"{path}.{key}"} | shape(inner, f"{path}.{key}")
        return paths
    if isinstance(value, list):
        return {each for inner in value for each in shape(inner, path + "[]")}
    return set()


EVENT_FIELDS = ("event", "status", "type", "event_name", "eventType")
"""Where the vendors name an event."""


def events_in(body: bytes) -> list[Any]:
    """The objects in a body; BigBlueButton sends a form with the JSON of several events."""
    text = body.decode() if body.startswith(b"{") else parse_qs(body.decode())["event"][0]
    found = json.loads(text)
    return found if isinstance(found, list) else [found]


def name_of(body: dict[str, Any]) -> str:
    if "internal_meeting_id" in body:
        return "analytics-callback"
    if isinstance(data := body.get("data"), dict) and data.get("type") == "event":
        return str(data["id"])
    return str(next(filter(None, map(body.get, EVENT_FIELDS)), None))


def sample_shapes(vendor: str) -> dict[str, set[str]]:
    """Event → every key path any sample of that event has."""
    bodies: list[dict[str, object]] = []
    if vendor == "openvidu":
        for name in ("openvidu2-webhook.jsonl", "openvidu2-timelines.jsonl"):
            bodies += [json.loads(line) for line in (SAMPLES / name).read_bytes().splitlines()]
    elif vendor == "openvidu_meet":
        bodies = [json.loads(line)["body"] for line in (SAMPLES / "openvidu-meet.jsonl").read_bytes().splitlines()]
    elif vendor == "streamrec":
        bodies = [json.loads(line)["body"] for line in (SAMPLES / "streamrec.jsonl").read_bytes().splitlines()]
    elif vendor in {"bigbluebutton", "jitsi", "jaas", "declared"}:
        bodies = [each for line in (SAMPLES / f"{vendor}.jsonl").read_bytes().splitlines() for each in events_in(line)]
    else:
        for line in (SAMPLES / f"{vendor}-signed.jsonl").read_bytes().splitlines():
            try:
                bodies.append(json.loads(json.loads(line)["body_text"]))
            except ValueError:
                continue  # one sample is not JSON, on purpose
    shapes: dict[str, set[str]] = {}
    for body in bodies:
        if isinstance(body, dict):
            if vendor == "openvidu_meet" and "data" not in body:  # the bare object a webhook would carry
                body = {"event": "recordingEnded" if "recordingId" in body else "meetingStarted", "data": body}
            event = name_of(body)
            shapes.setdefault(event, set()).update(shape(body))
    return shapes


UNSAMPLED = {"recording_start", "recording_stop", "supervisor_join_session"}
"""StreamRec's realtime messages whose payload the vendor does not publish."""


@pytest.mark.parametrize("vendor", VENDORS)
def test_bodies_have_only_fields_of_the_samples(vendor: str) -> None:
    known = sample_shapes(vendor)
    everywhere = set().union(*known.values())
    for each in whole_call(vendor, START):
        if each.event in UNSAMPLED:
            continue
        assert each.event in known, f"no sample of {each.event}"
        # Meet 3.9 renamed its permissions (sources/openvidu_meet); samples show the old names.
        found = {path for event in events_in(each.body) for path in shape(event)}
        paths = {path for path in found if ".permissions." not in path}
        assert paths <= everywhere, f"{each.event}: {sorted(paths - everywhere)}"


def test_meet_signs_time_and_body() -> None:
    body = whole_call("openvidu_meet", START)[0].body
    headers, suffix, query = sign("openvidu_meet", body, SECRET, START)
    expected = hmac.new(SECRET.encode(), b"1786000000000." + body, hashlib.sha256).hexdigest()
    assert (headers["X-Timestamp"], headers["X-Signature"], suffix, query) == ("1786000000000", expected, "", {})


@pytest.mark.parametrize("vendor", ["livekit", "plugnmeet"])
def test_a_token_carries_the_hash_of_the_body(vendor: str) -> None:
    body = whole_call(vendor, START)[0].body
    headers, _, _ = sign(vendor, body, SECRET, START)
    timeless = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}
    claims = jwt.decode(headers["Authorization"], SECRET, algorithms=["HS256"], options=timeless)
    assert claims["iss"] == ISSUERS[vendor]
    assert base64.b64decode(claims["sha256"]) == hashlib.sha256(body).digest()
    assert claims["exp"] - claims["nbf"] == 300
    assert ("Hash-Token" in headers) == (vendor == "plugnmeet")


def test_signing_with_a_short_secret_gives_no_warning() -> None:
    assert sign("livekit", b"{}", "secret", START)[0]["Authorization"]


def test_other_vendors_are_proved_by_a_fixed_header_or_a_token_in_the_path() -> None:
    assert sign("openvidu", b"{}", SECRET, START)[0]["Authorization"] == SECRET
    assert sign("streamrec", b"{}", SECRET, START)[1] == f"/{SECRET}"
    with pytest.raises(KeyError):
        sign("zoom", b"{}", SECRET, START)
