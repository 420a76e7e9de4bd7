"""OpenVidu Meet 3.4 – 3.9: webhooks signed with the API key over time and raw body.

Reference: https://openvidu.io/latest/docs/openvidu-meet/embedded/reference/webhooks/ and the server's own code
(`meet-ce/backend/src/services/openvidu-webhook.service.ts`). What its events mean: `sources/openvidu_meet/events.py`.

The signature covers the bytes as sent. The vendor's own Python and PHP examples serialise the body again before they hash
it, and so refuse every room name with an accent: never do that here.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any

from tracker.domain.deliveries import Delivery, Verified
from tracker.errors import SignatureMismatch, SignatureMissing, SignatureStale
from tracker.domain.facts import Micros, RunRules
from tracker.sources.contract import SourceSettings, Where
from tracker.sources.json_reading import BodyUnreadable, as_count, event_name, read_object
from tracker.sources.openvidu_meet.events import SCHEME
from tracker.sources.webhook_source import WebhookSource

RULES = RunRules(
    # Webhooks are sent concurrently, each stamped when its sending starts: a join may be stamped before its
    # meetingStarted, and LiveKit redeliveries repeat a meetingStarted seconds later.
    tolerance=10_000_000
)

WINDOW: Micros = 120_000_000
"""How far X-Timestamp may differ from our clock, in both directions. The last retry is sent at most 39 s after the first."""

_STAMP = re.compile(r"[0-9]{1,15}")
_SIGNATURE = re.compile(r"[0-9a-fA-F]{64}")


class OpenviduMeetSource(WebhookSource):
    """One OpenVidu Meet deployment; `settings.secrets` holds its API key, and the former one during a rotation."""

    def __init__(self, settings: SourceSettings) -> None:
        super().__init__(settings)
        # The proof names the index, so an empty entry stays in its place; it matches nothing.
        self._keys = tuple(secret.encode("utf-8", "surrogatepass") for secret in settings.secrets)

    def verify(self, delivery: Delivery) -> Verified:
        """See `Source.verify`. The proof holds timestamp, signature and the index of the key: enough to verify it again."""
        stamp, signature = self._offered(delivery)
        signed = stamp.encode() + b"." + delivery.body
        offered = bytes.fromhex(signature)
        # Every key is tried, so that the time does not reveal which one matched.
        matches = [
            hmac.compare_digest(hmac.new(key, signed, hashlib.sha256).digest(), offered) and bool(key)
            for key in self._keys
        ]
        if not any(matches):
            raise SignatureMismatch(
                f"x-signature matches these bytes with no API key of source {self.name}: compare Meet's API key with"
                " config.toml, and let no proxy change the body"
            )
        # Checked after the signature: before it, the timestamp may be anybody's.
        age = delivery.received_at - int(stamp) * 1000
        if abs(age) > WINDOW:
            raise SignatureStale(
                f"x-timestamp is {abs(age) // 1_000_000} s in the {'past' if age > 0 else 'future'}, at most"
                f" {WINDOW // 1_000_000} s are allowed: set the clocks of both hosts with NTP"
            )
        proof: dict[str, str | int] = {
            "scheme": SCHEME, "timestamp": stamp, "signature": signature.lower(), "key": matches.index(True),
        }  # fmt: skip
        return self.verified(delivery, proof)

    def _offered(self, delivery: Delivery) -> tuple[str, str]:
        """(x-timestamp, x-signature) in the form that Meet writes. Raises SignatureMissing, SignatureMismatch."""
        stamp, signature = delivery.headers.get("x-timestamp"), delivery.headers.get("x-signature")
        if not stamp or not signature:
            raise SignatureMissing(
                "x-timestamp or x-signature is missing: OpenVidu Meet (3.4 or newer) sends both; let no proxy drop them"
            )
        stamp, signature = stamp.strip(" \t"), signature.strip(" \t")
        if not _STAMP.fullmatch(stamp):
            raise SignatureMismatch("x-timestamp is not a time in decimal milliseconds")
        if not _SIGNATURE.fullmatch(signature):
            raise SignatureMismatch("x-signature is not a hexadecimal HMAC-SHA256")
        return stamp, signature

    def identify(self, body: bytes) -> tuple[str, str]:
        """See `WebhookSource.identify`. Retries, and the other endpoints of 3.9, carry the same bytes; there is no event id."""
        try:
            event = event_name(read_object(body).get("event"))
        except BodyUnreadable:
            event = ""
        return event, hashlib.sha256(body).hexdigest()


def headers_from_proof(proof: Mapping[str, Any]) -> dict[str, str] | None:
    """See `Vendor.headers_from_proof`."""
    match proof:
        case {"scheme": "hmac-sha256", "timestamp": str(stamp), "signature": str(signature)}:
            return {"x-timestamp": stamp, "x-signature": signature}
        case _:
            return None


def why_no_event(value: Mapping[str, Any], _where: Where) -> str | None:
    """See `contract.WhyNoEvent`. Every event has `event`, `creationDate` and `data`."""
    if not event_name(value.get("event")):
        return "it names no event"
    if as_count(value.get("creationDate")) is None:
        return "it has no creationDate in epoch milliseconds"
    return None if isinstance(value.get("data"), dict) else "it has no data"
