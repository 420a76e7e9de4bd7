"""All rows of a views file as (key, canonical JSON), to compare two files row by row.

Keys ascend: the table, then the row's own key, joined by tabs, with padded numbers. So two dumps can be compared like sorted
lists. Opaque states are left out: the projector continues from them, but no answer shows them.
"""

# ruff: noqa: S608 - only constants are concatenated
from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from itertools import groupby
from typing import Any

import aiosqlite
import msgspec

from tracker.views.sqlite import encoding
from tracker.views.sqlite.encoding import decode_entry
from tracker.views.sqlite.queries import ENTRY_COLUMNS, SESSION_COLUMNS

DUMP_CONNECTIONS = """
SELECT doc, begins_at, name, id FROM names CROSS JOIN connections ON connections.session = names.number ORDER BY name, id"""
DUMP_COUNTS = (
    "SELECT source, span, at, sessions, participants, participant_ms, recordings FROM counts ORDER BY source, span, at"
)
DUMP_LEVELS = "SELECT source, span, at, net, peak FROM levels ORDER BY source, span, at"
DUMP_ENTRIES = f"SELECT {ENTRY_COLUMNS}, room, placed_at FROM entries ORDER BY position, n"
DUMP_ENTRIES_IN_TIME = f"SELECT {ENTRY_COLUMNS}, room, placed_at FROM entries ORDER BY ifnull(session_id, ''), at"
DUMP_GAPS = f"SELECT {ENTRY_COLUMNS}, NULL, at FROM gaps ORDER BY session_id, at"
DUMP_LOOKUPS = "SELECT lookup, name FROM session_lookups JOIN names ON number = session ORDER BY lookup, name"
DUMP_PARTICIPANTS = "SELECT doc, begins_at, session_id, id, identity, name FROM participants ORDER BY session_id, id"
DUMP_RECORDINGS = "SELECT doc, begins_at, session_id, id, status FROM recordings ORDER BY session_id, id"
DUMP_SESSIONS = f"SELECT {SESSION_COLUMNS} FROM sessions AS s ORDER BY s.id"
DUMP_SOURCES = "SELECT source, vendor, last_received_at, records FROM sources ORDER BY source"
DUMP_STREAMS = """
SELECT doc, begins_at, name, id FROM names CROSS JOIN streams ON streams.session = names.number ORDER BY name, id"""
DUMP_SUPERVISOR_SESSIONS = """
SELECT doc, begins_at, session_id, id, supervisor_client, agent_client FROM supervisor_sessions ORDER BY session_id, id"""

ARRIVAL_FIELDS = frozenset({"position", "n", "received_at", "first_position", "last_position", "last_received_at"})
"""The fields that depend on when, or in which order, records arrived."""

Dumped = tuple[str, bytes]

_json = msgspec.json.Encoder(order="sorted").encode


async def dump_rows(connection: aiosqlite.Connection, *, positions: bool) -> AsyncGenerator[Dumped]:
    """The dump of what `connection` sees. The caller holds a read transaction, so it is of one moment.

    A caller that stops early must close the generator before the connection (`contextlib.aclosing`).
    """
    entries = (
        _entries(connection) if positions else _entries_by_time(connection, "entries", DUMP_ENTRIES_IN_TIME, positions)
    )
    supervising = encoding.supervisor_sessions
    for table in (
        _child_rows(connection, "connections", DUMP_CONNECTIONS, encoding.connections, positions),
        _count_rows(connection, "counts", DUMP_COUNTS),
        entries,
        _entries_by_time(connection, "gaps", DUMP_GAPS, positions),
        _count_rows(connection, "levels", DUMP_LEVELS),
        _lookups(connection),
        _child_rows(connection, "participants", DUMP_PARTICIPANTS, encoding.participants, positions),
        _child_rows(connection, "recordings", DUMP_RECORDINGS, encoding.recordings, positions),
        _sessions(connection, positions),
        _sources(connection, positions),
        _child_rows(connection, "streams", DUMP_STREAMS, encoding.streams, positions),
        _child_rows(connection, "supervisor_sessions", DUMP_SUPERVISOR_SESSIONS, supervising, positions),
    ):
        async with aclosing(table):
            async for row in table:
                yield row


async def _lookups(connection: aiosqlite.Connection) -> AsyncGenerator[Dumped]:
    async with connection.execute(DUMP_LOOKUPS) as cursor:
        async for lookup, session_id in cursor:
            yield f"lookups\t{lookup}\t{session_id}", b"{}"


async def _sources(connection: aiosqlite.Connection, positions: bool) -> AsyncGenerator[Dumped]:
    async with connection.execute(DUMP_SOURCES) as cursor:
        async for source, vendor, last_received_at, records in cursor:
            fields = {"vendor": vendor, "last_received_at": last_received_at, "records": records}
            yield f"sources\t{source}", _json(fields if positions else _without_arrival(fields))


async def _child_rows(
    connection: aiosqlite.Connection, table: str, statement: str, doc: encoding.RowCodec[Any], positions: bool
) -> AsyncGenerator[Dumped]:
    async with connection.execute(statement) as cursor:
        async for packed, _, *columns in cursor:
            fields = msgspec.to_builtins(doc.decode(packed, columns))
            yield f"{table}\t{columns[0]}\t{columns[1]}", _json(fields if positions else _without_arrival(fields))


async def _sessions(connection: aiosqlite.Connection, positions: bool) -> AsyncGenerator[Dumped]:
    async with connection.execute(DUMP_SESSIONS) as cursor:
        async for packed, *columns in cursor:
            fields = msgspec.to_builtins(encoding.sessions.decode(packed, columns))
            yield f"sessions\t{fields['id']}\t", _json(fields if positions else _without_arrival(fields))


async def _count_rows(connection: aiosqlite.Connection, table: str, statement: str) -> AsyncGenerator[Dumped]:
    """Rows whose first three columns are the key: source, span, start."""
    async with connection.execute(statement) as cursor:
        async for source, span, at, *numbers in cursor:
            yield f"{table}\t{source}\t{span:012d}\t{at + 2**62:020d}", _json(numbers)


async def _entries(connection: aiosqlite.Connection) -> AsyncGenerator[Dumped]:
    async with connection.execute(DUMP_ENTRIES) as cursor:
        async for row in cursor:
            yield f"entries\t{row[0]:016d}\t{row[1]:06d}", _json(_entry(row))


async def _entries_by_time(
    connection: aiosqlite.Connection, table: str, statement: str, positions: bool
) -> AsyncGenerator[Dumped]:
    """Entries by (session, at) from SQLite. Those that agree in both are sorted here by their content."""
    equal: list[Any] = []
    async with connection.execute(statement) as cursor:
        async for row in cursor:
            if equal and equal[0][2:4] != row[2:4]:
                for dumped in _sort_equal(table, equal, positions):
                    yield dumped
                equal = []
            equal.append(row)
    for dumped in _sort_equal(table, equal, positions):
        yield dumped


def _sort_equal(table: str, rows: Iterable[Any], positions: bool) -> list[Dumped]:
    fields = [_entry(row) for row in rows]
    if not positions:
        fields = [_without_arrival(entry) for entry in fields]
        for entry in fields:
            del entry["id"]
    keyed = sorted(((entry["kind"], entry["dedupe_key"]), _json(entry), index) for index, entry in enumerate(fields))
    found: list[Dumped] = []
    for (_, key), same in groupby(keyed, key=lambda each: each[0]):
        for nth, (_, packed, index) in enumerate(same):
            entry = fields[index]
            place = f"{entry['session_id'] or ''}\t{entry['at']:020d}\t{entry['kind']}\t{key}\t{nth:06d}"
            found.append((f"{table}\t{place}", packed))
    return found


def _entry(row: Any) -> dict[str, Any]:
    return {**msgspec.structs.asdict(decode_entry(row)), "room": row[9], "placed_at": row[10]}


def _without_arrival(fields: dict[str, Any]) -> dict[str, Any]:
    """The row without the fields that depend on arrival. Lists ordered by position are reordered by their content."""
    stable = {name: value for name, value in fields.items() if name not in ARRIVAL_FIELDS}
    for name in ("anomalies", "history"):
        if name in stable:
            stable[name] = sorted((_without_arrival(each) for each in stable[name]), key=_json)
    return stable
