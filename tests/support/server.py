"""A real Tracker in its own process, for tests that talk to it over HTTP, stop it or kill it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from tracker.cli.init import init as init_log
from tracker.demo.show import SOURCES, config_text, read_token
from tracker.demo.calls import VENDORS, SampleDelivery, sign
from tracker.errors import TrackerError
from tracker.server.sources import load_config

SECRETS = {vendor: f"{vendor}-secret-of-at-least-thirty-two-bytes" for vendor in VENDORS}
READ_KEY = "a-read-key-of-at-least-thirty-two-bytes"
TOKEN = read_token(READ_KEY)
READ = {"Authorization": f"Bearer {TOKEN}"}


THIS_PROGRAM = (sys.executable, "-m", "tracker")


class Running:
    """`tracker serve` on a folder; `url` once it is ready. Start it again after `stop` or `kill`."""

    def __init__(self, folder: Path, *, config: str | None = None, program: Sequence[str] = THIS_PROGRAM) -> None:
        self.folder = folder
        self.program = program
        self.config = folder / "config.toml"
        self.printed = folder / "server.txt"
        self.url = ""
        self.process: asyncio.subprocess.Process | None = None
        self.config.write_text(config or config_text(folder, SECRETS, READ_KEY, 0), "utf-8")

    @property
    def log_path(self) -> Path:
        return self.folder / "log.db"

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run one command; returns exit code, standard output and standard error."""
        process = await asyncio.create_subprocess_exec(
            *self.program, arguments[0], "--config", str(self.config), *arguments[1:],
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, stderr = await process.communicate()
        return process.returncode or 0, out.decode(), stderr.decode()

    async def start(self, *options: str, init: bool = False) -> Running:
        if init and self.program != THIS_PROGRAM:
            code, _, stderr = await self.run("init")
            assert code == 0, stderr
        elif init:
            # In this process: one more would cost most of a second, hundreds of times.
            try:
                await init_log(load_config(self.config, os.environ))
            except TrackerError as error:
                raise AssertionError(str(error)) from error
        with self.printed.open("ab") as printed:
            before = self.printed.stat().st_size
            self.process = await asyncio.create_subprocess_exec(
                *self.program, "serve", "--config", str(self.config), *options,
                stdout=printed, stderr=asyncio.subprocess.STDOUT, env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            output = self.printed.read_bytes()[before:].decode()
            found = re.search(r"tracker serves on (\S+)", output)
            if found:
                self.url = found[1]
                return self
            assert self.process.returncode is None, output
            await asyncio.sleep(0.02)
        raise AssertionError(f"not ready: {self.printed.read_text()}")

    def children(self) -> list[int]:
        """The processes that the server started and that run now: the projector, and commands."""
        assert self.process is not None
        return child_processes(self.process.pid)

    async def projector(self, *, other_than: int | None = None) -> int:
        """The process id of the projector, once there is one."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for pid in self.children():
                if pid != other_than and b"project" in _command_of(pid).split(b"\0"):
                    return pid
            await asyncio.sleep(0.02)
        raise AssertionError(f"no projector: {self.printed.read_text()}")

    async def stop(self) -> int:
        """Send SIGTERM; returns the exit code."""
        if self.process is None:
            return 0
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(self.process.wait(), 20)
        self.process = None
        return code

    async def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        self.process = None

    async def post(
        self, web: aiohttp.ClientSession, vendor: str, sent: SampleDelivery, *, at: int | None = None
    ) -> tuple[int, Any]:
        """Sign and send one delivery; status and answer."""
        headers, suffix, _ = sign(vendor, sent.body, SECRETS[vendor], at or now())
        async with web.post(
            f"{self.url}/hooks/{SOURCES[vendor]}{suffix}", data=sent.body, headers=headers, params=sent.query
        ) as answer:
            return answer.status, json.loads(await answer.read())

    async def get(self, web: aiohttp.ClientSession, path: str, **query: str) -> Any:
        """The JSON of a read; fails unless the status is 200.

        On a busy machine, the projector of a server that has just started may need longer than `at_least` waits.
        """
        deadline = time.monotonic() + 30
        while True:
            async with web.get(self.url + path, params=query, headers=READ) as answer:
                body = await answer.json(content_type=None)
                if answer.status == 504 and time.monotonic() < deadline:
                    continue
                assert answer.status == 200, body
                return body

    async def text(self, web: aiohttp.ClientSession, path: str) -> tuple[int, str]:
        """Status and text of a read, whatever the status is."""
        async with web.get(self.url + path, headers=READ) as answer:
            return answer.status, await answer.text()

    async def until(
        self, web: aiohttp.ClientSession, path: str, *wanted: str, status: int | None = None, seconds: float = 45
    ) -> str:
        """Read again until the answer has that status and contains all the wanted words; returns its text."""
        found = 0, ""
        try:
            async with asyncio.timeout(seconds):
                while status not in {None, found[0]} or not all(each in found[1] for each in wanted):
                    await asyncio.sleep(0.1)
                    found = await self.text(web, path)
        except TimeoutError:
            output = self.printed.read_text()[-2_000:]
            raise AssertionError(f"{path}: wanted {status or ''} {wanted}, found {found}\n{output}") from None
        return found[1]


def child_processes(pid: int) -> list[int]:
    """The processes that a process started and that have not ended."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def is_running(pid: int) -> bool:
    """Whether a process has not ended; one that only waits to be reaped has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


async def expect_ended(pids: Sequence[int], seconds: float) -> None:
    """Fail unless these processes end within that time."""
    deadline = time.monotonic() + seconds
    while left := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < deadline, [_command_of(pid) for pid in left]
        await asyncio.sleep(0.02)


def _command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def now() -> int:
    return time.time_ns() // 1000
