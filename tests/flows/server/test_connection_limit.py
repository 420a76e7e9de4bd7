"""Clients that do not read their answers hold little together; the longest waiting lose their connection first."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import aiohttp

from tests.support.server import READ, Running, now
from tracker.demo.calls import whole_call
from tracker.server.connection_limit import UNREAD_BYTES, WAITING_BYTES

LARGE = "/docs/rapidoc-min.js"


async def ask(port: int) -> socket.socket:
    """A connection that asks for a large answer and reads nothing of it."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(peer, ("127.0.0.1", port))
    await loop.sock_sendall(peer, f"GET {LARGE} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return peer


def is_reset(peer: socket.socket) -> bool:
    """Whether the connection was reset since the last look: reading the error clears it."""
    return peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


async def test_of_too_many_clients_that_read_nothing_the_longest_waiting_are_cut_off_and_others_are_served(
    tmp_path: Path,
) -> None:
    running = await Running(tmp_path).start(init=True)
    port = int(running.url.rsplit(":", 1)[1])
    peers: list[socket.socket] = []
    try:
        async with aiohttp.ClientSession() as web:
            async with web.get(running.url + LARGE, headers=READ) as answer:
                size = len(await answer.read())
            fit = UNREAD_BYTES // (size + WAITING_BYTES)
            for _ in range(fit + 20):
                peers.append(await ask(port))
            reset: set[int] = set()
            async with asyncio.timeout(120):
                while len(reset) < 20:
                    await asyncio.sleep(0.05)
                    reset |= {n for n, peer in enumerate(peers) if is_reset(peer)}
                    assert (await running.post(web, "openvidu", whole_call("openvidu", now())[0]))[0] == 200
            assert reset == set(range(20))
            async with web.get(running.url + LARGE, headers=READ) as answer:
                assert len(await answer.read()) == size
    finally:
        for peer in peers:
            peer.close()
        code = await running.stop()
    assert code == 0
    assert "Traceback" not in running.printed.read_text()
