"""The plug is pulled on a whole server: `python -m bench.faults.plug [--cuts 20] [--control 5] [--seed 1]`.

A real server on an ext4 of its own, under load from 16 senders; then everything that was not synced is gone at one instant
(`tests/support/power_loss.py`), and a server is started on what is left. Every 200 has to be in the log at its position, without a
gap; the views come up by themselves and `rebuild --check` finds them equal; `verify` finds nothing. First of all the
plug is pulled right after `tracker init`; of three later ones, one right after a `tracker rebuild`, one in the middle of it. The control is the same with synchronous=OFF: it has to lose something, or the
cut is no cut. Needs root and loop devices. Prints a table; exit code 1 when anything is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from tests.crash.test_kill import SENDERS, send_until_cut
from tests.support.power_loss import Disk, why_not
from tests.support.server import Running
from tracker.demo.calls import VENDORS, SampleDelivery, whole_call
from tracker.errors import LogError
from tracker.log.sqlite.log import SqliteLog

START = 1_700_000_000_000_000
CARELESS = "import sys; from tracker.log.sqlite.log import SqliteLog; SqliteLog.synchronous = 'OFF'; from tracker.cli import main as cli; sys.exit(cli.main())"
READY_SECONDS = 60.0

Answered = dict[int, tuple[str, bytes]]


class Careless(Running):
    """A server that never syncs its log."""

    async def start(self, *, init: bool = False) -> Running:
        """Start it, with another first line."""
        if init:
            await self.run("init")
        real = asyncio.create_subprocess_exec

        async def careless(*command: str, **named: Any) -> Any:
            return await real(command[0], "-c", CARELESS, *command[3:], **named)

        asyncio.create_subprocess_exec = careless  # type: ignore[assignment]
        try:
            return await super().start()
        finally:
            asyncio.create_subprocess_exec = real


class Calls:
    """Deliveries without an end."""

    def __init__(self) -> None:
        self.queue: list[tuple[str, SampleDelivery]] = []
        self._told = 0

    def fill(self) -> list[tuple[str, SampleDelivery]]:
        """At least 3,000 are there."""
        while len(self.queue) < 3_000:
            for vendor in VENDORS:
                told = whole_call(vendor, START + self._told * 3_600_000_000, seed=self._told)
                self.queue[:0] = [(vendor, sent) for sent in told]
            self._told += 1
        return self.queue


def apart(module: str) -> None:
    """Begin again where nobody else sees our mounts: a container started meanwhile would hold a dead file system, and so keep
    it from being mounted anew."""
    if os.geteuid() == 0 and shutil.which("unshare") and "TRACKER_APART" not in os.environ:
        os.environ["TRACKER_APART"] = "1"
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", module]
        os.execvp(command[0], [*command, *sys.argv[1:]])


def on(disk: Disk, name: str, kind: type[Running] = Running) -> Running:
    """A server in a folder of that disk; what it prints is elsewhere."""
    folder = disk.path / name
    folder.mkdir()
    running = kind(folder)
    running.printed = disk.path.with_name(f"{name}.txt")
    os.sync()  # config.toml is the operator's
    return running


async def under_load(running: Running, calls: Calls, answered: Answered, seconds: float) -> None:
    """Send for so long, then kill."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as web:
        calls.fill()
        waiting = [asyncio.create_task(send_until_cut(running, web, calls.queue, answered)) for _ in range(SENDERS)]
        await asyncio.sleep(seconds)
        await running.kill()
        await asyncio.gather(*waiting)


async def lost_of(path: Path, answered: Answered) -> tuple[int, int, int]:
    """(records, lost, gaps) of the log; all is lost where it cannot be opened."""
    try:
        log = await SqliteLog.open(path)
        kept = [record async for chunk in log.read(0) for record in chunk]
        await log.close()
    except LogError:
        return 0, len(answered), 0
    lost = sum(at > len(kept) or (kept[at - 1].source, kept[at - 1].body) != what for at, what in answered.items())
    return len(kept), lost, sum(record.position != n for n, record in enumerate(kept, 1))


async def views_follow(running: Running) -> list[str]:
    """Wait until a started server is ready, stop it, and compare."""
    deadline = time.monotonic() + READY_SECONDS
    async with aiohttp.ClientSession() as web:
        while True:
            async with web.get(f"{running.url}/readyz") as answer:
                if answer.status == 200:
                    break
                said = await answer.text()
            if time.monotonic() > deadline:
                return [f"not ready: {said}"]
            await asyncio.sleep(0.1)
        async with web.get(f"{running.url}/metrics") as answer:
            while b"tracker_projector_lag 0.0" not in await answer.read() and time.monotonic() < deadline:
                await asyncio.sleep(0.1)
                answer = await web.get(f"{running.url}/metrics")
    faults = [] if await running.stop() == 0 else ["it did not stop in peace"]
    for command in (("rebuild", "--check"), ("verify",)):
        code, out, complaint = await running.run(*command)
        faults += [] if code == 0 else [f"{command}: {out[-300:]}{complaint[-300:]}"]
    return faults


async def pulled(disk: Disk, cuts: int, drawn: random.Random) -> list[str]:
    """One log through all the cuts."""
    running, calls, answered = on(disk, "full"), Calls(), Answered()
    code, _, complaint = await running.run("init")
    disk.cut_power()
    faults = [complaint] if code else []
    anew = lost = gaps = count = 0
    for number in range(cuts):
        await running.start()
        await under_load(running, calls, answered, drawn.uniform(0.2, 2.0))
        if number % 3:
            await rebuilt(running, drawn.uniform(0.5, 2.0) if number % 3 == 1 else None)
        disk.cut_power()
        count, gone, holes = await lost_of(running.log_path, answered)
        lost, gaps = lost + gone, gaps + holes
        before = running.printed.stat().st_size
        await running.start()
        faults += [f"cut {number + 1}: {each}" for each in await views_follow(running)]
        anew += b"views are made anew" in running.printed.read_bytes()[before:]
    print(f"{'FULL':12}{cuts:6}{len(answered):10}{count:9}{lost:7}{gaps:6}{anew:12}{len(faults):8}", flush=True)
    return faults + ([f"{lost} lost, {gaps} gaps"] if lost or gaps else [])


async def rebuilt(running: Running, seconds: float | None) -> None:
    """`tracker rebuild`, killed after so many seconds, or to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tracker", "rebuild", "--config", str(running.config),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await asyncio.wait_for(process.wait(), seconds)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def control(disk: Disk, cuts: int, drawn: random.Random) -> list[str]:
    """A new log each time, without a sync."""
    calls, total, lost, count = Calls(), 0, 0, 0
    for number in range(cuts):
        running, answered = on(disk, f"off-{number}", Careless), Answered()
        await running.start(init=True)
        os.sync()
        await under_load(running, calls, answered, drawn.uniform(0.2, 2.0))
        disk.cut_power()
        here, gone, _ = await lost_of(running.log_path, answered)
        total, lost, count = total + len(answered), lost + gone, count + here
        shutil.rmtree(running.folder, ignore_errors=True)
    print(f"{'OFF':12}{cuts:6}{total:10}{count:9}{lost:7}", flush=True)
    return [] if lost or not cuts else ["the control lost nothing: the cut is no cut"]


async def main() -> int:
    """The table."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--cuts", type=int, default=20)
    asked.add_argument("--control", type=int, default=5)
    asked.add_argument("--seed", type=int, default=1)
    given = asked.parse_args()
    if (reason := why_not()) is not None:
        print(f"left out: {reason}")
        return 0
    drawn = random.Random(given.seed)
    print(
        f"{'synchronous':12}{'cuts':>6}{'answered':>10}{'records':>9}{'lost':>7}{'gaps':>6}{'views anew':>12}{'faults':>8}"
    )
    with tempfile.TemporaryDirectory() as folder:
        disk = Disk(Path(folder)).mount()
        try:
            faults = await pulled(disk, given.cuts, drawn) + await control(disk, given.control, drawn)
        finally:
            disk.unmount()
    print("faults:", faults or "none")
    return 1 if faults else 0


if __name__ == "__main__":
    apart("bench.faults.plug")
    sys.exit(asyncio.run(main()))
