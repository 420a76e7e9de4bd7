"""Verification of a large log, compared with a plain scan of its file: `python bench/verify.py [records]`.

Prints records per second of both and their ratio (each runs in a separate process), and how long inclusion proofs take.
The scan reads every row of the table in order and touches its bytes, mostly in C: the minimum for any verification.
Seconds are processor time, so other programs on the machine do not matter.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tracker.api.evidence import prove_inclusion
from tracker.domain.deliveries import Verified
from tracker.demo.calls import whole_call
from tracker.log.merkle.checkpoint import checkpoint_text
from tracker.log.merkle.note import Signer, sign_note
from tracker.log.sqlite.log import SqliteLog
from tracker.evidence.verify_log import verify_log

START = 1_700_000_000_000_000
SIGNER = Signer("bench.local/log", bytes(32))
EVERY = 10_000
PROOFS = 500


async def fill(path: Path, records: int) -> None:
    """Write a log of real bodies with made-up dedupe keys, and a checkpoint every 10,000 records."""
    bodies = [sent.body for vendor in ("livekit", "openvidu", "plugnmeet") for sent in whole_call(vendor, START)]
    await SqliteLog.create(path)
    log = await SqliteLog.open(path)
    for first in range(0, records, EVERY):
        batch = [
            Verified(
                source="lk", vendor="livekit", event="participant_joined", dedupe_key=f"participant_joined:EV_{n:012}",
                received_at=START + n, origin="webhook", proof=b'{"scheme":"jwt","iss":"APIdevFixture01"}',
                body=bodies[n % len(bodies)],
            )
            for n in range(first, min(records, first + EVERY))
        ]  # fmt: skip
        for start in range(0, len(batch), 2_000):
            await log.append_all(batch[start : start + 2_000])
        size, root = await log.tree_head()
        await log.store_checkpoint(size, sign_note(checkpoint_text(SIGNER.name, size, root), [SIGNER]))
    await log.close()


def scan(path: Path) -> int:
    """Read all columns of every row."""
    seen = 0
    connection = sqlite3.connect(path)
    for row in connection.execute("SELECT * FROM records ORDER BY position"):
        seen += 1
        len(row[8])
    connection.close()
    return seen


async def verify(path: Path) -> int:
    """Verify the log as `tracker verify` does."""
    log = await SqliteLog.open(path)
    found = await verify_log(log, [SIGNER.verifier])
    await log.close()
    assert not found.faults, found.faults
    assert found.checkpoints == (found.records + EVERY - 1) // EVERY
    return found.records


async def prove(path: Path) -> int:
    """Make inclusion proofs of random records as the API does; prints the 50th and 99th percentile in ms."""
    log = await SqliteLog.open(path)
    head = await log.head()
    taken = []
    for _ in range(PROOFS):
        position = random.randint(1, head)
        started = time.perf_counter()
        await prove_inclusion(log, position, None)
        taken.append((time.perf_counter() - started) * 1000)
    await log.close()
    taken.sort()
    print(f"inclusion proof: p50 {taken[PROOFS // 2]:.2f} ms, p99 {taken[PROOFS * 99 // 100]:.2f} ms", file=sys.stderr)
    return PROOFS


def measured(what: str, path: Path) -> None:
    """Run one of them here and print its cost."""
    started = time.process_time()
    seen = scan(path) if what == "scan" else asyncio.run(verify(path) if what == "verify" else prove(path))
    print(f"{seen} {time.process_time() - started:.3f}")


def main() -> None:
    """Write the log, measure in separate processes, print a table."""
    if len(sys.argv) > 2:  # called by itself
        measured(sys.argv[1], Path(sys.argv[2]))
        return
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.db"
        asyncio.run(fill(path, records))
        print(f"log: {records} records, {path.stat().st_size / 1e6:.0f} MB")
        speeds: dict[str, float] = {}
        for what in ("scan", "verify", "scan", "verify", "prove"):
            done = subprocess.run(
                [sys.executable, __file__, what, str(path)], stdout=subprocess.PIPE, text=True, check=True
            )
            seen, seconds = done.stdout.split()
            speeds[what] = max(int(seen) / float(seconds), speeds.get(what, 0.0))
            print(f"{what:8} {int(seen):>9} {float(seconds):8.2f} s {int(seen) / float(seconds):>9.0f}/s")
        print(f"verify / scan: {speeds['verify'] / speeds['scan']:.3f}")


if __name__ == "__main__":
    main()
