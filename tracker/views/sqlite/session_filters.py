"""The filters of the list of sessions as SQL, and the index that a page is read from.

    candidate   one filter finds few sessions: all of them are read, filtered and sorted
    index       every filter finds many: sessions are scanned newest first, in the most selective index, until the page is
                full; as hits are frequent, that is soon

`MAX_CANDIDATES` bounds both costs. Indices are named (`INDEXED BY`), because SQLite would have to guess how many rows a value
has. LIMIT: filters that find many sessions each but hardly any together scan everything that the first of them finds.
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
"""Up to this many sessions are all read and sorted; more are scanned newest first."""

HAS_INDICES = {"anomaly": "sessions_odd", "supervisor": "sessions_supervised", "recording": "sessions_recorded"}
"""The indices of `has`, the rarest first. Each exists a second time with the source as its first column."""


class Candidate(NamedTuple):
    """A filter that has an index of its own."""

    filter: str
    hits: str
    """SQL for the numbers of the sessions it finds. A number may occur twice."""
    bound: list[Any]


def with_single_source(filter: SessionFilter) -> SessionFilter:
    """The same filter. If the token allows one source only, it becomes the source filter."""
    if filter.source is None and filter.sources is not None and len(filter.sources) == 1:
        return msgspec.structs.replace(filter, source=filter.sources[0], sources=None)
    return filter


def find_candidates(filter: SessionFilter) -> list[Candidate]:
    """The filters that may find few sessions. Empty if an index provides the page directly."""
    found: list[Candidate] = []
    if filter.identity is not None:
        found.append(Candidate("identity", sql.SESSIONS_OF_IDENTITY, [filter.identity, filter.identity]))
    if filter.room is not None:
        found.append(Candidate("room", sql.SESSIONS_OF_ROOM, [filter.room, filter.room, filter.room]))
    if filter.parent_id is not None:
        found.append(Candidate("parent_id", sql.SESSIONS_OF_PARENT, [filter.parent_id]))
    if filter.min_duration_ms is not None:
        found.append(Candidate("min_duration_ms", sql.SESSIONS_OF_DURATION, [filter.min_duration_ms]))
    of_source = [] if filter.source is None else [filter.source]
    for what in filter.has:
        index, condition = _of_source(HAS_INDICES[what], filter), sql.HAS_CONDITIONS[what]
        found.append(
            Candidate("has", f"SELECT number FROM sessions AS s INDEXED BY {index} WHERE {condition}", of_source)
        )
    if filter.state in {"open", "stuck"}:
        index, condition = _in_state(filter), "s.state = 'open'"
        found.append(
            Candidate("state", f"SELECT number FROM sessions AS s INDEXED BY {index} WHERE {condition}", of_source)
        )
    if filter.source is not None:
        found = [_with_source(candidate) if candidate.bound is of_source else candidate for candidate in found]
    # The index of one of these alone is in the order of the page.
    return [] if len(found) == 1 and found[0].filter in {"has", "state"} else found


def count_statement(found: list[Candidate]) -> Statement:
    """The statement that counts what each candidate finds, up to `MAX_CANDIDATES`: one row."""
    counts = [
        f"(SELECT count(*) FROM (SELECT 1 FROM ({candidate.hits}) LIMIT {MAX_CANDIDATES}))" for candidate in found
    ]
    return f"SELECT {', '.join(counts)}", [value for candidate in found for value in candidate.bound]


def from_candidate(candidate: Candidate) -> Statement:
    """The `FROM` clause for `sessions AS s` that reads everything a candidate finds."""
    return (
        f"(SELECT DISTINCT number FROM ({candidate.hits})) AS hit CROSS JOIN sessions AS s ON s.number = hit.number",
        [*candidate.bound],
    )


def from_index(filter: SessionFilter) -> str:
    """The `FROM` clause for `sessions AS s` that scans an index, newest first."""
    for what, index in HAS_INDICES.items():
        if what in filter.has:
            return f"sessions AS s INDEXED BY {_of_source(index, filter)}"
    if filter.state is not None and (filter.state != "ended" or filter.min_duration_ms is None):
        return f"sessions AS s INDEXED BY {_in_state(filter)}"
    return f"sessions AS s INDEXED BY {'sessions_newest' if filter.source is None else 'sessions_of_source'}"


def where_clauses(filter: SessionFilter, cursor: str | None, *, room: str = sql.AND_SESSION_ROOM) -> Statement:
    """The conditions of every filter except `q`, and their values. Raises `ParameterInvalid` for a bad cursor."""
    text, bound = "", list[Any]()

    def add(fragment: str, *values: Any) -> None:
        nonlocal text
        text += fragment
        bound.extend(values)

    if filter.room is not None:
        add(room, *[filter.room] * room.count("?"))
    if filter.source is not None:
        add(sql.AND_SESSION_SOURCE, filter.source)
    if filter.sources is not None:
        add(sql.AND_SESSION_SOURCES, json_list(filter.sources))
    if filter.state == "stuck":
        add(sql.AND_SESSION_STUCK, json.dumps(filter.stuck_before))
    elif filter.state is not None:
        add(sql.AND_SESSION_STATE, filter.state)
    if filter.from_at is not None:
        add(sql.AND_SESSION_FROM, filter.from_at)
    if filter.to_at is not None:
        add(sql.AND_SESSION_TO, filter.to_at)
    for what in filter.has:
        add(f" AND {sql.HAS_CONDITIONS[what]}")
    if filter.parent_id is not None:
        add(sql.AND_SESSION_PARENT, filter.parent_id)
    if filter.min_duration_ms is not None:
        add(sql.AND_SESSION_DURATION, filter.min_duration_ms)
    if cursor is not None:
        add(sql.AND_SESSION_BEFORE, *decode_cursor("sessions", cursor, int, str))
    if filter.identity is not None:
        add(sql.AND_SESSION_IDENTITY, filter.identity, filter.identity)
    return text, bound


def validate_filter(filter: SessionFilter) -> None:
    """Raise `ParameterInvalid` for an unknown `state` or `has`."""
    if filter.state not in {None, "open", "ended", "stuck"}:
        raise ParameterInvalid("state", "is one of open, ended, stuck")
    if any(what not in HAS_INDICES for what in filter.has):
        raise ParameterInvalid("has", "is one of recording, supervisor, anomaly")


def _with_source(candidate: Candidate) -> Candidate:
    return candidate._replace(hits=f"{candidate.hits} AND s.source = ?")


def _of_source(index: str, filter: SessionFilter) -> str:
    return index if filter.source is None else f"{index}_of_source"


def _in_state(filter: SessionFilter) -> str:
    return "sessions_in_state" if filter.source is None else "sessions_of_source_in_state"
