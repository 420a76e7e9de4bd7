"""How often a process looks whether a store changed: nobody signals it (law 3)."""

from __future__ import annotations

LOOK_SECONDS = 0.025
IDLE_LOOK_SECONDS = 0.2
QUIET_SECONDS = 60.0
"""After this time without a change, looks are rarer: an idle server uses no processor time to speak of."""


def look_seconds(quiet_seconds: float) -> float:
    """How long to wait until the next look, in seconds. `quiet_seconds`: how long nothing has changed."""
    return LOOK_SECONDS if quiet_seconds < QUIET_SECONDS else IDLE_LOOK_SECONDS
