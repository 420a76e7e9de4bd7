"""One page of the list of sessions as statements: what each filter narrows by, and how `q` is found.

`q` of three letters and more is a phrase in the index of pieces (`sqlite_texts`); a shorter one is any piece that begins
with it. Hits come newest first by place, so many end early and few are few; only within the minute that holds the last
of a page are all looked at, because places do not order inside a minute.
"""

# ruff: noqa: S608 - only constants are concatenated
from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from tracker.domain.facts import Micros
from tracker.views.sqlite import queries as sql
from tracker.views.contract import SessionFilter
from tracker.views.cursors import decode_cursor
from tracker.views.sqlite.session_filters import Statement, Candidate, from_candidate, from_index, where_clauses
from tracker.views.sqlite.schema import PLACE_BITS, SEPARATOR
from tracker.views.sqlite.search_index import LAST_MINUTE, minute_of

TRIGRAM = 3
"""Letters the index keeps together."""

MAX_HITS = 2_000
"""Fewer hits are all taken; more are taken newest first."""
MAX_HITS_WITH_FILTER = 12_000
"""The same beside a filter with an index of its own, which is followed instead."""
MAX_TRIGRAMS = 500
"""A short text that begins more pieces than this is nearly everywhere."""

SELECT_TEXT_SOURCES = "SELECT source FROM text_sources"
SELECT_PIECES = f"""
WITH RECURSIVE found (piece) AS (
    SELECT (SELECT term FROM pieces_found WHERE term >= ?1 AND term < ?2 LIMIT 1)
    UNION ALL
    SELECT (SELECT term FROM pieces_found WHERE term >= piece || char(1) AND term < ?2 LIMIT 1)
    FROM found WHERE piece IS NOT NULL
)
SELECT piece FROM found WHERE piece IS NOT NULL LIMIT {MAX_TRIGRAMS + 1}"""
"""From piece to piece, over whatever each is in: a piece has three letters, so nothing lies between it and it with one more."""

HITS = """ FROM session_pieces AS f CROSS JOIN session_texts AS t ON t.place = f.rowid CROSS JOIN sessions AS s ON s.number = t.session
WHERE f.session_pieces MATCH ?"""
FIRST_PLACE = "((SELECT number % 8192 FROM text_sources WHERE source = ?) << 26) + ?"


def sessions_statement(
    filter: SessionFilter, *, limit: int, cursor: str | None, candidate: Candidate | None = None
) -> Statement:
    """The statement for one page of sessions, beginning with the few of `way` or passing over many.

    Raises `ParameterInvalid` for a bad cursor.
    """
    like, pattern = "", list[Any]()
    if filter.q is not None:
        # First, because its fragment names its only value (?1) and uses it five times.
        like, pattern = sql.AND_SESSION_LIKE, ["%" + re.sub(r"([\\%_])", r"\\\1", filter.q) + "%"]
    if candidate is None and filter.room is not None and not filter.has and filter.state is None:
        return _of_room(filter, like, pattern, limit, cursor)
    narrowing, values = where_clauses(filter, cursor)
    if candidate is None:
        return (
            f"SELECT {sql.SESSION_COLUMNS} FROM {from_index(filter)} WHERE true{like}{narrowing}{sql.SESSIONS_NEWEST}",
            [*pattern, *values, limit + 1],
        )
    few, bound = from_candidate(candidate)
    # What q binds is ?1: a SELECT that names it comes before everything else.
    text = f"""
WITH pattern (q) AS (SELECT ?1) SELECT {sql.SESSION_COLUMNS} FROM {few} WHERE true{like}{narrowing}{sql.SESSIONS_NEWEST}"""
    return text, [*(pattern or [None]), *bound, *values, limit + 1]


def _of_room(filter: SessionFilter, like: str, pattern: list[Any], limit: int, cursor: str | None) -> Statement:
    """A room with very many runs: those with its id and those with its name, each newest first."""
    arms: list[str] = []
    bound = list[Any](pattern)
    for index, room in (
        ("sessions_of_room", sql.AND_SESSION_ROOM_ID),
        ("sessions_of_room_name", sql.AND_SESSION_ROOM_NAME),
    ):
        narrowing, values = where_clauses(filter, cursor, room=room)
        arms.append(f"SELECT {sql.SESSION_COLUMNS} FROM sessions AS s INDEXED BY {index} WHERE true{like}{narrowing}")
        bound += values
    return f"{' UNION ALL '.join(arms)} ORDER BY begins_at DESC, id DESC LIMIT ?", [*bound, limit + 1]


def newest_hits_statement(
    filter: SessionFilter, expression: str, source: str, *, limit: int, cursor: str | None
) -> Statement:
    """The statement for one page of the sessions of one source that `expression` finds; errors as above."""
    narrowing, values = where_clauses(filter, cursor)
    narrowing += " AND s.source = ?"
    values.append(source)
    first, last = _minutes(filter, cursor)
    # The minute of the last of this page, looked for in the order of places; without hits a minute after all.
    oldest = f"""
SELECT ifnull(min(minute), {LAST_MINUTE + 1}) FROM (
    SELECT DISTINCT s.number, (f.rowid >> {PLACE_BITS}) & {LAST_MINUTE} AS minute {HITS}
    AND f.rowid >= ({FIRST_PLACE}) << {PLACE_BITS} AND f.rowid < ({FIRST_PLACE}) << {PLACE_BITS}{narrowing}
    ORDER BY f.rowid DESC LIMIT ?)"""
    text = f"""
SELECT {sql.SESSION_COLUMNS} FROM (
    SELECT DISTINCT s.number AS number {HITS}
    AND f.rowid >= (((SELECT number % 8192 FROM text_sources WHERE source = ?) << 26) + ({oldest})) << {PLACE_BITS}
    AND f.rowid < ({FIRST_PLACE}) << {PLACE_BITS}{narrowing}
) AS hit CROSS JOIN sessions AS s ON s.number = hit.number{sql.SESSIONS_NEWEST}"""
    inner = [expression, source, first, source, last + 1, *values, limit + 1]
    return text, [expression, source, *inner, source, last + 1, *values, limit + 1]


def count_hits_statement(filter: SessionFilter, expression: str, *, limit: int, cursor: str | None) -> Statement:
    """The statement for how many texts `expression` finds, up to `most`: of the source and the time that are asked for."""
    within, values = _within(filter, cursor)
    text = f"SELECT count(*) FROM (SELECT 1 FROM session_pieces AS f WHERE f.session_pieces MATCH ?{within} LIMIT ?)"
    return text, [expression, *values, limit]


def all_hits_statement(filter: SessionFilter, expression: str, *, limit: int, cursor: str | None) -> Statement:
    """The statement for one page of the sessions of all sources that `expression` finds, where those are few; errors as above."""
    within, places = _within(filter, cursor)
    narrowing, values = where_clauses(filter, cursor)
    text = f"""
SELECT {sql.SESSION_COLUMNS} FROM (
    SELECT DISTINCT t.session AS number FROM session_pieces AS f CROSS JOIN session_texts AS t ON t.place = f.rowid
    WHERE f.session_pieces MATCH ?{within}
) AS hit CROSS JOIN sessions AS s ON s.number = hit.number WHERE true{narrowing}{sql.SESSIONS_NEWEST}"""
    return text, [expression, *places, *values, limit + 1]


def match_phrase(q: str) -> str | None:
    """What the index is asked for a text of three letters and more; None for what no text holds."""
    if SEPARATOR in q or "\0" in q:
        return None
    return '"' + q.replace('"', '""') + '"'


def match_any(pieces: Iterable[str]) -> str:
    """What the index is asked for any of these pieces."""
    return " OR ".join('"' + piece.replace('"', '""') + '"' for piece in pieces)


def trigrams_statement(q: str) -> Statement:
    """The statement for the pieces that begin with a text of one or two letters; `MOST_PIECES` and one more at most."""
    folded = q.lower()
    return SELECT_PIECES, [folded, folded + chr(0x10FFFF)]


def has_indexed_filter(filter: SessionFilter) -> bool:
    """Whether a filter beside `q` has an index of its own that finds few."""
    return bool(
        filter.state in {"open", "stuck"}
        or filter.has
        or filter.min_duration_ms is not None
        or filter.room is not None
        or filter.identity is not None
    )


def _within(filter: SessionFilter, cursor: str | None) -> Statement:
    """Narrows hits to the places of the one source that is asked for."""
    if filter.source is None:
        return "", []
    first, last = _minutes(filter, cursor)
    text = f" AND f.rowid >= ({FIRST_PLACE}) << {PLACE_BITS} AND f.rowid < ({FIRST_PLACE}) << {PLACE_BITS}"
    return text, [filter.source, first, filter.source, last + 1]


def _minutes(filter: SessionFilter, cursor: str | None) -> tuple[int, int]:
    """The first and the last minute a hit may begin in."""
    first = 0 if filter.from_at is None else minute_of(filter.from_at)
    last = LAST_MINUTE if filter.to_at is None else minute_of(filter.to_at)
    if cursor is not None:
        before: Micros = decode_cursor("sessions", cursor, int, str)[0]
        last = min(last, minute_of(before))
    return first, last
