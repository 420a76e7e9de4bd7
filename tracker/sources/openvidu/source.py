"""OpenVidu 2: webhooks proved by a fixed header, and CDR files with the same events.

Reference: https://docs.openvidu.io/en/2.32.0/reference-docs/openvidu-server-webhook/ (what it leaves out:
docs/reference/vendors/openvidu.md). The bytes are read in `sources/openvidu/wire.py`, their meaning in `sources/openvidu/events.py`.

LIMIT: OpenVidu 2 signs nothing. The header proves that the sender knows the secret, not that the body is unchanged:
anybody who reads one request can forge others. Use TLS and a network allow-list as well.
"""

from __future__ import annotations

from tracker.domain.deliveries import Delivery, Verified
from tracker.errors import SignatureMismatch, SignatureMissing
from tracker.domain.facts import RunRules
from tracker.sources.contract import SourceSettings
from tracker.sources.openvidu.wire import dedupe_key, read_event, shown_name
from tracker.sources.webhook_jwt import matching_secret
from tracker.sources.webhook_source import WebhookSource

RULES = RunRules(
    # Starts are exact, except that a join without REST (≤ 2.15) is stamped some ms before its session. The tolerance must
    # stay below the time an application needs to reopen the room after a node crash, or the crash would end the new run.
    tolerance=100_000,
    # The garbage collector removes never-joined sessions without an event: threshold 3600 s + interval 900 s
    # (SessionManager.java, ≥ 2.19).
    never_joined_after=75 * 60 * 1_000_000,
    runs_are_starts=True,
)


class OpenviduSource(WebhookSource):
    """One OpenVidu 2 deployment; the header `settings.header` must hold one of `settings.secrets`."""

    def __init__(self, settings: SourceSettings) -> None:
        super().__init__(settings)
        self._header = settings.header
        self._secrets = tuple(secret for secret in settings.secrets if secret)

    def verify(self, delivery: Delivery) -> Verified:
        """See `Source.verify`. The proof holds the index of the secret that matched, never its value."""
        offered = delivery.headers.get(self._header.lower())
        if offered is None:
            raise SignatureMissing(
                f"the header {self._header} is missing: set OPENVIDU_WEBHOOK_HEADERS to"
                f' ["{self._header}: <the secret of source {self.name}>"]'
            )
        key = matching_secret(offered.strip(" \t"), self._secrets)
        if key is None:
            raise SignatureMismatch(
                f"the header {self._header} does not hold a secret of source {self.name}:"
                " compare OPENVIDU_WEBHOOK_HEADERS with config.toml"
            )
        return self.verified(delivery, {"scheme": "header", "header": self._header, "key": key})

    def identify(self, body: bytes) -> tuple[str, str]:
        """See `WebhookSource.identify`. The body may be a webhook body or a CDR line."""
        event = read_event(body)
        return shown_name(event), dedupe_key(body, event)
