"""Once a day, erase what is older than its source's `retention`: the same command an operator would run, in a process of its own.

A process of its own, because reading a whole log and making views anew would keep this one from answering. If we die
meanwhile, the next run does the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from tracker.server import child_command

FIRST_SECONDS = 60.0
EVERY_SECONDS = 86_400.0

_log = structlog.get_logger("retention")


class Watcher(Protocol):
    """Who counts what was erased."""

    def erased(self, source: str, records: int) -> None:
        """So many records of a source were erased because they were old."""
        ...


async def run(config: Path, watcher: Watcher, *, first: float = FIRST_SECONDS, every: float = EVERY_SECONDS) -> None:
    """Run for ever; `first` and `every` in seconds. A failure is logged, and the next day tries again."""
    await asyncio.sleep(first)
    while True:
        await erase_once(config, watcher)
        await asyncio.sleep(every)


async def erase_once(config: Path, watcher: Watcher) -> None:
    """One run of `tracker erase --retention --yes`."""
    ended = await child_command.run(config, "erase", "--retention", "--yes", "--json")
    try:
        told: Mapping[str, Any] = msgspec.json.decode(ended.out)
    except msgspec.DecodeError:
        _log.error("nothing was erased", exit_code=ended.code, reason=ended.last)
        return
    for plan in told["items"]:
        for source, count in plan["sources"].items():
            watcher.erased(source, count)
        in_clear = len(plan["in_clear"])
        _log.info("erased what is older than its retention", sources=plan["sources"], kept_in_clear=in_clear)
