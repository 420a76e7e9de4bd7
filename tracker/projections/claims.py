"""What a fact claims about one end of an interval, and which of two claims holds.

A claim is stronger when its clock is the sender's (a receiver's clock is only an arrival time), then when its provenance is
stronger (reported > derived > inferred); among equals the earlier start, the later end, then the smaller dedupe key. That is a
total order, so keeping the best claim is commutative, associative and idempotent: order of arrival and repeats do not matter.
"""

from __future__ import annotations

import msgspec

from tracker.domain.facts import Clock, EndReason, Micros, Provenance

STRENGTH: dict[Provenance, int] = {"reported": 2, "derived": 1, "inferred": 0}


class Claim(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One statement of when an interval began or ended."""

    at: Micros
    provenance: Provenance
    clock: Clock
    key: str
    n: int
    position: int
    reason: EndReason | None = None
    vendor_reason: str | None = None


def is_final(claim: Claim) -> bool:
    """Whether only another claim like it, reported by the sender's clock, can hold instead."""
    return claim.provenance == "reported" and claim.clock != "receiver"


def _strength(claim: Claim) -> tuple[int, int]:
    trusted = 0 if claim.clock == "receiver" or claim.provenance == "inferred" else 1
    return (trusted, STRENGTH[claim.provenance])


def _weaker(held: Claim, new: Claim) -> bool | None:
    """Whether the new claim is weaker; None where they are as strong as each other."""
    if held.provenance == new.provenance and held.clock == new.clock:
        return None
    a, b = _strength(held), _strength(new)
    return None if a == b else a > b


def stronger_start(held: Claim | None, new: Claim) -> Claim:
    """The start claim that holds."""
    if held is None:
        return new
    weaker = _weaker(held, new)
    if weaker is not None:
        return held if weaker else new
    return held if (held.at, held.key, held.n) <= (new.at, new.key, new.n) else new


def stronger_end(held: Claim | None, new: Claim) -> Claim:
    """The end claim that holds."""
    if held is None:
        return new
    weaker = _weaker(held, new)
    if weaker is not None:
        return held if weaker else new
    return held if (-held.at, held.key, held.n) <= (-new.at, new.key, new.n) else new
