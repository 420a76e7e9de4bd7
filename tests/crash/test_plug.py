"""The power of a whole server is cut: once here, as often as is wanted in `bench`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.power_loss import why_not
from tests.support.samples import ROOT


def test_a_server_whose_power_is_cut_has_all_it_answered_and_without_syncs_it_has_not() -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    command = [sys.executable, "-m", "bench.faults.plug", "--cuts", "1", "--control", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["synchronous", "FULL", "OFF", "faults:"]
