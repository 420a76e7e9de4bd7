"""The power is cut under SQLite: a few cuts here, as many as are wanted in `bench`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.samples import ROOT


@pytest.mark.parametrize("options", [[], ["--sealed"]], ids=["in clear", "sealed"])
def test_what_was_acknowledged_survives_a_power_cut_and_without_full_it_would_not(options: list[str]) -> None:
    command = [sys.executable, "-m", "bench.faults.power", "--appends", "80", "--cuts", "20", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["synchronous", "FULL", "NORMAL", "OFF"]
