"""Keeps long computations from holding the event loop, which answers senders."""

from __future__ import annotations

import asyncio
import time

SECONDS = 0.01
"""A computation yields after this time."""


class Pace:
    """`breathe` at each step of a computation lets other tasks run every `SECONDS`."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    async def breathe(self) -> None:
        """Yield if the last time was too long ago."""
        if time.perf_counter() - self._began > SECONDS:
            await asyncio.sleep(0)
            self._began = time.perf_counter()
