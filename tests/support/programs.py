"""Runs the programs of `bench/` that check themselves."""

from __future__ import annotations

import subprocess
import sys

from tests.support.paths import ROOT


def run_bench(module: str, *options: str, seconds: float) -> str:
    """Run `python -m MODULE OPTIONS…` in the root of the repository; returns what it printed.

    Fails with its output if it exits with anything but 0, or takes longer than `seconds`.
    """
    command = [sys.executable, "-m", module, *options]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=seconds)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-3000:]
    return ended.stdout
