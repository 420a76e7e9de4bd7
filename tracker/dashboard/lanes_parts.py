"""What swim lanes are made of: bars, dots, marks, and the keys by which entries find them. Pure.

Times are µs since the epoch, UTC. Both ends of every bar say how they are known; a bar without an end goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from tracker.domain.facts import Micros, Provenance
from tracker.domain.rows import ConnectionRow, EntryRow, ParticipantRow, RecordingRow, SessionRow, StreamRow, SupervisorSessionRow  # fmt: skip

LaneKind = Literal["session", "recording", "supervisor", "activity", "participant", "stream", "subscription"]


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One interval. `key` is what entries call it; `phase` what it is in its lane; `row` which row of the lane it lies in."""

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
        """Whether it still goes on."""
        return self.end is None and self.end_by is None


class Dot(msgspec.Struct, frozen=True, kw_only=True):
    """One moment in a lane: a status a recording reached."""

    at: Micros
    name: str
    position: int | None


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the picture. `parent` is the key of the lane it belongs to; `rows` how many rows its bars need."""

    kind: LaneKind
    key: str
    label: str
    about: str | None = None
    parent: str | None = None
    bars: list[Bar]
    dots: list[Dot] = []
    rows: int = 1


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """An anomaly where it was noticed. `key` is of the bar or lane it is about, where one is known."""

    at: Micros
    kind: str
    detail: str
    position: int | None
    key: str | None = None


class Lanes(msgspec.Struct, frozen=True, kw_only=True):
    """The whole picture.

    `begin` to `until` is the axis; `latest` the last moment anything here tells of, which may lie beyond it.
    `goes_on`: the session is open and was heard of lately, so its axis ends now. `steps`: (since when, people present).
    `left_out` names what was read only in part, with how many rows that were.
    """

    begin: Micros
    until: Micros
    latest: Micros
    goes_on: bool
    lanes: list[Lane]
    marks: list[Mark]
    steps: list[tuple[Micros, int]]
    left_out: dict[str, int] = {}


class SessionParts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the lanes are made of. `noticed` are entries at the positions of anomalies; `left_out` as in `Lanes`."""

    session: SessionRow
    participants: Sequence[ParticipantRow] = ()
    connections: Sequence[ConnectionRow] = ()
    streams: Sequence[StreamRow] = ()
    recordings: Sequence[RecordingRow] = ()
    supervisors: Sequence[SupervisorSessionRow] = ()
    activities: Sequence[EntryRow] = ()
    noticed: Sequence[EntryRow] = ()
    left_out: dict[str, int] = {}


def keys_of(row: EntryRow) -> tuple[str, ...]:
    """The keys of the bars and lanes an entry may belong to, the most exact first."""
    subject = row.subject_id or ""
    match row.subject_type:
        case "participant":
            connection = row.detail.get("connection")
            exact = base_of(connection) if isinstance(connection, str) else subject
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


def base_of(identity: str) -> str:
    """The vendor's own id of a row that shares it with others (`CAM~2` → `CAM`)."""
    head, tilde, number = identity.rpartition("~")
    return head if tilde and number.isdigit() else identity


def stacked(bars: Sequence[Bar]) -> tuple[list[Bar], int]:
    """The bars in order of their starts, each in the first row where it covers no other; and the number of rows."""
    free_from: list[float] = []
    placed: list[Bar] = []
    for bar in sorted(bars, key=lambda bar: (_left(bar), bar.key)):
        left, right = _left(bar), float("inf") if bar.is_open else float(bar.end or _left(bar))
        row = next((n for n, free in enumerate(free_from) if free <= left), len(free_from))
        if row == len(free_from):
            free_from.append(right)
        free_from[row] = max(right, left + 1)
        placed.append(bar if not row else msgspec.structs.replace(bar, row=row))
    return placed, max(1, len(free_from))


def _left(bar: Bar) -> Micros:
    return bar.start if bar.start is not None else bar.end or 0
