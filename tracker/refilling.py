"""A server whose views lack most of a large log: `tracker rebuild` makes them, in a process of its own, before the projector looks.

    views missing, outdated, long switched off ─► most of the log is not in them? ─► tracker rebuild ─► the projector goes on from there

A projector saves what readers wait for, again and again; a rebuild saves each session once, on every core, and not in the
interpreter that answers senders. If we die meanwhile nothing is lost: the next start looks again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import structlog

from tracker import apart
from tracker.errors import TrackerError

WORTH = 50_000
"""Records that are missing, at least: fewer are projected in half a minute."""
SHARE = 2
"""At least one of so many of the log's records is missing: a rebuild reads those that are there, too."""

_log = structlog.get_logger("refilling")


class Ended(Protocol):
    """What has an end: the log."""

    async def head(self) -> int:
        """The last position."""
        ...


class Filled(Protocol):
    """What is filled from it: the views."""

    async def checkpoint(self) -> int:
        """The last position in them."""
        ...


async def refill(config: Path, log: Ended, views: Filled) -> bool:
    """Rebuild the views where that is the shorter way; whether it was done. A failure is logged: the projector fills them."""
    try:
        head, position = await log.head(), await views.checkpoint()
    except TrackerError as error:
        _log.warning("how much is missing in the views is not known", reason=str(error))
        return False
    missing = head - position
    if missing < WORTH or missing * SHARE < head:
        return False
    _log.info(
        "most of the log is not in the views: a rebuild makes them, the projector waits", position=position, head=head
    )
    ended = await apart.run(config, "rebuild")
    if ended.code:
        _log.warning("no rebuild, so the projector fills the views", exit_code=ended.code, reason=ended.last)
    return ended.code == 0
