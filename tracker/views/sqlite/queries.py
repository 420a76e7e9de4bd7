"""The read statements of the SQLite views: one constant per statement, and the fixed fragments that filters are composed of.

A list is `SELECT_…` + `AND_…` fragments + its order. Values are always bound. A list of values is one bound JSON text
(`json_each`). `NUMBER_OF_NAME` is the number of the name bound next: -1 for an unknown name, NULL for NULL (the entries of no
session). `+source` keeps the sources of a token away from the indices, so that an index still provides the order.
"""

# ruff: noqa: S608 - only constants are concatenated
from __future__ import annotations

NUMBER_OF_NAME = "(SELECT CASE WHEN wanted IS NULL THEN NULL ELSE ifnull((SELECT number FROM names WHERE name = wanted), -1) END FROM (SELECT ? AS wanted))"
SESSION_COLUMNS = """s.doc, s.begins_at, s.id, s.source, s.vendor, s.room_id, s.room_name, s.state, s.duration_ms, s.last_event_at, s.participants,
s.participant_ms, s.recordings, s.supervisors"""
"""The columns that `encoding.sessions` decodes, after `doc`."""

SELECT_SESSION = f"SELECT {SESSION_COLUMNS} FROM sessions AS s WHERE s.number = {NUMBER_OF_NAME}"
SELECT_SET_ASIDE = f"""
SELECT {SESSION_COLUMNS} FROM set_aside CROSS JOIN sessions AS s ON s.number = set_aside.session ORDER BY s.id LIMIT ?"""
SELECT_SESSIONS_BY_ID = f"""
SELECT {SESSION_COLUMNS} FROM sessions AS s
WHERE s.number IN (SELECT number FROM json_each(?) JOIN names ON names.name = value) ORDER BY s.begins_at DESC, s.id DESC LIMIT ?"""

# `session_filters` composes these and chooses the index.
AND_SESSION_SOURCE = " AND s.source = ?"
AND_SESSION_SOURCES = " AND s.source IN (SELECT value FROM json_each(?))"
AND_SESSION_ROOM = " AND (s.room_id = ? OR s.room_name = ?)"
AND_SESSION_ROOM_ID = " AND s.room_id = ?"
AND_SESSION_ROOM_NAME = " AND s.room_name = ? AND s.room_id IS NOT ?"
AND_SESSION_IDENTITY = """
AND EXISTS (SELECT 1 FROM participants AS p WHERE p.session = s.number AND (+p.identity = ? OR +p.name = ?))"""
AND_SESSION_STATE = " AND s.state = ?"
AND_SESSION_STUCK = """ AND s.state = 'open'
AND EXISTS (SELECT 1 FROM json_each(?) AS bound WHERE bound.key = s.source AND s.last_event_at <= bound.value)"""
AND_SESSION_FROM = " AND s.begins_at >= ?"
AND_SESSION_TO = " AND s.begins_at < ?"
HAS_CONDITIONS = {"recording": "s.recordings > 0", "supervisor": "s.supervisors > 0", "anomaly": "s.anomalies > 0"}
AND_SESSION_DURATION = " AND s.duration_ms >= ?"
SESSIONS_OF_IDENTITY = """
SELECT session AS number FROM participants INDEXED BY participants_of_identity WHERE identity = ?
UNION ALL SELECT session FROM participants INDEXED BY participants_of_name WHERE name = ?"""
SESSIONS_OF_ROOM = """
SELECT number FROM sessions INDEXED BY sessions_of_room WHERE room_id = ?
UNION ALL SELECT number FROM sessions INDEXED BY sessions_of_room_name WHERE room_name = ? AND room_id IS NOT ?"""
SESSIONS_OF_PARENT = "SELECT number FROM sessions INDEXED BY sessions_of_parent WHERE parent_id = ?"
SESSIONS_OF_DURATION = "SELECT number FROM sessions INDEXED BY sessions_by_duration WHERE duration_ms >= ?"
# For letters that nearly every session has, for filters that find few, and if SQLite has no trigrams (`session_search`).
# lower() and instr() compare as LIKE does, but LIKE tries a text of equal letters at each letter, in steps of one.
AND_SESSION_HOLDS = """ AND (instr(lower(s.id), lower(?1)) OR instr(lower(s.room_id), lower(?1)) OR instr(lower(s.room_name), lower(?1))
OR EXISTS (SELECT 1 FROM session_lookups AS l WHERE l.session = s.number AND instr(lower(l.lookup), lower(?1)))
OR EXISTS (SELECT 1 FROM participants AS p WHERE p.session = s.number
           AND (instr(lower(p.identity), lower(?1)) OR instr(lower(p.name), lower(?1)))))"""
AND_TEXT_HOLDS = " AND instr(lower(t.text), lower(?))"
AND_SESSION_PARENT = " AND s.parent_id = ?"
AND_SESSION_BEFORE = " AND (s.begins_at, s.id) < (?, ?)"
SESSIONS_NEWEST = " ORDER BY s.begins_at DESC, s.id DESC LIMIT ?"

SELECT_LOOKUP = """
SELECT id, source FROM session_lookups JOIN sessions ON sessions.number = session_lookups.session
WHERE lookup = ? ORDER BY begins_at DESC, id DESC LIMIT ?"""
SELECT_PLACED_SESSIONS = f"""
SELECT DISTINCT (SELECT name FROM names WHERE number = session) FROM entries
WHERE source = {NUMBER_OF_NAME} AND room = ? AND placed_at >= ? AND placed_at < ? AND session IS NOT NULL LIMIT ?"""

ENTRY_COLUMNS = """position, n, (SELECT name FROM names WHERE number = session) AS session_id, at, kind, subject_id,
(SELECT name FROM names WHERE number = source), hidden, rest"""
"""The columns that `encoding.decode_entry` decodes."""

# Copies of one event have one moment and one place in it. The index of timelines finds them all with one search.
NO_BETTER_COPY = """(entries.event IS NULL OR NOT EXISTS (
    SELECT 1 FROM entries AS other
    WHERE other.session IS entries.session AND other.at = entries.at AND other.rank = entries.rank
        AND other.tie = entries.tie AND other.n = entries.n AND other.position <> entries.position
        AND other.event = entries.event AND other.source = entries.source AND (other.damage < entries.damage
            OR other.damage = entries.damage AND other.text = entries.text AND other.position < entries.position)))
AND (entries.event IS NULL OR entries.damage IS NOT NULL OR NOT EXISTS (
    SELECT 1 FROM entries AS other
    WHERE other.damage IS NULL AND other.event = entries.event AND other.session IS entries.session
        AND other.tie = entries.tie AND other.n = entries.n AND other.source = entries.source
        AND (other.at < entries.at OR other.at = entries.at
            AND (ifnull(other.text, -1), other.position) < (ifnull(entries.text, -1), entries.position))))"""
"""Whether an entry is the one to show of the copies of its event: the least damaged; of equal ones the first.

Repeats with other times are found by an index of their own.
"""

SELECT_TIMELINE = f"""
SELECT {ENTRY_COLUMNS}, rank, tie FROM (
    SELECT position, n, session, at, kind, subject_id, source, hidden, rest, rank, tie FROM entries
    WHERE NOT hidden AND {NO_BETTER_COPY}
    UNION ALL SELECT position, n, session, at, kind, subject_id, source, hidden, rest, rank, tie FROM gaps
    WHERE NOT hidden
) WHERE session IS {NUMBER_OF_NAME}"""
AND_ENTRY_KINDS = " AND kind IN (SELECT value FROM json_each(?))"
AND_ENTRY_SUBJECT = " AND subject_id = ?"
AND_ENTRY_AFTER = " AND (at, rank, tie, n, position) > (?, ?, ?, ?, ?)"
ENTRIES_IN_TIME = " ORDER BY at, rank, tie, n, position LIMIT ?"

SELECT_ENTRIES_AFTER = f"""
SELECT {ENTRY_COLUMNS} FROM entries
WHERE (position, n) > (?, ?) AND NOT hidden AND {NO_BETTER_COPY} ORDER BY position, n LIMIT ?"""
SELECT_SESSION_POSITIONS = f"""
SELECT DISTINCT position FROM entries WHERE session = {NUMBER_OF_NAME} AND position > ? ORDER BY position LIMIT ?"""
SELECT_RECORD_SESSIONS = """
SELECT DISTINCT name FROM entries JOIN names ON names.number = entries.session WHERE position = ? ORDER BY name"""

# Each begins with (doc, begins_at, session_id, id): the last three are the cursor; all but begins_at make the row.
SELECT_PARTICIPANTS = "SELECT doc, begins_at, session_id, id, identity, name FROM participants WHERE true"
SELECT_CONNECTIONS = """
SELECT doc, begins_at, (SELECT name FROM names WHERE number = session), id FROM connections WHERE true"""
SELECT_STREAMS = "SELECT doc, begins_at, (SELECT name FROM names WHERE number = session), id FROM streams WHERE true"
SELECT_RECORDINGS = "SELECT doc, begins_at, session_id, id, status FROM recordings WHERE true"
SELECT_SUPERVISOR_SESSIONS = """
SELECT doc, begins_at, session_id, id, supervisor_client, agent_client FROM supervisor_sessions WHERE true"""
AND_OF_SESSION = f" AND session = {NUMBER_OF_NAME}"
AND_SOURCES = " AND +source IN (SELECT value FROM json_each(?))"
IDENTITY_OR_NAME = " AND identity = ?", " AND name = ? AND +identity IS NOT ?"
AND_STATUS = " AND status = ?"
SUPERVISOR_OR_AGENT = " AND supervisor_client = ?", " AND agent_client = ? AND +supervisor_client IS NOT ?"
AND_AFTER = " AND (begins_at, id) > (?, ?)"
AND_BEFORE = " AND (begins_at, session_id, id) < (?, ?, ?)"
OLDEST_FIRST = " ORDER BY begins_at, id LIMIT ?"
NEWEST_FIRST = " ORDER BY begins_at DESC, session_id DESC, id DESC LIMIT ?"
SELECT_SUPERVISOR_SESSION = """
SELECT doc, begins_at, session_id, id, supervisor_client, agent_client FROM supervisor_sessions WHERE id = ?1 OR vendor_id = ?1 ORDER BY begins_at DESC, session_id DESC, id DESC"""

SELECT_ROOM_SUMMARIES = """
SELECT source, room_id,
    (SELECT l.room_name FROM sessions AS l WHERE l.source = s.source AND l.room_id = s.room_id
     ORDER BY l.begins_at DESC, l.id DESC LIMIT 1),
    count(*), sum(state = 'open'), min(begins_at), max(begins_at)
FROM sessions AS s WHERE room_id IS NOT NULL"""
AND_SUMMARY_SOURCE = " AND source = ?"
AND_SUMMARY_AFTER = " AND (source, room_id) > (?, ?)"
SUMMARIES_BY_ROOM = " GROUP BY source, room_id ORDER BY source, room_id LIMIT ?"

# Goes from source to source, and counts each in an index. ?1 = the sources as JSON or NULL.
SELECT_OPEN = """
WITH RECURSIVE known (source) AS (
    SELECT min(source) FROM sessions
    UNION ALL SELECT (SELECT min(source) FROM sessions AS s WHERE s.source > known.source) FROM known WHERE source IS NOT NULL
)
SELECT source, (SELECT count(*) FROM sessions AS s WHERE s.source = known.source AND s.state = 'open') FROM known
WHERE source IS NOT NULL AND (?1 IS NULL OR source IN (SELECT value FROM json_each(?1)))"""
# The peak of several sources. ?2 = from, ?3 = to.
# Ends come before starts of the same moment: a run that begins when another ends does not overlap it.
SELECT_PEAK = """
WITH spans (begins_at, over_at) AS (
    SELECT begins_at, over_at FROM sessions
    WHERE over_at > ?2 AND begins_at < ?3 AND (?1 IS NULL OR +source IN (SELECT value FROM json_each(?1)))
    UNION ALL
    SELECT begins_at, NULL FROM sessions
    WHERE over_at IS NULL AND begins_at < ?3 AND (?1 IS NULL OR +source IN (SELECT value FROM json_each(?1)))
), edges (at, step) AS (
    SELECT max(begins_at, ?2), 1 FROM spans UNION ALL SELECT over_at, -1 FROM spans WHERE over_at IS NOT NULL
), levels (at, level) AS (
    SELECT at, sum(step) OVER (ORDER BY at, step ROWS UNBOUNDED PRECEDING) FROM edges
)
SELECT level, at FROM levels WHERE level > 0 ORDER BY level DESC, at LIMIT 1"""
