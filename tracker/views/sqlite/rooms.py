"""Reads rooms in the writing connection: their marks, the entries that may move, the sessions that another run may end.

Everything here blocks and runs in the connection's thread. Each query reads a span of an index.
"""

# ruff: noqa: S608 - only constants are concatenated
from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tracker.domain.facts import Micros
from tracker.domain.known_marks import KnownMarks
from tracker.domain.room_marks import EARLIEST, LATEST, START, Mark, Marks
from tracker.views.contract import SavedEntry
from tracker.views.sqlite.encoding import decoding
from tracker.views.sqlite.queries import NUMBER_OF_NAME
from tracker.views.sqlite.writer import SAVED_ENTRY_COLUMNS, decode_saved_entry, json_list


class RoomsPart(NamedTuple):
    """The rooms of one part of a merge: the table of its marks, and conditions for its entries and its sessions."""

    table: str
    entries: str
    sessions: str


WHOLE = RoomsPart("room_marks", "true", "true")

FEW_MARKS = 64
"""Most rooms have fewer marks than this. They are read at once, by one query instead of a dozen."""

SELECT_ROOM_NUMBER = "SELECT number FROM rooms WHERE source = ? AND room = ?"
SELECT_FIRST_MARKS = f"""
SELECT kind, at, until, name FROM {{table}} WHERE room = ? ORDER BY kind, at, until, name LIMIT {FEW_MARKS}"""
SELECT_MARKS = """
SELECT at, until, name FROM {table}
WHERE room = ? AND kind = ? AND at >= ? AND at <= ? AND until >= ? AND until <= ? ORDER BY at, until, name LIMIT ?"""
SELECT_MARKS_BACKWARDS = SELECT_MARKS.replace("at, until, name LIMIT", "at DESC, until DESC, name DESC LIMIT")
# The index of names is partial: SQLite takes it only if its condition stands here.
SELECT_NAMED_MARK = f"SELECT at, until, name FROM {{table}} WHERE room = ? AND kind = ? AND name = ? AND kind < {START}"

SELECT_ROOM_ENTRIES = f"""
SELECT {SAVED_ENTRY_COLUMNS} FROM json_each(?) AS asked
CROSS JOIN entries ON room = ? AND placed_at >= asked.value ->> 0 AND placed_at < asked.value ->> 1
WHERE source = {NUMBER_OF_NAME} AND {{condition}}"""
SELECT_ANCHORED_ENTRIES = f"""
SELECT {SAVED_ENTRY_COLUMNS} FROM json_each(?) AS asked
CROSS JOIN entries ON room = ? AND anchor = asked.value WHERE source = {NUMBER_OF_NAME} AND {{condition}}"""
SELECT_SESSIONS_WITHOUT_NEXT_RUN = """
SELECT sessions.id FROM json_each(?) AS asked
CROSS JOIN sessions ON next_run_after >= asked.value ->> 0 AND next_run_after < asked.value ->> 1
WHERE source = ? AND room_id = ? AND {condition}"""


class SqliteMarks:
    """The marks of the room with this number in one table, for a room that has many."""

    def __init__(self, connection: sqlite3.Connection, number: int, table: str) -> None:
        self._connection = connection
        self._number = number
        self._forwards = SELECT_MARKS.format(table=table)
        self._backwards = SELECT_MARKS_BACKWARDS.format(table=table)
        self._named = SELECT_NAMED_MARK.format(table=table)
        self._kinds: dict[int, bool] = {}

    def select(
        self,
        kind: int,
        low: Micros = EARLIEST,
        high: Micros = LATEST,
        *,
        limit: int = -1,
        backwards: bool = False,
        until_from: Micros = EARLIEST,
        until_to: Micros = LATEST,
    ) -> Sequence[Mark]:
        if not self._has_kind(kind):
            return ()
        statement = self._backwards if backwards else self._forwards
        bound = (self._number, kind, low, high, until_from, until_to, limit)
        return [Mark(*row) for row in self._connection.execute(statement, bound)]

    def _has_kind(self, kind: int) -> bool:
        """Whether the room has marks of this kind. Rooms of most vendors have no more than three kinds."""
        if kind not in self._kinds:
            bound = (self._number, kind, EARLIEST, LATEST, EARLIEST, LATEST, 1)
            self._kinds[kind] = self._connection.execute(self._forwards, bound).fetchone() is not None
        return self._kinds[kind]

    def named(self, kind: int, name: str) -> Mark | None:
        row = self._connection.execute(self._named, (self._number, kind, name)).fetchone()
        return None if row is None else Mark(*row)


class SqliteRooms:
    """`RoomReader` in one connection."""

    def __init__(self, connection: sqlite3.Connection, part: RoomsPart = WHOLE) -> None:
        self._connection = connection
        self._part = part
        self._select_first_marks = SELECT_FIRST_MARKS.format(table=part.table)

    def marks(self, source: str, room: str) -> Marks | None:
        row = self._connection.execute(SELECT_ROOM_NUMBER, (source, room)).fetchone()
        if row is None:
            return None
        first = self._connection.execute(self._select_first_marks, row).fetchall()
        if len(first) == FEW_MARKS:
            return SqliteMarks(self._connection, row[0], self._part.table)
        return KnownMarks((kind, Mark(at, until, name)) for kind, at, until, name in first)

    def room_entries(
        self, source: str, room: str, windows: Sequence[tuple[Micros, Micros]], anchors: Iterable[str]
    ) -> list[SavedEntry]:
        rows: dict[tuple[int, int], SavedEntry] = {}
        for statement, asked in (
            (SELECT_ROOM_ENTRIES, json_list(windows)),
            (SELECT_ANCHORED_ENTRIES, json_list(anchors)),
        ):
            found = self._connection.execute(statement.format(condition=self._part.entries), (asked, room, source))
            for row in found.fetchall():
                with decoding():
                    rows[row[0], row[1]] = decode_saved_entry(row)
        return [rows[key] for key in sorted(rows)]

    def sessions_without_next_run(self, source: str, room: str, windows: Sequence[tuple[Micros, Micros]]) -> list[str]:
        bound = (json_list(windows), source, room)
        statement = SELECT_SESSIONS_WITHOUT_NEXT_RUN.format(condition=self._part.sessions)
        return [row[0] for row in self._connection.execute(statement, bound)]
