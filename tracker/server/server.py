"""The running Tracker: the one place where rooms are joined. Owns the TaskGroup, the clock and the signals.

    hold the log ─► open log and views ─► projector follows ─► listen ─► … SIGTERM …
        ─► stop accepting ─► answer what was accepted ─► stop the projector ─► commit and close the log ─► exit 0

Ingest and projector share nothing but the stores: when the projector fails it is started again, and no sender notices.
If we die anywhere here, what was answered is in the log, and the next start goes on from the views' checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import resource
import signal
from collections.abc import AsyncGenerator, Callable, Generator
from importlib.metadata import version
from typing import cast

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from tracker.domain import clock
from tracker.privacy import retention
from tracker.projector import gc_tuning
from tracker.server import catch_up, child_command, clock_watch, cluster_stores, erasure_sync, signing_keys, stores
from tracker.server.sources import build_sources
from tracker.server.evidence import build_checkpointer
from tracker.server.connection_limit import READ_BYTES, ConnectionLimiter, bound_receiving
from tracker.api.health import Health
from tracker.config.load import Config
from tracker.dashboard.ingest_stats import IngestStats
from tracker.dashboard.cluster_status import ClusterMembers
from tracker.privacy.erasure import finish
from tracker.errors import ConfigInvalid, TrackerError
from tracker.ingest.webhooks import Ingest
from tracker.log.contract import ClusteredLog, ServedLog
from tracker.server.metrics import Metrics
from tracker.log.cluster.gossip import NodeGossip, SourceActivity, NodeStatus, finite_seconds
from tracker.server.read_side import ReadSide
from tracker.server.roles import Role, add_refusing_hooks, add_refusing_reads, expect_role
from tracker.server.request_tracking import KEEPALIVE_SECONDS, InFlightRequests
from tracker.log.cluster.cosigner import Cosigner

TRYING = 0.8
"""Of the grace of a stop: so long a cluster is tried. What it does not take is answered and closed in the rest."""
FREE_BYTES = 16 * 1024 * 1024
"""With less free space under the log the server says it is not ready, while it can still take records."""
PROBE_SECONDS = 2.0
CONNECTIONS = 65_536

_log = structlog.get_logger("service")

Ready = Callable[[str, str | None], None]
"""Called once with the address when deliveries are taken, and with the one-time link where no key guards the reading."""


class Server:
    """The rooms of one running Tracker. `reading` is None on a node that only takes deliveries."""

    def __init__(
        self,
        config: Config,
        log: ServedLog,
        reading: ReadSide | None,
        metrics: Metrics,
        *,
        role: Role = "all",
        vouching: Cosigner | None = None,
    ) -> None:
        self.config = config
        self.log = log
        self.reading = reading
        self.metrics = metrics
        self.role: Role = role
        self.cosigner = vouching
        self.ingest = Ingest(
            build_sources(config),
            log,
            max_body_bytes=config.server.max_body_bytes,
            now=clock.now,
            observer=metrics,
        )
        self.signer = signing_keys.signer(config)
        self.checkpoints = self.signer and build_checkpointer(config, log, self.signer, metrics)
        self.requests = InFlightRequests()
        self.cluster = log if isinstance(log, ClusteredLog) else None
        self.gossip: NodeGossip | None = None
        if self.cluster is not None and vouching is not None:
            self.gossip = NodeGossip(self.cluster, functools.partial(self._status, self.cluster, vouching), clock.now)
            metrics.knows(self.gossip.live_count)
        self.connections: ConnectionLimiter | None = None

    def app(self) -> web.Application:
        """All routes of all doors."""
        doors: list[Middleware] = [self.requests.count]
        if self.cluster is not None:
            doors.append(catch_up.gate(self.cluster, self.config.jetstream.behind_at_most))
        app = web.Application(client_max_size=self.config.server.max_body_bytes, middlewares=doors)
        if self.role == "read":
            add_refusing_hooks(app)
        else:
            self.ingest.add_routes(app)
        if self.reading is None:
            Health(self.unready, self.metrics.render).add_routes(app)
            add_refusing_reads(app)
            return app
        arrivals = IngestStats(
            since=self.metrics.since,
            last_seen=self.ingest.last_seen,
            last_refused=self.ingest.last_refused,
            outcomes=self.metrics.outcomes,
            last_minute=self.metrics.last_minute,
        )
        cluster = None
        if self.gossip is not None and self.cosigner is not None:
            cluster = ClusterMembers(self.gossip, self.cosigner)
        key = signing_keys.public_key(self.config)
        self.reading.add_routes(app, arrivals, unready=self.unready, log_key=key, cluster=cluster)
        return app

    async def _status(self, log: ClusteredLog, vouching: Cosigner) -> NodeStatus:
        ingest, metrics, settings = self.ingest, self.metrics, self.config.jetstream
        minute, behind, diverged = metrics.last_minute(), log.lag(), vouching.diverged
        names = {*(each.name for each in self.config.sources), *(name for name, _ in metrics.outcomes)}
        return NodeStatus(
            node=settings.node, role=self.role, version=version("tracker"), started=metrics.since,
            position=await log.head(), views=None if self.reading is None else self.reading.position,
            behind_messages=behind.messages, behind_seconds=finite_seconds(behind.seconds), signs=settings.signs,
            cosigned=vouching.cosigned_size, diverged=None if diverged is None else diverged.size, doubt=vouching.doubt,
            sources=[
                SourceActivity(
                    name=name, last_seen=ingest.last_seen.get(name), last_refused=ingest.last_refused.get(name),
                    last_minute=minute.get(name, 0),
                    outcomes={outcome: count for (source, outcome), count in metrics.outcomes.items() if source == name},
                )
                for name in sorted(names)
            ],
        )  # fmt: skip

    async def unready(self) -> list[str]:
        """Why this server should get no traffic now; empty when it should."""
        short = None if self.connections is None else self.connections.why_short()
        reasons = [each for each in (short, self.ingest.body_reader.full_reason()) if each is not None]
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self.log.check_writable()
                reasons += [] if self.reading is None else await self.reading.lag()
        except TimeoutError:
            reasons.append(f"the log did not answer within {PROBE_SECONDS:.0f} s")
            if self.cluster is not None:
                reasons += catch_up.reasons(self.cluster, self.config.jetstream.behind_at_most)
        except TrackerError as error:
            reasons.append(str(error))
        with contextlib.suppress(OSError):
            found = os.statvfs(self.config.log.path.parent)
            free = found.f_bavail * found.f_frsize
            if free < FREE_BYTES:
                reasons.append(f"{free // 1024} KiB are free under the log: make room")
        return reasons

    async def sign(self) -> None:
        """Make checkpoints on the schedule; return at once where nothing is to be signed, and say so."""
        evidence = self.config.evidence
        if self.cluster is not None:
            if not self.config.jetstream.signs:
                if signing_keys.cosigner(self.config) is None:
                    _log.warning(
                        "this node cosigns nothing: it has no key. `tracker init` makes it",
                        key_file=str(evidence.key_file),
                    )
                return
            # A tree that is behind would be taken for one that was rolled back.
            await self.cluster.wait_until_caught_up()
        if self.checkpoints is None:
            _log.warning(
                "no checkpoints: nobody can prove later that the log was not changed. `tracker init` makes the key",
                key_file=str(evidence.key_file),
            )
        elif evidence.every is not None:
            self.metrics.checkpoints_begin()
            await self.checkpoints.run(evidence.every / 1_000_000)


async def serve(
    config: Config,
    *,
    port: int | None = None,
    link: bool = False,
    role: Role = "all",
    ready: Ready | None = None,
    show_progress: catch_up.ProgressDisplay | None = None,
) -> None:
    """Run until SIGTERM or SIGINT; on return everything accepted is answered and durable.

    `port`: instead of the config's. `link`: `ready` gets a one-time link beside the keys, too. `show_progress`: how a node of a
    cluster shows that it catches up. `role`: what this node is for (`roles.py`).
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
    expect_role(config, role)
    _allow_many_connections()
    stop = asyncio.Event()
    # Until the log is closed: an impatient second signal must not cut off what the first one began.
    with stores.lock_log(config), _signals(stop.set):
        async with _station(config, role) as station:
            with gc_tuning.collect_rarely(gc_tuning.SERVING):
                await _run(station, stop, ready, show_progress, link=link)


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
async def _station(config: Config, role: Role) -> AsyncGenerator[Server]:
    metrics = Metrics(clock.now)
    async with contextlib.AsyncExitStack() as stack:
        log = await stores.open_log(config, metrics)
        stack.push_async_callback(log.close)
        vouching = None
        if isinstance(log, ClusteredLog):
            metrics.follows(
                log.lag, await catch_up.warn_if_behind(log, config.jetstream.monitoring), log.skipped_messages
            )
            vouching = await _compared(config, log)
            metrics.vouches(vouching.metrics)
        if config.sealing.masters:
            # On a node that has diverged these positions may be other people's.
            if not isinstance(log, ClusteredLog) or log.stop_reason() is None:
                await finish(log)
        else:
            _log.info("bodies are kept in clear: without a master key under [sealing] nothing can be erased")
        reading = None
        if role != "ingest":
            views = await stores.open_live_views(config)
            stack.push_async_callback(views.close)
            reading = ReadSide(config, log, views, metrics, vouching)
        yield Server(config, log, reading, metrics, role=role, vouching=vouching)


async def _compared(config: Config, log: ClusteredLog) -> Cosigner:
    """What compares this node with what is signed. It was compared once: nothing is taken before that."""
    vouching = cluster_stores.tree_cosigner(config, log)
    begun = await cluster_stores.find_divergence(config, log)
    log.set_divergence_check(lambda: vouching.diverged or begun)
    return vouching


async def _run(
    station: Server,
    stop: asyncio.Event,
    ready: Ready | None,
    show_progress: catch_up.ProgressDisplay | None,
    *,
    link: bool,
) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            lasting = [
                *([] if station.reading is None else station.reading.lasting()),
                station.sign(),
                station.requests.let_go(),
                clock_watch.watch(clock.now),
            ]
            if station.cluster is not None:
                lasting.append(catch_up.show(station.cluster, show_progress))
            if station.cosigner is not None:
                lasting.append(station.cosigner.run())
            if station.gossip is not None:
                lasting.append(station.gossip.run())
            config = station.config
            if station.cluster is not None and station.reading is not None and config.sealing.masters:
                lasting.append(erasure_sync.run(config.path, config.views_path, station.cluster))
            # Of many nodes one looks for what is old: the one that signs.
            is_first = station.cluster is None or config.jetstream.signs
            if is_first and any(source.retention is not None for source in config.sources):
                lasting.append(retention.run(functools.partial(child_command.run, config.path), station.metrics))
            tasks = [group.create_task(each) for each in lasting]
            try:
                async with _listening(station) as address:
                    _log.info("ready", address=address, sources=[each.name for each in station.config.sources])
                    if ready is not None:
                        reading = station.reading
                        ready(address, None if reading is None else reading.access.one_time_link(even_with_keys=link))
                    await stop.wait()
                    _log.info("stopping", grace_seconds=station.config.server.shutdown_grace)
            finally:
                for task in tasks:
                    task.cancel()
    except* TrackerError as group_error:
        raise group_error.exceptions[0] from None


@contextlib.asynccontextmanager
async def _listening(station: Server) -> AsyncGenerator[str]:
    """Accept connections; on leaving accept no more, and let those accepted have their answers."""
    server = station.config.server
    runner = web.AppRunner(
        station.app(),
        access_log=None,
        keepalive_timeout=KEEPALIVE_SECONDS,
        shutdown_timeout=1.0,
        read_bufsize=READ_BYTES,
    )
    await runner.setup()
    answering = cast("web.Server", runner.server)  # it is there after the setup
    station.requests.server = answering
    station.connections = ConnectionLimiter(answering)
    try:
        host = server.host.strip("[]")
        try:
            listening = await asyncio.get_running_loop().create_server(
                station.connections, host, server.port, backlog=1024
            )
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigInvalid(
                f"server.host, server.port: cannot listen on {server.host}:{server.port} ({reason}): "
                "name an address of this machine, and a port nobody listens on"
            ) from None
        with contextlib.closing(listening):
            bound_receiving(listening.sockets[0].fileno())
            port = listening.sockets[0].getsockname()[1]
            yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
        if station.cluster is not None:
            station.cluster.limit_shutdown(TRYING * server.shutdown_grace)
        if station.reading is not None:
            station.reading.live.stop()
        await station.requests.end(server.shutdown_grace)
    finally:
        await runner.cleanup()
