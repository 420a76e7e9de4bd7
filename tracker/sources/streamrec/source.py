"""eyeson StreamRec: webhooks, all sent at ends, proved by a secret token in the address.

Reference: https://docs.eyeson.com/docs/streamrec/references/webhooks (and …/messaging for what an application can
relay).

LIMIT: StreamRec signs nothing. The token proves that the sender knows the address, not that the body is unchanged:
use https, and a different token for each source.
"""

from __future__ import annotations

import hashlib

from tracker.domain.deliveries import Delivery, Verified
from tracker.errors import SignatureMismatch, SignatureMissing
from tracker.domain.facts import RunRules
from tracker.sources.contract import SourceSettings
from tracker.sources.json_reading import BodyUnreadable, read_object, as_text
from tracker.sources.streamrec.events import name_of
from tracker.sources.webhook_jwt import matching_secret
from tracker.sources.webhook_source import WebhookSource

RULES = RunRules(
    # A relayed session_start is dated by our clock, the start in session_finished by the vendor's.
    tolerance=60_000_000,
    ends_only=True,
    room_is_person=True,
    # A client may have up to three sessions at once.
    runs_overlap=True,
)

HINTS = ("sid", "rid")
_LONGEST_HINT = 200


class StreamrecSource(WebhookSource):
    """One StreamRec account, proved by `settings.secrets`: the token in `/hooks/{source}/{token}`."""

    def __init__(self, settings: SourceSettings) -> None:
        super().__init__(settings)
        self._tokens = settings.secrets

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
        return self.verified(delivery, proof)

    def identify(self, body: bytes) -> tuple[str, str]:
        """See `WebhookSource.identify`. The body is a webhook's or a relayed realtime message.

        There is no id and no time of sending: the same bytes are the same message. Hints do not count.
        """
        try:
            event = name_of(read_object(body))
        except BodyUnreadable:
            event = ""
        return event, hashlib.sha256(body).hexdigest()
