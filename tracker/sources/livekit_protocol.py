"""The webhooks of livekit/protocol that two vendors send: the envelope, participant and track.

Source: livekit/protocol `protobufs/livekit_models.proto`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from tracker.domain.deliveries import Record
from tracker.domain.facts import (
    EndReason, Fact, Micros, ParticipantConnectionAborted, ParticipantJoined, ParticipantLeft, Precision, SessionRef,
    StreamPublished, StreamUnpublished, Unknown,
)  # fmt: skip
from tracker.sources.json_reading import person_name
from tracker.sources.protojson import (
    as_object, clean_text, clean_value, drop_empty, either, enum, enum_table, moment, read_object, text,
    unknown_fields, whole,
)  # fmt: skip

_FINER_WITHIN = 10_000_000
"""A more precise time this close to `createdAt` states the same moment; farther away it states another one."""

_SECOND = 1_000_000

_LONGEST_START = 60_000_000
"""From the attempt until a join or another start is active, and its event sent, it takes less than this (µs)."""

_CLOCKS_DIFFER = 5_000_000
"""By how much (µs) the clocks of two servers of one deployment may differ."""

# DisconnectReason, livekit_models.proto:702-736, in order of the numbers; how server reasons map to it: livekit
# pkg/rtc/types/interfaces.go.
_DISCONNECTED: Mapping[str, EndReason] = {
    "UNKNOWN_REASON": "unknown",
    "CLIENT_INITIATED": "left",
    "DUPLICATE_IDENTITY": "replaced",
    "SERVER_SHUTDOWN": "server_shutdown",
    "PARTICIPANT_REMOVED": "removed",
    "ROOM_DELETED": "closed_by_server",
    "STATE_MISMATCH": "network_lost",
    "JOIN_FAILURE": "join_failed",
    "MIGRATION": "migrated",
    "SIGNAL_CLOSE": "network_lost",
    "ROOM_CLOSED": "closed_by_server",
    "USER_UNAVAILABLE": "left",
    "USER_REJECTED": "left",
    "SIP_TRUNK_FAILURE": "server_failure",
    "CONNECTION_TIMEOUT": "network_lost",
    "MEDIA_FAILURE": "network_lost",
    "AGENT_ERROR": "server_failure",
}
_DISCONNECT_REASONS = enum_table(*_DISCONNECTED)
# ParticipantInfo.Kind; 5 and 6 were never used.
_PERSON_KINDS = enum_table("STANDARD", "INGRESS", "EGRESS", "SIP", "AGENT", "", "", "CONNECTOR", "BRIDGE")
_PERMISSIONS = {"agent": "agent", "recorder": "egress", "hidden": "hidden"}
_TRACK_TYPES = enum_table("AUDIO", "VIDEO", "DATA")
_TRACK_SOURCES = enum_table("UNKNOWN", "CAMERA", "MICROPHONE", "SCREEN_SHARE", "SCREEN_SHARE_AUDIO")
_LABELS = {"unknown": "", "screen_share": "screen", "screen_share_audio": "screen_audio"}
_LONGEST_NAME = 200
_NO_DETAIL: dict[str, Any] = {}


class Event(msgspec.Struct, kw_only=True):
    """What every event has, whatever its kind.

    `at` is `created_at`, the event's `createdAt` (to the second), else when we received it. `room_created_at` is the room's
    start where the event holds the full room; `starts_at` is the start of the run where every kind of event states it. Times
    in µs. `ids` find the session. `known` and `shown_apart` are the `spellings` of the fields that the vendor's code reads,
    and of those that an event that is shown raw leaves out. `metadata` is the room's, where the vendor's code reads it.
    """

    body: dict[str, Any]
    name: str
    at: Micros
    created_at: Micros | None
    room_created_at: Micros | None
    starts_at: Micros | None
    run: str | None
    room: str | None
    room_name: str | None
    ids: tuple[tuple[str, str], ...]
    anomalies: tuple[tuple[str, str], ...]
    known: frozenset[str]
    shown_apart: frozenset[str]
    metadata: dict[str, Any] = {}

    def fact(
        self, at: Micros | None = None, precision: Precision = "s", detail: dict[str, Any] = _NO_DETAIL
    ) -> dict[str, Any]:
        """The arguments of every fact. `at`: a time that the event states more precisely than `createdAt`."""
        clock = "server"
        if at is None:
            at = self.at
            if self.created_at is None:
                clock, precision = "receiver", "us"
        detail = unknown_fields(self.body, self.known) | drop_empty(detail)
        return {"at": at, "clock": clock, "precision": precision, "detail": detail, "anomalies": self.anomalies}

    def end(self, start: Micros | None, detail: dict[str, Any] = _NO_DETAIL) -> dict[str, Any]:
        """`fact` for an end, never before `start`: `createdAt` is cut to the second."""
        if start is not None and self.created_at is not None and self.created_at < start < self.created_at + _SECOND:
            return self.fact(start, "s", detail)
        return self.fact(detail=detail)

    def session_ref(
        self,
        at: Micros | None = None,
        *,
        starts_at: Micros | None = None,
        ends_at: Micros | None = None,
        ids: tuple[tuple[str, str], ...] = (),
    ) -> SessionRef | None:
        """The session of this event; None where the event names no room."""
        if not self.ids:
            return None
        return SessionRef(
            at=self.at if at is None else at,
            run=self.run,
            room=self.room,
            room_name=self.room_name,
            starts_at=self.starts_at if starts_at is None else starts_at,
            ends_at=ends_at,
            ids=self.ids + ids,
        )

    def unreadable(self, why: str, kind: str = "unreadable") -> tuple[Fact, ...]:
        """An event without a required object, or of a later version: shown raw, with all fields that are safe to show."""
        shown = drop_empty({"event": self.name}) | unknown_fields(self.body, self.shown_apart)
        fact = self.fact()
        fact |= {"detail": shown, "anomalies": (*self.anomalies, (kind, why))}
        return (Unknown(**fact, place=self.session_ref()),)


Reader = Callable[[Event], tuple[Fact, ...]]


def interpret(
    record: Record,
    read_event: Callable[[dict[str, Any], Micros], Event],
    readers: Mapping[str, Reader],
    roomless: frozenset[str] = frozenset(),
) -> tuple[Fact, ...]:
    """The facts of a webhook. Never raises. `readers`: event name → what reads it; `roomless`: those that may name no room."""
    body = read_object(record.body)
    if body is None:
        unreadable = (("unreadable", "the body is no JSON object"),)
        return (Unknown(at=record.received_at, clock="receiver", precision="us", anomalies=unreadable),)
    event = read_event(body, record.received_at)
    reader = readers.get(event.name)
    if reader is None:
        return (
            event.unreadable(event.name, "unknown_event") if event.name else event.unreadable("the body names no event")
        )
    if not event.ids and event.name not in roomless:
        return event.unreadable(f"{event.name} without room")
    return reader(event)


def event_name(body: dict[str, Any]) -> str:
    """The event's name, cut to 200 characters; "" where there is none."""
    return (text(body.get("event")) or "")[:_LONGEST_NAME]


def dropped_webhooks(body: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """The anomaly that the sender lost webhooks: only servers up to 1.8.4 report it."""
    dropped = whole(body.get("num_dropped") or body.get("numDropped")) or 0
    return (("number_mismatch", f"sender reports {dropped} dropped webhooks"),) if dropped > 0 else ()


def room_creation(room: dict[str, Any]) -> Micros | None:
    """When the room was created, as precisely as stated."""
    created = moment(room.get("creation_time_ms") or room.get("creationTimeMs"), "ms")
    return moment(room.get("creation_time") or room.get("creationTime"), "s") if created is None else created


def track(event: Event, identity: str | None) -> tuple[Fact, ...]:
    """The media of a participant (`identity`) started or stopped. Room and person have only a few fields here."""
    media = as_object(event.body.get("track"))
    stream = text(media.get("sid"))
    if stream is None:
        return event.unreadable(f"{event.name} without track.sid")
    label = (enum(media.get("source"), _TRACK_SOURCES) or "").lower()
    # The time of the last change: the publication, unless the track was changed since.
    version = as_object(media.get("version"))
    changed = moment(version.get("unix_micro") or version.get("unixMicro"), "us")
    detail = {
        "name": text(media.get("name")),
        "mime_type": text(media.get("mime_type") or media.get("mimeType")),
        "width": whole(media.get("width")),
        "height": whole(media.get("height")),
    }
    kind, place = StreamPublished, event.session_ref()
    if event.name == "track_unpublished":
        kind, fact = StreamUnpublished, event.end(changed, detail)
    elif changed is None or event.created_at is None or abs(changed - event.created_at) > _FINER_WITHIN:
        fact = event.fact(detail=detail)
    else:
        fact, place = event.fact(changed, "us", detail), event.session_ref(changed)
    return (
        kind(
            **fact,
            place=place,
            stream=stream,
            connection=text(as_object(event.body.get("participant")).get("sid")),
            identity=identity,
            # An absent type is the enum's zero, audio.
            media=(enum(media.get("type"), _TRACK_TYPES) or "AUDIO").lower(),
            label=_LABELS.get(label, label) or None,
        ),
    )


Anomalies = tuple[tuple[str, str], ...]


def participant(
    event: Event, person: dict[str, Any], identity: str | None, kind: str, first_join_within: Micros = 0
) -> tuple[Fact, ...]:
    """A connection became active, ended, or failed to become active; `participant.sid` is the connection.

    A participant that is moved to another room keeps the `joined_at` of the first room (livekit `rtc/participant.go`,
    MoveToRoom): see `stated_start`. A join this soon after the creation of the room states the start of the run:
    `first_join_within`.
    """
    connection = text(person.get("sid"))
    if connection is None:
        return event.unreadable(f"{event.name} without participant.sid")
    # Milliseconds since 2025-01, seconds before.
    joined_at, precision = moment(person.get("joined_at_ms") or person.get("joinedAtMs"), "ms"), "ms"
    if joined_at is None:
        joined_at, precision = moment(person.get("joined_at") or person.get("joinedAt"), "s"), "s"
    anomalies: Anomalies = ()
    if event.name == "participant_joined":
        joined_at, anomalies = stated_start(event, joined_at, f"participant {text(person.get('identity'))}: joinedAt")
    created = event.room_created_at
    is_first = joined_at is not None and created is not None and 0 <= joined_at - created <= first_join_within
    detail = {
        "hidden": as_object(person.get("permission")).get("hidden") is True or None,
        "metadata": clean_text(text(person.get("metadata"))),
        "attributes": clean_value(as_object(person.get("attributes"))),
        "region": text(person.get("region")),
    }
    about: dict[str, Any] = {
        "place": event.session_ref(joined_at, starts_at=created if is_first else None),
        "connection": connection,
        "identity": identity,
        "name": person_name(text(person.get("name"))),
        "person": kind,
        "joined_at": joined_at,
    }
    if event.name == "participant_joined":
        fact = event.fact(joined_at, "s" if anomalies else precision, detail)
        fact["anomalies"] += anomalies
        return (ParticipantJoined(**fact, **about),)
    vendor_reason = enum(either(person, "disconnect_reason", "disconnectReason"), _DISCONNECT_REASONS)
    reason = _DISCONNECTED.get(vendor_reason or "", "unknown")
    fact = event.end(joined_at, detail)
    if event.name == "participant_left":
        return (ParticipantLeft(**fact, **about, reason=reason, vendor_reason=vendor_reason),)
    reason = "join_failed" if vendor_reason is None else reason
    return (ParticipantConnectionAborted(**fact, **about, reason=reason, vendor_reason=vendor_reason),)


def stated_start(event: Event, stated: Micros | None, what: str) -> tuple[Micros | None, Anomalies]:
    """The start that an event of a start states. Where it cannot be true, the time of the event, and an anomaly.

    Nothing starts before its room was created, or long before its own event is sent.
    """
    if stated is None or event.created_at is None:
        return stated, ()
    earliest = event.created_at - _LONGEST_START
    if event.room_created_at is not None:
        earliest = max(earliest, min(event.room_created_at, event.created_at) - _CLOCKS_DIFFER)
    if stated >= earliest:
        return stated, ()
    return event.created_at, (("early_start", f"{what} is long before its event, or before its room was created"),)


def person_kind(person: dict[str, Any]) -> str:
    """The kind of participant, in lower case. Absent is the enum's zero, a person; `hidden`: invisible to others.

    Before there were kinds (2023-12), an agent was known by `permission.agent` and a recorder by `permission.recorder`.
    """
    kind = enum(person.get("kind"), _PERSON_KINDS) or "STANDARD"
    if kind == "STANDARD":
        if permission := as_object(person.get("permission")):
            for name, meant in _PERMISSIONS.items():
                if permission.get(name) is True:
                    return meant
        return "standard"
    return kind.lower() if whole(kind) is None else f"kind_{kind}"
