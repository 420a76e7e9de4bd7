"""Why webhooks do not arrive: the last delivery of each source, its refusals by reason, and what to change."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from tracker.views.answers import SourceStats, time_of
from tracker.api.route import ApiRequest
from tracker.dashboard.ingest_stats import PROJECTION_OUTCOMES, ANSWERED_OUTCOMES, IngestStats
from tracker.dashboard.page_route import PageRoute, query_api
from tracker.dashboard.cluster_status import combined_ingest_stats, cluster_status
from tracker.dashboard.delivery_outcomes import OUTCOMES
from tracker.dashboard.rendering import render_page
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
    """One source. `steps`: what to do first; None once a delivery has arrived. `warning`: why its secret proves little."""

    stats: SourceStats
    deliveries_last_minute: int
    last_seen_at: str | None
    last_refused_at: str | None
    last_refusal: OutcomeLine | None
    lines: list[OutcomeLine]
    is_configured: bool
    steps: str | None
    warning: str | None


async def show_sources(request: web.Request, api_request: ApiRequest) -> web.StreamResponse:
    """`GET /sources`."""
    ingest = combined_ingest_stats(request)
    # Bounded: counting a million sessions takes seconds.
    recent = time_of(api_request.context.now() - RECENT_DAYS * 86_400_000_000)
    stats: Any = await query_api(api_request, "findStats", **{"from": recent})
    unknown_source = outcome_lines(ingest, "?") if api_request.reader.sources is None else []
    return render_page(
        request,
        "sources.html",
        now=time_of(api_request.context.now()),
        since=time_of(ingest.since),
        recent_days=RECENT_DAYS,
        sources=[_source_summary(api_request, ingest, each) for each in stats.sources],
        unknown_source=unknown_source,
        cluster=cluster_status(request),
    )


def outcome_lines(ingest: IngestStats, source: str) -> list[OutcomeLine]:
    """Outcomes of a source's deliveries since this server started: recorded ones first, then by frequency."""
    found = [(outcome, count) for (name, outcome), count in ingest.outcomes.items() if name == source]
    found.sort(key=lambda each: (each[0] not in ANSWERED_OUTCOMES, -each[1], each[0]))
    return [_outcome_line(outcome, count) for outcome, count in found]


def _outcome_line(outcome: str, count: int) -> OutcomeLine:
    meanings = {
        "recorded": ("Recorded", ""),
        "duplicate": ("Repeats of recorded deliveries; they count once", ""),
        "challenge": ("Questions of the vendor, which were answered; they are not recorded", ""),
    } | OUTCOMES
    meaning, remedy = meanings.get(outcome, (outcome.replace("_", " "), "See this server's output."))
    is_refused = outcome not in ANSWERED_OUTCOMES and outcome not in PROJECTION_OUTCOMES
    return OutcomeLine(outcome=outcome, count=count, meaning=meaning, remedy=remedy, is_refused=is_refused)


def _source_summary(api_request: ApiRequest, ingest: IngestStats, stats: SourceStats) -> SourceSummary:
    seen = ingest.last_seen.get(stats.source)
    refused = ingest.last_refused.get(stats.source)
    vendor = registry.VENDORS.get(stats.vendor)
    # The hooks also count repeats; the views also know deliveries from before this server started.
    last_seen_at = max(filter(None, (stats.last_received_at, time_of(seen))), default=None)
    return SourceSummary(
        stats=stats,
        deliveries_last_minute=ingest.last_minute().get(stats.source, 0),
        last_seen_at=last_seen_at,
        last_refused_at=None if refused is None else time_of(refused[0]),
        last_refusal=None if refused is None else _outcome_line(refused[1], 1),
        lines=outcome_lines(ingest, stats.source),
        is_configured=stats.source in api_request.context.vendors,
        steps=vendor.first_steps if vendor is not None and last_seen_at is None else None,
        warning=api_request.context.secret_warnings.get(stats.source),
    )


PAGES = (PageRoute(path="/sources", parameters=(), handler=show_sources),)
