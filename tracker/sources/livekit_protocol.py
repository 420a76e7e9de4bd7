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

# DisconnectReason, livekit_models.proto:702-736; how server reasons map to it: livekit pkg/rtc/types/interfaces.go.
_DISCONNECTED: Mapping[str, EndReason] = {
    "CLIENT_INITIATED": "left",
    "DUPLICATE_IDENTITY": "replaced",
    "SERVER_SHUTDOWN": "server_shutdown",
    "PARTICIPANT_REMOVED": "removed",
    "ROOM_DELETED": "closed_by_server",
    "ROOM_CLOSED": "closed_by_server",
    "STATE_MISMATCH": "network_lost",
    "SIGNAL_CLOSE": "network_lost",
    "CONNECTION_TIMEOUT": "network_lost",
    "MEDIA_FAILURE": "network_lost",
    "JOIN_FAILURE": "join_failed",
    "MIGRATION": "migrated",
    "USER_UNAVAILABLE": "left",
    "USER_REJECTED": "left",
    "SIP_TRUNK_FAILURE": "server_failure",
    "AGENT_ERROR": "server_failure",
}
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
) -> tuple[Fact, ...]:
    """The facts of a webhook. Never raises. `readers`: event name → what reads it."""
    message = protojson.read_message(record.body)
    if message is None:
        unreadable = (("unreadable", "the body is no JSON object"),)
        return (Unknown(at=record.received_at, clock="receiver", precision="us", anomalies=unreadable),)
    context = read_context(message, record.received_at)
    reader = readers.get(context.name)
    if reader is None:
        return context.unknown()
    if context.run is None and context.room is None:
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


def joined_at(participant: Message) -> tuple[Micros, Precision] | None:
    """When a participant joined, as precisely as stated (`joined_at_ms` since 2025-01, `joined_at` before)."""
    if (ms := participant.moment("joined_at_ms", "ms")) is not None:
        return ms, "ms"
    return None if (seconds := participant.moment("joined_at", "s")) is None else (seconds, "s")


def person_kind(participant: Message) -> str:
    """The kind of participant, in lower case. Absent is the enum's zero, a person; `hidden`: invisible to others."""
    kind = participant.enum("kind", "STANDARD", "INGRESS", "EGRESS", "SIP", "AGENT") or "STANDARD"
    if kind == "STANDARD" and participant.object("permission").flag("hidden"):
        return "hidden"
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
    vendor_reason = participant.enum("disconnect_reason")
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
