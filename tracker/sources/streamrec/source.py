"""eyeson StreamRec: webhooks, all sent at ends, proved by a secret token in the address.

Reference: https://docs.eyeson.com/docs/streamrec/references/webhooks (and …/messaging for what an application can
relay).

LIMIT: StreamRec signs nothing. The token proves that the sender knows the address, not that the body is unchanged:
use https, and a different token for each source.
"""

from __future__ import annotations

import hashlib

from tracker.domain.deliveries import Delivery, Origin, Verified
from tracker.errors import SignatureMismatch, SignatureMissing
from tracker.domain.facts import RunRules
from tracker.sources.contract import SourceSettings
from tracker.sources.json_reading import BodyUnreadable, read_object, as_text
from tracker.sources.webhook_jwt import matching_secret, encode_proof
from tracker.sources.streamrec.events import name_of

RULES = RunRules(
    # A relayed session_start is dated by our clock, the start in session_finished by the vendor's.
    tolerance=60_000_000,
    ends_only=True,
    room_is_person=True,
)

HINTS = ("sid", "rid")
_LONGEST_HINT = 200


class StreamrecSource:
    """One StreamRec account, proved by `settings.secrets`: the token in `/hooks/{source}/{token}`."""

    def __init__(self, settings: SourceSettings) -> None:
        self.name = settings.name
        self.vendor = settings.vendor
        self._tokens = settings.secrets

    def __repr__(self) -> str:
        return f"StreamrecSource({self.name!r})"

    def verify(self, delivery: Delivery) -> Verified:
        """See `Source.verify`. The proof holds the index of the token that matched, never its value, and the hints."""
        if not delivery.token:
            raise SignatureMissing(
                f"the address has no token: use /hooks/{self.name}/<token> as webhook_url of the realtime messages"
            )
        key = matching_secret(delivery.token, self._tokens)
        if key is None:
            raise SignatureMismatch(
                f"the token in the address is not a token of source {self.name}:"
                " compare the webhook_url of the realtime messages with config.toml"
            )
        proof: dict[str, str | int] = {"scheme": "url_token", "key": key}
        for name in HINTS:
            hint = as_text(delivery.query.get(name))
            if hint is not None and len(hint) <= _LONGEST_HINT and delivery.token not in hint:
                proof[name] = hint
        return self._named(delivery.body, delivery.received_at, "webhook", proof)

    def verify_trusted(self, body: bytes, *, received_at: int, proof: dict[str, str | int]) -> Verified:
        """See `Source.verify_trusted`. The body is a webhook's or a relayed realtime message."""
        return self._named(body, received_at, "import", proof)

    def _named(self, body: bytes, received_at: int, origin: Origin, proof: dict[str, str | int]) -> Verified:
        return Verified(
            source=self.name,
            vendor=self.vendor,
            event=_name_in(body),
            # There is no id and no time of sending: the same bytes are the same message. Hints do not count.
            dedupe_key=hashlib.sha256(body).hexdigest(),
            received_at=received_at,
            origin=origin,
            proof=encode_proof(proof),
            body=body,
        )


def _name_in(body: bytes) -> str:
    try:
        return name_of(read_object(body))
    except BodyUnreadable:
        return ""
