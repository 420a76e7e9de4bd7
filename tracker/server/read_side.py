"""The read side of a server: the projector's process, the views that it fills, and the routes that read them.

log ── tracker project ──► views ──► API · live stream · dashboard

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
from tracker.server import projector_files
from tracker.server.sources import secret_warnings
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
from tracker.server.projector_files import ProjectorStatus
from tracker.server.projector_process import ProjectorProcess
from tracker.views.sqlite.views import SqliteViews
from tracker.log.cluster.cosigner import Cosigner

MAX_LAG_SECONDS = 10.0
POLL_SECONDS = 1.0
SIGNED_OUT_FILE = "signed-out-sessions"
"""Beside the views."""

_log = structlog.get_logger("server")


def build_access(config: Config) -> Access:
    """Checks readers' tokens with the configured keys."""
    access = config.access
    signed_out = SignedOutSessions(config.views_path.with_name(SIGNED_OUT_FILE))
    return Access(access.keys, audience=access.audience, issuer=access.issuer, now=clock.now, signed_out=signed_out)


class ReadSide:
    """Keeps the projector running and answers readers from the views. The caller closes `views`.

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
        self._projector = ProjectorProcess(config, lambda: self.position)
        self._status = ProjectorStatus()
        self.position = 0
        """The views' projected position, at most a second ago."""
        self.access = build_access(config)
        self.live = LiveStream(views, seconds_left=self.access.seconds_left)

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

    def background_tasks(self) -> list[Coroutine[Any, Any, None]]:
        """What runs as long as the server does, besides `keep_projecting`."""
        return [self._report(), self.live.run()]

    async def lag(self) -> list[str]:
        """Why the views are too old to answer readers, or damaged; empty when they are not."""
        if self._views.damage is not None:
            return ["the views are damaged: they are moved aside and made again"]
        trouble = self._projector.trouble()
        reasons = [] if trouble is None else [trouble]
        position, seconds = await self._lag()
        if seconds > MAX_LAG_SECONDS:
            why = "were damaged and are made again: they " if self._status.was_damaged else ""
            reasons.append(f"the views {why}are {seconds:.0f} s behind the log (position {position})")
        return reasons

    async def _lag(self) -> tuple[int, float]:
        """The projected position, and the age (s) of the first record that the views lack."""
        self.position = (await self._views.look()).position
        next_record = await self._log.record(self.position + 1)
        seconds = 0.0 if next_record is None else (clock.now() - next_record.received_at) / 1_000_000
        return self.position, seconds

    async def _report(self) -> None:
        """Report for ever how far the views are, and what the projector counts, as metrics; to the projector, damage."""
        path = self._config.views_path
        while True:
            self._status = await asyncio.to_thread(projector_files.read_status, path)
            self._metrics.follow_projector(self._status.outcomes, self._status.set_aside)
            with contextlib.suppress(TrackerError):
                position, seconds = await self._lag()
                self._metrics.projected(position, await self._log.head(), seconds)
            damage = self._views.damage
            if damage is not None:
                await asyncio.to_thread(projector_files.report_damage, path, *damage)
            await asyncio.sleep(POLL_SECONDS)

    async def keep_projecting(self) -> None:
        """Keep the projector's process running, until this node's records differ from the signed ones."""
        if self._cosigner is None:
            await self._project()
            return
        await self._cosigner.compared.wait()
        async with asyncio.TaskGroup() as group:
            projecting = group.create_task(self._project())
            await self._cosigner.halted.wait()
            projecting.cancel()
        _log.critical("this node has diverged: nothing more is projected into the views", position=self.position)

    async def _project(self) -> None:
        if isinstance(self._log, ClusteredLog):
            # Readers are not answered before that, and only then is it known how much the views lack.
            await self._log.wait_until_caught_up()
        await self._projector.run()
