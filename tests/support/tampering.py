"""A log with two checkpoints to tamper with, and access to its file without the protecting triggers.

at = await make(folder)                     # of a single server; with `jetstream`, of a cluster node
with closing(Tampered(at.log.path)) as log: log.run("UPDATE …"); update_leaf(log, 100); rebuild_tiles(log)
assert faults(await verified(at)) == […]    # what `tracker verify` reports
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from tracker.cli.checkpoint import checkpoint
from tracker.cli.init import init
from tracker.cli.verify import verify as verify_log
from tracker.config import load
from tracker.demo.calls import VENDORS
from tracker.server import stores
from tracker.domain.deliveries import Verified
from tracker.log.merkle.hashing import complete_root
from tracker.log.merkle.leaf import record_leaf_hash
from tracker.evidence.verify_log import Progress, Verification

SIZE, FIRST, AFTER = 700, 300, 3
"""Records under the second checkpoint, under the first one, and records under no checkpoint yet."""


def delivery(n: int, *, other: bool = False) -> Verified:
    body = {"event": "room_started", "n": n} | ({"forged": True} if other else {})
    return Verified(
        source="lk", vendor=VENDORS[0], event="room_started", dedupe_key=f"key-{n}", received_at=1_700_000_000_000_000 + n,
        origin="webhook", proof=b'{"iss":"k"}', body=json.dumps(body).encode(),
    )  # fmt: skip


def config_at(folder: Path, *, jetstream: dict[str, object] | None = None, **evidence: object) -> load.Config:
    """The config of a single server, or with `jetstream` of a cluster node."""
    tables: dict[str, dict[str, object]] = {"log": {"path": "log.db"}, "views": {"path": "views.db"},
              "evidence": {"key_file": "key", "file": "checkpoints.txt", "origin": "tracker.test/log"}}  # fmt: skip
    tables["evidence"] |= evidence
    if jetstream is not None:
        tables["log"]["engine"], tables["jetstream"] = "jetstream", jetstream
    return load.read(tables, folder / "config.toml", {})


async def grow(at: load.Config, first: int, last: int, *, forged: Sequence[int] = (), sign: bool = True) -> None:
    async with stores.appending_log(at) as log:
        await log.append_all([delivery(n, other=n in forged) for n in range(first, last + 1)])
    if sign:
        assert await checkpoint(at) is not None


async def make(
    folder: Path, *, forged: Sequence[int] = (), key: bytes | None = None, jetstream: dict[str, object] | None = None
) -> load.Config:
    """Create a log with two checkpoints. `key`: the text of the signing key; without it a new one is created."""
    folder.mkdir()
    at = config_at(folder, jetstream=jetstream)
    if key is not None:
        at.evidence.key_file.write_bytes(key)
    await init(at)
    await grow(at, 1, FIRST, forged=forged)
    await grow(at, FIRST + 1, SIZE, forged=forged)
    await grow(at, SIZE + 1, SIZE + AFTER, sign=False)
    return at


@contextlib.contextmanager
def no_bar(_title: str, _unit: str) -> Generator[Progress]:
    yield lambda _done, _of: None


async def verified(at: load.Config, **options: object) -> Verification:
    return await verify_log(at, no_bar, **options)  # type: ignore[arg-type]


def faults(found: Verification) -> list[str]:
    return [f"{fault.position}: {fault.what}" for fault in found.faults]


class Tampered:
    """The log's file without the triggers that refuse changes; closing it puts them back."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._triggers = self.all("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
        for name, _ in self._triggers:
            self.run(f'DROP TRIGGER "{name}"')

    def run(self, sql: str, *bound: object) -> None:
        self._connection.execute(sql, bound)

    def all(self, sql: str, *bound: object) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, bound).fetchall()

    def close(self) -> None:
        for _, sql in self._triggers:
            self.run(sql)
        self._connection.close()


def update_leaf(log: Tampered, position: int) -> None:
    """Give a changed record its matching leaf."""
    ((*fields,),) = log.all("SELECT * FROM records WHERE position = ?", position)
    log.run("UPDATE leaves SET hash = ? WHERE position = ?", record_leaf_hash(*fields), position)


def rebuild_tiles(log: Tampered) -> None:
    """Compute all full tiles from the leaves."""
    leaves = [row[0] for row in log.all("SELECT hash FROM leaves ORDER BY position")]
    for n in range(len(leaves) // 256):
        log.run(
            "UPDATE tiles SET hash = ? WHERE level = 1 AND n = ?", complete_root(leaves[n * 256 : (n + 1) * 256]), n
        )
