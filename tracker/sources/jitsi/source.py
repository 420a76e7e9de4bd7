"""Jitsi Meet: webhooks of Prosody's component event_sync, proved by a fixed header.

Reference: https://github.com/jitsi-contrib/prosody-plugins, event_sync/mod_event_sync_component.lua. It posts to four
addresses below the one it is given: `/events/room/created` and so on. The body says the same, so the address is not read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from tracker.domain.facts import RunRules
from tracker.sources.contract import Where
from tracker.sources.jitsi.events import READERS
from tracker.sources.json_reading import BodyUnreadable, as_text, event_name, read_object
from tracker.sources.secret_header import SecretHeaderSource

RULES = RunRules(runs_are_starts=True)


class JitsiSource(SecretHeaderSource):
    """One Prosody."""

    @property
    def setting(self) -> str:
        """See `SecretHeaderSource`."""
        return "api_headers of the component event_sync"

    @property
    def example(self) -> str:
        """See `SecretHeaderSource`."""
        return f'{{ ["{self.header}"] = "<the secret of source {self.name}>" }}'

    def identify(self, body: bytes) -> tuple[str, str]:
        """See `WebhookSource.identify`. There is no event id; a repeat carries the same bytes."""
        try:
            event = event_name(read_object(body).get("event_name"))
        except BodyUnreadable:
            event = ""
        return event, hashlib.sha256(body).hexdigest()


def why_no_event(value: Mapping[str, Any], _where: Where) -> str | None:
    """See `contract.WhyNoEvent`. Every event has a known `event_name` and `room_jid`."""
    if event_name(value.get("event_name")) not in READERS:
        return "it names no event of event_sync (event_name)"
    return None if as_text(value.get("room_jid")) is not None else "it has no room_jid"
