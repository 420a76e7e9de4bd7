"""LiveKit (and so OpenVidu 3): webhooks proved by a JWT that names their body.

Reference: https://docs.livekit.io/home/server/webhooks/ (what it leaves out: docs/reference/vendors/livekit.md); the schema is
livekit/protocol `protobufs/livekit_webhook.proto`, what fills it livekit `pkg/telemetry/events.go`. The proof is
`sources/webhook_jwt.py`, the encoding `protojson.py`; rooms and people are read in `sources/livekit/events.py`, egress, which becomes a
recording or a broadcast, in `sources/livekit/egress.py`.

LIMIT: a token is valid for 5 minutes (plus leeway) and its body may be sent again within them; the permanent dedupe is
what keeps a replay out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from tracker.domain.deliveries import Delivery, Origin, Record, Verified
from tracker.domain.facts import Fact, RunRules, Unknown
from tracker.sources import protojson
from tracker.sources.livekit import egress as livekit_egress
from tracker.sources.livekit import events as reading
from tracker.sources.contract import SourceSettings
from tracker.sources.livekit.events import EventContext
from tracker.sources.webhook_jwt import verify_jwt, encode_proof
from tracker.sources.protojson import Message


RULES = RunRules(tolerance=5_000_000)
"""Only ingress events may name no run; their clock is that of another server than the room's."""


class LivekitSource:
    """One LiveKit deployment, proved by the token in `Authorization`; `settings.keys` maps API key to secret."""

    def __init__(self, settings: SourceSettings) -> None:
        self.name = settings.name
        self.vendor = settings.vendor
        self._keys = dict(settings.keys)

    def __repr__(self) -> str:
        return f"LivekitSource({self.name!r})"

    def verify(self, delivery: Delivery) -> Verified:
        """See `Source.verify`. The proof is the token: bound to this body, it is evidence and opens nothing else."""
        token = delivery.headers.get("authorization", "").strip(" \t")
        verify_jwt(token, keys=self._keys, body=delivery.body, received_at=delivery.received_at)
        return self._named(delivery.body, delivery.received_at, "webhook", {"scheme": "jwt", "jwt": token})

    def verify_trusted(self, body: bytes, *, received_at: int, proof: dict[str, str | int]) -> Verified:
        """See `Source.admit`."""
        return self._named(body, received_at, "import", proof)

    def _named(self, body: bytes, received_at: int, origin: Origin, proof: dict[str, str | int]) -> Verified:
        message = protojson.read(body) or Message({})
        event, event_id = message.text("event") or "", message.text("id")
        return Verified(
            source=self.name,
            vendor=self.vendor,
            event=event,
            # The same id goes to every configured URL, and with every retry.
            dedupe_key=f"{event}:{event_id}" if event and event_id else f"sha256:{hashlib.sha256(body).hexdigest()}",
            received_at=received_at,
            origin=origin,
            proof=encode_proof(proof),
            body=body,
        )


def interpret(record: Record) -> tuple[Fact, ...]:
    """What a LiveKit webhook means. Never raises."""
    message = protojson.read(record.body)
    if message is None:
        unreadable = (("unreadable", "the body is no JSON object"),)
        return (Unknown(at=record.received_at, clock="receiver", precision="us", anomalies=unreadable),)
    said = reading.event_context(message, record.received_at)
    reader = _READERS.get(said.event)
    if reader is None:
        return said.unknown()
    if said.run is None and said.room is None:
        return said.unread(f"{said.event} without room")
    return reader(said)


def _egress(said: EventContext) -> tuple[Fact, ...]:
    info = said.message.message("egress_info")
    if not info:
        return said.unread(f"{said.event} without egressInfo")
    started_at = info.moment("started_at", "ns")
    egress_id = info.text("egress_id")
    egress = livekit_egress.Egress(
        event=said.event,
        info=info,
        at=said.at,
        stamped=said.own is not None,
        place=said.place(started_at, egress_id=egress_id),
        started_at=started_at,
        # An automatic egress that failed to start has no id (livekit `pkg/rtc/egress.go:44-57`): its event has one.
        id=egress_id or f"egress:{said.message.text('id') or f'{said.room or said.run}@{said.at}'}",
    )
    return livekit_egress.read(egress, said.fact)


_READERS: dict[str, Callable[[EventContext], tuple[Fact, ...]]] = {
    "room_started": reading.room_started,
    "room_finished": reading.room_finished,
    "participant_joined": reading.participant,
    "participant_left": reading.participant,
    "participant_connection_aborted": reading.participant,
    "track_published": reading.track,
    "track_unpublished": reading.track,
    "egress_started": _egress,
    "egress_updated": _egress,
    "egress_ended": _egress,
    "ingress_started": reading.ingress,
    "ingress_ended": reading.ingress,
    "agent_job_started": reading.agent_job,
    "agent_job_ended": reading.agent_job,
}
