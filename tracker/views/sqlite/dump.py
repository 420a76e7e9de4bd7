"""Every row of a views file as (key, canonical JSON), to compare two of them row by row.

Keys ascend (table, then the row's own key, parts joined by a tab, numbers padded), so that two dumps merge like sorted
lists. Opaque states and facts are left out: they are how the projector goes on, not what is answered.
"""

# ruff: noqa: S608 - only constants of ours are put together
from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from itertools import groupby
from typing import Any

import aiosqlite
import msgspec

from tracker.views.sqlite import encoding as packing
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

ARRIVAL = frozenset({"position", "n", "received_at", "first_position", "last_position", "last_received_at"})
"""The fields that tell when or in which order something came in."""

Dumped = tuple[str, bytes]

_json = msgspec.json.Encoder(order="sorted").encode


async def dump_rows(connection: aiosqlite.Connection, *, positions: bool) -> AsyncGenerator[Dumped]:
    """The dump of what `connection` sees; the caller holds a read transaction, so that it is of one moment.

    Whoever stops before the end closes it before the connection (`contextlib.aclosing`).
    """
    entries = _entries(connection) if positions else _in_time(connection, "entries", DUMP_ENTRIES_IN_TIME, positions)
    supervising = packing.supervisor_sessions
    for table in (
        _docs(connection, "connections", DUMP_CONNECTIONS, packing.connections, positions),
        _numbers(connection, "counts", DUMP_COUNTS),
        entries,
        _in_time(connection, "gaps", DUMP_GAPS, positions),
        _numbers(connection, "levels", DUMP_LEVELS),
        _lookups(connection),
        _docs(connection, "participants", DUMP_PARTICIPANTS, packing.participants, positions),
        _docs(connection, "recordings", DUMP_RECORDINGS, packing.recordings, positions),
        _sessions(connection, positions),
        _sources(connection, positions),
        _docs(connection, "streams", DUMP_STREAMS, packing.streams, positions),
        _docs(connection, "supervisor_sessions", DUMP_SUPERVISOR_SESSIONS, supervising, positions),
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
            told = {"vendor": vendor, "last_received_at": last_received_at, "records": records}
            yield f"sources\t{source}", _json(told if positions else _without_arrival(told))


async def _docs(
    connection: aiosqlite.Connection, table: str, statement: str, doc: packing.RowCodec[Any], positions: bool
) -> AsyncGenerator[Dumped]:
    async with connection.execute(statement) as cursor:
        async for packed, _, *columns in cursor:
            told = msgspec.to_builtins(doc.decode(packed, columns))
            yield f"{table}\t{columns[0]}\t{columns[1]}", _json(told if positions else _without_arrival(told))


async def _sessions(connection: aiosqlite.Connection, positions: bool) -> AsyncGenerator[Dumped]:
    async with connection.execute(DUMP_SESSIONS) as cursor:
        async for packed, *columns in cursor:
            told = msgspec.to_builtins(packing.sessions.decode(packed, columns))
            yield f"sessions\t{told['id']}\t", _json(told if positions else _without_arrival(told))


async def _numbers(connection: aiosqlite.Connection, table: str, statement: str) -> AsyncGenerator[Dumped]:
    """Rows of which the first three are the key: whose, of which span, from when."""
    async with connection.execute(statement) as cursor:
        async for source, span, at, *numbers in cursor:
            yield f"{table}\t{source}\t{span:012d}\t{at + 2**62:020d}", _json(numbers)


async def _entries(connection: aiosqlite.Connection) -> AsyncGenerator[Dumped]:
    async with connection.execute(DUMP_ENTRIES) as cursor:
        async for row in cursor:
            yield f"entries\t{row[0]:016d}\t{row[1]:06d}", _json(_entry(row))


async def _in_time(
    connection: aiosqlite.Connection, table: str, statement: str, positions: bool
) -> AsyncGenerator[Dumped]:
    """Entries by (session, at) from SQLite; those that agree in both are sorted here by what they say."""
    alike: list[Any] = []
    async with connection.execute(statement) as cursor:
        async for row in cursor:
            if alike and alike[0][2:4] != row[2:4]:
                for dumped in _sorted_alike(table, alike, positions):
                    yield dumped
                alike = []
            alike.append(row)
    for dumped in _sorted_alike(table, alike, positions):
        yield dumped


def _sorted_alike(table: str, rows: Iterable[Any], positions: bool) -> list[Dumped]:
    told = [_entry(row) for row in rows]
    if not positions:
        told = [_without_arrival(entry) for entry in told]
        for entry in told:
            del entry["id"]
    keyed = sorted(((entry["kind"], entry["dedupe_key"]), _json(entry), index) for index, entry in enumerate(told))
    found: list[Dumped] = []
    for (_, key), same in groupby(keyed, key=lambda each: each[0]):
        for nth, (_, packed, index) in enumerate(same):
            entry = told[index]
            place = f"{entry['session_id'] or ''}\t{entry['at']:020d}\t{entry['kind']}\t{key}\t{nth:06d}"
            found.append((f"{table}\t{place}", packed))
    return found


def _entry(row: Any) -> dict[str, Any]:
    return {**msgspec.structs.asdict(decode_entry(row)), "room": row[9], "placed_at": row[10]}


def _without_arrival(told: dict[str, Any]) -> dict[str, Any]:
    """The row without what depends on arrival; lists that were ordered by position are ordered by what is left."""
    kept = {name: value for name, value in told.items() if name not in ARRIVAL}
    for name in ("anomalies", "history"):
        if name in kept:
            kept[name] = sorted((_without_arrival(each) for each in kept[name]), key=_json)
    return kept
