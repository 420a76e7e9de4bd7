"""Reads request bodies within one memory bound for all connections together.

The first 32 KiB of each body are not counted, so large uploads never cause an ordinary delivery to be refused. The
limit on connections bounds those uncounted bytes. A body that was read completely waits in the log's queue, which has
its own bound.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tracker.errors import LogBusy

if TYPE_CHECKING:
    from aiohttp import StreamReader

BODY_SECONDS = 60.0
"""A body that takes longer to arrive is given up, to free its connection."""
MAX_BUFFERED_BYTES = 128 * 1024 * 1024
"""Counted bytes of all partly read bodies together."""
UNCOUNTED_BYTES = 32 * 1024
"""Bytes of each body that do not count."""


class BodyReader:
    """Reads bodies. `buffered_bytes` is the counted total now; it never exceeds `max_bytes`."""

    def __init__(self, max_bytes: int = MAX_BUFFERED_BYTES) -> None:
        self._max_bytes = max_bytes
        self.buffered_bytes = 0

    async def read(self, content: StreamReader, limit: int, *, seconds: float = BODY_SECONDS) -> bytes:
        """Read one body to its end, or until it exceeds `limit` bytes.

        Raises `TimeoutError` after `seconds`, and `LogBusy` when the memory bound is reached.
        """
        body, counted = bytearray(), 0
        try:
            async with asyncio.timeout(seconds):
                async for chunk in content.iter_any():
                    added = max(0, len(body) + len(chunk) - UNCOUNTED_BYTES - counted)
                    if self.buffered_bytes + added > self._max_bytes:
                        raise LogBusy(f"{self._max_bytes} bytes of request bodies are being received: no more fit")
                    counted += added
                    self.buffered_bytes += added
                    body += chunk
                    if len(body) > limit:
                        break
            return bytes(body)
        finally:
            self.buffered_bytes -= counted

    def full_reason(self) -> str | None:
        """Why large bodies are refused now, for `/readyz`; None while there is space."""
        if self.buffered_bytes < self._max_bytes * 0.9:
            return None
        return (
            f"{self.buffered_bytes} bytes of request bodies are being received, the limit is {self._max_bytes}: "
            "large bodies are refused"
        )
