"""After another node's erasure: make this node's views anew without what was erased, in a process of its own as retention does.

    an erasure was applied ─► do the views know? ─► tracker rebuild ─► `<views>-erased` says up to which record of ours they do

Whoever erases on this machine makes the views anew by itself; then there is nothing to do here. If we die meanwhile, the
next start looks again.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import structlog

from tracker.server import child_command
from tracker.domain.deliveries import TRACKER
from tracker.log.contract import ClusteredLog

ENDING = "-erased"
SETTLE_SECONDS = 2.0
AGAIN_SECONDS = 10.0

_log = structlog.get_logger("clearing")


def erasures_applied(views: Path) -> int:
    """The last record of ours when these views were made: no earlier erasure shows in them. 0 where nobody has said so."""
    try:
        return int(views.with_name(views.name + ENDING).read_text("ascii"))
    except (OSError, ValueError):
        return 0


def save_position(views: Path, position: int) -> None:
    """Say so, once they are in use."""
    path = views.with_name(views.name + ENDING)
    draft = path.with_name(path.name + ".new")
    draft.write_text(str(position), "ascii")
    os.replace(draft, path)


async def run(config: Path, views: Path, log: ClusteredLog) -> None:
    """Run for ever. A failure is logged and tried again."""
    await log.wait_until_caught_up()
    while True:
        log.erasure_applied.clear()
        if await log.last_from_source(TRACKER) > erasures_applied(views):
            await asyncio.sleep(SETTLE_SECONDS)
            last = await log.last_from_source(TRACKER)
            if last > erasures_applied(views) and not await _rebuilt(config):
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            _log.info("the views are made anew without what was erased", position=last)
        await log.erasure_applied.wait()


async def _rebuilt(config: Path) -> bool:
    ended = await child_command.run(config, "rebuild", "--wait")
    if ended.code:
        _log.warning("the views may show what was erased, trying again", reason=ended.last)
    return ended.code == 0
