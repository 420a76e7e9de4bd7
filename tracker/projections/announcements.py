"""Late announcements of a session: the first one is its start, if nothing happened in the session before it. Pure.

A server may announce a room long after it was created: because another node took the room over, or because a room that was
created ahead is announced only at its first join. Only the whole session shows which of the two it was.
"""

from __future__ import annotations

import msgspec

from tracker.projections.claims import Claim
from tracker.projections.state import SessionState

SAME_MOMENT = 1_000_000
"""µs: the times of announcements are cut to the second."""

_LIFE = ("connection", "stream", "subscription", "recording", "broadcast", "ingress")


class Announcements(msgspec.Struct, frozen=True):
    """`first`: the announcement that is the session's start, or None; `hidden`: those without a visible entry of their own."""

    first: Claim | None
    hidden: tuple[Claim, ...]


def announcements(state: SessionState) -> Announcements:
    """The late announcements of a session."""
    held = state.intervals.get("announcement", {}).values()
    if not held:
        return Announcements(None, ())
    hidden = [i.start for i in held if i.start is not None and i.value("hidden")]
    first = min((i.start for i in held if i.start is not None), key=_order, default=None)
    if first is not None and (state.lifetime.start_reported or _has_life_before(state, first)):
        first = None
    return Announcements(first, tuple(sorted(hidden, key=_order)))


def start_is_reported(state: SessionState) -> bool:
    """Whether the event that starts the session was received."""
    return state.lifetime.start_reported or announcements(state).first is not None


def _order(claim: Claim) -> tuple[int, str, int]:
    return claim.at, claim.key, claim.n


def _has_life_before(state: SessionState, announced: Claim) -> bool:
    before = announced.at - SAME_MOMENT
    return any(
        claim.at < before
        for kind in _LIFE
        for interval in state.intervals.get(kind, {}).values()
        if (claim := interval.first_claim) is not None
    )
