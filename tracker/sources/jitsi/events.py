"""What the events of Jitsi's event_sync mean.

    muc-room-created      SessionStarted: a run is a room and the second it was created
    muc-room-destroyed    SessionEnded, and one ParticipantAttended for each of `all_occupants`
    muc-occupant-joined   ParticipantJoined: a connection is a full JID
    muc-occupant-left     ParticipantLeft, which states the join

Times are Unix seconds. Events of people do not name the run: it is found by when they joined. A breakout room is a session of
its own; its events name the main room, and `breakout_room_id`. Fields and quirks: docs/reference/vendors/jitsi.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec

from tracker.domain import facts
from tracker.domain.deliveries import Record
from tracker.domain.facts import Fact, Micros, SessionRef
from tracker.sources.json_reading import (
    MAX_TIME,
    BodyUnreadable,
    as_object,
    as_text,
    event_name,
    person_name,
    pick_fields,
    read_object,
    repeat_of,
    without_secrets,
)

_SERVICES = ("recorder", "transcriber", "jibri")
"""The local part of the JID, or the first label of its domain, of participants that are programs."""


class FieldMissing(Exception):
    """An event lacks a field that its meaning depends on; the message names the field. Not raised outside of this module."""


class EventContext(msgspec.Struct, frozen=True, kw_only=True):
    """An event and when we received it (µs)."""

    name: str
    body: dict[str, Any]
    received_at: Micros

    def fact(self, at: Micros | None, **detail: Any) -> dict[str, Any]:
        """The arguments of every fact, at `at` (µs, stated by the event) or when it was received."""
        return {
            "at": self.received_at if at is None else at,
            "clock": "receiver" if at is None else "server",
            "precision": "us" if at is None else "s",
            "detail": detail,
        }

    def session_ref(self, at: Micros | None, **more: Any) -> SessionRef:
        """The session of this event: the room, at `at` (µs). Raises `FieldMissing`."""
        room = as_text(self.body.get("room_jid"))
        if room is None:
            raise FieldMissing("room_jid is missing")
        name = as_text(self.body.get("room_name")) or room.partition("@")[0]
        ids = (("room_jid", room),)
        breakout = as_text(self.body.get("breakout_room_id"))
        if breakout is not None:
            room, name = f"{room}/{breakout}", f"{name} / {breakout}"
            ids = (*ids, ("breakout_room_id", breakout))
        return SessionRef(at=self.received_at if at is None else at, room=room, room_name=name, ids=ids, **more)


def interpret(record: Record) -> tuple[Fact, ...]:
    """The facts of a recorded event_sync delivery. Never raises; see `contract.Interpret`."""
    try:
        body = read_object(record.body)
    except BodyUnreadable as why:
        return (_raw(EventContext(name="", body={}, received_at=record.received_at), "unreadable", str(why)),)
    context = EventContext(name=event_name(body.get("event_name")), body=body, received_at=record.received_at)
    reader = READERS.get(context.name)
    try:
        if reader is not None:
            return reader(context)
    except FieldMissing as missing:
        return (_raw(context, "unreadable", str(missing)),)
    return (_raw(context, "unknown_event" if context.name else "unreadable", context.name or "no event name"),)


def _micros(value: object) -> Micros | None:
    """Unix seconds, whole or fractional, as µs; None for anything that is not a time from 1970 to the year 10000."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < MAX_TIME / 1_000_000:
        return None
    return round(value * 1_000_000)


def _raw(context: EventContext, anomaly: str, why: str) -> facts.Unknown:
    """The raw event, scalars only: unknown objects may hold secrets."""
    shown = {
        name: value
        for name, value in as_object(without_secrets(context.body)).items()
        if not isinstance(value, dict | list)
    }
    has_room = as_text(context.body.get("room_jid")) is not None
    place = context.session_ref(None) if has_room else None
    return facts.Unknown(**context.fact(None, **shown), place=place, anomalies=((anomaly, why),))


def _room_detail(context: EventContext) -> dict[str, Any]:
    return pick_fields(context.body, "is_breakout", "breakout_room_id")


def _room_created(context: EventContext) -> tuple[Fact, ...]:
    created = _micros(context.body.get("created_at"))
    place = context.session_ref(created, starts_at=created)
    return (facts.SessionStarted(**context.fact(created, **_room_detail(context)), place=place, started_at=created),)


def _room_destroyed(context: EventContext) -> tuple[Fact, ...]:
    created, destroyed = _micros(context.body.get("created_at")), _micros(context.body.get("destroyed_at"))
    ended = context.received_at if destroyed is None else destroyed
    place = context.session_ref(ended if created is None else created, starts_at=created, ends_at=ended)
    # With token_owner_party the event is sent twice.
    copy = repeat_of(context.name, place.room, created) if created is not None else None
    end = facts.SessionEnded(
        **context.fact(destroyed, **_room_detail(context)), place=place, started_at=created, reason="normal", copy=copy
    )
    return (end, *_attendance(context, destroyed, place))


def _attendance(context: EventContext, destroyed: Micros | None, place: SessionRef) -> Iterator[Fact]:
    """Everybody who was in the room, from the list that ends it. It also has those whose own events were lost."""
    listed = context.body.get("all_occupants")
    for occupant in cast("list[Any]", listed) if isinstance(listed, list) else ():
        fields = as_object(occupant)
        if as_text(fields.get("occupant_jid")) is None:
            continue
        left = _micros(fields.get("left_at"))
        about = context.fact(destroyed) | _person(fields)
        yield facts.ParticipantAttended(**about, place=place, left_at=left, reason=None if left is None else "left")


def _person(occupant: dict[str, Any]) -> dict[str, Any]:
    jid = as_text(occupant.get("occupant_jid"))
    if jid is None:
        raise FieldMissing("occupant.occupant_jid is missing")
    local, _, domain = jid.partition("/")[0].partition("@")
    is_service = local in _SERVICES or domain.partition(".")[0] in _SERVICES
    return {
        "connection": jid,
        "identity": as_text(occupant.get("id")),
        "name": person_name(occupant.get("name")),
        "person": "recorder" if is_service else "standard",
        "joined_at": _micros(occupant.get("joined_at")),
    }


def _occupant(context: EventContext) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the occupant's fields, the arguments of its fact). Raises `FieldMissing`."""
    if not isinstance(context.body.get("occupant"), dict):
        # Somebody who joined before the component was loaded.
        raise FieldMissing("occupant is missing")
    fields = as_object(context.body.get("occupant"))
    return fields, _person(fields)


def _occupant_joined(context: EventContext) -> tuple[Fact, ...]:
    _, person = _occupant(context)
    joined = person["joined_at"]
    return (facts.ParticipantJoined(**context.fact(joined), place=context.session_ref(joined), **person),)


def _occupant_left(context: EventContext) -> tuple[Fact, ...]:
    fields, person = _occupant(context)
    joined, left = person["joined_at"], _micros(fields.get("left_at"))
    place = context.session_ref(left if joined is None else joined)
    detail = pick_fields(fields, "total_dominant_speaker_time")
    return (facts.ParticipantLeft(**context.fact(left, **detail), place=place, **person, reason="left"),)


READERS: dict[str, Callable[[EventContext], tuple[Fact, ...]]] = {
    "muc-room-created": _room_created,
    "muc-room-destroyed": _room_destroyed,
    "muc-occupant-joined": _occupant_joined,
    "muc-occupant-left": _occupant_left,
}
