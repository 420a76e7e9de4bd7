"""Killed right before and right after write steps of everything that writes: some of the steps here, all of them in `bench`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.samples import ROOT


@pytest.mark.parametrize(
    ("works", "every"),
    [("init,migrate,append,sealed", 8), ("train", 9), ("import,rebuild,erase", 40)],
    ids=["log", "the training of a dictionary", "long work"],
)
def test_a_kill_at_a_write_step_loses_nothing_and_tears_nothing(works: str, every: int) -> None:
    command = [sys.executable, "-m", "bench.faults.steps", "--works", works, "--every", str(every)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kills" in done.stdout


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace kills at a system call, and is not here")
def test_a_kill_at_a_system_call_that_writes_loses_nothing_and_tears_nothing() -> None:
    command = [sys.executable, "-m", "bench.faults.syscalls", "--works", "append,rebuild", "--every", "40"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    if "Operation not permitted" in done.stderr:
        pytest.skip("tracing is not allowed here")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_programs_of_the_faults_say_what_they_are_for() -> None:
    for path in (ROOT / "bench" / "faults").glob("*.py"):
        assert "python -m bench.faults." in path.read_text("utf-8").split('"""')[1], Path(path).name
