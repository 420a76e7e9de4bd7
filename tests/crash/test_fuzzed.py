"""Mutated samples for every vendor: nothing but a refusal comes out of `verify`, and nothing at all out of `interpret`."""

from __future__ import annotations

import subprocess
import sys

from tests.support.samples import ROOT


def test_no_mutated_delivery_breaks_verify_or_interpret() -> None:
    command = [sys.executable, "-m", "bench.faults.fuzz", "--mutations", "--inputs", "20000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
