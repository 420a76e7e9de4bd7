"""One page of the list of sessions as statements: what each filter narrows by, and how `q` is found.

`q` of three letters and more is a phrase in the index of pieces (`sqlite_texts`); a shorter one is any piece that begins
with it. Hits come newest first by place, so many end early and few are few; only within the minute that holds the last
of a page are all looked at, because places do not order inside a minute.
"""

# ruff: noqa: S608 - only constants of ours are put together
from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from tracker.errors import ParameterInvalid
from tracker.facts import Micros
from tracker.views import sqlite_queries as sql
from tracker.views.contract import SessionFilter
from tracker.views.cursors import decode_cursor
from tracker.views.sqlite_schema import PLACE_BITS, SEPARATOR
from tracker.views.sqlite_texts import LAST_MINUTE, minute_of
from tracker.views.sqlite_writing import as_list

Statement = tuple[str, list[Any]]

PIECE = 3
"""Letters the index keeps together."""

MANY = 2_000
"""Fewer hits are all taken; more are taken newest first."""
MANY_BESIDE = 12_000
"""The same beside a filter with an index of its own, which is followed instead."""
MOST_PIECES = 500
"""A short text that begins more pieces than this is nearly everywhere."""

SELECT_TEXT_SOURCES = "SELECT source FROM text_sources"
SELECT_PIECES = f"""
WITH RECURSIVE found (piece) AS (
    SELECT (SELECT term FROM pieces_found WHERE term >= ?1 AND term < ?2 LIMIT 1)
    UNION ALL
    SELECT (SELECT term FROM pieces_found WHERE term >= piece || char(1) AND term < ?2 LIMIT 1)
    FROM found WHERE piece IS NOT NULL
)
SELECT piece FROM found WHERE piece IS NOT NULL LIMIT {MOST_PIECES + 1}"""
"""From piece to piece, over whatever each is in: a piece has three letters, so nothing lies between it and it with one more."""
COUNT_HITS = "SELECT count(*) FROM (SELECT 1 FROM session_pieces WHERE session_pieces MATCH ? LIMIT ?)"

HITS = """ FROM session_pieces AS f CROSS JOIN session_texts AS t ON t.place = f.rowid CROSS JOIN sessions AS s ON s.number = t.session
WHERE f.session_pieces MATCH ?"""
FIRST_PLACE = "((SELECT number % 8192 FROM text_sources WHERE source = ?) << 26) + ?"


def sessions_statement(filter: SessionFilter, *, limit: int, cursor: str | None) -> Statement:
    """The statement for one page of sessions. Raises `ParameterInvalid` for a bad state, has or cursor."""
    text, bound = sql.SELECT_SESSIONS, list[Any]()
    if filter.q is not None:
        # First, because its fragment names its only value (?1) and uses it five times.
        text += sql.AND_SESSION_LIKE
        bound.append("%" + re.sub(r"([\\%_])", r"\\\1", filter.q) + "%")
    narrowing, values = _narrowed(filter, cursor)
    return text + narrowing + sql.SESSIONS_NEWEST, [*bound, *values, limit + 1]


def search_statement(
    filter: SessionFilter, expression: str, source: str, *, limit: int, cursor: str | None
) -> Statement:
    """The statement for one page of the sessions of one source that `expression` finds; errors as above."""
    narrowing, values = _narrowed(filter, cursor)
    narrowing += " AND +s.source = ?"
    values.append(source)
    first, last = _minutes(filter, cursor)
    # The minute of the last of this page, looked for in the order of places; without hits a minute after all.
    oldest = f"""
SELECT ifnull(min(minute), {LAST_MINUTE + 1}) FROM (
    SELECT DISTINCT s.number, (f.rowid >> {PLACE_BITS}) & {LAST_MINUTE} AS minute {HITS}
    AND f.rowid >= ({FIRST_PLACE}) << {PLACE_BITS} AND f.rowid < ({FIRST_PLACE}) << {PLACE_BITS}{narrowing}
    ORDER BY f.rowid DESC LIMIT ?)"""
    text = f"""
SELECT {sql.SESSION} FROM (
    SELECT DISTINCT s.number AS number {HITS}
    AND f.rowid >= (((SELECT number % 8192 FROM text_sources WHERE source = ?) << 26) + ({oldest})) << {PLACE_BITS}
    AND f.rowid < ({FIRST_PLACE}) << {PLACE_BITS}{narrowing}
) AS hit CROSS JOIN sessions AS s ON s.number = hit.number{sql.SESSIONS_NEWEST}"""
    inner = [expression, source, first, source, last + 1, *values, limit + 1]
    return text, [expression, source, *inner, source, last + 1, *values, limit + 1]


def few_statement(filter: SessionFilter, expression: str, *, limit: int, cursor: str | None) -> Statement:
    """The statement for one page of the sessions of all sources that `expression` finds, where those are few; errors as above."""
    narrowing, values = _narrowed(filter, cursor)
    text = f"""
SELECT {sql.SESSION} FROM (
    SELECT DISTINCT t.session AS number FROM session_pieces AS f CROSS JOIN session_texts AS t ON t.place = f.rowid
    WHERE f.session_pieces MATCH ?
) AS hit CROSS JOIN sessions AS s ON s.number = hit.number WHERE true{narrowing}{sql.SESSIONS_NEWEST}"""
    return text, [expression, *values, limit + 1]


def phrase(q: str) -> str | None:
    """What the index is asked for a text of three letters and more; None for what no text holds."""
    if SEPARATOR in q or "\0" in q:
        return None
    return '"' + q.replace('"', '""') + '"'


def any_of(pieces: Iterable[str]) -> str:
    """What the index is asked for any of these pieces."""
    return " OR ".join('"' + piece.replace('"', '""') + '"' for piece in pieces)


def pieces_statement(q: str) -> Statement:
    """The statement for the pieces that begin with a text of one or two letters; `MOST_PIECES` and one more at most."""
    folded = q.lower()
    return SELECT_PIECES, [folded, folded + chr(0x10FFFF)]


def is_narrow(filter: SessionFilter) -> bool:
    """Whether a filter beside `q` has an index of its own that finds few."""
    return bool(
        filter.state in {"open", "stuck"}
        or filter.has
        or filter.min_duration_ms is not None
        or filter.room is not None
        or filter.identity is not None
    )


def _minutes(filter: SessionFilter, cursor: str | None) -> tuple[int, int]:
    """The first and the last minute a hit may begin in."""
    first = 0 if filter.from_at is None else minute_of(filter.from_at)
    last = LAST_MINUTE if filter.to_at is None else minute_of(filter.to_at)
    if cursor is not None:
        before: Micros = decode_cursor("sessions", cursor, int, str)[0]
        last = min(last, minute_of(before))
    return first, last


def _narrowed(filter: SessionFilter, cursor: str | None) -> Statement:
    """The fragments of every filter but `q`, and what they bind."""
    text, bound = "", list[Any]()

    def narrow(fragment: str, *values: Any) -> None:
        nonlocal text
        text += fragment
        bound.extend(values)

    is_rare = bool(filter.has) or filter.min_duration_ms is not None
    if filter.source is not None:
        narrow(sql.AND_SESSION_ALSO_OF_SOURCE if is_rare else sql.AND_SESSION_SOURCE, filter.source)
    if filter.sources is not None:
        narrow(sql.AND_SESSION_SOURCES, as_list(filter.sources))
    if filter.room is not None:
        narrow(sql.AND_SESSION_ROOM, filter.room, filter.room)
    if filter.identity is not None:
        narrow(sql.AND_SESSION_IDENTITY, filter.identity, filter.identity)
    if filter.state == "stuck":
        narrow(sql.AND_SESSION_STUCK, json.dumps(filter.stuck_before))
    elif filter.state in {"open", "ended"}:
        is_also = is_rare and filter.state == "ended"
        narrow(sql.AND_SESSION_ALSO_IN_STATE if is_also else sql.AND_SESSION_STATE, filter.state)
    elif filter.state is not None:
        raise ParameterInvalid("state", "is one of open, ended, stuck")
    if filter.from_at is not None:
        narrow(sql.AND_SESSION_FROM, filter.from_at)
    if filter.to_at is not None:
        narrow(sql.AND_SESSION_TO, filter.to_at)
    for what in filter.has:
        if what not in sql.AND_SESSION_HAS:
            raise ParameterInvalid("has", "is one of recording, supervisor, anomaly")
        narrow(sql.AND_SESSION_HAS[what])
    if filter.min_duration_ms is not None:
        narrow(sql.AND_SESSION_DURATION, filter.min_duration_ms)
    if cursor is not None:
        narrow(sql.AND_SESSION_BEFORE, *decode_cursor("sessions", cursor, int, str))
    return text, bound
