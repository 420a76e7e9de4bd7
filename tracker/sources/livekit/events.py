"""What LiveKit's webhooks about rooms, people, tracks, ingress and agents mean.

livekit `pkg/telemetry/events.go` fills them in; the objects are livekit/protocol `protobufs/livekit_models.proto`,
`livekit_ingress.proto`, `livekit_agent.proto`. One body mixes seconds (`createdAt`), milliseconds (`joinedAtMs`),
microseconds (`track.version.unixMicro`) and nanoseconds (ingress, agent jobs).

`numParticipants` is never read: the server refreshes the room's object only every 5 s (livekit#4265).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import msgspec

from tracker.domain.deliveries import Record
from tracker.domain import facts
from tracker.domain.facts import EndReason, Fact, Micros, Precision, SessionRef
from tracker.sources import livekit_protocol, protojson
from tracker.sources.json_reading import given_id, person_name, repeat_of
from tracker.sources.livekit.egress import Egress, read_egress, room_name_of, span
from tracker.sources.protojson import Message


_RESUMED_AFTER = 5_000_000
"""A room announced later than this after its creation existed before: a node died and another one took it over.

Servers up to 1.3.1 announce a room that `CreateRoom` made ahead only at its first join (`pkg/service/roomservice.go`). Their
rooms have none of `_NEWER_FIELDS`; there only the session's other facts show which of the two it is.
"""

_NEWER_FIELDS = ("creation_time_ms", "departure_timeout", "version")
"""Fields of a room that servers up to 1.3.1 did not know."""

_LONGEST_NAME = 200

# RoomEndReason of livekit-protocol 1.1.29, in order of the numbers; servers up to 1.13.5 do not send it.
_ROOM_ENDED: Mapping[str, EndReason] = {
    "ROOM_END_UNKNOWN": "unknown",
    "ROOM_END_API_DELETE": "closed_by_server",
    "ROOM_END_IDLE_TIMEOUT": "normal",
    "ROOM_END_SERVER_SHUTDOWN": "server_shutdown",
    "ROOM_END_SUPERSEDED": "superseded",
    "ROOM_END_OPEN_FAILED": "server_failure",
}
# JobStatus, livekit_agent.proto, in order of the numbers.
_JOB_ENDED: Mapping[str, EndReason] = {
    "JS_PENDING": "unknown",
    "JS_RUNNING": "unknown",
    "JS_SUCCESS": "normal",
    "JS_FAILED": "server_failure",
    "JS_CANCELLED": "closed_by_server",
}
# IngressState.Status, livekit_ingress.proto.
_INGRESS_STATUSES = (
    "ENDPOINT_INACTIVE", "ENDPOINT_BUFFERING", "ENDPOINT_PUBLISHING", "ENDPOINT_ERROR", "ENDPOINT_COMPLETE",
)  # fmt: skip
_NO_TIME = (None, 0, "0")
"""Absent: servers before 2021-12 did not send `createdAt`."""
_ENVELOPE = ("event", "id", "created_at", "num_dropped", "room_end_reason")
_KNOWN = protojson.spellings(*_ENVELOPE, "room", "participant", "track", "egress_info", "ingress_info", "job")
_SHOWN_APART = protojson.spellings("event", "id", "created_at")


class EventContext(livekit_protocol.Envelope, frozen=True, kw_only=True):
    """What every event has. `createdAt` is when the server queued it."""

    known: ClassVar[frozenset[str]] = _KNOWN

    def session_ref(
        self, at: Micros | None = None, *, ends_at: Micros | None = None, **ids: str | None
    ) -> SessionRef | None:
        """The session of this event; None where the event names no room."""
        if self.run is None and self.room is None:
            return None
        named = {"room_sid": self.run, "room_name": self.room} | ids
        return SessionRef(
            at=self.at if at is None else at,
            run=self.run,
            room=self.room,
            room_name=self.room,
            starts_at=self.room_created_at,
            ends_at=ends_at,
            ids=tuple((name, value) for name, value in named.items() if value is not None),
        )

    def raw(self, anomaly: str, why: str) -> tuple[Fact, ...]:
        """See `Envelope`."""
        shown = {"event": self.name} if self.name else {}
        about: dict[str, Any] = {
            "detail": shown | protojson.unknown_fields(self.message, _SHOWN_APART),
            "anomalies": (*self.anomalies, (anomaly, why)),
        }
        return (facts.Unknown(**(self.fact() | about), place=self.session_ref()),)


def event_context(message: Message, received_at: Micros) -> EventContext:
    """The context of an event. `received_at` (µs) counts where it states no time."""
    room = message.object("room")
    run, name, created = room.text("sid"), room.text("name"), _room_creation(room)
    if run is None or name is None:
        # Servers up to 1.13.5 send egress and ingress events without `room`; later ones send ingress with the name only.
        egress, ingress = message.object("egress_info"), message.object("ingress_info")
        run = run or egress.text("room_id") or ingress.object("state").text("room_id")
        name = name or egress.text("room_name") or room_name_of(egress) or ingress.text("room_name")
    job = message.object("job")
    if job:
        job_room = job.object("room")
        run, name, created = (
            run or job_room.text("sid"),
            name or job_room.text("name"),
            created or _room_creation(job_room),
        )
    own = message.moment("created_at", "s")
    # Only servers up to 1.8.4 report what they lost.
    dropped = message.whole("num_dropped") or 0
    return EventContext(
        name=(message.text("event") or "")[:_LONGEST_NAME],
        message=message,
        at=received_at if own is None else own,
        created_at=own,
        room_created_at=created,
        run=run,
        room=name,
        anomalies=tuple(_anomalies(dropped, unusable=own is None and message.value("created_at") not in _NO_TIME)),
    )


def _anomalies(dropped: int, *, unusable: bool) -> Iterator[tuple[str, str]]:
    if dropped > 0:
        yield "number_mismatch", f"sender reports {dropped} dropped webhooks"
    if unusable:
        yield "clock_skew", "createdAt is no usable time"


def _room_creation(room: Message) -> Micros | None:
    return room.moment("creation_time_ms", "ms") or room.moment("creation_time", "s")


def room_started(context: EventContext) -> tuple[Fact, ...]:
    """The first announcement of a sid, or a later one. The order of arrival never decides which of the two."""
    room, created = context.message.object("room"), context.room_created_at
    metadata = protojson.clean_text(room.text("metadata"))
    if created is None:
        place = context.session_ref()
        if place is not None:
            place = msgspec.structs.replace(place, starts_at=context.created_at)
        return (facts.SessionStarted(**context.fact(metadata=metadata), place=place, started_at=context.at),)
    if context.created_at is not None and context.created_at - created > _RESUMED_AFTER:
        return (
            facts.SessionResumed(
                **context.fact(metadata=metadata),
                place=context.session_ref(),
                started_at=created,
                may_be_first=not any(room.value(name) for name in _NEWER_FIELDS),
            ),
        )
    precision: Precision = "ms" if room.moment("creation_time_ms", "ms") else "s"
    fact = context.fact(created, precision, metadata=metadata)
    return (facts.SessionStarted(**fact, place=context.session_ref(created), started_at=created),)


def room_finished(context: EventContext) -> tuple[Fact, ...]:
    """The end of a run; only servers after 1.13.5 give a reason."""
    vendor_reason = context.message.enum("room_end_reason", *_ROOM_ENDED)
    fact = context.end(
        context.room_created_at, metadata=protojson.clean_text(context.message.object("room").text("metadata"))
    )
    reason = _ROOM_ENDED.get(vendor_reason or "", "unknown")
    place = context.session_ref(ends_at=fact["at"])
    return (
        facts.SessionEnded(
            **fact, place=place, started_at=context.room_created_at, reason=reason, vendor_reason=vendor_reason
        ),
    )


def participant(context: EventContext) -> tuple[Fact, ...]:
    """A connection became active, ended, or failed to become active; `participant.sid` is the connection."""
    person = context.message.object("participant")
    connection = person.text("sid")
    if connection is None:
        return context.unreadable(f"{context.name} without participant.sid")
    joined_at, precision, anomalies = livekit_protocol.stated_join(context, person)
    about: dict[str, Any] = {
        "place": context.session_ref(joined_at),
        "connection": connection,
        "identity": person.text("identity"),
        "name": person_name(person.text("name")),
        "person": livekit_protocol.person_kind(person),
        "joined_at": joined_at,
    }
    detail = livekit_protocol.person_detail(person)
    if context.name == "participant_joined":
        fact = context.fact(joined_at, precision, **detail)
        fact["anomalies"] += anomalies
        return (facts.ParticipantJoined(**fact, **about),)
    reason, vendor_reason = livekit_protocol.disconnect_reason(person)
    if context.name == "participant_left":
        return (
            facts.ParticipantLeft(
                **context.end(joined_at, **detail), **about, reason=reason, vendor_reason=vendor_reason
            ),
        )
    reason = "join_failed" if vendor_reason is None else reason
    fact = context.end(joined_at, **detail)
    return (facts.ParticipantConnectionAborted(**fact, **about, reason=reason, vendor_reason=vendor_reason),)


def track(context: EventContext) -> tuple[Fact, ...]:
    """A participant's media started or stopped. Room and participant have only sid, name and identity here."""
    return livekit_protocol.track(context, context.message.object("participant").text("identity"))


def _activity_span(
    context: EventContext, state: Message, start_event: str
) -> tuple[Micros | None, Micros | None, livekit_protocol.Anomalies]:
    """(start, end, anomalies) of an ingress or a job, µs. Only the event of a start is held against its own time."""
    started_at, anomalies = state.moment("started_at", "ns"), ()
    if context.name == start_event:
        started_at, anomalies = livekit_protocol.stated_start(context, started_at, "startedAt")
    return started_at, state.moment("ended_at", "ns"), anomalies


def ingress(context: EventContext) -> tuple[Fact, ...]:
    """Media from outside; facts never hold its address and stream key."""
    info = context.message.object("ingress_info")
    activity = info.text("ingress_id")
    if activity is None:
        return context.unreadable(f"{context.name} without ingressInfo.ingressId")
    state = info.object("state")
    started_at, ended_at, anomalies = _activity_span(context, state, "ingress_started")
    status = state.enum("status", *_INGRESS_STATUSES)
    detail: dict[str, Any] = {
        "name": protojson.mask_addresses(info.text("name")),
        "input_type": info.enum("input_type", "RTMP_INPUT", "WHIP_INPUT", "URL_INPUT") or "RTMP_INPUT",
        "participant_name": protojson.mask_addresses(info.text("participant_name")),
        "status": status,
        "error": protojson.mask_addresses(state.text("error")),
    }
    about: dict[str, Any] = {
        "place": context.session_ref(started_at, ingress_id=activity),
        "activity": activity,
        "identity": info.text("participant_identity"),
        "started_at": started_at,
    }
    if context.name == "ingress_started":
        fact = context.fact(started_at, "us", **detail)
        fact["anomalies"] += anomalies
        return (facts.IngressStarted(**fact, **about),)
    reason: EndReason = "server_failure" if state.text("error") or status == "ENDPOINT_ERROR" else "normal"
    fact = context.end(started_at, **detail) if ended_at is None else context.fact(ended_at, "us", **detail)
    return (facts.IngressEnded(**fact, **about, reason=reason, vendor_reason=detail["error"] or status),)


def agent_job(context: EventContext) -> tuple[Fact, ...]:
    """An agent's job in a room; in the protocol since 2026-08, not sent by any released server yet."""
    job = context.message.object("job")
    activity = job.text("id")
    if activity is None:
        return context.unreadable(f"{context.name} without job.id")
    state = job.object("state")
    status = state.enum("status", *_JOB_ENDED)
    started_at, ended_at, anomalies = _activity_span(context, state, "agent_job_started")
    detail: dict[str, Any] = {
        "agent_name": job.text("agent_name"),
        "type": job.enum("type", "JT_ROOM", "JT_PUBLISHER", "JT_PARTICIPANT") or "JT_ROOM",
        "status": status,
        "error": protojson.mask_addresses(state.text("error")),
    }
    about: dict[str, Any] = {
        "place": context.session_ref(started_at, job_id=activity),
        "activity": activity,
        "identity": state.text("participant_identity"),
        "started_at": started_at,
    }
    if context.name == "agent_job_started":
        fact = context.fact(started_at, "us", **detail)
        fact["anomalies"] += anomalies
        return (facts.AgentJobStarted(**fact, **about),)
    fact = context.end(started_at, **detail) if ended_at is None else context.fact(ended_at, "us", **detail)
    reason = _JOB_ENDED.get(status or "", "unknown")
    return (facts.AgentJobEnded(**fact, **about, reason=reason, vendor_reason=detail["error"] or status),)


def interpret(record: Record) -> tuple[Fact, ...]:
    """The facts of a LiveKit webhook. Never raises."""
    return livekit_protocol.interpret(record, event_context, _READERS, _ROOMLESS)


def _egress(context: EventContext) -> tuple[Fact, ...]:
    """An egress of a room, or of a web page: the latter belongs to no room, and is a session of its own."""
    info = context.message.object("egress_info")
    if not info:
        return context.unreadable(f"{context.name} without egressInfo")
    egress_id = info.text("egress_id")
    started_at, ended_at = span(info, is_over=context.name == "egress_ended")
    place = context.session_ref(started_at, egress_id=egress_id)
    is_alone = place is None
    if place is None:
        if egress_id is None:
            return context.unreadable(f"{context.name} without room and egressInfo.egressId")
        place = SessionRef(at=started_at or context.at, run=egress_id, ids=(("egress_id", egress_id),))
    egress = Egress(
        event=context.name,
        info=info,
        at=context.at,
        has_timestamp=context.created_at is not None,
        place=place,
        started_at=started_at,
        ended_at=ended_at,
        # An automatic egress that failed to start has no id (livekit `pkg/rtc/egress.go:44-57`), but its event has one.
        id=given_id(egress_id, "egress:") if egress_id else _made_up_egress_id(context),
    )
    found = read_egress(egress, context.fact)
    if is_alone:
        found += _session_of(context, egress)
    if context.name != "egress_ended":
        return found
    # The server repeats it where it could not store the egress at once (`ioservice.go:124-128`).
    copy = repeat_of(context.name, {name: value for name, value in info.fields.items() if name not in _UPDATED})
    return tuple(msgspec.structs.replace(fact, copy=copy) for fact in found)


def _made_up_egress_id(context: EventContext) -> str:
    event_id = context.message.text("id")
    return f"egress:{given_id(event_id, '@') if event_id else f'@{context.at}'}"


def _session_of(context: EventContext, egress: Egress) -> tuple[Fact, ...]:
    """The session that an egress without a room is: it begins and ends with it."""
    about: dict[str, Any] = context.fact() | {"anomalies": (), "detail": {}}
    if egress.event == "egress_started":
        return (facts.SessionStarted(**about, place=egress.place),)
    if egress.event != "egress_ended":
        return ()
    if egress.ended_at is not None:
        about |= {"at": egress.ended_at, "clock": "server", "precision": "us"}
    place = msgspec.structs.replace(egress.place, ends_at=about["at"])
    reason, vendor_reason = egress.end_reason
    return (
        facts.SessionEnded(
            **about, place=place, started_at=egress.started_at, reason=reason, vendor_reason=vendor_reason
        ),
    )


_UPDATED = protojson.spellings("updated_at")
_ROOMLESS = frozenset({"egress_started", "egress_updated", "egress_ended"})
_READERS: dict[str, Callable[[EventContext], tuple[Fact, ...]]] = {
    "room_started": room_started,
    "room_finished": room_finished,
    "participant_joined": participant,
    "participant_left": participant,
    "participant_connection_aborted": participant,
    "track_published": track,
    "track_unpublished": track,
    "egress_started": _egress,
    "egress_updated": _egress,
    "egress_ended": _egress,
    "ingress_started": ingress,
    "ingress_ended": ingress,
    "agent_job_started": agent_job,
    "agent_job_ended": agent_job,
}

KNOWN_EVENTS = frozenset(_READERS)
