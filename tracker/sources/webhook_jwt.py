"""Proofs that several vendors use: a signed token bound to a body, and the comparison of secrets in constant time.

A webhook of livekit/protocol carries a JWT whose `sha256` claim names its body. Every participant of a room has a JWT
signed with the same key and secret (the join token). Only that claim tells the two apart, so it is required.

HS256 is one HMAC over the token's text, so it is computed here. PyJWT took 35 µs for the same result, half of the cost of a
delivery; tests/unit/sources/test_webhook_jwt.py compares the two.

Sources of the rules: livekit/protocol `webhook/verifier.go` and `auth/verifier.go` (60 s leeway, HS256, `exp`
required since 2026-08), `webhook/resource_url_notifier.go` (standard base64 with padding, over the raw body).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from tracker.domain.text_cache import text_cache
from tracker.domain.deliveries import Delivery, Verified
from tracker.domain.facts import Micros
from tracker.errors import KeyUnknown, SignatureMismatch, SignatureMissing, SignatureStale
from tracker.sources import protojson
from tracker.sources.contract import SourceSettings
from tracker.sources.webhook_source import WebhookSource


LEEWAY_S = 60
"""How far the sender's clock may differ from ours: the same as in livekit/protocol's own verifier."""

_ALGORITHM = "HS256"
_UNSUPPORTED = ("crit", "b64")
"""Header fields that change how a token is read (RFC 7515 4.1.11, RFC 7797)."""
_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_LONGEST_CACHED = 100

_write = msgspec.json.Encoder().encode


class JwtSource(WebhookSource):
    """A sender of livekit/protocol webhooks; `settings.keys` maps an API key to its secret."""

    def __init__(self, settings: SourceSettings) -> None:
        super().__init__(settings)
        self._keys = dict(settings.keys)

    def token(self, headers: Mapping[str, str]) -> str:
        """The token in the headers of a delivery; "" where there is none."""
        return headers.get("authorization", "").strip(" \t")

    @abstractmethod
    def event_name(self, body: dict[str, Any]) -> str:
        """The event's name; "" where there is none."""

    def verify(self, delivery: Delivery) -> Verified:
        """See `Source.verify`. The proof is the token: it is bound to this body, so it is evidence and grants nothing else."""
        token = self.token(delivery.headers)
        verify_jwt(token, keys=self._keys, body=delivery.body, received_at=delivery.received_at)
        return self.verified(delivery, {"scheme": "jwt", "jwt": token})

    def identify(self, body: bytes) -> tuple[str, str]:
        """See `WebhookSource.identify`. Every configured URL and every retry gets the same id.

        Never the id alone: up to plugNmeet v2.1.5 session_ended and room_finished share one (webhook_room.go:119-142).
        """
        fields = protojson.read_object(body) or {}
        event, event_id = self.event_name(fields), protojson.text(fields.get("id"))
        return event, f"{event}:{event_id}" if event and event_id else f"sha256:{hashlib.sha256(body).hexdigest()}"


def verify_jwt(token: str, *, keys: Mapping[str, str], body: bytes, received_at: Micros) -> str:
    """Verify that `token` is a bare HS256 JWT of one of `keys` (issuer → secret) for exactly these bytes; its issuer.

    Its `iss` chooses the secret; `sha256` is the padded standard base64 of the body's SHA-256; `exp` is required, and
    `exp`, `nbf`, `iat` are compared with `received_at` (µs) with 60 s leeway.

    Raises SignatureMissing (no token), KeyUnknown (no secret for its issuer), SignatureStale (expired, or from the
    future), SignatureMismatch (everything else, garbage included); no message holds a part of the token.
    """
    if not token:
        raise SignatureMissing("the delivery has no signed token: set an API key and secret at the sender")
    header = unverified_header(token)
    if header is None:
        raise SignatureMismatch("the token is not a JWT: the header must hold the token alone, without `Bearer `")
    if header.get("alg") != _ALGORITHM:
        raise SignatureMismatch(f"the token is not signed with {_ALGORITHM}, the only algorithm accepted")
    if any(name in header for name in _UNSUPPORTED) or not isinstance(header.get("kid", ""), str):
        raise SignatureMismatch("the token's header asks for rules that are not supported")
    signed, _, signature = token.rpartition(".")
    claims = _object(signed.partition(".")[2]) or {}
    issuer, secret = _secret_of(claims, keys)
    if not _is_signed(signed, signature, secret):
        raise SignatureMismatch("the token's signature is wrong: compare the API secret on both sides")
    _check_times(claims, received_at)
    if not _names_body(claims.get("sha256"), body):
        raise SignatureMismatch(
            "the token's sha256 claim does not match the body: something between the sender and here changed the body, or"
            " this is not a webhook token"
        )
    return issuer


def unverified_header(token: str) -> Mapping[str, Any] | None:
    """The header of a bare JWT, not verified yet; None where the text is not shaped like one."""
    if not _SHAPE.fullmatch(token):
        return None
    text = token.partition(".")[0]
    return _header(text) if len(text) <= _LONGEST_CACHED else _object(text)


@text_cache(64)
def _header(text: str) -> Mapping[str, Any] | None:
    # A sender always writes the same header.
    return _object(text)


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object in one part of a token; None where the part is not one."""
    try:
        found = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def matching_secret(offered: str, secrets: Sequence[str]) -> int | None:
    """The index of the first of `secrets` that equals `offered`; None when none does.

    All are compared, each in constant time, so that the time reveals neither which one matched nor how many characters
    did. An empty secret matches nothing.
    """
    # The HTTP server passes header bytes that are not UTF-8 as lone surrogates: they must be compared, not raise.
    offered_bytes = offered.encode("utf-8", "surrogatepass")
    equal = [hmac.compare_digest(offered_bytes, secret.encode("utf-8", "surrogatepass")) for secret in secrets]
    return next((index for index, same in enumerate(equal) if same and secrets[index]), None)


def _secret_of(claims: Mapping[str, Any], keys: Mapping[str, str]) -> tuple[str, str]:
    """The issuer that the token names, not verified yet, and its secret."""
    issuer = claims.get("iss")
    if not isinstance(issuer, str) or not issuer:
        raise SignatureMismatch("the token names no issuer")
    secret = keys.get(issuer)
    if not secret:
        raise KeyUnknown("no secret is configured for the token's issuer: add its API key to `keys` of this source")
    return issuer, secret


def _is_signed(signed: str, signature: str, secret: str) -> bool:
    """Whether `signature` is the base64url HMAC of `signed`. Both are ASCII: `_SHAPE` was checked."""
    digest = hmac.digest(secret.encode("utf-8", "surrogatepass"), signed.encode(), "sha256")
    return hmac.compare_digest(_base64url(digest), signature.encode())


def _check_times(claims: Mapping[str, Any], received_at: Micros) -> None:
    now = received_at / 1_000_000
    expires = _seconds(claims, "exp")
    if expires is None:
        raise SignatureMismatch("the token has no exp claim")
    if expires <= now - LEEWAY_S:
        raise SignatureStale("the token has expired: synchronise both clocks")
    for name in ("nbf", "iat"):
        moment = _seconds(claims, name)
        if moment is not None and moment > now + LEEWAY_S:
            raise SignatureStale(f"the token is from the future ({name}): synchronise both clocks")


def _seconds(claims: Mapping[str, Any], name: str) -> float | None:
    """A time claim in seconds; None where it is absent. Raises SignatureMismatch where it is not a number."""
    if name not in claims:
        return None
    value: object = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(_to_float(value)):
        raise SignatureMismatch(f"the token's {name} claim is not a number of seconds")
    return _to_float(value)


def _to_float(value: float) -> float:
    """The number as a float; an integer too large for a float becomes infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _names_body(claim: object, body: bytes) -> bool:
    """Whether the `sha256` claim is the padded standard base64 of the body's digest."""
    named = base64.b64encode(hashlib.sha256(body).digest())
    return isinstance(claim, str) and hmac.compare_digest(named, claim.encode("utf-8", "surrogatepass"))


def headers_from_proof(proof: Mapping[str, Any]) -> dict[str, str] | None:
    """The header that carried a recorded token. See `Vendor.headers_from_proof`."""
    match proof:
        case {"scheme": "jwt", "jwt": str(token)}:
            return {"authorization": token}
        case _:
            return None


def sign_jwt(issuer: str, secret: str, *, body: bytes, now: Micros) -> str:
    """The token a server sends with `body`, valid for 5 minutes from `now` (µs). For sample calls: any secret will do."""
    seconds = now // 1_000_000
    claims = {
        "iss": issuer,
        "nbf": seconds,
        "iat": seconds,
        "exp": seconds + 300,
        "sha256": base64.b64encode(hashlib.sha256(body).digest()).decode(),
    }
    signed = b".".join(_base64url(_write(part)) for part in ({"alg": _ALGORITHM, "typ": "JWT"}, claims))
    signature = _base64url(hmac.digest(secret.encode(), signed, "sha256"))
    return (signed + b"." + signature).decode()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
