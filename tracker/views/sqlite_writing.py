"""The writing half of the SQLite views: what the projector reads back, and one save a batch.

`SAVE_*` statements are run in one `BEGIN IMMEDIATE` transaction; what a session had is deleted, then written again.
Parameters are made by generators, which SQLite pulls in the connection's thread, not in the event loop.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from tracker.facts import Clock, Micros, Provenance
from tracker.projections.ranking import rank_of, tie_of
from tracker.projections.rows import EntryRow
from tracker.views.contract import Changes, SavedEntry, SessionRows, SourceRow

SELECT_CHECKPOINT = "SELECT value FROM meta WHERE key = 'checkpoint'"
SELECT_STATES = "SELECT session_id, state FROM session_states WHERE session_id IN (SELECT value FROM json_each(?))"
SELECT_ROOMS = """
SELECT source, room, state FROM json_each(?) AS asked
CROSS JOIN rooms ON rooms.source = asked.value ->> 0 AND rooms.room = asked.value ->> 1"""
SELECT_SOURCES = "SELECT source, vendor, last_received_at, records, state FROM sources ORDER BY source"
SELECT_ROOM_ENTRIES = """
SELECT position, n, session_id, at, kind, subject_id, source, hidden, rest, room, placed_at, fact, vendor FROM entries
WHERE source = ? AND room = ? AND placed_at >= ? AND placed_at < ? ORDER BY position, n"""
SELECT_SESSION_ENTRIES = """
SELECT position, n, session_id, at, kind, subject_id, source, hidden, rest, room, placed_at, fact, vendor FROM entries
WHERE session_id = ? ORDER BY position, n"""
SELECT_UNREPORTED_SESSIONS = """
SELECT id FROM sessions WHERE source = ?1 AND end_provenance IS NULL AND begins_at < ?2
UNION ALL SELECT id FROM sessions WHERE source = ?1 AND end_provenance = 'inferred' AND begins_at < ?2 ORDER BY id"""
SELECT_NEVER_JOINED_SESSIONS = """
SELECT id FROM sessions WHERE source = ? AND end_provenance IS NULL AND begins_at < ? AND joined = 0 ORDER BY id"""

DELETE_SESSIONS = "DELETE FROM sessions WHERE id = ?"
DELETE_OF_SESSION = (
    "DELETE FROM session_lookups WHERE session_id = ?",
    "DELETE FROM participants WHERE session_id = ?",
    "DELETE FROM connections WHERE session_id = ?",
    "DELETE FROM streams WHERE session_id = ?",
    "DELETE FROM recordings WHERE session_id = ?",
    "DELETE FROM supervisor_sessions WHERE session_id = ?",
    "DELETE FROM gaps WHERE session_id = ?",
)
DELETE_STATES = "DELETE FROM session_states WHERE session_id = ?"
SAVE_SESSIONS = """
INSERT INTO sessions (id, source, vendor, room_id, room_name, state, begins_at, over_at, duration_ms, last_event_at,
    participants, participant_ms, recordings, supervisors, anomalies, end_provenance, joined, doc)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET source = excluded.source, vendor = excluded.vendor, room_id = excluded.room_id,
    room_name = excluded.room_name, state = excluded.state, begins_at = excluded.begins_at, over_at = excluded.over_at,
    duration_ms = excluded.duration_ms, last_event_at = excluded.last_event_at, participants = excluded.participants,
    participant_ms = excluded.participant_ms, recordings = excluded.recordings, supervisors = excluded.supervisors,
    anomalies = excluded.anomalies, end_provenance = excluded.end_provenance, joined = excluded.joined,
    doc = excluded.doc"""
SAVE_STATES = """
INSERT INTO session_states (session_id, state) VALUES (?, ?) ON CONFLICT (session_id) DO UPDATE SET state = excluded.state"""
SAVE_LOOKUPS = "INSERT OR IGNORE INTO session_lookups (lookup, session_id) VALUES (?, ?)"
SAVE_PARTICIPANTS = """
INSERT INTO participants (session_id, begins_at, id, source, identity, name, doc) VALUES (?, ?, ?, ?, ?, ?, ?)"""
SAVE_CONNECTIONS = "INSERT INTO connections (session_id, begins_at, id, doc) VALUES (?, ?, ?, ?)"
SAVE_STREAMS = "INSERT INTO streams (session_id, begins_at, id, doc) VALUES (?, ?, ?, ?)"
SAVE_RECORDINGS = "INSERT INTO recordings (session_id, begins_at, id, source, status, doc) VALUES (?, ?, ?, ?, ?, ?)"
SAVE_SUPERVISOR_SESSIONS = """
INSERT INTO supervisor_sessions (session_id, begins_at, id, source, vendor_id, supervisor_client, agent_client, doc)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
SAVE_ENTRIES = """
INSERT OR REPLACE INTO entries
    (position, n, session_id, at, kind, subject_id, source, hidden, rank, tie, rest, room, placed_at, fact, vendor)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
SAVE_GAPS = """
INSERT INTO gaps (position, n, session_id, at, kind, subject_id, source, hidden, rank, tie, rest)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
SAVE_ROOMS = "INSERT OR REPLACE INTO rooms (source, room, state) VALUES (?, ?, ?)"
SAVE_SOURCES = (
    "INSERT OR REPLACE INTO sources (source, vendor, last_received_at, records, state) VALUES (?, ?, ?, ?, ?)"
)
SAVE_CHECKPOINT = "UPDATE meta SET value = ? WHERE key = 'checkpoint'"

EARLIEST = -(2**63)
LATEST = 2**63 - 1

Batch = tuple[str, Iterable[Sequence[Any]]]
"""One statement and the parameters of each of its runs."""

_pack = msgspec.msgpack.Encoder().encode


class EntryRest(msgspec.Struct, frozen=True, array_like=True):
    """What of an entry is in no column of its own."""

    received_at: Micros | None
    subject_type: str
    actor: str | None
    detail: dict[str, Any]
    provenance: Provenance
    clock: Clock
    dedupe_key: str


_rest = msgspec.msgpack.Decoder(EntryRest).decode


def entry_of(row: Sequence[Any]) -> EntryRow:
    """The entry in columns (position, n, session_id, at, kind, subject_id, source, hidden, rest, …)."""
    position, n, session_id, at, kind, subject_id, source, hidden, packed = row[:9]
    rest = _rest(packed)
    return EntryRow(
        id=f"{position}-{n}", session_id=session_id, position=position, n=n, at=at, received_at=rest.received_at, kind=kind,
        subject_type=rest.subject_type, subject_id=subject_id, actor=rest.actor, detail=rest.detail, source=source,
        provenance=rest.provenance, clock=rest.clock, dedupe_key=rest.dedupe_key, hidden=bool(hidden),
    )  # fmt: skip


def saved_entry_of(row: Sequence[Any]) -> SavedEntry:
    """The entry with the columns (room, placed_at, fact, vendor) after those of `entry_of`."""
    return SavedEntry(row=entry_of(row), room=row[9], placed_at=row[10], fact=row[11], vendor=row[12])


def source_of(row: Sequence[Any]) -> SourceRow:
    """The source in columns (source, vendor, last_received_at, records, state)."""
    return SourceRow(source=row[0], vendor=row[1], last_received_at=row[2], records=row[3], state=row[4])


def as_list(values: Iterable[Any]) -> str:
    """A list as one bound parameter, for `json_each(?)`."""
    return json.dumps(list(values), ensure_ascii=False)


def batches(changes: Changes) -> Iterator[Batch]:
    """The statements of one save in their order. Nothing is encoded before SQLite pulls it."""
    sessions = changes.sessions
    stale = [(session_id,) for session_id in (*changes.gone, *(rows.session.id for rows in sessions))]
    if stale:
        for statement in DELETE_OF_SESSION:
            yield statement, stale
    if changes.gone:
        gone = [(session_id,) for session_id in changes.gone]
        yield DELETE_SESSIONS, gone
        yield DELETE_STATES, gone
    if sessions:
        yield SAVE_SESSIONS, (_session(rows) for rows in sessions)
        yield SAVE_STATES, ((rows.session.id, rows.state) for rows in sessions)
        yield SAVE_LOOKUPS, ((lookup, rows.session.id) for rows in sessions for lookup in rows.lookups)
        yield SAVE_PARTICIPANTS, (values for rows in sessions for values in _participants(rows))
        yield SAVE_CONNECTIONS, (values for rows in sessions for values in _connections(rows))
        yield SAVE_STREAMS, (values for rows in sessions for values in _streams(rows))
        yield SAVE_RECORDINGS, (values for rows in sessions for values in _recordings(rows))
        yield SAVE_SUPERVISOR_SESSIONS, (values for rows in sessions for values in _supervisor_sessions(rows))
        yield SAVE_GAPS, (_line(gap) for rows in sessions for gap in rows.gaps)
    if changes.entries:
        yield (
            SAVE_ENTRIES,
            ((*_line(saved.row), saved.room, saved.placed_at, saved.fact, saved.vendor) for saved in changes.entries),
        )
    if changes.rooms:
        yield SAVE_ROOMS, changes.rooms
    if changes.sources:
        yield (
            SAVE_SOURCES,
            ((row.source, row.vendor, row.last_received_at, row.records, row.state) for row in changes.sources),
        )
    yield SAVE_CHECKPOINT, [(changes.position,)]


def _session(rows: SessionRows) -> Sequence[Any]:
    row = rows.session
    over_at = row.ended_at if row.ended_at is not None else row.last_event_at
    return (
        row.id, row.source, row.vendor, row.room_id, row.room_name, row.state, row.begins_at,
        None if row.state == "open" else over_at, row.duration_ms, row.last_event_at, row.participants, row.participant_ms,
        row.recordings, row.supervisors, len(row.anomalies),
        None if row.end is None else row.end.provenance, len(rows.connections) + len(rows.streams), _pack(row),
    )  # fmt: skip


def _participants(rows: SessionRows) -> Iterator[Sequence[Any]]:
    source, fallback = rows.session.source, rows.session.begins_at
    for row in rows.participants:
        begins_at = _first(row.first_joined_at, row.last_left_at, fallback)
        yield row.session_id, begins_at, row.id, source, row.identity, row.name, _pack(row)


def _connections(rows: SessionRows) -> Iterator[Sequence[Any]]:
    for row in rows.connections:
        yield row.session_id, _first(row.joined_at, row.left_at, rows.session.begins_at), row.id, _pack(row)


def _streams(rows: SessionRows) -> Iterator[Sequence[Any]]:
    for row in rows.streams:
        yield row.session_id, _first(row.started_at, row.ended_at, rows.session.begins_at), row.id, _pack(row)


def _recordings(rows: SessionRows) -> Iterator[Sequence[Any]]:
    for row in rows.recordings:
        begins_at = _first(row.started_at, row.stopped_at, rows.session.begins_at)
        yield row.session_id, begins_at, row.id, rows.session.source, row.status, _pack(row)


def _supervisor_sessions(rows: SessionRows) -> Iterator[Sequence[Any]]:
    source = rows.session.source
    for row in rows.supervisor_sessions:
        yield (
            row.session_id, _first(row.started_at, row.ended_at, rows.session.begins_at), row.id, source,
            row.id.removeprefix(f"{source}:"), row.supervisor_client, row.agent_client, _pack(row),
        )  # fmt: skip


def _line(row: EntryRow) -> tuple[Any, ...]:
    rest = EntryRest(
        row.received_at, row.subject_type, row.actor, row.detail, row.provenance, row.clock, row.dedupe_key
    )
    return (
        row.position, row.n, row.session_id, row.at, row.kind, row.subject_id, row.source, row.hidden,
        rank_of(row.kind), tie_of(row.dedupe_key), _pack(rest),
    )  # fmt: skip


def _first(*times: Micros | None) -> Micros:
    """The first time that is known; the last argument always is."""
    return next(time for time in times if time is not None)
