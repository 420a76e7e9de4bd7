"""What is being answered now: a stop waits for it, and connections that ask nothing are let go.

aiohttp closes a connection that is silent after an answer. One that sends no request at all, or a head byte by byte
(slowloris), it would keep for ever: each holds an open file, and those are counted.
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
"""How long a new connection may take until its first request's head is whole."""
KEEPALIVE_SECONDS = 75.0
LOOK_SECONDS = 5.0

_log = structlog.get_logger("service")


class InFlightRequests:
    """The requests that are being answered, so that a stop can wait for them.

    aiohttp waits for handlers too, but throws away what still arrives of their bodies: a sender in the middle of a
    delivery would not be answered.
    """

    def __init__(self) -> None:
        self.server: Server | None = None
        """Whose connections are looked at; None before it listens."""
        self._busy: set[object] = set()
        self._due: dict[object, float] = {}
        self._stopping = False
        self._idle = asyncio.Event()

    @web.middleware
    async def count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count one request; once we are stopping, its connection is closed with its answer."""
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

    async def end(self, grace: float) -> None:
        """Return when nothing is under way, or after `grace` seconds."""
        self._stopping = True
        if not self._busy:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._idle.wait()

    async def let_go(self) -> None:
        """For ever: close the server's connections without a request under way that have been so for too long."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            connections = [] if self.server is None else self.server.connections
            closed = self.look(connections, asyncio.get_running_loop().time())
            if closed:
                _log.warning("connections without a request are closed", connections=closed)

    def look(self, connections: Iterable[Connection], now: float) -> int:
        """Close those that are due at `now` (the loop's seconds); how many were."""
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
