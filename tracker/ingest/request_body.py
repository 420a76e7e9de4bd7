"""Reads request bodies within one memory bound for all connections together.

Every byte of a body that has not arrived whole counts, and what its connection holds besides. At the bound the slowest
bodies are given up (`memory_budget`), so an ordinary delivery is recorded whatever strangers leave half-sent. A body that
was read completely waits in the log's queue, which has its own bound.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tracker.errors import LogBusy
from tracker.ingest.memory_budget import MemoryBudget

if TYPE_CHECKING:
    from aiohttp import StreamReader

BODY_SECONDS = 60.0
"""A body that takes longer to arrive is given up, to free its connection."""
MAX_BUFFERED_BYTES = 128 * 1024 * 1024
"""Counted bytes of all partly read bodies together."""
CONNECTION_BYTES = 32 * 1024
"""Counted for each partly read body, however little of it has arrived: its connection and request take that."""


class BodyReader:
    """Reads bodies; what is counted of them together never exceeds `max_bytes`."""

    def __init__(self, max_bytes: int = MAX_BUFFERED_BYTES) -> None:
        self._budget = MemoryBudget(max_bytes)

    @property
    def buffered_bytes(self) -> int:
        """Counted bytes of all partly read bodies now; never more than the bound."""
        return self._budget.held_bytes

    async def read(
        self, content: StreamReader, limit: int, *, remote: str | None, seconds: float = BODY_SECONDS
    ) -> bytes:
        """Read one body of the client at `remote` to its end, or until it exceeds `limit` bytes.

        Raises `TimeoutError` after `seconds`, and `LogBusy` when it is given up at the memory bound.
        """
        body = bytearray()
        deadline = asyncio.timeout(seconds)

        def give_up() -> None:
            if not deadline.expired():
                deadline.reschedule(0)

        holding = self._budget.hold(remote, give_up)
        try:
            async with deadline:
                try:
                    holding.add(CONNECTION_BYTES)
                    async for chunk in content.iter_any():
                        body += chunk
                        holding.add(len(chunk))
                        if len(body) > limit or holding.was_cut:
                            break
                finally:
                    holding.release()
        except TimeoutError:
            if not holding.was_cut:
                raise
        if holding.was_cut:
            raise LogBusy(f"{self._budget.max_bytes} bytes of request bodies are being received: no more fit")
        return bytes(body)

    def full_reason(self) -> str | None:
        """Why bodies are refused now, for `/readyz`; None while there is space."""
        budget = self._budget
        if budget.held_bytes < budget.max_bytes * 0.9:
            return None
        return (
            f"{budget.held_bytes} bytes of request bodies are being received, the limit is {budget.max_bytes}: "
            "those that arrive slowly are refused"
        )
