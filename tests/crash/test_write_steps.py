"""Processes are killed right before and right after each write step."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.support.paths import ROOT
from tests.support.programs import run_bench


@pytest.mark.parametrize(
    ("workloads", "every"),
    [
        pytest.param("init,append,sealed", 16, id="log"),
        pytest.param("train", 18, id="dictionary training"),
        pytest.param("import,rebuild,erase", 240, id="long workloads"),
        pytest.param("init,append,sealed", 2, id="log, every second step", marks=pytest.mark.long),
        pytest.param("train", 3, id="dictionary training, every third step", marks=pytest.mark.long),
        pytest.param("import,rebuild,erase", 10, id="long workloads, every tenth step", marks=pytest.mark.long),
    ],
)
def test_a_kill_at_a_write_step_loses_nothing_and_tears_nothing(workloads: str, every: int) -> None:
    printed = run_bench(
        "bench.faults.write_steps", "--workloads", workloads, "--every", str(every), seconds=max(240, 8000 // every)
    )
    assert "kills" in printed


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed: it kills at a system call")
@pytest.mark.parametrize("every", [240, pytest.param(10, marks=pytest.mark.long)])
def test_a_kill_at_a_system_call_that_writes_loses_nothing_and_tears_nothing(every: int) -> None:
    command = [sys.executable, "-m", "bench.faults.syscalls", "--workloads", "append,rebuild", "--every", str(every)]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=max(240, 19_200 / every)
    )
    if "Operation not permitted" in ended.stderr:
        pytest.skip("this machine does not allow tracing: strace is not permitted")
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_fault_program_documents_its_command() -> None:
    for path in (ROOT / "bench" / "faults").glob("*.py"):
        assert "python -m bench.faults." in path.read_text("utf-8").split('"""')[1], path.name
