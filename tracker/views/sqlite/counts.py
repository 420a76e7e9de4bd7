"""The tables that statistics are read from, and how a rebuild or a save fills them: sums for spans of time.

    counts   for each source: how many sessions began in a day (or ten minutes), and the sums of their figures
    levels   for each source, and "" for all together: by how much the number of open sessions changed in a day, in ten
             minutes, in ten seconds (`net`), and how far it rose above its value at the start of the span (`peak`)

A `peak` holds the height and its moment in one number, `height * 2**40 - offset`, where the offset is µs from the start of the
row. So the largest number is the highest peak and, of equal ones, the first. A row of ten seconds is computed from the sessions,
a larger one from the rows of the next smaller span. So the tables depend on the sessions alone, not on the order of saves.
Spans in which nothing begins or ends have no row.

A save reads what the sessions it touches counted for, corrects the sums of those days, and recomputes the ten seconds in which
one of them began or ended. A session that stays open costs next to nothing. Everything runs in the connection's thread.
"""

# ruff: noqa: S608 - only constants are concatenated
from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from tracker.domain.facts import Micros
from tracker.domain.rows import SessionRow, SessionRows
from tracker.views.contract import Changes
from tracker.views.sqlite.row_diff import session_over_at
from tracker.views.sqlite.writer import Numbers, json_list

TEN_SECONDS = 10_000_000
TEN_MINUTES = 600_000_000
DAY = 86_400_000_000
"""The spans in µs. Each is a multiple of the one before."""

PEAK_UNIT = 2**40
"""What one session adds to a `peak`. It is larger than any offset (µs) within a day."""

CREATE_COUNTS = """
CREATE TABLE counts (
    span INTEGER NOT NULL, at INTEGER NOT NULL, source TEXT NOT NULL, sessions INTEGER NOT NULL, participants INTEGER NOT NULL,
    participant_ms INTEGER NOT NULL, recordings INTEGER NOT NULL, PRIMARY KEY (span, at, source)
) STRICT, WITHOUT ROWID"""

CREATE_LEVELS = """
CREATE TABLE levels (
    source TEXT NOT NULL, span INTEGER NOT NULL, at INTEGER NOT NULL, net INTEGER NOT NULL, peak INTEGER NOT NULL,
    PRIMARY KEY (source, span, at)
) STRICT, WITHOUT ROWID"""


def floored(column: str, span: int) -> str:
    """SQL for the start of the span that a time is in, also before 1970."""
    return f"({column} - (({column} % {span}) + {span}) % {span})"


# Ends come before starts of the same moment: a run that begins when another ends does not overlap it. A run that ends
# at the moment it begins was never open.
_LEAVES = f"""
SELECT source, {TEN_SECONDS}, leaf, sum(step), max(height * {PEAK_UNIT} - (at - leaf)) FROM (
    SELECT source, leaf, at, step,
        sum(step) OVER (PARTITION BY source, leaf ORDER BY at, step ROWS UNBOUNDED PRECEDING) AS height FROM edges
) GROUP BY source, leaf"""
_RAN = "(over_at IS NULL OR over_at > begins_at)"


def _summed(rows: str, span: int) -> str:
    """SQL for the rows of a span, from those of the next smaller span. `rows` has source, parent, at, net, peak."""
    return f"""
SELECT source, {span}, parent, sum(net), max(before * {PEAK_UNIT} + peak - (at - parent)) FROM (
    SELECT source, parent, at, net, peak,
        sum(net) OVER (PARTITION BY source, parent ORDER BY at ROWS UNBOUNDED PRECEDING) - net AS before FROM ({rows})
) GROUP BY source, parent"""


_ALL = "SELECT source, {at} AS parent, at, net, peak FROM levels WHERE span = {below}"
_SUMS = "count(*), sum(participants), sum(participant_ms), sum(recordings)"
_EDGES = f"""
SELECT source, {floored("begins_at", TEN_SECONDS)} AS leaf, begins_at AS at, 1 AS step FROM sessions WHERE {_RAN}
UNION ALL SELECT source, {floored("over_at", TEN_SECONDS)}, over_at, -1 FROM sessions WHERE over_at > begins_at"""

FILL_COUNTS = (
    f"INSERT INTO levels WITH edges AS ({_EDGES}) {_LEAVES}",
    f"INSERT INTO levels WITH edges AS (SELECT '' AS source, leaf, at, step FROM ({_EDGES})) {_LEAVES}",
    f"INSERT INTO levels {_summed(_ALL.format(at=floored('at', TEN_MINUTES), below=TEN_SECONDS), TEN_MINUTES)}",
    f"INSERT INTO levels {_summed(_ALL.format(at=floored('at', DAY), below=TEN_MINUTES), DAY)}",
    f"INSERT INTO counts SELECT {TEN_MINUTES}, {floored('begins_at', TEN_MINUTES)} AS at, source, {_SUMS} FROM sessions GROUP BY at, source",
    f"""
INSERT INTO counts SELECT {DAY}, {floored("at", DAY)} AS day, source,
    sum(sessions), sum(participants), sum(participant_ms), sum(recordings) FROM counts WHERE span = {TEN_MINUTES} GROUP BY day, source""",
)  # fmt: skip
"""How a rebuild fills the tables, after all sessions are saved."""

ADD_COUNTS = """
INSERT INTO counts (span, at, source, sessions, participants, participant_ms, recordings) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (span, at, source) DO UPDATE SET sessions = sessions + excluded.sessions, participants = participants + excluded.participants,
    participant_ms = participant_ms + excluded.participant_ms, recordings = recordings + excluded.recordings"""
DELETE_EMPTY_COUNTS = "DELETE FROM counts WHERE span = ? AND at = ? AND source = ? AND sessions = 0"

# `asked` is a JSON list of [source, at]: the rows of one span to recompute.
_ASKED = "asked (source, at) AS (SELECT value ->> 0, value ->> 1 FROM json_each(?))"
DELETE_LEVELS = "DELETE FROM levels WHERE source = ? AND span = ? AND at = ?"
SAVE_LEAVES = f"""
INSERT INTO levels WITH {_ASKED}, edges (source, leaf, at, step) AS (
    SELECT asked.source, asked.at, s.begins_at, 1 FROM asked
    CROSS JOIN sessions AS s INDEXED BY sessions_newest ON s.begins_at >= asked.at AND s.begins_at < asked.at + {TEN_SECONDS}
    WHERE asked.source IN ('', s.source) AND (s.over_at IS NULL OR s.over_at > s.begins_at)
    UNION ALL
    SELECT asked.source, asked.at, s.over_at, -1 FROM asked
    CROSS JOIN sessions AS s INDEXED BY sessions_over ON s.over_at >= asked.at AND s.over_at < asked.at + {TEN_SECONDS}
    WHERE asked.source IN ('', s.source) AND s.over_at > s.begins_at
) {_LEAVES}"""


def _recompute(span: int, below: int) -> str:
    rows = f"""
SELECT l.source, asked.at AS parent, l.at, l.net, l.peak FROM asked
CROSS JOIN levels AS l ON l.source = asked.source AND l.span = {below} AND l.at >= asked.at AND l.at < asked.at + {span}"""
    return f"INSERT INTO levels WITH {_ASKED} {_summed(rows, span)}"


SAVE_BRANCHES = _recompute(TEN_MINUTES, TEN_SECONDS)
SAVE_DAYS = _recompute(DAY, TEN_MINUTES)

SELECT_COUNTED = """
SELECT source, begins_at, over_at, participants, participant_ms, recordings
FROM json_each(?) AS asked CROSS JOIN sessions ON sessions.number = asked.value"""

# The queries of `stats`: ?1 = the sources as JSON or NULL, or one key of `levels`; ?2 = from, ?3 = to, ?4 = the span.
SELECT_COUNTS = """
SELECT at, source, sessions, participants, participant_ms, recordings FROM counts
WHERE span = ?4 AND at >= ?2 AND at < ?3 AND (?1 IS NULL OR source IN (SELECT value FROM json_each(?1)))"""
SELECT_BEGUN = """
SELECT begins_at, source, 1, participants, participant_ms, recordings FROM sessions
WHERE begins_at >= ?2 AND begins_at < ?3 AND (?1 IS NULL OR +source IN (SELECT value FROM json_each(?1)))"""
SELECT_LEVELS = "SELECT at, net, peak FROM levels WHERE source = ?1 AND span = ?4 AND at >= ?2 AND at < ?3 ORDER BY at"
SELECT_EDGES = """
SELECT begins_at AS at, 1 AS step, NULL FROM sessions INDEXED BY sessions_newest
WHERE begins_at >= ?2 AND begins_at < ?3 AND (over_at IS NULL OR over_at > begins_at) AND ?1 IN ('', source)
UNION ALL SELECT over_at, -1, NULL FROM sessions INDEXED BY sessions_over
WHERE over_at >= ?2 AND over_at < ?3 AND over_at > begins_at AND ?1 IN ('', source) ORDER BY at, step"""
SELECT_OVER = "SELECT count(*) FROM sessions WHERE over_at = ?2 AND begins_at < ?2 AND ?1 IN ('', source)"


class SessionCounts(NamedTuple):
    """What one session contributes to the tables."""

    source: str
    begins_at: Micros
    over_at: Micros | None
    participants: int
    participant_ms: int
    recordings: int


Key = tuple[int, Micros, str]


def select_counts(
    connection: sqlite3.Connection, changes: Changes, numbers: Numbers, known: Mapping[str, SessionRows]
) -> list[SessionCounts]:
    """What the saved and removed sessions contribute before the save. Call it first in the transaction of the save.

    `known`: rows that the file is known to hold; the other sessions are read from it.
    """
    names = (*changes.removed, *(rows.session.id for rows in changes.sessions))
    touched = [numbers[name] for name in names if name not in known]
    found = [_counted(known[name].session) for name in names if name in known]
    if touched:
        found += [SessionCounts(*row) for row in connection.execute(SELECT_COUNTED, [json_list(touched)])]
    return found


def update_counts(connection: sqlite3.Connection, before: Sequence[SessionCounts], changes: Changes) -> None:
    """Update the tables. Call it in the transaction of the save, after the sessions are written."""
    after = [_counted(rows.session) for rows in changes.sessions]
    _save_sums(connection, before, after)
    spans = _changed_spans(before, after)
    if spans:
        _save_levels(connection, spans)


def _counted(row: SessionRow) -> SessionCounts:
    return SessionCounts(
        row.source, row.begins_at, session_over_at(row), row.participants, row.participant_ms, row.recordings
    )


def _save_sums(connection: sqlite3.Connection, before: Sequence[SessionCounts], after: Sequence[SessionCounts]) -> None:
    sums: dict[Key, list[int]] = {}
    for sign, sessions in ((-1, before), (1, after)):
        for each in sessions:
            for span in (TEN_MINUTES, DAY):
                total = sums.setdefault((span, each.begins_at // span * span, each.source), [0, 0, 0, 0])
                counts = (1, each.participants, each.participant_ms, each.recordings)
                total[:] = [was + sign * count for was, count in zip(total, counts, strict=True)]
    changed = {key: total for key, total in sums.items() if any(total)}
    if changed:
        connection.executemany(ADD_COUNTS, [(*key, *total) for key, total in changed.items()])
    fewer = [key for key, total in changed.items() if total[0] < 0]
    if fewer:
        connection.executemany(DELETE_EMPTY_COUNTS, fewer)


def _changed_spans(before: Iterable[SessionCounts], after: Iterable[SessionCounts]) -> set[tuple[str, Micros]]:
    """(source, start of ten seconds) wherever the number of sessions that begin or end changed."""
    edges = Counter(edge for each in after for edge in _edges(each))
    edges.subtract(edge for each in before for edge in _edges(each))
    changed = {(source, at // TEN_SECONDS * TEN_SECONDS) for (source, at, _), change in edges.items() if change}
    return changed | {("", at) for _, at in changed}


def _edges(each: SessionCounts) -> Iterator[tuple[str, Micros, int]]:
    if each.over_at is None or each.over_at > each.begins_at:
        yield each.source, each.begins_at, 1
        if each.over_at is not None:
            yield each.source, each.over_at, -1


def _save_levels(connection: sqlite3.Connection, spans: set[tuple[str, Micros]]) -> None:
    """Recompute these rows of ten seconds, then the larger rows above them."""
    for span, statement in ((TEN_SECONDS, SAVE_LEAVES), (TEN_MINUTES, SAVE_BRANCHES), (DAY, SAVE_DAYS)):
        asked = sorted({(source, at // span * span) for source, at in spans})
        connection.executemany(DELETE_LEVELS, [(source, span, at) for source, at in asked])
        connection.execute(statement, [json_list(asked)])
