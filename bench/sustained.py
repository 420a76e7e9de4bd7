"""How late the views are under a steady load: `python -m bench.sustained [--rate 1500] [--seconds 600] [--calls 18000]`.

A real server with `--calls` calls open at once, of all vendors. 64 connections send `--rate` deliveries a second. Twenty times a
second the projected position is read from the views: the lag is the time since the first delivery that they lack was
answered. Then, with `--fast SECONDS`, as many as are answered: with the projector, and with the projector stopped (SIGSTOP),
twice in turn; and how long the views take to catch up. Prints a table. The exit code is 1 if a delivery was refused, if the
p99 of the lag is over `--lag`, or if `tracker rebuild --check` finds a difference.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sqlite3
import sys
import tempfile
import time
from array import array
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from bench import report
from bench.report import Row
from bench.soak import Crowd, Ledger, Sending, Traffic
from tests.support.server import Running

PAUSE = 0.05
CATCH_UP_SECONDS = 900.0


class OpenCalls(Traffic):
    """The first delivery of every call, then any delivery of any call; nothing twice, nothing out of order."""

    def __init__(self, calls: int, seed: int) -> None:
        super().__init__(seed, calls)
        self._calls = [self._new() for _ in range(calls)]
        self._to_open = calls

    @property
    def all_open(self) -> bool:
        """Whether every call has begun."""
        return self._to_open == 0

    def next(self) -> Sending:
        """The next delivery."""
        if self._to_open:
            self._to_open -= 1
            at = self._to_open
        else:
            at = self._chance.randrange(self._open_calls)
        call = self._calls[at]
        sending = call.popleft()
        if not call:
            self._calls[at] = self._new()
        return sending


class Times(Ledger):
    """Also remembers when each position was answered, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.answered_at = array("d", [0.0])

    def answered(self, sending: Sending, status: int, body: bytes) -> None:
        """Record one answer."""
        super().answered(sending, status, body)
        if len(self.answered_at) < len(self.marks):
            self.answered_at.extend([0.0] * (len(self.marks) - len(self.answered_at)))
        if status == 200:
            position = int(body.split(b'"position":')[1].split(b",")[0])
            self.answered_at[position] = self.answered_at[position] or time.perf_counter()


class Lag:
    """How late the views are, read from their file."""

    def __init__(self, views: Path, times: Times) -> None:
        self._views = views
        self._times = times
        self.samples: list[float] = []

    def now(self) -> float:
        """Seconds since the first delivery that the views lack was answered."""
        with closing(sqlite3.connect(f"file:{self._views}?mode=ro", uri=True)) as views:
            ((position,),) = views.execute("SELECT value FROM meta WHERE key = 'position'")
        at = self._times.answered_at
        first = at[position + 1] if position + 1 < len(at) else 0.0
        return time.perf_counter() - first if first else 0.0

    async def watch(self, seconds: float) -> None:
        """Take samples."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            await asyncio.sleep(PAUSE)
            self.samples.append(self.now())

    async def caught_up(self) -> float:
        """Wait until the views lack nothing; returns the seconds."""
        began = time.perf_counter()
        while self.now() > 0:
            if time.perf_counter() - began > CATCH_UP_SECONDS:
                break
            await asyncio.sleep(PAUSE)
        return time.perf_counter() - began


def processor_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_memory(pid: int) -> str:
    """The most memory a process had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return f"{int(status.split('VmHWM:')[1].split()[0]) / 1024:.0f} MB"


async def fast(crowd: Crowd, seconds: float) -> float:
    """Send as many as are answered; returns how many a second."""
    before, began = crowd.ledger.statuses[200], time.perf_counter()
    crowd.rate = float("inf")
    await asyncio.sleep(seconds)
    crowd.rate = 0.0
    found = (crowd.ledger.statuses[200] - before) / (time.perf_counter() - began)
    await asyncio.sleep(1)
    return found


async def measure(folder: Path, arguments: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """Run everything; returns the headline figures, and what is wrong."""
    running, times = Running(folder), Times()
    traffic = OpenCalls(arguments.calls, arguments.seed)
    await running.start(init=True)
    assert running.process is not None
    pids = {"server": running.process.pid, "projector": await running.projector()}
    crowd = Crowd(running, traffic)
    crowd.ledger = times
    lag = Lag(folder / "views.db", times)
    faults: list[str] = []
    rows: list[Row] = []
    sending = asyncio.create_task(crowd.run())
    try:
        while not traffic.all_open:
            await asyncio.sleep(0.1)
        crowd.rate = 0.0
        await asyncio.sleep(1)
        await lag.caught_up()
        print(f"{arguments.calls:,} calls are open", file=sys.stderr, flush=True)
        crowd.latencies.clear()
        cpu = {name: processor_seconds(pid) for name, pid in pids.items()}
        before, began = times.statuses[200], time.perf_counter()
        crowd.rate = float(arguments.rate)
        await lag.watch(arguments.seconds)
        crowd.rate = 0.0
        seconds, answered = time.perf_counter() - began, times.statuses[200] - before
        used = {name: processor_seconds(pid) - cpu[name] for name, pid in pids.items()}
        await asyncio.sleep(1)
        caught_up = await lag.caught_up()
        samples, latencies = sorted(lag.samples), sorted(crowd.latencies)
        p50, p99 = samples[len(samples) // 2], samples[int(len(samples) * 0.99)]
        refused = sum(n for status, n in times.statuses.items() if status != 200)
        print(f"{'answered a second':34}{answered / seconds:12,.0f}   refused {refused:,}")
        print(
            f"{'answer, ms: p50, p99':34}{latencies[len(latencies) // 2] * 1000:12.1f}{latencies[int(len(latencies) * 0.99)] * 1000:9.1f}"
        )
        print(f"{'lag of the views, s: p50, p99, most':34}{p50:12.2f}{p99:9.2f}{samples[-1]:9.2f}")
        for name, pid in pids.items():
            print(
                f"{name + ': of a core, µs a delivery':34}{used[name] / seconds:12.0%}{used[name] / answered * 1e6:9.0f}   {peak_memory(pid)}"
            )
        print(f"{'caught up after the end, s':34}{caught_up:12.1f}")
        load = f"{arguments.rate:,} deliveries a second, {arguments.calls:,} calls open"
        rows += [
            Row("live", f"lag of the views at p99: {load}", p99, "s"),
            Row("live", "processor time of the projector, a delivery", used["projector"] / answered * 1e6, "µs"),
        ]
        faults += [f"{refused} refused"] if refused else []
        faults += [f"the p99 of the lag is {p99:.2f} s"] if p99 > arguments.lag else []
        if not arguments.smoke and answered / seconds < 0.98 * arguments.rate:
            faults.append(f"only {answered / seconds:.0f} a second were answered: this machine cannot take the load")
        if arguments.fast:
            rows.append(await compare_fast(crowd, lag, pids["projector"], arguments.fast))
    finally:
        crowd.closing = True
        sending.cancel()
        code = await running.stop()
    faults += [f"the stop ended with {code}"] if code else []
    if not arguments.no_check:
        code, out, stderr = await running.run("rebuild", "--check")
        faults += [] if code == 0 else [f"rebuild --check: {out[-400:]}{stderr[-400:]}"]
    return rows, [*times.wrong[:5], *faults]


async def compare_fast(crowd: Crowd, lag: Lag, projector: int, seconds: float) -> Row:
    """As many as are answered, with and without the projector, twice in turn."""
    rates: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(2):
        rates["with"].append(await fast(crowd, seconds))
        caught_up = await lag.caught_up()
        print(f"{'caught up after a burst, s':34}{caught_up:12.1f}   of {seconds:.0f} s")
        os.kill(projector, signal.SIGSTOP)
        try:
            rates["without"].append(await fast(crowd, seconds))
        finally:
            os.kill(projector, signal.SIGCONT)
        await lag.caught_up()
    most = {name: sum(found) / len(found) for name, found in rates.items()}
    for name, found in most.items():
        print(f"{'at most a second, ' + name + ' projector':34}{found:12,.0f}")
    ratio = most["with"] / most["without"]
    return Row("live", "ingest beside the projector", most["with"], "a second", ratio, "without it")


def main(argv: Sequence[str] | None = None) -> int:
    """Run it in a temporary folder; returns the exit code."""
    parser = report.parser(__doc__)
    parser.add_argument("--rate", type=int, default=1_500)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--calls", type=int, default=18_000)
    parser.add_argument("--fast", type=float, default=0.0)
    parser.add_argument("--lag", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-check", action="store_true")
    options = parser.parse_args(argv)
    if options.smoke:
        options.rate, options.seconds, options.calls, options.fast, options.lag = 50, 1.0, 20, 0.3, 60.0
    with tempfile.TemporaryDirectory() as folder:
        rows, faults = asyncio.run(measure(Path(folder), options))
    report.write(rows, options)
    print("faults: " + ("; ".join(faults) if faults else "none"))
    return 1 if faults else 0


if __name__ == "__main__":
    report.run(main)
