"""New connections, while there are file descriptors for them; beyond that 503, before there are none at all.

    accept ─► its descriptor's number ─┬─ below the reserve: the server
                                       └─ in it: the spare server: 503 with Retry-After, then closed

A system gives out the lowest free number, so the number says how many are open, whoever opened them. The event loop must not
run out: it would leave new connections waiting, or (uvloop) close them, without an answer, /readyz among them. What the
reserve is for besides: files that are opened while we run (views that are made anew, bundles).
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from typing import cast

import structlog
from aiohttp import web

from tracker.views.answers import Alive, Readiness
from tracker.api.problems import json_response, problem_response

RESERVE = 1280
"""Descriptors kept back, more than the backlog lets in at one time; where few are allowed, a quarter of them.

LIMIT: whoever comes in a burst larger than the reserve is not answered: uvloop closes his connection.
"""
RECEIVE_BYTES = 64 * 1024
"""What the system may hold of a connection's bytes before we read them: all connections' are read at once, before any is answered."""
READ_BYTES = 16 * 1024
"""Of a body that nobody takes yet aiohttp reads twice as many, and what came with the last of them."""
RETRY = {"Retry-After": "2"}
SILENT_SECONDS = 1.0
"""How long a connection may hold a descriptor of the reserve without having been answered."""
OVER_SECONDS = 5.0
"""Nobody was refused for so long: it is over."""

_log = structlog.get_logger("service")


def bound_receiving(listening: int) -> None:
    """The connections that this descriptor accepts receive at most `RECEIVE_BYTES` ahead of us, each."""
    with socket.socket(fileno=os.dup(listening)) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)


class ConnectionLimiter:
    """The protocol factory of the listening socket; `server` answers those there is room for."""

    def __init__(self, server: web.Server) -> None:
        self._server = server
        self._spare = web.Server(_refuse, access_log=None, keepalive_timeout=0)
        self._refused = 0
        self._last = 0.0

    def __call__(self) -> asyncio.Protocol:
        """What the event loop makes for each connection it accepts."""
        return _Arriving(self)

    def why_short(self) -> str | None:
        """For /readyz: why new connections are refused now; None when they are not."""
        return None if self._refused == 0 else f"{self._refused} connections were refused: no file descriptors for them"

    def protocol_of(self, transport: asyncio.Transport) -> asyncio.Protocol:
        """Whatever answers this connection."""
        number = transport.get_extra_info("socket").fileno()
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit == resource.RLIM_INFINITY or number < limit - min(RESERVE, limit // 4):
            return self._server()
        loop = asyncio.get_running_loop()
        self._last = loop.time()
        if not self._refused:
            _log.error("no file descriptors for more connections: they get 503", limit=limit)
            loop.call_later(OVER_SECONDS, self._look)
        self._refused += 1
        loop.call_later(SILENT_SECONDS, transport.abort)
        return self._spare()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        left = self._last + OVER_SECONDS - loop.time()
        if left > 0:
            loop.call_later(left, self._look)
            return
        _log.warning("connections are accepted again", refused=self._refused)
        self._refused = 0


class _Arriving(asyncio.Protocol):
    """A connection until its descriptor is known."""

    def __init__(self, accepting: ConnectionLimiter) -> None:
        self._accepting = accepting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand it over."""
        taken = cast("asyncio.Transport", transport)
        protocol = self._accepting.protocol_of(taken)
        taken.set_protocol(protocol)
        protocol.connection_made(taken)


async def _refuse(request: web.BaseRequest) -> web.StreamResponse:
    """Alive, not ready, and nothing else."""
    why = "there are no file descriptors for more connections"
    if request.path == "/healthz":
        response = json_response(200, Alive(alive=True))
    elif request.path == "/readyz":
        response = json_response(503, Readiness(ready=False, reasons=[why]), headers=RETRY)
    else:
        response = problem_response(
            503, "too-many-connections", "No more connections", f"{why}: try again", headers=RETRY
        )
    response.force_close()
    return response
