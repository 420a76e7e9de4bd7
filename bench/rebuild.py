"""Rebuild large logs, beside a plain scan-and-decode of the same files: `python bench/rebuild.py [events ...]`.

Prints events per second, the ratio to the scan, CPU time and peak memory of each (each runs in a process of its own), and
the size of the views. "alone" is a rebuild in one process, on one core; "rebuild" is what `tracker rebuild` does. CPU time is
the steadier figure on a machine that others use too; the peak is that of the process itself, its helper needs some 60 MB more.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from tracker.demo_calls import ISSUERS, VENDORS, whole_call
from tracker.interpreting import Interpreter, rare_collections
from tracker.log.sqlite import SqliteLog
from tracker.projector import REBUILD_BATCH, REBUILD_HOLD, Projector
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
    """Make new views from the log, as `tracker rebuild` does: with a second process where there is a second core."""
    log = await SqliteLog.open(path)
    views_path = path.with_name("views.db")
    views_path.unlink(missing_ok=True)
    views = await SqliteViews.build(views_path)
    with rare_collections(), Interpreter() if "alone" not in sys.argv else contextlib.nullcontext() as ahead:
        projector = Projector(log, views, now=lambda: START, batch=REBUILD_BATCH, hold=REBUILD_HOLD, ahead=ahead)
        position = await projector.catch_up()
    await views.finish()
    await log.close()
    return position


def measured(what: str, path: Path) -> None:
    """Run one of them here and print what it took."""
    started, cpu = time.perf_counter(), time.process_time()
    seen = asyncio.run(scan(path) if what == "scan" else rebuild(path))
    seconds = time.perf_counter() - started
    cpu = time.process_time() - cpu
    usage, helped = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{seen} {seconds:.2f} {cpu:.2f} {helped.ru_utime + helped.ru_stime:.2f} {usage.ru_maxrss / 1024:.0f}")


def compare(events: int, folder: Path) -> None:
    """Fill a log, measure each way in a process of its own, and print a table."""
    path = folder / f"{events}.db"
    asyncio.run(fill(path, events))
    log_bytes = path.stat().st_size
    print(f"\n{events} events · log {log_bytes / 1e6:.0f} MB, {log_bytes / events:.0f} bytes an event")
    print(
        f"{'':16}{'seconds':>9}{'events/s':>10}{'of the scan':>13}{'CPU µs/event':>14}{'helper µs':>11}{'peak MB':>9}"
    )
    scanned = 0.0
    for name, arguments in (("scan", ["scan"]), ("rebuild, alone", ["alone"]), ("rebuild", ["rebuild"])):
        done = subprocess.run(  # noqa: S603 - ourselves
            [sys.executable, __file__, *arguments, str(path)], capture_output=True, text=True, check=True
        )
        seen, seconds, cpu, helped, peak = done.stdout.split()
        speed = int(seen) / float(seconds)
        scanned = scanned or speed
        print(
            f"{name:16}{float(seconds):9.1f}{speed:10.0f}{speed / scanned:13.3f}{float(cpu) / events * 1e6:14.1f}"
            f"{float(helped) / events * 1e6:11.1f}{peak:>9}"
        )
    views = path.with_name("views.db").stat().st_size
    print(f"views {views / 1e6:.0f} MB, {views / events:.0f} bytes an event, {views / log_bytes:.2f} of the log")
    path.unlink()


def main() -> None:
    """Measure logs of the sizes given, or of 100,000 and 1,000,000 events."""
    if len(sys.argv) == 3 and sys.argv[1] in {"scan", "alone", "rebuild"}:  # noqa: PLR2004 - called by itself
        measured(sys.argv[1], Path(sys.argv[2]))
        return
    for events in [int(argument) for argument in sys.argv[1:]] or [100_000, 1_000_000]:
        with tempfile.TemporaryDirectory() as folder:
            compare(events, Path(folder))


if __name__ == "__main__":
    main()
