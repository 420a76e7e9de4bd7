"""LiveKit (and so OpenVidu 3): webhooks proved by a JWT that names their body.

Reference: https://docs.livekit.io/home/server/webhooks/ (what it leaves out: docs/sources/livekit.md); the schema is
livekit/protocol `protobufs/livekit_webhook.proto`, what fills it livekit `pkg/telemetry/events.go`. The proof is
`proofs.py`, the encoding `protojson.py`; egress, which becomes a recording or a broadcast, is read in `livekit_egress.py`.

LIMIT: a token is valid for 5 minutes (plus leeway) and its body may be sent again within them; the permanent dedupe is
what keeps a replay out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import msgspec

from tracker.deliveries import Delivery, Origin, Record, Verified
from tracker.facts import (
    AgentJobEnded,
    AgentJobStarted,
    EndReason,
    Fact,
    IngressEnded,
    IngressStarted,
    Micros,
    ParticipantConnectionAborted,
    ParticipantJoined,
    ParticipantLeft,
    Place,
    Precision,
    RunRules,
    SessionEnded,
    SessionResumed,
    SessionStarted,
    StreamPublished,
    StreamUnpublished,
    Unknown,
)
from tracker.sources import livekit_egress, protojson
from tracker.sources.contract import SourceSettings
from tracker.sources.proofs import verify_jwt
from tracker.sources.protojson import Message


RULES = RunRules(tolerance=5_000_000)

_RESUMED_AFTER = 5_000_000
"""A room announced later than this after its creation was there before: a node died and another one took it over."""

_FINER_WITHIN = 10_000_000

# RoomEndReason of livekit-protocol 1.1.29; servers up to 1.13.5 do not send it.
_ROOM_ENDED: dict[str, EndReason] = {
    "ROOM_END_API_DELETE": "closed_by_server",
    "ROOM_END_IDLE_TIMEOUT": "normal",
    "ROOM_END_SERVER_SHUTDOWN": "server_shutdown",
    "ROOM_END_SUPERSEDED": "superseded",
    "ROOM_END_OPEN_FAILED": "server_failure",
}
_ENVELOPE = ("event", "id", "created_at", "num_dropped", "room_end_reason")


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

    def admit(self, body: bytes, *, received_at: int, proof: dict[str, str | int]) -> Verified:
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
            proof=json.dumps(proof, separators=(",", ":")).encode(),
            body=body,
        )


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What any event says, whatever its kind.

    `at` is `createdAt` (s; when the server queued it), else when we received it; `created` is the room's start where
    the event holds the full room. Times in µs.
    """

    event: str
    message: Message
    at: Micros
    own: Micros | None
    created: Micros | None
    run: str | None
    room: str | None
    anomalies: tuple[tuple[str, str], ...]

    def fact(self, at: Micros | None = None, precision: Precision = "s", **detail: Any) -> dict[str, Any]:
        """The arguments every fact takes. `at`: a moment the event states more finely than `createdAt`."""
        return {
            "at": self.at if at is None else at,
            "clock": "receiver" if at is None and self.own is None else "server",
            "precision": "us" if at is None and self.own is None else precision,
            "detail": protojson.extras(self.message, *_ENVELOPE) | protojson.present(**detail),
            "anomalies": self.anomalies,
        }

    def place(self, at: Micros | None = None, *, ends_at: Micros | None = None, **ids: str | None) -> Place | None:
        """Where this belongs; None when the event names no room."""
        if self.run is None and self.room is None:
            return None
        named = {"room_sid": self.run, "room_name": self.room} | ids
        return Place(
            at=self.at if at is None else at,
            run=self.run,
            room=self.room,
            room_name=self.room,
            starts_at=self.created,
            ends_at=ends_at,
            ids=tuple((name, value) for name, value in named.items() if value is not None),
        )

    def unread(self, why: str) -> tuple[Fact, ...]:
        """An event that lacks what it is about: kept, shown raw."""
        anomalies = (*self.anomalies, ("unreadable", why))
        return (Unknown(**(self.fact(event=self.event) | {"anomalies": anomalies}), place=self.place()),)


def interpret(record: Record) -> tuple[Fact, ...]:
    """What a LiveKit webhook means. Never raises."""
    message = protojson.read(record.body)
    if message is None:
        unreadable = (("unreadable", "the body is no JSON object"),)
        return (Unknown(at=record.received_at, clock="receiver", precision="us", anomalies=unreadable),)
    said = _told(message, record)
    reader = _READERS.get(said.event)
    if reader is None:
        anomalies = (*said.anomalies, ("unknown_event", said.event))
        return (Unknown(**(said.fact(event=said.event) | {"anomalies": anomalies}), place=said.place()),)
    if said.place() is None:
        return said.unread(f"{said.event} without room")
    return reader(said)


def _told(message: Message, record: Record) -> Told:
    room, job_room = message.message("room"), message.message("job").message("room")
    # Servers up to 1.13.5 send egress and ingress events without `room`; later ones send ingress with the name only.
    egress, ingress = message.message("egress_info"), message.message("ingress_info")
    own = message.moment("created_at", "s")
    dropped = message.whole("num_dropped") or 0
    return Told(
        event=message.text("event") or "",
        message=message,
        at=record.received_at if own is None else own,
        own=own,
        created=_creation(room) or _creation(job_room),
        run=room.text("sid")
        or egress.text("room_id")
        or ingress.message("state").text("room_id")
        or job_room.text("sid"),
        room=room.text("name") or egress.text("room_name") or ingress.text("room_name") or job_room.text("name"),
        anomalies=(("number_mismatch", f"sender reports {dropped} dropped webhooks"),) if dropped > 0 else (),
    )


def _creation(room: Message) -> Micros | None:
    return room.moment("creation_time_ms", "ms") or room.moment("creation_time", "s")


def _room_started(said: Told) -> tuple[Fact, ...]:
    """The first announcement of a sid, or a later one: told apart by the event alone, so that order cannot matter."""
    room = said.message.message("room")
    detail = {"metadata": protojson.metadata(room.text("metadata"))}
    created = said.created
    if created is None:
        place = said.place()
        if place is not None:
            place = msgspec.structs.replace(place, starts_at=said.at)
        return (SessionStarted(**said.fact(**detail), place=place, started_at=said.at),)
    if said.own is not None and said.own - created > _RESUMED_AFTER:
        return (SessionResumed(**said.fact(**detail), place=said.place(), started_at=created),)
    precision: Precision = "ms" if room.moment("creation_time_ms", "ms") else "s"
    return (SessionStarted(**said.fact(created, precision, **detail), place=said.place(created), started_at=created),)


def _room_finished(said: Told) -> tuple[Fact, ...]:
    theirs = said.message.enum("room_end_reason")
    fact = said.fact(metadata=protojson.metadata(said.message.message("room").text("metadata")))
    reason = _ROOM_ENDED.get(theirs or "", "unknown")
    place = said.place(ends_at=said.at)
    return (SessionEnded(**fact, place=place, started_at=said.created, reason=reason, vendor_reason=theirs),)


def _participant(said: Told) -> tuple[Fact, ...]:
    person = said.message.message("participant")
    connection = person.text("sid")
    if connection is None:
        return said.unread(f"{said.event} without participant.sid")
    joined = protojson.joined_at(person)
    joined_at = joined[0] if joined else None
    about: dict[str, Any] = {
        "place": said.place(joined_at),
        "connection": connection,
        "identity": person.text("identity"),
        "name": person.text("name"),
        "person": protojson.person_kind(person),
        "joined_at": joined_at,
    }
    detail = protojson.person_detail(person)
    if said.event == "participant_joined":
        # Sent when the connection became active, which `createdAt` tells to the second and only after queueing.
        at, precision = joined or (None, "s")
        return (ParticipantJoined(**said.fact(at, precision, **detail), **about),)
    reason, theirs = protojson.disconnected(person)
    if said.event == "participant_left":
        return (ParticipantLeft(**said.fact(**detail), **about, reason=reason, vendor_reason=theirs),)
    reason = "join_failed" if theirs is None else reason
    return (ParticipantConnectionAborted(**said.fact(**detail), **about, reason=reason, vendor_reason=theirs),)


def _track(said: Told) -> tuple[Fact, ...]:
    track, person = said.message.message("track"), said.message.message("participant")
    stream = track.text("sid")
    if stream is None:
        return said.unread(f"{said.event} without track.sid")
    about: dict[str, Any] = {"stream": stream, "connection": person.text("sid"), "identity": person.text("identity")}
    about |= protojson.track_media(track)
    detail = protojson.track_detail(track)
    if said.event == "track_unpublished":
        return (StreamUnpublished(**said.fact(**detail), **about, place=said.place()),)
    fine = track.message("version").moment("unix_micro", "us")
    if fine is None or said.own is None or abs(fine - said.own) > _FINER_WITHIN:
        return (StreamPublished(**said.fact(**detail), **about, place=said.place()),)
    return (StreamPublished(**said.fact(fine, "us", **detail), **about, place=said.place(fine)),)


def _egress(said: Told) -> tuple[Fact, ...]:
    info = said.message.message("egress_info")
    if not info:
        return said.unread(f"{said.event} without egressInfo")
    started_at = info.moment("started_at", "ns")
    egress = livekit_egress.Egress(
        event=said.event,
        info=info,
        at=said.at,
        stamped=said.own is not None,
        place=said.place(started_at, egress_id=info.text("egress_id")),
        started_at=started_at,
        fallback_id=said.room or said.run or "",
    )
    return livekit_egress.read(egress, said.fact)


def _ingress(said: Told) -> tuple[Fact, ...]:
    info = said.message.message("ingress_info")
    activity = info.text("ingress_id")
    if activity is None:
        return said.unread(f"{said.event} without ingressInfo.ingressId")
    state = info.message("state")
    started_at, ended_at = state.moment("started_at", "ns"), state.moment("ended_at", "ns")
    detail = {
        "name": info.text("name"),
        "input_type": info.enum("input_type", "RTMP_INPUT", "WHIP_INPUT", "URL_INPUT"),
        "participant_name": info.text("participant_name"),
        "status": state.enum("status"),
        "error": protojson.masked(state.text("error")),
    }
    about: dict[str, Any] = {
        "place": said.place(started_at, ingress_id=activity),
        "activity": activity,
        "identity": info.text("participant_identity"),
        "started_at": started_at,
    }
    if said.event == "ingress_started":
        return (IngressStarted(**said.fact(started_at, "us", **detail), **about),)
    reason: EndReason = "server_failure" if state.text("error") else "normal"
    return (IngressEnded(**said.fact(ended_at, "us", **detail), **about, reason=reason),)


def _agent_job(said: Told) -> tuple[Fact, ...]:
    job = said.message.message("job")
    activity = job.text("id")
    if activity is None:
        return said.unread(f"{said.event} without job.id")
    state = job.message("state")
    status = state.enum("status", "JS_PENDING", "JS_RUNNING", "JS_SUCCESS", "JS_FAILED")
    started_at, ended_at = state.moment("started_at", "ns"), state.moment("ended_at", "ns")
    detail = {
        "agent_name": job.text("agent_name"),
        "type": job.enum("type", "JT_ROOM", "JT_PUBLISHER", "JT_PARTICIPANT"),
        "status": status,
        "error": protojson.masked(state.text("error")),
    }
    about: dict[str, Any] = {
        "place": said.place(started_at, job_id=activity),
        "activity": activity,
        "identity": state.text("participant_identity"),
        "started_at": started_at,
    }
    if said.event == "agent_job_started":
        return (AgentJobStarted(**said.fact(started_at, "us", **detail), **about),)
    reason: EndReason = {"JS_SUCCESS": "normal", "JS_FAILED": "server_failure"}.get(status or "", "unknown")  # pyright: ignore[reportAssignmentType]
    return (AgentJobEnded(**said.fact(ended_at, "us", **detail), **about, reason=reason, vendor_reason=status),)


_READERS: dict[str, Callable[[Told], tuple[Fact, ...]]] = {
    "room_started": _room_started,
    "room_finished": _room_finished,
    "participant_joined": _participant,
    "participant_left": _participant,
    "participant_connection_aborted": _participant,
    "track_published": _track,
    "track_unpublished": _track,
    "egress_started": _egress,
    "egress_updated": _egress,
    "egress_ended": _egress,
    "ingress_started": _ingress,
    "ingress_ended": _ingress,
    "agent_job_started": _agent_job,
    "agent_job_ended": _agent_job,
}
