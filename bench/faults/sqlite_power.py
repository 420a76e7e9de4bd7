"""Power cuts below SQLite: `python -m bench.faults.sqlite_power [--appends 400] [--cuts 400] [--sealed] [--seed 1]`.

The log's own code runs on a SQLite whose file system layer (apsw's VFS) records every write, truncation, sync and deletion.
Then the power is cut after any of them: what was synced is there; of the rest, nothing, everything or any part, torn at
sectors. The ordinary log opens what is left: every record acknowledged before the cut is at its position, without a gap,
and `verify` finds nothing. The same runs with synchronous=NORMAL and OFF are the control: they have to lose acknowledged
records, otherwise the simulated cut proves nothing. The exit code is 1 if a check failed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import apsw

from bench import report
from tracker.domain.deliveries import Verified
from tracker.log.sqlite.log import SqliteLog
from tracker.config.encryption import MasterKey
from tracker.log.keys.key_store import KeyStore
from tracker.evidence.verify_log import verify_log

SECTOR = 512
MASTERS = [MasterKey("m", bytes(range(32)))]
MODELS = ("nothing", "everything", "parts")


class Step(NamedTuple):
    """What was done to a file: `write` (at, data), `truncate` (at), `sync`, `delete` (at: 1 when made durable)."""

    what: str
    name: str
    at: int = 0
    data: bytes = b""


class Tracing(apsw.VFS):
    """A file system that records every step and executes it."""

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps
        super().__init__("tracing", "")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        """Open a file that records its steps."""
        return TracedFile(self.steps, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        """Delete a file."""
        super().xDelete(filename, syncdir)
        self.steps.append(Step("delete", Path(filename).name, int(syncdir)))


class TracedFile(apsw.VFSFile):
    """An open file of `Tracing`."""

    def __init__(self, steps: list[Step], name: Any, flags: list[int]) -> None:
        self._steps = steps
        self._name = Path(name.filename() if isinstance(name, apsw.URIFilename) else name or "").name
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        """Write, and record it."""
        super().xWrite(data, offset)
        self._steps.append(Step("write", self._name, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        """Truncate, and record it."""
        super().xTruncate(newsize)
        self._steps.append(Step("truncate", self._name, newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802
        """Record a sync. The real disk is not synced: the simulated one decides what survives."""
        self._steps.append(Step("sync", self._name))


class Connection:
    """The part of aiosqlite that the log uses, on apsw. `synchronous` replaces FULL."""

    def __init__(self, path: Path, mode: str, synchronous: str) -> None:
        flags = apsw.SQLITE_OPEN_READWRITE if mode != "rwc" else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        if mode == "ro":
            flags = apsw.SQLITE_OPEN_READONLY
        self._on = self._conn = apsw.Connection(str(path), flags=flags, vfs="tracing")
        self._synchronous = synchronous

    async def execute(self, sql: str, bound: Sequence[Any] = ()) -> None:
        """Run one statement."""
        await self.execute_fetchall(sql, bound)

    async def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> SimpleNamespace:
        """Run one statement for many rows; `rowcount` says how many rows it changed."""
        before = self._on.total_changes()
        self._on.executemany(sql, rows)
        return SimpleNamespace(rowcount=self._on.total_changes() - before)

    async def execute_fetchall(self, sql: str, bound: Any = ()) -> list[Any]:
        """Run one statement; returns its rows."""
        try:
            return list(
                self._on.execute(sql.replace("synchronous = FULL", f"synchronous = {self._synchronous}"), bound)
            )
        except apsw.Error as error:
            raise sqlite3.OperationalError(str(error)) from error

    async def _execute(self, run: Callable[[apsw.Connection], None], on: apsw.Connection) -> None:
        """Run several statements in one call."""
        try:
            run(on)
        except apsw.Error as error:
            raise sqlite3.OperationalError(str(error)) from error

    async def rollback(self) -> None:
        """Roll back, if a transaction is open."""
        if not self._on.get_autocommit():
            self._on.execute("ROLLBACK")

    async def close(self) -> None:
        """Close it."""
        self._on.close()


def delivery(n: int, chance: random.Random) -> Verified:
    """The n-th delivery, of random size."""
    body = b"%d:" % n + chance.randbytes(chance.choice([50, 900, 900, 5_000, 20_000]))
    return Verified(
        source="lk", vendor="livekit", event="e", dedupe_key=f"k{n}", received_at=n, origin="webhook", proof=b"p",
        body=body,
    )  # fmt: skip


class Run(NamedTuple):
    """A log that was written: the files at the beginning, every step since, and what was acknowledged after which step."""

    first: dict[str, bytes]
    steps: list[Step]
    acknowledged: list[tuple[int, int, bytes]]


async def write_log(folder: Path, appends: int, synchronous: str, *, sealed: bool, seed: int) -> Run:
    """Write a log on the file system that records steps."""
    steps: list[Step] = []
    acknowledged: list[tuple[int, int, bytes]] = []
    chance = random.Random(seed)
    await SqliteLog.create(folder / "log.db")
    if sealed:
        await KeyStore.create(folder / "keys.db", MASTERS)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    vfs = Tracing(steps)

    async def log_connection(path: Path, mode: str, _busy: float) -> Connection:
        return Connection(path, mode, synchronous)

    async def vault_connection(path: Path) -> Connection:
        made = Connection(path, "rwc", synchronous)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
            await made.execute(f"PRAGMA {pragma}")
        return made

    with (
        mock.patch("tracker.log.sqlite.file._connect", log_connection),
        mock.patch("tracker.log.keys.key_store._connect", vault_connection),
    ):
        for _ in range(2):  # the second time it is opened again
            vault = await KeyStore.open(folder / "keys.db", MASTERS) if sealed else None
            log = await SqliteLog.open(folder / "log.db", key_store=vault)

            async def one(verified: Verified, log: SqliteLog = log) -> None:
                at = (await log.append(verified)).position
                acknowledged.append((len(steps), at, verified.body))

            end = len(acknowledged) + appends // 2
            while len(acknowledged) < end:
                size = len(acknowledged)
                await asyncio.gather(*(one(delivery(size + n, chance)) for n in range(chance.choice([1, 1, 2, 5]))))
            await log.close()
    vfs.unregister()
    return Run(first, steps, acknowledged)


class Disk:
    """The files of a simulated disk."""

    def __init__(self, first: dict[str, bytes]) -> None:
        self.files = {name: File(content) for name, content in first.items()}

    def take(self, step: Step) -> None:
        """Apply a step. The first sync of a new file and a durable removal sync the directory, as SQLite does on Unix."""
        file = self.files.setdefault(step.name, File(None))
        if (step.what == "sync" and file.is_new()) or (step.what == "delete" and step.at):
            for other in self.files.values():
                other.settle()
        file.take(step)


class File:
    """One file: its durable content (None: no such file), and the steps since."""

    def __init__(self, durable: bytes | None) -> None:
        self.durable = durable
        self.pending: list[Step] = []

    def is_new(self) -> bool:
        """Whether the directory entry is not durable yet."""
        return self.durable is None or any(step.what == "delete" for step in self.pending)

    def settle(self) -> None:
        """The directory is synced: a removed file stays removed."""
        removed = [n for n, step in enumerate(self.pending) if step.what == "delete"]
        if removed:
            self.durable = None
            self.pending = self.pending[removed[-1] + 1 :]

    def take(self, step: Step) -> None:
        """Apply a step."""
        if step.what == "sync" or (step.what == "delete" and step.at):
            self.pending.append(step)
            self.durable = apply_steps(self.durable, self.pending)
            self.pending = []
        else:
            self.pending.append(step)

    def left(self, model: str, chance: random.Random) -> bytes | None:
        """What a power cut leaves of it."""
        if model == "nothing":
            return self.durable
        if model == "everything":
            return apply_steps(self.durable, self.pending)
        lives = [0] + [n + 1 for n, step in enumerate(self.pending) if step.what == "delete"]
        begin = chance.choice(lives)
        end = next((n for n in lives if n > begin), len(self.pending) + 1) - 1
        parts = [part for step in self.pending[begin:end] for part in torn(step, chance)]
        return apply_steps(self.durable if begin == 0 else None, parts)


def torn(step: Step, chance: random.Random) -> Iterator[Step]:
    """Any sectors of a write; all or nothing of any other step."""
    if step.what != "write":
        yield from [step] * chance.randrange(2)
    elif (whole := chance.random()) < 0.5:
        yield from [step] * (whole < 0.25)
    else:
        for start in range(0, len(step.data), SECTOR):
            if chance.random() < 0.5:
                yield Step("write", step.name, step.at + start, step.data[start : start + SECTOR])


def apply_steps(content: bytes | None, steps: Sequence[Step]) -> bytes | None:
    """The content of a file after these steps."""
    held = None if content is None else bytearray(content)
    for step in steps:
        if step.what == "delete":
            held = None
            continue
        held = bytearray() if held is None else held
        if step.what == "truncate":
            del held[step.at :]
        elif step.what == "write":
            held.extend(bytes(max(0, step.at - len(held))))
            held[step.at : step.at + len(step.data)] = step.data
    return None if held is None else bytes(held)


async def check_after_cut(folder: Path, acknowledged: dict[int, bytes], *, sealed: bool) -> tuple[int, list[str]]:
    """(acknowledged records that are lost, everything else that is wrong)."""
    try:
        vault = await KeyStore.open(folder / "keys.db", MASTERS) if sealed else None
        log = await SqliteLog.open(folder / "log.db", key_store=vault)
    except Exception as error:
        return len(acknowledged), [f"the log does not open: {error}"]
    try:
        records_left = {record.position: record.body async for chunk in log.read(0) for record in chunk}
        faults = [str(fault) for fault in (await verify_log(log, [])).faults]
    except Exception as error:
        return len(acknowledged), [f"the log cannot be read: {error}"]
    finally:
        await log.close()
    lost = sum(records_left.get(position) != body for position, body in acknowledged.items())
    if list(records_left) != list(range(1, len(records_left) + 1)):
        faults.append("a gap")
    return lost, faults


async def cut_power(run: Run, space: Path, cuts: int, *, sealed: bool, seed: int) -> tuple[int, int, int, list[str]]:
    """(cuts, cuts that lost something, acknowledged records lost, faults)."""
    chance = random.Random(seed)
    moments = sorted(chance.sample(range(1, len(run.steps) + 1), min(cuts, len(run.steps))))
    disk = Disk(run.first)
    done = losing = all_lost = at = 0
    faults: list[str] = []
    for moment in moments:
        for step in run.steps[at:moment]:
            disk.take(step)
        at = moment
        acknowledged = {position: body for when, position, body in run.acknowledged if when <= moment}
        for model in MODELS:
            with tempfile.TemporaryDirectory(dir=space) as folder:
                for name, file in disk.files.items():
                    left = file.left(model, chance)
                    if left is not None:
                        (Path(folder) / name).write_bytes(left)
                lost, wrong = await check_after_cut(Path(folder), acknowledged, sealed=sealed)
            done += 1
            losing += lost > 0
            all_lost += lost
            faults += [f"step {moment} ({run.steps[moment - 1].what}), {model}: {each}" for each in wrong]
    return done, losing, all_lost, faults


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit code."""
    parser = report.parser(__doc__)
    parser.add_argument("--appends", type=int, default=400)
    parser.add_argument("--cuts", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sealed", action="store_true")
    options = parser.parse_args(argv)
    if options.smoke:
        options.appends, options.cuts = 20, 5
    return asyncio.run(compare(options))


async def compare(options: argparse.Namespace) -> int:
    """Cut the power with each setting; returns the exit code."""
    print(f"{'synchronous':12}{'steps':>7}{'syncs':>7}{'cuts':>6}{'losing':>8}{'lost':>8}{'damaged':>9}{'seconds':>9}")
    bad = False
    for synchronous in ("FULL", "NORMAL", "OFF"):
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as space:
            folder = Path(space) / "log"
            folder.mkdir()
            run = await write_log(folder, options.appends, synchronous, sealed=options.sealed, seed=options.seed)
            done, losing, lost, faults = await cut_power(
                run, Path(space), options.cuts, sealed=options.sealed, seed=options.seed
            )
        syncs = sum(step.what == "sync" for step in run.steps)
        seconds = time.perf_counter() - began
        print(
            f"{synchronous:12}{len(run.steps):7}{syncs:7}{done:6}{losing:8}{lost:8}{len(faults):9}{seconds:9.1f}",
            flush=True,
        )
        if synchronous == "FULL":
            bad |= bool(losing or faults)
            for fault in faults[:20]:
                print("   ", fault)
        else:
            bad |= not losing and not options.smoke
    return 1 if bad else 0


if __name__ == "__main__":
    report.run(main)
