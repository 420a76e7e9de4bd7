"""The filters of the list of sessions as SQL, and which index a page is read by.

    few    a filter that finds few sessions: all of those are taken, looked at and sorted
    many   every filter finds many: sessions are passed over newest first, in the index that leaves out most, until the
           page is full; with many hits it soon is

So `FEW` bounds the one and, since every so many sessions are hits, the other. Indices are named (`INDEXED BY`): SQLite
would have to guess how many rows a value has. LIMIT: filters that each find many and together hardly any have nothing
to be read by, and pass over all that the first of them finds.
"""

# ruff: noqa: S608 - only constants are concatenated
from __future__ import annotations

import json
from typing import Any, NamedTuple

import msgspec

from tracker.errors import ParameterInvalid
from tracker.views.sqlite import queries as sql
from tracker.views.contract import SessionFilter
from tracker.views.cursors import decode_cursor
from tracker.views.sqlite.writer import json_list

Statement = tuple[str, list[Any]]

MAX_CANDIDATES = 2_000
"""Sessions that are all taken; more are passed over newest first."""

HAS = {"anomaly": "sessions_odd", "supervisor": "sessions_supervised", "recording": "sessions_recorded"}
"""The indices of `has`, what is rarest first; each is there once more by source."""


class Candidate(NamedTuple):
    """A filter with an index of its own."""

    filter: str
    hits: str
    """SQL for the numbers of the sessions it finds, some maybe twice."""
    bound: list[Any]


def with_single_source(filter: SessionFilter) -> SessionFilter:
    """The same filter; a reader who sees one source asks for that one."""
    if filter.source is None and filter.sources is not None and len(filter.sources) == 1:
        return msgspec.structs.replace(filter, source=filter.sources[0], sources=None)
    return filter


def find_candidates(filter: SessionFilter) -> list[Candidate]:
    """The ways there are to begin with few sessions; none where an index gives the page by itself."""
    found: list[Candidate] = []
    if filter.identity is not None:
        found.append(Candidate("identity", sql.OF_IDENTITY, [filter.identity, filter.identity]))
    if filter.room is not None:
        found.append(Candidate("room", sql.OF_ROOM, [filter.room, filter.room, filter.room]))
    if filter.min_duration_ms is not None:
        found.append(Candidate("min_duration_ms", sql.OF_DURATION, [filter.min_duration_ms]))
    of_source = [] if filter.source is None else [filter.source]
    for what in filter.has:
        index, condition = _of_source(HAS[what], filter), sql.HAS[what]
        found.append(
            Candidate("has", f"SELECT number FROM sessions AS s INDEXED BY {index} WHERE {condition}", of_source)
        )
    if filter.state in {"open", "stuck"}:
        index, condition = _in_state(filter), "s.state = 'open'"
        found.append(
            Candidate("state", f"SELECT number FROM sessions AS s INDEXED BY {index} WHERE {condition}", of_source)
        )
    if filter.source is not None:
        found = [_also_of_source(way) if way.bound is of_source else way for way in found]
    # One of these alone is in its own index newest first.
    return [] if len(found) == 1 and found[0].filter in {"has", "state"} else found


def count_statement(found: list[Candidate]) -> Statement:
    """The statement for how many sessions each way finds, up to `FEW`: one row."""
    counts = [f"(SELECT count(*) FROM (SELECT 1 FROM ({way.hits}) LIMIT {MAX_CANDIDATES}))" for way in found]
    return f"SELECT {', '.join(counts)}", [value for way in found for value in way.bound]


def from_candidate(way: Candidate) -> Statement:
    """What `FROM` names for `sessions AS s` when all that a way finds are taken."""
    return f"(SELECT DISTINCT number FROM ({way.hits})) AS hit CROSS JOIN sessions AS s ON s.number = hit.number", [
        *way.bound
    ]


def from_index(filter: SessionFilter) -> str:
    """What `FROM` names for `sessions AS s` when they are passed over newest first."""
    for what, index in HAS.items():
        if what in filter.has:
            return f"sessions AS s INDEXED BY {_of_source(index, filter)}"
    if filter.state is not None and (filter.state != "ended" or filter.min_duration_ms is None):
        return f"sessions AS s INDEXED BY {_in_state(filter)}"
    return f"sessions AS s INDEXED BY {'sessions_newest' if filter.source is None else 'sessions_of_source'}"


def where_clauses(filter: SessionFilter, cursor: str | None, *, room: str = sql.AND_SESSION_ROOM) -> Statement:
    """The fragments of every filter but `q`, and what they bind. Raises `ParameterInvalid` for a bad state, has or cursor."""
    text, bound = "", list[Any]()

    def narrow(fragment: str, *values: Any) -> None:
        nonlocal text
        text += fragment
        bound.extend(values)

    if filter.room is not None:
        narrow(room, *[filter.room] * room.count("?"))
    if filter.source is not None:
        narrow(sql.AND_SESSION_SOURCE, filter.source)
    if filter.sources is not None:
        narrow(sql.AND_SESSION_SOURCES, json_list(filter.sources))
    if filter.state == "stuck":
        narrow(sql.AND_SESSION_STUCK, json.dumps(filter.stuck_before))
    elif filter.state is not None:
        narrow(sql.AND_SESSION_STATE, filter.state)
    if filter.from_at is not None:
        narrow(sql.AND_SESSION_FROM, filter.from_at)
    if filter.to_at is not None:
        narrow(sql.AND_SESSION_TO, filter.to_at)
    for what in filter.has:
        narrow(f" AND {sql.HAS[what]}")
    if filter.min_duration_ms is not None:
        narrow(sql.AND_SESSION_DURATION, filter.min_duration_ms)
    if cursor is not None:
        narrow(sql.AND_SESSION_BEFORE, *decode_cursor("sessions", cursor, int, str))
    if filter.identity is not None:
        narrow(sql.AND_SESSION_IDENTITY, filter.identity, filter.identity)
    return text, bound


def validate_filter(filter: SessionFilter) -> None:
    """Raise `ParameterInvalid` for a state or a `has` there is not."""
    if filter.state not in {None, "open", "ended", "stuck"}:
        raise ParameterInvalid("state", "is one of open, ended, stuck")
    if any(what not in HAS for what in filter.has):
        raise ParameterInvalid("has", "is one of recording, supervisor, anomaly")


def _also_of_source(way: Candidate) -> Candidate:
    return way._replace(hits=f"{way.hits} AND s.source = ?")


def _of_source(index: str, filter: SessionFilter) -> str:
    return index if filter.source is None else f"{index}_of_source"


def _in_state(filter: SessionFilter) -> str:
    return "sessions_in_state" if filter.source is None else "sessions_of_source_in_state"
