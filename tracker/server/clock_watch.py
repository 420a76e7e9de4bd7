"""Says when the clock jumps: proofs that carry a time are refused while it is wrong, and the operator has to find out why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

LOOK_SECONDS = 1.0
JUMP_SECONDS = 2.0
"""More than NTP's slewing, and than a busy event loop, make it differ between two looks."""

_log = structlog.get_logger("service")


async def watch(now: Callable[[], int]) -> None:
    """For ever: compare the clock (`now`, µs) with one that cannot be set. A host that slept shows as a jump, too."""
    loop = asyncio.get_running_loop()
    before = now() / 1_000_000 - loop.time()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        between = now() / 1_000_000 - loop.time()
        if abs(between - before) > JUMP_SECONDS:
            _log.warning("the clock jumped", seconds=round(between - before, 1))
        before = between
