"""Live numbers of ingest since this server started. The server hands them over: pages do not import ingest."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from aiohttp import web

from tracker.api.auth import Reader


class IngestStats(msgspec.Struct, frozen=True, kw_only=True):
    """Live numbers of ingest. Times are in µs. A restart resets them.

    `last_seen`: source → last authentic delivery. `last_refused`: source → (when, reason). `outcomes`: (source, outcome)
    → deliveries since `since`. `last_minute`: source → deliveries answered in the last 60 s. The source "?" stands for
    names that are not configured.
    """

    since: int
    last_seen: Mapping[str, int]
    last_refused: Mapping[str, tuple[int, str]]
    outcomes: Mapping[tuple[str, str], int]
    last_minute: Callable[[], Mapping[str, int]]

    def deliveries_last_minute(self, reader: Reader) -> int:
        """Deliveries answered in the last minute, of the sources this reader sees."""
        return sum(count for source, count in self.last_minute().items() if reader.sees(source))

    def refused_deliveries(self, reader: Reader) -> int:
        """Deliveries that were not recorded, of the sources this reader sees."""
        return sum(
            count
            for (source, outcome), count in self.outcomes.items()
            if outcome not in ANSWERED_OUTCOMES and outcome not in PROJECTION_OUTCOMES and reader.sees(source)
        )


ANSWERED_OUTCOMES = ("recorded", "duplicate", "challenge")
"""Outcomes that were answered 200. The first two are in the log."""

PROJECTION_OUTCOMES = ("unreadable", "unknown_event")
"""Outcomes that the projector adds for deliveries that are in the log."""

NO_INGEST = IngestStats(since=0, last_seen={}, last_refused={}, outcomes={}, last_minute=dict[str, int])

INGEST_STATS: web.AppKey[IngestStats] = web.AppKey("ingest_stats", IngestStats)
