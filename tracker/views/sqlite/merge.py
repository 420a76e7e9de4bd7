"""Merges two views files that were built at the same time: the base, and the part with the records that follow.

    names         names of the part get their number in the base, or a new one
    rows          rows of sessions that are only in the part are copied
    in both       the marks of a room are joined; the rows of a session stay those of the base; all entries are copied
    result        what is in both, for the projector to correct (`projector/merge`)

Both files are being built, so nobody reads them; after a failure both are deleted. Runs in the connection's own thread.
"""

# ruff: noqa: S608 - only constants are concatenated
from __future__ import annotations

import sqlite3
from pathlib import Path

from tracker.domain.room_marks import KEYED, LOOSE, START
from tracker.errors import ViewsUnavailable
from tracker.views.contract import MergeResult, RoomParts
from tracker.views.sqlite.rooms import RoomsPart, SqliteRooms
from tracker.views.sqlite.schema import CREATE_ROOM_MARKS, SELECT_STAMP, UNFINISHED
from tracker.views.sqlite.writer import SELECT_POSITION, SELECT_SOURCES, decode_source

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

DROP_TEMPORARY = tuple(
    f"DROP TABLE IF EXISTS temp.{table}"
    for table in ("renumbered", "shared_sessions", "parts", "shared_rooms", "base_marks", "part_marks")
)
"""What an earlier merge left."""

TEMPORARY = (
    "CREATE TEMP TABLE renumbered (theirs INTEGER PRIMARY KEY, ours INTEGER NOT NULL)",
    """
INSERT INTO renumbered SELECT theirs.number, ours.number FROM part.names AS theirs
CROSS JOIN main.names AS ours ON ours.name = theirs.name""",
    "CREATE TEMP TABLE shared_sessions (theirs INTEGER PRIMARY KEY, ours INTEGER NOT NULL UNIQUE, state BLOB NOT NULL)",
    """
INSERT INTO shared_sessions SELECT theirs, ours, fresh.state FROM renumbered
CROSS JOIN main.sessions AS held ON held.number = ours CROSS JOIN part.session_states AS fresh ON fresh.session = theirs""",
    "CREATE TEMP TABLE parts (last_number INTEGER NOT NULL, last_position INTEGER NOT NULL)",
    "CREATE TEMP TABLE shared_rooms (theirs INTEGER PRIMARY KEY, ours INTEGER NOT NULL UNIQUE)",
    """
INSERT INTO shared_rooms SELECT theirs.number, ours.number FROM part.rooms AS theirs
JOIN main.rooms AS ours USING (source, room)""",
    *(
        statement
        for table in ("base_marks", "part_marks")
        for statement in (
            CREATE_ROOM_MARKS.replace("TABLE room_marks", f"TEMP TABLE {table}"),
            f"CREATE INDEX {table}_by_name ON {table} (room, name, kind) WHERE kind < {START}",
        )
    ),
    "INSERT INTO base_marks SELECT * FROM main.room_marks WHERE room IN (SELECT ours FROM shared_rooms)",
    """
INSERT INTO part_marks SELECT ours, kind, at, until, name FROM part.room_marks JOIN shared_rooms ON room = theirs""",
)
SAVE_NAMES = """
INSERT INTO main.names (number, name)
SELECT number + ?, name FROM part.names WHERE number NOT IN (SELECT theirs FROM renumbered) ORDER BY number"""
SAVE_PARTS = "INSERT INTO parts VALUES (?, ?)"
MERGE_ROOMS = (
    "INSERT OR IGNORE INTO main.rooms (source, room) SELECT source, room FROM part.rooms ORDER BY source, room",
    """
INSERT INTO main.room_marks SELECT ours.number, kind, at, until, name FROM part.room_marks
JOIN part.rooms AS theirs ON theirs.number = part.room_marks.room
JOIN main.rooms AS ours ON ours.source = theirs.source AND ours.room = theirs.room
WHERE theirs.number NOT IN (SELECT theirs FROM shared_rooms)""",
    # Of a mark with a name: the earlier time, and the later end of an extent.
    f"DELETE FROM main.room_marks WHERE kind < {START} AND room IN (SELECT ours FROM shared_rooms)",
    f"""
INSERT INTO main.room_marks SELECT room, kind, min(at), max(until), name FROM (
    SELECT * FROM base_marks UNION ALL SELECT * FROM part_marks
) WHERE kind < {START} GROUP BY room, kind, name""",
    f"INSERT OR IGNORE INTO main.room_marks SELECT * FROM part_marks WHERE kind >= {START}",
    # A run with a stated start has no extent.
    f"""
DELETE FROM main.room_marks AS loose WHERE kind = {LOOSE} AND room IN (SELECT ours FROM shared_rooms) AND EXISTS (
    SELECT 1 FROM main.room_marks AS keyed
    WHERE keyed.room = loose.room AND keyed.kind = {KEYED} AND keyed.name = loose.name AND keyed.kind < {START})""",
)
SELECT_SHARED_SESSIONS = "SELECT name FROM shared_sessions CROSS JOIN names ON number = ours ORDER BY name"
SELECT_THEIR_STATES = """
SELECT name, state FROM json_each(?) CROSS JOIN names ON name = value JOIN shared_sessions ON ours = number"""
SELECT_SHARED_ROOMS = """
SELECT source, room FROM shared_rooms JOIN rooms ON number = ours
WHERE (source, room) > (?, ?) ORDER BY source, room LIMIT ?"""
BASE = RoomsPart(
    "base_marks", "position <= (SELECT last_position FROM parts)", "number <= (SELECT last_number FROM parts)"
)
PART = RoomsPart(
    "part_marks", "position > (SELECT last_position FROM parts)", "number > (SELECT last_number FROM parts)"
)


def merge_part(connection: sqlite3.Connection, part: Path) -> MergeResult:
    """Merge the part that `SqliteViews.close_partial` left at `part`. Raises `ViewsUnavailable` for any other file."""
    if connection.in_transaction:
        connection.commit()
    connection.execute("ATTACH ? AS part", [str(part)])
    stamp = connection.execute(SELECT_STAMP.replace("meta", "part.meta")).fetchone()
    if stamp is None or stamp[0] != UNFINISHED:
        raise ViewsUnavailable(f"{part} is not an unfinished part of a rebuild: run `tracker rebuild` again")
    connection.execute("BEGIN")
    (offset,) = connection.execute("SELECT ifnull(max(number), 0) FROM main.names").fetchone()
    (last_position,) = connection.execute(SELECT_POSITION).fetchone()
    for statement in (*DROP_TEMPORARY, *TEMPORARY):
        connection.execute(statement)
    connection.execute(SAVE_PARTS, [offset, last_position])
    connection.execute(SAVE_NAMES, [offset])
    for table, numbers in NUMBERED.items():
        connection.execute(_copy_statement(connection, table, numbers, offset))
    for statement in MERGE_ROOMS:
        connection.execute(statement)
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


def rooms_of_parts(connection: sqlite3.Connection) -> RoomParts:
    """The rooms of the two parts and of both together. For rooms that are in both parts, after `merge_part`."""
    return RoomParts(SqliteRooms(connection, BASE), SqliteRooms(connection, PART), SqliteRooms(connection))


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
