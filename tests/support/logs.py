"""Opens a log for a test, and closes it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from tracker.log.contract import Log
from tracker.log.declaration_records import declaration_history
from tracker.log.sqlite.log import SqliteLog
from tracker.projector.declarations import use_history


@asynccontextmanager
async def opened(path: Path) -> AsyncGenerator[Log]:
    """The SQLite log at `path`, and its declarations in use. It can be named by a process of its own, as a rebuild needs it."""
    log = await SqliteLog.open(path)
    try:
        history = await declaration_history(log)
        if history.of_source:
            use_history(history)
        yield log
    finally:
        await log.close()
