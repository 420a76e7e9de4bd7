"""The page for "the webhook does not arrive": each source's last delivery, its refusals by reason, and the remedy."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from tracker.views.answers import time_of
from tracker.api.route import ApiRequest
from tracker.dashboard.ingest_stats import READ, TAKEN, IngestStats
from tracker.dashboard.page_route import PageRoute, ask
from tracker.dashboard.cluster_status import ingest_stats_of, cluster_view
from tracker.dashboard.delivery_outcomes import OUTCOMES
from tracker.dashboard.rendering import page
from tracker.sources import registry

RECENT_DAYS = 7


class OutcomeLine(msgspec.Struct, frozen=True, kw_only=True):
    """Deliveries of one outcome."""

    outcome: str
    count: int
    meaning: str
    remedy: str
    is_refused: bool


class SourceSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One source as the page shows it; `steps` is None once something came."""

    name: str
    vendor: str
    path: str
    sessions: int
    open: int
    a_minute: int
    last_seen_at: str | None
    last_refused_at: str | None
    last_refusal: OutcomeLine | None
    lines: list[OutcomeLine]
    is_configured: bool
    steps: str | None


async def show(request: web.Request, asked: ApiRequest) -> web.StreamResponse:
    """`GET /sources`."""
    arrivals = ingest_stats_of(request)
    # Bounded: counting every call there ever was takes seconds once there are a million.
    recent = time_of(asked.context.now() - RECENT_DAYS * 86_400_000_000)
    stats: Any = await ask(asked, "findStats", **{"from": recent})
    nameless = lines_of(arrivals, "?") if asked.reader.sources is None else []
    return page(
        request,
        "sources.html",
        now=time_of(asked.context.now()),
        since=time_of(arrivals.since),
        recent_days=RECENT_DAYS,
        shown=[_shown(asked, arrivals, each) for each in stats.sources],
        nameless=nameless,
        cluster=cluster_view(request),
    )


def lines_of(arrivals: IngestStats, source: str) -> list[OutcomeLine]:
    """What became of a source's deliveries since this server began: recorded first, then the most frequent."""
    found = [(outcome, count) for (name, outcome), count in arrivals.outcomes.items() if name == source]
    found.sort(key=lambda each: (each[0] not in TAKEN, -each[1], each[0]))
    return [_line(outcome, count) for outcome, count in found]


def _line(outcome: str, count: int) -> OutcomeLine:
    told = {
        "recorded": ("Recorded", ""),
        "duplicate": ("Sent again: recorded before, and counted once", ""),
    } | OUTCOMES
    meaning, remedy = told.get(outcome, (outcome.replace("_", " "), "This server's output says more."))
    is_refused = outcome not in TAKEN and outcome not in READ
    return OutcomeLine(outcome=outcome, count=count, meaning=meaning, remedy=remedy, is_refused=is_refused)


def _shown(asked: ApiRequest, arrivals: IngestStats, stats: Any) -> SourceSummary:
    seen = arrivals.last_seen.get(stats.source)
    refused = arrivals.last_refused.get(stats.source)
    # The hooks know of repeats too, the views of the time before this server began.
    last_seen_at = max(filter(None, (stats.last_received_at, time_of(seen))), default=None)
    return SourceSummary(
        name=stats.source,
        vendor=stats.vendor,
        path=f"/hooks/{stats.source}",
        sessions=stats.sessions,
        open=stats.open,
        a_minute=arrivals.last_minute().get(stats.source, 0),
        last_seen_at=last_seen_at,
        last_refused_at=None if refused is None else time_of(refused[0]),
        last_refusal=None if refused is None else _line(refused[1], 1),
        lines=lines_of(arrivals, stats.source),
        is_configured=stats.source in asked.context.vendors,
        steps=_first_steps(stats.vendor) if last_seen_at is None else None,
    )


def _first_steps(vendor: str) -> str | None:
    known = registry.VENDORS.get(vendor)
    return None if known is None else known.first_steps


PAGES = (PageRoute(path="/sources", parameters=(), show=show),)
