"""The lanes of people: each with their connections, what they publish and what they receive; and how many were there.

Bars of one lane that overlap lie in rows of their own, so that two devices of one person are both seen. The same medium
published again and again is one lane; so is everything received of one person. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracker.dashboard.lanes_parts import Bar, Lane, SessionParts, base_of, stacked
from tracker.domain.facts import Micros
from tracker.projections.people import PEOPLE, union
from tracker.domain.rows import ConnectionRow, ParticipantRow, StreamRow


def people_lanes(parts: SessionParts) -> list[Lane]:
    """Each person, and under them what they publish and what they receive."""
    bars: dict[str, list[Bar]] = {}
    where: dict[str, ConnectionRow] = {}
    for row in parts.connections:
        where[row.participant] = row
        bars.setdefault(row.participant, []).append(_connection_bar(row))
    names = {row.id: row.name or row.identity or row.id for row in parts.participants}
    media: dict[str, dict[tuple[str, str], list[StreamRow]]] = {}
    for stream in parts.streams:
        wanted = (stream.direction, _channel(stream))
        media.setdefault(stream.participant or "", {}).setdefault(wanted, []).append(stream)
    lanes: list[Lane] = []
    for person in parts.participants:
        seen = where.get(person.id)
        about = [person.kind if person.kind != "standard" else None, seen.platform if seen else None]
        theirs, rows = stacked(bars.get(person.id, []))
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
    nobody = {channel: streams for theirs in media.values() for channel, streams in theirs.items()}
    if nobody and not parts.left_out.get("participants"):
        lanes.append(Lane(kind="participant", key="p:", label="nobody known", bars=[]))
        lanes += _media_lanes("p:", nobody, names)
    return lanes


def _connection_bar(row: ConnectionRow) -> Bar:
    return Bar(
        key=f"c:{base_of(row.id)}",
        phase="aborted" if row.aborted else "connection",
        start=row.joined_at,
        end=row.left_at,
        start_by=row.join_provenance,
        end_by=row.leave.provenance if row.leave else None,
        reason=row.leave.reason if row.leave else None,
        note=row.leave.vendor_reason if row.leave else None,
    )


def _channel(row: StreamRow) -> str:
    """What makes streams one lane: the same medium published again and again, or everything received of one person."""
    if row.direction == "published":
        return " · ".join(word for word in (row.label, row.media) if word) or "stream"
    return row.publisher or row.stream


def _media_lanes(parent: str, found: dict[tuple[str, str], list[StreamRow]], names: dict[str, str]) -> list[Lane]:
    lanes: list[Lane] = []
    # Published before received, each in the order it began.
    for (direction, channel), rows in sorted(found.items(), key=lambda item: item[0][0] != "published"):
        is_published = direction == "published"
        theirs, count = stacked([_stream_bar(row) for row in rows])
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


def steps_of(participants: Sequence[ParticipantRow], connections: Sequence[ConnectionRow]) -> list[tuple[Micros, int]]:
    """How many people were present since when: persons only, each once, however often they are connected."""
    people = {row.id for row in participants if row.kind in PEOPLE}
    spans: dict[str, list[tuple[Micros, Micros | None]]] = {}
    for row in connections:
        if row.joined_at is not None and not row.aborted and (row.participant in people or not people):
            spans.setdefault(row.participant, []).append((row.joined_at, row.left_at))
    changes: dict[Micros, int] = {}
    for theirs in spans.values():
        for start, end in union(theirs):
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
