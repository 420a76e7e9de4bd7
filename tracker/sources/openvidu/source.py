"""OpenVidu 2: webhooks proved by a fixed header, and CDR files with the same events.

Reference: https://docs.openvidu.io/en/2.32.0/reference-docs/openvidu-server-webhook/ (what it leaves out:
docs/reference/vendors/openvidu.md). The bytes are read in `sources/openvidu/wire.py`, their meaning in `sources/openvidu/events.py`.
"""

from __future__ import annotations

from tracker.domain.facts import RunRules
from tracker.sources.openvidu.wire import dedupe_key, read_event, shown_name
from tracker.sources.secret_header import SecretHeaderSource

RULES = RunRules(
    # Starts are exact, except that a join without REST (≤ 2.15) is stamped some ms before its session. The tolerance must
    # stay below the time an application needs to reopen the room after a node crash, or the crash would end the new run.
    tolerance=100_000,
    # The garbage collector removes never-joined sessions without an event: threshold 3600 s + interval 900 s
    # (SessionManager.java, ≥ 2.19).
    never_joined_after=75 * 60 * 1_000_000,
    runs_are_starts=True,
    # Without timeOfDisconnection the time of the crash is unknown: applications reopen the room before it is noticed.
    noticed_within=600_000_000,
)


class OpenviduSource(SecretHeaderSource):
    """One OpenVidu 2 deployment."""

    @property
    def setting(self) -> str:
        """See `SecretHeaderSource`."""
        return "OPENVIDU_WEBHOOK_HEADERS"

    @property
    def example(self) -> str:
        """See `SecretHeaderSource`."""
        return f'["{self.header}: <the secret of source {self.name}>"]'

    def identify(self, body: bytes) -> tuple[str, str]:
        """See `WebhookSource.identify`. The body may be a webhook body or a CDR line."""
        event = read_event(body)
        return shown_name(event), dedupe_key(body, event)
