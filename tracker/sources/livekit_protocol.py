"""The webhooks of livekit/protocol that two vendors send: the envelope, participant and track.

Source: livekit/protocol `protobufs/livekit_models.proto`.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import msgspec

from tracker.domain.deliveries import Record
from tracker.domain.facts import (
    EndReason,
    Fact,
    Micros,
    Precision,
    SessionRef,
    StreamPublished,
    StreamUnpublished,
    Unknown,
)
from tracker.sources import protojson
from tracker.sources.protojson import Message

_FINER_WITHIN = 10_000_000
"""A more precise time this close to `createdAt` states the same moment; farther away it states another one."""

_SECOND = 1_000_000
_NUMBER = re.compile(r"-?[0-9]{1,19}", re.ASCII)

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
# ParticipantInfo.Kind; 5 and 6 were never used.
_PERSON_KINDS = ("STANDARD", "INGRESS", "EGRESS", "SIP", "AGENT", "", "", "CONNECTOR", "BRIDGE")
_LABELS = {"screen_share": "screen", "screen_share_audio": "screen_audio"}


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What every event has, whatever its kind.

    `at` is `created_at`, the event's `createdAt` (to the second), else when we received it. `room_created_at` is the room's
    start where the event holds the full room. Times in µs.
    """

    known: ClassVar[frozenset[str]]
    """The `spellings` of the fields that the vendor's code reads."""

    name: str
    message: Message
    at: Micros
    created_at: Micros | None
    room_created_at: Micros | None
    run: str | None
    room: str | None
    anomalies: tuple[tuple[str, str], ...]

    def fact(self, at: Micros | None = None, precision: Precision = "s", **detail: Any) -> dict[str, Any]:
        """The arguments of every fact. `at`: a time that the event states more precisely than `createdAt`."""
        is_receiver_time = at is None and self.created_at is None
        return {
            "at": self.at if at is None else at,
            "clock": "receiver" if is_receiver_time else "server",
            "precision": "us" if is_receiver_time else precision,
            "detail": protojson.unknown_fields(self.message, self.known) | protojson.drop_empty(**detail),
            "anomalies": self.anomalies,
        }

    def end(self, start: Micros | None, **detail: Any) -> dict[str, Any]:
        """`fact` for an end, never before `start`: `createdAt` is cut to the second."""
        if start is not None and self.created_at is not None and self.created_at < start < self.created_at + _SECOND:
            return self.fact(start, "s", **detail)
        return self.fact(**detail)

    @abstractmethod
    def session_ref(self, at: Micros | None = None) -> SessionRef | None:
        """The session of this event; None where the event names no room."""

    def unknown(self) -> tuple[Fact, ...]:
        """An event of a later version, or one without a name: shown raw."""
        if not self.name:
            return self.unreadable("the body names no event")
        return self.raw("unknown_event", self.name)

    def unreadable(self, why: str) -> tuple[Fact, ...]:
        """An event without a required object: shown raw."""
        return self.raw("unreadable", why)

    @abstractmethod
    def raw(self, anomaly: str, why: str) -> tuple[Fact, ...]:
        """The event with all its fields that are safe to show, and why it is shown so."""


Context = TypeVar("Context", bound=Envelope)


def interpret(
    record: Record,
    read_context: Callable[[Message, Micros], Context],
    readers: Mapping[str, Callable[[Context], tuple[Fact, ...]]],
    roomless: frozenset[str] = frozenset(),
) -> tuple[Fact, ...]:
    """The facts of a webhook. Never raises. `readers`: event name → what reads it; `roomless`: those that may name no room."""
    message = protojson.read_message(record.body)
    if message is None:
        unreadable = (("unreadable", "the body is no JSON object"),)
        return (Unknown(at=record.received_at, clock="receiver", precision="us", anomalies=unreadable),)
    context = read_context(message, record.received_at)
    reader = readers.get(context.name)
    if reader is None:
        return context.unknown()
    if context.run is None and context.room is None and context.name not in roomless:
        return context.unreadable(f"{context.name} without room")
    return reader(context)


def track(context: Envelope, identity: str | None) -> tuple[Fact, ...]:
    """The media of a participant (`identity`) started or stopped. Room and person have only a few fields here."""
    media, person = context.message.object("track"), context.message.object("participant")
    stream = media.text("sid")
    if stream is None:
        return context.unreadable(f"{context.name} without track.sid")
    about: dict[str, Any] = {"stream": stream, "connection": person.text("sid"), "identity": identity}
    about |= track_media(media)
    detail = track_detail(media)
    # The time of the last change: the publication, unless the track was changed since.
    changed = media.object("version").moment("unix_micro", "us")
    if context.name == "track_unpublished":
        return (StreamUnpublished(**context.end(changed, **detail), **about, place=context.session_ref()),)
    if changed is None or context.created_at is None or abs(changed - context.created_at) > _FINER_WITHIN:
        return (StreamPublished(**context.fact(**detail), **about, place=context.session_ref()),)
    return (StreamPublished(**context.fact(changed, "us", **detail), **about, place=context.session_ref(changed)),)


Anomalies = tuple[tuple[str, str], ...]


def stated_join(context: Envelope, participant: Message) -> tuple[Micros | None, Precision, Anomalies]:
    """When a participant joined, as precisely as stated (`joined_at_ms` since 2025-01, `joined_at` before).

    A participant that is moved to another room keeps the `joined_at` of the first room (livekit `rtc/participant.go`,
    MoveToRoom): see `stated_start`.
    """
    if (ms := participant.moment("joined_at_ms", "ms")) is not None:
        stated, precision = ms, "ms"
    else:
        stated, precision = participant.moment("joined_at", "s"), "s"
    if context.name != "participant_joined":
        return stated, precision, ()
    at, anomalies = stated_start(context, stated, f"participant {participant.text('identity')}: joinedAt")
    return at, "s" if anomalies else precision, anomalies


def stated_start(context: Envelope, stated: Micros | None, what: str) -> tuple[Micros | None, Anomalies]:
    """The start that an event of a start states. Where it cannot be true, the time of the event, and an anomaly.

    Nothing starts before its room was created, or long before its own event is sent.
    """
    if stated is None or context.created_at is None:
        return stated, ()
    earliest = context.created_at - _LONGEST_START
    if context.room_created_at is not None:
        earliest = max(earliest, min(context.room_created_at, context.created_at) - _CLOCKS_DIFFER)
    if stated >= earliest:
        return stated, ()
    return context.created_at, (("early_start", f"{what} is long before its event, or before its room was created"),)


def person_kind(participant: Message) -> str:
    """The kind of participant, in lower case. Absent is the enum's zero, a person; `hidden`: invisible to others.

    Before there were kinds (2023-12), an agent was known by `permission.agent` and a recorder by `permission.recorder`.
    """
    kind = participant.enum("kind", *_PERSON_KINDS) or "STANDARD"
    if kind == "STANDARD":
        permission = participant.object("permission")
        names = {"agent": "agent", "recorder": "egress", "hidden": "hidden"}
        return next((meant for name, meant in names.items() if permission.flag(name)), "standard")
    return f"kind_{kind}" if _NUMBER.fullmatch(kind) else kind.lower()


def person_detail(participant: Message) -> dict[str, Any]:
    """The fields of a participant that facts keep in `detail`."""
    return protojson.drop_empty(
        hidden=participant.object("permission").flag("hidden") or None,
        metadata=protojson.clean_text(participant.text("metadata")),
        attributes=protojson.clean_value(dict(participant.object("attributes").fields)),
        region=participant.text("region"),
    )


def disconnect_reason(participant: Message) -> tuple[EndReason, str | None]:
    """Why a connection ended: the normalised reason and the vendor's own (a number where the sender knew no name)."""
    vendor_reason = participant.enum("disconnect_reason", *_DISCONNECTED)
    return _DISCONNECTED.get(vendor_reason or "", "unknown"), vendor_reason


def track_media(track: Message) -> dict[str, str]:
    """The `media` and `label` of a track; an absent type is the enum's zero, audio."""
    media = (track.enum("type", "AUDIO", "VIDEO", "DATA") or "AUDIO").lower()
    source = (
        track.enum("source", "UNKNOWN", "CAMERA", "MICROPHONE", "SCREEN_SHARE", "SCREEN_SHARE_AUDIO") or ""
    ).lower()
    return protojson.drop_empty(media=media, label=_LABELS.get(source, "" if source == "unknown" else source))


def track_detail(track: Message) -> dict[str, Any]:
    """The fields of a track that facts keep in `detail`."""
    return protojson.drop_empty(
        name=track.text("name"), mime_type=track.text("mime_type"), width=track.whole("width"), height=track.whole("height")
    )  # fmt: skip
