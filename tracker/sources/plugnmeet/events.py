"""plugNmeet's rooms, people and tracks, read: what its server relays from LiveKit, and the start and end it tells itself.

A relayed event keeps LiveKit's `id`, `created_at`, participant and track; its `room.sid`, metadata and limits are put in by
plugNmeet from its own store, by room *name* and at the moment it gets there (plugNmeet-server `pkg/models/webhook_*.go`).

LIMIT: so an event of one run that plugNmeet reaches only after the next run of that room was created carries the
next run's sid, and is counted there. One event alone does not show it.
LIMIT: from 2.4 a track of a hybrid native client names the sid of a twin whose join is never sent (webhook.go:76-87).
"""

from __future__ import annotations

from typing import Any, cast

import msgspec

from tracker.domain.facts import (
    Fact,
    Micros,
    ParticipantJoined,
    ParticipantLeft,
    SessionRef,
    Precision,
    SessionCreated,
    SessionEnded,
    SessionResumed,
    SessionStarted,
    StreamPublished,
    StreamUnpublished,
    Unknown,
)
from tracker.sources import protojson
from tracker.sources.protojson import Message


_RESUMED_AFTER = 5_000_000
"""A LiveKit room announced later than this after its creation was there before: a node died and another took it over."""

_FIRST_JOIN_WITHIN = 60_000_000
"""LiveKit's room is made by the first join: of a later one, `creation_time` may be that of an older run (see LIMIT)."""

_FINER_WITHIN = 10_000_000

_SECOND = 1_000_000
_LONGEST_NAME = 200

# pkg/config/constants.go:9-14. LiveKit's kind is STANDARD for the bots, and absent before it knew kinds.
_BOTS = {"RECORDER_BOT": "egress", "RTMP_BOT": "egress"}
_PREFIXES = {"ingres_": "ingress", "pnm_agent-": "agent", "pnm_tts_agent-": "agent", "sip_": "sip"}
_CALLER = "sip_"

_ENVELOPE = ("event", "id", "created_at", "num_dropped", "room")
_SAID = protojson.spellings(*_ENVELOPE)
_KNOWN = protojson.spellings(
    *_ENVELOPE, "participant", "recording_info", "speech_service", "track", "analytics", "room_artifact"
)


class EventContext(msgspec.Struct, frozen=True, kw_only=True):
    """What any event says, whatever its kind.

    `at` is `created_at` (s; LiveKit's queueing of a relayed event, the sending of plugNmeet's own), else when we received
    it. `created` is `room.creation_time`: plugNmeet's in its own events, LiveKit's in relayed ones. Times in µs.
    """

    event: str
    message: Message
    at: Micros
    own: Micros | None
    created: Micros | None
    run: str | None
    room: str | None
    name: str | None
    metadata: Message
    anomalies: tuple[tuple[str, str], ...]

    def fact(self, at: Micros | None = None, precision: Precision = "s", **detail: Any) -> dict[str, Any]:
        """The arguments every fact takes. `at`: a moment the event states more finely than `created_at`."""
        ours = at is None and self.own is None
        return {
            "at": self.at if at is None else at,
            "clock": "receiver" if ours else "server",
            "precision": "us" if ours else precision,
            "detail": protojson.others(self.message, _KNOWN) | protojson.present(**detail),
            "anomalies": self.anomalies,
        }

    def end(self, start: Micros | None, **detail: Any) -> dict[str, Any]:
        """`fact` for the end of what began at `start`: `created_at` is cut to the second, an end never precedes its start."""
        if start is not None and self.own is not None and self.own < start < self.own + _SECOND:
            return self.fact(start, "s", **detail)
        return self.fact(**detail)

    def place(
        self, at: Micros | None = None, *, starts_at: Micros | None = None, ends_at: Micros | None = None
    ) -> SessionRef | None:
        """Where this belongs; None when the event names no room."""
        if self.run is None and self.room is None:
            return None
        named = {"room_sid": self.run, "room_id": self.room}
        return SessionRef(
            at=self.at if at is None else at,
            run=self.run,
            room=self.room,
            room_name=self.name,
            starts_at=starts_at,
            ends_at=ends_at,
            ids=tuple((name, value) for name, value in named.items() if value is not None),
        )

    def unknown(self) -> tuple[Fact, ...]:
        """An event of a later version, or one without a name: kept, shown raw."""
        if not self.event:
            return self.unread("the body names no event")
        return self._raw("unknown_event", self.event)

    def unread(self, why: str) -> tuple[Fact, ...]:
        """An event that lacks what it is about: kept, shown raw."""
        return self._raw("unreadable", why)

    def _raw(self, anomaly: str, why: str) -> tuple[Fact, ...]:
        fact = self.fact(event=self.event)
        fact["detail"] |= protojson.others(self.message, _SAID)
        fact["anomalies"] = (*self.anomalies, (anomaly, why))
        return (Unknown(**fact, place=self.place()),)


def event_name(message: Message) -> str:
    """The event's name as it is written since 2024-04-09; before, plugNmeet's own came in upper case. "" for none."""
    return (message.text("event") or "").lower()[:_LONGEST_NAME]


def event_context(message: Message, received_at: Micros) -> EventContext:
    """What any event says. `received_at` (µs) stands in where it tells no time (before 2024-04-23)."""
    room = message.message("room")
    metadata = _metadata(room)
    own = message.moment("created_at", "s")
    dropped = message.whole("num_dropped") or 0
    return EventContext(
        event=event_name(message),
        message=message,
        at=received_at if own is None else own,
        own=own,
        # LiveKit sends a minimal room with tracks, so that plugNmeet writes "0" there: absent.
        created=room.moment("creation_time_ms", "ms") or room.moment("creation_time", "s"),
        run=room.text("sid"),
        room=room.text("room_id"),
        # `room.name` is in the documentation only; the title is what people call the room.
        name=room.text("name") or metadata.text("room_title"),
        metadata=metadata,
        anomalies=(("number_mismatch", f"sender reports {dropped} dropped webhooks"),) if dropped > 0 else (),
    )


def _metadata(room: Message) -> Message:
    """`room.metadata`, a JSON text; it may hold an encryption key, a SIP pin and links, so fields are picked one by one."""
    value = protojson.parsed(room.text("metadata"))
    return Message(cast("dict[str, Any]", value)) if isinstance(value, dict) else Message({})


def _room_detail(said: EventContext) -> dict[str, Any]:
    given = said.metadata.value("extra_data")
    inner = protojson.parsed(given) if isinstance(given, str) else None
    return {
        "parent_room_id": said.metadata.text("parent_room_id"),
        "is_breakout_room": said.metadata.flag("is_breakout_room") or None,
        "extra_data": protojson.displayable(inner if isinstance(inner, dict | list) else given),
    }


def room_created(said: EventContext) -> tuple[Fact, ...]:
    """The run exists, says plugNmeet itself, nobody need ever join it."""
    created = said.created or said.at
    place = said.place(created, starts_at=said.created or said.own)
    return (SessionCreated(**said.fact(said.created, **_room_detail(said)), place=place, started_at=created),)


def room_started(said: EventContext) -> tuple[Fact, ...]:
    """LiveKit's room began, or was announced again: told apart by the event alone, so that order cannot matter."""
    created = said.created or said.at
    detail = _room_detail(said)
    # Up to 1.6 plugNmeet made LiveKit's room, whose `RM_…` sid it used, ahead of the first join (room_auth.go:131).
    early = (said.run or "").startswith("RM_")
    if said.own is not None and said.own - created > _RESUMED_AFTER and not early:
        return (SessionResumed(**said.fact(**detail), place=said.place(starts_at=created), started_at=created),)
    place = said.place(created, starts_at=said.created or said.own)
    return (SessionStarted(**said.fact(said.created, **detail), place=place, started_at=created),)


def room_ended(said: EventContext) -> tuple[Fact, ...]:
    """By `session_ended` (plugNmeet) or `room_finished` (LiveKit): the same end, told by two. Neither says why."""
    fact = said.end(said.created, event=said.event, **_room_detail(said))
    place = said.place(starts_at=said.created, ends_at=fact["at"])
    return (SessionEnded(**fact, place=place, started_at=said.created, reason="unknown"),)


def _identity(person: Message) -> str | None:
    """The person; a caller's number is written without `+` in joined and left, with it in tracks (webhook_user.go:42-46)."""
    identity = person.text("identity")
    return identity.replace("+", "") if identity is not None and identity.startswith(_CALLER) else identity


def _person_kind(person: Message) -> str:
    """What kind of participant: plugNmeet's own names tell more than LiveKit's kind."""
    identity = person.text("identity") or ""
    by_prefix = next((kind for prefix, kind in _PREFIXES.items() if identity.startswith(prefix)), None)
    return _BOTS.get(identity) or by_prefix or protojson.person_kind(person)


def participant(said: EventContext) -> tuple[Fact, ...]:
    """A join or a leave; the leave states its join."""
    person = said.message.message("participant")
    connection = person.text("sid")
    if connection is None:
        return said.unread(f"{said.event} without participant.sid")
    joined = protojson.joined_at(person)
    joined_at = joined[0] if joined else None
    first = joined_at is not None and said.created is not None and 0 <= joined_at - said.created <= _FIRST_JOIN_WITHIN
    about: dict[str, Any] = {
        "place": said.place(joined_at, starts_at=said.created if first else None),
        "connection": connection,
        "identity": _identity(person),
        "name": person.text("name"),
        "person": _person_kind(person),
        "joined_at": joined_at,
    }
    detail = protojson.person_detail(person)
    if said.event == "participant_joined":
        # Sent when the connection became active, which `created_at` tells to the second and only after queueing.
        at, precision = joined or (None, "s")
        return (ParticipantJoined(**said.fact(at, precision, **detail), **about),)
    reason, theirs = protojson.disconnected(person)
    return (ParticipantLeft(**said.end(joined_at, **detail), **about, reason=reason, vendor_reason=theirs),)


def track(said: EventContext) -> tuple[Fact, ...]:
    """A track published or gone; the person is told by sid and identity only."""
    found, person = said.message.message("track"), said.message.message("participant")
    stream = found.text("sid")
    if stream is None:
        return said.unread(f"{said.event} without track.sid")
    about: dict[str, Any] = {"stream": stream, "connection": person.text("sid"), "identity": _identity(person)}
    about |= protojson.track_media(found)
    detail = protojson.track_detail(found)
    # When the track was last changed: its publication, unless it was changed since.
    fine = found.message("version").moment("unix_micro", "us")
    if said.event == "track_unpublished":
        return (StreamUnpublished(**said.end(fine, **detail), **about, place=said.place()),)
    if fine is None or said.own is None or abs(fine - said.own) > _FINER_WITHIN:
        return (StreamPublished(**said.fact(**detail), **about, place=said.place()),)
    return (StreamPublished(**said.fact(fine, "us", **detail), **about, place=said.place(fine)),)
