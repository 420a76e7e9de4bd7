"""BigBlueButton: what proves its deliveries.

    checksum=… in the address   H(address as registered + body + secret): bbb-webhooks 3.4 and newer, and 2.x in its own form
                                H(address + "{}" + secret): 3.0 to 3.3. It does not cover the body, and is refused by default
    Authorization: Bearer …     the shared secret itself (`auth2_0`), or the token of the analytics callback
    signed_parameters           the callback of a recording: a JWT is the whole body

Read in the source of bbb-webhooks (`callback-emitter.js`) and of bigbluebutton (`post_events_analytics_callback.rb`,
`post_publish_recording_ready_callback.rb`): docs/reference/vendors/bigbluebutton.md.

bbb-webhooks takes 401 for success, so a bad proof is answered 403.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from tracker.domain.deliveries import Delivery, Verified
from tracker.domain.facts import Micros, RunRules
from tracker.errors import SignatureMismatch, SignatureMissing, SignatureStale
from tracker.sources.bigbluebutton.wire import form, identify, signed_claims, stringified
from tracker.sources.contract import SourceSettings, Where
from tracker.sources.bigbluebutton import wire
from tracker.sources.json_reading import BodyUnreadable, as_object
from tracker.sources.webhook_jwt import matching_secret
from tracker.sources.webhook_source import WebhookSource

RULES = RunRules()

LEEWAY: Micros = 60_000_000
_ALGORITHMS = {40: "sha1", 64: "sha256", 96: "sha384", 128: "sha512"}
"""Hexadecimal digits of a checksum → its hash."""
_LATEST = 1e12
"""Seconds. A token that expires later never does."""
_HEX = frozenset("0123456789abcdef")
_BEARER = "bearer "

UNBOUND = (
    "this checksum does not cover the body, so anybody who sees one address can send any event: upgrade bbb-webhooks to 3.4 or"
    " newer, or set accept_unbound_checksum = true"
)


class BigBlueButtonSource(WebhookSource):
    """One BigBlueButton server; `settings.secrets` holds its shared secret, and the former one during a rotation."""

    rejected_status = 403

    def __init__(self, settings: SourceSettings) -> None:
        super().__init__(settings)
        self._secrets = settings.secrets
        self._url = settings.hook_url.encode()
        self._accepts_unbound = settings.accept_unbound_checksum

    def verify(self, delivery: Delivery) -> Verified:
        """See `Source.verify`. The proof never holds the secret, nor a token that would prove other bodies."""
        if "checksum" in delivery.query:
            return self.verified(delivery, self._checksum(delivery.query["checksum"], delivery.body))
        authorization = delivery.headers.get("authorization", "").strip(" \t")
        if authorization:
            return self.verified(delivery, self._bearer(authorization, delivery.received_at))
        token = form(delivery.body).get("signed_parameters")
        if token is not None:
            found = signed_claims(token, self._secrets, "HS256")
            if found is None:
                raise SignatureMismatch(self._differs("the token in signed_parameters"))
            return self.verified(delivery, {"scheme": "jwt-body", "key": found[0]})
        raise SignatureMissing(
            "neither a checksum in the address nor an Authorization header: use bbb-webhooks 3.4 or newer, which sends one of them"
        )

    def _checksum(self, offered: str, body: bytes) -> dict[str, str | int]:
        offered = offered.strip().lower()
        algorithm = _ALGORITHMS.get(len(offered))
        if algorithm is None or not _HEX.issuperset(offered):
            raise SignatureMismatch(
                "the checksum in the address is no SHA-1, SHA-256, SHA-384 or SHA-512 in hexadecimal digits"
            )
        former = stringified(form(body))
        signed = [("checksum", body)]
        if former is not None:
            signed.append(("checksum", former.encode("utf-8", "surrogatepass")))
        signed.append(("checksum-url", b"{}"))
        found: tuple[str, int] | None = None
        # Every secret is tried in every form, so that the time does not reveal which one matched.
        for scheme, text in signed:
            for index, secret in enumerate(self._secrets):
                whole = self._url + text + secret.encode("utf-8", "surrogatepass")
                same = hmac.compare_digest(hashlib.new(algorithm, whole).hexdigest(), offered)
                if same and secret and found is None:
                    found = scheme, index
        if found is None:
            raise SignatureMismatch(
                self._differs("the checksum in the address")
                + ", and hook_url with the address that is registered there, letter by letter; let no proxy change the body"
            )
        scheme, index = found
        if scheme == "checksum-url" and body != b"{}":
            if not self._accepts_unbound:
                raise SignatureMismatch(UNBOUND)
            return {"scheme": scheme, "key": index}
        return {"scheme": scheme, "checksum": offered, "key": index}

    def _bearer(self, authorization: str, received_at: Micros) -> dict[str, str | int]:
        if authorization[: len(_BEARER)].lower() != _BEARER:
            raise SignatureMismatch("the Authorization header does not begin with Bearer")
        offered = authorization[len(_BEARER) :].strip(" \t")
        key = matching_secret(offered, self._secrets)
        if key is not None:
            return {"scheme": "bearer", "key": key}
        found = signed_claims(offered, self._secrets, "HS512")
        if found is None:
            raise SignatureMismatch(self._differs("the Authorization header"))
        key, claims = found
        expires = claims.get("exp")
        if isinstance(expires, bool) or not isinstance(expires, int | float) or not 0 <= expires < _LATEST:
            raise SignatureMismatch("the token in the Authorization header never expires: BigBlueButton's does")
        if expires * 1_000_000 + LEEWAY <= received_at:
            raise SignatureStale(
                "the token in the Authorization header has expired: set the clocks of both hosts with NTP"
            )
        return {"scheme": "jwt-sender", "key": key}

    def _differs(self, what: str) -> str:
        return f"{what} does not fit source {self.name}: compare its secret with `bbb-conf --secret` on the BigBlueButton server"

    def identify(self, body: bytes) -> tuple[str, str]:
        """See `WebhookSource.identify`."""
        return identify(body)


def headers_from_proof(proof: Mapping[str, Any]) -> dict[str, str] | None:
    """See `Vendor.headers_from_proof`. A checksum is in the query, and a signed body proves itself."""
    return {} if proof.get("scheme") in {"checksum", "jwt-body"} else None


def query_from_proof(proof: Mapping[str, Any]) -> dict[str, str]:
    """See `Vendor.query_from_proof`."""
    checksum = proof.get("checksum")
    return {"checksum": checksum} if isinstance(checksum, str) else {}


def form_event(body: bytes) -> Mapping[str, Any] | None:
    """See `Vendor.form_event`."""
    try:
        return next(iter(wire.read(body).events), None)
    except BodyUnreadable:
        return None


def why_no_event(value: Mapping[str, Any], _where: Where) -> str | None:
    """See `contract.WhyNoEvent`. Every event names itself and has a meeting; the analytics name theirs."""
    if "internal_meeting_id" in value:
        return None if isinstance(value.get("data"), dict) else "it has no data"
    if not wire.name_of(value):
        return "it names no event (data.id or envelope.name)"
    is_mapped = as_object(as_object(value.get("data")).get("attributes")).get("meeting") is not None
    is_raw = as_object(value.get("core")).get("header") is not None
    return None if is_mapped or is_raw else "it names no meeting"
