"""Statistics: sessions and people per day, concurrent sessions, durations. Tables give the numbers of every chart.

LIMIT: concurrency and durations are computed from the newest `MAX_SESSIONS` sessions of the period.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from aiohttp import web

from tracker.views.answers import Session, time_of
from tracker.api.route import ApiRequest
from tracker.api.parameters import parse_micros
from tracker.dashboard.page_route import API_ROUTES, PageRoute, query_api
from tracker.dashboard.charts import Bar, Step, draw_bars, draw_steps
from tracker.dashboard.rendering import format_duration, render_page
from tracker.domain.facts import Micros

MAX_SESSIONS = 5_000
DAY = 86_400_000_000
DAYS = 30

DURATION_RANGES = (
    (60_000, "under 1 min"), (300_000, "1 – 5 min"), (900_000, "5 – 15 min"), (1_800_000, "15 – 30 min"),
    (3_600_000, "30 – 60 min"), (7_200_000, "1 – 2 h"), (2**62, "2 h or more"),
)  # fmt: skip
"""(upper bound in milliseconds, label of the durations below it)"""


async def show_statistics(request: web.Request, api_request: ApiRequest) -> web.StreamResponse:
    """`GET /statistics`: the last 30 days, or `from` and `to`."""
    now = api_request.context.now()
    start: Micros = (
        api_request.query["from"] if api_request.query["from"] is not None else (now // DAY - DAYS + 1) * DAY
    )
    end: Micros = api_request.query["to"] if api_request.query["to"] is not None else now
    between = {"from": time_of(start), "to": time_of(end)}
    stats: Any = await query_api(api_request, "findStats", **between)
    sessions = await _sessions(api_request, between)
    peak = concurrency(sessions, now)
    days = _fill_days(stats.days, start, end)
    lasted = sorted(each.duration_ms for each in sessions if each.duration_ms is not None)
    return render_page(
        request,
        "statistics.html",
        first=_day(start),
        last=_day(end),
        given={
            name: None if api_request.query[name] is None else _day(api_request.query[name]) for name in ("from", "to")
        },
        stats=stats,
        days=days,
        people=sum(day["participants"] for day in days),
        sessions_chart=draw_bars([Bar(day["day"], day["sessions"], f"{day['sessions']} sessions") for day in days]),
        people_chart=draw_bars([Bar(day["day"], day["participants"], f"{day['participants']} people") for day in days]),
        concurrency_chart=draw_steps(peak),
        concurrent=peak,
        durations=count_by_duration(lasted),
        durations_chart=draw_bars([Bar(name, count, f"{count} sessions") for name, count in count_by_duration(lasted)]),
        median=format_duration(lasted[len(lasted) // 2]) if lasted else "–",
        longest=format_duration(lasted[-1]) if lasted else "–",
        counted=len(sessions),
        is_capped=len(sessions) >= MAX_SESSIONS,
    )


async def _sessions(api_request: ApiRequest, between: dict[str, str | None]) -> list[Session]:
    found: list[Session] = []
    cursor: str | None = None
    while len(found) < MAX_SESSIONS:
        answer: Any = await query_api(api_request, "findSessions", **between, limit="1000", cursor=cursor)
        found += answer.items
        cursor = answer.next
        if cursor is None:
            break
    return found[:MAX_SESSIONS]


def concurrency(sessions: list[Session], now: Micros) -> list[Step]:
    """How many of `sessions` ran at one time: a step wherever the number changes.

    A stuck session counts up to its last event: nothing later is known.
    """
    edges: list[tuple[Micros, int]] = []
    for each in sessions:
        began = each.started_at or each.created_at
        over = each.ended_at or (each.last_event_at if each.stuck else None)
        if began is not None:
            begin = parse_micros(began)
            edges += [(begin, 1), (max(begin, now if over is None else parse_micros(over)), -1)]
    found: list[Step] = []
    level = 0
    for at, change in sorted(edges):
        level += change
        if found and found[-1].at == at:
            found.pop()
        found.append(Step(at, level))
    return found


def count_by_duration(lasted: list[int]) -> list[tuple[str, int]]:
    """How many durations (ms, ascending) fall into each of `DURATION_RANGES`."""
    counts: list[tuple[str, int]] = []
    lower = 0
    for upper, name in DURATION_RANGES:
        counts.append((name, sum(lower <= each < upper for each in lasted)))
        lower = upper
    return counts


def _fill_days(days: Any, start: Micros, end: Micros) -> list[dict[str, Any]]:
    """The days of the answer, and the days between them without a session; for more than a year, only the former."""
    known = {each.day: each for each in days}
    if (end - start) // DAY > 366:
        names = sorted(known)
    else:
        names = [_day(at) for at in range(start // DAY * DAY, max(end, start + 1), DAY)]
    empty = {"sessions": 0, "participants": 0, "participant_ms": 0, "recordings": 0}
    return [
        {"day": name} | ({field: getattr(known[name], field) for field in empty} if name in known else empty)
        for name in names
    ]


def _day(at: Micros) -> str:
    return dt.datetime.fromtimestamp(at // 1_000_000, dt.UTC).date().isoformat()


PAGES = (PageRoute(path="/statistics", parameters=API_ROUTES["findStats"].parameters, handler=show_statistics),)
