"""A session as swim lanes: what is drawn, before anybody draws it. Pure: rows in, lanes out.

    session ─ recordings (with their phases) ─ supervisor sessions ─ other activities ─ people
                                                                                          └ what they publish
                                                                                          └ what they receive

Times are µs since the epoch, UTC. Both ends of every bar say how they are known; a bar without an end goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracker.dashboard.lanes_parts import Bar, Dot, Lane, Lanes, Mark, SessionParts, base_of, keys_of
from tracker.dashboard.lanes_people import people_lanes, steps_of
from tracker.domain.facts import Micros
from tracker.domain.rows import ConnectionRow, EntryRow, RecordingRow, SessionRow, SupervisorSessionRow

LEAST = 1_000_000
"""No axis is shorter than this, µs."""

TAIL = 0.5
"""How much longer than the call itself the axis may become for what follows it (a recording being made ready)."""


def lanes_of(parts: SessionParts, *, now: Micros, is_stuck: bool) -> Lanes:
    """The picture of a session at `now` (µs). A stuck one ends where it was last heard of."""
    session = parts.session
    lanes = [
        _session_lane(session),
        *(_recording_lane(row) for row in parts.recordings),
        *(_supervisor_lane(row) for row in parts.supervisors),
        *_activity_lanes(parts.activities, session),
        *people_lanes(parts),
    ]
    goes_on = session.state == "open" and not is_stuck
    begin, until, latest = _axis(session, lanes, parts.connections, now if goes_on else None)
    return Lanes(
        begin=begin,
        until=until,
        latest=latest,
        goes_on=goes_on,
        lanes=lanes,
        marks=_marks(parts, begin, until),
        steps=steps_of(parts.participants, parts.connections),
        left_out=parts.left_out,
    )


def presence_ms(lanes: Lanes) -> int:
    """How long all people together were present up to the end of the axis, those still there included."""
    ends = [*(at for at, _ in lanes.steps[1:]), max(lanes.until, lanes.steps[-1][0])] if lanes.steps else []
    return sum((end - at) * count for (at, count), end in zip(lanes.steps, ends, strict=True)) // 1_000


def unsure_ends(lanes: Lanes) -> tuple[int, int]:
    """How many ends were derived or inferred, and how many there are."""
    ends = [by for lane in lanes.lanes for bar in lane.bars for by in (bar.start_by, bar.end_by) if by is not None]
    return sum(by != "reported" for by in ends), len(ends)


def _session_lane(row: SessionRow) -> Lane:
    start = row.started_at if row.started_at is not None else row.created_at
    bar = Bar(
        key="session",
        phase="session",
        start=start if start is not None else row.begins_at,
        end=row.ended_at,
        start_by=row.start_provenance if start is not None else "inferred",
        end_by=row.end.provenance if row.end else None,
        reason=row.end.reason if row.end else None,
        note=row.end.vendor_reason if row.end else None,
    )
    return Lane(kind="session", key="session", label="Session", about=row.room_name or row.room_id, bars=[bar])


def _recording_lane(row: RecordingRow) -> Lane:
    key = f"rec:{row.vendor_id}"
    bars = [
        Bar(
            key=key,
            phase="recording",
            start=row.started_at,
            end=row.stopped_at,
            start_by=row.start_provenance,
            end_by=row.stop_provenance,
            reason=row.stop_reason,
            note=row.status,
        )
    ]
    dots = [
        Dot(at=step["at"], name=str(step["status"]), position=step.get("position"))
        for step in row.history
        if step.get("at") is not None
    ]
    after = [dot for dot in dots if row.stopped_at is not None and dot.at > row.stopped_at]
    if after and row.stopped_at is not None:
        last = max(after, key=lambda dot: dot.at)
        bars.append(
            Bar(
                key=key,
                phase="processing",
                start=row.stopped_at,
                end=last.at,
                start_by=row.stop_provenance,
                end_by="reported",
                note=last.name,
            )
        )
    mode = f"Recording · {row.mode.replace('_', ' ').lower()}" if row.mode else "Recording"
    return Lane(kind="recording", key=key, label=mode, about=row.vendor_id, bars=bars, dots=dots)


def _supervisor_lane(row: SupervisorSessionRow) -> Lane:
    key = f"sup:{base_of(row.id)}"
    bar = Bar(
        key=key,
        phase="supervisor",
        start=row.started_at,
        end=row.ended_at,
        start_by=row.start_provenance,
        end_by=row.provenance if row.ended_at is not None else None,
    )
    label = f"Supervisor {row.supervisor_client}" if row.supervisor_client else "Supervisor"
    return Lane(kind="supervisor", key=key, label=label, about=row.agent_client, bars=[bar])


def _activity_lanes(entries: Sequence[EntryRow], session: SessionRow) -> list[Lane]:
    """Broadcasts, ingresses, transcriptions and agents' jobs have no rows: their entries tell of both ends."""
    found: dict[str, dict[str, EntryRow]] = {}
    for entry in entries:
        what, _, step = entry.kind.rpartition(".")
        if step in {"started", "ended", "stopped"}:
            ends = found.setdefault(f"act:{what}:{entry.subject_id or ''}", {})
            ends.setdefault("start" if step == "started" else "end", entry)
    lanes: list[Lane] = []
    for key, ends in found.items():
        start, end = ends.get("start"), ends.get("end")
        one = start or end
        over = end.at if end is not None else session.ended_at
        bar = Bar(
            key=key,
            phase="activity",
            start=None if start is None else start.at,
            end=over,
            start_by=None if start is None else start.provenance,
            end_by=end.provenance if end is not None else None if over is None else "inferred",
        )
        what, about = (
            (one.subject_type.replace("_", " ").capitalize(), one.subject_id) if one is not None else ("activity", None)
        )
        lanes.append(Lane(kind="activity", key=key, label=what, about=about, bars=[bar]))
    return lanes


def _axis(
    session: SessionRow, lanes: Sequence[Lane], connections: Sequence[ConnectionRow], now: Micros | None
) -> tuple[Micros, Micros, Micros]:
    moments = [at for lane in lanes for bar in lane.bars for at in (bar.start, bar.end) if at is not None]
    moments += [dot.at for lane in lanes for dot in lane.dots]
    begin = min([session.begins_at, *moments])
    latest = max([session.last_event_at if session.state == "open" else begin, now or begin, *moments])
    people = [at for row in connections for at in (row.joined_at, row.left_at) if at is not None]
    over = session.ended_at if session.ended_at is not None else now if now is not None else session.last_event_at
    core = max([begin + LEAST, over, *people])
    return begin, max(core, min(latest, core + int((core - begin) * TAIL))), max(latest, core)


def _marks(parts: SessionParts, begin: Micros, until: Micros) -> list[Mark]:
    """Every anomaly at the moment of its record; without one, where what is missing would have been."""
    known: dict[int, EntryRow] = {}
    for entry in parts.noticed:
        known.setdefault(entry.position, entry)
    marks: list[Mark] = []
    for anomaly in parts.session.anomalies:
        entry = None if anomaly.position is None else known.get(anomaly.position)
        if entry is not None:
            at, key = entry.at, keys_of(entry)[0]
        else:
            at = parts.session.ended_at if anomaly.kind == "missing_end" else begin
            at, key = until if at is None else at, None
        marks.append(Mark(at=at, kind=anomaly.kind, detail=anomaly.detail, position=anomaly.position, key=key))
    return sorted(marks, key=lambda mark: mark.at)
