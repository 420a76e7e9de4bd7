"""What storage costs: `python bench/compression.py [--events 50000] [--kinds calls,samples] [--vendors livekit,…]`.

For each vendor and kind of traffic (`traffic.py`) it fills one log with and one without compression, and builds views.
Prints bytes per event: the raw bodies and their proofs, the log by its parts, the ratio of the whole log to the raw bodies,
the same if all records were compressed ("settled": the first thousand or two records of a source are not), and the views.
Then what compression costs and saves: processor µs per record for appending (without verifying), reading and rebuilding.
Both logs are measured in turns in one run; the best of each counts.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import sqlite3
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from traffic import KINDS

from tracker.demo.calls import VENDORS
from tracker.domain.deliveries import Verified
from tracker.log.sqlite import dictionaries
from tracker.log.sqlite.log import SqliteLog
from tracker.projector.projector import REBUILD_BATCH_RECORDS, REBUILD_DEFERRED_SESSIONS, Projector
from tracker.views.sqlite.views import SqliteViews

BATCH = 100
PARTS = {
    "records": ("records",), "index": ("records_by_end_of_key", "records_of_tracker"),
    "tree": ("leaves", "encrypted_leaves", "tiles"),
}  # fmt: skip
SIZE = "length(proof) + length(body)"
MEANS = f"SELECT avg({SIZE}), avg({SIZE}) FILTER (WHERE length(proof) = 0) FROM records"
ALL_PARTS = "SELECT name, sum(pgsize) FROM dbstat GROUP BY name"


async def fill(path: Path, events: Sequence[Verified], *, packs: bool) -> float:
    """Append them in batches of a hundred; returns processor seconds, training included."""
    dictionaries.SAMPLE = 1_000 if packs else sys.maxsize
    await SqliteLog.create(path)
    log = await SqliteLog.open(path)
    started = time.process_time()
    for start in range(0, len(events), BATCH):
        await log.append_all(events[start : start + BATCH])
    used = time.process_time() - started
    await log.close()
    return used


async def read(path: Path) -> float:
    """Read the log once; returns processor seconds."""
    log = await SqliteLog.open(path)
    started = time.process_time()
    async for _ in log.read(0):
        pass
    used = time.process_time() - started
    await log.close()
    return used


async def rebuild(path: Path, views_path: Path) -> float:
    """Build its views; returns processor seconds."""
    views_path.unlink(missing_ok=True)
    log = await SqliteLog.open(path)
    views = await SqliteViews.build(views_path)
    started = time.process_time()
    await Projector(
        log, views, now=lambda: 0, batch_size=REBUILD_BATCH_RECORDS, deferred_sessions=REBUILD_DEFERRED_SESSIONS
    ).catch_up()
    await views.finish()
    used = time.process_time() - started
    await log.close()
    return used


def parts_of(path: Path) -> dict[str, int]:
    """Part of the file → its bytes."""
    connection = sqlite3.connect(path)
    sizes = dict(connection.execute(ALL_PARTS))
    connection.close()
    found = {part: sum(sizes.pop(name, 0) for name in names) for part, names in PARTS.items()}
    return found | {"other": sum(sizes.values())}


def not_packed_yet(path: Path) -> float:
    """Bytes per event that would be saved if all records were compressed as well as the compressed ones."""
    connection = sqlite3.connect(path)
    ((mean, packed),) = connection.execute(MEANS)
    connection.close()
    return mean - packed


def measure(vendor: str, kind: str, count: int, turns: int, folder: Path) -> dict[str, Any]:
    """Fill, read and rebuild both logs in turns."""
    events = list(itertools.islice(KINDS[kind](vendor), count))
    best: dict[str, float] = {}
    gc.freeze()
    for turn in range(turns):
        for how in ("plain", "packed"):
            path, views = folder / f"{vendor}-{kind}-{how}-{turn}.db", folder / "views.db"
            taken = {"append": asyncio.run(fill(path, events, packs=how == "packed"))}
            taken["read"] = asyncio.run(read(path))
            taken["rebuild"] = asyncio.run(rebuild(path, views))
            for what, seconds in taken.items():
                key = f"{what} {how}"
                best[key] = min(best.get(key, seconds), seconds)
            if turn < turns - 1:
                path.unlink()
    found: dict[str, Any] = {what: seconds / count * 1e6 for what, seconds in best.items()}
    for how in ("plain", "packed"):
        sizes = parts_of(folder / f"{vendor}-{kind}-{how}-{turns - 1}.db")
        found |= {f"{part} {how}": size / count for part, size in sizes.items()}
        found[f"log {how}"] = sum(sizes.values()) / count
    found["settled"] = found["log packed"] - not_packed_yet(folder / f"{vendor}-{kind}-packed-{turns - 1}.db")
    found["body"] = sum(len(event.body) for event in events) / count
    found["proof"] = sum(len(event.proof) for event in events) / count
    found["views"] = (folder / "views.db").stat().st_size / count
    return found


def main() -> None:
    """Print the tables."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--vendors", default=",".join(VENDORS))
    options = parser.parse_args()
    sizes = (
        "body",
        "proof",
        "log plain",
        "log packed",
        "records packed",
        "index packed",
        "tree packed",
        "other packed",
    )
    costs = ("append", "read", "rebuild")
    print(f"bytes per event, {options.events} events each")
    print(f"{'':22}" + "".join(f"{name.removesuffix(' packed'):>10}" for name in sizes) + f"{'/ body':>8}{'settled':>9}{'/ body':>8}{'views':>8}"
          + "".join(f"{name + ' µs':>22}" for name in costs))  # fmt: skip
    for kind, vendor in itertools.product(options.kinds.split(","), options.vendors.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            found = measure(vendor, kind, options.events, options.turns, Path(folder))
        line = f"{kind:8} {vendor:13}" + "".join(f"{found[name]:10.0f}" for name in sizes)
        line += f"{found['log packed'] / found['body']:8.2f}{found['settled']:9.0f}"
        line += f"{found['settled'] / found['body']:8.2f}{found['views']:8.0f}"
        for cost in costs:
            before, after = found[f"{cost} plain"], found[f"{cost} packed"]
            line += f"{before:8.1f} →{after:6.1f} ({after / before:4.2f})"
        print(line, flush=True)


if __name__ == "__main__":
    main()
