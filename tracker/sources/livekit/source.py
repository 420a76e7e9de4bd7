"""LiveKit (and so OpenVidu 3): webhooks proved by a JWT that names their body.

Reference: https://docs.livekit.io/home/server/webhooks/ (its omissions: docs/reference/vendors/livekit.md). The schema is
livekit/protocol `protobufs/livekit_webhook.proto`; livekit `pkg/telemetry/events.go` fills it in.

LIMIT: a token is valid for 5 minutes (plus leeway), and its body can be replayed within them. Deduplication, which has no
time limit, rejects the replay.
"""

from __future__ import annotations

from typing import Any

from tracker.domain.facts import RunRules
from tracker.sources.protojson import text
from tracker.sources.webhook_jwt import JwtSource

RULES = RunRules(tolerance=5_000_000)
"""Only ingress events may lack a run key, and another server's clock stamps them."""


class LivekitSource(JwtSource):
    """One LiveKit deployment, proved by the token in `Authorization`."""

    def event_name(self, body: dict[str, Any]) -> str:
        return text(body.get("event")) or ""
