"""A session as swim lanes: which lanes and bars there are. Pure: rows in, lanes out.

Two files draw them: `lanes_svg.py` (the static picture) and `static/session_draw.js` (the interactive one).

    session ─ recordings (with their phases) ─ supervisor sessions ─ other activities ─ people
                                                                                          └ what they publish
                                                                                          └ what they receive

Times are µs since the epoch, UTC. Both ends of a bar say how they are known; a bar without an end is still running.

Bars of one lane that overlap get rows of their own, so that two devices of one person are both visible. A medium that is
published several times is one lane; so is everything received from one person.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from tracker.domain.facts import Micros, Provenance
from tracker.domain.rows import ConnectionRow, EntryRow, ParticipantRow, RecordingRow, SessionRow, StreamRow, SupervisorSessionRow  # fmt: skip
from tracker.projections.people import PERSON_KINDS, merge_spans

MIN_AXIS_US = 1_000_000
"""Shortest axis, in µs."""

MAX_TAIL = 0.5
"""Activity after the session (a recording being processed) may extend the axis by this fraction of the session."""

LaneKind = Literal["session", "recording", "supervisor", "activity", "participant", "stream", "subscription"]


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One interval. `key` is what entries refer to it by; `phase` is its kind within the lane; `row` is its row of the lane."""

    key: str
    phase: str
    start: Micros | None
    end: Micros | None
    start_by: Provenance | None
    end_by: Provenance | None
    reason: str | None = None
    note: str | None = None
    row: int = 0

    @property
    def is_open(self) -> bool:
        """Whether it is still running."""
        return self.end is None and self.end_by is None


class Dot(msgspec.Struct, frozen=True, kw_only=True):
    """One moment in a lane: a status that a recording reached."""

    at: Micros
    name: str
    position: int | None


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """One lane. `parent` is the key of the lane above it; `rows` is the number of rows its bars need."""

    kind: LaneKind
    key: str
    label: str
    about: str | None = None
    parent: str | None = None
    bars: list[Bar]
    dots: list[Dot] = []
    rows: int = 1


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """An anomaly and when it was found. `key` is that of the bar or lane it is about, if known."""

    at: Micros
    kind: str
    detail: str
    position: int | None
    key: str | None = None


class Lanes(msgspec.Struct, frozen=True, kw_only=True):
    """All lanes of a session.

    The axis is `begin` to `until`; `latest` is the last moment of any lane and may be later. `is_running`: the session is
    open and not stuck, so the axis ends now. `steps`: (since when, people present).
    `truncated`: what was only partly read → how many rows were read.
    """

    begin: Micros
    until: Micros
    latest: Micros
    is_running: bool
    lanes: list[Lane]
    marks: list[Mark]
    steps: list[tuple[Micros, int]]
    truncated: dict[str, int] = {}


class SessionParts(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of a session. `anomaly_entries`: entries at the positions of anomalies; `truncated` as in `Lanes`."""

    session: SessionRow
    participants: Sequence[ParticipantRow] = ()
    connections: Sequence[ConnectionRow] = ()
    streams: Sequence[StreamRow] = ()
    recordings: Sequence[RecordingRow] = ()
    supervisors: Sequence[SupervisorSessionRow] = ()
    activities: Sequence[EntryRow] = ()
    anomaly_entries: Sequence[EntryRow] = ()
    truncated: dict[str, int] = {}


def entry_keys(row: EntryRow) -> tuple[str, ...]:
    """The keys of the bars and lanes an entry may belong to, most specific first."""
    subject = row.subject_id or ""
    match row.subject_type:
        case "participant":
            connection = row.detail.get("connection")
            exact = vendor_id(connection) if isinstance(connection, str) else subject
            return f"c:{exact}", f"p:{subject}"
        case "stream":
            return f"s:{subject}", f"p:{row.actor or ''}"
        case "subscription":
            return f"r:{subject}@{row.actor or ''}", f"p:{row.actor or ''}"
        case "recording":
            return (f"rec:{subject}",)
        case "supervisor_session":
            return (f"sup:{subject}",)
        case "session":
            return ("session",)
        case other:
            return (f"act:{other}:{subject}",)


def vendor_id(identity: str) -> str:
    """The vendor's id, without the number that tells rows with the same id apart (`CAM~2` → `CAM`)."""
    head, tilde, number = identity.rpartition("~")
    return head if tilde and number.isdigit() else identity


def stack_bars(bars: Sequence[Bar]) -> tuple[list[Bar], int]:
    """Put each bar into the first row where it overlaps no other. Returns the bars by start, and the number of rows."""
    free_from: list[float] = []
    stacked: list[Bar] = []
    for bar in sorted(bars, key=lambda bar: (_bar_start(bar), bar.key)):
        left, right = _bar_start(bar), float("inf") if bar.is_open else float(bar.end or _bar_start(bar))
        row = next((n for n, free in enumerate(free_from) if free <= left), len(free_from))
        if row == len(free_from):
            free_from.append(right)
        free_from[row] = max(right, left + 1)
        stacked.append(bar if not row else msgspec.structs.replace(bar, row=row))
    return stacked, max(1, len(free_from))


def _bar_start(bar: Bar) -> Micros:
    return bar.start if bar.start is not None else bar.end or 0


def build_lanes(parts: SessionParts, *, now: Micros, is_stuck: bool) -> Lanes:
    """The lanes of a session at `now` (µs). A stuck session ends at its last event."""
    session = parts.session
    lanes = [
        _session_lane(session),
        *(_recording_lane(row) for row in parts.recordings),
        *(_supervisor_lane(row) for row in parts.supervisors),
        *_activity_lanes(parts.activities, session),
        *people_lanes(parts),
    ]
    is_running = session.state == "open" and not is_stuck
    begin, until, latest = _axis(session, lanes, parts.connections, now if is_running else None)
    return Lanes(
        begin=begin,
        until=until,
        latest=latest,
        is_running=is_running,
        lanes=lanes,
        marks=_marks(parts, begin, until),
        steps=presence_steps(parts.participants, parts.connections),
        truncated=parts.truncated,
    )


def presence_ms(lanes: Lanes) -> int:
    """Presence of all people together up to the end of the axis, in ms, including those still present."""
    ends = [*(at for at, _ in lanes.steps[1:]), max(lanes.until, lanes.steps[-1][0])] if lanes.steps else []
    return sum((end - at) * count for (at, count), end in zip(lanes.steps, ends, strict=True)) // 1_000


def count_unsure_ends(lanes: Lanes) -> tuple[int, int]:
    """(starts and ends that were derived or inferred, all starts and ends)."""
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
    key = f"sup:{vendor_id(row.id)}"
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
    """Broadcasts, ingresses, transcriptions and agent jobs have no rows of their own: their entries give both ends."""
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
    core = max([begin + MIN_AXIS_US, over, *people])
    return begin, max(core, min(latest, core + int((core - begin) * MAX_TAIL))), max(latest, core)


def _marks(parts: SessionParts, begin: Micros, until: Micros) -> list[Mark]:
    """Every anomaly at the time of its record; without a record, at the start or the end of the session."""
    known: dict[int, EntryRow] = {}
    for entry in parts.anomaly_entries:
        known.setdefault(entry.position, entry)
    marks: list[Mark] = []
    for anomaly in parts.session.anomalies:
        entry = None if anomaly.position is None else known.get(anomaly.position)
        if entry is not None:
            at, key = entry.at, entry_keys(entry)[0]
        else:
            at = parts.session.ended_at if anomaly.kind == "missing_end" else begin
            at, key = until if at is None else at, None
        marks.append(Mark(at=at, kind=anomaly.kind, detail=anomaly.detail, position=anomaly.position, key=key))
    return sorted(marks, key=lambda mark: mark.at)


def people_lanes(parts: SessionParts) -> list[Lane]:
    """One lane per person, followed by what they publish and what they receive."""
    bars: dict[str, list[Bar]] = {}
    last_connection: dict[str, ConnectionRow] = {}
    for row in parts.connections:
        last_connection[row.participant] = row
        bars.setdefault(row.participant, []).append(_connection_bar(row))
    names = {row.id: row.name or row.identity or row.id for row in parts.participants}
    media: dict[str, dict[tuple[str, str], list[StreamRow]]] = {}
    for stream in parts.streams:
        channel = (stream.direction, _channel(stream))
        media.setdefault(stream.participant or "", {}).setdefault(channel, []).append(stream)
    lanes: list[Lane] = []
    for person in parts.participants:
        connection = last_connection.get(person.id)
        about = [person.kind if person.kind != "standard" else None, connection.platform if connection else None]
        theirs, rows = stack_bars(bars.get(person.id, []))
        key = f"p:{person.id}"
        lanes.append(
            Lane(
                kind="participant",
                key=key,
                label=names[person.id],
                about=" · ".join(word for word in about if word) or None,
                bars=theirs,
                rows=rows,
            )
        )
        lanes += _media_lanes(key, media.pop(person.id, {}), names)
    unowned = {channel: streams for theirs in media.values() for channel, streams in theirs.items()}
    if unowned and not parts.truncated.get("participants"):
        lanes.append(Lane(kind="participant", key="p:", label="unknown person", bars=[]))
        lanes += _media_lanes("p:", unowned, names)
    return lanes


def _connection_bar(row: ConnectionRow) -> Bar:
    return Bar(
        key=f"c:{vendor_id(row.id)}",
        phase="aborted" if row.aborted else "connection",
        start=row.joined_at,
        end=row.left_at,
        start_by=row.join_provenance,
        end_by=row.leave.provenance if row.leave else None,
        reason=row.leave.reason if row.leave else None,
        note=row.leave.vendor_reason if row.leave else None,
    )


def _channel(row: StreamRow) -> str:
    """Streams with the same channel share a lane: one medium published several times, or everything received from one person."""
    if row.direction == "published":
        return " · ".join(word for word in (row.label, row.media) if word) or "stream"
    return row.publisher or row.stream


def _media_lanes(parent: str, found: dict[tuple[str, str], list[StreamRow]], names: dict[str, str]) -> list[Lane]:
    lanes: list[Lane] = []
    # Published before received, each by start.
    for (direction, channel), rows in sorted(found.items(), key=lambda item: item[0][0] != "published"):
        is_published = direction == "published"
        theirs, count = stack_bars([_stream_bar(row) for row in rows])
        lanes.append(
            Lane(
                kind="stream" if is_published else "subscription",
                key=f"{parent}/{direction}/{channel}",
                label=channel if is_published else f"from {names.get(channel, channel)}",
                about=None if is_published else " · ".join(sorted({row.media for row in rows if row.media})) or None,
                parent=parent,
                bars=theirs,
                rows=count,
            )
        )
    return lanes


def _stream_bar(row: StreamRow) -> Bar:
    is_published = row.direction == "published"
    return Bar(
        key=f"s:{row.stream}" if is_published else f"r:{row.stream}@{row.connection or row.participant or ''}",
        phase="stream" if is_published else "subscription",
        start=row.started_at,
        end=row.ended_at,
        start_by=row.start_provenance,
        end_by=row.end.provenance if row.end else None,
        reason=row.end.reason if row.end else None,
        note=row.end.vendor_reason if row.end else None,
    )


def presence_steps(
    participants: Sequence[ParticipantRow], connections: Sequence[ConnectionRow]
) -> list[tuple[Micros, int]]:
    """(since when, people present). Counts people only, and each once, whatever their number of connections."""
    people = {row.id for row in participants if row.kind in PERSON_KINDS}
    spans: dict[str, list[tuple[Micros, Micros | None]]] = {}
    for row in connections:
        if row.joined_at is not None and not row.aborted and (row.participant in people or not people):
            spans.setdefault(row.participant, []).append((row.joined_at, row.left_at))
    changes: dict[Micros, int] = {}
    for theirs in spans.values():
        for start, end in merge_spans(theirs):
            if end is not None and end <= start:
                continue
            changes[start] = changes.get(start, 0) + 1
            if end is not None:
                changes[end] = changes.get(end, 0) - 1
    steps: list[tuple[Micros, int]] = []
    present = 0
    for at, change in sorted(changes.items()):
        if change:
            present += change
            steps.append((at, present))
    return steps
