"""Statistics: calls and people per day, how many at one time, how long; drawn by the server, numbers beside each bar.

LIMIT: concurrency and durations are worked out from the newest `MOST_CALLS` calls of the time asked about.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from aiohttp import web

from tracker.views.answers import Session, time_of
from tracker.api.route import ApiRequest
from tracker.api.parameters import parse_micros
from tracker.dashboard.page_route import API, PageRoute, ask
from tracker.dashboard.charts import Bar, Step, bars, steps
from tracker.dashboard.rendering import duration, page
from tracker.domain.facts import Micros

MOST_CALLS = 5_000
DAY = 86_400_000_000
DAYS = 30

LENGTHS = (
    (60_000, "under 1 min"), (300_000, "1 – 5 min"), (900_000, "5 – 15 min"), (1_800_000, "15 – 30 min"),
    (3_600_000, "30 – 60 min"), (7_200_000, "1 – 2 h"), (2**62, "2 h or more"),
)  # fmt: skip
"""Upper bounds in milliseconds, and what the calls below them are called."""


async def show(request: web.Request, asked: ApiRequest) -> web.StreamResponse:
    """`GET /statistics`: the last 30 days, or `from` and `to`."""
    now = asked.context.now()
    start: Micros = asked.query["from"] if asked.query["from"] is not None else (now // DAY - DAYS + 1) * DAY
    end: Micros = asked.query["to"] if asked.query["to"] is not None else now
    between = {"from": time_of(start), "to": time_of(end)}
    stats: Any = await ask(asked, "findStats", **between)
    calls = await _calls(asked, between)
    peak = concurrency(calls, now)
    days = _every_day(stats.days, start, end)
    lasted = sorted(each.duration_ms for each in calls if each.duration_ms is not None)
    return page(
        request,
        "statistics.html",
        first=_day(start),
        last=_day(end),
        given={name: None if asked.query[name] is None else _day(asked.query[name]) for name in ("from", "to")},
        stats=stats,
        days=days,
        people=sum(day["participants"] for day in days),
        calls_drawn=bars([Bar(day["day"], day["sessions"], f"{day['sessions']} calls") for day in days]),
        people_drawn=bars([Bar(day["day"], day["participants"], f"{day['participants']} people") for day in days]),
        concurrency_drawn=steps(peak),
        concurrent=peak,
        lengths=lengths(lasted),
        lengths_drawn=bars([Bar(name, count, f"{count} calls") for name, count in lengths(lasted)]),
        median=duration(lasted[len(lasted) // 2]) if lasted else "–",
        longest=duration(lasted[-1]) if lasted else "–",
        counted=len(calls),
        is_capped=len(calls) >= MOST_CALLS,
    )


async def _calls(asked: ApiRequest, between: dict[str, str | None]) -> list[Session]:
    found: list[Session] = []
    cursor: str | None = None
    while len(found) < MOST_CALLS:
        answer: Any = await ask(asked, "findSessions", **between, limit="1000", cursor=cursor)
        found += answer.items
        cursor = answer.next
        if cursor is None:
            break
    return found[:MOST_CALLS]


def concurrency(calls: list[Session], now: Micros) -> list[Step]:
    """How many of `calls` were going on from which moment: a step wherever the number changes.

    A stuck call counts up to its last event: nobody knows more.
    """
    edges: list[tuple[Micros, int]] = []
    for each in calls:
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


def lengths(lasted: list[int]) -> list[tuple[str, int]]:
    """How many durations (ms, ascending) fall into each of `LENGTHS`."""
    counts: list[tuple[str, int]] = []
    lower = 0
    for upper, name in LENGTHS:
        counts.append((name, sum(lower <= each < upper for each in lasted)))
        lower = upper
    return counts


def _every_day(days: Any, start: Micros, end: Micros) -> list[dict[str, Any]]:
    """The days of the answer and those between them without a call, at most a year."""
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


PAGES = (PageRoute(path="/statistics", parameters=API["findStats"].parameters, show=show),)
