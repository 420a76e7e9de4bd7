"""Views of the first records of a log take in those of the records that follow, made apart at the same time.

    part.names ──numbers of ours, or new ones──► names        everything else of a session goes in as it is
    in both    a room's two states are joined; a session's rows stay ours, its entries are all there
    told       what is in both, for the projector to mend (`projection_halves`)

Both files are being built, so nobody reads them; after a failure both are thrown away. Runs in the connection's own thread.
"""

# ruff: noqa: S608 - only constants of ours are put together
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
    "gaps": ("session", "source"),
    "entries": ("session", "source"),
}
"""Tables of sessions, and their columns that hold a number of `names`, that of the session first."""

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
    """Take in a part of `build` that was put by. Raises `ViewsUnavailable` for anything else."""
    if connection.in_transaction:
        connection.commit()
    connection.execute("ATTACH ? AS part", [str(part)])
    stamp = connection.execute(SELECT_STAMP.replace("meta", "part.meta")).fetchone()
    if stamp is None or stamp[0] != UNFINISHED:
        raise ViewsUnavailable(f"{part} is not a part of views being built")
    connection.create_function("join_states", 2, join_states, deterministic=True)
    connection.execute("BEGIN")
    (offset,) = connection.execute("SELECT ifnull(max(number), 0) FROM main.names").fetchone()
    for statement in TEMPORARY:
        connection.execute(statement)
    connection.execute(SAVE_NAMES, [offset])
    for table, numbers in NUMBERED.items():
        connection.execute(_moved(connection, table, numbers, offset))
    connection.execute(SAVE_ROOMS)
    ours = {row[0]: decode_source(row) for row in connection.execute(SELECT_SOURCES)}
    theirs = [decode_source(row) for row in connection.execute(SELECT_SOURCES.replace("sources", "part.sources"))]
    (position,) = connection.execute(SELECT_POSITION.replace("meta", "part.meta")).fetchone()
    connection.execute("COMMIT")
    connection.execute("DETACH part")
    return MergeResult(
        position=position,
        sources=[(ours.get(row.source), row) for row in theirs],
        shared_sessions=[name for (name,) in connection.execute(SELECT_SHARED_SESSIONS)],
    )


def _moved(connection: sqlite3.Connection, table: str, numbers: tuple[str, ...], offset: int) -> str:
    """The statement that takes in one table."""
    columns = [row[1] for row in connection.execute(f"PRAGMA main.table_info({table})")]
    values = [
        f"ifnull((SELECT ours FROM renumbered WHERE theirs = p.{column}), p.{column} + {offset})"
        if column in numbers
        else column
        for column in columns
    ]
    # The entries of a session in both are all wanted, its rows are written anew.
    kept = "" if table == "entries" else f" WHERE {numbers[0]} NOT IN (SELECT theirs FROM shared_sessions)"
    return f"INSERT INTO main.{table} ({', '.join(columns)}) SELECT {', '.join(values)} FROM part.{table} AS p{kept}"
