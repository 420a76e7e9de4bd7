"""A command that another process started ends with it (`--end-with-parent`, `server/child_command`).

Its standard input is a pipe that the other process never writes to: at its end, that process is gone. This is the first thing
that such a command does, so it imports next to nothing.
"""

from __future__ import annotations

import contextlib
import os
import threading

NICE = 5
"""The priority below the server's: deliveries go before readers of the views."""


def end_with_parent() -> None:
    """From now on this process ends when its standard input does, in the middle of whatever it does."""
    threading.Thread(target=_exit_at_end_of_input, daemon=True).start()


def lower_priority() -> None:
    """From now on this process, and those that it starts, run below the server's priority."""
    with contextlib.suppress(OSError):  # some sandboxes forbid it
        os.nice(NICE)


def _exit_at_end_of_input() -> None:
    try:
        while os.read(0, 1):
            pass
    finally:
        # No cleanup: every command may be killed at any moment.
        os._exit(1)
