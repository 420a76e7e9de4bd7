"""What live views cost an event: `python bench/live.py [--sessions 4000] [--hour 0] [--held 0,100000] [--batches 16,100]`.

A day of `bench/day.py` is written into a log as it would have come. Views of the first records (`--held`, so many) are built
as a rebuild does, and the 10,000 that follow are projected as a server does, a batch at a time: so many records wait whenever
it looks. Prints the processor time an event by batch and size of the views: of the event loop's thread, and of the others
(SQLite, nearly all of it the views'); and what is written to the disk.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from day import day
from traffic import START, source_of

from tracker.projector import gc_tuning
from tracker.log.sqlite.log import SqliteLog
from tracker.projector.projector import REBUILD_BATCH_RECORDS, REBUILD_DEFERRED_SESSIONS, Projector
from tracker.views.sqlite.views import SqliteViews

MEASURED = 10_000
VENDORS = ("openvidu", "openvidu_meet", "livekit", "plugnmeet", "streamrec")


async def fill(path: Path, sessions: int, hour: int, records: int) -> None:
    """The first records of a day of so many sessions from that hour on, or all of them."""
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


async def build(log_path: Path, path: Path, until: int) -> None:
    """Views of the records up to there."""
    log = await SqliteLog.open(log_path)
    views = await SqliteViews.build(path)
    with gc_tuning.collect_rarely(gc_tuning.REBUILDING):
        await Projector(
            log, views, now=lambda: START, batch_size=REBUILD_BATCH_RECORDS, deferred_sessions=REBUILD_DEFERRED_SESSIONS
        ).catch_up(until=until)
    await views.finish()
    await log.close()


def written() -> int:
    """Bytes this process has written to files so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


async def follow(log_path: Path, path: Path, batch: int, measured: int) -> tuple[float, float, float]:
    """An event: µs of the event loop's thread and of the others, and KB written; of `measured` records that follow the views."""
    log = await SqliteLog.open(log_path)
    views = await SqliteViews.open(path, writable=True)
    projector = Projector(log, views, now=lambda: START)
    begin = await views.projected_position()
    # What was under way is read back once, as after a start; then it is steady.
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


async def measure(sessions: int, hour: int, held: list[int], batches: list[int], measured: int, folder: Path) -> None:
    """Print the table."""
    log_path, views_path, live_path = folder / "log.db", folder / "views.db", folder / "live.db"
    await fill(log_path, sessions, hour, max(held) + 2 * measured)
    print("µs of processor time an event, KB written\n  views MB   batch   event loop   SQLite   both     KB")
    for until in held:
        await build(log_path, views_path, until)
        for batch in batches:
            shutil.copy(views_path, live_path)
            loop, others, kb = await follow(log_path, live_path, batch, measured)
            size = views_path.stat().st_size / 1e6
            print(f"{size:10.0f}{batch:8}{loop:13.0f}{others:9.0f}{loop + others:7.0f}{kb:7.1f}", flush=True)
            live_path.unlink()
        views_path.unlink()


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=20_000, help="a day's, which says how many are open at once")
    parser.add_argument("--hour", type=int, default=0, help="of the day at which the records begin; the busiest is 10")
    parser.add_argument("--measured", type=int, default=MEASURED, help="records projected each time")
    parser.add_argument("--held", default="20000,100000", help="records in the views before")
    parser.add_argument("--batches", default="16,100")
    given = parser.parse_args()
    held, batches = ([int(each) for each in text.split(",")] for text in (given.held, given.batches))
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(given.sessions, given.hour, held, batches, given.measured, Path(folder)))


if __name__ == "__main__":
    main()
