"""The wall clock: the one module of the domain that reads one."""

from __future__ import annotations

import time


def now() -> int:
    """The current time: µs since the epoch, UTC."""
    return time.time_ns() // 1_000
