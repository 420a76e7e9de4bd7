"""What the Merkle tree and encryption cost: `python bench/encryption.py [records]`. 64 callers append at once.

Prints microseconds and records per second for a log in clear text, an encrypted log, and a log without a tree.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

from tracker.domain.deliveries import Verified
from tracker.log.merkle.leaf import record_leaf_hash
from tracker.log.merkle.tree import Frontier
from tracker.log.sqlite import log as engine
from tracker.log.sqlite.log import SqliteLog
from tracker.config.encryption import MasterKey
from tracker.log.keys.key_store import KeyStore
from tracker.server.sources import shipped_dictionaries

CALLERS = 64
BODY, PROOF = os.urandom(300).hex().encode(), os.urandom(200).hex().encode()


def delivery(n: int) -> Verified:
    """A 600-byte webhook with a 400-byte proof."""
    return Verified(
        source="lk", vendor="livekit", event="participant_joined", dedupe_key=f"participant_joined:EV_{n}",
        received_at=1_700_000_000_000_000 + n, origin="webhook", proof=PROOF, body=BODY,
    )  # fmt: skip


async def appended(log: SqliteLog, records: int) -> float:
    """Seconds for `records` appends by 64 callers."""
    numbers = iter(range(records))

    async def caller() -> None:
        for n in numbers:
            await log.append(delivery(n))

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return time.perf_counter() - started


async def measured(folder: Path, records: int, *, sealed: bool, tree: bool = True) -> float:
    """Fill one log and delete it."""
    folder.mkdir()
    await SqliteLog.create(folder / "log.db")
    vault = None
    if sealed:
        master = MasterKey("bench", os.urandom(32))
        await KeyStore.create(folder / "keys.db", [master])
        vault = await KeyStore.open(folder / "keys.db", [master], shipped_dictionaries())
    original = engine.appended_tiles
    if not tree:
        # The same log without leaves.
        engine.appended_tiles = lambda frontier, rows, _: (_moved(frontier, rows), [])
    log = await SqliteLog.open(folder / "log.db", key_store=vault)
    try:
        return await appended(log, records)
    finally:
        await log.close()
        engine.appended_tiles = original


def _moved(frontier: Frontier, rows: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    frontier.size += len(rows)
    return []


def leaf_cost(records: int) -> float:
    """Microseconds for leaf and frontier of one record, in memory."""
    frontier = Frontier()
    started = time.perf_counter()
    for n in range(records):
        frontier.append(
            record_leaf_hash(n, "lk", "livekit", "participant_joined", f"p:EV_{n}", n, "webhook", PROOF, BODY)
        )
    return (time.perf_counter() - started) / records * 1e6


def main() -> None:
    """Print the best of three rounds."""
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    best = {"without tree": 1e9, "with tree": 1e9, "with tree, sealed": 1e9}
    with tempfile.TemporaryDirectory() as folder:
        for n in range(3):
            for name, sealed, tree in (
                ("without tree", False, False), ("with tree", False, True), ("with tree, sealed", True, True),
            ):  # fmt: skip
                seconds = asyncio.run(measured(Path(folder) / f"{n}-{name}", records, sealed=sealed, tree=tree))
                best[name] = min(best[name], seconds)
    print(f"SQLite {sqlite3.sqlite_version}, {records} records, {CALLERS} callers")
    for name, seconds in best.items():
        print(f"{name:20} {seconds / records * 1e6:7.1f} us per record {records / seconds:9.0f} records/s")
    print(f"leaf and frontier alone: {leaf_cost(records):.1f} us per record")
    print(f"sealed with tree / without: {best['without tree'] / best['with tree, sealed']:.2f}")


if __name__ == "__main__":
    main()
