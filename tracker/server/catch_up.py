"""Keeps readers away from a cluster node that is behind, and shows its progress while it catches up.

Deliveries are not refused here: the log itself refuses what it cannot answer with a position.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from tracker.api.problems import error_response
from tracker.errors import NodeBehind, NodeDiverged
from tracker.log.contract import ClusteredLog
from tracker.log.jetstream.monitoring import require_sync_always

PROGRESS_SECONDS = 0.25
START_WAIT_SECONDS = 2.0
UNGATED_PATHS = ("/hooks/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/open")
"""Paths that do not read the log."""
DIAGNOSTIC_PATHS = ("/log", "/sources", "/static/", "/favicon.ico")
"""Pages, with their assets, that a diverged node still shows: they say what is wrong."""

Show = Callable[[int, int], None]
ProgressDisplay = Callable[[], AbstractContextManager[Show]]
"""Starts a progress bar and yields its update function: (messages applied, messages in the stream)."""

_log = structlog.get_logger("cluster")


def reasons(log: ClusteredLog, max_behind: float) -> list[str]:
    """Why readers should use another node; empty when this one is current. `max_behind` in seconds."""
    messages, seconds = log.lag()
    if seconds <= max_behind:
        return []
    ago = "" if seconds == float("inf") else f"{seconds:.0f} s, "
    return [f"this node is behind the stream ({ago}{messages} known messages)"]


def gate(log: ClusteredLog, max_behind: float) -> Middleware:
    """Answer readers with 503 while this node is more than `max_behind` seconds behind, or stopped."""

    @web.middleware
    async def gated(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path.startswith(UNGATED_PATHS):
            return await handler(request)
        stopped = log.stop_reason()
        if stopped is not None:
            if isinstance(stopped, NodeDiverged) and request.path.startswith(DIAGNOSTIC_PATHS):
                return await handler(request)
            return error_response(stopped)
        found = reasons(log, max_behind)
        return (
            error_response(NodeBehind(f"{found[0]}: try again, or ask another node"))
            if found
            else await handler(request)
        )

    return gated


async def warn_if_behind(log: ClusteredLog, monitoring: tuple[str, ...]) -> int:
    """Check that every NATS server syncs each write; returns how many could not be checked.

    Also waits shortly, so that a node that was away for a moment has caught up on return. Raises `LogUnavailable` when a
    server does not sync each write.
    """
    unread = await _unchecked_servers(log, monitoring)
    await log.wait_until_caught_up(START_WAIT_SECONDS)
    return unread


async def show(log: ClusteredLog, show_progress: ProgressDisplay | None) -> None:
    """Show progress until the node has caught up for the first time."""
    if await log.wait_until_caught_up(PROGRESS_SECONDS):
        return
    if show_progress is None:
        await log.wait_until_caught_up()
        return
    with show_progress() as shown:
        while not await log.wait_until_caught_up(PROGRESS_SECONDS):
            shown(*log.progress())
        shown(*log.progress())
    _log.info("caught up with the stream", messages=log.progress()[1])


async def _unchecked_servers(log: ClusteredLog, monitoring: tuple[str, ...]) -> int:
    addresses, servers = await require_sync_always(monitoring, log.servers())
    unread = max(len(addresses), len(servers), 0 if monitoring else 1)
    if unread:
        _log.warning(
            "cannot read whether every NATS server syncs each write; otherwise a power cut loses acknowledged deliveries: name "
            "the monitoring address of each server under [jetstream] monitoring",
            silent=addresses,
            not_named=servers,
        )
    return unread
