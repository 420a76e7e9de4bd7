"""`kill -9` at every system call that writes: `python -m bench.faults.syscalls [--every N] [--workloads append,rebuild …]`.

One level below `bench/faults/write_steps.py`: strace kills the process as it enters its n-th call of `CALLS`, for every n,
so between any two writes of SQLite (pages, WAL frames, syncs, WAL checkpoints), of a rebuild and of the key store.
Calls are counted for each thread and for each file alone, so that no thread's calls hide another's. Then the same checks.
Needs strace and the permission to trace. Prints a table; the exit code is 1 if a check failed.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.faults.workloads import Workload
from bench.faults.write_steps import check_in_child, in_child, print_table, reset_folder

CALLS = "pwrite64,write,writev,pwritev,fdatasync,fsync,ftruncate,fallocate,unlink,unlinkat,rename,renameat,renameat2,link,linkat"
FILES = ("", "log.db", "log.db-wal", "keys.db", "keys.db-wal", "views.db", "views.db-wal")
"""Files whose calls are counted: all of them together (""), then each alone."""
ATTACH_SECONDS = 5.0


def run_traced(work: Workload, folder: Path, die_at: int, file: str) -> tuple[bool, dict[str, int], Counter[str]]:
    """Run under strace and die at that call (0: never). Returns whether it died, what it acknowledged, calls by thread."""
    acknowledged, calls = folder.with_name("acknowledged"), folder.with_name("calls")
    acknowledged.write_bytes(b"")
    child = os.fork()
    if not child:
        _run(work, folder, acknowledged)
    command = ["strace", "-f", "-qq", "-o", str(calls), "-e", f"trace={CALLS}", "-e", "signal=none", "-p", str(child)]
    if die_at:
        command += ["-e", f"inject={CALLS}:signal=KILL:when={die_at}"]
    if file:
        command += ["-P", str(folder / file)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
    status = os.waitpid(child, 0)[1]
    stderr = tracer.communicate(timeout=20)[1].decode()
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"{work.name} failed: {stderr}")
    found = Counter(re.findall(r"^(\d+) +\w+\(", calls.read_text("utf-8", "replace"), re.MULTILINE))
    pairs = [line.split() for line in acknowledged.read_text().splitlines()]
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return killed, {key: int(at) for key, at in pairs}, found


def _run(work: Workload, folder: Path, acknowledged: Path) -> None:
    """In the child: wait for the tracer, run the workload, exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        out = os.open(acknowledged, os.O_WRONLY | os.O_APPEND)
        deadline = time.monotonic() + ATTACH_SECONDS
        while "TracerPid:\t0" in Path("/proc/self/status").read_text():
            if time.monotonic() > deadline:
                os._exit(4)
            time.sleep(0.002)
        asyncio.run(work.run(folder, lambda key, at: os.write(out, f"{key} {at}\n".encode()) and None))
    except BaseException:
        traceback.print_exc()
        os._exit(3)
    os._exit(0)


def kill_at_calls(work: Workload, space: Path, every: int) -> tuple[int, int, list[str]]:
    """Kill a workload at every n-th call; returns (calls, kills, faults)."""
    template, folder = space / f"{work.name}-template", space / "folder"
    folder.mkdir(exist_ok=True)
    if in_child(lambda: asyncio.run(work.prepare(folder))):
        raise SystemExit(f"workload {work.name} cannot be prepared: see the traceback above")
    folder.rename(template)
    calls = kills = 0
    faults: list[str] = []
    for file in FILES:
        reset_folder(template, folder)
        _, acknowledged, found = run_traced(work, folder, 0, file)
        faults += check_in_child(work, folder, acknowledged)
        calls += 0 if file else sum(found.values())
        for n in range(1, max(found.values(), default=0) + 1, every):
            reset_folder(template, folder)
            died, acknowledged, _ = run_traced(work, folder, n, file)
            kills += died
            faults += [f"call {n} on {file or 'any'}: {each}" for each in check_in_child(work, folder, acknowledged)]
    shutil.rmtree(template)
    shutil.rmtree(folder)
    return calls, kills, faults


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit code."""
    return print_table(__doc__, argv, kill_at_calls, unit="call", workloads="append,sealed,rebuild,erase")


if __name__ == "__main__":
    sys.exit(main())
