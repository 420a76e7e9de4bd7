"""Every program of `bench/` runs to its end: the smallest run of each, two at a time.

The programs that tests/crash runs anyway, with more than `--smoke`, are not run again.
"""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.__main__ import PARTS
from tests.support.paths import ROOT

NO_PROGRAMS = {"bench.calls", "bench.traffic", "bench.report", "bench.ingest_server", "bench.faults.workloads"}
"""What the programs share, and the server that one of them starts."""

RUN_BY_CRASH_TESTS = {
    "bench.soak", "bench.faults.cluster", "bench.faults.fuzz", "bench.faults.resources", "bench.faults.senders",
    "bench.faults.server_power", "bench.faults.sqlite_power", "bench.faults.syscalls", "bench.faults.write_steps",
}  # fmt: skip

PROGRAMS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in ("bench", "bench/faults")
    for path in (ROOT / folder).glob("*.py")
    if path.name != "__main__.py"
)


def smoke(program: str) -> str | None:
    """Run the program; returns what it printed if it failed."""
    command = [sys.executable, "-m", program, "--smoke"]
    try:
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    except subprocess.TimeoutExpired as late:
        return f"{program} does not end: {late.stdout!r} {late.stderr!r}"
    return f"{program}: {ended.stdout[-2000:]}{ended.stderr[-2000:]}" if ended.returncode else None


@pytest.mark.long
def test_every_program_runs_to_its_end() -> None:
    programs = [each for each in PROGRAMS if each not in NO_PROGRAMS | RUN_BY_CRASH_TESTS]
    with ThreadPoolExecutor(2) as pool:
        failed = [each for each in pool.map(smoke, programs) if each is not None]
    assert not failed, "\n\n".join(failed)


@pytest.mark.long
def test_the_table_of_all_ratios_is_printed() -> None:
    command = [sys.executable, "-m", "bench", "--smoke", "--only", "live", "keeping"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    table = [line.split("|")[1].strip() for line in ended.stdout.splitlines() if line.startswith("| ")]
    assert {"live", "keeping"} <= set(table)


@pytest.mark.parametrize("program", [each for each in PROGRAMS if each not in NO_PROGRAMS])
def test_every_program_has_one_entry_and_names_its_command(program: str) -> None:
    module = importlib.import_module(program)
    assert f"python -m {program}" in (module.__doc__ or "")
    assert list(inspect.signature(module.main).parameters) == ["argv"]


def test_the_lists_above_name_programs() -> None:
    assert set(PROGRAMS) >= NO_PROGRAMS | RUN_BY_CRASH_TESTS | {f"bench.{part}" for part in PARTS}
    crash_tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests" / "crash").glob("*.py"))
    assert all(f'"{each}"' in crash_tests for each in RUN_BY_CRASH_TESTS)
