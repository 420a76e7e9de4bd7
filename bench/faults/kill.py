"""`kill -9` under load: `python -m bench.faults.kill [--rounds 200] [--seed 20]`.

In each round a server takes signed deliveries of all vendors on 16 connections and is killed at a random moment; every
other round a `tracker rebuild` runs beside it and is killed too. What got no answer is sent again to the next server.
At the end: what was answered 200 is in the log, at its position; no gap, nothing twice; views equal a rebuild; `verify`
finds nothing. Prints a table; exit code 1 when anything was found.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from tests.support.senders import SENDERS, send_until_killed
from tests.support.server import Running
from tracker.demo.calls import VENDORS, SampleDelivery, whole_call
from tracker.log.sqlite.log import SqliteLog

START = 1_700_000_000_000_000


async def rebuild_and_kill(running: Running, seconds: float) -> bool:
    """Begin a rebuild and kill it after so long; whether it was still at work."""
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


async def rounds(folder: Path, number: int, seed: int) -> list[str]:
    """All rounds, the checks and the table; what was found."""
    running, drawn, faults = Running(folder), random.Random(seed), list[str]()
    answered: dict[int, tuple[str, bytes]] = {}
    queue: list[tuple[str, SampleDelivery]] = []
    calls = kills = rebuilds = 0
    began = time.perf_counter()
    for each in range(number):
        while len(queue) < 1500:
            queue[:0] = [
                (v, sent) for v in VENDORS for sent in whole_call(v, START + calls * 3_600_000_000, seed=calls)
            ]
            calls += 1
        await running.start(init=each == 0)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as web:
            waiting = [asyncio.create_task(send_until_killed(running, web, queue, answered)) for _ in range(SENDERS)]
            if each % 2:
                rebuilds += await rebuild_and_kill(running, drawn.uniform(0.2, 1.2))
            else:
                await asyncio.sleep(drawn.uniform(0.01, 0.3))
            kills += bool(queue)
            await running.kill()
            await asyncio.gather(*waiting)
        if each % 10 == 9:
            print(f"  round {each + 1}: {len(answered)} answered", file=sys.stderr, flush=True)
    log = await SqliteLog.open(running.log_path)
    kept = [record async for chunk in log.read(0) for record in chunk]
    await log.close()
    lost = sum(
        (kept[at - 1].source, kept[at - 1].body) != what if at <= len(kept) else True for at, what in answered.items()
    )
    gaps = sum(record.position != n for n, record in enumerate(kept, 1))
    twice = len(kept) - len({(record.source, record.dedupe_key) for record in kept})
    await running.start()
    async with aiohttp.ClientSession() as web:
        for _ in range(60):
            async with web.get(f"{running.url}/readyz") as answer:
                if answer.status == 200:
                    break
            await asyncio.sleep(0.5)
    await running.stop()
    for command in (("rebuild", "--check"), ("verify",)):
        code, out, complaint = await running.run(*command)
        faults += [] if code == 0 else [f"{command}: {out}{complaint}"]
    print(
        f"{'rounds':>7}{'under load':>11}{'rebuilds':>9}{'answered':>9}{'in the log':>11}{'lost':>6}{'gaps':>6}{'twice':>6}{'seconds':>9}"
    )
    seconds = time.perf_counter() - began
    print(
        f"{number:7}{kills:11}{rebuilds:9}{len(answered):9}{len(kept):11}{lost:6}{gaps:6}{twice:6}{seconds:9.0f}",
        flush=True,
    )
    return faults + [f"{n} {what}" for what, n in (("lost", lost), ("gaps", gaps), ("twice", twice)) if n]


def main() -> int:
    """The table."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rounds", type=int, default=200)
    asked.add_argument("--seed", type=int, default=20)
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        faults = asyncio.run(rounds(Path(folder), given.rounds, given.seed))
    print("faults:", faults or "none")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
