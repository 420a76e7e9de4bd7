"""LiveKit (and so OpenVidu 3): webhooks proved by a JWT that names their body.

Reference: https://docs.livekit.io/home/server/webhooks/ (its omissions: docs/reference/vendors/livekit.md). The schema is
livekit/protocol `protobufs/livekit_webhook.proto`; livekit `pkg/telemetry/events.go` fills it in.

LIMIT: a token is valid for 5 minutes (plus leeway), and its body can be replayed within them. Deduplication, which has no
time limit, rejects the replay.
"""

from __future__ import annotations

import hashlib

from tracker.domain.deliveries import Delivery, Origin, Verified
from tracker.domain.facts import RunRules
from tracker.sources import protojson
from tracker.sources.contract import SourceSettings
from tracker.sources.webhook_jwt import verify_jwt, encode_proof
from tracker.sources.protojson import Message


RULES = RunRules(tolerance=5_000_000)
"""Only ingress events may lack a run key, and another server's clock stamps them."""


class LivekitSource:
    """One LiveKit deployment, proved by the token in `Authorization`; `settings.keys` maps API key to secret."""

    def __init__(self, settings: SourceSettings) -> None:
        self.name = settings.name
        self.vendor = settings.vendor
        self._keys = dict(settings.keys)

    def __repr__(self) -> str:
        return f"LivekitSource({self.name!r})"

    def verify(self, delivery: Delivery) -> Verified:
        """See `Source.verify`. The proof is the token: it is bound to this body, so it is evidence and grants nothing else."""
        token = delivery.headers.get("authorization", "").strip(" \t")
        verify_jwt(token, keys=self._keys, body=delivery.body, received_at=delivery.received_at)
        return self._named(delivery.body, delivery.received_at, "webhook", {"scheme": "jwt", "jwt": token})

    def verify_trusted(self, body: bytes, *, received_at: int, proof: dict[str, str | int]) -> Verified:
        """See `Source.verify_trusted`."""
        return self._named(body, received_at, "import", proof)

    def _named(self, body: bytes, received_at: int, origin: Origin, proof: dict[str, str | int]) -> Verified:
        message = protojson.read_message(body) or Message({})
        event, event_id = message.text("event") or "", message.text("id")
        return Verified(
            source=self.name,
            vendor=self.vendor,
            event=event,
            # Every configured URL and every retry gets the same id.
            dedupe_key=f"{event}:{event_id}" if event and event_id else f"sha256:{hashlib.sha256(body).hexdigest()}",
            received_at=received_at,
            origin=origin,
            proof=encode_proof(proof),
            body=body,
        )
