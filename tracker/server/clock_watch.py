"""Logs when the system clock jumps: with a wrong clock, proofs that carry a time are refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

POLL_SECONDS = 1.0
JUMP_SECONDS = 2.0
"""More than NTP slewing or a busy event loop cause between two polls."""

_log = structlog.get_logger("server")


async def watch(now: Callable[[], int]) -> None:
    """Run for ever: compare the clock (`now`, µs) with the monotonic one. A suspended host shows as a jump, too."""
    loop = asyncio.get_running_loop()
    before = now() / 1_000_000 - loop.time()
    while True:
        await asyncio.sleep(POLL_SECONDS)
        between = now() / 1_000_000 - loop.time()
        if abs(between - before) > JUMP_SECONDS:
            _log.warning("the clock jumped", seconds=round(between - before, 1))
        before = between
