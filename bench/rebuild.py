"""Rebuild a large log, beside a plain scan-and-decode of the same file: `python bench/rebuild.py [events]`.

Prints events per second of both, their ratio, and the peak memory of each (each runs in a process of its own).
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from tracker.demo_calls import ISSUERS, VENDORS, whole_call
from tracker.log.sqlite import SqliteLog
from tracker.projector import Projector
from tracker.sources import registry
from tracker.sources.contract import SourceSettings
from tracker.views.sqlite import SqliteViews

START = 1_700_000_000_000_000
SECRET = "bench-secret-of-at-least-32-bytes!!"  # noqa: S105 - signs nothing real
HOUR = 3_600_000_000


async def fill(path: Path, events: int) -> None:
    """Write a log of whole calls of the five vendors, five at a time, until it has `events` records."""
    sources = {
        vendor: registry.build(
            SourceSettings(
                name=vendor, vendor=vendor, secrets=() if vendor in ISSUERS else (SECRET,),
                keys={ISSUERS[vendor]: SECRET} if vendor in ISSUERS else {},
            )
        )
        for vendor in VENDORS
    }  # fmt: skip
    await SqliteLog.create(path)
    log = await SqliteLog.open(path)
    written = 0
    call = 0
    while written < events:
        batch = []
        for _ in range(20):
            for vendor in VENDORS:
                for sent in whole_call(vendor, START + call * HOUR, seed=call):
                    batch.append(sources[vendor].admit(sent.body, received_at=sent.at, proof={"scheme": "import"}))
            call += 1
        await log.append_all(batch[: events - written])
        written += len(batch[: events - written])
    await log.close()


async def scan(path: Path) -> int:
    """Read every record and decode its JSON: the least a rebuild has to do."""
    log = await SqliteLog.open(path)
    decode = msgspec.json.decode
    seen = 0
    async for records in log.read(0):
        for record in records:
            decode(record.body)
        seen += len(records)
    await log.close()
    return seen


async def rebuild(path: Path) -> int:
    """Make new views from the log."""
    log = await SqliteLog.open(path)
    views_path = path.with_name("views.db")
    await SqliteViews.create(views_path)
    views = await SqliteViews.open(views_path, writable=True)
    position = await Projector(log, views, now=lambda: START).catch_up()
    await views.close()
    await log.close()
    return position


def measured(what: str, path: Path) -> None:
    """Run one of the two here and print what it took."""
    started = time.perf_counter()
    seen = asyncio.run(scan(path) if what == "scan" else rebuild(path))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what} {seen} {seconds:.2f} {peak:.0f}")


def main() -> None:
    """Fill, then measure both in processes of their own, and print a table."""
    if len(sys.argv) > 2:  # noqa: PLR2004 - called by itself
        measured(sys.argv[1], Path(sys.argv[2]))
        return
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.db"
        asyncio.run(fill(path, events))
        print(f"log: {events} events, {path.stat().st_size / 1e6:.0f} MB")
        speeds: dict[str, float] = {}
        for what in ("scan", "rebuild"):
            done = subprocess.run(  # noqa: S603 - ourselves
                [sys.executable, __file__, what, str(path)], capture_output=True, text=True, check=True
            )
            _, seen, seconds, peak = done.stdout.split()
            speeds[what] = int(seen) / float(seconds)
            print(
                f"{what:8} {int(seen):>9} events {float(seconds):8.1f} s {speeds[what]:>9.0f} events/s  peak {peak} MB"
            )
        print(f"rebuild / scan: {speeds['rebuild'] / speeds['scan']:.3f}")
        print(f"views: {path.with_name('views.db').stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
