"""Rebuild large logs, compared with a plain scan: `python -m bench.rebuild [events ...] [--log FILE] [--modes …]`.

    scan            reads the log and decodes its JSON with msgspec: the minimum for a rebuild
    rebuild in 1    `tracker rebuild --jobs 1`: in one process
    rebuild in 2    in two processes: the second one builds the views of the second half of the log at the same time
    rebuild in 4    in four
    eventsourcing   reads the same bodies as events from the SQLite recorder of the eventsourcing library, and decodes
                    them; it folds and saves nothing

Each mode runs in a process of its own. A hundred calls of the five vendors are open at any time. Prints events per second;
the CPU time per event of all processes, also relative to the scan, and of the process that merges; and the largest memory of
all processes at one moment (PSS: what several share is counted once). CPU time is the steadier figure on a busy machine.
The views that several processes made are compared with those of one, row by row; a difference ends the program with exit
code 1. Default size: 100,000 events. The mode `eventsourcing` needs `pip install '.[bench]'`; without it, it is left out.
`--log`: an existing log, of a server or a benchmark. Its own views are not touched.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import importlib.util
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid5

import msgspec

from bench import report
from bench.report import Row
from tests.support.logs import opened
from tracker.config.declarations import shipped_declaration
from tracker.demo.calls import DECLARATIONS, VENDORS, settings, whole_call
from tracker.log.declaration_records import make_declaration_record
from tracker.log.sqlite.log import SqliteLog
from tracker.projector.projector import compare_views
from tracker.projector.rebuild import RebuildContext, build_views
from tracker.server import stores
from tracker.sources import registry

START = 1_700_000_000_000_000
SECRET = "bench-secret-of-at-least-32-bytes!!"  # noqa: S105 - signs nothing real
HOUR = 3_600_000_000
CALLS_AT_ONCE = 20
"""Open calls of each vendor at any time."""
SECTION = 1_000
"""Events that the eventsourcing library reads at once."""
REBUILDS = {"rebuild in 1": 1, "rebuild in 2": 2, "rebuild in 4": 4}
MEMORY_SECONDS = 0.5
"""Between two looks at the memory of all processes."""
ROOMS = UUID("5e6f0f5e-3f0e-4b0f-9d55-6a1f7a2f3f10")


async def fill(path: Path, events: int) -> None:
    """Write a log of `events` records: whole calls of the five vendors, a hundred at a time, merged by time."""
    sources = {
        vendor: registry.build(settings(vendor, SECRET, name=vendor))
        for vendor in VENDORS
    }  # fmt: skip
    await SqliteLog.create(path)
    log = await SqliteLog.open(path)
    for vendor, name in DECLARATIONS.items():
        await log.append(make_declaration_record(vendor, shipped_declaration(name), 0, 0))
    written = 0
    hour = 0
    while written < events:
        sent = [
            (one.at, vendor, one.body)
            for call in range(hour * CALLS_AT_ONCE, (hour + 1) * CALLS_AT_ONCE)
            for vendor in VENDORS
            for one in whole_call(vendor, START + hour * HOUR + call % CALLS_AT_ONCE * 1_000_000, seed=call)
        ]
        sent = sorted(sent)[: events - written]
        proof: dict[str, str | int] = {"scheme": "import"}
        await log.append_all(
            [sources[vendor].verify_trusted(body, received_at=at, proof=proof) for at, vendor, body in sent]
        )
        written += len(sent)
        hour += 1
    await log.close()


def decode(body: bytes | str) -> None:
    """Decode the JSON of a body; the bodies of one vendor are forms."""
    with contextlib.suppress(msgspec.DecodeError):
        msgspec.json.decode(body)


async def scan(path: Path) -> int:
    """Read every record and decode its JSON."""
    seen = 0
    async with opened(path) as log:  # a log that stays open after an error keeps the process alive
        async for records in log.read(0):
            for record in records:
                decode(record.body)
            seen += len(records)
    return seen


def context_of(path: Path) -> RebuildContext:
    """How both processes of a rebuild open their stores."""
    return RebuildContext(functools.partial(opened, path), stores.new_views, {})


def views_path_of(path: Path, jobs: int) -> Path:
    """The path of the views that a rebuild in `jobs` processes makes, different from a server's."""
    return path.with_name(f"{path.stem}-rebuilt-in-{jobs}.db")


async def rebuild(path: Path, *, jobs: int) -> int:
    """Rebuild the views as `tracker rebuild --jobs` does."""
    views_path = views_path_of(path, jobs)
    views_path.unlink(missing_ok=True)
    async with opened(path) as log:
        return await build_views(log, views_path, context_of(path), jobs=jobs)


@functools.cache
def event_class() -> type:
    """An event class of the eventsourcing library with a body. Created once: the library refuses a second class of that name."""
    from eventsourcing.domain import Aggregate  # noqa: PLC0415 - only this mode needs it

    class Received(Aggregate.Event):
        """A delivery."""

        body: str

    globals()["Received"] = Received
    Received.__qualname__ = "Received"
    return Received


@contextlib.contextmanager
def eventsourcing_application(path: Path) -> Generator[Any]:
    """An application of the eventsourcing library on its SQLite recorder, beside the log; closed at the end."""
    from eventsourcing.application import Application  # noqa: PLC0415 - only this mode needs it

    event_class()
    application = Application({"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": f"{path}.events"})
    try:
        yield application
    finally:
        application.close()


async def copy_events(path: Path) -> int:
    """Append the bodies of the log to the library's recorder, one aggregate for each source."""
    received = event_class()
    versions: dict[str, int] = {}
    with eventsourcing_application(path) as application:
        async with opened(path) as log:
            async for records in log.read(0):
                stored = []
                for record in records:
                    version = versions[record.source] = versions.get(record.source, 0) + 1
                    event = received(
                        originator_id=uuid5(ROOMS, record.source), originator_version=version,
                        timestamp=received.create_timestamp(), body=record.body.decode(),
                    )  # fmt: skip
                    stored.append(application.mapper.to_stored_event(event))
                application.recorder.insert_events(stored)
    return sum(versions.values())


def replay(path: Path) -> int:
    """Read every event back through the library, and decode its body."""
    seen = 0
    with eventsourcing_application(path) as application:
        while section := application.recorder.select_notifications(seen + 1, SECTION):
            for notification in section:
                decode(application.mapper.to_domain_event(notification).body)
            seen += len(section)
    return seen


def rebuild_in(jobs: int, path: Path) -> int:
    """Rebuild in `jobs` processes."""
    return asyncio.run(rebuild(path, jobs=jobs))


MODES: dict[str, Callable[[Path], int]] = {
    "scan": lambda path: asyncio.run(scan(path)),
    **{name: functools.partial(rebuild_in, jobs) for name, jobs in REBUILDS.items()},
    "eventsourcing": replay,
}


def measure(mode: str, path: Path) -> None:
    """Run one mode here; print events, seconds, CPU seconds of this process and of the processes it started."""
    started, cpu = time.perf_counter(), time.process_time()
    seen = MODES[mode](path)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{seen} {seconds:.2f} {cpu:.2f} {others.ru_utime + others.ru_stime:.2f}")


def memory_of(pid: int) -> int:
    """The proportional memory (PSS, bytes) of a process and of those that it started, now."""
    total = 0
    with contextlib.suppress(OSError):  # it has ended
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(memory_of(int(child)) for child in (task / "children").read_text("ascii").split())
    return total


def measured(mode: str, path: Path) -> Took:
    """Run one mode in a process of its own, and look at the memory of all its processes meanwhile."""
    peak = 0
    command = [sys.executable, "-m", "bench.rebuild", "--measure", mode, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:  # noqa: S603 - this program
        while running.poll() is None:
            peak = max(peak, memory_of(running.pid))
            time.sleep(MEMORY_SECONDS)
        out = running.communicate()[0]
    if running.returncode != 0:
        raise SystemExit(f"{mode} ended with exit code {running.returncode}")
    seen, seconds, cpu, others = (float(each) for each in out.split())
    return Took(seconds, seen / seconds, cpu / seen * 1e6, (cpu + others) / seen * 1e6, peak / 1e6)


def make_log(events: int, folder: Path) -> Path:
    """Write a log of that many events."""
    path = folder / f"{events}.db"
    asyncio.run(fill(path, events))
    return path


async def head_of(path: Path) -> int:
    """How many events the log has."""
    async with opened(path) as log:
        return await log.head()


def compare(path: Path, modes: list[str]) -> list[Row]:
    """Measure each mode in a process of its own, print a table, return the headline figures. All are relative to the scan."""
    events = asyncio.run(head_of(path))
    if "eventsourcing" in modes and importlib.util.find_spec("eventsourcing") is None:
        print("eventsourcing is left out: it is not installed (pip install '.[bench]')", file=sys.stderr)
        modes = [each for each in modes if each != "eventsourcing"]
    if "eventsourcing" in modes:
        asyncio.run(copy_events(path))
    log_bytes = path.stat().st_size
    print(f"\n{events} events · log {log_bytes / 1e6:.0f} MB, {log_bytes / events:.0f} bytes per event")
    print(
        f"{'':16}{'seconds':>9}{'events/s':>10}{'of the scan':>13}{'CPU µs/event':>14}{'of the scan':>13}{'merging µs':>12}{'peak MB':>9}",
        flush=True,
    )
    found: dict[str, Took] = {}
    for mode in ["scan", *(each for each in modes if each != "scan")]:
        took = found[mode] = measured(mode, path)
        scan = found["scan"]
        print(
            f"{mode:16}{took.seconds:9.1f}{took.speed:10.0f}{took.speed / scan.speed:13.3f}{took.cost:14.1f}"
            f"{scan.cost / took.cost:13.3f}{took.own:12.1f}{took.peak:9.0f}",
            flush=True,
        )
    made = [views_path_of(path, jobs) for mode, jobs in REBUILDS.items() if mode in found]
    if made:
        views = made[0].stat().st_size
        print(f"views {views / 1e6:.0f} MB, {views / events:.0f} bytes per event, {views / log_bytes:.2f} of the log")
    for other in made[1:]:
        differences = asyncio.run(differences_of(made[0], other))
        if differences:
            raise SystemExit("\n".join([f"{other.name} differs from {made[0].name}:", *differences]))
        print(f"{other.name} equals {made[0].name}", flush=True)
    for each in made:
        each.unlink()
    scan, one = found["scan"], found.get("rebuild in 1")
    rows = [
        Row("rebuild", f"{mode}, {events:,} events", took.cost, "µs", scan.cost / took.cost, "a scan's speed")
        for mode, took in found.items() if mode != "scan"
    ]  # fmt: skip
    if one is not None:
        rows += [
            Row(
                "rebuild", f"in {jobs} processes, {events:,} events", found[mode].speed, "/s",
                found[mode].speed / one.speed, "one process",
            )
            for mode, jobs in REBUILDS.items() if jobs > 1 and mode in found
        ]  # fmt: skip
    return rows


async def differences_of(one: Path, other: Path) -> list[str]:
    """The first rows in which two views of the same log differ."""
    async with stores.views_at(one, writable=False) as left, stores.views_at(other, writable=False) as right:
        return await compare_views(left, right)


class Took(NamedTuple):
    """Seconds; events per second by the clock; CPU time per event in µs, of the merging process and of all; MB at once."""

    seconds: float
    speed: float
    own: float
    cost: float
    peak: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the log or the sizes named on the command line."""
    parser = report.parser(__doc__)
    parser.add_argument("events", type=int, nargs="*", default=[100_000])
    parser.add_argument("--log", type=Path)
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)  # called by itself
    options = parser.parse_args(argv)
    if options.measure:
        measure(options.measure[0], Path(options.measure[1]))
        return 0
    if options.smoke:
        options.events = [300, 400]
    rows: list[Row] = []
    if options.log is not None:
        rows += compare(options.log, options.modes)
    for events in options.events if options.log is None else ():
        with tempfile.TemporaryDirectory() as folder:
            rows += compare(make_log(events, Path(folder)), options.modes)
    report.write(rows, options)
    return 0


if __name__ == "__main__":
    report.run(main)
