"""Jitsi: what its header proves, and how its deliveries are named."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.domain.deliveries import Delivery
from tracker.errors import DeliveryRejected, SignatureMismatch, SignatureMissing
from tracker.sources.contract import SourceSettings
from tracker.sources.jitsi.source import JitsiSource, why_no_event

SECRET = "a-secret-of-the-header"
BODY = b'{"event_name":"muc-room-created","room_jid":"daily@conference.meet.example","created_at":1790000000}'


def source(header: str = "Authorization", *secrets: str) -> JitsiSource:
    return JitsiSource(SourceSettings(name="jitsi", vendor="jitsi", secrets=secrets or (SECRET,), header=header))


def sent(headers: dict[str, str]) -> Delivery:
    return Delivery(source="jitsi", body=BODY, received_at=1_790_000_000_000_000, headers=headers)


@pytest.mark.parametrize("header", ["Authorization", "X-Tracker-Key"])
def test_the_secret_in_the_header_is_a_proof_that_names_only_its_index(header: str) -> None:
    verified = source(header, "former", SECRET).verify(sent({header.lower(): SECRET}))
    assert json.loads(verified.proof) == {"scheme": "header", "header": header, "key": 1}
    assert (verified.event, verified.dedupe_key) == ("muc-room-created", hashlib.sha256(BODY).hexdigest())


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({}, SignatureMissing),
        ({"x-tracker-key": SECRET}, SignatureMissing),
        ({"authorization": ""}, SignatureMismatch),
        ({"authorization": SECRET + "x"}, SignatureMismatch),
        ({"authorization": f"Bearer {SECRET}"}, SignatureMismatch),
        ({"authorization": "\udcff"}, SignatureMismatch),
    ],
)
def test_another_header_and_another_value_are_refused(headers: dict[str, str], error: type[DeliveryRejected]) -> None:
    with pytest.raises(error) as refused:
        source().verify(sent(headers))
    assert SECRET not in str(refused.value)
    assert "event_sync" in str(refused.value)


@given(st.binary())
def test_every_body_has_a_name_and_a_key(body: bytes) -> None:
    assert source().identify(body)[1] == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"event_name": "muc-occupant-left", "room_jid": "r@x"}, None),
        ({"event_name": "muc-occupant-left"}, "it has no room_jid"),
        ({"event_name": "started", "room_jid": "r@x"}, "it names no event of event_sync (event_name)"),
        ({}, "it names no event of event_sync (event_name)"),
    ],
)
def test_an_import_takes_only_the_four_events(value: dict[str, object], why: str | None) -> None:
    assert why_no_event(value, "own log") == why
