"""Keeps the projector's process running beside the server: starts it, and starts it again with back-off when it ends.

    server ──► tracker project (lower priority, first choice of the OOM killer, ends with the server)

Ingest does not depend on it: its end costs freshness of the views, nothing else.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable

import structlog

from tracker.config.load import Config
from tracker.server.child_command import ChildCommand

BACK_OFF = (0.2, 1.0, 5.0, 15.0)
"""Seconds to wait before the projector is started again, after 1, 2, 3 … ends in a row."""
SETTLED_SECONDS = 10.0
"""A projector that ran this long, or got ahead, did not end at once: its end counts as the first one."""

_log = structlog.get_logger("server")


class ProjectorProcess:
    """The projector's process of one server. `position` returns the views' projected position."""

    def __init__(self, config: Config, position: Callable[[], int]) -> None:
        self._config = config
        self._position = position
        self._ends = 0
        self._last_end = ""

    def trouble(self) -> str | None:
        """Why the views are not kept up to date, for `/readyz`; None while the projector runs."""
        if self._ends < 2:
            return None
        return (
            f"the projector ended {self._ends} times in a row ({self._last_end}) and is started again: "
            "its last lines in the server's output say why"
        )

    async def run(self) -> None:
        """Run it for ever. When this is cancelled, the process is stopped first."""
        while True:
            before = self._position()
            self._last_end = await self._run_once()
            self._ends = 1 if self._position() > before else self._ends + 1
            _log.error("the projector ended, starting it again", why=self._last_end, times=self._ends)
            await asyncio.sleep(BACK_OFF[min(self._ends, len(BACK_OFF)) - 1])

    async def _run_once(self) -> str:
        """Run it until it ends; says how."""
        try:
            # Its log lines go where the server's go.
            child = await ChildCommand.start(self._config.path, "project", out=subprocess.DEVNULL, errors=None)
        except OSError as error:
            return f"no process can be started: {error}"
        try:
            try:
                async with asyncio.timeout(SETTLED_SECONDS):
                    code = await child.process.wait()
            except TimeoutError:
                self._ends = 0
                code = await child.process.wait()
        finally:
            await child.stop()
        return f"signal {-code}" if code < 0 else f"exit code {code}"
