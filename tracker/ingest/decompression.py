"""Decompresses request bodies in small steps, within a bound on the output.

aiohttp would decompress on its own, for every path and before anybody knows whose body it is: a 4 MB gzip body of zeros
held the event loop for seconds. The server switches that off (`server/server.py`); only a delivery to a known source is
decompressed, here. Each step produces at most 64 KiB and then lets other requests run. One body is decompressed at a
time, so that many of them together delay an ordinary delivery by no more than one step.
"""

from __future__ import annotations

import asyncio
import zlib

STEP_BYTES = 64 * 1024
"""Output of one step, and input given to one step."""
MAX_MEMBERS = 64
"""Gzip members that one body may consist of. Servers send one; empty members cost time and produce nothing."""
MAX_RATIO = 500
"""Largest expansion beyond the first megabyte. JSON stays below 100; a body of zeros reaches 1,030."""
RATIO_FREE_BYTES = 1024 * 1024
SUPPORTED = ("gzip", "x-gzip", "deflate")
"""The values of `Content-Encoding` that a body may have; an absent one and `identity` mean that it is sent as it is."""

_one_at_a_time = asyncio.Semaphore(1)


class Undecodable(Exception):
    """The body is not what its `Content-Encoding` says."""


class TooLarge(Exception):
    """The decompressed body exceeds the limit, or expands as no webhook does."""


async def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Return the decompressed body, at most `limit` bytes.

    `encoding` is one of `SUPPORTED`. Raises `Undecodable` and `TooLarge`.
    """
    async with _one_at_a_time:
        return await _decompress(body, encoding, limit)


async def _decompress(body: bytes, encoding: str, limit: int) -> bytes:
    result, members = bytearray(), 1
    decompressor = zlib.decompressobj(_window_bits(body, encoding))
    pending = memoryview(body)
    while True:
        step = pending[:STEP_BYTES]
        try:
            produced = decompressor.decompress(step, STEP_BYTES)
        except zlib.error:
            raise Undecodable(f"the body is not valid {encoding}") from None
        pending = pending[len(step) - len(decompressor.unconsumed_tail) - len(decompressor.unused_data) :]
        result += produced
        if len(result) > limit:
            raise TooLarge(f"the decompressed body exceeds {limit} bytes")
        if len(result) > RATIO_FREE_BYTES and len(result) > MAX_RATIO * (len(body) - len(pending)):
            raise TooLarge(f"the body expands more than {MAX_RATIO} times")
        if decompressor.eof:
            if not pending:
                return bytes(result)
            members += 1
            if encoding == "deflate" or members > MAX_MEMBERS:
                raise Undecodable(
                    f"the body has more than {MAX_MEMBERS if encoding != 'deflate' else 1} {encoding} streams"
                )
            decompressor = zlib.decompressobj(_window_bits(body, encoding))
        elif not step and not produced:
            raise Undecodable(f"the {encoding} body is incomplete")
        await asyncio.sleep(0)


def _window_bits(body: bytes, encoding: str) -> int:
    if encoding != "deflate":
        return zlib.MAX_WBITS | 16
    # RFC 9110 means zlib's format; some senders leave its header out.
    has_header = bool(body) and body[0] & 0x0F == 8
    return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS
