"""What keeping costs: `python -m bench.keeping [--events 10000] [--turns 2] [--kinds calls,samples] [--vendors livekit,…]`.

For each vendor and kind of traffic (`bench/traffic.py`) it fills three logs in turns: without compression, as it ships, and
encrypted. Prints bytes per event: the raw bodies and their proofs, the log by its parts, the ratio of the whole log to the raw
bodies, the same if all records were compressed ("settled": the first thousand or two records of a source are not; "-" if none
is), and the views. Then processor µs per record for appending (without verifying a sender), reading and `tracker verify`, and
for reading all columns with SQLite alone (a scan). The best turn counts.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import sqlite3
import sys
import tempfile
import time
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bench import report
from bench.report import Row
from bench.traffic import KINDS
from tracker.api.evidence import prove_inclusion
from tracker.config.encryption import MasterKey
from tracker.demo.calls import VENDORS
from tracker.domain.deliveries import Verified
from tracker.evidence.verify_log import verify_log
from tracker.log.keys.key_store import KeyStore
from tracker.log.sqlite import dictionaries
from tracker.log.sqlite.log import SqliteLog
from tracker.projector.projector import REBUILD_BATCH_RECORDS, REBUILD_DEFERRED_SESSIONS, Projector
from tracker.server.sources import shipped_dictionaries
from tracker.views.sqlite.views import SqliteViews

BATCH = 100
PROOFS = 200
HOWS = ("plain", "packed", "encrypted")
PARTS = {
    "records": ("records",), "index": ("records_by_end_of_key", "records_of_tracker"),
    "tree": ("leaves", "encrypted_leaves", "tiles"),
}  # fmt: skip
SIZE = "length(proof) + length(body)"
MEANS = f"SELECT avg({SIZE}), avg({SIZE}) FILTER (WHERE length(proof) = 0) FROM records"
ALL_PARTS = "SELECT name, sum(pgsize) FROM dbstat GROUP BY name"

Found = dict[str, float]


@asynccontextmanager
async def opened(path: Path, *, encrypted: bool) -> AsyncGenerator[SqliteLog]:
    """The log at `path`, created if it is missing; its keys are beside it."""
    keys = None
    if encrypted:
        masters = [MasterKey("bench", bytes(range(32)))]
        if not path.with_suffix(".keys").exists():
            await KeyStore.create(path.with_suffix(".keys"), masters)
        keys = await KeyStore.open(path.with_suffix(".keys"), masters, shipped_dictionaries())
    if not path.exists():
        await SqliteLog.create(path)
    log = await SqliteLog.open(path, key_store=keys)
    try:
        yield log
    finally:
        await log.close()


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """Processor seconds of all threads."""
    started = time.process_time()
    await work()
    return time.process_time() - started


async def costs(path: Path, events: Sequence[Verified], how: str) -> Found:
    """Fill one log, read and verify it; returns processor seconds. The training of a dictionary is a part of appending."""
    dictionaries.SAMPLE = sys.maxsize if how == "plain" else 1_000
    async with opened(path, encrypted=how == "encrypted") as log:

        async def append() -> None:
            for start in range(0, len(events), BATCH):
                await log.append_all(events[start : start + BATCH])

        async def read() -> None:
            async for _ in log.read(0):
                pass

        async def verify() -> None:
            found = await verify_log(log, [])
            assert not found.faults, found.faults

        return {f"{work.__name__} {how}": await timed(work) for work in (append, read, verify)}


def scan(path: Path) -> float:
    """Processor seconds for all columns of every row, with SQLite alone."""
    started = time.process_time()
    connection = sqlite3.connect(path)
    for row in connection.execute("SELECT * FROM records ORDER BY position"):
        len(row[8])
    connection.close()
    return time.process_time() - started


async def proofs(path: Path) -> float:
    """Median milliseconds of an inclusion proof of a random record, by the clock."""
    async with opened(path, encrypted=False) as log:
        head, took = await log.head(), []
        for _ in range(PROOFS):
            started = time.perf_counter()
            await prove_inclusion(log, random.randint(1, head), head)
            took.append((time.perf_counter() - started) * 1000)
    return sorted(took)[PROOFS // 2]


async def views_bytes(path: Path, views_path: Path) -> int:
    """Build the views of a log."""
    async with opened(path, encrypted=False) as log:
        views = await SqliteViews.build(views_path)
        await Projector(
            log, views, batch_size=REBUILD_BATCH_RECORDS, deferred_sessions=REBUILD_DEFERRED_SESSIONS
        ).catch_up()
        await views.finish()
    return views_path.stat().st_size


def sizes(path: Path) -> Found:
    """Bytes of a log by its parts, and bytes an event that are not saved yet because records are not compressed."""
    connection = sqlite3.connect(path)
    pages = dict(connection.execute(ALL_PARTS))
    ((mean, packed),) = connection.execute(MEANS)
    connection.close()
    found: Found = {"log": sum(pages.values())}
    found |= {part: sum(pages.pop(name, 0) for name in names) for part, names in PARTS.items()}
    return found | {"other": sum(pages.values())} | ({} if packed is None else {"unpacked": mean - packed})


async def measure(vendor: str, kind: str, count: int, turns: int, folder: Path) -> Found:
    """µs and bytes per event of one vendor and kind of traffic."""
    events = list(itertools.islice(KINDS[kind](vendor), count))
    best: Found = {}
    for turn in range(turns):
        for how in HOWS:
            path = folder / f"{how}-{turn}.db"
            taken = await costs(path, events, how)
            if how == "packed":
                taken["scan"] = scan(path)
            for what, seconds in taken.items():
                best[what] = min(best.get(what, seconds), seconds)
    found = {what: seconds / count * 1e6 for what, seconds in best.items()}
    for how in HOWS:
        found |= {
            f"{part} {how}": size / (1 if part == "unpacked" else count)
            for part, size in sizes(folder / f"{how}-0.db").items()
        }
    found["body"] = sum(len(event.body) for event in events) / count
    found["proof"] = sum(len(event.proof) for event in events) / count
    found["views"] = await views_bytes(folder / "packed-0.db", folder / "views.db") / count
    found["proof of inclusion"] = await proofs(folder / "packed-0.db")
    return found


COLUMNS = (
    "body", "proof", "log plain", "log packed", "records packed", "index packed", "tree packed", "other packed", "log encrypted",
    "views",
)  # fmt: skip


def print_row(what: str, found: Found) -> None:
    """Print the figures of one vendor and kind."""
    settled = found["log packed"] - found["unpacked packed"] if "unpacked packed" in found else None
    line = f"{what:22}" + "".join(f"{found[name]:10.0f}" for name in COLUMNS)
    line += f"{found['log packed'] / found['body']:8.2f}" + (
        f"{'-':>9}{'-':>8}" if settled is None else f"{settled:9.0f}{settled / found['body']:8.2f}"
    )
    for cost in ("append", "read", "verify"):
        line += "   " + " → ".join(f"{found[f'{cost} {how}']:5.1f}" for how in HOWS)
    print(f"{line}{found['scan']:8.1f}", flush=True)


def headlines(every: Sequence[Found]) -> list[Row]:
    """The sums over all vendors."""

    def mean(what: str) -> float:
        return sum(found[what] for found in every) / len(every)

    def compared(label: str, what: str, with_what: str, of: str) -> Row:
        return Row("keeping", label, mean(what), "µs", mean(what) / mean(with_what), of)

    body = mean("body")
    return [
        Row("keeping", "log, an event", mean("log packed"), "bytes", mean("log packed") / body, "the raw body"),
        Row(
            "keeping",
            "log, encrypted, an event",
            mean("log encrypted"),
            "bytes",
            mean("log encrypted") / body,
            "the raw body",
        ),
        Row("keeping", "views, an event", mean("views"), "bytes", mean("views") / body, "the raw body"),
        compared("append, compressed", "append packed", "append plain", "uncompressed"),
        compared("append, encrypted", "append encrypted", "append plain", "uncompressed"),
        compared("read", "read packed", "read plain", "uncompressed"),
        compared("`tracker verify`", "verify packed", "scan", "SQLite's scan"),
        Row("keeping", "proof of inclusion, p50", mean("proof of inclusion"), "ms"),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables."""
    warnings.simplefilter("ignore")
    parser = report.parser(__doc__)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--vendors", default=",".join(VENDORS))
    options = parser.parse_args(argv)
    if options.smoke:
        options.events, options.turns, options.kinds, options.vendors = 50, 1, "calls", "livekit"
    print(f"bytes per event, {options.events} events each; µs of processor time: plain → compressed → encrypted")
    print(f"{'':22}" + "".join(f"{name.removesuffix(' packed').replace('encrypted', 'encr.'):>10}" for name in COLUMNS)
          + f"{'/ body':>8}{'settled':>9}{'/ body':>8}" + "".join(f"{name:>24}" for name in ("append", "read", "verify"))
          + f"{'scan':>8}")  # fmt: skip
    gc.freeze()
    every: list[Found] = []
    for kind, vendor in itertools.product(options.kinds.split(","), options.vendors.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            every.append(asyncio.run(measure(vendor, kind, options.events, options.turns, Path(folder))))
        print_row(f"{kind:8} {vendor}", every[-1])
    report.write(headlines(every), options)
    return 0


if __name__ == "__main__":
    report.run(main)
