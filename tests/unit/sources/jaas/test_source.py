"""JaaS: what its signature proves, and how its deliveries are named."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.domain.deliveries import Delivery, Record
from tracker.errors import DeliveryRejected, SignatureMismatch, SignatureMissing, SignatureStale
from tracker.sources import registry
from tracker.sources.contract import SourceSettings
from tracker.sources.jaas.source import JaasSource, why_no_event

NOW_S = 1_790_000_000
SECRET = "whsec_demo"
BODY = b'{"type":"demo","id":"e1"}'
SIGNATURE = "vOeyGhCnW/fKWx3ttLAWCL+asw4M7U70GcZBVMH9doI="
"""Computed by another program: HMAC-SHA256 of `1790000000.` and BODY, in base64."""
SOURCE = JaasSource(SourceSettings(name="jaas", vendor="jaas", secrets=("former", SECRET)))


def sent(header: str | None, body: bytes = BODY, at: int = NOW_S * 1_000_000) -> Delivery:
    headers = {} if header is None else {"x-jaas-signature": header}
    return Delivery(source="jaas", body=body, received_at=at, headers=headers)


def test_the_signature_of_the_vector_is_authentic_and_its_proof_can_be_checked_again() -> None:
    verified = SOURCE.verify(sent(f"t={NOW_S},v1={SIGNATURE}"))
    assert json.loads(verified.proof) == {
        "scheme": "hmac-sha256", "timestamp": str(NOW_S), "signature": SIGNATURE, "key": 1,
    }  # fmt: skip
    record = Record(position=1, **{name: getattr(verified, name) for name in verified.__struct_fields__})
    again = registry.stored_delivery(record)
    assert again is not None
    assert SOURCE.verify(again) == verified


@pytest.mark.parametrize(
    "header",
    [
        f"v1={SIGNATURE},t={NOW_S}",
        f"t={NOW_S}, v1=AAAA, v1={SIGNATURE}",
        f"t={NOW_S},v0=AAAA,v1={SIGNATURE},v2=BBBB",
    ],
)
def test_any_order_several_signatures_and_other_schemes_are_accepted(header: str) -> None:
    assert SOURCE.verify(sent(header)).body == BODY


@pytest.mark.parametrize(
    ("header", "error"),
    [
        (None, SignatureMissing),
        ("", SignatureMissing),
        (f"v1={SIGNATURE}", SignatureMismatch),
        (f"t={NOW_S}", SignatureMismatch),
        (f"t={NOW_S},v2={SIGNATURE}", SignatureMismatch),
        (f"t={NOW_S},t={NOW_S + 1},v1={SIGNATURE}", SignatureMismatch),
        (f"t=+{NOW_S},v1={SIGNATURE}", SignatureMismatch),
        (f"t=١٧٩٠٠٠٠٠٠٠,v1={SIGNATURE}", SignatureMismatch),
        (f"t={NOW_S + 1},v1={SIGNATURE}", SignatureMismatch),
        (f"t={NOW_S},v1={SIGNATURE.lower()}", SignatureMismatch),
        (f"t={NOW_S},v1={SIGNATURE[:-1]}", SignatureMismatch),
        (f"t={NOW_S},v1=", SignatureMismatch),
        (f"t={NOW_S},v1=\udcff", SignatureMismatch),
    ],
)
def test_what_is_no_signature_of_these_bytes_is_refused(header: str | None, error: type[DeliveryRejected]) -> None:
    with pytest.raises(error) as refused:
        SOURCE.verify(sent(header))
    assert SIGNATURE not in str(refused.value)
    assert SECRET not in str(refused.value)


def test_a_changed_body_is_refused() -> None:
    with pytest.raises(SignatureMismatch):
        SOURCE.verify(sent(f"t={NOW_S},v1={SIGNATURE}", BODY + b" "))


@pytest.mark.parametrize("seconds", [-300, 300])
def test_a_signature_is_accepted_within_five_minutes(seconds: int) -> None:
    assert SOURCE.verify(sent(f"t={NOW_S},v1={SIGNATURE}", at=(NOW_S + seconds) * 1_000_000))


@pytest.mark.parametrize("seconds", [-301, 301])
def test_a_signature_of_another_time_is_refused(seconds: int) -> None:
    with pytest.raises(SignatureStale):
        SOURCE.verify(sent(f"t={NOW_S},v1={SIGNATURE}", at=(NOW_S + seconds) * 1_000_000))


def test_an_empty_secret_proves_nothing() -> None:
    source = JaasSource(SourceSettings(name="jaas", vendor="jaas", secrets=("",)))
    forged = base64.b64encode(hmac.digest(b"", f"{NOW_S}.".encode() + BODY, hashlib.sha256)).decode()
    with pytest.raises(SignatureMismatch):
        source.verify(sent(f"t={NOW_S},v1={forged}"))


def test_repeats_have_one_key_whatever_their_bytes() -> None:
    first = SOURCE.identify(b'{"idempotencyKey":"k1","eventType":"ROOM_CREATED"}')
    assert first == ("ROOM_CREATED", "k1")
    assert SOURCE.identify(b'{"eventType": "ROOM_CREATED", "idempotencyKey": "k1", "retry": 1}') == first


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b"\xff", b'{"idempotencyKey":7}', b'{"idempotencyKey":"' + b"k" * 201 + b'"}']
)
def test_without_a_usable_key_the_bytes_name_the_delivery(body: bytes) -> None:
    assert SOURCE.identify(body)[1] == hashlib.sha256(body).hexdigest()


@given(st.binary(), st.text())
def test_no_body_and_no_header_raises_anything_but_a_refusal(body: bytes, header: str) -> None:
    SOURCE.identify(body)
    with pytest.raises(DeliveryRejected):
        SOURCE.verify(sent(header, body))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"eventType": "ROOM_CREATED", "idempotencyKey": "k", "timestamp": 1}, None),
        ({"idempotencyKey": "k", "timestamp": 1}, "it names no event (eventType)"),
        ({"eventType": "ROOM_CREATED", "timestamp": 1}, "it has no idempotencyKey"),
        ({"eventType": "ROOM_CREATED", "idempotencyKey": "k"}, "it has no timestamp in epoch milliseconds"),
    ],
)
def test_an_import_takes_only_what_has_the_envelope(value: dict[str, object], why: str | None) -> None:
    assert why_no_event(value, "lines") == why
