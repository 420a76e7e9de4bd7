"""Power cuts below SQLite, on a simulated disk."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.paths import ROOT


@pytest.mark.parametrize("cuts", [20, pytest.param(200, marks=pytest.mark.long)])
@pytest.mark.parametrize("options", [[], ["--sealed"]], ids=["clear", "encrypted"])
def test_acknowledged_records_survive_a_power_cut_with_synchronous_full_and_not_without(
    options: list[str], cuts: int
) -> None:
    command = [sys.executable, "-m", "bench.faults.sqlite_power", "--appends", "80", "--cuts", str(cuts), *options]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120 * cuts / 20)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert not ended.stderr
    assert [line.split()[0] for line in ended.stdout.splitlines()] == ["synchronous", "FULL", "NORMAL", "OFF"]
