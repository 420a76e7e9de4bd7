"""The figures at the top of the first page: from the views, the head of the log and the hooks."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from tracker.views.answers import SourceStats, time_of
from tracker.api.route import ApiRequest
from tracker.dashboard.ingest_stats import INGEST_STATS
from tracker.dashboard.page_route import query_api
from tracker.views.contract import SessionFilter

MAX_OPEN_SESSIONS = 5_000
"""People are counted in at most this many open sessions."""
MAX_CACHED_SESSIONS = 20_000
MAX_CACHED_READERS = 1_000
CACHE_US = 5_000_000
"""How long a count may be reused while the views do not change. Sessions become stuck without an event."""
CACHE_TIMES_COST = 20
"""A count is reused for at least this many times the time it took."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The figures. `people` excludes stuck sessions; `lag`: records that are in the log and not yet in the views."""

    open: int
    people: int
    stuck: int
    deliveries_last_minute: int
    refused: int
    lag: int
    sources: list[SourceStats]
    is_capped: bool
    """More sessions are open than `MAX_OPEN_SESSIONS`, so `people` and `stuck` are too low."""


class HeadCounter:
    """Counts the people in open sessions. The count of a session is reused until an event arrives for it."""

    def __init__(self) -> None:
        self._by_session: dict[str, tuple[int, int]] = {}
        self._by_sources: dict[tuple[str, ...] | None, tuple[int, int, tuple[int, int, bool]]] = {}
        """Sources of a reader → (position of the views, µs until which the count is valid at any position, the count)"""

    async def count(self, api_request: ApiRequest) -> tuple[int, int, bool]:
        """(people, stuck sessions, is capped) of all open sessions that the reader sees.

        Readers of the same sources share a count while nothing changes. A slow count is shared for longer, so that counting
        takes only a small part of the time, however many readers there are.
        """
        now, position = api_request.context.now(), await api_request.context.views.projected_position()
        known = self._by_sources.get(api_request.reader.sources)
        if known is not None and (now < known[1] or (position == known[0] and now < known[1] + CACHE_US)):
            return known[2]
        counted = await self._count(api_request)
        if len(self._by_sources) >= MAX_CACHED_READERS:
            self._by_sources.clear()
        took = api_request.context.now() - now
        self._by_sources[api_request.reader.sources] = (position, now + took * CACHE_TIMES_COST, counted)
        return counted

    async def _count(self, api_request: ApiRequest) -> tuple[int, int, bool]:
        context = api_request.context
        people, stuck, seen = 0, 0, 0
        cursor: str | None = None
        while True:
            open_sessions = SessionFilter(state="open", sources=api_request.reader.sources)
            rows, cursor = await context.views.find_sessions(open_sessions, limit=500, cursor=cursor)
            for row in rows:
                if row.last_event_at <= context.stuck_before(row.source):
                    stuck += 1
                    continue
                known = self._by_session.get(row.id)
                if known is None or known[0] != row.last_position:
                    known = (row.last_position, await self._count_in_session(api_request, row.id))
                    if len(self._by_session) >= MAX_CACHED_SESSIONS:
                        self._by_session.clear()
                    self._by_session[row.id] = known
                people += known[1]
            seen += len(rows)
            if cursor is None or seen >= MAX_OPEN_SESSIONS:
                return people, stuck, cursor is not None

    async def _count_in_session(self, api_request: ApiRequest, session_id: str) -> int:
        here: set[str] = set()
        cursor: str | None = None
        while True:
            rows, cursor = await api_request.context.views.connections(session_id, limit=1_000, cursor=cursor)
            here |= {row.participant for row in rows if row.left_at is None and row.leave is None and not row.aborted}
            if cursor is None:
                return len(here)


HEAD_COUNTER: web.AppKey[HeadCounter] = web.AppKey("head_counter", HeadCounter)


async def summarise(request: web.Request, api_request: ApiRequest) -> Summary:
    """The figures for this reader."""
    ingest, context = request.app[INGEST_STATS], api_request.context
    moment = time_of(context.now()) or ""
    # No session starts after this moment: the answer holds only the number of open sessions, and the sources.
    stats: Any = await query_api(api_request, "findStats", **{"from": moment})
    people, stuck, is_capped = await request.app[HEAD_COUNTER].count(api_request)
    return Summary(
        open=stats.open,
        people=people,
        stuck=stuck,
        deliveries_last_minute=ingest.deliveries_last_minute(api_request.reader),
        refused=ingest.refused_deliveries(api_request.reader),
        lag=max(0, await context.log.head() - await context.views.projected_position()),
        sources=stats.sources,
        is_capped=is_capped,
    )
