"""Opens a log for a test, and closes it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from tracker.log.contract import Log
from tracker.log.sqlite.log import SqliteLog


@asynccontextmanager
async def opened(path: Path) -> AsyncGenerator[Log]:
    """The SQLite log at `path`. It can be named by a process of its own, as a rebuild needs it."""
    log = await SqliteLog.open(path)
    try:
        yield log
    finally:
        await log.close()
