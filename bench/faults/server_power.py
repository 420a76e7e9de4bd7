"""Power cuts under a whole server: `python -m bench.faults.server_power [--cuts 20] [--control 5] [--seed 1]`.

A real server on an ext4 file system of its own, under load from 16 senders. Then everything that was not synced is lost at
one instant (`tests/support/power_loss.py`), and a server starts on what is left. Each delivery answered 200 has to be in
the log at its position, without a gap; the views recover without help and `rebuild --check` finds them equal; `verify`
finds nothing. The first cut comes right after `tracker init`; of every three later ones, one comes right after a
`tracker rebuild` and one in the middle of it. The control runs with synchronous=OFF: it has to lose something, or the cut
is not a power cut. Needs root and loop devices. Prints a table; the exit code is 1 if a check failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from bench import report
from tests.support.senders import SENDERS, send_until_killed
from tests.support.power_loss import Disk, missing_requirement
from tests.support.server import Running
from tracker.demo.calls import VENDORS, SampleDelivery, whole_call
from tracker.errors import LogError
from tracker.log.sqlite.log import SqliteLog

START = 1_700_000_000_000_000
WITHOUT_SYNCS = "import sys; from tracker.log.sqlite.log import SqliteLog; SqliteLog.synchronous = 'OFF'; from tracker.cli import main as cli; sys.exit(cli.main())"
READY_SECONDS = 60.0

Answered = dict[int, tuple[str, bytes]]


class UnsyncedServer(Running):
    """A server that never syncs its log."""

    async def start(self, *, init: bool = False) -> Running:
        """Start it with `WITHOUT_SYNCS` as its program."""
        if init:
            await self.run("init")
        real = asyncio.create_subprocess_exec

        async def without_syncs(*command: str, **options: Any) -> Any:
            return await real(command[0], "-c", WITHOUT_SYNCS, *command[3:], **options)

        asyncio.create_subprocess_exec = without_syncs  # type: ignore[assignment]
        try:
            return await super().start()
        finally:
            asyncio.create_subprocess_exec = real


class DeliveryQueue:
    """An endless queue of deliveries of whole calls."""

    def __init__(self) -> None:
        self.queue: list[tuple[str, SampleDelivery]] = []
        self._calls = 0

    def fill(self) -> list[tuple[str, SampleDelivery]]:
        """Fill it to at least 3,000 deliveries."""
        while len(self.queue) < 3_000:
            for vendor in VENDORS:
                call = whole_call(vendor, START + self._calls * 3_600_000_000, seed=self._calls)
                self.queue[:0] = [(vendor, sent) for sent in call]
            self._calls += 1
        return self.queue


def restart_in_own_mount_namespace(module: str, argv: Sequence[str] | None) -> None:
    """Run the module again in a mount namespace of its own (root only).

    Otherwise a container started meanwhile would hold a dead file system, which could then not be mounted again.
    """
    if os.geteuid() == 0 and shutil.which("unshare") and "TRACKER_OWN_MOUNTS" not in os.environ:
        os.environ["TRACKER_OWN_MOUNTS"] = "1"
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", module]
        os.execvp(command[0], [*command, *(sys.argv[1:] if argv is None else argv)])


def server_on(disk: Disk, name: str, kind: type[Running] = Running) -> Running:
    """A server in a folder of that disk; its output goes to another file system."""
    folder = disk.path / name
    folder.mkdir()
    running = kind(folder)
    running.printed = disk.path.with_name(f"{name}.txt")
    os.sync()  # config.toml is written by the operator, long before
    return running


async def under_load(running: Running, deliveries: DeliveryQueue, answered: Answered, seconds: float) -> None:
    """Send for that many seconds, then kill the server."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as web:
        deliveries.fill()
        senders = [
            asyncio.create_task(send_until_killed(running, web, deliveries.queue, answered)) for _ in range(SENDERS)
        ]
        await asyncio.sleep(seconds)
        await running.kill()
        await asyncio.gather(*senders)


async def count_lost(path: Path, answered: Answered) -> tuple[int, int, int]:
    """(records, lost, gaps) of the log; everything is lost if it cannot be opened."""
    try:
        log = await SqliteLog.open(path)
        records = [record async for chunk in log.read(0) for record in chunk]
        await log.close()
    except LogError:
        return 0, len(answered), 0
    lost = sum(
        at > len(records) or (records[at - 1].source, records[at - 1].body) != what for at, what in answered.items()
    )
    return len(records), lost, sum(record.position != n for n, record in enumerate(records, 1))


async def views_follow(running: Running) -> list[str]:
    """Wait until a started server is ready and its views are complete; stop it; run the checks."""
    deadline = time.monotonic() + READY_SECONDS
    async with aiohttp.ClientSession() as web:
        while True:
            async with web.get(f"{running.url}/readyz") as answer:
                if answer.status == 200:
                    break
                body = await answer.text()
            if time.monotonic() > deadline:
                return [f"not ready: {body}"]
            await asyncio.sleep(0.1)
        async with web.get(f"{running.url}/metrics") as answer:
            while b"tracker_projector_lag 0.0" not in await answer.read() and time.monotonic() < deadline:
                await asyncio.sleep(0.1)
                answer = await web.get(f"{running.url}/metrics")
    faults = [] if await running.stop() == 0 else ["it did not stop cleanly"]
    for command in (("rebuild", "--check"), ("verify",)):
        code, out, stderr = await running.run(*command)
        faults += [] if code == 0 else [f"{command}: {out[-300:]}{stderr[-300:]}"]
    return faults


async def cut_power(disk: Disk, cuts: int, chance: random.Random) -> list[str]:
    """Cut the power under one log, again and again."""
    running, calls, answered = server_on(disk, "full"), DeliveryQueue(), Answered()
    code, _, stderr = await running.run("init")
    disk.cut_power()
    faults = [stderr] if code else []
    remade = lost = gaps = count = 0
    for number in range(cuts):
        await running.start()
        await under_load(running, calls, answered, chance.uniform(0.2, 2.0))
        if number % 3:
            await rebuild(running, chance.uniform(0.5, 2.0) if number % 3 == 1 else None)
        disk.cut_power()
        count, gone, holes = await count_lost(running.log_path, answered)
        lost, gaps = lost + gone, gaps + holes
        before = running.printed.stat().st_size
        await running.start()
        faults += [f"cut {number + 1}: {each}" for each in await views_follow(running)]
        output = running.printed.read_bytes()[before:]
        remade += b"the views file is missing, rebuilding" in output or b"no views yet, building" in output
    print(f"{'FULL':12}{cuts:6}{len(answered):10}{count:9}{lost:7}{gaps:6}{remade:12}{len(faults):8}", flush=True)
    return faults + ([f"{lost} lost, {gaps} gaps"] if lost or gaps else [])


async def rebuild(running: Running, seconds: float | None) -> None:
    """Run `tracker rebuild`; kill it after `seconds`, if given."""
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


async def control(disk: Disk, cuts: int, chance: random.Random) -> list[str]:
    """Cut the power under a new log without syncs each time."""
    calls, total, lost, count = DeliveryQueue(), 0, 0, 0
    for number in range(cuts):
        running, answered = server_on(disk, f"off-{number}", UnsyncedServer), Answered()
        await running.start(init=True)
        os.sync()
        await under_load(running, calls, answered, chance.uniform(0.2, 2.0))
        disk.cut_power()
        here, gone, _ = await count_lost(running.log_path, answered)
        total, lost, count = total + len(answered), lost + gone, count + here
        shutil.rmtree(running.folder, ignore_errors=True)
    print(f"{'OFF':12}{cuts:6}{total:10}{count:9}{lost:7}", flush=True)
    return [] if lost or not cuts else ["the control lost nothing: the cut is not a power cut"]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit code."""
    parser = report.parser(__doc__)
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--control", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    restart_in_own_mount_namespace("bench.faults.server_power", argv)
    if options.smoke:
        options.cuts, options.control = 1, 0
    if (reason := missing_requirement()) is not None:
        print(f"skipped: {reason}")
        return 0
    chance = random.Random(options.seed)
    print(
        f"{'synchronous':12}{'cuts':>6}{'answered':>10}{'records':>9}{'lost':>7}{'gaps':>6}{'views remade':>12}{'faults':>8}"
    )
    with tempfile.TemporaryDirectory() as folder:
        disk = Disk(Path(folder)).mount()
        try:
            faults = asyncio.run(cut_power(disk, options.cuts, chance)) + asyncio.run(
                control(disk, options.control, chance)
            )
        finally:
            disk.unmount()
    print("faults:", faults or "none")
    return 1 if faults else 0


if __name__ == "__main__":
    report.run(main)
