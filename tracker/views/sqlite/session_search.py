"""The statements for one page of the list of sessions, with or without a search text `q`.

A `q` of three letters or more is a phrase in the trigram index (`search_index`); a shorter one is any trigram that begins with
it. The index compares a phrase with each place of each text, trigram by trigram: of a longer text only a few trigrams are
searched, in any order, and what they find is compared with it. The index returns hits newest first by place, so a page with many hits ends early. Places do not order the sessions of one
minute, so all hits in the minute of the page's last session are read.
"""

# ruff: noqa: S608 - only constants are concatenated
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tracker.domain.facts import Micros
from tracker.errors import ParameterInvalid
from tracker.views.sqlite import queries as sql
from tracker.views.contract import SessionFilter
from tracker.views.cursors import decode_cursor
from tracker.views.sqlite.session_filters import Statement, Candidate, from_candidate, from_index, where_clauses
from tracker.views.sqlite.schema import PLACE_BITS, SEPARATOR
from tracker.views.sqlite.search_index import LAST_MINUTE, minute_of

TRIGRAM = 3
"""Letters in an entry of the index."""

PHRASE = 8
"""A longer text is not searched as a phrase."""
MAX_TERMS = 8
"""Trigrams of a longer text that are searched."""
MAX_PHRASE = 32
"""The longest text with letters beyond ASCII: only the index knows their other case, so it has to be searched as a phrase."""

MAX_HITS = 2_000
"""Fewer hits are all read and sorted; more are read newest first."""
MAX_HITS_WITH_FILTER = 12_000
"""The same with a filter that has an index: with more hits, that index is scanned instead."""
MAX_TRIGRAMS = 500
"""A short text that begins more trigrams than this is in nearly every session."""

SELECT_TEXT_SOURCES = "SELECT source FROM text_sources"
SELECT_TRIGRAMS = f"""
WITH RECURSIVE found (piece) AS (
    SELECT (SELECT term FROM pieces_found WHERE term >= ?1 AND term < ?2 LIMIT 1)
    UNION ALL
    SELECT (SELECT term FROM pieces_found WHERE term >= piece || char(1) AND term < ?2 LIMIT 1)
    FROM found WHERE piece IS NOT NULL
)
SELECT piece FROM found WHERE piece IS NOT NULL LIMIT {MAX_TRIGRAMS + 1}"""
"""Goes from trigram to trigram, skipping the hits of each. No term lies between a trigram and the same with one more letter."""

HITS = """ FROM session_pieces AS f CROSS JOIN session_texts AS t ON t.place = f.rowid CROSS JOIN sessions AS s ON s.number = t.session
WHERE f.session_pieces MATCH ?"""
FIRST_PLACE = "((SELECT number % 8192 FROM text_sources WHERE source = ?) << 26) + ?"


def sessions_statement(
    filter: SessionFilter, *, limit: int, cursor: str | None, candidate: Candidate | None = None
) -> Statement:
    """The statement for one page of sessions, from the few of `candidate` or by scanning an index.

    Raises `ParameterInvalid` for a bad cursor.
    """
    holds, pattern = "", list[Any]()
    if filter.q is not None:
        # First, because its fragment uses its only value (?1) six times.
        holds, pattern = sql.AND_SESSION_HOLDS, [filter.q]
    if candidate is None and filter.room is not None and not filter.has and filter.state is None:
        return _of_room(filter, holds, pattern, limit, cursor)
    narrowing, values = where_clauses(filter, cursor)
    if candidate is None:
        return (
            f"SELECT {sql.SESSION_COLUMNS} FROM {from_index(filter)} WHERE true{holds}{narrowing}{sql.SESSIONS_NEWEST}",
            [*pattern, *values, limit + 1],
        )
    few, bound = from_candidate(candidate)
    # `q` is bound as ?1, so a SELECT that names it must come first.
    text = f"""
WITH pattern (q) AS (SELECT ?1) SELECT {sql.SESSION_COLUMNS} FROM {few} WHERE true{holds}{narrowing}{sql.SESSIONS_NEWEST}"""
    return text, [*(pattern or [None]), *bound, *values, limit + 1]


def _of_room(filter: SessionFilter, holds: str, pattern: list[Any], limit: int, cursor: str | None) -> Statement:
    """The statement for a room with very many runs: those with its id and those with its name, each newest first."""
    arms: list[str] = []
    bound = list[Any](pattern)
    for index, room in (
        ("sessions_of_room", sql.AND_SESSION_ROOM_ID),
        ("sessions_of_room_name", sql.AND_SESSION_ROOM_NAME),
    ):
        narrowing, values = where_clauses(filter, cursor, room=room)
        arms.append(f"SELECT {sql.SESSION_COLUMNS} FROM sessions AS s INDEXED BY {index} WHERE true{holds}{narrowing}")
        bound += values
    return f"{' UNION ALL '.join(arms)} ORDER BY begins_at DESC, id DESC LIMIT ?", [*bound, limit + 1]


def newest_hits_statement(
    filter: SessionFilter, expression: str, source: str, *, limit: int, cursor: str | None
) -> Statement:
    """The statement for one page of the sessions of a source that `expression` finds. Raises as above."""
    narrowing, values = where_clauses(filter, cursor)
    holds, text_held = _holds(filter)
    narrowing += f"{holds} AND s.source = ?"
    values += [*text_held, source]
    first, last = _minutes(filter, cursor)
    # The minute of the page's last session, found in the order of places; without hits a minute after all others.
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
    """The statement that counts the texts `expression` finds, up to `limit`, in the source and time of the filter.

    Of a long `q` it may count more than hold it.
    """
    within, values = _within(filter, cursor)
    text = f"SELECT count(*) FROM (SELECT 1 FROM session_pieces AS f WHERE f.session_pieces MATCH ?{within} LIMIT ?)"
    return text, [expression, *values, limit]


def all_hits_statement(filter: SessionFilter, expression: str, *, limit: int, cursor: str | None) -> Statement:
    """The statement for one page of the sessions that `expression` finds, if they are few. Raises as above."""
    within, places = _within(filter, cursor)
    narrowing, values = where_clauses(filter, cursor)
    holds, text_held = _holds(filter)
    text = f"""
SELECT {sql.SESSION_COLUMNS} FROM (
    SELECT DISTINCT t.session AS number FROM session_pieces AS f CROSS JOIN session_texts AS t ON t.place = f.rowid
    WHERE f.session_pieces MATCH ?{within}{holds}
) AS hit CROSS JOIN sessions AS s ON s.number = hit.number WHERE true{narrowing}{sql.SESSIONS_NEWEST}"""
    return text, [expression, *places, *text_held, *values, limit + 1]


def match_phrase(q: str) -> str | None:
    """The FTS5 expression for a text of three letters or more; None if no search text can contain it.

    Of a long text it finds more than hold it. Raises `ParameterInvalid` for one that is too long to be searched.
    """
    if SEPARATOR in q or "\0" in q:
        return None
    if not _is_long(q):
        if len(q) > MAX_PHRASE:
            raise ParameterInvalid(
                "q", f"has letters beyond ASCII and more than {MAX_PHRASE} characters: search for a part"
            )
        return '"' + q.replace('"', '""') + '"'
    folded = q.lower()
    # The ends first: names often begin alike.
    places = sorted(range(len(folded) - TRIGRAM + 1), key=lambda n: min(n, len(folded) - TRIGRAM - n))
    distinct = dict.fromkeys(folded[n : n + TRIGRAM] for n in places)
    return " AND ".join('"' + term.replace('"', '""') + '"' for term in [*distinct][:MAX_TERMS])


def _is_long(q: str) -> bool:
    return q.isascii() and len(q) > PHRASE


def _holds(filter: SessionFilter) -> Statement:
    """The condition that compares a hit's text (`t`) with a long `q`."""
    return (sql.AND_TEXT_HOLDS, [filter.q]) if filter.q is not None and _is_long(filter.q) else ("", [])


def match_any(trigrams: Iterable[str]) -> str:
    """The FTS5 expression for any of these trigrams."""
    return " OR ".join('"' + trigram.replace('"', '""') + '"' for trigram in trigrams)


def trigrams_statement(q: str) -> Statement:
    """The statement for the trigrams that begin with a text of one or two letters, at most `MAX_TRIGRAMS + 1`."""
    folded = q.lower()
    return SELECT_TRIGRAMS, [folded, folded + chr(0x10FFFF)]


def has_indexed_filter(filter: SessionFilter) -> bool:
    """Whether a filter besides `q` has an index that may find few sessions."""
    return bool(
        filter.state in {"open", "stuck"}
        or filter.has
        or filter.min_duration_ms is not None
        or filter.room is not None
        or filter.identity is not None
    )


def _within(filter: SessionFilter, cursor: str | None) -> Statement:
    """The condition that limits hits to the places of the filter's source."""
    if filter.source is None:
        return "", []
    first, last = _minutes(filter, cursor)
    text = f" AND f.rowid >= ({FIRST_PLACE}) << {PLACE_BITS} AND f.rowid < ({FIRST_PLACE}) << {PLACE_BITS}"
    return text, [filter.source, first, filter.source, last + 1]


def _minutes(filter: SessionFilter, cursor: str | None) -> tuple[int, int]:
    """The first and the last minute in which a hit may begin."""
    first = 0 if filter.from_at is None else minute_of(filter.from_at)
    last = LAST_MINUTE if filter.to_at is None else minute_of(filter.to_at)
    if cursor is not None:
        before: Micros = decode_cursor("sessions", cursor, int, str)[0]
        last = min(last, minute_of(before))
    return first, last
