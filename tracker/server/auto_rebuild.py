"""Rebuilds the views at start when they lack most of a large log, before the projector begins.

    views missing, outdated or far behind ─► enough free space? ─► tracker rebuild ─► the projector continues from there

The projector saves a session after every change, because readers wait for it. A rebuild saves each session once, on every
core, in a process of its own. If we die meanwhile nothing is lost: the next start checks again.
"""

from __future__ import annotations

import shutil

import structlog

from tracker.server import child_command
from tracker.config.load import Config
from tracker.errors import TrackerError
from tracker.log.contract import Log
from tracker.views.contract import ViewsReader

MIN_MISSING = 20_000
"""Records. Fewer are projected in ten seconds."""
MIN_MISSING_SHARE = 1 / 2
"""Of the log's records: a rebuild reads those that the views have, too."""
FREE_SPACE_FACTOR = 4
"""Free space to require, as a multiple of the log's size: views and their temporary files take two to three times it."""

_log = structlog.get_logger("auto_rebuild")


async def rebuild_if_far_behind(config: Config, log: Log, views: ViewsReader) -> bool:
    """Rebuild the views where that is faster than projecting; returns whether it was done. A failure is logged."""
    try:
        head, position = await log.head(), await views.projected_position()
        needed, free = (
            FREE_SPACE_FACTOR * config.log.path.stat().st_size,
            shutil.disk_usage(config.views_path.parent).free,
        )
    except (TrackerError, OSError) as error:
        _log.warning("cannot tell how far the views are behind", reason=str(error))
        return False
    missing = head - position
    if missing < MIN_MISSING or missing < MIN_MISSING_SHARE * head:
        return False
    if free < needed:
        _log.warning(
            "not enough free space to rebuild the views, so the projector fills them", free=free, needed=needed
        )
        return False
    _log.info("the views lack most of the log: rebuilding them, the projector waits", position=position, head=head)
    ended = await child_command.run(config.path, "rebuild", "--wait")
    if ended.code != 0:
        _log.warning("the rebuild failed, so the projector fills the views", exit_code=ended.code, reason=ended.last)
    return ended.code == 0
