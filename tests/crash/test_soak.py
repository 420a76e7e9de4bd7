"""The soak in small: some seconds of load, kills and stops, and everything is where it was said to be."""

from __future__ import annotations

import subprocess
import sys

from tests.support.samples import ROOT


def test_under_load_with_kills_and_stops_every_answer_stays_true_and_the_views_follow() -> None:
    command = [sys.executable, "-m", "bench.soak", "--minutes", "0.2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "faults: none" in done.stdout
