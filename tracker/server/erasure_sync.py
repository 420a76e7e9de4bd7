"""After another node's erasure: rebuilds this node's views without what was erased, in a process of its own.

    erasure applied ─► newer than the views? ─► tracker rebuild ─► `<views>-erased` holds the last erasure that the views know

`tracker erase` on this machine rebuilds the views itself; then there is nothing to do here. If we die meanwhile, the next
start checks again.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import structlog

from tracker.server import child_command
from tracker.domain.deliveries import TRACKER
from tracker.log.contract import ClusteredLog

SUFFIX = "-erased"
SETTLE_SECONDS = 2.0
RETRY_SECONDS = 10.0

_log = structlog.get_logger("erasure_sync")


def saved_position(views: Path) -> int:
    """The position of the last erasure that these views were built after; 0 when unknown."""
    try:
        return int(views.with_name(views.name + SUFFIX).read_text("ascii"))
    except (OSError, ValueError):
        return 0


def save_position(views: Path, position: int) -> None:
    """Save that position, once the views are in use."""
    path = views.with_name(views.name + SUFFIX)
    draft = path.with_name(path.name + ".new")
    draft.write_text(str(position), "ascii")
    os.replace(draft, path)


async def run(config: Path, views: Path, log: ClusteredLog) -> None:
    """Run for ever. A failed rebuild is logged and tried again."""
    await log.wait_until_caught_up()
    while True:
        log.erasure_applied.clear()
        if await log.last_from_source(TRACKER) > saved_position(views):
            await asyncio.sleep(SETTLE_SECONDS)
            last = await log.last_from_source(TRACKER)
            if last > saved_position(views) and not await _rebuilt(config):
                await asyncio.sleep(RETRY_SECONDS)
                continue
            _log.info("the views were rebuilt without what was erased", position=last)
        await log.erasure_applied.wait()


async def _rebuilt(config: Path) -> bool:
    ended = await child_command.run(config, "rebuild", "--wait")
    if ended.code:
        _log.warning("the views may still show what was erased, trying again", reason=ended.last)
    return ended.code == 0
