"""The read side of a server: the views, the projector that fills them, and the routes that read them.

log ── projector ──► views ──► API · live stream · dashboard

A node with the role `ingest` has none.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import structlog
from aiohttp import web

from tracker.domain import clock
from tracker.server import stores
from tracker.server.sources import redacted_fields, secret_warnings
from tracker.server.evidence import bundle_settings
from tracker.api.app import add_routes
from tracker.api.auth import Access
from tracker.api.health import UnreadyReasons
from tracker.api.route import ApiContext
from tracker.api.live import LiveStream
from tracker.api.signed_out import SignedOutSessions
from tracker.config.load import Config
from tracker.dashboard import app as dashboard
from tracker.dashboard.ingest_stats import IngestStats
from tracker.dashboard.cluster_status import ClusterMembers
from tracker.errors import TrackerError
from tracker.log.contract import ClusteredLog, Log
from tracker.server.metrics import Metrics
from tracker.projector.projector import Projector
from tracker.server.auto_rebuild import rebuild_if_far_behind
from tracker.views.sqlite.views import SqliteViews
from tracker.log.cluster.cosigner import Cosigner

MAX_LAG_SECONDS = 10.0
POLL_SECONDS = 1.0
SIGNED_OUT_FILE = "signed-out-sessions"
"""Beside the views."""
BACK_OFF = (0.2, 1.0, 5.0, 15.0)
"""Seconds to wait before the projector is started again, after 0, 1, 2 … failures in a row."""

_log = structlog.get_logger("server")


def build_access(config: Config) -> Access:
    """Checks readers' tokens with the configured keys."""
    access = config.access
    signed_out = SignedOutSessions(config.views_path.with_name(SIGNED_OUT_FILE))
    return Access(access.keys, audience=access.audience, issuer=access.issuer, now=clock.now, signed_out=signed_out)


class ReadSide:
    """Projects the log into the views and answers readers. The caller closes `views`.

    `cosigner`: in a cluster. When it finds that this node has diverged, nothing more is projected.
    """

    def __init__(
        self, config: Config, log: Log, views: SqliteViews, metrics: Metrics, cosigner: Cosigner | None = None
    ) -> None:
        self._config = config
        self._cosigner = cosigner
        self._log = log
        self._views = views
        self._metrics = metrics
        self._projector = self._new_projector()
        self._initial_position = 0
        """The views' projected position before the projector began."""
        self._replaced = asyncio.Event()
        """Set when empty views took the place of missing or damaged ones."""
        self._was_damaged = False
        """Whether the views were damaged and have not caught up since."""
        self.access = build_access(config)
        self.live = LiveStream(views, seconds_left=self.access.seconds_left)

    def _new_projector(self) -> Projector:
        return Projector(
            self._log, self._views, now=clock.now, observer=self._metrics, hidden=redacted_fields(self._config)
        )

    def add_routes(
        self,
        app: web.Application,
        ingest_stats: IngestStats,
        *,
        unready: UnreadyReasons,
        log_key: str | None,
        cluster: ClusterMembers | None = None,
    ) -> None:
        """Add the routes of the API, the dashboard and health."""
        config = self._config
        context = ApiContext(
            log=self._log,
            views=self._views,
            access=self.access,
            now=clock.now,
            stuck_after={each.name: each.stuck_after for each in config.sources},
            vendors={each.name: each.vendor for each in config.sources},
            secret_warnings=secret_warnings(config),
            unready_reasons=unready,
            render_metrics=self._metrics.render,
            live=self.live,
            log_key=log_key,
            bundle_settings=bundle_settings(config, self._log, self._metrics),
        )
        add_routes(app, context)
        dashboard.add_routes(app, context, ingest_stats, cluster)

    @property
    def position(self) -> int:
        """The views' projected position."""
        return self._projector.position or self._initial_position

    def background_tasks(self) -> list[Coroutine[Any, Any, None]]:
        """What runs as long as the server does."""
        return [self._project_while_undiverged(), self._replace_broken_views(), self.live.run()]

    async def lag(self) -> list[str]:
        """Why the views are too old to answer readers, or damaged; empty when they are not."""
        if self._views.damage is not None:
            return ["the views are damaged: they are moved aside and made again"]
        position, seconds = await self._lag()
        if seconds <= MAX_LAG_SECONDS:
            self._was_damaged = False
            return []
        why = "were damaged and are made again: they " if self._was_damaged else ""
        return [f"the views {why}are {seconds:.0f} s behind the log (position {position})"]

    async def _lag(self) -> tuple[int, float]:
        """The projected position, and the age (s) of the first record that the views lack."""
        if not self._projector.position:
            # The projector has not begun: a rebuild may be running.
            self._initial_position = await self._views.projected_position()
        next_record = await self._log.record(self.position + 1)
        seconds = 0.0 if next_record is None else (clock.now() - next_record.received_at) / 1_000_000
        return self.position, seconds

    async def _prepare(self) -> None:
        """Before the projector begins: a cluster node catches up, and views that lack most of a large log are rebuilt."""
        async with asyncio.TaskGroup() as group:
            reporting = group.create_task(self._report_lag())
            if isinstance(self._log, ClusteredLog):
                # Readers are not answered before that, and only then is it known how much the views lack.
                await self._log.wait_until_caught_up()
            await rebuild_if_far_behind(self._config, self._log, self._views)
            reporting.cancel()

    async def _report_lag(self) -> None:
        """Report the lag as a metric until the projector does."""
        while True:
            with contextlib.suppress(TrackerError):
                position, seconds = await self._lag()
                self._metrics.projected(position, await self._log.head(), seconds)
            await asyncio.sleep(POLL_SECONDS)

    async def _project_while_undiverged(self) -> None:
        """Project until this node's records differ from the signed ones."""
        if self._cosigner is None:
            await self._project()
            return
        await self._cosigner.compared.wait()
        async with asyncio.TaskGroup() as group:
            projecting = group.create_task(self._project())
            await self._cosigner.halted.wait()
            projecting.cancel()
        _log.critical(
            "this node has diverged: nothing more is projected into the views", position=self._projector.position
        )

    async def _project(self) -> None:
        """Run the projector for ever. Log any failure and start it again: ingest must not be affected."""
        failures, is_prepared = 0, False
        while True:
            if not is_prepared:
                is_prepared = True
                try:
                    await self._prepare()
                except Exception:
                    _log.exception("cannot prepare the views, the projector fills them")
            before = self._projector.position
            try:
                await self._project_until_replaced()
                failures, is_prepared = 0, False
                continue
            except Exception:
                failures = 0 if self._projector.position > before else failures + 1
                _log.exception("projector failed, starting it again", position=self._projector.position)
            await asyncio.sleep(BACK_OFF[min(failures, len(BACK_OFF) - 1)])

    async def _project_until_replaced(self) -> None:
        """Run the projector until its views were replaced by empty ones. What it held of the old ones is dropped."""
        async with asyncio.TaskGroup() as group:
            projecting = group.create_task(self._projector.run())
            await self._replaced.wait()
            projecting.cancel()
        self._replaced.clear()
        self._projector, self._initial_position = self._new_projector(), 0

    async def _replace_broken_views(self) -> None:
        """Put an empty file in the place of views that were deleted or are damaged; the projector, or a rebuild, fills it."""
        last = ""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            damage = self._views.damage
            path = self._config.views_path
            if damage is None and path.exists() and self._views.is_open:
                continue
            try:
                if damage is None and path.exists():
                    await stores.repair_views(self._config)
                    self._replaced.set()
                if damage is not None:
                    inode, reason = damage
                    await stores.move_damaged_views(self._config, reason, inode)
                if not path.exists():
                    await stores.create_views(self._config)
                    self._was_damaged = self._was_damaged or damage is not None
                    self._replaced.set()
                    _log.warning("there are no views, rebuilding them from the log", path=str(path))
                last = ""
            except TrackerError as error:
                if last != str(error):
                    last = str(error)
                    _log.error("the views cannot be replaced", reason=last)
