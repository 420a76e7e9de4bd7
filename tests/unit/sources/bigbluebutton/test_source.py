"""BigBlueButton: every way its deliveries are proved, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.domain.deliveries import Delivery, Record, Verified
from tracker.errors import DeliveryRejected, SignatureMismatch, SignatureMissing, SignatureStale
from tracker.sources import registry
from tracker.sources.bigbluebutton.source import BigBlueButtonSource, form_event, why_no_event
from tracker.sources.contract import SourceSettings

URL = "https://trk.example/hooks/bbb"
SECRET = "s3cr3t-demo"
NOW = 1_790_000_000_000_000
EVENT = (
    '[{"data":{"type":"event","id":"meeting-ended","attributes":{"meeting":{"internal-meeting-id":"abc-1",'
    '"external-meeting-id":"Room é 1"}},"event":{"ts":1790000000100}}}]'
)
BODY_3 = urlencode({"domain": "bbb.example", "event": EVENT, "timestamp": "1790000000123"}).encode()
BODY_2 = urlencode({"event": EVENT, "timestamp": "1790000000123", "domain": "bbb.example"}).encode()
# Computed by another program.
BOUND_SHA1 = "0bf11b2b13535da412a77e12f0db7b086761a938"
BOUND_SHA256 = "afcd3ac4d2fda3054ddd6caf7b5d307d89678020617120a93310c3d4fc0b85be"
UNBOUND_SHA1 = "d7b7b34efe3f105e1861f4aa771403afc5c359a7"
V2_SHA1 = "618c3ad66481fed2ddc35aad0588efa236278932"


def source(
    *, unbound: bool = False, url: str = URL, secrets: tuple[str, ...] = ("former", SECRET)
) -> BigBlueButtonSource:
    settings = SourceSettings(
        name="bbb", vendor="bigbluebutton", secrets=secrets, hook_url=url, accept_unbound_checksum=unbound
    )
    return BigBlueButtonSource(settings)


def sent(
    body: bytes = BODY_3, checksum: str | None = None, authorization: str | None = None, at: int = NOW
) -> Delivery:
    headers = {} if authorization is None else {"authorization": authorization}
    query = {} if checksum is None else {"checksum": checksum}
    return Delivery(source="bbb", body=body, received_at=at, headers=headers, query=query)


def proof(verified: Verified) -> Any:
    return json.loads(verified.proof)


def token(algorithm: str, claims: dict[str, Any], secret: str = SECRET, **header: Any) -> str:
    parts = [{"alg": algorithm, "typ": "JWT"} | header, claims]
    signed = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    digest = hmac.digest(secret.encode(), signed, {"HS256": "sha256", "HS512": "sha512", "none": "sha256"}[algorithm])
    return (signed + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")).decode()


ANALYTICS = b'{"version":"1.0","meeting_id":"algebra-7","internal_meeting_id":"abc-1","data":{"attendees":[]}}'
IN_A_DAY = NOW // 1_000_000 + 86_400


# --- checksums --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "checksum"),
    [
        (BODY_3, BOUND_SHA1),
        (BODY_3, BOUND_SHA256),
        (BODY_3, BOUND_SHA256.upper()),
        (BODY_2, V2_SHA1),
        (BODY_3, V2_SHA1),
    ],
)
def test_a_checksum_over_address_and_body_is_a_proof_that_can_be_checked_again(body: bytes, checksum: str) -> None:
    verified = source().verify(sent(body, checksum))
    assert proof(verified) == {"scheme": "checksum", "checksum": checksum.lower(), "key": 1}
    again = registry.stored_delivery(Record(position=1, **msgspec.structs.asdict(verified)))
    assert again is not None
    assert source().verify(again) == verified


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha384", "sha512"])
def test_the_length_of_a_checksum_says_its_hash(algorithm: str) -> None:
    checksum = hashlib.new(algorithm, URL.encode() + BODY_3 + SECRET.encode()).hexdigest()
    assert source().verify(sent(BODY_3, checksum)).event == "meeting-ended"
    with pytest.raises(SignatureMismatch):
        source().verify(sent(BODY_3 + b"&x=1", checksum))


@pytest.mark.parametrize(
    "checksum",
    [
        "",
        "0",
        BOUND_SHA1[:-1],
        BOUND_SHA1 + "0",
        "g" * 40,
        "0" * 40,
        BOUND_SHA1[:-1] + "٨",
        BOUND_SHA256[::-1],
        "\udcff" * 40,
    ],
)
def test_another_checksum_is_refused(checksum: str) -> None:
    with pytest.raises(SignatureMismatch) as refused:
        source().verify(sent(BODY_3, checksum))
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("url", [URL + "/", URL.replace("https", "http"), URL + "?a=1", "", URL.upper()])
def test_the_checksum_covers_the_address_letter_by_letter(url: str) -> None:
    with pytest.raises(SignatureMismatch, match="hook_url"):
        source(url=url).verify(sent(BODY_3, BOUND_SHA256))


def test_a_checksum_that_does_not_cover_the_body_is_refused_and_the_remedy_named() -> None:
    with pytest.raises(SignatureMismatch, match=r"upgrade bbb-webhooks to 3\.4"):
        source().verify(sent(BODY_3, UNBOUND_SHA1))


def test_with_the_operators_consent_it_is_accepted_and_labelled() -> None:
    verified = source(unbound=True).verify(sent(BODY_3, UNBOUND_SHA1))
    assert proof(verified) == {"scheme": "checksum-url", "key": 1}
    record = Record(position=1, **msgspec.structs.asdict(verified))
    assert registry.stored_delivery(record) is None, "it proves nothing about this body"


def test_an_empty_secret_proves_nothing() -> None:
    checksum = hashlib.sha256(URL.encode() + BODY_3).hexdigest()
    with pytest.raises(SignatureMismatch):
        source(secrets=("",)).verify(sent(BODY_3, checksum))


@pytest.mark.parametrize(
    "fields", [{"event": "[]"}, {"event": "[]", "timestamp": "1e5", "domain": "d"}, {"timestamp": "1"}]
)
def test_a_form_without_the_three_fields_has_no_checksum_of_the_former_kind(fields: dict[str, str]) -> None:
    with pytest.raises(SignatureMismatch):
        source().verify(sent(urlencode(fields).encode(), V2_SHA1))


def test_the_former_kind_covers_every_field_that_is_read() -> None:
    for name in ("event", "domain", "timestamp"):
        fields = {"event": EVENT, "timestamp": "1790000000123", "domain": "bbb.example"}
        fields[name] = fields[name] + "0" if name == "timestamp" else " " + fields[name]
        with pytest.raises(SignatureMismatch):
            source().verify(sent(urlencode(fields).encode(), V2_SHA1))


def test_a_repeated_field_does_not_hide_another_event_behind_the_checksum() -> None:
    forged = urlencode([("event", EVENT.replace("abc-1", "abc-2")), ("event", EVENT)]).encode()
    with pytest.raises(SignatureMismatch):
        source().verify(sent(forged + b"&timestamp=1790000000123&domain=bbb.example", V2_SHA1))


# --- the Authorization header -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [f"Bearer {SECRET}", f"bearer  {SECRET} "])
def test_the_shared_secret_as_bearer_is_accepted_and_never_kept(header: str) -> None:
    verified = source().verify(sent(authorization=header))
    assert proof(verified) == {"scheme": "bearer", "key": 1}
    assert registry.stored_delivery(Record(position=1, **msgspec.structs.asdict(verified))) is None


@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer ", f"Bearer {SECRET}x", f"Basic {SECRET}", SECRET, "Bearer \udcff", "Bearer a.b.c"]
)
def test_another_header_is_refused(header: str) -> None:
    with pytest.raises(SignatureMismatch) as refused:
        source().verify(sent(authorization=header))
    assert SECRET not in str(refused.value)


def test_the_analytics_are_proved_by_the_token_of_their_sender() -> None:
    header = f"Bearer {token('HS512', {'exp': IN_A_DAY})}"
    verified = source().verify(sent(ANALYTICS, authorization=header))
    assert (verified.event, proof(verified)) == ("analytics-callback", {"scheme": "jwt-sender", "key": 1})


@pytest.mark.parametrize(
    ("claims", "algorithm", "secret", "error"),
    [
        ({"exp": NOW // 1_000_000 - 60}, "HS512", SECRET, SignatureStale),
        ({"exp": 0}, "HS512", SECRET, SignatureStale),
        ({}, "HS512", SECRET, SignatureMismatch),
        ({"exp": "tomorrow"}, "HS512", SECRET, SignatureMismatch),
        ({"exp": True}, "HS512", SECRET, SignatureMismatch),
        ({"exp": float("inf")}, "HS512", SECRET, SignatureMismatch),
        ({"exp": float("nan")}, "HS512", SECRET, SignatureMismatch),
        ({"exp": IN_A_DAY}, "HS256", SECRET, SignatureMismatch),
        ({"exp": IN_A_DAY}, "none", SECRET, SignatureMismatch),
        ({"exp": IN_A_DAY}, "HS512", "guessed", SignatureMismatch),
    ],
)
def test_another_token_is_refused(claims: dict[str, Any], algorithm: str, secret: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        source().verify(sent(ANALYTICS, authorization=f"Bearer {token(algorithm, claims, secret)}"))


# --- the callback of a recording ----------------------------------------------------------------------------------------

READY = {"meeting_id": "algebra-7", "record_id": "abc-1"}


def test_a_signed_body_proves_itself() -> None:
    body = urlencode({"signed_parameters": token("HS256", READY)}).encode()
    verified = source().verify(sent(body))
    assert (verified.event, proof(verified)) == ("recording-ready", {"scheme": "jwt-body", "key": 1})
    again = registry.stored_delivery(Record(position=1, **msgspec.structs.asdict(verified)))
    assert again is not None
    assert source().verify(again) == verified


@pytest.mark.parametrize(
    "text", [token("HS256", READY, "guessed"), token("HS512", READY), token("none", READY), "", "a.b", "a.b.c"]
)
def test_a_body_that_another_key_signed_is_refused(text: str) -> None:
    with pytest.raises(SignatureMismatch):
        source().verify(sent(urlencode({"signed_parameters": text}).encode()))


def test_without_any_proof_the_remedy_is_named() -> None:
    with pytest.raises(SignatureMissing, match=r"bbb-webhooks 3\.4"):
        source().verify(sent())


def test_a_bad_proof_is_answered_403_because_401_counts_as_delivered() -> None:
    assert source().rejected_status == 403


# --- names ------------------------------------------------------------------------------------------------------------


def test_other_hooks_and_repeats_have_one_key() -> None:
    key = hashlib.sha256(EVENT.encode()).hexdigest()
    other = urlencode({"domain": "other.example", "event": EVENT, "timestamp": "1790000099999"}).encode()
    for body in (BODY_3, BODY_2, other, EVENT.encode(), EVENT[1:-1].encode()):
        assert source().identify(body) == ("meeting-ended", key)


@given(st.binary())
def test_every_body_has_a_name_and_a_key(body: bytes) -> None:
    event, key = source().identify(body)
    assert len(key) == 64
    assert isinstance(event, str)
    with pytest.raises(DeliveryRejected):
        source().verify(sent(body))


def test_an_import_reads_the_event_of_a_form() -> None:
    found = form_event(BODY_3)
    assert found is not None
    assert why_no_event(found, "lines") is None
    for body in (
        b"",
        b"a=1",
        b"event=%5B",
        urlencode({"signed_parameters": "a.b.c"}).encode(),
        b"2026-09-21 INFO started",
    ):
        assert form_event(body) is None


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (json.loads(EVENT)[0], None),
        (json.loads(ANALYTICS), None),
        ({"envelope": {"name": "UserLeftMeetingEvtMsg"}, "core": {"header": {"meetingId": "abc-1"}}}, None),
        ({"internal_meeting_id": "abc-1"}, "it has no data"),
        ({"data": {"type": "event"}}, "it names no event (data.id or envelope.name)"),
        ({"data": {"id": "started"}}, "it names no meeting"),
        ({}, "it names no event (data.id or envelope.name)"),
    ],
)
def test_an_import_takes_only_what_has_the_envelope(value: dict[str, object], why: str | None) -> None:
    assert why_no_event(value, "lines") == why
