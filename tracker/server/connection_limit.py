"""Accepts connections while there are file descriptors for them, and cuts off clients that do not read their answers.

    accept ─► descriptor number ─┬─ below the reserve: the server
                                 └─ in the reserve: a spare server answers 503 with Retry-After and closes

The system assigns the lowest free number, so the number shows how many descriptors are open in all. Without free descriptors
the event loop would leave new connections waiting, or (uvloop) close them, unanswered; /readyz among them. The reserve also
serves files that are opened while we run (rebuilt views, bundles).

    answer not read ─► counted, by peer ─┬─ together within `UNREAD_BYTES`: it waits, at most `STALLED_SECONDS`
                                         └─ more: of the peer that holds most, the connection that has waited longest is cut off
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
import sys
from typing import cast

import structlog
from aiohttp import web

from tracker.api.problems import json_response, problem_response
from tracker.ingest.memory_budget import Holding, MemoryBudget
from tracker.views.answers import Alive, Readiness

RESERVE = 1280
"""Descriptors kept in reserve: more than the backlog accepts at once; at most a quarter of the limit.

LIMIT: in a burst larger than the reserve, uvloop closes the connections beyond it without an answer.
"""
RECEIVE_BYTES = 64 * 1024
"""Bytes that the system may buffer for a connection. All connections are read before any is answered."""
READ_BYTES = 16 * 1024
"""Size of aiohttp's read buffer. It reads up to twice as much of a body that no handler takes yet."""
SEND_BYTES = 128 * 1024
"""Bytes of answers that the system may buffer for a connection. Linux doubles it, and would take megabytes by itself."""
WRITE_BYTES = 16 * 1024
"""Bytes of answers that wait here for a connection before their writer waits, too."""
UNREAD_BYTES = 64 * 1024 * 1024
"""Bytes that all clients who do not read their answers may hold here together."""
WAITING_BYTES = 64 * 1024
"""Counted for each of these clients, besides the answer itself: its connection, its request and the piece that waits."""
STALLED_SECONDS = 60
"""A client that takes none of its answer for so long is disconnected by the system (`TCP_USER_TIMEOUT`, Linux only)."""
RETRY = {"Retry-After": "2"}
SILENT_SECONDS = 1.0
"""A connection may hold a descriptor of the reserve this long."""
CALM_SECONDS = 5.0
"""Without a refusal for this long, the shortage is over."""

_log = structlog.get_logger("server")


def bound_connections(listening: int) -> None:
    """Bound what each connection accepted on this descriptor may hold in the system: what is received, and what nobody reads."""
    with socket.socket(fileno=os.dup(listening)) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        if sys.platform == "linux":
            same.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_SECONDS * 1000)


class ConnectionLimiter:
    """The protocol factory of the listening socket; `server` answers the connections that are accepted."""

    def __init__(self, server: web.Server) -> None:
        self._server = server
        self._spare = web.Server(_refuse, access_log=None, keepalive_timeout=0)
        self._refused = 0
        self._last = 0.0
        self.unread = MemoryBudget(UNREAD_BYTES)

    def __call__(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        return Connection(self)

    def shortage_reason(self) -> str | None:
        """For /readyz: why new connections are refused now; None when they are not."""
        return None if self._refused == 0 else f"{self._refused} connections were refused: no file descriptors for them"

    def protocol_of(self, transport: asyncio.Transport) -> asyncio.Protocol:
        """The protocol that answers this connection."""
        number = transport.get_extra_info("socket").fileno()
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit == resource.RLIM_INFINITY or number < limit - min(RESERVE, limit // 4):
            return self._server()
        loop = asyncio.get_running_loop()
        self._last = loop.time()
        if not self._refused:
            _log.error("no file descriptors for more connections: they get 503", limit=limit)
            loop.call_later(CALM_SECONDS, self._look)
        self._refused += 1
        loop.call_later(SILENT_SECONDS, transport.abort)
        return self._spare()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        left = self._last + CALM_SECONDS - loop.time()
        if left > 0:
            loop.call_later(left, self._look)
            return
        _log.warning("connections are accepted again", refused=self._refused)
        self._refused = 0


class Connection(asyncio.Protocol):
    """A connection: another protocol answers it, chosen by the number of its descriptor; here its unread answers are counted."""

    def __init__(self, limiter: ConnectionLimiter) -> None:
        self._limiter = limiter
        self._unread: Holding | None = None
        self.answer_bytes = 0
        """The size of the answer that is being sent, if it is kept until it is sent."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand the connection to the server that answers it."""
        accepted = cast("asyncio.Transport", transport)
        accepted.set_write_buffer_limits(high=WRITE_BYTES)
        self._transport = accepted
        self._answering = protocol = self._limiter.protocol_of(accepted)
        # What is read goes there directly. The transport looks these up when it gets its protocol.
        self.data_received = protocol.data_received
        self.eof_received = protocol.eof_received
        accepted.set_protocol(self)
        protocol.connection_made(accepted)

    def pause_writing(self) -> None:
        """The client does not read its answer. It is cut off if too many do not."""
        self._answering.pause_writing()
        peer = self._transport.get_extra_info("peername")
        self._unread = self._limiter.unread.hold(str(peer[0]) if peer else None, self._cut_off)
        self._unread.add(WAITING_BYTES + self.answer_bytes)

    def resume_writing(self) -> None:
        """The client reads on."""
        self._read_on()
        self._answering.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended."""
        self._read_on()
        self._answering.connection_lost(exc)

    def _cut_off(self) -> None:
        # Reset it: otherwise the system would go on trying to send what it has.
        opened = self._transport.get_extra_info("socket")
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _read_on(self) -> None:
        if self._unread is not None:
            self._unread.release()
            self._unread = None


async def _refuse(request: web.BaseRequest) -> web.StreamResponse:
    """Answer /healthz as alive, /readyz as not ready, and everything else with 503."""
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
