"""JaaS (8x8), the hosted Jitsi: webhooks signed over time and raw body.

Reference: https://developer.8x8.com/jaas/docs/webhooks-payload. What its events mean: `sources/jaas/events.py`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any

from tracker.domain.deliveries import Delivery, Verified
from tracker.domain.facts import Micros, RunRules
from tracker.errors import SignatureMismatch, SignatureMissing, SignatureStale
from tracker.sources.contract import SourceSettings, Where
from tracker.sources.jaas.events import event_type
from tracker.sources.json_reading import BodyUnreadable, as_count, as_text, read_object
from tracker.sources.webhook_source import WebhookSource

RULES = RunRules()

HEADER = "x-jaas-signature"
SCHEME = "hmac-sha256"
WINDOW: Micros = 300_000_000
"""How far the signature's time may differ from our clock, in both directions. 8x8 states no value."""

_STAMP = re.compile(r"[0-9]{1,12}", re.ASCII)
_LONGEST_HEADER = 4_096
_LONGEST_KEY = 200


class JaasSource(WebhookSource):
    """One webhook endpoint of JaaS; `settings.secrets` holds its signing secret, and the former one during a rotation."""

    def __init__(self, settings: SourceSettings) -> None:
        super().__init__(settings)
        # The proof names the index, so an empty entry stays in its place; it matches nothing.
        self._keys = tuple(secret.encode("utf-8", "surrogatepass") for secret in settings.secrets)

    def verify(self, delivery: Delivery) -> Verified:
        """See `Source.verify`. The proof holds time, signature and the index of the key: enough to verify it again."""
        stamp, offered = _read_header(delivery.headers.get(HEADER))
        signed = stamp.encode() + b"." + delivery.body
        found: tuple[int, str] | None = None
        # Every key is tried, so that the time does not reveal which one matched.
        for index, key in enumerate(self._keys):
            expected = base64.b64encode(hmac.digest(key, signed, hashlib.sha256))
            for signature in offered:
                same = hmac.compare_digest(signature.encode("utf-8", "surrogatepass"), expected)
                if same and key and found is None:
                    found = index, signature
        if found is None:
            raise SignatureMismatch(
                f"x-jaas-signature does not match the body with a secret of source {self.name}: compare the endpoint's"
                " signing secret in the JaaS console with config.toml, and let no proxy change the body"
            )
        # Checked after the signature: before it, the time may be anybody's.
        age = delivery.received_at - int(stamp) * 1_000_000
        if abs(age) > WINDOW:
            raise SignatureStale(
                f"the time in x-jaas-signature is {abs(age) // 1_000_000} s in the {'past' if age > 0 else 'future'}, at"
                f" most {WINDOW // 1_000_000} s are allowed: set this host's clock with NTP"
            )
        index, signature = found
        return self.verified(delivery, {"scheme": SCHEME, "timestamp": stamp, "signature": signature, "key": index})

    def identify(self, body: bytes) -> tuple[str, str]:
        """See `WebhookSource.identify`. `idempotencyKey` is the same for every repeat of an event."""
        try:
            fields = read_object(body)
        except BodyUnreadable:
            fields = {}
        key = as_text(fields.get("idempotencyKey"))
        if key is None or len(key) > _LONGEST_KEY:
            key = hashlib.sha256(body).hexdigest()
        return event_type(fields), key


def _read_header(value: str | None) -> tuple[str, list[str]]:
    """(time, signatures) of `t=…,v1=…`. Raises SignatureMissing, SignatureMismatch."""
    if not value:
        raise SignatureMissing(
            "x-jaas-signature is missing: copy the endpoint's signing secret from the JaaS console to this source, and"
            " let no proxy drop the header"
        )
    stamps: list[str] = []
    signatures: list[str] = []
    for element in value[:_LONGEST_HEADER].split(","):
        # A signature ends in `=` itself.
        name, _, text = element.strip(" \t").partition("=")
        if name == "t":
            stamps.append(text)
        elif name == "v1":
            signatures.append(text)
    if len(stamps) != 1 or not _STAMP.fullmatch(stamps[0]) or not signatures:
        raise SignatureMismatch("x-jaas-signature is not of the form t=<seconds>,v1=<base64>")
    return stamps[0], signatures


def headers_from_proof(proof: Mapping[str, Any]) -> dict[str, str] | None:
    """See `Vendor.headers_from_proof`."""
    match proof:
        case {"scheme": "hmac-sha256", "timestamp": str(stamp), "signature": str(signature)}:
            return {HEADER: f"t={stamp},v1={signature}"}
        case _:
            return None


def why_no_event(value: Mapping[str, Any], _where: Where) -> str | None:
    """See `contract.WhyNoEvent`. Every event has `eventType`, `idempotencyKey`, `sessionId` and `timestamp`."""
    if not event_type(value):
        return "it names no event (eventType)"
    if as_text(value.get("idempotencyKey")) is None:
        return "it has no idempotencyKey"
    if as_count(value.get("timestamp")) is None:
        return "it has no timestamp in epoch milliseconds"
    return None
