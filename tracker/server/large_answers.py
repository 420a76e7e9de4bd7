"""Large answers are sent in pieces, so that a client that reads slowly holds one piece of memory and not a whole answer.

`connection_limit.py` counts what such clients hold and cuts them off. Streams of events and exports write in pieces on
their own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from tracker.server.connection_limit import Connection

PIECE_BYTES = 64 * 1024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def send_in_pieces(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Send an answer of more than one piece; smaller ones are left to aiohttp."""
    response = await handler(request)
    if not isinstance(response, web.Response) or request.method == hdrs.METH_HEAD:
        return response
    body = response.body
    if not isinstance(body, bytes) or len(body) <= PIECE_BYTES or response.cookies:
        return response
    stream = web.StreamResponse(status=response.status, reason=response.reason, headers=response.headers)
    stream.content_length = len(body)
    if response.keep_alive is False:
        stream.force_close()
    connection = None if request.transport is None else request.transport.get_protocol()
    if isinstance(connection, Connection):
        connection.answer_bytes = len(body)
    await stream.prepare(request)
    pieces = memoryview(body)
    for begin in range(0, len(body), PIECE_BYTES):
        await stream.write(pieces[begin : begin + PIECE_BYTES])
        await request.writer.drain()  # waits while the client does not read; `write` waits only after 64 KiB
    await stream.write_eof()
    if isinstance(connection, Connection):
        connection.answer_bytes = 0
    return stream
