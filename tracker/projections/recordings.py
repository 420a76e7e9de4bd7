"""Recordings as rows: one interval, a status that only moves forward, and the history of its statuses. Pure."""

from __future__ import annotations

import msgspec

from tracker.domain.facts import Micros, RunRules
from tracker.projections.claims import Claim
from tracker.projections.recording_match import match_nameless
from tracker.domain.rows import Anomaly, RecordingRow
from tracker.projections.state import Interval, SessionState

ORDER = ("started", "processing", "stopped", "aborted", "limit_reached", "failed", "uploaded", "ready")
"""Statuses from weakest to strongest: the strongest one seen holds (a file that is ready outlives an error)."""


class RenderedRecording(msgspec.Struct):
    """A recording row. `legacy`: only events of a former kind reported it."""

    row: RecordingRow
    legacy: bool


def render_recordings(
    session_id: str, state: SessionState, ended_at: Micros | None, anomalies: list[Anomaly], rules: RunRules
) -> list[RenderedRecording]:
    """Every recording of a session, ordered by start."""
    intervals = match_nameless(_paired(state.intervals.get("recording", {})), rules.tolerance)
    ordered = sorted(intervals.items(), key=lambda item: (_when(item[1]), item[0]))
    return [
        RenderedRecording(
            _row(session_id, state, key, interval, ended_at, anomalies, ends_only=rules.ends_only),
            interval.value("current") is None,
        )
        for key, interval in ordered
    ]


def _when(interval: Interval) -> Micros:
    claim = interval.start or interval.end or next(iter(interval.statuses.values()), None)
    return claim.at if claim else 0


def _paired(intervals: dict[str, Interval]) -> dict[str, Interval]:
    """Ends that do not tell their start go to the latest start of their id before them."""
    paired = dict(intervals)
    for key, interval in sorted(intervals.items()):
        if interval.start is not None or interval.end is None:
            continue
        starts = [
            (other.start.at, name)
            for name, other in intervals.items()
            if other.start is not None and other.value("id") == key and other.start.at <= interval.end.at
        ]
        if starts:
            name = max(starts)[1]
            paired[name] = _together(paired[name], interval)
            del paired[key]
    return paired


def _together(first: Interval, second: Interval) -> Interval:
    whole = Interval(
        first.start, first.end, first.start_reported, first.end_reported, dict(first.values), dict(first.statuses)
    )
    if second.end is not None:
        whole.claim_end(second.end)
    for name, value in second.values.items():
        whole.set_value(name, value.value, value.at, value.key)
    for name, claim in second.statuses.items():
        whole.set_status(name, claim)
    return whole


def _row(
    session_id: str,
    state: SessionState,
    key: str,
    interval: Interval,
    ended_at: Micros | None,
    anomalies: list[Anomaly],
    *,
    ends_only: bool,
) -> RecordingRow:
    vendor_id = str(interval.value("id"))
    start, stop = interval.start, interval.end
    stopped_at = stop.at if stop else None
    stop_provenance = None if stop is None else "reported" if interval.end_reported else stop.provenance
    if stop is None and ended_at is not None and start is not None:
        stopped_at, stop_provenance = max(ended_at, start.at), "inferred"
        anomalies.append(
            Anomaly(
                kind="missing_end", position=start.position, detail=f"recording {vendor_id}: its end was not received"
            )
        )
    if not interval.start_reported and not (ends_only and start is not None):
        where = start or stop or next(iter(interval.statuses.values()), None)
        anomalies.append(
            Anomaly(
                kind="missing_start",
                position=where.position if where else None,
                detail=f"recording {vendor_id}: its start was not received",
            )
        )
    if start is not None and stop is not None and stop.at < start.at:
        anomalies.append(Anomaly(kind="end_before_start", position=stop.position, detail=f"recording {vendor_id}"))
    started_at = start.at if start else None
    measured = interval.value("duration_ms")
    reason = interval.value("vendor_reason") or (stop.reason if stop else None)
    return RecordingRow(
        id=f"{state.source}:{key.replace('@', '_')}",
        session_id=session_id,
        vendor_id=vendor_id,
        mode=interval.value("mode"),
        status=_status(interval.statuses),
        upload_status=_upload(interval.statuses),
        upload_http_status=interval.value("http_status"),
        started_at=started_at,
        first_frame_at=interval.value("first_frame_at"),
        first_peerframe_at=interval.value("first_peerframe_at"),
        stopped_at=stopped_at,
        duration_ms=measured if measured is not None else _span(started_at, stopped_at),
        size_bytes=interval.value("size_bytes"),
        url=interval.value("url"),
        stop_reason=reason,
        start_provenance=None if start is None else "reported" if interval.start_reported else start.provenance,
        stop_provenance=stop_provenance,
        history=[
            {"status": name, "at": claim.at, "position": claim.position}
            for name, claim in sorted(
                interval.statuses.items(),
                key=lambda item: (item[1].at, ORDER.index(item[0]) if item[0] in ORDER else -1),
            )
        ],
    )


def _span(start: Micros | None, stop: Micros | None) -> int | None:
    return None if start is None or stop is None else max(0, (stop - start) // 1000)


def _status(marks: dict[str, Claim]) -> str:
    held = [name for name in ORDER if name in marks]
    return held[-1] if held else "failed" if "upload_failed" in marks else "started"


def _upload(marks: dict[str, Claim]) -> str | None:
    if "uploaded" in marks:
        return "uploaded"
    return "failed" if "upload_failed" in marks else None
