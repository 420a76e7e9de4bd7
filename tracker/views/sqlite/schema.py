"""The tables of a views file, one constant per statement, and the stamp that identifies its version.

Columns hold what queries search or order by; `doc` and `rest` hold the other fields of a row (`encoding`). Session ids and
source names are long and repeated in every row, so the table `names` gives each a number. `session_id` is text only where lists
across sessions are ordered by it. Child rows are clustered by (session, begins_at, id), so a session's lists need no sorting.
There are no migrations: a file with another stamp is rebuilt.
"""

# ruff: noqa: S608 - only constants are concatenated
from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing

import msgspec

from tracker.domain.room_marks import START
from tracker.domain.rows import ConnectionRow, EntryRow, ParticipantRow, RecordingRow, SessionRow, StreamRow, SupervisorSessionRow  # fmt: skip
from tracker.views.contract import VIEWS_VERSION
from tracker.views.sqlite.counts import CREATE_COUNTS, CREATE_LEVELS, FILL_COUNTS
from tracker.views.sqlite.encoding import DOCS, KINDS, ENTRY_SHAPES

APPLICATION_ID = 0x54524B56
"""The application id in the file header ("TRKV"): a swap never overwrites a file without it."""

CREATE_META = "CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID"

CREATE_NAMES = "CREATE TABLE names (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT"

CREATE_SESSIONS = """
CREATE TABLE sessions (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, source TEXT NOT NULL, vendor TEXT NOT NULL, room_id TEXT, room_name TEXT,
    state TEXT NOT NULL, begins_at INTEGER NOT NULL, over_at INTEGER, duration_ms INTEGER, last_event_at INTEGER NOT NULL,
    participants INTEGER NOT NULL, participant_ms INTEGER NOT NULL, recordings INTEGER NOT NULL,
    supervisors INTEGER NOT NULL, anomalies INTEGER NOT NULL, end_provenance TEXT, joined INTEGER NOT NULL,
    next_run_after INTEGER NOT NULL, parent_id TEXT, doc BLOB NOT NULL
) STRICT"""

CREATE_SESSION_STATES = "CREATE TABLE session_states (session INTEGER PRIMARY KEY, state BLOB NOT NULL) STRICT"

CREATE_SESSION_LOOKUPS = """
CREATE TABLE session_lookups (
    lookup TEXT NOT NULL, session INTEGER NOT NULL, PRIMARY KEY (lookup, session)
) STRICT, WITHOUT ROWID"""

CREATE_PARTICIPANTS = """
CREATE TABLE participants (
    session INTEGER NOT NULL, begins_at INTEGER NOT NULL, id TEXT NOT NULL, session_id TEXT NOT NULL, source TEXT NOT NULL,
    identity TEXT, name TEXT, doc BLOB NOT NULL, PRIMARY KEY (session, begins_at, id)
) STRICT, WITHOUT ROWID"""

CREATE_CONNECTIONS = """
CREATE TABLE connections (
    session INTEGER NOT NULL, begins_at INTEGER NOT NULL, id TEXT NOT NULL, doc BLOB NOT NULL,
    PRIMARY KEY (session, begins_at, id)
) STRICT, WITHOUT ROWID"""

CREATE_STREAMS = """
CREATE TABLE streams (
    session INTEGER NOT NULL, begins_at INTEGER NOT NULL, id TEXT NOT NULL, doc BLOB NOT NULL,
    PRIMARY KEY (session, begins_at, id)
) STRICT, WITHOUT ROWID"""

CREATE_RECORDINGS = """
CREATE TABLE recordings (
    session INTEGER NOT NULL, begins_at INTEGER NOT NULL, id TEXT NOT NULL, session_id TEXT NOT NULL, source TEXT NOT NULL,
    status TEXT NOT NULL, doc BLOB NOT NULL, PRIMARY KEY (session, begins_at, id)
) STRICT, WITHOUT ROWID"""

CREATE_SUPERVISOR_SESSIONS = """
CREATE TABLE supervisor_sessions (
    session INTEGER NOT NULL, begins_at INTEGER NOT NULL, id TEXT NOT NULL, session_id TEXT NOT NULL, source TEXT NOT NULL,
    vendor_id TEXT NOT NULL, supervisor_client TEXT, agent_client TEXT, doc BLOB NOT NULL,
    PRIMARY KEY (session, begins_at, id)
) STRICT, WITHOUT ROWID"""

CREATE_ENTRIES = """
CREATE TABLE entries (
    position INTEGER NOT NULL, n INTEGER NOT NULL, session INTEGER, at INTEGER NOT NULL, kind ANY NOT NULL,
    subject_id TEXT, source INTEGER NOT NULL, hidden INTEGER NOT NULL, rank INTEGER NOT NULL, tie INTEGER NOT NULL,
    event INTEGER, text INTEGER, damage INTEGER, room TEXT, placed_at INTEGER, place BLOB, anchor TEXT,
    rest BLOB NOT NULL, PRIMARY KEY (position, n)
) STRICT, WITHOUT ROWID"""

CREATE_GAPS = """
CREATE TABLE gaps (
    session INTEGER NOT NULL, at INTEGER NOT NULL, position INTEGER NOT NULL, n INTEGER NOT NULL, kind ANY NOT NULL,
    subject_id TEXT, source INTEGER NOT NULL, hidden INTEGER NOT NULL, rank INTEGER NOT NULL, tie INTEGER NOT NULL,
    rest BLOB NOT NULL, PRIMARY KEY (session, at, rank, tie, n, position)
) STRICT, WITHOUT ROWID"""

CREATE_ROOMS = """
CREATE TABLE rooms (
    number INTEGER PRIMARY KEY, source TEXT NOT NULL, room TEXT NOT NULL, UNIQUE (source, room)
) STRICT"""

CREATE_ROOM_MARKS = """
CREATE TABLE room_marks (
    room INTEGER NOT NULL, kind INTEGER NOT NULL, at INTEGER NOT NULL, until INTEGER NOT NULL, name TEXT NOT NULL,
    PRIMARY KEY (room, kind, at, until, name)
) STRICT, WITHOUT ROWID"""

CREATE_SET_ASIDE = "CREATE TABLE set_aside (session INTEGER PRIMARY KEY) STRICT"

CREATE_SOURCES = """
CREATE TABLE sources (
    source TEXT PRIMARY KEY, vendor TEXT NOT NULL, last_received_at INTEGER NOT NULL, records INTEGER NOT NULL,
    state BLOB NOT NULL
) STRICT, WITHOUT ROWID"""

WRITER_INDICES = (
    "CREATE INDEX sessions_by_end ON sessions (source, end_provenance, begins_at, joined)",
    "CREATE INDEX lookups_of_session ON session_lookups (session)",
    "CREATE INDEX entries_of_session_in_log ON entries (session, position, n)",
    "CREATE INDEX sessions_of_parent ON sessions (parent_id) WHERE parent_id IS NOT NULL",
    "CREATE INDEX sessions_of_next_run ON sessions (source, room_id, next_run_after)",
    "CREATE INDEX entries_of_room ON entries (source, room, placed_at) WHERE room IS NOT NULL",
    "CREATE INDEX entries_of_anchor ON entries (source, room, anchor) WHERE anchor IS NOT NULL",
    f"CREATE INDEX room_marks_by_name ON room_marks (room, name, kind) WHERE kind < {START}",
)
"""The indices that the projector needs."""

READER_INDICES = (
    # Indices include the columns that lists are often filtered by, so that skipped sessions are not read.
    "CREATE INDEX sessions_newest ON sessions (begins_at, id, duration_ms, source)",
    "CREATE INDEX sessions_by_duration ON sessions (duration_ms)",
    "CREATE INDEX sessions_recorded ON sessions (begins_at, id, duration_ms, state, source) WHERE recordings > 0",
    "CREATE INDEX sessions_supervised ON sessions (begins_at, id, duration_ms, state, source, recordings) WHERE supervisors > 0",
    "CREATE INDEX sessions_odd ON sessions (begins_at, id, duration_ms, state, source, recordings, supervisors) WHERE anomalies > 0",
    "CREATE INDEX sessions_recorded_of_source ON sessions (source, begins_at, id, duration_ms, state) WHERE recordings > 0",
    "CREATE INDEX sessions_supervised_of_source ON sessions (source, begins_at, id, duration_ms, state, recordings) WHERE supervisors > 0",
    "CREATE INDEX sessions_odd_of_source ON sessions (source, begins_at, id, duration_ms, state, recordings, supervisors) WHERE anomalies > 0",
    "CREATE INDEX sessions_of_source ON sessions (source, begins_at, id, duration_ms)",
    "CREATE INDEX sessions_of_source_in_state ON sessions (source, state, begins_at, id)",
    "CREATE INDEX sessions_in_state ON sessions (state, begins_at, id)",
    "CREATE INDEX sessions_of_room ON sessions (room_id, begins_at, id)",
    "CREATE INDEX sessions_of_room_name ON sessions (room_name, begins_at, id)",
    "CREATE INDEX sessions_by_room ON sessions (source, room_id, begins_at, id, room_name, state)",
    "CREATE INDEX sessions_over ON sessions (over_at, begins_at, source)",
    "CREATE INDEX participants_newest ON participants (begins_at, session_id, id)",
    "CREATE INDEX participants_of_identity ON participants (identity, begins_at, session_id, id)",
    "CREATE INDEX participants_of_name ON participants (name, begins_at, session_id, id)",
    "CREATE INDEX recordings_newest ON recordings (begins_at, session_id, id)",
    "CREATE INDEX recordings_in_status ON recordings (status, begins_at, session_id, id)",
    "CREATE INDEX supervisor_sessions_newest ON supervisor_sessions (begins_at, session_id, id)",
    "CREATE INDEX supervisor_sessions_by_id ON supervisor_sessions (id)",
    "CREATE INDEX supervisor_sessions_by_vendor_id ON supervisor_sessions (vendor_id)",
    "CREATE INDEX supervisor_sessions_of_client ON supervisor_sessions (supervisor_client, begins_at, session_id, id)",
    "CREATE INDEX supervisor_sessions_of_agent ON supervisor_sessions (agent_client, begins_at, session_id, id)",
    "CREATE INDEX entries_of_session ON entries (session, at, rank, tie, n, position)",
    "CREATE INDEX entries_repeated ON entries (event, session, at, position) WHERE event IS NOT NULL AND damage IS NULL",
)
"""The indices that only readers need. A rebuild creates them last: sorted, with full pages."""

MINUTE = 60_000_000
PLACE_BITS = 24
SEPARATOR = "\x1f"
"""Separates the words of a search text."""

CREATE_TEXT_SOURCES = "CREATE TABLE text_sources (number INTEGER PRIMARY KEY, source TEXT NOT NULL UNIQUE) STRICT"
CREATE_SESSION_TEXTS = """
CREATE TABLE session_texts (place INTEGER PRIMARY KEY, session INTEGER NOT NULL, text TEXT NOT NULL) STRICT"""
CREATE_SESSION_PIECES = """
CREATE VIRTUAL TABLE session_pieces
USING fts5 (text, content = 'session_texts', content_rowid = 'place', columnsize = 0, tokenize = 'trigram')"""
CREATE_PIECES_FOUND = "CREATE VIRTUAL TABLE pieces_found USING fts5vocab ('session_pieces', 'instance')"


def _is_searchable() -> bool:
    """Whether this SQLite has FTS5 with the trigram tokenizer (3.34)."""
    with closing(sqlite3.connect(":memory:")) as connection:
        try:
            connection.execute(CREATE_SESSION_PIECES)
            connection.execute(CREATE_PIECES_FOUND)
        except sqlite3.OperationalError:
            return False
    return True


HAS_TRIGRAMS = _is_searchable()
"""Without trigrams, `q` scans every session."""

TEXTS = (CREATE_TEXT_SOURCES, CREATE_SESSION_TEXTS, CREATE_SESSION_PIECES, CREATE_PIECES_FOUND) if HAS_TRIGRAMS else ()
"""The tables that `q` searches (`search_index`)."""

FILL_TEXTS = (
    "INSERT INTO text_sources (source) SELECT DISTINCT source FROM sessions ORDER BY source",
    f"""
INSERT INTO session_texts (place, session, text)
SELECT ((((SELECT number FROM text_sources AS t WHERE t.source = s.source) % 8192) << 26) + minute << {PLACE_BITS})
        + row_number() OVER (PARTITION BY s.source, minute ORDER BY begins_at, id) - 1, number,
    id
    || ifnull(char(31) || (
        SELECT group_concat(word, char(31)) FROM (
            SELECT s.room_id AS word UNION SELECT s.room_name
            UNION SELECT lookup FROM session_lookups WHERE session = s.number
            UNION SELECT identity FROM participants WHERE session = s.number
            UNION SELECT name FROM participants WHERE session = s.number
        ) WHERE word <> '' AND instr(s.id, word) = 0), '')
    || char(31, 31)
FROM (SELECT *, min(max(begins_at / {MINUTE}, 0), {2**26 - 1}) AS minute FROM sessions) AS s""",
    "CREATE INDEX texts_of_session ON session_texts (session)",
    # Write the index in few large pieces: by default it writes after every 1 MB.
    "INSERT INTO session_pieces (session_pieces, rank) VALUES ('hashsize', 16777216)",
    "INSERT INTO session_pieces (session_pieces) VALUES ('rebuild')",
    "INSERT INTO session_pieces (session_pieces) VALUES ('optimize')",
    "INSERT INTO session_pieces (session_pieces, rank) VALUES ('hashsize', 1048576)",
) if HAS_TRIGRAMS else ()  # fmt: skip
"""How a rebuild fills the search tables, after `READER_INDICES`: with the same result as `search_index.update_texts`."""

SCHEMA = (
    CREATE_META, CREATE_NAMES, CREATE_SESSIONS, CREATE_SESSION_STATES, CREATE_SESSION_LOOKUPS, CREATE_PARTICIPANTS,
    CREATE_CONNECTIONS, CREATE_STREAMS, CREATE_RECORDINGS, CREATE_SUPERVISOR_SESSIONS, CREATE_ENTRIES, CREATE_GAPS, CREATE_ROOMS, CREATE_ROOM_MARKS,
    CREATE_SET_ASIDE, CREATE_SOURCES, CREATE_COUNTS, CREATE_LEVELS, *WRITER_INDICES, *TEXTS,
)  # fmt: skip
"""What a rebuild starts with; it adds `READER_INDICES` at the end."""

SET_APPLICATION_ID = f"PRAGMA application_id = {APPLICATION_ID}"
INSERT_META = "INSERT INTO meta (key, value) VALUES (?, ?)"
SELECT_STAMP = "SELECT value FROM meta WHERE key = 'stamp'"


def _stamp() -> str:
    """The version and a hash of everything that shapes the file, so that a change of schema or rows cannot be forgotten."""
    shapes = [
        f"{row.__name__}:{','.join(f'{field.name}={field.type}' for field in msgspec.structs.fields(row))}"
        for row in (
            SessionRow, ParticipantRow, ConnectionRow, StreamRow, RecordingRow, SupervisorSessionRow, EntryRow,
        )
    ]  # fmt: skip
    packed = [f"{KINDS} {ENTRY_SHAPES}", *(f"{doc.columns}" for doc in DOCS)]
    shape = hashlib.sha256(
        "\n".join([*SCHEMA, *READER_INDICES, *FILL_TEXTS, *FILL_COUNTS, *shapes, *packed]).encode()
    ).hexdigest()[:16]
    return f"{VIEWS_VERSION}-{shape}"


STAMP = _stamp()


def interpret_by(digest: str) -> bool:
    """From now on views are written, in this process, by the declarations with this digest ("" for none).

    Returns whether that is a change.
    """
    global _digest
    is_change, _digest = digest != _digest, digest
    return is_change


def full_stamp() -> str:
    """The stamp of finished views that this process writes: the version, and a digest of the log's declarations."""
    return f"{STAMP}+{_digest}" if _digest else STAMP


_digest = ""
UNFINISHED = f"{STAMP}-unfinished"
"""The stamp of a file that is still being built. Nobody else opens it, and it is never swapped in."""

SAVE_STAMP = "UPDATE meta SET value = ? WHERE key = 'stamp'"
