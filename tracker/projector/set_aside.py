"""Sets a session aside when its facts cannot be placed, folded or rendered: the projector goes on with everything else.

    a time or a name that cannot be stored, a room that fails with the fact ─► a stand-in takes the fact's place:
                                                                                sources and rooms learn nothing from it
    its session: the run key of the fact, else the room's run of 1970 ───────► is set aside

Whether a session is set aside follows from its facts alone: live views equal rebuilt ones. What the views themselves refuse
to store is set aside where it is stored (`views/sqlite/refusals`).

LIMIT: where a room fails only with several facts together, the facts that arrived last are set aside.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from tracker.domain.facts import Fact, Micros, RunRules, SessionRef, Unknown
from tracker.domain.room_marks import EARLIEST, LATEST
from tracker.domain.rows import EntryRow, SessionRows
from tracker.domain.set_aside import describe_error, set_aside_rows, stand_in_entry
from tracker.domain.texts import is_utf8
from tracker.errors import TrackerError
from tracker.projections import timeline_entries
from tracker.projections.folding import fold
from tracker.projections.ids import provisional_run
from tracker.projections.rendering import RenderContext, next_run_after, render, session_id
from tracker.projections.sourced_fact import SourcedFact
from tracker.projections.state import NO_CONTENT, SessionState, encode_state
from tracker.projector.placement import AskedRun, Effects, NextRun, Placement, room_of
from tracker.views.contract import RoomReader

_OF_THE_VIEWS = (TrackerError, sqlite3.Error, OSError, MemoryError)
"""Errors that no fact causes."""


class Unplaceable:
    """The facts of one batch that cannot be placed, and why."""

    def __init__(self) -> None:
        self._reasons: dict[tuple[int, int], str] = {}

    def reason(self, item: SourcedFact) -> str | None:
        """Why a fact is not placed; None if it is."""
        return self._reasons.get((item.position, item.n)) if self._reasons else None

    def replace(self, facts: Iterable[SourcedFact]) -> list[SourcedFact]:
        """The facts, with a stand-in for each that states what cannot be stored."""
        return [item if (why := _unusable(item.fact)) is None else self.stand_in(item, why) for item in facts]

    def stand_in(self, item: SourcedFact, why: str) -> SourcedFact:
        """A fact that takes the place of this one: it names its session, and nothing else."""
        self._reasons[item.position, item.n] = why
        at = item.fact.at if _is_time(item.fact.at) else item.received_at
        return msgspec.structs.replace(item, fact=Unknown(at=at, place=_stand_in_place(item.fact.place, at)))


def learn_rooms(
    rules: Mapping[str, Sequence[RunRules]], reader: RoomReader, facts: Sequence[SourcedFact], unplaceable: Unplaceable
) -> tuple[Placement, Effects, list[SourcedFact]]:
    """What the rooms learn from the facts, which follow with a stand-in for each that makes its room fail."""
    placement = Placement(rules)
    try:
        return placement, placement.learn(reader, facts), list(facts)
    except _OF_THE_VIEWS:
        raise
    except Exception:
        facts = _without_failing(rules, reader, facts, unplaceable)
    placement = Placement(rules)
    return placement, placement.learn(reader, facts), list(facts)


def _without_failing(
    rules: Mapping[str, Sequence[RunRules]], reader: RoomReader, facts: Sequence[SourcedFact], unplaceable: Unplaceable
) -> list[SourcedFact]:
    """Each fact that fails alone is replaced; then every fact of a room that still fails."""
    found = [_tried(rules, reader, [item], unplaceable)[0] for item in facts]
    rooms: dict[object, list[int]] = {}
    for index, item in enumerate(found):
        rooms.setdefault(room_of(item), []).append(index)
    for indices in rooms.values():
        together = [found[index] for index in indices]
        for index, item in zip(indices, _tried(rules, reader, together, unplaceable), strict=True):
            found[index] = item
    return found


def _tried(
    rules: Mapping[str, Sequence[RunRules]], reader: RoomReader, items: Sequence[SourcedFact], unplaceable: Unplaceable
) -> Sequence[SourcedFact]:
    """The facts, or their stand-ins if their rooms fail with them."""
    try:
        Placement(rules).learn(reader, items)
    except _OF_THE_VIEWS:
        raise
    except Exception as error:
        why = f"its room cannot learn it, {describe_error(error)}"
        return [unplaceable.stand_in(item, why) for item in items]
    return items


def find_homes(
    placement: Placement, reader: RoomReader, facts: Sequence[SourcedFact], unplaceable: Unplaceable
) -> tuple[list[SourcedFact], list[str | None]]:
    """The session of each fact; the facts follow with a stand-in for each whose session cannot be found."""
    try:
        return list(facts), placement.homes(reader, facts)
    except _OF_THE_VIEWS:
        raise
    except Exception:
        found = [_found(placement, reader, item, unplaceable) for item in facts]
    return [item for item, _ in found], [home for _, home in found]


def _found(
    placement: Placement, reader: RoomReader, item: SourcedFact, unplaceable: Unplaceable
) -> tuple[SourcedFact, str | None]:
    try:
        return item, placement.homes(reader, [item])[0]
    except _OF_THE_VIEWS:
        raise
    except Exception as error:
        item = unplaceable.stand_in(item, f"its run cannot be found, {describe_error(error)}")
        return item, placement.homes(reader, [item])[0]


def find_next_runs(
    placement: Placement, reader: RoomReader, states: Sequence[SessionState]
) -> list[NextRun | Exception]:
    """When the next run of its room began for each session, or why that cannot be found."""
    try:
        return [*placement.next_runs(reader, [_asked(state) for state in states])]
    except _OF_THE_VIEWS:
        raise
    except Exception as error:
        if len(states) == 1:
            return [error]
    return [found for state in states for found in find_next_runs(placement, reader, [state])]


def _asked(state: SessionState) -> AskedRun:
    after = next_run_after(state)
    if not _is_time(after):
        raise ValueError("the start is no time")
    return AskedRun(state.source, state.vendor, state.lifetime.value("room"), state.run, after)


def _unusable(fact: Fact) -> str | None:
    """Why sources and rooms cannot learn from a fact; None if they can."""
    if not _is_time(fact.at):
        return "its time is none"
    if fact.server_run is not None and not _is_name(fact.server_run):
        return "its server run is no text"
    place = fact.place
    if place is None:
        return None
    if not _is_time(place.at):
        return "a time of its session is none"
    for at in (place.starts_at, place.ends_at):
        if at and not _is_time(at):
            return "a time of its session is none"
    for name in (place.run, place.room, place.anchor):
        if name and not _is_name(name):
            return "a name of its session is no text"
    return None


def _is_time(value: Micros) -> bool:
    return type(value) is int and EARLIEST <= value <= LATEST


def _is_name(value: str) -> bool:
    return isinstance(value, str) and is_utf8(value)


def _stand_in_place(place: SessionRef | None, at: Micros) -> SessionRef | None:
    if place is None:
        return None
    if place.run is not None and _is_name(place.run):
        return SessionRef(at=at, run=place.run)
    if place.room and _is_name(place.room):
        return SessionRef(at=at, run=provisional_run(place.room, 0))
    return None


def fold_or_mark(state: SessionState, item: SourcedFact, unplaceable: str | None) -> None:
    """Fold a fact. If that fails, or it was not placed, mark the session: `render_or_set_aside` sets it aside."""
    try:
        fold(state, item)
    except Exception as error:
        unplaceable = describe_error(error)
    if unplaceable is not None:
        state.mark_failed(item.position, item.n, unplaceable)


def entry_or_stand_in(item: SourcedFact, session: str | None, unplaceable: str | None) -> EntryRow:
    """The timeline entry of a fact; one without content if it was not placed or cannot be rendered."""
    if unplaceable is None:
        try:
            return timeline_entries.render_entry(item, session)
        except Exception as error:
            unplaceable = describe_error(error)
    return stand_in_entry(
        item.position, item.n, session, at=item.fact.at, received_at=item.received_at, source=item.source,
        clock=item.fact.clock, key=item.key, reason=f"this event cannot be shown ({unplaceable})",
    )  # fmt: skip


def render_or_set_aside(state: SessionState, context: RenderContext | Exception) -> SessionRows:
    """The rows of a session, or the row that stands for a session which is set aside. `context`: or why there is none."""
    if state.failed is None:
        try:
            if isinstance(context, Exception):
                raise context
            return render(state, context)
        except Exception as error:
            position, reason = state.last_position, f"its rows cannot be made ({describe_error(error)})"
    elif state.failed[0] == NO_CONTENT:
        position, reason = state.last_position, state.failed[2]
    else:
        position, _, why = state.failed
        reason = f"this record cannot be folded into it ({why})"
    try:
        encoded = encode_state(state)
    except Exception:
        # What cannot be stored is not folded again before the next rebuild.
        state = state.without_content(reason)
        encoded = encode_state(state)
    return set_aside_rows(
        session_id(state.source, state.run), source=state.source, vendor=state.vendor, position=position,
        reason=reason, first_position=state.first_position, last_position=state.last_position, first_at=state.first_at,
        last_at=state.last_at, lookups=(state.run,), state=encoded,
    )  # fmt: skip
