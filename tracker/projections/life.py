"""Whether a session goes on: what its people did after its end, and after the next run of its room began. Pure.

A start (a join, a published stream) after a reported end reopens the session. A leave or an unpublish does not.
"""

from __future__ import annotations

from collections.abc import Iterator

from tracker.domain.facts import Micros
from tracker.projections.state import Interval, SessionState

SAME_MOMENT = 1_000_000
"""µs: some times are cut to the second."""

_PRESENCE = ("connection", "stream")


def resumed_at(state: SessionState) -> Micros | None:
    """When the session began again after its first reported end; None if it did not."""
    if state.first_end is None:
        return None
    return min((at for at in _starts(state) if at > state.first_end + SAME_MOMENT), default=None)


def is_reopened(state: SessionState, ended_at: Micros) -> bool:
    """Whether something started after this end."""
    return any(at > ended_at + SAME_MOMENT for at in _starts(state))


def is_occupied(state: SessionState, after: Micros) -> bool:
    """Whether somebody whose leave is not known did something after this moment."""
    signs: dict[str, Micros] = {}
    for kind in _PRESENCE:
        for interval in state.intervals.get(kind, {}).values():
            owner = interval.value("connection" if kind == "stream" else "id")
            if isinstance(owner, str):
                signs[owner] = max(signs.get(owner, after), *_times(interval), after)
    left = {i.value("id") for i in state.intervals.get("connection", {}).values() if i.final_end is not None}
    return any(at > after and owner not in left for owner, at in signs.items())


def _starts(state: SessionState) -> Iterator[Micros]:
    for kind in _PRESENCE:
        for interval in state.intervals.get(kind, {}).values():
            if interval.start is not None and interval.start_reported and interval.start.clock == "server":
                yield interval.start.at
            if interval.last_start is not None:
                yield interval.last_start


def _times(interval: Interval) -> Iterator[Micros]:
    yield from (claim.at for claim in (interval.start, interval.end) if claim is not None and claim.clock == "server")
    if interval.last_start is not None:
        yield interval.last_start
