"""plugNmeet: webhooks proved by a JWT that names their body, some relayed from its LiveKit, some its own.

Reference: https://www.plugnmeet.org/docs/developer-guide/webhooks (differences from the wire:
docs/reference/vendors/plugnmeet.md). The schema is plugnmeet-protocol `proto_files/plugnmeet_common.proto`; plugNmeet-server
`pkg/models/` fills it in.

LIMIT: a token is valid for 5 minutes (plus leeway), and its body can be replayed within them. Deduplication, which has no
time limit, rejects the replay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from tracker.domain.deliveries import Delivery, Origin, Verified
from tracker.domain.facts import RunRules
from tracker.sources import protojson
from tracker.sources.contract import SourceSettings
from tracker.sources.plugnmeet.events import event_name
from tracker.sources.webhook_jwt import unverified_header, verify_jwt, encode_proof
from tracker.sources.protojson import Message


RULES = RunRules(tolerance=5_000_000, starts_when_joined=True)


class PlugnmeetSource:
    """One plugNmeet server, proved by the token in `Authorization` or `Hash-Token`; `settings.keys` maps key to secret.

    The key is plugNmeet's own (`client.api_key`), not that of the LiveKit behind it.
    """

    def __init__(self, settings: SourceSettings) -> None:
        self.name = settings.name
        self.vendor = settings.vendor
        self._keys = dict(settings.keys)

    def __repr__(self) -> str:
        return f"PlugnmeetSource({self.name!r})"

    def verify(self, delivery: Delivery) -> Verified:
        """See `Source.verify`. The proof is the token: it is bound to this body, so it is evidence and grants nothing else."""
        token = _token(delivery.headers)
        verify_jwt(token, keys=self._keys, body=delivery.body, received_at=delivery.received_at)
        return self._named(delivery.body, delivery.received_at, "webhook", {"scheme": "jwt", "jwt": token})

    def verify_trusted(self, body: bytes, *, received_at: int, proof: dict[str, str | int]) -> Verified:
        """See `Source.verify_trusted`."""
        return self._named(body, received_at, "import", proof)

    def _named(self, body: bytes, received_at: int, origin: Origin, proof: dict[str, str | int]) -> Verified:
        message = protojson.read_message(body) or Message({})
        event, event_id = event_name(message), message.text("id")
        return Verified(
            source=self.name,
            vendor=self.vendor,
            event=event,
            # Never the id alone: up to v2.1.5 session_ended and room_finished share one (webhook_room.go:119-142).
            dedupe_key=f"{event}:{event_id}" if event and event_id else f"sha256:{hashlib.sha256(body).hexdigest()}",
            received_at=received_at,
            origin=origin,
            proof=encode_proof(proof),
            body=body,
        )


def _token(headers: Mapping[str, str]) -> str:
    """The token. plugNmeet sends it in two headers, because proxies remove or replace `Authorization`."""
    first = headers.get("authorization", "").strip(" \t")
    if unverified_header(first) is not None:
        return first
    return headers.get("hash-token", "").strip(" \t") or first
