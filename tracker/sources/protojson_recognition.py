"""What an import recognises as a webhook in protojson, as a `webhook_jwt.JwtSource` proves it."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from tracker.sources.contract import LOG_FIELDS
from tracker.sources.protojson import as_object, camel, either, text, whole

_PARTS = ("room", "participant", "track", "egress_info", "ingress_info", "job", "recording_info", "speech_service")
"""What an event is about."""


def why_no_webhook(value: Mapping[str, Any], known: AbstractSet[str]) -> str | None:
    """See `contract.WhyNoEvent`. A known event is about something; every event of today has `id` and `created_at`."""
    name = (text(value.get("event")) or "").lower()
    if not name:
        return "it names no event"
    if not LOG_FIELDS.isdisjoint(value):
        return "the log line of an application"
    is_stamped = text(value.get("id")) is not None and whole(either(value, "created_at", "createdAt")) is not None
    if name not in known:
        return None if is_stamped else "an unknown event without id and createdAt"
    is_about = any(as_object(either(value, part, camel(part))) for part in _PARTS)
    return None if is_stamped or is_about else "it is about no room, participant, track, egress or ingress"
