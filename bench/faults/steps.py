"""`kill -9` before and after every write step: `python -m bench.faults.steps [--every N] [--works append,rebuild …]`.

A step is a statement that may change a file (BEGIN, INSERT, COMMIT, PRAGMA, closing a connection …), an fsync, a rename,
a link or a removal. Every piece of work runs once to count its steps; then, from the same beginning, once for each step:
a process of its own kills itself right before it, another right after it. Then the work is done again to its end, as a
sender or an operator would, and everything is verified: what was acknowledged is there under its position, positions
have no gap, nothing is there twice, leaves and tiles lead to the records, keys open what is sealed, views equal a rebuild.
Prints a table; exit code 1 when anything was found.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.flows.test_erasing import sealed_config
from tests.running import READ_KEY, SECRETS
from tracker import desk, desk_erasing, desk_evidence, joining
from tracker.config import Config, load
from tracker.deliveries import Verified
from tracker.demo import SOURCES, config_text
from tracker.demo_calls import VENDORS, whole_call
from tracker.erasing import Selection
from tracker.errors import LogMissing, ViewsMissing
from tracker.log.migrating import migrate, steps

START = 1_700_000_000_000_000
READING = ("SELECT", "WITH", "EXPLAIN")


class Steps:
    """Counts the steps of this process, and kills it at one of them."""

    def __init__(self, die_at: int, *, after: bool) -> None:
        self.count = 0
        self._die_at = die_at
        self._after = after
        self._lock = threading.RLock()

    def taking(self, step: Callable[[], Any]) -> Any:
        """Take one step, or die before or after it."""
        with self._lock:
            self.count += 1
            last = self.count == self._die_at
            if last and not self._after:
                os.kill(os.getpid(), signal.SIGKILL)
            found = step()
            if last:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

    def watch(self) -> None:
        """From now on the steps of SQLite and of the file system are counted in this process."""
        counted, connect = self, sqlite3.connect

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *bound: Any) -> Any:
                name = sql.split(None, 1)[0].upper()
                if name in READING:
                    return super().execute(sql, *bound)
                return counted.taking(lambda: sqlite3.Connection.execute(self, sql, *bound))

            def executemany(self, sql: str, *bound: Any) -> Any:
                return counted.taking(lambda: sqlite3.Connection.executemany(self, sql, *bound))

            def close(self) -> None:
                counted.taking(lambda: sqlite3.Connection.close(self))

        sqlite3.connect = lambda *given, **named: connect(*given, **named | {"factory": Connection})
        for name in ("fsync", "replace", "rename", "link", "unlink", "ftruncate"):
            real = getattr(os, name)
            setattr(os, name, lambda *given, f=real, **named: counted.taking(lambda: f(*given, **named)))


class Work(NamedTuple):
    """Something that is killed. `check` gets what was acknowledged before and says what is wrong."""

    name: str
    prepare: Callable[[Path], Awaitable[None]]
    run: Callable[[Path, Callable[[str, int], None]], Awaitable[None]]
    check: Callable[[Path, dict[str, int]], Awaitable[list[str]]]


def delivery(n: int) -> Verified:
    """The n-th delivery of a source."""
    body = json.dumps({"event": "room_started", "id": f"EV_{n}", "text": "x" * 200}).encode()
    return Verified(
        source="lk", vendor="livekit", event="room_started", dedupe_key=f"k{n}", received_at=START + n,
        origin="webhook", proof=b'{"iss":"k"}', body=body,
    )  # fmt: skip


def config_of(folder: Path) -> Config:
    """The configuration in that folder."""
    return load(folder / "config.toml", {})


def write_config(folder: Path, *, sealed: bool) -> None:
    """The demo's five sources, in clear or sealed."""
    text = sealed_config(folder) if sealed else config_text(folder, SECRETS, READ_KEY, 0)
    (folder / "config.toml").write_text(text, "utf-8")


BEFORE, BATCHES, WIDE = 253, 4, 3


async def prepare_append(folder: Path, *, sealed: bool = False) -> None:
    """A log just before a tile of its tree is full, left by a server that was killed (its WAL is there)."""
    write_config(folder, sealed=sealed)
    await desk.begin(config_of(folder))
    log = await joining.open_log(config_of(folder))
    await log.append_all([delivery(n) for n in range(BEFORE)])
    await log.close()


async def run_append(folder: Path, acknowledge: Callable[[str, int], None]) -> None:
    """Open, append batches and a repeat of each, close."""
    log = await joining.open_log(config_of(folder))

    async def one(n: int) -> None:
        acknowledge(f"k{n}", (await log.append(delivery(n))).position)

    for batch in range(BATCHES):
        first = BEFORE + batch * WIDE
        await asyncio.gather(*(one(n) for n in range(first, first + WIDE)), one(first))
    await log.close()


async def check_append(folder: Path, acknowledged: dict[str, int]) -> list[str]:
    """All that was acknowledged, each once; then the rest is sent again."""
    faults: list[str] = []
    config = config_of(folder)
    log = await joining.open_log(config)
    kept = [record async for chunk in log.read(0) for record in chunk]
    bodies = {delivery(n).body: f"k{n}" for n in range(BEFORE + BATCHES * WIDE)}
    if [record.position for record in kept] != list(range(1, len(kept) + 1)):
        faults.append("a gap")
    if len({record.body for record in kept}) != len(kept):
        faults.append("twice")
    there = {bodies[record.body]: record.position for record in kept}
    faults += [f"lost: {key} at {at}" for key, at in acknowledged.items() if there.get(key) != at]
    again = await log.append_all([delivery(n) for n in range(BEFORE + BATCHES * WIDE)])
    faults += [
        f"not the first position: k{n}" for n, a in enumerate(again) if a.duplicate != (f"k{n}" in there) or
        (a.duplicate and a.position != there[f"k{n}"])
    ]  # fmt: skip
    await log.close()
    return faults + await verified(config, BEFORE + BATCHES * WIDE)


async def verified(config: Config, count: int | None = None) -> list[str]:
    """What `tracker verify` finds."""

    @contextlib.contextmanager
    def bars(*_: str) -> Any:
        yield lambda *_: None

    found = await desk_evidence.verify(config, bars)
    faults = [fault.what if hasattr(fault, "what") else str(fault) for fault in found.faults]
    if count is not None and found.records != count:
        faults.append(f"{found.records} records, not {count}")
    return faults


async def prepare_init(folder: Path) -> None:
    """Nothing is there."""
    write_config(folder, sealed=True)


async def run_init(folder: Path, _acknowledge: Callable[[str, int], None]) -> None:
    """`tracker init` with keys."""
    await desk.begin(config_of(folder))


async def check_init(folder: Path, _acknowledged: dict[str, int]) -> list[str]:
    """No log, or a whole one; and init again makes what is missing."""
    config = config_of(folder)
    with contextlib.suppress(LogMissing):
        await (await joining.open_log(config)).close()
    try:
        await desk.begin(config)
    except Exception as error:
        if "exists already" not in str(error):
            return [f"init again: {error}"]
    return await verified(config, 0)


async def prepare_old(folder: Path) -> None:
    """A log of the first version, with records."""
    write_config(folder, sealed=False)
    path = folder / "log.db"
    import aiosqlite

    connection = await aiosqlite.connect(path, isolation_level=None)
    await migrate(connection, steps()[:1])
    for n in range(300):
        v = delivery(n)
        await connection.execute(
            "INSERT INTO records (position, source, vendor, event, dedupe_key, received_at, origin, proof, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (n + 1, v.source, v.vendor, v.event, v.dedupe_key, v.received_at, v.origin, v.proof, v.body),
        )
    await connection.close()


async def run_migrate(folder: Path, _acknowledge: Callable[[str, int], None]) -> None:
    """Open it with this version."""
    await (await joining.open_log(config_of(folder))).close()


async def check_migrated(folder: Path, _acknowledged: dict[str, int]) -> list[str]:
    """It is whole."""
    return await verified(config_of(folder), 300)


def write_calls(folder: Path, seeds: range) -> None:
    """A JSON Lines file a vendor and a seed."""
    for seed in seeds:
        for vendor in VENDORS:
            lines = [sent.body for sent in whole_call(vendor, START + seed * 3_600_000_000, seed=seed)]
            (folder / f"{SOURCES[vendor]}-{seed}.jsonl").write_bytes(b"\n".join(lines) + b"\n")


async def import_calls(folder: Path, seeds: range) -> int:
    """Import those files; how many lines are known afterwards."""
    lines = 0
    for seed in seeds:
        for vendor in VENDORS:
            path = folder / f"{SOURCES[vendor]}-{seed}.jsonl"
            (report,) = await desk.import_files(config_of(folder), SOURCES[vendor], [path])
            lines += report.new + report.known
    return lines


async def prepare_import(folder: Path) -> None:
    """An empty sealed log beside files to import."""
    write_config(folder, sealed=True)
    await desk.begin(config_of(folder))
    write_calls(folder, range(1))


async def run_import(folder: Path, acknowledge: Callable[[str, int], None]) -> None:
    """Import them all; acknowledged is what a report counted as new or known."""
    acknowledge("lines", await import_calls(folder, range(1)))


async def check_import(folder: Path, _acknowledged: dict[str, int]) -> list[str]:
    """Importing again adds the rest, and a third time nothing."""
    config = config_of(folder)
    await import_calls(folder, range(1))
    log = await joining.open_log(config)
    head = await log.head()
    kept = [record.body async for chunk in log.read(0) for record in chunk]
    await log.close()
    faults = [] if len(set(kept)) == len(kept) == head else ["twice"]
    lines = {line for path in folder.glob("*.jsonl") for line in path.read_bytes().splitlines()}
    faults += [] if set(kept) == lines else [f"{len(lines - set(kept))} lines are missing"]
    await import_calls(folder, range(1))
    return faults + await verified(config, head)


async def prepare_views(folder: Path, *, sealed: bool = False) -> None:
    """A log with calls of all vendors and views of the first of them."""
    await prepare_import(folder) if sealed else None
    if not sealed:
        write_config(folder, sealed=False)
        await desk.begin(config_of(folder))
        write_calls(folder, range(1))
    await import_calls(folder, range(1))
    await desk.rebuild(config_of(folder))
    if not sealed:
        write_calls(folder, range(1, 2))
        await import_calls(folder, range(1, 2))


async def run_rebuild(folder: Path, acknowledge: Callable[[str, int], None]) -> None:
    """`tracker rebuild`."""
    acknowledge("position", (await desk.rebuild(config_of(folder))).position)


async def check_rebuild(folder: Path, acknowledged: dict[str, int]) -> list[str]:
    """Old views, or new ones: whole. Then a rebuild runs through and leaves nothing behind."""
    config = config_of(folder)
    try:
        checked = await desk.check(config)
    except ViewsMissing:
        return ["the views are gone"]
    faults = checked.differences
    if acknowledged and checked.behind:
        faults.append("acknowledged, but the old views are there")
    await desk.rebuild(config)
    checked = await desk.check(config)
    left = [path.name for path in folder.iterdir() if path.name.startswith("views.db-") and "lock" not in path.name]
    left = [name for name in left if not name.endswith(("-wal", "-shm"))]
    return faults + checked.differences + [f"left behind: {name}" for name in left]


async def prepare_erasing(folder: Path) -> None:
    """A sealed log with views."""
    await prepare_views(folder, sealed=True)


async def run_erasing(folder: Path, acknowledge: Callable[[str, int], None]) -> None:
    """Erase everything of one source."""
    selection = Selection(why="retention", before=START * 2, sources=("lk",))
    await desk_erasing.erase(config_of(folder), [selection])
    acknowledge("erased", 1)


async def check_erasing(folder: Path, acknowledged: dict[str, int]) -> list[str]:
    """Erased or not, nothing else is lost; erasing again erases all of it, and only it."""
    config = config_of(folder)

    async def erased() -> dict[str, set[bool]]:
        found: dict[str, set[bool]] = {}
        async with joining.reading_log(config) as log:
            async for chunk in log.read(0):
                for record in chunk:
                    found.setdefault(record.source, set()).add(record.erased_by is not None)
        return found

    faults = ["acknowledged, but readable"] if acknowledged and (await erased())["lk"] != {True} else []
    selection = Selection(why="retention", before=START * 2, sources=("lk",))
    await desk_erasing.erase(config, [selection])
    found = await erased()
    faults += [f"{source}: {sorted(each)}" for source, each in found.items() if each != {source == "lk"}]
    await desk.rebuild(config)
    return faults + await verified(config) + (await desk.check(config)).differences


async def prepare_sealed(folder: Path) -> None:
    """As `append`, sealed."""
    await prepare_append(folder, sealed=True)


WORKS = {
    work.name: work
    for work in (
        Work("init", prepare_init, run_init, check_init),
        Work("migrate", prepare_old, run_migrate, check_migrated),
        Work("append", prepare_append, run_append, check_append),
        Work("sealed", prepare_sealed, run_append, check_append),
        Work("import", prepare_import, run_import, check_import),
        Work("rebuild", prepare_views, run_rebuild, check_rebuild),
        Work("erase", prepare_erasing, run_erasing, check_erasing),
    )
}


def in_child(work: Callable[[], Any]) -> int:
    """Run it in a process of its own; the exit status as `os.waitpid` gives it."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(3)
    os._exit(0)


def renewed(template: Path, folder: Path) -> None:
    """The beginning again. Paths in config.toml are absolute, so it is always the same folder."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)


def killed(work: Work, folder: Path, die_at: int, *, after: bool) -> tuple[bool, dict[str, int]]:
    """Run until the step; whether it died there, and what it had acknowledged."""
    told = folder.with_name("acknowledged")
    told.write_bytes(b"")

    def run() -> None:
        # A parent that is killed leaves helpers that complain; they are not what is looked at here.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        out = os.open(told, os.O_WRONLY | os.O_APPEND)
        counted = Steps(die_at, after=after)
        counted.watch()
        asyncio.run(work.run(folder, lambda key, at: os.write(out, f"{key} {at}\n".encode()) and None))
        folder.with_name("steps").write_text(str(counted.count))

    status = in_child(run)
    pairs = [line.split() for line in told.read_text().splitlines()]
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, {key: int(at) for key, at in pairs}


def checked(work: Work, folder: Path, acknowledged: dict[str, int]) -> list[str]:
    """What is wrong afterwards."""
    told = folder.with_name("faults")
    status = in_child(lambda: told.write_text(json.dumps(asyncio.run(work.check(folder, acknowledged)))))
    return json.loads(told.read_text()) if status == 0 else ["the check failed: see above"]


def every_step(work: Work, space: Path, every: int) -> tuple[int, int, list[str]]:
    """(steps, kills, faults) of one work."""
    template, folder = space / f"{work.name}-template", space / "folder"
    folder.mkdir(exist_ok=True)
    if in_child(lambda: asyncio.run(work.prepare(folder))):
        raise SystemExit(f"{work.name} cannot be prepared")
    folder.rename(template)
    renewed(template, folder)
    died, acknowledged = killed(work, folder, 0, after=False)
    faults = checked(work, folder, acknowledged)
    count = int(folder.with_name("steps").read_text())
    kills = 0
    for n in range(1, count + 1, every):
        for after in (False, True):
            renewed(template, folder)
            died, acknowledged = killed(work, folder, n, after=after)
            kills += died
            faults += [
                f"step {n} {'after' if after else 'before'}: {each}" for each in checked(work, folder, acknowledged)
            ]
    shutil.rmtree(template)
    shutil.rmtree(folder)
    return count, kills, faults


def table(
    said: str | None, every: Callable[[Work, Path, int], tuple[int, int, list[str]]], *, unit: str, works: str
) -> int:
    """What each work asked for comes to; the exit code. `every` gives (units, kills, faults) of a work."""
    asked = argparse.ArgumentParser(description=said)
    asked.add_argument("--every", type=int, default=1, help=f"only every n-th {unit}")
    asked.add_argument("--works", default=works)
    given = asked.parse_args()
    print(f"{'work':10}{unit + 's':>7}{'kills':>7}{'faults':>8}{'seconds':>9}")
    bad = 0
    with tempfile.TemporaryDirectory() as space:
        for name in given.works.split(","):
            began = time.perf_counter()
            count, kills, faults = every(WORKS[name], Path(space), given.every)
            print(f"{name:10}{count:7}{kills:7}{len(faults):8}{time.perf_counter() - began:9.1f}", flush=True)
            for fault in faults[:20]:
                print("   ", fault)
            bad += len(faults)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(table(__doc__, every_step, unit="step", works=",".join(WORKS)))
