"""Pairs joins and leaves where a vendor uses the id of a connection again, and its leaves do not state their joins. Pure.

    joins and leaves of one id     each leave belongs to the join before it
    what a summary states          fills in joins and leaves that no event reported, by person and time

The state holds each join and each leave as an interval of its own (`visit`), so that their order does not matter. Here all of
them are known, and become connections.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tracker.domain.facts import Micros
from tracker.projections.claims import STRENGTH
from tracker.projections.ids import interval_key
from tracker.projections.state import Interval, SessionState

SAME_JOIN: Micros = 2_000_000
"""Joins of one id that are closer are one join, reported twice."""
SAME_MOMENT: Micros = 10_000_000
"""A join or a leave that a summary states is one that was reported this close to it."""


def pair_visits(state: SessionState) -> SessionState:
    """The state with a connection for each visit."""
    pieces = state.intervals.get("visit")
    if not pieces:
        return state
    by_id: dict[str, list[Interval]] = {}
    stated: dict[str, list[Interval]] = {}
    for _, piece in sorted(pieces.items()):
        vendor_id = piece.value("id")
        if vendor_id is not None:
            by_id.setdefault(str(vendor_id), []).append(piece)
        else:
            stated.setdefault(str(piece.value("identity")), []).append(piece)
    visits = {vendor_id: _pair(found) for vendor_id, found in by_id.items()}
    for identity, found in stated.items():
        own = [visit for paired in visits.values() for visit in paired if visit.value("identity") == identity]
        new = _fill_in(own, found)
        if new:
            visits[identity] = [*visits.get(identity, ()), *new]
    connections = dict(state.intervals.get("connection", {}))
    for vendor_id, paired in visits.items():
        for number, visit in enumerate(paired):
            connections[interval_key("visit", vendor_id, f"{number:09}")] = visit
    rest = {kind: held for kind, held in state.intervals.items() if kind != "visit"}
    return msgspec.structs.replace(state, intervals=rest | {"connection": connections})


def end_with_session(state: SessionState, ended_at: Micros | None) -> SessionState:
    """The state with visits that last no longer than the session: a server may report a leave after the end."""
    if ended_at is None:
        return state
    held = state.intervals.get("connection", {})
    late = {
        key: _end_at(visit, ended_at)
        for key, visit in held.items()
        if visit.value("visit") and _is_later(visit, ended_at)
    }
    return (
        state if not late else msgspec.structs.replace(state, intervals=state.intervals | {"connection": held | late})
    )


def _is_later(visit: Interval, ended_at: Micros) -> bool:
    return visit.end is not None and visit.end.at > ended_at


def _end_at(visit: Interval, ended_at: Micros) -> Interval:
    """The visit until the session ended; until its own start, if that is later."""
    assert visit.end is not None  # noqa: S101 - it is later
    at = ended_at if visit.start is None else max(ended_at, visit.start.at)
    provenance = "derived" if visit.end.provenance == "reported" else visit.end.provenance
    return msgspec.structs.replace(visit, end=msgspec.structs.replace(visit.end, at=at, provenance=provenance))


def _pair(pieces: Iterable[Interval]) -> list[Interval]:
    """The visits of one id, in order of time."""
    found: list[Interval] = []
    joins = sorted((piece for piece in pieces if piece.start is not None), key=_start)
    leaves = sorted((piece for piece in pieces if piece.start is None), key=_end)
    while joins or leaves:
        current = found[-1] if found else None
        is_open = current is not None and current.end is None
        if not leaves:
            takes_join = True
        elif not joins:
            takes_join = False
        else:
            join, leave = _start(joins[0])[0], _end(leaves[0])[0]
            takes_join = join < leave or (join == leave and not is_open)
        piece = joins.pop(0) if takes_join else leaves.pop(0)
        if takes_join:
            if current is not None and is_open and _start(piece)[0] - _start(current)[0] < SAME_JOIN:
                current.merge(piece)
            else:
                found.append(_new(piece))
        elif current is None:
            found.append(_new(piece))
        elif current.end is None:
            current.merge(piece)
        else:
            _repeat_leave(current, piece)
    return found


def _new(piece: Interval) -> Interval:
    visit = Interval()
    visit.merge(piece)
    visit.set_values(0, "", visit=True)
    return visit


def _repeat_leave(visit: Interval, piece: Interval) -> None:
    """Another leave without a join before it: the first of the stronger ones counts."""
    assert visit.end is not None  # noqa: S101 - the caller looked
    assert piece.end is not None  # noqa: S101 - a piece without a start is a leave
    held = visit.end
    visit.merge(piece)
    if STRENGTH[piece.end.provenance] <= STRENGTH[held.provenance]:
        visit.end = held


def _fill_in(own: list[Interval], stated: Iterable[Interval]) -> list[Interval]:
    """Add what a summary states of a person to the person's visits. Returns those that nothing reported."""
    joins = sorted((piece for piece in stated if piece.start is not None), key=_start)
    leaves = sorted((piece for piece in stated if piece.start is None), key=_end)
    for visit in sorted(own, key=_start_or_end):
        if visit.start is not None:
            _take_nearest(joins, visit.start.at)
        if visit.end is not None:
            _take_nearest(leaves, visit.end.at)
    for visit in sorted((each for each in own if each.end is None), key=_start):
        leave = next((piece for piece in leaves if _end(piece)[0] >= _start(visit)[0]), None)
        if leave is not None:
            leaves.remove(leave)
            visit.merge(leave)
    for visit in sorted((each for each in own if each.start is None), key=_end, reverse=True):
        join = next((piece for piece in reversed(joins) if _start(piece)[0] <= _end(visit)[0]), None)
        if join is not None:
            joins.remove(join)
            visit.merge(join)
    found: list[Interval] = []
    for join in joins:
        visit = _new(join)
        leave = next((piece for piece in leaves if _end(piece)[0] >= _start(join)[0]), None)
        if leave is not None:
            leaves.remove(leave)
            visit.merge(leave)
        visit.set_values(0, "", id=visit.value("identity"))
        found.append(visit)
    return found


def _take_nearest(pieces: list[Interval], at: Micros) -> None:
    """Remove the piece nearest to a moment, if it is near."""
    near = min(pieces, key=lambda piece: (abs(_moment(piece) - at), _moment(piece)), default=None)
    if near is not None and abs(_moment(near) - at) <= SAME_MOMENT:
        pieces.remove(near)


def _moment(piece: Interval) -> Micros:
    return (_start(piece) if piece.start is not None else _end(piece))[0]


def _start(piece: Interval) -> tuple[Micros, str, int]:
    assert piece.start is not None  # noqa: S101 - the caller chose those with one
    return piece.start.at, piece.start.key, piece.start.n


def _end(piece: Interval) -> tuple[Micros, str, int]:
    assert piece.end is not None  # noqa: S101 - the caller chose those with one
    return piece.end.at, piece.end.key, piece.end.n


def _start_or_end(visit: Interval) -> tuple[Micros, str, int]:
    return _start(visit) if visit.start is not None else _end(visit)
