"""The demo's server: `tracker init` and `tracker serve` in their own process, as an operator would start them."""

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
    """The demo's server did not start; the message ends with the last lines it printed."""


@final
class ServerProcess:
    """A running tracker; `url` is set once it is ready."""

    def __init__(self, server: asyncio.subprocess.Process, printed: Path) -> None:
        self.url = ""
        self.link = ""
        """The one-time link that signs in; set once the server is ready."""
        self._server = server
        self._printed = printed

    async def ready(self) -> None:
        """Return once the link is printed and `/readyz` answers 200. Raises `ServerFailed` after 30 s."""
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        async with aiohttp.ClientSession() as web:
            while self._server.returncode is None and asyncio.get_running_loop().time() < deadline:
                # Read the address from the server's output: only then is it certain that the port is its own.
                found = LINK.search(self._printed.read_text("utf-8"))
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    if found is not None and await _is_ready(web, found[1]):
                        self.url, self.link = found[1], found[0].rstrip()
                        return
                await asyncio.sleep(0.05)
        raise ServerFailed(f"the demo's server did not start:\n{_last_lines(self._printed)}")

    async def ended(self) -> None:
        """Return when the server process has ended."""
        await self._server.wait()

    async def stop(self) -> None:
        """Send SIGTERM, and SIGKILL after 10 s."""
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
    """A server with a new log, started as `config` says; stopped on exit.

    Its output goes to `server.txt` in the folder of `config`. Raises `ServerFailed`.
    """
    printed = config.with_name("server.txt")
    with printed.open("wb") as output:
        created = await _start("init", config, output)
        if await created.wait() != 0:
            raise ServerFailed(f"tracker init failed:\n{_last_lines(printed)}")
        server = ServerProcess(await _start("serve", config, output, "--link"), printed)
        try:
            await server.ready()
            yield server
        finally:
            await server.stop()


async def _start(command: str, config: Path, output: IO[bytes], *more: str) -> asyncio.subprocess.Process:
    # This package, also when the demo runs from a source tree that is not installed.
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


def _last_lines(printed: Path) -> str:
    return "\n".join(printed.read_text("utf-8", "replace").splitlines()[-20:])
