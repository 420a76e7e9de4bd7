"""Merges two views files that were built at the same time: the base, and the part with the records that follow.

    names         names of the part get their number in the base, or a new one
    rows          rows of sessions that are only in the part are copied
    in both       the two states of a room are joined; the rows of a session stay those of the base; all entries are copied
    result        what is in both, for the projector to correct (`projector/merge`)

Both files are being built, so nobody reads them; after a failure both are deleted. Runs in the connection's own thread.
"""

# ruff: noqa: S608 - only constants are concatenated
from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from tracker.errors import ViewsUnavailable
from tracker.views.contract import MergeResult
from tracker.views.sqlite.schema import SELECT_STAMP, UNFINISHED
from tracker.views.sqlite.writer import SELECT_POSITION, SELECT_SOURCES, decode_source

JoinStates = Callable[[bytes, bytes], bytes]

NUMBERED = {
    "sessions": ("number",),
    "session_states": ("session",),
    "session_lookups": ("session",),
    "participants": ("session",),
    "connections": ("session",),
    "streams": ("session",),
    "recordings": ("session",),
    "supervisor_sessions": ("session",),
    "set_aside": ("session",),
    "gaps": ("session", "source"),
    "entries": ("session", "source"),
}
"""The tables about sessions, and their columns that hold a number of `names`, the session's first."""

TEMPORARY = (
    "CREATE TEMP TABLE renumbered (theirs INTEGER PRIMARY KEY, ours INTEGER NOT NULL)",
    """
INSERT INTO renumbered SELECT theirs.number, ours.number FROM part.names AS theirs
CROSS JOIN main.names AS ours ON ours.name = theirs.name""",
    "CREATE TEMP TABLE shared_sessions (theirs INTEGER PRIMARY KEY, ours INTEGER NOT NULL UNIQUE, state BLOB NOT NULL)",
    """
INSERT INTO shared_sessions SELECT theirs, ours, fresh.state FROM renumbered
CROSS JOIN main.sessions AS held ON held.number = ours CROSS JOIN part.session_states AS fresh ON fresh.session = theirs""",
    """
CREATE TEMP TABLE shared_rooms (source TEXT NOT NULL, room TEXT NOT NULL, ours BLOB NOT NULL, theirs BLOB NOT NULL,
    PRIMARY KEY (source, room)) WITHOUT ROWID""",
    """
INSERT INTO shared_rooms SELECT source, room, ours.state, theirs.state FROM part.rooms AS theirs
JOIN main.rooms AS ours USING (source, room)""",
)
SAVE_NAMES = """
INSERT INTO main.names (number, name)
SELECT number + ?, name FROM part.names WHERE number NOT IN (SELECT theirs FROM renumbered) ORDER BY number"""
SAVE_ROOMS = """
INSERT INTO main.rooms (source, room, state) SELECT source, room, state FROM part.rooms WHERE true
ON CONFLICT (source, room) DO UPDATE SET state = join_states(state, excluded.state)"""
SELECT_SHARED_SESSIONS = "SELECT name FROM shared_sessions CROSS JOIN names ON number = ours ORDER BY name"
SELECT_THEIR_STATES = """
SELECT name, state FROM json_each(?) CROSS JOIN names ON name = value JOIN shared_sessions ON ours = number"""
SELECT_SHARED_ROOMS = """
SELECT source, room, ours, theirs FROM shared_rooms WHERE (source, room) > (?, ?) ORDER BY source, room LIMIT ?"""


def merge_part(connection: sqlite3.Connection, part: Path, join_states: JoinStates) -> MergeResult:
    """Merge the part that `SqliteViews.close_partial` left at `part`. Raises `ViewsUnavailable` for any other file."""
    if connection.in_transaction:
        connection.commit()
    connection.execute("ATTACH ? AS part", [str(part)])
    stamp = connection.execute(SELECT_STAMP.replace("meta", "part.meta")).fetchone()
    if stamp is None or stamp[0] != UNFINISHED:
        raise ViewsUnavailable(f"{part} is not an unfinished part of a rebuild: run `tracker rebuild` again")
    connection.create_function("join_states", 2, join_states, deterministic=True)
    connection.execute("BEGIN")
    (offset,) = connection.execute("SELECT ifnull(max(number), 0) FROM main.names").fetchone()
    for statement in TEMPORARY:
        connection.execute(statement)
    connection.execute(SAVE_NAMES, [offset])
    for table, numbers in NUMBERED.items():
        connection.execute(_copy_statement(connection, table, numbers, offset))
    connection.execute(SAVE_ROOMS)
    base_sources = {row[0]: decode_source(row) for row in connection.execute(SELECT_SOURCES)}
    part_sources = [decode_source(row) for row in connection.execute(SELECT_SOURCES.replace("sources", "part.sources"))]
    (position,) = connection.execute(SELECT_POSITION.replace("meta", "part.meta")).fetchone()
    connection.execute("COMMIT")
    connection.execute("DETACH part")
    return MergeResult(
        position=position,
        sources=[(base_sources.get(row.source), row) for row in part_sources],
        shared_sessions=[name for (name,) in connection.execute(SELECT_SHARED_SESSIONS)],
    )


def _copy_statement(connection: sqlite3.Connection, table: str, numbers: tuple[str, ...], offset: int) -> str:
    """The statement that copies one table of the part."""
    columns = [row[1] for row in connection.execute(f"PRAGMA main.table_info({table})")]
    values = [
        f"ifnull((SELECT ours FROM renumbered WHERE theirs = p.{column}), p.{column} + {offset})"
        if column in numbers
        else column
        for column in columns
    ]
    # Of a session in both, all entries are copied; its rows are rendered again later.
    condition = "" if table == "entries" else f" WHERE {numbers[0]} NOT IN (SELECT theirs FROM shared_sessions)"
    return (
        f"INSERT INTO main.{table} ({', '.join(columns)}) SELECT {', '.join(values)} FROM part.{table} AS p{condition}"
    )
