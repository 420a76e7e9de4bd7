"""`kill -9` before and after every write step: `python -m bench.faults.write_steps [--every N] [--workloads append,rebuild …]`.

A step is a statement that may change a file (BEGIN, INSERT, COMMIT, PRAGMA, closing a connection …), an fsync, a rename,
a link, a removal, or the begin or end of a dictionary's training. Every workload (`bench/faults/workloads.py`) runs once
to count its steps. Then it starts from the same files again for each step: one process kills itself right before the step,
another right after it. Then the workload is repeated to its end, as a sender or an operator would do, and everything is
checked: each acknowledged delivery is at its position, positions have no gap, nothing is there twice, leaves and tiles
match the records, keys decrypt the encrypted records, views equal a rebuild.
Prints a table; the exit code is 1 if a check failed.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import report
from bench.faults.workloads import WORKLOADS, Workload
from tracker.log.sqlite import dictionaries

READING = ("SELECT", "WITH", "EXPLAIN")


class Steps:
    """Counts the steps of this process, and kills it at step `die_at` (0: never)."""

    def __init__(self, die_at: int, *, after: bool) -> None:
        self.count = 0
        self._die_at = die_at
        self._after = after
        self._lock = threading.RLock()

    def run(self, step: Callable[[], Any]) -> Any:
        """Run one step, or die before or after it."""
        with self._lock:
            self.count += 1
            last = self.count == self._die_at
            if last and not self._after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = step()
            if last:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

    def watch(self) -> None:
        """Count the steps of SQLite and of the file system from now on."""
        counted, connect = self, sqlite3.connect

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *bound: Any) -> Any:
                name = sql.split(None, 1)[0].upper()
                if name in READING:
                    return super().execute(sql, *bound)
                return counted.run(lambda: sqlite3.Connection.execute(self, sql, *bound))

            def executemany(self, sql: str, *bound: Any) -> Any:
                return counted.run(lambda: sqlite3.Connection.executemany(self, sql, *bound))

            def close(self) -> None:
                counted.run(lambda: sqlite3.Connection.close(self))

        sqlite3.connect = lambda *args, **named: connect(*args, **named | {"factory": Connection})
        for name in ("fsync", "replace", "rename", "link", "unlink", "ftruncate"):
            real = getattr(os, name)
            setattr(os, name, lambda *args, f=real, **named: counted.run(lambda: f(*args, **named)))
        train = dictionaries.train_better

        def training(*args: Any) -> Any:
            # It runs in its own thread, beside appends. So only its begin and end are steps.
            counted.run(lambda: None)
            result = train(*args)
            counted.run(lambda: None)
            return result

        dictionaries.train_better = training


def in_child(work: Callable[[], Any]) -> int:
    """Run it in a child process; returns its status as `os.waitpid` does."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(3)
    os._exit(0)


def reset_folder(template: Path, folder: Path) -> None:
    """Replace the folder by the template. Paths in config.toml are absolute, so it is always the same folder."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)


def run_until_killed(work: Workload, folder: Path, die_at: int, *, after: bool) -> tuple[bool, dict[str, int]]:
    """Run until that step. Returns whether it died there, and what it had acknowledged."""
    acknowledged = folder.with_name("acknowledged")
    acknowledged.write_bytes(b"")

    def run() -> None:
        # Child processes complain when their parent is killed: that is expected.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        out = os.open(acknowledged, os.O_WRONLY | os.O_APPEND)
        counted = Steps(die_at, after=after)
        counted.watch()
        asyncio.run(work.run(folder, lambda key, at: os.write(out, f"{key} {at}\n".encode()) and None))
        folder.with_name("steps").write_text(str(counted.count))

    status = in_child(run)
    pairs = [line.split() for line in acknowledged.read_text().splitlines()]
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, {key: int(at) for key, at in pairs}


def check_in_child(work: Workload, folder: Path, acknowledged: dict[str, int]) -> list[str]:
    """What is wrong after a kill."""
    report = folder.with_name("faults")
    status = in_child(lambda: report.write_text(json.dumps(asyncio.run(work.check(folder, acknowledged)))))
    return json.loads(report.read_text()) if status == 0 else ["the check failed: see above"]


def kill_at_steps(work: Workload, space: Path, every: int) -> tuple[int, int, list[str]]:
    """Kill a workload at every n-th step; returns (steps, kills, faults)."""
    template, folder = space / f"{work.name}-template", space / "folder"
    folder.mkdir(exist_ok=True)
    if in_child(lambda: asyncio.run(work.prepare(folder))):
        raise SystemExit(f"workload {work.name} cannot be prepared: see the traceback above")
    folder.rename(template)
    reset_folder(template, folder)
    died, acknowledged = run_until_killed(work, folder, 0, after=False)
    faults = check_in_child(work, folder, acknowledged)
    count = int(folder.with_name("steps").read_text())
    kills = 0
    for n in range(1, count + 1, every):
        for after in (False, True):
            reset_folder(template, folder)
            died, acknowledged = run_until_killed(work, folder, n, after=after)
            kills += died
            faults += [
                f"step {n} {'after' if after else 'before'}: {each}"
                for each in check_in_child(work, folder, acknowledged)
            ]
    shutil.rmtree(template)
    shutil.rmtree(folder)
    return count, kills, faults


def print_table(
    description: str | None,
    argv: Sequence[str] | None,
    kill_at: Callable[[Workload, Path, int], tuple[int, int, list[str]]],
    *,
    unit: str,
    workloads: str,
) -> int:
    """Run the workloads named on the command line and print a row for each; returns the exit code.

    `kill_at(workload, folder, every)` returns (units, kills, faults).
    """
    parser = report.parser(description)
    parser.add_argument("--every", type=int, default=1, help=f"only every n-th {unit}")
    parser.add_argument("--workloads", default=workloads)
    options = parser.parse_args(argv)
    if options.smoke:
        options.every, options.workloads = 1_000, "append"
    print(f"{'workload':10}{unit + 's':>7}{'kills':>7}{'faults':>8}{'seconds':>9}")
    bad = 0
    with tempfile.TemporaryDirectory() as space:
        for name in options.workloads.split(","):
            began = time.perf_counter()
            count, kills, faults = kill_at(WORKLOADS[name], Path(space), options.every)
            print(f"{name:10}{count:7}{kills:7}{len(faults):8}{time.perf_counter() - began:9.1f}", flush=True)
            for fault in faults[:20]:
                print("   ", fault)
            bad += len(faults)
    return 1 if bad else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit code."""
    return print_table(__doc__, argv, kill_at_steps, unit="step", workloads=",".join(WORKLOADS))


if __name__ == "__main__":
    report.run(main)
