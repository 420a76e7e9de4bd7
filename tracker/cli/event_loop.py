"""The event loop of processes that run long: uvloop's where there is one."""

from __future__ import annotations

try:
    from uvloop import new_event_loop
except ImportError:  # not available on Windows; asyncio's own loop does the same, slower
    new_event_loop = None

__all__ = ["new_event_loop"]
