"""The events of a session: as lines of the list, as JSON for the script, and as exported CSV and JSON Lines.

In CSV, a cell that a spreadsheet would read as a formula (it starts with = + - @, also behind blanks, or a control character) gets an
apostrophe in front.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import msgspec

from tracker.views.answers import Entry, time_of
from tracker.api.route import ApiRequest
from tracker.views.presenters import present_entry
from tracker.dashboard.lanes import SessionParts, vendor_id, entry_keys
from tracker.domain.facts import Micros
from tracker.domain.rows import EntryRow, SessionRow

FORMULA_SIGNS = "=+-@\u2212"
CONTROL_SIGNS = ("\t", "\r", "\n")
BLANK_CATEGORIES = {"Cc", "Cf", "Cn", "Co", "Cs", "Mn", "Me", "Zs", "Zl", "Zp"}
"""Characters that are not seen. Some spreadsheets drop them at the start of a cell."""
BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and a symbol that are not seen either."""
EXPORT_PAGE = 1_000
"""Entries an export reads at a time."""

TIMELINE_COLUMNS = (
    "at", "received_at", "delay_ms", "kind", "subject_type", "subject_id", "actor", "provenance", "clock", "source",
    "position", "id", "detail",
)  # fmt: skip
ATTENDANCE_COLUMNS = (
    "session_id", "participant", "identity", "name", "kind", "connection", "joined_at", "joined_provenance", "left_at",
    "left_provenance", "left_reason", "left_vendor_reason", "duration_ms", "presence_ms", "aborted", "platform",
)  # fmt: skip


class EventLine(msgspec.Struct, frozen=True, kw_only=True):
    """One event of the list. `since_ms`: time since the previous one. `delay_ms`: time from the event to its receipt."""

    entry: Entry
    since_ms: int | None
    delay_ms: int | None
    subject: str | None
    who: str | None
    detail: str


def event_lines(rows: Iterable[EntryRow], names: Mapping[str, str]) -> list[EventLine]:
    """The lines of the list. `names`: id of a person or connection → display name."""
    lines: list[EventLine] = []
    before: Micros | None = None
    for row in rows:
        subject = row.subject_id
        lines.append(
            EventLine(
                entry=present_entry(row),
                since_ms=None if before is None else (row.at - before) // 1000,
                delay_ms=delay_ms(row),
                subject=None if subject is None else names.get(subject, subject),
                who=None if row.actor in {None, subject} else names.get(row.actor or "", row.actor),
                detail=format_detail(row.detail),
            )
        )
        before = row.at
    return lines


def display_names(parts: SessionParts) -> dict[str, str]:
    """Display names: id of a person, a connection, a supervisor session, or the only recording → name."""
    names = {row.id: row.name or row.identity or row.id for row in parts.participants}
    for row in parts.connections:
        names.setdefault(vendor_id(row.id), names.get(row.participant, row.participant))
    for supervisor in parts.supervisors:
        if supervisor.supervisor_client:
            names.setdefault(vendor_id(supervisor.id), f"Supervisor {supervisor.supervisor_client}")
    if len(parts.recordings) == 1:
        names.setdefault(parts.recordings[0].vendor_id, "Recording")
    return names


def delay_ms(row: EntryRow) -> int | None:
    """Time from an event to its receipt, in ms; None for an entry that no event reported."""
    return None if row.received_at is None else (row.received_at - row.at) // 1000


def format_detail(detail: Mapping[str, Any]) -> str:
    """The detail of an entry in one line."""
    words: list[str] = []
    for name, value in detail.items():
        if value in (None, "", [], {}) or name == "connection":
            continue
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        words.append(f"{name.replace('_', ' ')} {text}")
    return " · ".join(words)


def entry_to_json(row: EntryRow) -> list[Any]:
    """One event for the script. Times are µs; the last item lists the keys of the bars it belongs to."""
    return [
        row.id, row.at, row.received_at, row.kind, row.subject_type, row.subject_id, row.actor, row.provenance,
        row.clock, row.position, row.n, row.detail, entry_keys(row),
    ]  # fmt: skip


async def all_entries(api_request: ApiRequest, session: SessionRow) -> AsyncIterator[list[EntryRow]]:
    """All entries of a session by time, page by page."""
    cursor: str | None = None
    while True:
        rows, cursor = await api_request.context.views.timeline(
            session.id, kinds=(), subject=None, limit=EXPORT_PAGE, cursor=cursor
        )
        yield rows
        if cursor is None:
            return


def json_lines(rows: Iterable[EntryRow]) -> bytes:
    """Entries as JSON Lines, each as the API answers it."""
    return msgspec.json.Encoder().encode_lines([present_entry(row) for row in rows])


def timeline_csv(rows: Iterable[EntryRow]) -> bytes:
    """Entries as CSV with `TIMELINE_COLUMNS`, without the header."""
    lines: list[list[Any]] = []
    for row in rows:
        entry = present_entry(row)
        lines.append(
            [entry.at, entry.received_at, delay_ms(row), entry.kind, entry.subject.type, entry.subject.id, entry.actor,
             entry.provenance, entry.clock, entry.source, entry.position, entry.id,
             msgspec.json.encode(entry.detail).decode() if entry.detail else None]
        )  # fmt: skip
    return write_csv(lines)


def attendance_csv(session_id: str, participants: Iterable[Any], connections: Iterable[Any]) -> bytes:
    """One line per connection, with `ATTENDANCE_COLUMNS`. `presence_ms` is the person's, over all their connections."""
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
    return write_csv([list(ATTENDANCE_COLUMNS), *lines])


def write_csv(lines: Iterable[Iterable[Any]]) -> bytes:
    """Lines of CSV (RFC 4180), with formulas escaped."""
    text = io.StringIO()
    csv.writer(text).writerows([escape_formula(cell) for cell in line] for line in lines)
    return text.getvalue().encode()


def escape_formula(cell: Any) -> Any:
    """Escape a text that a spreadsheet would read as a formula. Numbers stay numbers, negative ones too."""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, str) and (cell.startswith(CONTROL_SIGNS) or _is_formula(cell)):
        return f"'{cell}"
    return cell


def _is_formula(text: str) -> bool:
    """Whether the first character that is seen begins a formula, in its usual, wide or small form."""
    for character in text:
        if unicodedata.category(character) not in BLANK_CATEGORIES and character not in BLANK_LETTERS:
            return unicodedata.normalize("NFKC", character) in FORMULA_SIGNS
    return False
