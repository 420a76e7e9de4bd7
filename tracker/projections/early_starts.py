"""Clamps starts that cannot be: nothing in a session starts before the session. Pure.

A start may be stated by another event than its own (a leave states its join), and the vendor may state it wrongly: a
participant that was moved here may still have the time of the join to the room before.
"""

from __future__ import annotations

import msgspec

from tracker.domain.facts import Micros
from tracker.domain.rows import Anomaly
from tracker.projections.claims import Claim, anomaly
from tracker.projections.state import Interval, SessionState

MIN_TOLERANCE = 5_000_000
"""How much earlier than the session (µs) a start may be stated: times are cut to the second, and clocks differ."""

_BOUNDED = (
    "connection", "stream", "subscription", "recording", "broadcast", "ingress", "transcription", "agent_job", "supervisor_session",
)  # fmt: skip


def clamp_early_starts(
    state: SessionState, start: Claim | None, tolerance: Micros, anomalies: list[Anomaly]
) -> SessionState:
    """The state with every start before the session's own moved to it. `tolerance`: µs, that of the source.

    A session's start that is only an arrival or a guess bounds nothing.
    """
    if start is None or start.clock != "server" or start.provenance == "inferred":
        return state
    earliest = start.at - max(tolerance, MIN_TOLERANCE)
    clamped: dict[str, dict[str, Interval]] = {}
    for kind in _BOUNDED:
        for key, interval in state.intervals.get(kind, {}).items():
            if interval.start is not None and interval.start.at < earliest:
                if kind not in clamped:
                    clamped[kind] = dict(state.intervals[kind])
                clamped[kind][key] = _clamp(interval, interval.start, start.at)
                name = interval.value("id") or interval.value("stream") or key
                what = "participant" if kind == "connection" else kind.replace("_", " ")
                detail = f"{what} {name}: its start is stated before the session began"
                anomalies.append(anomaly("early_start", interval.start, detail))
    return msgspec.structs.replace(state, intervals=state.intervals | clamped) if clamped else state


def _clamp(interval: Interval, stated: Claim, began: Micros) -> Interval:
    """The interval from `began`; from its end, if it ended before."""
    at = began if interval.end is None else min(began, max(interval.end.at, stated.at))
    provenance = stated.provenance if interval.start_reported else "inferred"
    return msgspec.structs.replace(interval, start=msgspec.structs.replace(stated, at=at, provenance=provenance))
