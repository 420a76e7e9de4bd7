"""Tracks requests in flight, so that a stop waits for them; closes connections that send no request.

aiohttp closes a connection that is idle after an answer, but never one that sends no request, or its head byte by byte
(slowloris). Each of these would hold a file descriptor.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

if TYPE_CHECKING:
    Connection = web.RequestHandler
    Server = web.Server

HEAD_SECONDS = 30.0
"""A new connection may take this long to send the head of its first request."""
KEEPALIVE_SECONDS = 75.0
POLL_SECONDS = 5.0

_log = structlog.get_logger("server")


class InFlightRequests:
    """Counts requests in flight, so that a stop can wait for them.

    aiohttp waits for handlers too, but discards what still arrives of their bodies: a sender in the middle of a delivery
    would get no answer.
    """

    def __init__(self) -> None:
        self.server: Server | None = None
        """The server whose connections are checked; None before it listens."""
        self._busy: set[object] = set()
        self._due: dict[object, float] = {}
        self._stopping = False
        self._idle = asyncio.Event()

    @web.middleware
    async def count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count one request. While the server stops, close its connection after the answer."""
        connection = request.protocol
        self._busy.add(connection)
        try:
            response = await handler(request)
            if self._stopping:
                response.force_close()
            return response
        finally:
            self._busy.discard(connection)
            self._due[connection] = asyncio.get_running_loop().time() + KEEPALIVE_SECONDS + HEAD_SECONDS
            if self._stopping and not self._busy:
                self._idle.set()

    async def wait_idle(self, grace: float) -> None:
        """Return when no request is in flight, or after `grace` seconds."""
        self._stopping = True
        if not self._busy:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._idle.wait()

    async def close_idle(self) -> None:
        """Run for ever: close connections that have been without a request for too long."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            connections = [] if self.server is None else self.server.connections
            closed = self.close_due(connections, asyncio.get_running_loop().time())
            if closed:
                _log.warning("closed connections without a request", connections=closed)

    def close_due(self, connections: Iterable[Connection], now: float) -> int:
        """Close the connections that are due at `now` (the loop's seconds); returns how many."""
        due: dict[object, float] = {}
        closed = 0
        for connection in connections:
            until = self._due.get(connection, now + HEAD_SECONDS)
            if until < now and connection not in self._busy:
                connection.force_close()
                closed += 1
            else:
                due[connection] = until
        self._due = due
        return closed
