"""The reading half of the SQLite views: turns filters into statements, and results into rows.

Lists across sessions are newest first; lists inside one session are in the order in which things began.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from tracker.domain.facts import Micros
from tracker.domain.ordering import causal_rank, tie_breaker
from tracker.domain.rows import EntryRow, SessionRow, SupervisorSessionRow
from tracker.domain.set_aside import SetAside, find_set_aside
from tracker.views.sqlite import encoding
from tracker.views.sqlite import queries as sql
from tracker.views.contract import Page, RoomSummary, SessionFilter, SourceRow
from tracker.views.cursors import decode_cursor, encode_cursor
from tracker.views.sqlite.session_filters import (
    MAX_CANDIDATES,
    Candidate,
    count_statement,
    validate_filter,
    with_single_source,
    find_candidates,
)
from tracker.views.sqlite.encoding import RowCodec, decode_entry
from tracker.views.sqlite.schema import HAS_TRIGRAMS
from tracker.views.sqlite.session_search import MAX_HITS, MAX_HITS_WITH_FILTER, MAX_TRIGRAMS, TRIGRAM, SELECT_TEXT_SOURCES, match_any, all_hits_statement, count_hits_statement, has_indexed_filter, match_phrase, trigrams_statement, newest_hits_statement, sessions_statement  # fmt: skip
from tracker.views.sqlite.session_statistics import build_stats, plan_stats, statements
from tracker.views.sqlite.writer import SELECT_POSITION, SELECT_SOURCES, json_list, decode_source

Row = tuple[Any, ...]
T = TypeVar("T")

MAX_MATCHES = 100
"""`lookup` returns at most this many sessions."""

NO_CONDITION: tuple[tuple[str, list[Any]]] = (("", []),)
"""No condition that may hold in either of two columns."""

_OUTDATED_ID = re.compile(r"(?P<room>.+)_(?P<ms>[0-9]{1,15})")


class SqliteReader(ABC):
    """`ViewsReader` over three kinds of queries: one statement, one slow statement, or several in one snapshot."""

    @abstractmethod
    async def rows(self, statement: str, bound: Sequence[Any] = ()) -> list[Row]:
        """The rows of one statement. Raises `ViewsMissing`, `ViewsOutdated`, `ViewsUnavailable`."""

    @abstractmethod
    async def slow_rows(self, statement: str, bound: Sequence[Any] = ()) -> list[Row]:
        """The rows of a statement that may take seconds. Other queries do not wait for it."""

    @abstractmethod
    async def rows_of_snapshot(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> list[list[Row]]:
        """The rows of several statements, read in one transaction: all see the views at the same moment."""

    def _decoded(self, decode: Callable[[Row], T], rows: Iterable[Row]) -> list[T]:
        """The decoded rows. Raises `ViewsDamaged` where one cannot be decoded."""
        with encoding.decoding():
            return [decode(row) for row in rows]

    async def projected_position(self) -> int:
        return (await self.rows(SELECT_POSITION))[0][0]

    async def sources(self) -> list[SourceRow]:
        return self._decoded(decode_source, await self.rows(SELECT_SOURCES))

    async def find_sessions(self, filter: SessionFilter, *, limit: int, cursor: str | None) -> Page:
        validate_filter(filter)
        filter = with_single_source(filter)  # noqa: A001 - the name in the contract
        if filter.q is None:
            candidate = await self._candidate(filter)
            found = await self.rows(*sessions_statement(filter, limit=limit, cursor=cursor, candidate=candidate))
        else:
            found = await self._search_sessions(filter, filter.q, limit, cursor)
        after = encode_cursor("sessions", found[limit - 1][1:3]) if len(found) > limit else None
        return self._decoded(_session, found[:limit]), after

    async def _search_sessions(
        self, filter: SessionFilter, q: str, limit: int, cursor: str | None, max_hits: int = MAX_HITS_WITH_FILTER
    ) -> list[Row]:
        """The rows of `find_sessions` for a text: from the search index or, if it cannot help, by scanning the sessions."""
        candidate = await self._candidate(filter)
        scan = sessions_statement(filter, limit=limit, cursor=cursor, candidate=candidate)
        if not q or not HAS_TRIGRAMS:
            return await self.slow_rows(*scan)
        expression = match_phrase(q)
        if expression is not None and len(q) < TRIGRAM:
            trigrams = [row[0] for row in await self.slow_rows(*trigrams_statement(q))]
            if len(trigrams) > MAX_TRIGRAMS:
                return await self.slow_rows(*scan)
            expression = match_any(trigrams) or None
        if expression is None:
            return []
        # The index ignores the case of every letter, a scan only that of a to z.
        can_scan = has_indexed_filter(filter) and q.isascii()
        limit_hits = max_hits if can_scan and candidate is None else MAX_HITS
        hits = count_hits_statement(filter, expression, limit=limit_hits, cursor=cursor)
        if (await self.slow_rows(*hits))[0][0] < limit_hits:
            return await self.slow_rows(*all_hits_statement(filter, expression, limit=limit, cursor=cursor))
        if can_scan and (candidate is not None or filter.source is not None):
            return await self.slow_rows(*scan)
        if filter.source is not None:
            sources = [filter.source]
        else:
            known = [row[0] for row in await self.slow_rows(SELECT_TEXT_SOURCES)]
            sources = [source for source in known if filter.sources is None or source in filter.sources]
        if can_scan:
            # Many hits in all sources may be few in each. The limit is shared by all sources.
            filters = [msgspec.structs.replace(filter, source=source, sources=None) for source in sources]
            share = MAX_HITS // max(1, len(sources))
            found = [row for one in filters for row in await self._search_sessions(one, q, limit, cursor, share)]
        else:
            statements = [
                newest_hits_statement(filter, expression, source, limit=limit, cursor=cursor) for source in sources
            ]
            found = [row for rows in await self.rows_of_snapshot(statements) for row in rows]
        return sorted(found, key=lambda row: row[1:3], reverse=True)[: limit + 1]

    async def _candidate(self, filter: SessionFilter) -> Candidate | None:
        """The filter that finds the fewest sessions, if those are few."""
        found = find_candidates(filter)
        if not found:
            return None
        counts = (await self.rows(*count_statement(found)))[0]
        fewest = min(range(len(found)), key=counts.__getitem__)
        return found[fewest] if counts[fewest] < MAX_CANDIDATES else None

    def generation(self) -> object:
        """See `ViewsReader`. Views that are never replaced have one."""
        return None

    async def session(self, session_id: str) -> SessionRow | None:
        found = await self.rows(sql.SELECT_SESSION, [session_id])
        return self._decoded(_session, found)[0] if found else None

    async def set_aside(self, *, limit: int) -> list[SetAside]:
        found = self._decoded(_session, await self.rows(sql.SELECT_SET_ASIDE, [limit]))
        return [each for row in found if (each := find_set_aside(row)) is not None]

    async def lookup(self, any_id: str, sources: tuple[str, ...] | None) -> list[SessionRow]:
        """See `ViewsReader`. A current session id means that session only, even if other sessions have the same lookup."""
        exact = await self.session(any_id)
        if exact is not None:
            return [exact] if sources is None or exact.source in sources else []
        ids = {session_id for session_id, _ in await self.rows(sql.SELECT_LOOKUP, [any_id, MAX_MATCHES])}
        source, colon, rest = any_id.partition(":")
        if colon:
            by_vendor_id = await self.rows(sql.SELECT_LOOKUP, [rest, MAX_MATCHES])
            ids |= {session_id for session_id, found_source in by_vendor_id if found_source == source}
            if outdated := _OUTDATED_ID.fullmatch(rest):
                placed_at = int(outdated["ms"]) * 1000
                placed = [source, outdated["room"], placed_at, placed_at + 1000, MAX_MATCHES]
                ids |= {row[0] for row in await self.rows(sql.SELECT_PLACED_SESSIONS, placed)}
        if not ids:
            return []
        found = self._decoded(_session, await self.rows(sql.SELECT_SESSIONS_BY_ID, [json_list(ids), MAX_MATCHES]))
        return [row for row in found if sources is None or row.source in sources]

    async def timeline(
        self, session_id: str | None, *, kinds: Sequence[str], subject: str | None, limit: int, cursor: str | None
    ) -> Page:
        text, bound = sql.SELECT_TIMELINE, list[Any]([session_id])
        if kinds:
            text += sql.AND_ENTRY_KINDS
            bound.append(json_list(encoding.number_of_kind(kind) for kind in kinds))
        if subject is not None:
            text += sql.AND_ENTRY_SUBJECT
            bound.append(subject)
        if cursor is not None:
            text += sql.AND_ENTRY_AFTER
            bound.extend(decode_cursor("timeline", cursor, int, int, int, int, int))
        found = self._decoded(decode_entry, await self.rows(text + sql.ENTRIES_IN_TIME, [*bound, limit + 1]))
        if len(found) <= limit:
            return found, None
        last = found[limit - 1]
        key = (last.at, causal_rank(last.kind), tie_breaker(last.dedupe_key), last.n, last.position)
        return found[:limit], encode_cursor("timeline", key)

    async def entries_after(self, position: int, n: int, *, limit: int) -> list[EntryRow]:
        """See `ViewsReader`. Hidden entries are left out."""
        return self._decoded(decode_entry, await self.rows(sql.SELECT_ENTRIES_AFTER, [position, n, limit]))

    async def session_positions(self, session_id: str, *, limit: int, after: int) -> list[int]:
        return [row[0] for row in await self.rows(sql.SELECT_SESSION_POSITIONS, [session_id, after, limit])]

    async def record_sessions(self, position: int) -> list[str]:
        return [row[0] for row in await self.rows(sql.SELECT_RECORD_SESSIONS, [position])]

    async def participants(
        self,
        *,
        session_id: str | None,
        identity: str | None,
        sources: tuple[str, ...] | None,
        limit: int,
        cursor: str | None,
    ) -> Page:
        """See `ViewsReader`. `identity` matches the identity or the name."""
        text, bound = _child_query(sql.SELECT_PARTICIPANTS, session_id, sources)
        either = _either(sql.IDENTITY_OR_NAME, identity)
        return await self._page("participants", encoding.participants, text, bound, session_id, limit, cursor, either)

    async def connections(self, session_id: str, *, limit: int, cursor: str | None) -> Page:
        """In the order of joins."""
        text, bound = _child_query(sql.SELECT_CONNECTIONS, session_id, None)
        return await self._page("connections", encoding.connections, text, bound, session_id, limit, cursor)

    async def streams(self, session_id: str, *, limit: int, cursor: str | None) -> Page:
        """In the order of starts."""
        text, bound = _child_query(sql.SELECT_STREAMS, session_id, None)
        return await self._page("streams", encoding.streams, text, bound, session_id, limit, cursor)

    async def recordings(
        self,
        *,
        session_id: str | None,
        status: str | None,
        sources: tuple[str, ...] | None,
        limit: int,
        cursor: str | None,
    ) -> Page:
        """Of one session, or across sessions."""
        text, bound = _child_query(sql.SELECT_RECORDINGS, session_id, sources)
        if status is not None:
            text += sql.AND_STATUS
            bound.append(status)
        return await self._page("recordings", encoding.recordings, text, bound, session_id, limit, cursor)

    async def supervisor_sessions(
        self,
        *,
        session_id: str | None,
        client: str | None,
        sources: tuple[str, ...] | None,
        limit: int,
        cursor: str | None,
    ) -> Page:
        """Of one session, or across sessions. `client` matches the supervisor's or the agent's."""
        text, bound = _child_query(sql.SELECT_SUPERVISOR_SESSIONS, session_id, sources)
        either = _either(sql.SUPERVISOR_OR_AGENT, client)
        return await self._page(
            "supervisor_sessions", encoding.supervisor_sessions, text, bound, session_id, limit, cursor, either
        )

    async def supervisor_session(self, any_id: str) -> list[SupervisorSessionRow]:
        """By Tracker's id or the vendor's, newest first."""
        found = await self.rows(sql.SELECT_SUPERVISOR_SESSION, [any_id])
        return self._decoded(lambda row: encoding.supervisor_sessions.decode(row[0], row[2:]), found)

    async def find_rooms(
        self, *, source: str | None, sources: tuple[str, ...] | None, limit: int, cursor: str | None
    ) -> Page:
        """See `ViewsReader`. The name of a room is that of its newest session."""
        text, bound = sql.SELECT_ROOM_SUMMARIES, list[Any]()
        if source is None and sources is not None and len(sources) == 1:
            source, sources = sources[0], None
        if source is not None:
            text += sql.AND_SUMMARY_SOURCE
            bound.append(source)
        if sources is not None:
            text += sql.AND_SOURCES
            bound.append(json_list(sources))
        if cursor is not None:
            text += sql.AND_SUMMARY_AFTER
            bound.extend(decode_cursor("rooms", cursor, str, str))
        found = [RoomSummary(*row) for row in await self.rows(text + sql.SUMMARIES_BY_ROOM, [*bound, limit + 1])]
        if len(found) <= limit:
            return found, None
        return found[:limit], encode_cursor("rooms", found[limit - 1][:2])

    async def stats(self, *, from_at: Micros, to_at: Micros, sources: tuple[str, ...] | None) -> dict[str, Any]:
        """See `ViewsReader`.

        `open` counts the sessions open now. Days, sessions and peak cover sessions with `from_at <= begins_at < to_at`; the peak
        also counts sessions that began before and were still open. Days are UTC; `at` is µs.
        """
        plan = plan_stats(sources, from_at, to_at)
        return build_stats(plan, await self.rows_of_snapshot(statements(plan)), sources, from_at)

    async def _page(
        self, name: str, codec: RowCodec[Any], text: str, bound: list[Any], session_id: str | None,
        limit: int, cursor: str | None, either: Sequence[tuple[str, list[Any]]] = NO_CONDITION,
    ) -> Page:  # fmt: skip
        """One page of child rows: oldest first inside a session, newest first across sessions.

        `either`: alternative conditions. Each has its own index in that order, and no two hold for the same row.
        """
        after, key = "", list[Any]()
        if cursor is not None:
            begins_at, of, row_id = decode_cursor(name, cursor, int, str, str)
            after = sql.AND_BEFORE if session_id is None else sql.AND_AFTER
            key = [begins_at, of, row_id] if session_id is None else [begins_at, row_id]
        statement = " UNION ALL ".join(text + condition + after for condition, _ in either)
        statement += sql.NEWEST_FIRST if session_id is None else sql.OLDEST_FIRST
        values = [value for _, own in either for value in (*bound, *own, *key)]
        found = await self.rows(statement, [*values, limit + 1])
        following = encode_cursor(name, found[limit - 1][1:4]) if len(found) > limit else None
        return self._decoded(lambda row: codec.decode(row[0], row[2:]), found[:limit]), following


def _session(row: Row) -> SessionRow:
    return encoding.sessions.decode(row[0], row[1:])


def _either(conditions: tuple[str, str], value: str | None) -> Sequence[tuple[str, list[Any]]]:
    """The two conditions as alternatives. The second excludes the rows of the first."""
    if value is None:
        return NO_CONDITION
    return (conditions[0], [value]), (conditions[1], [value, value])


def _child_query(text: str, session_id: str | None, sources: tuple[str, ...] | None) -> tuple[str, list[Any]]:
    bound: list[Any] = []
    if session_id is not None:
        text += sql.AND_OF_SESSION
        bound.append(session_id)
    if sources is not None:
        text += sql.AND_SOURCES
        bound.append(json_list(sources))
    return text, bound
