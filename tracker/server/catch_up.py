"""A node that is behind the others: what it says of itself, and that it answers no readers meanwhile.

Taking deliveries is not stopped here: what cannot be answered with a position is refused by the log itself.
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

SHOW_SECONDS = 0.25
MOMENT_SECONDS = 2.0
ANSWERED = ("/hooks/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/open")
"""What does not read the log."""
TELLING = ("/log", "/sources", "/static/", "/favicon.ico")
"""Pages that say what is the matter, and what they are made of: shown by a node that answers nothing else."""

Show = Callable[[int, int], None]
ProgressDisplay = Callable[[], AbstractContextManager[Show]]
"""Begins a progress bar, called with (messages applied, messages in the stream)."""

_log = structlog.get_logger("cluster")


def reasons(log: ClusteredLog, behind_at_most: float) -> list[str]:
    """Why readers should go to another node; `behind_at_most` in seconds."""
    messages, seconds = log.lag()
    if seconds <= behind_at_most:
        return []
    ago = "" if seconds == float("inf") else f"{seconds:.0f} s, "
    return [f"this node is behind the stream ({ago}{messages} messages that it knows of)"]


def gate(log: ClusteredLog, behind_at_most: float) -> Middleware:
    """Answer readers 503 while this node is further behind than `behind_at_most` seconds, or stopped."""

    @web.middleware
    async def gated(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path.startswith(ANSWERED):
            return await handler(request)
        stopped = log.stop_reason()
        if stopped is not None:
            if isinstance(stopped, NodeDiverged) and request.path.startswith(TELLING):
                return await handler(request)
            return error_response(stopped)
        found = reasons(log, behind_at_most)
        return (
            error_response(NodeBehind(f"{found[0]}: ask again, or another node")) if found else await handler(request)
        )

    return gated


async def warn_if_behind(log: ClusteredLog, monitoring: tuple[str, ...]) -> int:
    """Before anything is taken: of how many servers it is not known whether they sync always.

    A node that was away for a moment is level on return. Raises `LogUnavailable` where a server does not sync always.
    """
    unread = await _unread(log, monitoring)
    await log.wait_until_caught_up(MOMENT_SECONDS)
    return unread


async def show(log: ClusteredLog, show_progress: ProgressDisplay | None) -> None:
    """Return when the node is level for the first time; say how it gets on meanwhile."""
    if await log.wait_until_caught_up(SHOW_SECONDS):
        return
    if show_progress is None:
        await log.wait_until_caught_up()
        return
    with show_progress() as shown:
        while not await log.wait_until_caught_up(SHOW_SECONDS):
            shown(*log.progress())
        shown(*log.progress())
    _log.info("level with the stream", messages=log.progress()[1])


async def _unread(log: ClusteredLog, monitoring: tuple[str, ...]) -> int:
    addresses, servers = await require_sync_always(monitoring, log.servers())
    unread = max(len(addresses), len(servers), 0 if monitoring else 1)
    if unread:
        _log.warning(
            "whether every server syncs always cannot be read: without it a power cut loses what was answered 200. Name the "
            "monitoring address of each server under [jetstream] monitoring",
            silent=addresses,
            not_named=servers,
        )
    return unread
