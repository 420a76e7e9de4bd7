"""`kill -9` before and after every write step: `python -m bench.faults.steps [--every N] [--works append,rebuild …]`.

A step is a statement that may change a file (BEGIN, INSERT, COMMIT, PRAGMA, closing a connection …), an fsync, a rename,
a link or a removal, and where the training of a dictionary begins and ends. Every piece of work (`bench/faults/works.py`) runs once to count its steps; then, from the same beginning, once for each step:
a process of its own kills itself right before it, another right after it. Then the work is done again to its end, as a
sender or an operator would, and everything is verified: what was acknowledged is there under its position, positions
have no gap, nothing is there twice, leaves and tiles lead to the records, keys open what is sealed, views equal a rebuild.
Prints a table; exit code 1 when anything was found.
"""

from __future__ import annotations

import argparse
import asyncio
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.faults.works import WORKS, Work
from tracker.log.sqlite import dictionaries

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
        train = dictionaries.better

        def training(*given: Any) -> Any:
            # Its own thread, and the log goes on: not one step that the others wait for.
            counted.taking(lambda: None)
            found = train(*given)
            counted.taking(lambda: None)
            return found

        dictionaries.better = training


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
