"""A server that starts without most of a large log in its views: `tracker rebuild` makes them, before the projector looks.

    views missing, outdated, long switched off ─► is there room? ─► tracker rebuild ─► the projector goes on from there

A projector saves what readers wait for, again and again; a rebuild saves each session once, on every core, and not in the
interpreter that answers senders. If we die meanwhile nothing is lost: the next start looks again.
"""

from __future__ import annotations

import shutil

import structlog

from tracker.server import child_command
from tracker.config.load import Config
from tracker.errors import TrackerError
from tracker.log.contract import Log
from tracker.views.contract import ViewsReader

WORTH = 50_000
"""Records that are missing, at least: fewer are projected in half a minute."""
SHARE = 2
"""At least one of so many of the log's records is missing: a rebuild reads those that are there, too."""
ROOM = 4
"""So many times the log's size has to be free: views and what is beside them while they are made are two to three of it."""

_log = structlog.get_logger("refilling")


async def refill(config: Config, log: Log, views: ViewsReader) -> bool:
    """Rebuild the views where that is the shorter way; whether it was done. A failure is logged: the projector fills them."""
    try:
        head, position = await log.head(), await views.projected_position()
        needed, free = ROOM * config.log.path.stat().st_size, shutil.disk_usage(config.views_path.parent).free
    except (TrackerError, OSError) as error:
        _log.warning("how much is missing in the views is not known", reason=str(error))
        return False
    missing = head - position
    if missing < WORTH or missing * SHARE < head:
        return False
    if free < needed:
        _log.warning("no room to rebuild the views, so the projector fills them", free=free, needed=needed)
        return False
    _log.info(
        "most of the log is not in the views: a rebuild makes them, the projector waits", position=position, head=head
    )
    ended = await child_command.run(config.path, "rebuild", "--wait")
    if ended.code != 0:
        _log.warning("no rebuild, so the projector fills the views", exit_code=ended.code, reason=ended.last)
    return ended.code == 0
