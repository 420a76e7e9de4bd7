"""What happens to a request body that nobody read: the answer is sent, a little more is read, the connection is closed.

aiohttp would go on reading such a body for ten seconds after its answer. But closing a connection with unread bytes makes
the system reset it, and a reset can destroy the answer on its way. So the rest is discarded as it came, up to a bound in
bytes and time; an honest sender sees its 4xx, and an attacker costs no more than that. Nothing is decompressed here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from aiohttp import StreamReader, web

DRAIN_BYTES = 256 * 1024
DRAIN_SECONDS = 0.5

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def drain_unread_body(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer first; then discard a bounded part of a body that the handler left unread, and close."""
    response = await handler(request)
    if not request.content.is_eof():
        response.force_close()
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            await response.write_eof()
            await _discard(request.content)
    return response


async def _discard(content: StreamReader) -> None:
    left = DRAIN_BYTES
    with contextlib.suppress(TimeoutError, web.RequestPayloadError):
        async with asyncio.timeout(DRAIN_SECONDS):
            while left > 0 and not content.at_eof():
                left -= len(await content.readany())
