"""A cluster is broken in every way once, and loses nothing that was answered; the long rounds are in `bench/faults/cluster.py`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.powered import why_not
from tests.sampled import ROOT


def broken(*options: str) -> str:
    """What the program printed; it has to find nothing."""
    command = [sys.executable, "-m", "bench.faults.cluster", "--quick", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


def test_servers_that_sync_by_default_lose_acknowledged_messages_in_a_power_cut_and_those_that_sync_always_do_not() -> None:
    if reason := why_not():
        pytest.skip(reason)
    assert "always" in broken("--control")
