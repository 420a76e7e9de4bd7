"""Limits that are reached while a server runs, and lifted again: told, and over without a restart."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.samples import ROOT


@pytest.mark.parametrize("only", ["limits", "clock"])
def test_what_is_taken_away_is_told_and_given_back_without_a_restart(only: str) -> None:
    command = [sys.executable, "-m", "bench.faults.resources", "--only", only]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
