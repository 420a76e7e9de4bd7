"""`kill -9` under load: `python -m bench.faults.kill [--rounds 200] [--seed 20]`.

In each round a server takes signed deliveries of all vendors on 16 connections, and is killed at a random moment. In every
second round a `tracker rebuild` runs at the same time and is killed too. Deliveries without an answer are sent again to
the next server. At the end: everything answered 200 is in the log at its position; no gap, nothing twice; the views equal a
rebuild; `verify` finds nothing. Prints a table; the exit code is 1 if a check failed.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from bench import report
from tests.support.senders import SENDERS, send_until_killed
from tests.support.server import Running
from tracker.demo.calls import VENDORS, SampleDelivery, whole_call
from tracker.log.sqlite.log import SqliteLog

START = 1_700_000_000_000_000


async def rebuild_and_kill(running: Running, seconds: float) -> bool:
    """Start a rebuild and kill it after `seconds`; returns whether it was still running."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tracker", "rebuild", "--config", str(running.config),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    await asyncio.sleep(seconds)
    alive = process.returncode is None
    if alive:
        process.kill()
    await process.wait()
    return alive


async def kill_again_and_again(folder: Path, rounds: int, seed: int) -> list[str]:
    """Run all rounds, check, print the table; returns what is wrong."""
    running, chance, faults = Running(folder), random.Random(seed), list[str]()
    answered: dict[int, tuple[str, bytes]] = {}
    queue: list[tuple[str, SampleDelivery]] = []
    calls = kills = rebuilds = 0
    began = time.perf_counter()
    for number in range(rounds):
        while len(queue) < 1500:
            queue[:0] = [
                (v, sent) for v in VENDORS for sent in whole_call(v, START + calls * 3_600_000_000, seed=calls)
            ]
            calls += 1
        await running.start(init=number == 0)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as web:
            senders = [asyncio.create_task(send_until_killed(running, web, queue, answered)) for _ in range(SENDERS)]
            if number % 2:
                rebuilds += await rebuild_and_kill(running, chance.uniform(0.2, 1.2))
            else:
                await asyncio.sleep(chance.uniform(0.01, 0.3))
            kills += bool(queue)
            await running.kill()
            await asyncio.gather(*senders)
        if number % 10 == 9:
            print(f"  round {number + 1}: {len(answered)} answered", file=sys.stderr, flush=True)
    log = await SqliteLog.open(running.log_path)
    records = [record async for chunk in log.read(0) for record in chunk]
    await log.close()
    lost = sum(
        (records[at - 1].source, records[at - 1].body) != what if at <= len(records) else True
        for at, what in answered.items()
    )
    gaps = sum(record.position != n for n, record in enumerate(records, 1))
    twice = len(records) - len({(record.source, record.dedupe_key) for record in records})
    await running.start()
    async with aiohttp.ClientSession() as web:
        for _ in range(60):
            async with web.get(f"{running.url}/readyz") as answer:
                if answer.status == 200:
                    break
            await asyncio.sleep(0.5)
    await running.stop()
    for command in (("rebuild", "--check"), ("verify",)):
        code, out, stderr = await running.run(*command)
        faults += [] if code == 0 else [f"{command}: {out}{stderr}"]
    print(
        f"{'rounds':>7}{'under load':>11}{'rebuilds':>9}{'answered':>9}{'in the log':>11}{'lost':>6}{'gaps':>6}{'twice':>6}{'seconds':>9}"
    )
    seconds = time.perf_counter() - began
    print(
        f"{rounds:7}{kills:11}{rebuilds:9}{len(answered):9}{len(records):11}{lost:6}{gaps:6}{twice:6}{seconds:9.0f}",
        flush=True,
    )
    return faults + [f"{n} {what}" for what, n in (("lost", lost), ("gaps", gaps), ("twice", twice)) if n]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit code."""
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=20)
    options = parser.parse_args(argv)
    if options.smoke:
        options.rounds = 1
    with tempfile.TemporaryDirectory() as folder:
        faults = asyncio.run(kill_again_and_again(Path(folder), options.rounds, options.seed))
    print("faults:", faults or "none")
    return 1 if faults else 0


if __name__ == "__main__":
    report.run(main)
