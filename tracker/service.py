"""The running Tracker: the one place where rooms are joined. Owns the TaskGroup, the clock and the signals.

    hold the log ─► open log and views ─► projector follows ─► listen ─► … SIGTERM …
        ─► stop accepting ─► answer what was accepted ─► stop the projector ─► commit and close the log ─► exit 0

Ingest and projector share nothing but the stores: when the projector fails it is started again, and no sender notices.
If we die anywhere here, what was answered is in the log, and the next start goes on from the views' checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import AsyncGenerator, Callable, Generator
from typing import cast

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from tracker import catching_up, clock_jumps, joining, retention
from tracker.accepting import Accepting
from tracker.api.app import Door, add_routes
from tracker.api.live import Live
from tracker.config import Config
from tracker.dashboard import app as dashboard
from tracker.dashboard.arrivals import Arrivals
from tracker.erasing import finish
from tracker.errors import ConfigInvalid, TrackerError
from tracker.ingest import Ingest
from tracker.log.contract import ClusteredLog, ServedLog
from tracker.metrics import Metrics
from tracker.projector import Projector
from tracker.under_way import KEEPALIVE_SECONDS, UnderWay
from tracker.views.sqlite import SqliteViews

FREE_BYTES = 16 * 1024 * 1024
"""With less free space under the log the server says it is not ready, while it can still take records."""
LAG_SECONDS = 10.0
PROBE_SECONDS = 2.0
WATCH_SECONDS = 1.0
CONNECTIONS = 65_536
BACK_OFF = (0.2, 1.0, 5.0, 15.0)

_log = structlog.get_logger("service")

Ready = Callable[[str, str | None], None]
"""Called once with the address when deliveries are taken, and with the one-time link where no key guards the reading."""


class Station:
    """The rooms of one running Tracker."""

    def __init__(self, config: Config, log: ServedLog, views: SqliteViews, metrics: Metrics) -> None:
        self.config = config
        self.log = log
        self.views = views
        self.metrics = metrics
        self.projector = Projector(log, views, now=joining.now, watcher=metrics, hidden=joining.hidden(config))
        self.ingest = Ingest(
            joining.sources(config),
            log,
            max_body_bytes=config.server.max_body_bytes,
            now=joining.now,
            metrics=metrics,
        )
        self.access = joining.access(config)
        self.live = Live(views)
        self.signer = joining.signer(config)
        self.checkpoints = self.signer and joining.checkpoints(config, log, self.signer, metrics)
        self.under_way = UnderWay()
        self.cluster = log if isinstance(log, ClusteredLog) else None
        self.accepting: Accepting | None = None

    def app(self) -> web.Application:
        """All routes of all doors."""
        doors: list[Middleware] = [self.under_way.count]
        if self.cluster is not None:
            doors.append(catching_up.gate(self.cluster, self.config.jetstream.behind_at_most))
        app = web.Application(client_max_size=self.config.server.max_body_bytes, middlewares=doors)
        self.ingest.add_routes(app)
        door = Door(
            log=self.log,
            views=self.views,
            access=self.access,
            now=joining.now,
            stuck_after={each.name: each.stuck_after for each in self.config.sources},
            vendors={each.name: each.vendor for each in self.config.sources},
            unready=self.unready,
            metrics=self.metrics.render,
            live=self.live,
            log_key=None if self.signer is None else str(self.signer.verifier),
            bundling=joining.bundling(self.config, self.log, self.metrics),
        )
        add_routes(app, door)
        arrivals = Arrivals(
            since=self.metrics.since,
            last_seen=self.ingest.last_seen,
            last_refused=self.ingest.last_refused,
            outcomes=self.metrics.outcomes,
            last_minute=self.metrics.last_minute,
        )
        dashboard.add_routes(app, door, arrivals)
        return app

    async def unready(self) -> list[str]:
        """Why this server should get no traffic now; empty when it should."""
        short = None if self.accepting is None else self.accepting.why_short()
        reasons = [each for each in (short, self.ingest.arriving.why_full()) if each is not None]
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self.log.probe()
                reasons += await self._lag()
        except TimeoutError:
            reasons.append(f"the log did not answer within {PROBE_SECONDS:.0f} s")
            if self.cluster is not None:
                reasons += catching_up.reasons(self.cluster, self.config.jetstream.behind_at_most)
        except TrackerError as error:
            reasons.append(str(error))
        with contextlib.suppress(OSError):
            found = os.statvfs(self.config.log.path.parent)
            free = found.f_bavail * found.f_frsize
            if free < FREE_BYTES:
                reasons.append(f"{free // 1024} KiB are free under the log: make room")
        return reasons

    async def _lag(self) -> list[str]:
        waiting = await self.log.record(self.projector.position + 1)
        seconds = 0.0 if waiting is None else (joining.now() - waiting.received_at) / 1_000_000
        if seconds <= LAG_SECONDS:
            return []
        return [f"the views are {seconds:.0f} s behind the log (position {self.projector.position})"]

    async def follow(self) -> None:
        """Run the projector for ever. Whatever it stumbles over is said and tried again: ingest must not notice."""
        failures = 0
        while True:
            before = self.projector.position
            try:
                await self.projector.run()
            except Exception:
                failures = 0 if self.projector.position > before else failures + 1
                _log.exception("projector failed, starting it again", position=self.projector.position)
            await asyncio.sleep(BACK_OFF[min(failures, len(BACK_OFF) - 1)])

    async def sign(self) -> None:
        """Make checkpoints on the schedule; return at once where nothing is to be signed, and say so."""
        evidence = self.config.evidence
        if self.cluster is not None:
            if not self.config.jetstream.signs:
                return
            # A tree that is behind would be taken for one that was rolled back.
            await self.cluster.caught_up()
        if self.checkpoints is None:
            _log.warning(
                "no checkpoints: nobody can prove later that the log was not changed. `tracker init` makes the key",
                key_file=str(evidence.key_file),
            )
        elif evidence.every is not None:
            self.metrics.checkpoints_begin()
            await self.checkpoints.run(evidence.every / 1_000_000)

    async def keep_views(self) -> None:
        """Views may be deleted at any time: make an empty file when there is none, and the projector fills it again."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if not self.config.views_path.exists():
                try:
                    await joining.create_views(self.config)
                    _log.warning("views vanished and are made anew from the log")
                except TrackerError as error:
                    _log.error("views vanished and cannot be made anew", reason=str(error))


async def serve(
    config: Config,
    *,
    port: int | None = None,
    link: bool = False,
    ready: Ready | None = None,
    showing: catching_up.Showing | None = None,
) -> None:
    """Run until SIGTERM or SIGINT; on return everything accepted is answered and durable.

    `port`: instead of the config's. `link`: `ready` gets a one-time link beside the keys, too. `showing`: how a node of a
    cluster shows that it catches up.
    Raises `ConfigInvalid` (an address that cannot be used, or one open to others without read keys) and `LogError`
    (no log, or served by somebody else) before anything is accepted.
    """
    if port is not None:
        config = msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, port=port))
    if link and not config.server.is_loopback:
        raise ConfigInvalid(f"server.host: {config.server.host} is open to others: --link is for this machine alone")
    if not config.access.keys and not config.server.is_loopback:
        raise ConfigInvalid(
            f"server.host: {config.server.host} is open to others, but no key guards the reading: "
            "add [access] keys, or listen on 127.0.0.1"
        )
    _allow_many_connections()
    stop = asyncio.Event()
    # Until the log is closed: an impatient second signal must not cut off what the first one began.
    with joining.hold_log(config), _signals(stop.set):
        async with _station(config) as station:
            await _run(station, stop, ready, showing, link=link)


def _allow_many_connections() -> None:
    """Each live stream is an open file; most systems begin with 1,024 and allow many more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or soft < hard:
        wanted = CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, CONNECTIONS)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Generator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def _station(config: Config) -> AsyncGenerator[Station]:
    metrics = Metrics(joining.now)
    async with contextlib.AsyncExitStack() as stack:
        log = await joining.open_log(config, metrics)
        stack.push_async_callback(log.close)
        if isinstance(log, ClusteredLog):
            metrics.follows(log.behind, await catching_up.begin(log, config.jetstream.monitoring))
        if config.sealing.masters:
            await finish(log)
        else:
            _log.info("bodies are kept in clear: without a master key under [sealing] nothing can be erased")
        views = await joining.open_live_views(config)
        stack.push_async_callback(views.close)
        yield Station(config, log, views, metrics)


async def _run(
    station: Station, stop: asyncio.Event, ready: Ready | None, showing: catching_up.Showing | None, *, link: bool
) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            lasting = [
                station.follow(),
                station.keep_views(),
                station.live.run(),
                station.sign(),
                station.under_way.let_go(),
                clock_jumps.watch(joining.now),
            ]
            if station.cluster is not None:
                lasting.append(catching_up.show(station.cluster, showing))
            if any(source.retention is not None for source in station.config.sources):
                lasting.append(retention.keep(station.config.path, station.metrics))
            tasks = [group.create_task(each) for each in lasting]
            try:
                async with _listening(station) as address:
                    _log.info("ready", address=address, sources=[each.name for each in station.config.sources])
                    if ready is not None:
                        ready(address, station.access.one_time_link(beside_keys=link))
                    await stop.wait()
                    _log.info("stopping", grace_seconds=station.config.server.shutdown_grace)
            finally:
                for task in tasks:
                    task.cancel()
    except* TrackerError as group_error:
        raise group_error.exceptions[0] from None


@contextlib.asynccontextmanager
async def _listening(station: Station) -> AsyncGenerator[str]:
    """Accept connections; on leaving accept no more, and let those accepted have their answers."""
    server = station.config.server
    runner = web.AppRunner(
        station.app(),
        access_log=None,
        keepalive_timeout=KEEPALIVE_SECONDS,
        shutdown_timeout=1.0,
    )
    await runner.setup()
    answering = cast("web.Server", runner.server)  # it is there after the setup
    station.under_way.server = answering
    station.accepting = Accepting(answering)
    try:
        host = server.host.strip("[]")
        try:
            listening = await asyncio.get_running_loop().create_server(
                station.accepting, host, server.port, backlog=1024
            )
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigInvalid(
                f"server.host, server.port: cannot listen on {server.host}:{server.port} ({reason}): "
                "name an address of this machine, and a port nobody listens on"
            ) from None
        with contextlib.closing(listening):
            port = listening.sockets[0].getsockname()[1]
            yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
        station.live.stop()
        await station.under_way.end(server.shutdown_grace)
    finally:
        await runner.cleanup()
