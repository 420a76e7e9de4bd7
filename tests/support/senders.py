"""Senders of deliveries for tests that kill the server or use up its memory."""

from __future__ import annotations

import asyncio

import aiohttp

from tests.support.server import SECRETS, SOURCES, Running, now
from tracker.demo.calls import SampleDelivery, sign
from tracker.sources import registry

UNSIGNED = next(name for name, vendor in registry.VENDORS.items() if not vendor.signs_body)
"""A vendor whose proof does not depend on the body: a request can begin before its body exists."""

SENDERS = 16
"""Connections that send at the same time."""

LARGE_BODY_BYTES = 4_000_000


async def send_until_killed(
    running: Running,
    web: aiohttp.ClientSession,
    queue: list[tuple[str, SampleDelivery]],
    answered: dict[int, tuple[str, bytes]],
) -> None:
    """Send deliveries from the queue until the server is gone or the queue is empty.

    An answered delivery goes into `answered`: position → (source, body). A delivery without an answer goes back into
    the queue, as a sender would retry it.
    """
    while queue:
        vendor, sent = queue.pop()
        try:
            status, answer = await running.post(web, vendor, sent)
        except (aiohttp.ClientError, OSError, ValueError):
            queue.append((vendor, sent))
            return
        assert status == 200, answer
        answered[answer["position"]] = (SOURCES[vendor], sent.body)


async def start_large_upload(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection and send a body of `LARGE_BODY_BYTES` but for its last 989 bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    headers, suffix, _ = sign(UNSIGNED, b"", SECRETS[UNSIGNED], now())
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = (
        f"POST /hooks/{SOURCES[UNSIGNED]}{suffix} HTTP/1.1\r\n"
        f"Host: x\r\n{lines}Content-Length: {LARGE_BODY_BYTES}\r\n\r\n"
    )
    writer.write(head.encode() + b'{"event":"' + b"x" * (LARGE_BODY_BYTES - 1000))
    return reader, writer
