"""What the events of a declared source mean: facts, as its declaration says.

Nothing here raises for what a body holds. A field of another type than the declaration expects is missing; an event that lacks
what its fact needs is shown raw, with what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Any, cast

import msgspec

from tracker.domain import facts
from tracker.domain.deliveries import Record
from tracker.domain.facts import Fact, Micros, Precision, SessionRef
from tracker.sources.declared.bodies import events_in
from tracker.sources.declared.declaration import (
    FACTS,
    PEOPLE,
    REASONS,
    Declaration,
    Moment,
    Reading,
    When,
    required_fields,
)
from tracker.sources.declared.moments import parse_duration_ms, parse_moment
from tracker.sources.declared.paths import Event, Part, step, word
from tracker.sources.declared.source import headers_in, name_of
from tracker.sources.json_reading import BodyUnreadable, as_count, person_name, read_proof, without_secrets

_LONGEST_TEXT = 1_000
_STARTS = (facts.SessionCreated, facts.SessionStarted)
_BEGINNINGS = ("joined_at", "started_at")
"""When what the event is about began, where it states that. It shows in which run that was."""


class FieldMissing(Exception):
    """An event lacks what its fact needs. Not raised outside of this module."""


class HappenedAt(msgspec.Struct, frozen=True):
    """When an event happened, and how well that is known."""

    at: Micros
    precision: Precision
    by_sender: bool


def interpret(record: Record, declaration: Declaration) -> tuple[Fact, ...]:
    """The facts of a recorded delivery, by this declaration. Never raises."""
    try:
        values = events_in(declaration, record.body)
    except BodyUnreadable as why:
        why_raw = (("unreadable", str(why)),)
        return (facts.Unknown(at=record.received_at, clock="receiver", precision="us", anomalies=why_raw),)
    headers = headers_in(read_proof(record))
    found: list[Fact] = []
    for value in values:
        found += _facts_of(Event(value, headers, record.received_at), declaration)
    return tuple(found)


def _facts_of(event: Event, declaration: Declaration) -> Iterator[Fact]:
    name = name_of(declaration, event)
    of_this_name = [reading for reading in declaration.readings if name in reading.events]
    matching = [reading for reading in of_this_name if all(_holds(when, event) for when in reading.when)]
    for reading in matching:
        when = _when(event, declaration, reading)
        try:
            yield _fact(event, declaration, reading, when)
        except FieldMissing as missing:
            yield _raw(event, declaration, name, ("unreadable", str(missing)))
    if not matching:
        is_known = bool(of_this_name) or name in declaration.notes
        anomaly = () if is_known else (("unknown_event", name) if name else ("unreadable", "no event name"),)
        yield _raw(event, declaration, name, *anomaly)


def _holds(when: When, event: Event) -> bool:
    value = when.path.find(event)
    text = str(value).lower() if isinstance(value, bool) else word(value) or ""
    return (text in when.values) != when.negated


def _when(event: Event, declaration: Declaration, reading: Reading | None) -> HappenedAt:
    for moment in (*(reading.times if reading is not None else ()), *declaration.times):
        found = parse_moment(moment.path.find(event), moment.unit)
        if found is not None:
            return HappenedAt(*found, by_sender=not any(path.is_arrival for path in moment.path.paths))
    return HappenedAt(event.received_at, "us", by_sender=False)


def _fact(event: Event, declaration: Declaration, reading: Reading, when: HappenedAt) -> Fact:
    kind = FACTS[reading.fact]
    fields: dict[str, Any] = dict(reading.switches)
    for name, first in reading.texts.items():
        value = first.find(event)
        text = person_name(value) if name == "name" else word(value)
        if text is not None:
            fields[name] = without_secrets(text) if name == "url" else text[:_LONGEST_TEXT]
    for name, moment in reading.moments.items():
        found = parse_moment(moment.path.find(event), moment.unit)
        if found is not None:
            fields[name] = found[0]
    for name, number in reading.numbers.items():
        value = (
            parse_duration_ms(number.path.find(event), number.unit)
            if isinstance(number, Moment)
            else _count(number.find(event))
        )
        if value is not None:
            fields[name] = value
    for name in required_fields(kind):
        if name not in fields:
            raise FieldMissing(f"{name} is missing: {_paths_of(reading, name)}")
    fields |= _words(event, declaration, reading)
    if issubclass(kind, _STARTS):
        fields.setdefault("started_at", when.at)
    return kind(
        at=when.at,
        clock="server" if when.by_sender else "receiver",
        precision=when.precision,
        place=_place(event, reading, kind, when.at, fields),
        detail=_detail(event, declaration),
        anomalies=_anomalies(declaration, when),
        **fields,
    )


def _anomalies(declaration: Declaration, when: HappenedAt) -> tuple[tuple[str, str], ...]:
    is_expected = any(not path.is_arrival for moment in declaration.times for path in moment.path.paths)
    return (("unreadable", "the event states no time"),) if is_expected and not when.by_sender else ()


def _words(event: Event, declaration: Declaration, reading: Reading) -> dict[str, str]:
    """The reason and the kind of participant, in Tracker's words."""
    found: dict[str, str] = {}
    if reading.reason is not None:
        theirs = word(reading.reason.find(event))
        if theirs is not None:
            found["reason"] = declaration.reasons.get(theirs, theirs if theirs in REASONS else "unknown")
            if not any(path.literal is not None for path in reading.reason.paths):
                found["vendor_reason"] = theirs[:_LONGEST_TEXT]
    if reading.person is not None:
        theirs = word(reading.person.find(event)) or ""
        found["person"] = declaration.people.get(theirs, theirs if theirs in PEOPLE else "standard")
    return found


def _paths_of(reading: Reading, name: str) -> str:
    first = reading.texts.get(name)
    return "" if first is None else ", ".join(path.text for path in first.paths)


def _count(value: Any) -> int | None:
    return as_count(int(value)) if isinstance(value, str) and value.isascii() and value.isdigit() else as_count(value)


def _place(event: Event, reading: Reading, kind: type[Fact], at: Micros, fields: dict[str, Any]) -> SessionRef:
    """The session of an event. Raises `FieldMissing` where neither its room nor its run is known."""
    text = {name: word(first.find(event)) for name, first in reading.places.items()}
    run, room = text.get("run"), text.get("room")
    if run is None and room is None:
        raise FieldMissing("neither the room nor the run is in the event")
    ids = tuple((name, value) for name, value in (("room", room), ("run", run)) if value is not None)
    starts = fields.get("started_at") if issubclass(kind, facts.SessionFact) else None
    began = next((fields[name] for name in _BEGINNINGS if name in fields), at)
    return SessionRef(
        at=began,
        run=run,
        room=room or run,
        room_name=text.get("room_name") or room,
        starts_at=starts,
        ends_at=at if issubclass(kind, facts.SessionEnded) else None,
        ids=ids,
        parent=text.get("parent"),
    )


def _raw(event: Event, declaration: Declaration, name: str, *anomalies: tuple[str, str]) -> facts.Unknown:
    """The event as it is; in its session where any reading says how to find it."""
    when = _when(event, declaration, None)
    place: SessionRef | None = None
    for reading in declaration.readings:
        try:
            place = _place(event, reading, facts.Unknown, when.at, {})
            break
        except FieldMissing:
            continue
    return facts.Unknown(
        at=when.at,
        clock="server" if when.by_sender else "receiver",
        precision=when.precision,
        place=place,
        detail={"event": name, **_detail(event, declaration)} if name else _detail(event, declaration),
        anomalies=anomalies,
    )


def _detail(event: Event, declaration: Declaration) -> dict[str, Any]:
    """What the declaration does not read, without secrets and without what it redacts."""
    shown = step(event.value, () if declaration.detail is None else declaration.detail.parts)
    rest = _without(shown, declaration.not_shown)
    return cast("dict[str, Any]", without_secrets(rest)) if isinstance(rest, dict) else {}


def _without(value: Any, left: AbstractSet[tuple[Part, ...]]) -> Any:
    """The value without the parts at these paths, and without objects that become empty."""
    if not left or not isinstance(value, dict):
        return value
    found: dict[str, Any] = {}
    for name, inner in cast("dict[str, Any]", value).items():
        below = {path[1:] for path in left if path and path[0] == name}
        if () in below:
            continue
        kept = _without(inner, below)
        if kept != {} or inner == {}:
            found[name] = kept
    return found
