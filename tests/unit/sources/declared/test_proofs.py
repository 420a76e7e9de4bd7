"""Declared sources: every kind of proof accepts what its vendor signs, and nothing else; challenges sign nothing for strangers."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from urllib.parse import urlencode

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from tracker.config.declarations import shipped_declaration, shipped_names
from tracker.domain.deliveries import ChallengeReceived, Delivery, Record, Verified
from tracker.errors import DeliveryRejected, SignatureMismatch, SignatureMissing, SignatureStale
from tracker.sources import registry
from tracker.sources.contract import SourceSettings
from tracker.sources.declared.source import DeclaredSource

NOW_S = 1_790_000_000
NOW = NOW_S * 1_000_000
BODY = b'{"type":"demo","id":"e1"}'
KEY64 = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
HOOK = "https://trk.example/hooks/twilio"
FORM = urlencode(
    {"RoomSid": "RM1", "StatusCallbackEvent": "room-created", "Timestamp": "2026-09-21T12:00:00Z"}
).encode()


def source(declaration: str, *secrets: str, hook_url: str = "") -> DeclaredSource:
    text = shipped_declaration(declaration) if declaration in shipped_names() else declaration
    return DeclaredSource(
        SourceSettings(name="x", vendor="declared", secrets=secrets, declaration=text, hook_url=hook_url)
    )


def sent(headers: Mapping[str, str], body: bytes = BODY, *, at: int = NOW, token: str | None = None) -> Delivery:
    lower = {name.lower(): value for name, value in headers.items()}
    return Delivery(source="x", body=body, received_at=at, headers=lower, token=token)


VECTORS = {
    "daily": (
        source("daily", "b3RoZXI=", KEY64),
        {"X-Webhook-Signature": "4x6w34XEYSssEfVekOhkJXl3n8/q1DN7b/w1nnxRXRo=", "X-Webhook-Timestamp": str(NOW_S)},
        BODY,
    ),
    "whereby": (
        source("whereby", "other", "whsec_demo"),
        {"Whereby-Signature": f"t={NOW_S},v1=bce7b21a10a75bf7ca5b1dedb4b01608bf9ab30e0ced4ef419c64154c1fd7682"},
        BODY,
    ),
    "standard": (
        source("standard-webhooks", "b3RoZXI=", f"whsec_{KEY64}"),
        {
            "webhook-id": "msg_1", "webhook-timestamp": str(NOW_S),
            "webhook-signature": "v1,AAAA v2,BBBB v1,N1VqtCu8Sz2YfLriuFeIEKzJf7xqIk/Lm16RHX+pUTw=",
        },
        BODY,
    ),
    "zoom": (
        source("zoom", "other", "zoomtoken"),
        {
            "x-zm-request-timestamp": str(NOW_S),
            "x-zm-signature": "v0=8ee59421003a77273a2d27e79fa39a792eeed53c754c76f9e1cea0b6ac0a25a8",
        },
        BODY,
    ),
    "nextcloud": (
        source("nextcloud-talk", "other", "nextcloudsecret"),
        {
            "X-Nextcloud-Talk-Random": "RANDOM64",
            "X-Nextcloud-Talk-Signature": "fca8d7be11c05c9b5b75302b71fdbc34ccac324e59ff2ef53c8b591b2d8decd4",
        },
        BODY,
    ),
    "twilio": (
        source("twilio-video", "other", "twiliotoken", hook_url=HOOK),
        {"X-Twilio-Signature": "U/eH2ox0frdj5nMsK2UXDWviul0="},
        FORM,
    ),
}  # fmt: skip
"""The vectors of the vendors' page, computed by another program."""


def record_of(verified: Verified) -> Record:
    return Record(position=1, **{name: getattr(verified, name) for name in verified.__struct_fields__})


@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_is_authentic_its_proof_holds_no_secret_and_can_be_checked_again(name: str) -> None:
    built, headers, body = VECTORS[name]
    verified = built.verify(sent(headers, body))
    assert json.loads(verified.proof)["key"] == 1
    again = registry.stored_delivery(record_of(verified))
    assert again is not None
    assert built.verify(again) == verified
    assert all(secret not in verified.proof.decode() for secret in (KEY64, "whsec_demo", "zoomtoken", "twiliotoken"))


@pytest.mark.parametrize("name", VECTORS)
def test_another_body_another_header_and_no_header_are_refused(name: str) -> None:
    built, headers, body = VECTORS[name]
    with pytest.raises(SignatureMismatch):
        built.verify(sent(headers, body.replace(b"1", b"2", 1)))
    for each in headers:
        with pytest.raises(SignatureMissing):
            built.verify(sent({key: value for key, value in headers.items() if key != each}, body))
        with pytest.raises(DeliveryRejected):
            built.verify(sent(headers | {each: headers[each].swapcase() + "0"}, body))


@pytest.mark.parametrize("name", ["daily", "whereby", "standard", "zoom"])
@pytest.mark.parametrize(("offset", "is_accepted"), [(-301, False), (-299, True), (299, True), (301, False)])
def test_a_signed_time_is_accepted_within_five_minutes(name: str, offset: int, is_accepted: bool) -> None:
    built, headers, body = VECTORS[name]
    delivery = sent(headers, body, at=NOW + offset * 1_000_000)
    if is_accepted:
        assert built.verify(delivery).body == body
    else:
        with pytest.raises(SignatureStale):
            built.verify(delivery)


@given(st.dictionaries(st.sampled_from(sorted({h.lower() for _, hs, _ in VECTORS.values() for h in hs})), st.text()))
def test_no_headers_make_a_source_fail_otherwise_than_by_a_refusal(headers: dict[str, str]) -> None:
    for built, _, body in VECTORS.values():
        with pytest.raises(DeliveryRejected):
            built.verify(sent(headers, body, token=next(iter(headers.values()), None)))


READING = """
[event]
name = "type"
id = "id"

[[on]]
event = "demo"
fact = "session.started"
room = "id"
"""


def test_standard_webhooks_v1a_is_verified_with_the_public_key_only() -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    built = source("standard-webhooks", "whpk_" + base64.b64encode(public).decode())
    signature = base64.b64encode(private.sign(f"msg_1.{NOW_S}.".encode() + BODY)).decode()
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(NOW_S), "webhook-signature": f"v1a,{signature}"}
    verified = built.verify(sent(headers))
    assert verified.dedupe_key == "id:msg_1"
    with pytest.raises(SignatureMismatch):
        built.verify(sent(headers | {"webhook-signature": f"v1,{signature}"}))
    # The public key is no HMAC key: everybody knows it.
    forged = base64.b64encode(hmac.digest(public, f"msg_1.{NOW_S}.".encode() + BODY, "sha256")).decode()
    with pytest.raises(SignatureMismatch):
        built.verify(sent(headers | {"webhook-signature": f"v1,{forged}"}))


def test_rsa_is_verified_with_the_public_key() -> None:
    private = rsa.generate_private_key(65537, 2048)
    pem = private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    text = '[proof]\nkind = "rsa"\nsignature = "rtk-signature"\nencoding = "base64"\nmessage = "{body}"\n' + READING
    built = source(text, "no key", pem.decode())
    signature = base64.b64encode(private.sign(BODY, padding.PKCS1v15(), hashes.SHA256())).decode()
    assert json.loads(built.verify(sent({"rtk-signature": signature})).proof)["key"] == 1
    for wrong in (signature[:-4] + "AAA=", "", "not base64", base64.b64encode(b"0" * 256).decode()):
        with pytest.raises(DeliveryRejected):
            built.verify(sent({"rtk-signature": wrong}))
    with pytest.raises(SignatureMismatch):
        built.verify(sent({"rtk-signature": signature}, BODY + b" "))


def test_a_digest_is_a_hash_of_the_message_with_the_secret() -> None:
    text = '[proof]\nkind = "digest"\nsignature = "X-Sum"\nmessage = "{body}{secret}"\n' + READING
    built = source(text, "s3cr3t")
    right = hashlib.sha256(BODY + b"s3cr3t").hexdigest()
    assert built.verify(sent({"X-Sum": right.upper()})).event == "demo"
    with pytest.raises(SignatureMismatch):
        built.verify(sent({"X-Sum": hashlib.sha256(BODY).hexdigest()}))


def test_a_token_is_bound_to_the_body_by_its_claim_and_to_its_time() -> None:
    secret = "a-secret-of-at-least-thirty-two-bytes"
    text = '[proof]\nkind = "jwt"\ntoken = "Authorization"\nprefix = "Bearer "\nclaim = "payload_hash"\n' + READING
    built = source(text, secret)

    def token(**claims: object) -> dict[str, str]:
        stated = {"payload_hash": hashlib.sha256(BODY).hexdigest(), "exp": NOW_S + 60} | claims
        return {"Authorization": "Bearer " + jwt.encode(stated, secret, "HS256")}

    assert built.verify(sent(token())).event == "demo"
    for wrong, error in (
        (token(payload_hash=hashlib.sha256(b"").hexdigest()), SignatureMismatch),
        (token(payload_hash=7), SignatureMismatch),
        (token(exp=NOW_S - 61), SignatureStale),
        (token(nbf=NOW_S + 61), SignatureStale),
        ({"Authorization": jwt.encode({}, secret, "HS256")}, SignatureMismatch),
        (
            {"Authorization": "Bearer " + jwt.encode({}, "another-secret-of-thirty-two-bytes!!", "HS256")},
            SignatureMismatch,
        ),
        ({"Authorization": "Bearer " + jwt.encode({"exp": NOW_S + 60}, None, "none")}, SignatureMismatch),
        ({}, SignatureMissing),
    ):
        with pytest.raises(error):
            built.verify(sent(wrong))


@pytest.mark.parametrize("kind", ["header", "url"])
def test_a_shown_secret_proves_the_sender_and_is_labelled_and_never_recorded(kind: str) -> None:
    header = 'header = "X-Secret"\nprefix = "Bearer "\n' if kind == "header" else ""
    text = f'[proof]\nkind = "{kind}"\n{header}binds_body = false\n' + READING
    built = source(text, "former-secret", "present-secret")

    def shown(secret: str) -> Delivery:
        return sent(
            {"X-Secret": f"Bearer {secret}"} if kind == "header" else {}, token=secret if kind == "url" else None
        )

    verified = built.verify(shown("present-secret"))
    assert json.loads(verified.proof) == {"scheme": f"declared-{kind}", "key": 1, "covers": "not the body"}
    assert registry.stored_delivery(record_of(verified)) is None
    for wrong in ("another", "present-secre"):
        with pytest.raises(SignatureMismatch):
            built.verify(shown(wrong))
    with pytest.raises(DeliveryRejected):
        built.verify(sent({}))


def zoom(body: bytes, secret: str = "zoomtoken") -> Delivery:
    signature = hmac.new(secret.encode(), f"v0:{NOW_S}:".encode() + body, hashlib.sha256).hexdigest()
    return sent({"x-zm-request-timestamp": str(NOW_S), "x-zm-signature": f"v0={signature}"}, body)


def challenge(token: object) -> bytes:
    return json.dumps({"event": "endpoint.url_validation", "event_ts": 1, "payload": {"plainToken": token}}).encode()


def test_an_authentic_challenge_is_answered() -> None:
    with pytest.raises(ChallengeReceived) as asked:
        source("zoom", "other", "zoomtoken").verify(zoom(challenge("plainABC")))
    assert json.loads(asked.value.answer) == {
        "plainToken": "plainABC",
        "encryptedToken": "ac19233b22046a7bd6dea8ba9075ad06ba2789922c37c166c0c0810a74dfb677",
    }


@pytest.mark.parametrize(
    "token", ["v0:1790000000:{}", "", "a" * 129, "a b", "ä", "a\n", 7, None, ["plainABC"], {"a": "b"}]
)
def test_a_challenge_never_signs_what_could_be_a_delivery(token: object) -> None:
    with pytest.raises(SignatureMismatch, match="challenge"):
        source("zoom", "zoomtoken").verify(zoom(challenge(token)))


def test_a_stranger_gets_no_answer_to_a_challenge() -> None:
    built = source("zoom", "zoomtoken")
    with pytest.raises(SignatureMismatch):
        built.verify(zoom(challenge("plainABC"), "another"))
    with pytest.raises(SignatureMissing):
        built.verify(sent({}, challenge("plainABC")))
