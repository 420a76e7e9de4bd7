"""How things stand this moment: the figures on top of the first page, from the views, the log's head and the hooks."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from tracker.views.answers import SourceStats, time_of
from tracker.api.route import ApiRequest
from tracker.dashboard.ingest_stats import INGEST_STATS
from tracker.dashboard.page_route import ask
from tracker.views.contract import SessionFilter

MOST_OPEN = 5_000
"""People are counted in no more open sessions than this."""
REMEMBERED = 20_000
REMEMBERED_READERS = 1_000
FRESH_US = 5_000_000
"""So long a count holds while nothing happens: sessions become stuck by themselves."""
SHARE = 20
"""A count holds for so many times what it took, at least."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The figures. `people` leaves out stuck sessions; `lag` is records the views are behind the log."""

    open: int
    people: int
    stuck: int
    a_minute: int
    refused: int
    lag: int
    sources: list[SourceStats]
    is_capped: bool
    """More sessions are open than people were counted in."""


class HeadCounter:
    """Who is in the open sessions. What was counted for a session holds until something happens in it."""

    def __init__(self) -> None:
        self._counted: dict[str, tuple[int, int]] = {}
        self._told: dict[tuple[str, ...] | None, tuple[int, int, tuple[int, int, bool]]] = {}
        """Sources of a reader → (position of the views, µs until which it holds whatever they are at, the count)"""

    async def count(self, asked: ApiRequest) -> tuple[int, int, bool]:
        """(people, stuck sessions, whether some were left out) of everything open that the reader sees.

        Readers of the same sources share a count while nothing happens, and one that took long for longer: however many
        look, no more than a small part of the time goes into counting.
        """
        now, position = asked.context.now(), await asked.context.views.projected_position()
        known = self._told.get(asked.reader.sources)
        if known is not None and (now < known[1] or (position == known[0] and now < known[1] + FRESH_US)):
            return known[2]
        counted = await self._count(asked)
        if len(self._told) >= REMEMBERED_READERS:
            self._told.clear()
        took = asked.context.now() - now
        self._told[asked.reader.sources] = (position, now + took * SHARE, counted)
        return counted

    async def _count(self, asked: ApiRequest) -> tuple[int, int, bool]:
        views, door = asked.context.views, asked.context
        people, stuck, seen = 0, 0, 0
        cursor: str | None = None
        while True:
            wanted = SessionFilter(state="open", sources=asked.reader.sources)
            rows, cursor = await views.find_sessions(wanted, limit=500, cursor=cursor)
            for row in rows:
                if row.last_event_at <= door.stuck_before(row.source):
                    stuck += 1
                    continue
                known = self._counted.get(row.id)
                if known is None or known[0] != row.last_position:
                    known = (row.last_position, await self._in_session(asked, row.id))
                    if len(self._counted) >= REMEMBERED:
                        self._counted.clear()
                    self._counted[row.id] = known
                people += known[1]
            seen += len(rows)
            if cursor is None or seen >= MOST_OPEN:
                return people, stuck, cursor is not None

    async def _in_session(self, asked: ApiRequest, session_id: str) -> int:
        here: set[str] = set()
        cursor: str | None = None
        while True:
            rows, cursor = await asked.context.views.connections(session_id, limit=1_000, cursor=cursor)
            here |= {row.participant for row in rows if row.left_at is None and row.leave is None and not row.aborted}
            if cursor is None:
                return len(here)


HEADS: web.AppKey[HeadCounter] = web.AppKey("heads", HeadCounter)


async def summarise(request: web.Request, asked: ApiRequest) -> Summary:
    """The figures as this reader may see them."""
    arrivals, door = request.app[INGEST_STATS], asked.context
    moment = time_of(door.now()) or ""
    # Nothing begins after this moment: what is asked for is only what is open, and the sources.
    stats: Any = await ask(asked, "findStats", **{"from": moment})
    people, stuck, is_capped = await request.app[HEADS].count(asked)
    return Summary(
        open=stats.open,
        people=people,
        stuck=stuck,
        a_minute=arrivals.a_minute(asked.reader),
        refused=arrivals.refused(asked.reader),
        lag=max(0, await door.log.head() - await door.views.projected_position()),
        sources=stats.sources,
        is_capped=is_capped,
    )
