"""Renders recordings as rows: an interval, a status that only moves forward, and the history of statuses. Pure."""

from __future__ import annotations

import msgspec

from tracker.domain.facts import Micros, RunRules
from tracker.projections.claims import Claim, anomaly
from tracker.projections.ids import distinct_ids, interval_key
from tracker.projections.recording_match import match_nameless, merge_intervals
from tracker.domain.rows import Anomaly, RecordingRow
from tracker.projections.state import Interval, SessionState, duration_ms, when

STATUS_ORDER = ("started", "processing", "stopped", "aborted", "limit_reached", "failed", "uploaded", "ready")
"""Statuses from weakest to strongest. The strongest one reported holds: a file that is ready stays ready after an error."""


class RenderedRecording(msgspec.Struct):
    """A recording row. `legacy`: only facts marked legacy reported it."""

    row: RecordingRow
    legacy: bool


def render_recordings(
    session_id: str, state: SessionState, ended_at: Micros | None, anomalies: list[Anomaly], rules: RunRules
) -> list[RenderedRecording]:
    """All recordings of a session, ordered by start."""
    intervals = match_nameless(_pair_stops(state.intervals.get("recording", {})), rules.tolerance)
    ordered = sorted(intervals.items(), key=when)
    names = distinct_ids([_name(key, interval) for key, interval in ordered])
    return [
        RenderedRecording(
            _row(session_id, state, name, interval, ended_at, anomalies, ends_only=rules.ends_only),
            interval.value("current") is None,
        )
        for name, (_, interval) in zip(names, ordered, strict=True)
    ]


def _name(key: str, interval: Interval) -> str:
    """The vendor's id; with the start (µs) that tells recordings apart where the vendor uses an id again."""
    vendor_id = str(interval.value("id"))
    start = key.rpartition("@")[2]
    return f"{vendor_id}_{start}" if start.isdigit() and key == interval_key(vendor_id, start) else vendor_id


def _pair_stops(intervals: dict[str, Interval]) -> dict[str, Interval]:
    """Merge an end that does not state its start (old servers send such) into the latest start of its id before it."""
    paired = dict(intervals)
    for key, interval in sorted(intervals.items()):
        if interval.start is not None or interval.end is None:
            continue
        starts = [
            (other.start.at, name)
            for name, other in intervals.items()
            if other.start is not None
            and other.value("id") == interval.value("id")
            and other.start.at <= interval.end.at
        ]
        if starts:
            name = max(starts)[1]
            paired[name] = merge_intervals(paired[name], interval)
            del paired[key]
    return paired


def _row(
    session_id: str,
    state: SessionState,
    name: str,
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
        anomalies.append(anomaly("missing_end", start, f"recording {vendor_id}: its end was not received"))
    if not interval.start_reported and not (ends_only and start is not None):
        anomalies.append(
            anomaly("missing_start", interval.first_claim, f"recording {vendor_id}: its start was not received")
        )
    if start is not None and stop is not None and stop.at < start.at:
        anomalies.append(anomaly("end_before_start", stop, f"recording {vendor_id}"))
    started_at, start_provenance = start.at if start else None, interval.start_provenance
    measured = interval.value("duration_ms")
    if started_at is None and stopped_at is not None and isinstance(measured, int) and stopped_at > measured * 1000:
        # No event states the start, but the file's length does.
        started_at, start_provenance = stopped_at - measured * 1000, "derived"
    upload = _upload_status(interval.statuses)
    reason = interval.value("vendor_reason") or (stop.reason if stop else None)
    return RecordingRow(
        id=f"{state.source}:{name}",
        session_id=session_id,
        vendor_id=vendor_id,
        mode=interval.value("mode"),
        status=_status(interval.statuses),
        upload_status=upload,
        # The answer to a failed attempt says nothing about the upload that succeeded later; it stays in the timeline.
        upload_http_status=interval.value("http_status") if upload == "failed" else None,
        started_at=started_at,
        first_frame_at=interval.value("first_frame_at"),
        first_peerframe_at=interval.value("first_peerframe_at"),
        stopped_at=stopped_at,
        duration_ms=measured if measured is not None else duration_ms(started_at, stopped_at),
        size_bytes=interval.value("size_bytes"),
        url=interval.value("url"),
        stop_reason=reason,
        start_provenance=start_provenance,
        stop_provenance=stop_provenance,
        history=[
            {"status": name, "at": claim.at, "position": claim.position}
            for name, claim in sorted(
                interval.statuses.items(),
                key=lambda item: (item[1].at, STATUS_ORDER.index(item[0]) if item[0] in STATUS_ORDER else -1),
            )
        ],
    )


def _status(marks: dict[str, Claim]) -> str:
    held = [name for name in STATUS_ORDER if name in marks]
    return held[-1] if held else "failed" if "upload_failed" in marks else "started"


def _upload_status(marks: dict[str, Claim]) -> str | None:
    if "uploaded" in marks:
        return "uploaded"
    return "failed" if "upload_failed" in marks else None
