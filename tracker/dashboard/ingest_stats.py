"""What came in at the other door since this server began: handed over by service, because pages never meet ingest."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from aiohttp import web

from tracker.api.auth import Reader


class IngestStats(msgspec.Struct, frozen=True, kw_only=True):
    """Live numbers of ingest; times in µs, and none of them outlives the process.

    `last_seen` source → last authentic delivery; `last_refused` source → when and why; `outcomes` (source, outcome) →
    deliveries since `since`; `last_minute` source → deliveries answered in the last 60 s. "?" is no source of ours.
    """

    since: int
    last_seen: Mapping[str, int]
    last_refused: Mapping[str, tuple[int, str]]
    outcomes: Mapping[tuple[str, str], int]
    last_minute: Callable[[], Mapping[str, int]]

    def a_minute(self, reader: Reader) -> int:
        """Deliveries answered in the last minute that this reader may know of."""
        return sum(count for source, count in self.last_minute().items() if reader.sees(source))

    def refused(self, reader: Reader) -> int:
        """Deliveries not recorded that this reader may know of."""
        return sum(
            count
            for (source, outcome), count in self.outcomes.items()
            if outcome not in TAKEN and outcome not in READ and reader.sees(source)
        )


TAKEN = ("recorded", "duplicate")
"""Outcomes of a delivery that is in the log."""

READ = ("unreadable", "unknown_event")
"""What the projector found in deliveries that are in the log."""

NOTHING = IngestStats(since=0, last_seen={}, last_refused={}, outcomes={}, last_minute=dict[str, int])

INGEST_STATS: web.AppKey[IngestStats] = web.AppKey("arrivals", IngestStats)
