"""plugNmeet: webhooks proved by a JWT that names their body, some relayed from its LiveKit, some its own.

Reference: https://www.plugnmeet.org/docs/developer-guide/webhooks (differences from the wire:
docs/reference/vendors/plugnmeet.md). The schema is plugnmeet-protocol `proto_files/plugnmeet_common.proto`; plugNmeet-server
`pkg/models/` fills it in.

LIMIT: a token is valid for 5 minutes (plus leeway), and its body can be replayed within them. Deduplication, which has no
time limit, rejects the replay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracker.domain.facts import RunRules
from tracker.sources.plugnmeet.events import event_name
from tracker.sources.webhook_jwt import JwtSource, unverified_header

RULES = RunRules(tolerance=5_000_000, starts_when_joined=True)


class PlugnmeetSource(JwtSource):
    """One plugNmeet server, proved by the token in `Authorization` or `Hash-Token`.

    The key is plugNmeet's own (`client.api_key`), not that of the LiveKit behind it.
    """

    def token(self, headers: Mapping[str, str]) -> str:
        """The token. plugNmeet sends it in two headers, because proxies remove or replace `Authorization`."""
        first = super().token(headers)
        if unverified_header(first) is not None:
            return first
        return headers.get("hash-token", "").strip(" \t") or first

    def event_name(self, body: dict[str, Any]) -> str:
        return event_name(body)
