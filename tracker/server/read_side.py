"""The read side of one running Tracker: the views, who fills them, and the doors to them. A node that only takes has none.

log ── projector ──► views ──► api · live stream · dashboard
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog
from aiohttp import web

from tracker.domain import clock
from tracker.server import stores
from tracker.server.sources import redacted_fields
from tracker.server.evidence import bundle_settings
from tracker.server.access import build_access
from tracker.api.app import add_routes
from tracker.api.route import ApiContext
from tracker.api.live import LiveStream
from tracker.config.load import Config
from tracker.dashboard import app as dashboard
from tracker.dashboard.ingest_stats import IngestStats
from tracker.dashboard.cluster_status import ClusterMembers
from tracker.errors import TrackerError
from tracker.log.contract import ClusteredLog, Log
from tracker.server.metrics import Metrics
from tracker.projector.projector import Projector
from tracker.server.auto_rebuild import refill
from tracker.views.sqlite.views import SqliteViews
from tracker.log.cluster.cosigner import Cosigner

LAG_SECONDS = 10.0
WATCH_SECONDS = 1.0
BACK_OFF = (0.2, 1.0, 5.0, 15.0)

_log = structlog.get_logger("service")


class ReadSide:
    """The rooms right of the log; `views` are closed by whoever opened them.

    `vouching`: in a cluster; where it finds that this node has diverged, the views stay as they are.
    """

    def __init__(
        self, config: Config, log: Log, views: SqliteViews, metrics: Metrics, vouching: Cosigner | None = None
    ) -> None:
        self._config = config
        self._vouching = vouching
        self._log = log
        self._views = views
        self._metrics = metrics
        self._projector = Projector(log, views, now=clock.now, observer=metrics, hidden=redacted_fields(config))
        self._found = 0
        """Where the views were before the projector began."""
        self.access = build_access(config)
        self.live = LiveStream(views)

    def add_routes(
        self,
        app: web.Application,
        arrivals: IngestStats,
        *,
        unready: Callable[[], Awaitable[list[str]]],
        log_key: str | None,
        cluster: ClusterMembers | None = None,
    ) -> None:
        """Answer every route of the doors for reading, and the health routes."""
        config = self._config
        door = ApiContext(
            log=self._log,
            views=self._views,
            access=self.access,
            now=clock.now,
            stuck_after={each.name: each.stuck_after for each in config.sources},
            vendors={each.name: each.vendor for each in config.sources},
            unready_reasons=unready,
            render_metrics=self._metrics.render,
            live=self.live,
            log_key=log_key,
            bundle_settings=bundle_settings(config, self._log, self._metrics),
        )
        add_routes(app, door)
        dashboard.add_routes(app, door, arrivals, cluster)

    @property
    def position(self) -> int:
        """How far the views are."""
        return self._projector.position or self._found

    def lasting(self) -> list[Coroutine[Any, Any, None]]:
        """What runs for as long as the server does."""
        return [self._follow(), self._keep_views(), self.live.run()]

    async def lag(self) -> list[str]:
        """Why the views are no answer now, empty where they are."""
        position, seconds = await self._behind()
        if seconds <= LAG_SECONDS:
            return []
        return [f"the views are {seconds:.0f} s behind the log (position {position})"]

    async def _behind(self) -> tuple[int, float]:
        """Where the views are, and how long ago (s) the first record came that is not in them."""
        if not self._projector.position:
            # It has not begun: a rebuild may be making the views.
            self._found = await self._views.projected_position()
        waiting = await self._log.record(self.position + 1)
        seconds = 0.0 if waiting is None else (clock.now() - waiting.received_at) / 1_000_000
        return self.position, seconds

    async def _begin(self) -> None:
        """What comes before the projector: a node of a cluster is level, views that lack most of a large log are made."""
        async with asyncio.TaskGroup() as group:
            telling = group.create_task(self._tell())
            if isinstance(self._log, ClusteredLog):
                # Nobody is answered before that, and how much is missing shows only then.
                await self._log.wait_until_caught_up()
            await refill(self._config, self._log, self._views)
            telling.cancel()

    async def _tell(self) -> None:
        """Say how far behind the views are until the projector does."""
        while True:
            with contextlib.suppress(TrackerError):
                position, seconds = await self._behind()
                self._metrics.projected(position, await self._log.head(), seconds)
            await asyncio.sleep(WATCH_SECONDS)

    async def _follow(self) -> None:
        """Fill the views for as long as this node's records are those that were signed."""
        if self._vouching is None:
            await self._project()
            return
        await self._vouching.compared.wait()
        async with asyncio.TaskGroup() as group:
            projecting = group.create_task(self._project())
            await self._vouching.halted.wait()
            projecting.cancel()
        _log.critical("nothing is put into the views any more", position=self._projector.position)

    async def _project(self) -> None:
        """Run the projector for ever. Whatever it stumbles over is said and tried again: ingest must not notice."""
        try:
            await self._begin()
        except Exception:
            _log.exception("the views are left to the projector")
        failures = 0
        while True:
            before = self._projector.position
            try:
                await self._projector.run()
            except Exception:
                failures = 0 if self._projector.position > before else failures + 1
                _log.exception("projector failed, starting it again", position=self._projector.position)
            await asyncio.sleep(BACK_OFF[min(failures, len(BACK_OFF) - 1)])

    async def _keep_views(self) -> None:
        """Views may be deleted at any time: make an empty file when there is none, and the projector fills it again."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if not self._config.views_path.exists():
                try:
                    await stores.create_views(self._config)
                    _log.warning("views vanished and are made anew from the log")
                except TrackerError as error:
                    _log.error("views vanished and cannot be made anew", reason=str(error))
