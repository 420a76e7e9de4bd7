"""Claims about when an interval began or ended, and the order that decides between them. Pure.

A claim by the sender's clock beats one by the receiver's, which is only an arrival time. Then the stronger provenance wins
(reported > derived > inferred). Among equals the earlier start wins, or the later end; then the smaller dedupe key.
This is a total order, so keeping the strongest claim is commutative, associative and idempotent: neither the order of arrival
nor repeats matter.
"""

from __future__ import annotations

import msgspec

from tracker.domain.facts import Clock, EndReason, Micros, Provenance
from tracker.domain.rows import Anomaly

STRENGTH: dict[Provenance, int] = {"reported": 2, "derived": 1, "inferred": 0}


class Claim(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A statement of when an interval began or ended."""

    at: Micros
    provenance: Provenance
    clock: Clock
    key: str
    n: int
    position: int
    reason: EndReason | None = None
    vendor_reason: str | None = None


def is_final(claim: Claim) -> bool:
    """Whether only another claim reported by the sender's clock can replace it."""
    return claim.provenance == "reported" and claim.clock != "receiver"


def _strength(claim: Claim) -> tuple[int, int]:
    trusted = 0 if claim.clock == "receiver" or claim.provenance == "inferred" else 1
    return (trusted, STRENGTH[claim.provenance])


def _weaker(held: Claim, new: Claim) -> bool | None:
    """Whether the new claim is weaker; None if both are equally strong."""
    if held.provenance == new.provenance and held.clock == new.clock:
        return None
    a, b = _strength(held), _strength(new)
    return None if a == b else a > b


def stronger_start(held: Claim | None, new: Claim) -> Claim:
    """The stronger of two start claims."""
    if held is None:
        return new
    weaker = _weaker(held, new)
    if weaker is not None:
        return held if weaker else new
    return held if (held.at, held.key, held.n) <= (new.at, new.key, new.n) else new


def stronger_end(held: Claim | None, new: Claim) -> Claim:
    """The stronger of two end claims."""
    if held is None:
        return new
    weaker = _weaker(held, new)
    if weaker is not None:
        return held if weaker else new
    return held if (-held.at, held.key, held.n) <= (-new.at, new.key, new.n) else new


def anomaly(kind: str, claim: Claim | None, detail: str) -> Anomaly:
    """An anomaly at the record of a claim; a claim that a rule inferred has no record."""
    return Anomaly(kind=kind, position=claim.position or None if claim else None, detail=detail)
