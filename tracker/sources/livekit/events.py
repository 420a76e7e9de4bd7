"""What LiveKit's webhooks about rooms, people, tracks, ingress and agents mean.

livekit `pkg/telemetry/events.go` fills them in; the objects are livekit/protocol `protobufs/livekit_models.proto`,
`livekit_ingress.proto`, `livekit_agent.proto`. One body mixes seconds (`createdAt`), milliseconds (`joinedAtMs`),
microseconds (`track.version.unixMicro`) and nanoseconds (ingress, agent jobs).

`numParticipants` is never read: the server refreshes the room's object only every 5 s (livekit#4265).
"""

from __future__ import annotations

from typing import Any

import msgspec

from tracker.domain.deliveries import Record
from tracker.domain import facts
from tracker.domain.facts import EndReason, Fact, Micros, SessionRef
from tracker.sources import livekit_protocol
from tracker.sources.json_reading import given_id, repeat_of
from tracker.sources.livekit.egress import Egress, read_egress, requests_of, room_name_of, span
from tracker.sources.livekit_protocol import Event, Reader, room_creation
from tracker.sources.protojson import (
    as_object, clean_text, either, enum, enum_table, mask_addresses, moment, spellings, text,
)  # fmt: skip


_RESUMED_AFTER = 5_000_000
"""A room announced later than this after its creation existed before: a node died and another one took it over.

Servers up to 1.3.1 announce a room that `CreateRoom` made ahead only at its first join (`pkg/service/roomservice.go`). Their
rooms have none of `_NEWER_FIELDS`; there only the session's other facts show which of the two it is.
"""

_NEWER_FIELDS = spellings("creation_time_ms", "departure_timeout", "version")
"""Fields of a room that servers up to 1.3.1 did not know."""

# RoomEndReason of livekit-protocol 1.1.29, in order of the numbers; servers up to 1.13.5 do not send it.
_ROOM_ENDED: dict[str, EndReason] = {
    "ROOM_END_UNKNOWN": "unknown",
    "ROOM_END_API_DELETE": "closed_by_server",
    "ROOM_END_IDLE_TIMEOUT": "normal",
    "ROOM_END_SERVER_SHUTDOWN": "server_shutdown",
    "ROOM_END_SUPERSEDED": "superseded",
    "ROOM_END_OPEN_FAILED": "server_failure",
}
_ROOM_END_REASONS = enum_table(*_ROOM_ENDED)
# JobStatus, livekit_agent.proto, in order of the numbers.
_JOB_ENDED: dict[str, EndReason] = {
    "JS_PENDING": "unknown",
    "JS_RUNNING": "unknown",
    "JS_SUCCESS": "normal",
    "JS_FAILED": "server_failure",
    "JS_CANCELLED": "closed_by_server",
}
_JOB_STATUSES = enum_table(*_JOB_ENDED)
_JOB_TYPES = enum_table("JT_ROOM", "JT_PUBLISHER", "JT_PARTICIPANT")
# IngressState.Status, livekit_ingress.proto.
_INGRESS_STATUSES = enum_table(
    "ENDPOINT_INACTIVE", "ENDPOINT_BUFFERING", "ENDPOINT_PUBLISHING", "ENDPOINT_ERROR", "ENDPOINT_COMPLETE",
)  # fmt: skip
_INGRESS_INPUTS = enum_table("RTMP_INPUT", "WHIP_INPUT", "URL_INPUT")
_NO_TIME = (None, 0, "0")
"""Absent: servers before 2021-12 did not send `createdAt`."""
_ENVELOPE = ("event", "id", "created_at", "num_dropped", "room_end_reason")
_KNOWN = spellings(*_ENVELOPE, "room", "participant", "track", "egress_info", "ingress_info", "job")
_SHOWN_APART = spellings("event", "id", "created_at")
_UPDATED = spellings("updated_at")


def read_event(body: dict[str, Any], received_at: Micros) -> Event:
    """What every event has. `createdAt` is when the server queued it; `received_at` (µs) counts where it states no time."""
    room = as_object(body.get("room"))
    run, name, created = text(room.get("sid")), text(room.get("name")), room_creation(room)
    if run is None or name is None:
        # Servers up to 1.13.5 send egress and ingress events without `room`; later ones send ingress with the name only.
        egress = as_object(body.get("egress_info") or body.get("egressInfo"))
        ingress = as_object(body.get("ingress_info") or body.get("ingressInfo"))
        run = run or text(egress.get("room_id") or egress.get("roomId"))
        state = as_object(ingress.get("state"))
        run = run or text(state.get("room_id") or state.get("roomId"))
        name = name or text(egress.get("room_name") or egress.get("roomName")) or room_name_of(requests_of(egress))
        name = name or text(ingress.get("room_name") or ingress.get("roomName"))
    if job := as_object(body.get("job")):
        room = as_object(job.get("room"))
        run, name = run or text(room.get("sid")), name or text(room.get("name"))
        created = created or room_creation(room)
    stamp = either(body, "created_at", "createdAt")
    own = moment(stamp, "s")
    anomalies = livekit_protocol.dropped_webhooks(body)
    if own is None and stamp not in _NO_TIME:
        anomalies += (("clock_skew", "createdAt is no usable time"),)
    ids = (("room_sid", run),) if run is not None else ()
    return Event(
        body=body,
        name=livekit_protocol.event_name(body),
        at=received_at if own is None else own,
        created_at=own,
        room_created_at=created,
        starts_at=created,
        run=run,
        room=name,
        room_name=name,
        ids=ids if name is None else (*ids, ("room_name", name)),
        anomalies=anomalies,
        known=_KNOWN,
        shown_apart=_SHOWN_APART,
    )


def room_started(event: Event) -> tuple[Fact, ...]:
    """The first announcement of a sid, or a later one. The order of arrival never decides which of the two."""
    room, created = as_object(event.body.get("room")), event.room_created_at
    detail = {"metadata": clean_text(text(room.get("metadata")))}
    if created is None:
        place = event.session_ref(starts_at=event.created_at)
        return (facts.SessionStarted(**event.fact(detail=detail), place=place, started_at=event.at),)
    if event.created_at is not None and event.created_at - created > _RESUMED_AFTER:
        return (
            facts.SessionResumed(
                **event.fact(detail=detail),
                place=event.session_ref(),
                started_at=created,
                may_be_first=not any(room.get(name) for name in _NEWER_FIELDS),
            ),
        )
    has_ms = moment(room.get("creation_time_ms") or room.get("creationTimeMs"), "ms") is not None
    fact = event.fact(created, "ms" if has_ms else "s", detail)
    return (facts.SessionStarted(**fact, place=event.session_ref(created), started_at=created),)


def room_finished(event: Event) -> tuple[Fact, ...]:
    """The end of a run; only servers after 1.13.5 give a reason."""
    vendor_reason = enum(either(event.body, "room_end_reason", "roomEndReason"), _ROOM_END_REASONS)
    metadata = clean_text(text(as_object(event.body.get("room")).get("metadata")))
    fact = event.end(event.room_created_at, {"metadata": metadata})
    return (
        facts.SessionEnded(
            **fact,
            place=event.session_ref(ends_at=fact["at"]),
            started_at=event.room_created_at,
            reason=_ROOM_ENDED.get(vendor_reason or "", "unknown"),
            vendor_reason=vendor_reason,
        ),
    )


def participant(event: Event) -> tuple[Fact, ...]:
    """A connection became active, ended, or failed to become active."""
    person = as_object(event.body.get("participant"))
    return livekit_protocol.participant(
        event, person, text(person.get("identity")), livekit_protocol.person_kind(person)
    )


def track(event: Event) -> tuple[Fact, ...]:
    """A participant's media started or stopped. Room and participant have only sid, name and identity here."""
    return livekit_protocol.track(event, text(as_object(event.body.get("participant")).get("identity")))


def _activity_start(event: Event, state: dict[str, Any]) -> tuple[Micros | None, livekit_protocol.Anomalies]:
    """(start in µs, anomalies) of an ingress or a job. Only the event of a start is held against its own time."""
    started_at = moment(state.get("started_at") or state.get("startedAt"), "ns")
    if event.name.endswith("_started"):
        return livekit_protocol.stated_start(event, started_at, "startedAt")
    return started_at, ()


def _activity_end(
    event: Event, state: dict[str, Any], started_at: Micros | None, detail: dict[str, Any]
) -> dict[str, Any]:
    ended_at = moment(state.get("ended_at") or state.get("endedAt"), "ns")
    return event.end(started_at, detail) if ended_at is None else event.fact(ended_at, "us", detail)


def ingress(event: Event) -> tuple[Fact, ...]:
    """Media from outside; facts never hold its address and stream key."""
    info = as_object(event.body.get("ingress_info") or event.body.get("ingressInfo"))
    activity = text(info.get("ingress_id") or info.get("ingressId"))
    if activity is None:
        return event.unreadable(f"{event.name} without ingressInfo.ingressId")
    state = as_object(info.get("state"))
    started_at, anomalies = _activity_start(event, state)
    status, error = enum(state.get("status"), _INGRESS_STATUSES), mask_addresses(text(state.get("error")))
    detail: dict[str, Any] = {
        "name": mask_addresses(text(info.get("name"))),
        "input_type": enum(either(info, "input_type", "inputType"), _INGRESS_INPUTS) or "RTMP_INPUT",
        "participant_name": mask_addresses(text(info.get("participant_name") or info.get("participantName"))),
        "status": status,
        "error": error,
    }
    about: dict[str, Any] = {
        "place": event.session_ref(started_at, ids=(("ingress_id", activity),)),
        "activity": activity,
        "identity": text(info.get("participant_identity") or info.get("participantIdentity")),
        "started_at": started_at,
    }
    if event.name == "ingress_started":
        fact = event.fact(started_at, "us", detail)
        fact["anomalies"] += anomalies
        return (facts.IngressStarted(**fact, **about),)
    reason: EndReason = "server_failure" if error or status == "ENDPOINT_ERROR" else "normal"
    fact = _activity_end(event, state, started_at, detail)
    return (facts.IngressEnded(**fact, **about, reason=reason, vendor_reason=error or status),)


def agent_job(event: Event) -> tuple[Fact, ...]:
    """An agent's job in a room; in the protocol since 2026-08, not sent by any released server yet."""
    job = as_object(event.body.get("job"))
    activity = text(job.get("id"))
    if activity is None:
        return event.unreadable(f"{event.name} without job.id")
    state = as_object(job.get("state"))
    started_at, anomalies = _activity_start(event, state)
    status, error = enum(state.get("status"), _JOB_STATUSES), mask_addresses(text(state.get("error")))
    detail: dict[str, Any] = {
        "agent_name": text(job.get("agent_name") or job.get("agentName")),
        "type": enum(job.get("type"), _JOB_TYPES) or "JT_ROOM",
        "status": status,
        "error": error,
    }
    about: dict[str, Any] = {
        "place": event.session_ref(started_at, ids=(("job_id", activity),)),
        "activity": activity,
        "identity": text(state.get("participant_identity") or state.get("participantIdentity")),
        "started_at": started_at,
    }
    if event.name == "agent_job_started":
        fact = event.fact(started_at, "us", detail)
        fact["anomalies"] += anomalies
        return (facts.AgentJobStarted(**fact, **about),)
    fact, reason = _activity_end(event, state, started_at, detail), _JOB_ENDED.get(status or "", "unknown")
    return (facts.AgentJobEnded(**fact, **about, reason=reason, vendor_reason=error or status),)


def interpret(record: Record) -> tuple[Fact, ...]:
    """The facts of a LiveKit webhook. Never raises."""
    return livekit_protocol.interpret(record, read_event, _READERS, _ROOMLESS)


def _egress(event: Event) -> tuple[Fact, ...]:
    """An egress of a room, or of a web page: the latter belongs to no room, and is a session of its own."""
    info = as_object(event.body.get("egress_info") or event.body.get("egressInfo"))
    if not info:
        return event.unreadable(f"{event.name} without egressInfo")
    egress_id = text(info.get("egress_id") or info.get("egressId"))
    ids = () if egress_id is None else (("egress_id", egress_id),)
    started_at, ended_at = span(info, is_over=event.name == "egress_ended")
    place = event.session_ref(started_at, ids=ids)
    is_alone = place is None
    if place is None:
        if egress_id is None:
            return event.unreadable(f"{event.name} without room and egressInfo.egressId")
        place = SessionRef(at=started_at or event.at, run=egress_id, ids=ids)
    copy = None
    if event.name == "egress_ended":
        # The server repeats it where it could not store the egress at once (`ioservice.go:124-128`).
        copy = repeat_of(event.name, {name: value for name, value in info.items() if name not in _UPDATED})
    egress = Egress(
        event=event,
        info=info,
        requests=requests_of(info),
        place=place,
        started_at=started_at,
        ended_at=ended_at,
        # An automatic egress that failed to start has no id (livekit `pkg/rtc/egress.go:44-57`), but its event has one.
        id=given_id(egress_id, "egress:") if egress_id else _made_up_egress_id(event),
        copy=copy,
    )
    found = read_egress(egress)
    return found + _session_of(egress) if is_alone else found


def _made_up_egress_id(event: Event) -> str:
    event_id = text(event.body.get("id"))
    return f"egress:{given_id(event_id, '@') if event_id else f'@{event.at}'}"


def _session_of(egress: Egress) -> tuple[Fact, ...]:
    """The session that an egress without a room is: it begins and ends with it."""
    about: dict[str, Any] = egress.event.fact() | {"anomalies": (), "detail": {}, "copy": egress.copy}
    if egress.event.name == "egress_started":
        return (facts.SessionStarted(**about, place=egress.place),)
    if egress.event.name != "egress_ended":
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


_ROOMLESS = frozenset({"egress_started", "egress_updated", "egress_ended"})
_READERS: dict[str, Reader] = {
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
