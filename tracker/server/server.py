"""The running server: connects the components, and owns the TaskGroup and the signals.

    lock the log ─► open log and views ─► start background tasks and the projector's process ─► listen ─► … SIGTERM …
        ─► stop the projector ─► stop accepting ─► answer accepted requests ─► stop background tasks
        ─► commit and close the log ─► exit 0

Ingest and projector share nothing but the stores: when the projector ends it is started again, and no sender notices.
If we die anywhere here, every acknowledged delivery is in the log, and the next start continues from the views' position.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import resource
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import cast

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from tracker.config.version import tracker_version
from tracker.domain import clock
from tracker.privacy import retention
from tracker.projector import gc_tuning
from tracker.server import (
    catch_up,
    child_command,
    declarations,
    clock_watch,
    cluster_stores,
    erasure_sync,
    projector_files,
    signing_keys,
    stores,
)
from tracker.server import request_errors
from tracker.server.host_check import expect_local_host
from tracker.server.sources import build_sources, secret_warnings
from tracker.server.evidence import build_checkpointer
from tracker.server.connection_limit import READ_BYTES, ConnectionLimiter, bound_connections
from tracker.api.health import Health, Purpose
from tracker.config.load import Config
from tracker.dashboard.form import BODY_READER
from tracker.dashboard.ingest_stats import IngestStats
from tracker.dashboard.cluster_status import ClusterMembers
from tracker.privacy.erasure import finish
from tracker.errors import ConfigInvalid, TrackerError
from tracker.ingest.webhooks import Ingest
from tracker.log.contract import ClusteredLog, ServedLog
from tracker.server.metrics import Metrics
from tracker.log.cluster.gossip import NodeGossip, SourceActivity, NodeStatus, finite_seconds
from tracker.server.read_side import ReadSide, build_access
from tracker.server.roles import Role, add_refusing_hooks, add_refusing_reads, drop_text_caches_regularly, expect_role
from tracker.server.large_answers import send_in_pieces
from tracker.server.request_tracking import KEEPALIVE_SECONDS, InFlightRequests
from tracker.server.unread_bodies import drain_unread_body
from tracker.log.cluster.cosigner import Cosigner

CLUSTER_GRACE_SHARE = 0.8
"""Fraction of the shutdown grace spent on pending cluster appends; in the rest they are refused and closed."""
MIN_FREE_BYTES = 16 * 1024 * 1024
"""With less free space under the log the server is not ready, although it can still append."""
PROBE_SECONDS = 2.0
MAX_OPEN_FILES = 65_536

_log = structlog.get_logger("server")

Ready = Callable[[str, str | None], None]
"""Called once the server listens, with its address, and with the one-time link when there is one."""


class Server:
    """The components of a running server. `read_side` is None on a node with the role `ingest`; `cosigner` outside of a cluster."""

    def __init__(
        self,
        config: Config,
        log: ServedLog,
        read_side: ReadSide | None,
        metrics: Metrics,
        declarer: declarations.Declarer,
        *,
        role: Role = "all",
        cosigner: Cosigner | None = None,
    ) -> None:
        self.config = config
        self.log = log
        self.read_side = read_side
        self.metrics = metrics
        self.role: Role = role
        self.cosigner = cosigner
        self.ingest = Ingest(
            build_sources(config), log, max_body_bytes=config.server.max_body_bytes, now=clock.now, observer=metrics,
            declarer=declarer,
        )  # fmt: skip
        self.signer = signing_keys.signer(config)
        self.checkpoints = self.signer and build_checkpointer(config, log, self.signer, metrics)
        self.requests = InFlightRequests()
        self.cluster = log if isinstance(log, ClusteredLog) else None
        self.gossip: NodeGossip | None = None
        if self.cluster is not None and cosigner is not None:
            self.gossip = NodeGossip(self.cluster, functools.partial(self._status, self.cluster, cosigner), clock.now)
            metrics.watch_nodes(self.gossip.live_count)
        self.connections: ConnectionLimiter | None = None

    def app(self) -> web.Application:
        """The application with all routes of this role."""
        middlewares: list[Middleware] = [
            self.requests.count,
            drain_unread_body,
            send_in_pieces,
            request_errors.refuse_undecodable,
        ]
        if not self.config.access.keys:
            middlewares.append(expect_local_host)
        if self.cluster is not None:
            middlewares.append(catch_up.gate(self.cluster, self.config.jetstream.behind_at_most))
        app = web.Application(client_max_size=self.config.server.max_body_bytes, middlewares=middlewares)
        app.on_response_prepare.append(request_errors.name_server)
        app[BODY_READER] = self.ingest.body_reader
        if self.role == "read":
            add_refusing_hooks(app)
        else:
            self.ingest.add_routes(app)
        if self.read_side is None:
            Health(self.unready, self.metrics.render, build_access(self.config)).add_routes(app)
            add_refusing_reads(app)
            return app
        ingest_stats = IngestStats(
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
        self.read_side.add_routes(app, ingest_stats, unready=self.unready, log_key=key, cluster=cluster)
        return app

    async def _status(self, log: ClusteredLog, cosigner: Cosigner) -> NodeStatus:
        ingest, metrics, settings = self.ingest, self.metrics, self.config.jetstream
        minute, behind, diverged = metrics.last_minute(), log.lag(), cosigner.diverged
        names = {*(each.name for each in self.config.sources), *(name for name, _ in metrics.outcomes)}
        return NodeStatus(
            node=settings.node, role=self.role, version=tracker_version(), started=metrics.since,
            position=await log.head(), views=None if self.read_side is None else self.read_side.position,
            behind_messages=behind.messages, behind_seconds=finite_seconds(behind.seconds), signs=settings.signs,
            cosigned=cosigner.cosigned_size, diverged=None if diverged is None else diverged.size, doubt=cosigner.doubt,
            sources=[
                SourceActivity(
                    name=name, last_seen=ingest.last_seen.get(name), last_refused=ingest.last_refused.get(name),
                    last_minute=minute.get(name, 0),
                    outcomes={outcome: count for (source, outcome), count in metrics.outcomes.items() if source == name},
                )
                for name in sorted(names)
            ],
        )  # fmt: skip

    async def unready(self, purpose: Purpose | None = None) -> list[str | TrackerError]:
        """Why this server should get no traffic now; empty when it is ready. `purpose`: only deliveries, or only readers."""
        shortage = None if self.connections is None else self.connections.shortage_reason()
        reasons: list[str | TrackerError] = [] if shortage is None else [shortage]
        if purpose != "reads":
            reasons += await self._unready_for_hooks(named=purpose is not None)
        if purpose != "hooks":
            reasons += await self._unready_for_reads(named=purpose is not None)
        return list({str(each): each for each in reasons}.values())

    async def _unready_for_hooks(self, *, named: bool) -> list[str | TrackerError]:
        """`named`: whether deliveries were asked about. A node that only answers readers is ready, but not for these."""
        if named and self.role == "read":
            return ["this node only answers readers (--role read)"]
        full = self.ingest.body_reader.full_reason()
        reasons: list[str | TrackerError] = [] if full is None else [full]
        reasons += await self._probe(self.log.check_writable())
        with contextlib.suppress(OSError):
            found = os.statvfs(self.config.log.path.parent)
            free = found.f_bavail * found.f_frsize
            if free < MIN_FREE_BYTES:
                reasons.append(f"only {free // 1024} KiB are free on the disk of the log: free some space")
        return reasons

    async def _unready_for_reads(self, *, named: bool) -> list[str | TrackerError]:
        if self.read_side is None:
            return ["this node only takes deliveries (--role ingest)"] if named else []
        reasons = await self._probe(self.read_side.lag())
        if named and self.cluster is not None:  # readers get 503 then: `catch_up.gate`
            stopped = self.cluster.stop_reason()
            reasons += [] if stopped is None else [stopped]
            reasons += catch_up.reasons(self.cluster, self.config.jetstream.behind_at_most)
        return reasons

    async def _probe(self, probe: Awaitable[list[str] | None]) -> list[str | TrackerError]:
        """The reasons that a probe of the stores gives, or why it gave none."""
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                return [*(await probe or ())]
        except TimeoutError:
            reasons: list[str | TrackerError] = [f"the log did not answer within {PROBE_SECONDS:.0f} s"]
            if self.cluster is not None:
                reasons += catch_up.reasons(self.cluster, self.config.jetstream.behind_at_most)
            return reasons
        except TrackerError as error:
            return [error]

    async def sign(self) -> None:
        """Sign checkpoints on the schedule. Without a key, log a warning and return."""
        evidence = self.config.evidence
        if self.cluster is not None:
            if not self.config.jetstream.signs:
                if signing_keys.cosigner(self.config) is None:
                    _log.warning(
                        "this node cosigns nothing because it has no key: `tracker init` creates it",
                        key_file=str(evidence.key_file),
                    )
                return
            # A tree that is behind would look like one that was rolled back.
            await self.cluster.wait_until_caught_up()
        if self.checkpoints is None:
            _log.warning(
                "no checkpoints are signed, so nobody can prove later that the log was not changed: `tracker init` creates the key",
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
    """Run until SIGTERM or SIGINT. On return, every accepted delivery is durable and answered.

    `port` overrides the config's. With `link`, `ready` gets a one-time link even though there are read keys. A cluster node
    shows with `show_progress` that it catches up. `role`: see `roles.py`.
    Raises `ConfigInvalid` (an unusable address, or a public one without read keys) and `LogError` (no log, or another
    server has it) before anything is accepted.
    """
    if port is not None:
        config = msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, port=port))
    if link and not config.server.is_loopback:
        raise ConfigInvalid(
            f"server.host: {config.server.host} is not a loopback address: --link works only on this machine"
        )
    if not config.access.keys and not config.server.is_loopback:
        raise ConfigInvalid(
            f"server.host: {config.server.host} is not a loopback address, but there are no read keys: "
            "add [access] keys, or listen on 127.0.0.1"
        )
    expect_role(config, role)
    for source, why in secret_warnings(config).items():
        _log.warning("a source has a weak secret", source=source, reason=why)
    _raise_open_file_limit()
    stop = asyncio.Event()
    # Until the log is closed: a second signal must not interrupt the shutdown.
    with stores.lock_log(config), _signals(stop.set):
        async with _open_server(config, role) as server:
            with gc_tuning.collect_rarely(gc_tuning.SERVING):
                await _run(server, stop, ready, show_progress, link=link)


def _raise_open_file_limit() -> None:
    """Raise the limit of open files: each connection is one, and most systems start at 1,024 but allow many more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or soft < hard:
        wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
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
async def _open_server(config: Config, role: Role) -> AsyncGenerator[Server]:
    metrics = Metrics(clock.now)
    async with contextlib.AsyncExitStack() as stack:
        log = await stores.open_log(config, metrics)
        stack.push_async_callback(log.close)
        history = await declarations.use_recorded(log)
        declarer = declarations.Declarer(log, await declarations.missing_declarations(config, log, history))
        cosigner = None
        if isinstance(log, ClusteredLog):
            metrics.follows(
                log.lag, await catch_up.warn_if_behind(log, config.jetstream.monitoring), log.skipped_messages
            )
            cosigner = await _check_divergence(config, log)
            metrics.watch_cosigner(cosigner.metrics)
        if config.sealing.masters:
            # On a diverged node, these positions may be those of other people's records.
            if not isinstance(log, ClusteredLog) or log.stop_reason() is None:
                await finish(log)
        else:
            _log.info("bodies are kept in clear: without a master key under [sealing] nothing can be erased")
        read_side = None
        if role != "ingest":
            views = await stores.open_live_views(config, writable=False)
            stack.push_async_callback(views.close)
            projector_files.forget_status(config.views_path)
            read_side = ReadSide(config, log, views, metrics, cosigner)
        yield Server(config, log, read_side, metrics, declarer, role=role, cosigner=cosigner)


async def _check_divergence(config: Config, log: ClusteredLog) -> Cosigner:
    """Compare this node with the signed checkpoints once, before it accepts anything; returns what repeats that."""
    cosigner = cluster_stores.tree_cosigner(config, log)
    at_start = await cluster_stores.find_divergence(config, log)
    log.set_divergence_check(lambda: cosigner.diverged or at_start)
    return cosigner


async def _run(
    server: Server,
    stop: asyncio.Event,
    ready: Ready | None,
    show_progress: catch_up.ProgressDisplay | None,
    *,
    link: bool,
) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            background = [
                *([] if server.read_side is None else server.read_side.background_tasks()),
                server.sign(),
                server.requests.close_idle(),
                clock_watch.watch(clock.now),
            ]
            if server.cluster is not None:
                background.append(catch_up.show(server.cluster, show_progress))
            if server.read_side is None:
                background.append(drop_text_caches_regularly())
            if server.cosigner is not None:
                background.append(server.cosigner.run())
            if server.gossip is not None:
                background.append(server.gossip.run())
            config = server.config
            if server.cluster is not None and server.read_side is not None and config.sealing.masters:
                background.append(erasure_sync.run(config.path, config.views_path, server.cluster))
            # In a cluster, the node that signs applies the retention.
            applies_retention = server.cluster is None or config.jetstream.signs
            if applies_retention and any(source.retention is not None for source in config.sources):
                background.append(retention.run(functools.partial(child_command.run, config.path), server.metrics))
            tasks = [group.create_task(each) for each in background]
            projecting = None if server.read_side is None else group.create_task(server.read_side.keep_projecting())
            try:
                async with _listen(server) as address:
                    _log.info("ready", address=address, sources=[each.name for each in server.config.sources])
                    if ready is not None:
                        read_side = server.read_side
                        ready(
                            address, None if read_side is None else read_side.access.one_time_link(even_with_keys=link)
                        )
                    await stop.wait()
                    _log.info("stopping", grace_seconds=server.config.server.shutdown_grace)
                    if projecting is not None:
                        projecting.cancel()
            finally:
                # Only once: its process has time to end by itself.
                if projecting is not None and not projecting.cancelling():
                    projecting.cancel()
                for task in tasks:
                    task.cancel()
    except* TrackerError as group_error:
        raise group_error.exceptions[0] from None


@contextlib.asynccontextmanager
async def _listen(server: Server) -> AsyncGenerator[str]:
    """Accept connections. On leaving, accept no more and answer the accepted requests."""
    settings = server.config.server
    request_errors.install()
    runner = web.AppRunner(
        server.app(),
        access_log=None,
        keepalive_timeout=KEEPALIVE_SECONDS,
        shutdown_timeout=1.0,
        read_bufsize=READ_BYTES,
        auto_decompress=False,  # only a delivery to a known source is decompressed: `ingest/decompression.py`
        lingering_time=0.0,  # `unread_bodies.py` discards what nobody reads
    )
    await runner.setup()
    http_server = cast("web.Server", runner.server)  # set by `setup`
    server.requests.server = http_server
    server.connections = ConnectionLimiter(http_server)
    try:
        host = settings.host.strip("[]")
        try:
            listener = await asyncio.get_running_loop().create_server(
                server.connections, host, settings.port, backlog=1024
            )
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigInvalid(
                f"server.host, server.port: cannot listen on {settings.host}:{settings.port} ({reason}): "
                "name an address of this machine, and a free port"
            ) from None
        with contextlib.closing(listener):
            bound_connections(listener.sockets[0].fileno())
            port = listener.sockets[0].getsockname()[1]
            yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
        if server.cluster is not None:
            server.cluster.limit_shutdown(CLUSTER_GRACE_SHARE * settings.shutdown_grace)
        if server.read_side is not None:
            server.read_side.live.stop()
        await server.requests.wait_idle(settings.shutdown_grace)
    finally:
        await runner.cleanup()
