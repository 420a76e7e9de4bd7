"""What live projection costs per event: `python -m bench.live [--sessions 20000] [--held 20000,100000] [--batches 16,100]`.

Writes a day of `bench/day.py` into a log. Builds views of the first `--held` records like a rebuild, then projects the next
10,000 records like a server, in batches of `--batches` records. Prints processor time per event by batch size and size of
the views, for the event loop's thread and for the other threads (mostly SQLite for the views), and bytes written to disk.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench import report
from bench.day import day
from bench.traffic import START, source_of

from tracker.projector import gc_tuning
from tracker.log.sqlite.log import SqliteLog
from tracker.projector.projector import REBUILD_BATCH_RECORDS, REBUILD_DEFERRED_SESSIONS, Projector
from tracker.views.sqlite.views import SqliteViews

MEASURED = 10_000
VENDORS = ("openvidu", "openvidu_meet", "livekit", "plugnmeet", "streamrec")


async def fill(path: Path, sessions: int, hour: int, records: int) -> None:
    """Write a log with the first `records` records of a day, or all of them, from `hour` on."""
    sources = {vendor: source_of(vendor) for vendor in VENDORS}
    await SqliteLog.create(path)
    log = await SqliteLog.open(path)
    proof: dict[str, str | int] = {"scheme": "import"}
    outs = day(sessions, START, hour=hour)
    while (head := await log.head()) < records and (some := list(itertools.islice(outs, min(3_000, records - head)))):
        await log.append_all(
            [sources[out.vendor].verify_trusted(out.body, received_at=out.at, proof=proof) for out in some]
        )
    await log.close()


async def build(log_path: Path, path: Path, until: int) -> float:
    """Build views of the records up to position `until`; returns µs of processor time per event."""
    log = await SqliteLog.open(log_path)
    views = await SqliteViews.build(path)
    began = time.process_time()
    with gc_tuning.collect_rarely(gc_tuning.REBUILDING):
        await Projector(
            log, views, batch_size=REBUILD_BATCH_RECORDS, deferred_sessions=REBUILD_DEFERRED_SESSIONS
        ).catch_up(until=until)
    await views.finish()
    cost = (time.process_time() - began) / until * 1e6
    await log.close()
    return cost


def written() -> int:
    """Bytes that this process has written to files."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


async def follow(log_path: Path, path: Path, batch: int, measured: int) -> tuple[float, float, float]:
    """Project `measured` records; returns per event: µs of the event loop's thread, µs of the others, KB written."""
    log = await SqliteLog.open(log_path)
    views = await SqliteViews.open(path, writable=True)
    projector = Projector(log, views)
    begin = await views.projected_position()
    # The first pass reads open sessions back, as after a start; after that the cost is steady.
    warm = begin + measured // 5
    for until in range(begin + batch, warm, batch):
        await projector.catch_up(until=until)
    await projector.catch_up(until=warm)
    whole, loop, before = time.process_time(), time.thread_time(), written()
    for until in range(warm + batch, warm + measured + 1, batch):
        await projector.catch_up(until=until)
    loop, whole, after = time.thread_time() - loop, time.process_time() - whole, written()
    events = projector.position - warm
    await views.close()
    await log.close()
    return loop / events * 1e6, (whole - loop) / events * 1e6, (after - before) / events / 1024


async def measure(
    sessions: int, hour: int, sizes: list[int], batches: list[int], measured: int, folder: Path
) -> list[report.Row]:
    """Print the table; returns the headline figures."""
    rows: list[report.Row] = []
    log_path, views_path, live_path = folder / "log.db", folder / "views.db", folder / "live.db"
    await fill(log_path, sessions, hour, max(sizes) + 2 * measured)
    print("µs of processor time per event, KB written\n  views MB   batch   event loop   SQLite   both     KB")
    for until in sizes:
        rebuilt = await build(log_path, views_path, until)
        for batch in batches:
            shutil.copy(views_path, live_path)
            loop, others, kb = await follow(log_path, live_path, batch, measured)
            size = views_path.stat().st_size / 1e6
            print(f"{size:10.0f}{batch:8}{loop:13.0f}{others:9.0f}{loop + others:7.0f}{kb:7.1f}", flush=True)
            what = f"batches of {batch}, views of {until:,} events"
            rows.append(report.Row("live", what, loop + others, "µs", (loop + others) / rebuilt, "a rebuild's"))
            live_path.unlink()
        views_path.unlink()
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = report.parser(__doc__)
    parser.add_argument("--sessions", type=int, default=20_000, help="a day's, which says how many are open at once")
    parser.add_argument("--hour", type=int, default=0, help="of the day at which the records begin; the busiest is 10")
    parser.add_argument("--measured", type=int, default=MEASURED, help="records projected each time")
    parser.add_argument("--held", default="20000,100000", help="records in the views before")
    parser.add_argument("--batches", default="16,100")
    options = parser.parse_args(argv)
    if options.smoke:
        options.held, options.batches, options.measured = "100", "16", 100
    sizes, batches = ([int(each) for each in text.split(",")] for text in (options.held, options.batches))
    with tempfile.TemporaryDirectory() as folder:
        rows = asyncio.run(measure(options.sessions, options.hour, sizes, batches, options.measured, Path(folder)))
    report.write(rows, options)
    return 0


if __name__ == "__main__":
    report.run(main)
