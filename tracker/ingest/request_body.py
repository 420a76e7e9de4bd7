"""Bodies that are half-way here: bounded for all connections together, so that many large ones do not take the memory.

The first 32 KiB of each count as nothing: whoever sends ordinary deliveries is not refused because of who sends huge ones,
and the number of connections bounds those. What is whole waits in the log's queue, which has a bound of its own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tracker.errors import LogBusy

if TYPE_CHECKING:
    from aiohttp import StreamReader

BODY_SECONDS = 60.0
"""A body that takes longer is given up: its connection is worth more."""
ARRIVING_BYTES = 128 * 1024 * 1024
SMALL = 32 * 1024


class BodyReader:
    """Reads bodies. `held` is how many bytes of all of them count now, never more than `most`."""

    def __init__(self, most: int = ARRIVING_BYTES) -> None:
        self._most = most
        self.held = 0

    async def body(self, content: StreamReader, bound: int) -> bytes:
        """One body to its end, or until it is more than `bound` bytes.

        Raises `TimeoutError` after `BODY_SECONDS`, `LogBusy` where there is no room for it.
        """
        body, counted = bytearray(), 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in content.iter_any():
                    more = max(0, len(body) + len(chunk) - SMALL - counted)
                    if self.held + more > self._most:
                        raise LogBusy(f"{self._most} bytes of bodies are half-way here: there is no room for more")
                    counted += more
                    self.held += more
                    body += chunk
                    if len(body) > bound:
                        break
            return bytes(body)
        finally:
            self.held -= counted

    def why_full(self) -> str | None:
        """For /readyz: why large bodies are refused now; None when there is room for more."""
        if self.held < self._most * 0.9:
            return None
        return f"{self.held} bytes of bodies are half-way here, {self._most} may be: large ones are refused"
