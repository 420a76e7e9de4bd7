"""Where the demo lives: `tracker init` and `tracker serve` in their own process, as an operator would start them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import IO, final

import aiohttp

from tracker.errors import TrackerError


START_SECONDS = 30.0
STOP_SECONDS = 10.0
LINK = re.compile(r"(http://\S+)/open\?code=\S+\n")


class ServerFailed(TrackerError):
    """The demo's tracker did not start, or ended by itself; the message holds the end of what it printed."""


@final
class ServerProcess:
    """A running tracker at `url`, known once the house is ready."""

    def __init__(self, server: asyncio.subprocess.Process, printed: Path) -> None:
        self.url = ""
        self.link = ""
        """Opens once, and signs in; known once the house is ready."""
        self._server = server
        self._printed = printed

    async def ready(self) -> None:
        """Return once the link is printed and `/readyz` answers 200. Raises `HouseFailed` when it does not within 30 s."""
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        async with aiohttp.ClientSession() as web:
            while self._server.returncode is None and asyncio.get_running_loop().time() < deadline:
                # The server says where it is: what it bound is its own, whoever else looks for a port.
                found = LINK.search(self._printed.read_text("utf-8"))
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    if found is not None and await _is_ready(web, found[1]):
                        self.url, self.link = found[1], found[0].rstrip()
                        return
                await asyncio.sleep(0.05)
        raise ServerFailed(f"the demo's tracker did not start:\n{_end_of(self._printed)}")

    async def ended(self) -> None:
        """Return when the server has ended by itself or by Ctrl-C."""
        await self._server.wait()

    async def stop(self) -> None:
        """End it as an operator would, and for good after 10 s."""
        if self._server.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._server.terminate()
            try:
                await asyncio.wait_for(self._server.wait(), STOP_SECONDS)
            except TimeoutError:
                self._server.kill()
                await self._server.wait()


@contextlib.asynccontextmanager
async def start_server(config: Path) -> AsyncGenerator[ServerProcess]:
    """A tracker with a new log, serving on loopback as `config` says; stopped on leaving.

    What it prints goes to `server.txt` beside the configuration. Raises `HouseFailed`.
    """
    printed = config.with_name("server.txt")
    with printed.open("wb") as output:
        created = await _started("init", config, output)
        if await created.wait() != 0:
            raise ServerFailed(f"tracker init failed:\n{_end_of(printed)}")
        house = ServerProcess(await _started("serve", config, output, "--link"), printed)
        try:
            await house.ready()
            yield house
        finally:
            await house.stop()


async def _started(command: str, config: Path, output: IO[bytes], *more: str) -> asyncio.subprocess.Process:
    # Our own package, also when the demo runs from a source tree that is not installed.
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tracker", command, "--config", str(config), *more,
        stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=asyncio.subprocess.STDOUT,
        env=environment, cwd=config.parent,
    )  # fmt: skip


async def _is_ready(web: aiohttp.ClientSession, url: str) -> bool:
    async with web.get(f"{url}/readyz", timeout=aiohttp.ClientTimeout(total=2)) as answer:
        return answer.status == 200


def _end_of(printed: Path) -> str:
    return "\n".join(printed.read_text("utf-8", "replace").splitlines()[-20:])
