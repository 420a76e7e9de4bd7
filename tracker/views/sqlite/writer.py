"""The writing half of the SQLite views: the projector's queries, and the statements of a save.

A save runs in one `BEGIN IMMEDIATE` transaction. The rows of a session are deleted and written again. If the saved rows of a
session are known, only the differences are written, and indices whose columns stay the same are not touched.
First, `SELECT_NAMES` and `SAVE_NAMES` give every session id and source name its number. Parameters come from generators, which
SQLite consumes in the connection's thread, not in the event loop.
"""

# ruff: noqa: S608 - only constants are concatenated
from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from tracker.domain.ordering import causal_rank, tie_breaker
from tracker.domain.rows import EntryRow, SessionRows
from tracker.domain.set_aside import find_set_aside
from tracker.views.sqlite import encoding
from tracker.views.contract import Changes, RoomUpdate, SavedEntry, SourceRow
from tracker.views.sqlite.row_diff import CHILDREN, RowDiff, row_diff, first_known, session_over_at
from tracker.views.sqlite.encoding import decode_entry
from tracker.views.sqlite.queries import ENTRY_COLUMNS, NUMBER_OF_NAME

SELECT_POSITION = "SELECT value FROM meta WHERE key = 'position'"
SELECT_STATES = """
SELECT name, state FROM json_each(?) CROSS JOIN names ON name = value JOIN session_states ON session = number"""
SELECT_SOURCES = "SELECT source, vendor, last_received_at, records, state FROM sources ORDER BY source"
SAVED_ENTRY_COLUMNS = f"{ENTRY_COLUMNS}, room, placed_at, place, anchor"
"""The columns that `decode_saved_entry` decodes."""
SELECT_SESSION_ENTRIES = f"""
SELECT {SAVED_ENTRY_COLUMNS} FROM entries WHERE session = {NUMBER_OF_NAME} ORDER BY position, n"""
SELECT_UNREPORTED_SESSIONS = """
SELECT sessions.id FROM json_each(?1) AS asked CROSS JOIN sessions
ON source = ?2 AND end_provenance IS NULL AND begins_at < asked.value ->> 1
WHERE last_event_at >= asked.value ->> 0 AND last_event_at < asked.value ->> 1
UNION SELECT sessions.id FROM json_each(?1) AS asked CROSS JOIN sessions
ON source = ?2 AND end_provenance = 'inferred' AND begins_at < asked.value ->> 1
WHERE last_event_at >= asked.value ->> 0 AND last_event_at < asked.value ->> 1 ORDER BY 1"""
SELECT_NEVER_JOINED_SESSIONS = """
SELECT id FROM sessions WHERE source = ? AND end_provenance IS NULL AND begins_at < ? AND joined = 0 ORDER BY id"""

SELECT_NAMES = "SELECT name, number FROM json_each(?) CROSS JOIN names ON name = value"
SAVE_NAMES = "INSERT INTO names (name) SELECT value FROM json_each(?)"

DELETE_SESSIONS = "DELETE FROM sessions WHERE number = ?"
DELETE_OF_SESSION = tuple(f"DELETE FROM {table} WHERE session = ?" for table in ("session_lookups", *CHILDREN, "gaps"))
DELETE_SET_ASIDE = "DELETE FROM set_aside WHERE session = ?"
COUNT_SET_ASIDE = "SELECT count(*) FROM set_aside"
SAVE_SET_ASIDE = "INSERT INTO set_aside (session) VALUES (?)"
DELETE_STATES = "DELETE FROM session_states WHERE session = ?"
SAVE_SESSIONS = """
INSERT INTO sessions (number, id, source, vendor, room_id, room_name, state, begins_at, over_at, duration_ms, last_event_at,
    participants, participant_ms, recordings, supervisors, anomalies, end_provenance, joined, next_run_after, parent_id,
    doc)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (number) DO UPDATE SET source = excluded.source, vendor = excluded.vendor, room_id = excluded.room_id,
    room_name = excluded.room_name, state = excluded.state, begins_at = excluded.begins_at, over_at = excluded.over_at,
    duration_ms = excluded.duration_ms, last_event_at = excluded.last_event_at, participants = excluded.participants,
    participant_ms = excluded.participant_ms, recordings = excluded.recordings, supervisors = excluded.supervisors,
    anomalies = excluded.anomalies, end_provenance = excluded.end_provenance, joined = excluded.joined,
    next_run_after = excluded.next_run_after, parent_id = excluded.parent_id, doc = excluded.doc"""
# SQLite rewrites the entries of every index with a column in this list, whether or not its value changes.
UPDATE_SESSIONS = (
    "UPDATE sessions SET last_event_at = ?, participants = ?, participant_ms = ?, doc = ? WHERE number = ?"
)
UPDATE_JOINED = "UPDATE sessions SET joined = ? WHERE number = ?"
UPDATE_NEXT_RUN = "UPDATE sessions SET next_run_after = ? WHERE number = ?"
DELETE_LOOKUPS = "DELETE FROM session_lookups WHERE lookup = ? AND session = ?"
DELETE_GAPS = "DELETE FROM gaps WHERE session = ?"
DELETE_CHILDREN = {table: f"DELETE FROM {table} WHERE session = ? AND begins_at = ? AND id = ?" for table in CHILDREN}
SAVE_STATES = "INSERT OR REPLACE INTO session_states (session, state) VALUES (?, ?)"
SAVE_LOOKUPS = "INSERT OR IGNORE INTO session_lookups (lookup, session) VALUES (?, ?)"
CHILD_COLUMNS = {
    "participants": ("session_id", "source", "identity", "name"),
    "connections": (),
    "streams": (),
    "recordings": ("session_id", "source", "status"),
    "supervisor_sessions": ("session_id", "source", "vendor_id", "supervisor_client", "agent_client"),
}
"""The columns of each table of child rows between (session, begins_at, id) and `doc`."""
SAVE_CHILDREN = {
    table: f"INSERT INTO {table} ({', '.join(('session', 'begins_at', 'id', *columns, 'doc'))})"
    f" VALUES ({', '.join('?' * (len(columns) + 4))})"
    for table, columns in CHILD_COLUMNS.items()
}
SAVE_ENTRIES = """
INSERT OR REPLACE INTO entries
    (position, n, session, at, kind, subject_id, source, hidden, rank, tie, rest, event, text, damage, room, placed_at, place, anchor)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
SAVE_GAPS = """
INSERT INTO gaps (position, n, session, at, kind, subject_id, source, hidden, rank, tie, rest)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
SAVE_ROOMS = "INSERT INTO rooms (source, room) VALUES (?, ?) ON CONFLICT DO NOTHING"
DELETE_MARKS = """
DELETE FROM room_marks WHERE room = (SELECT number FROM rooms WHERE source = ? AND room = ?)
AND kind = ? AND at = ? AND until = ? AND name = ?"""
SAVE_MARKS = """
INSERT INTO room_marks (room, kind, at, until, name)
VALUES ((SELECT number FROM rooms WHERE source = ? AND room = ?), ?, ?, ?, ?) ON CONFLICT DO NOTHING"""
SAVE_SOURCES = (
    "INSERT OR REPLACE INTO sources (source, vendor, last_received_at, records, state) VALUES (?, ?, ?, ?, ?)"
)
SAVE_POSITION = "UPDATE meta SET value = ? WHERE key = 'position'"

Batch = tuple[str, Iterable[Sequence[Any]]]
"""A statement, and the parameters of each of its executions."""

Numbers = Mapping[str, int]
"""Session id or source name → its number in `names`."""


def decode_saved_entry(row: Sequence[Any]) -> SavedEntry:
    """The entry in the columns of `decode_entry`, followed by (room, placed_at, place, anchor)."""
    entry = decode_entry(row)
    placed_at = entry.at if row[10] is None else row[10]
    return SavedEntry(row=entry, room=row[9], placed_at=placed_at, session_ref=row[11] or b"", anchor=row[12])


def decode_source(row: Sequence[Any]) -> SourceRow:
    """The source in the columns (source, vendor, last_received_at, records, state)."""
    return SourceRow(source=row[0], vendor=row[1], last_received_at=row[2], records=row[3], state=row[4])


def json_list(values: Iterable[Any]) -> str:
    """A list as one parameter, for `json_each(?)`."""
    return json.dumps(list(values), ensure_ascii=False)


def collect_names(changes: Changes) -> set[str]:
    """All names whose numbers these changes need."""
    names = set(changes.removed)
    for rows in changes.sessions:
        names.add(rows.session.id)
        names.add(rows.session.source)
    for saved in changes.entries:
        names.add(saved.row.source)
        if saved.row.session_id is not None:
            names.add(saved.row.session_id)
    return names


def begin_save(connection: sqlite3.Connection, names: AbstractSet[str]) -> tuple[dict[str, int], set[str]]:
    """Begin a transaction unless one is open. Returns the number of each name, and the names that are new."""
    if not connection.in_transaction:
        connection.execute("BEGIN IMMEDIATE")
    wanted = [json_list(sorted(names))]
    known: dict[str, int] = dict(connection.execute(SELECT_NAMES, wanted))
    fresh = names - known.keys()
    if fresh:
        added = [json_list(sorted(fresh))]
        connection.execute(SAVE_NAMES, added)
        known.update(connection.execute(SELECT_NAMES, added))
    return known, set(fresh)


def execute_save(
    connection: sqlite3.Connection,
    changes: Changes,
    numbers: Numbers,
    fresh: AbstractSet[str],
    known: Mapping[str, SessionRows] = {},
) -> None:
    """Execute the statements of a save after `begin_save`. `known`: rows that the file is known to hold."""
    for statement, parameters in save_statements(changes, numbers, fresh, known):
        connection.executemany(statement, parameters)


def save_statements(
    changes: Changes, numbers: Numbers, fresh: AbstractSet[str], known: Mapping[str, SessionRows]
) -> Iterator[Batch]:
    """The statements of a save, in order. `fresh`: names under which nothing was saved before.

    Rows are encoded only when SQLite asks for their parameters.
    """
    sessions = [rows for rows in changes.sessions if rows.session.id not in known]
    diffs = [row_diff(known[name], rows) for rows in changes.sessions if (name := rows.session.id) in known]
    stale = [
        (numbers[name],) for name in (*changes.removed, *(rows.session.id for rows in sessions)) if name not in fresh
    ]
    if stale:
        for statement in DELETE_OF_SESSION:
            yield statement, stale
    was_set_aside = [
        (numbers[name],) for name in sorted({*changes.removed, *(r.session.id for r in changes.sessions)} - fresh)
    ]
    if was_set_aside:
        yield DELETE_SET_ASIDE, was_set_aside
    if changes.removed:
        gone = [(numbers[session_id],) for session_id in changes.removed]
        yield DELETE_SESSIONS, gone
        yield DELETE_STATES, gone
    if diffs:
        yield from _difference_statements([(numbers[diff.rows.session.id], diff) for diff in diffs])
    placed = [(numbers[rows.session.id], rows) for rows in sessions]
    if placed:
        yield SAVE_SESSIONS, (_session(number, rows) for number, rows in placed)
    set_aside = [(numbers[rows.session.id],) for rows in changes.sessions if find_set_aside(rows.session)]
    if set_aside:
        yield SAVE_SET_ASIDE, set_aside
    placed += [(numbers[diff.rows.session.id], diff.added) for diff in diffs]
    if placed:
        yield from _session_statements(placed, numbers)
    if changes.entries:
        yield SAVE_ENTRIES, (_saved_entry_values(saved, numbers) for saved in changes.entries)
    if changes.rooms:
        yield from _mark_statements(changes.rooms)
    if changes.sources:
        yield (
            SAVE_SOURCES,
            ((row.source, row.vendor, row.last_received_at, row.records, row.state) for row in changes.sources),
        )
    yield SAVE_POSITION, [(changes.position,)]


def _mark_statements(rooms: Sequence[RoomUpdate]) -> Iterator[Batch]:
    yield SAVE_ROOMS, [(source, room) for source, room, _ in rooms]
    changes = [(source, room, change) for source, room, changed in rooms for change in changed]
    yield (
        DELETE_MARKS,
        [(source, room, kind, *before) for source, room, (kind, before, _) in changes if before is not None],
    )
    yield SAVE_MARKS, [(source, room, kind, *after) for source, room, (kind, _, after) in changes if after is not None]


def _difference_statements(diffs: Sequence[tuple[int, RowDiff]]) -> Iterator[Batch]:
    """What is removed from sessions that were saved before, and their own rows."""
    for table, statement in DELETE_CHILDREN.items():
        removed = [(number, *key) for number, diff in diffs for key in diff.removed.get(table, ())]
        if removed:
            yield statement, removed
    yield DELETE_LOOKUPS, [(lookup, number) for number, diff in diffs for lookup in diff.lookups_removed]
    yield DELETE_GAPS, [(number,) for number, diff in diffs if diff.gaps_changed]
    yield SAVE_SESSIONS, (_session(number, diff.rows) for number, diff in diffs if diff.index_changed)
    same = [(number, diff) for number, diff in diffs if not diff.index_changed]
    yield UPDATE_SESSIONS, (_session_update(number, diff.rows) for number, diff in same)
    yield (
        UPDATE_JOINED,
        [(len(diff.rows.connections) + len(diff.rows.streams), number) for number, diff in same if diff.joined_changed],
    )
    yield UPDATE_NEXT_RUN, [(diff.rows.next_run_after, number) for number, diff in same if diff.next_run_changed]


def _session_update(number: int, rows: SessionRows) -> Sequence[Any]:
    row = rows.session
    return row.last_event_at, row.participants, row.participant_ms, encoding.sessions.encode(row), number


def _session_statements(placed: Sequence[tuple[int, SessionRows]], numbers: Numbers) -> Iterator[Batch]:
    """Everything of sessions except their own rows."""
    yield (
        SAVE_STATES,
        (
            (number, encoding.compress_state(rows.state, is_open=rows.session.state == "open"))
            for number, rows in placed
        ),
    )
    yield SAVE_LOOKUPS, ((lookup, number) for number, rows in placed for lookup in rows.lookups)
    for table, statement in SAVE_CHILDREN.items():
        yield statement, _child_values(table, placed)
    yield SAVE_GAPS, (_entry_values(gap, numbers) for _, rows in placed for gap in rows.gaps)


def _session(number: int, rows: SessionRows) -> Sequence[Any]:
    row = rows.session
    return (
        number, row.id, row.source, row.vendor, row.room_id, row.room_name, row.state, row.begins_at,
        session_over_at(row), row.duration_ms, row.last_event_at, row.participants, row.participant_ms,
        row.recordings, row.supervisors, len(row.anomalies),
        None if row.end is None else row.end.provenance, len(rows.connections) + len(rows.streams),
        rows.next_run_after, row.parent_id, encoding.sessions.encode(row),
    )  # fmt: skip


def _child_values(table: str, placed: Sequence[tuple[int, SessionRows]]) -> Iterator[Sequence[Any]]:
    """The values of `SAVE_CHILDREN`, for every row of these sessions in one table."""
    columns, times, pack = CHILD_COLUMNS[table], CHILDREN[table], getattr(encoding, table).encode
    for number, rows in placed:
        source, begins_at = rows.session.source, rows.session.begins_at
        for row in getattr(rows, table):
            values: list[Any] = []
            if columns:
                own = {"source": source, "vendor_id": row.id.removeprefix(f"{source}:")}
                values = [own[name] if name in own else getattr(row, name) for name in columns]
            yield number, first_known(*times(row), begins_at), row.id, *values, pack(row)


def _saved_entry_values(saved: SavedEntry, numbers: Numbers) -> tuple[Any, ...]:
    line = (*_entry_values(saved.row, numbers), *encoding.encode_copy(saved.row.copy))
    return (
        (*line, None, None, None, None)
        if saved.room is None
        else (*line, saved.room, saved.placed_at, saved.session_ref or None, saved.anchor)
    )


def _entry_values(row: EntryRow, numbers: Numbers) -> tuple[Any, ...]:
    return (
        row.position, row.n, None if row.session_id is None else numbers[row.session_id], row.at,
        encoding.number_of_kind(row.kind), row.subject_id, numbers[row.source], row.hidden, causal_rank(row.kind),
        tie_breaker(row.dedupe_key), encoding.encode_entry(row),
    )  # fmt: skip
