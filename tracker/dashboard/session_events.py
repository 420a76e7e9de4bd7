"""The events of a session as lines: what stands in the list, in the script's pages of it, and in the exported files.

A cell that a spreadsheet would take for a formula (it begins with = + - @ or a control character) gets an apostrophe.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import msgspec

from tracker.views.answers import Entry, time_of
from tracker.api.route import ApiRequest
from tracker.views.presenters import present_entry
from tracker.dashboard.lanes import SessionParts, base_of, keys_of
from tracker.domain.facts import Micros
from tracker.domain.rows import EntryRow, SessionRow

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
EXPORTED = 1_000
"""Lines an export reads at a time."""

TIMELINE_COLUMNS = (
    "at", "received_at", "delay_ms", "kind", "subject_type", "subject_id", "actor", "provenance", "clock", "source",
    "position", "id", "detail",
)  # fmt: skip
ATTENDANCE_COLUMNS = (
    "session_id", "participant", "identity", "name", "kind", "connection", "joined_at", "joined_provenance", "left_at",
    "left_provenance", "left_reason", "left_vendor_reason", "duration_ms", "presence_ms", "aborted", "platform",
)  # fmt: skip


class EventLine(msgspec.Struct, frozen=True, kw_only=True):
    """One event of the list. `since_ms`: since the one before; `delay_ms`: received − occurred."""

    entry: Entry
    since_ms: int | None
    delay_ms: int | None
    subject: str | None
    who: str | None
    told: str


def lines_of(rows: Iterable[EntryRow], names: Mapping[str, str]) -> list[EventLine]:
    """The lines of the list; `names` turns identities and connections into what people are called."""
    lines: list[EventLine] = []
    before: Micros | None = None
    for row in rows:
        subject = row.subject_id
        lines.append(
            EventLine(
                entry=present_entry(row),
                since_ms=None if before is None else (row.at - before) // 1000,
                delay_ms=delay_of(row),
                subject=None if subject is None else names.get(subject, subject),
                who=None if row.actor in {None, subject} else names.get(row.actor or "", row.actor),
                told=detail_text(row.detail),
            )
        )
        before = row.at
    return lines


def names_of(parts: SessionParts) -> dict[str, str]:
    """What people, supervisor sessions and an only recording are called, by their ids and those of connections."""
    names = {row.id: row.name or row.identity or row.id for row in parts.participants}
    for row in parts.connections:
        names.setdefault(base_of(row.id), names.get(row.participant, row.participant))
    for supervisor in parts.supervisors:
        if supervisor.supervisor_client:
            names.setdefault(base_of(supervisor.id), f"Supervisor {supervisor.supervisor_client}")
    if len(parts.recordings) == 1:
        names.setdefault(parts.recordings[0].vendor_id, "Recording")
    return names


def delay_of(row: EntryRow) -> int | None:
    """How long after it happened an event was received, ms; None where no event told it."""
    return None if row.received_at is None else (row.received_at - row.at) // 1000


def detail_text(detail: Mapping[str, Any]) -> str:
    """The detail of an entry as one line."""
    words: list[str] = []
    for name, value in detail.items():
        if value in (None, "", [], {}) or name == "connection":
            continue
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        words.append(f"{name.replace('_', ' ')} {text}")
    return " · ".join(words)


def compact(row: EntryRow) -> list[Any]:
    """One event for the script: times are µs, the last is the keys of the bars it belongs to."""
    return [
        row.id, row.at, row.received_at, row.kind, row.subject_type, row.subject_id, row.actor, row.provenance,
        row.clock, row.position, row.n, row.detail, keys_of(row),
    ]  # fmt: skip


async def every_entry(asked: ApiRequest, session: SessionRow) -> AsyncIterator[list[EntryRow]]:
    """All entries of a session by time, in lists."""
    cursor: str | None = None
    while True:
        rows, cursor = await asked.context.views.timeline(
            session.id, kinds=(), subject=None, limit=EXPORTED, cursor=cursor
        )
        yield rows
        if cursor is None:
            return


def json_lines(rows: Iterable[EntryRow]) -> bytes:
    """Entries as the API answers them, one a line."""
    return msgspec.json.Encoder().encode_lines([present_entry(row) for row in rows])


def timeline_csv(rows: Iterable[EntryRow]) -> bytes:
    """Entries as lines of `TIMELINE_COLUMNS`."""
    lines: list[list[Any]] = []
    for row in rows:
        entry = present_entry(row)
        lines.append(
            [entry.at, entry.received_at, delay_of(row), entry.kind, entry.subject.type, entry.subject.id, entry.actor,
             entry.provenance, entry.clock, entry.source, entry.position, entry.id,
             msgspec.json.encode(entry.detail).decode() if entry.detail else None]
        )  # fmt: skip
    return csv_of(lines)


def attendance_csv(session_id: str, participants: Iterable[Any], connections: Iterable[Any]) -> bytes:
    """One line a connection, `ATTENDANCE_COLUMNS`; `presence_ms` is of the person, over all their connections."""
    people = {row.id: row for row in participants}
    lines: list[list[Any]] = []
    for row in connections:
        person, leave = people.get(row.participant), row.leave
        lines.append(
            [session_id, row.participant, *((person.identity, person.name, person.kind) if person else (None, None, None)),
             row.id, time_of(row.joined_at), row.join_provenance, time_of(row.left_at),
             *((leave.provenance, leave.reason, leave.vendor_reason) if leave else (None, None, None)),
             row.duration_ms, person.presence_ms if person else None, row.aborted, row.platform]
        )  # fmt: skip
    return csv_of([list(ATTENDANCE_COLUMNS), *lines])


def csv_of(lines: Iterable[Iterable[Any]]) -> bytes:
    """Lines of CSV (RFC 4180), every cell harmless."""
    text = io.StringIO()
    csv.writer(text).writerows([harmless(cell) for cell in line] for line in lines)
    return text.getvalue().encode()


def harmless(cell: Any) -> Any:
    """The cell as no spreadsheet takes it for a formula. Numbers are numbers, negative ones too."""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, str) and cell.startswith(FORMULA):
        return f"'{cell}"
    return cell
