"""How fast Tracker is: `python -m bench`. Runs the programs of `PARTS` one after the other and prints one table of ratios.

Takes ten minutes on two quiet cores and needs 2 GB in the temporary folder. `pip install -e '.[bench]'` installs the library
that ingest and rebuilding are compared with. Compare ratios, not figures of different machines.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench import report

PARTS = {
    "ingest": ["--connections", "1,64", "--rounds", "1"],
    "rebuild": ["100000"],
    "live": ["--held", "20000", "--measured", "5000"],
    "reads": ["10000", "100000", "--rounds", "100"],
    "keeping": ["--kinds", "calls", "--events", "5000"],
}
"""Program → its arguments here. Each part takes at most two minutes."""


def machine() -> str:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} × {model}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts and print the table; returns 1 if a part failed."""
    parser = report.parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args(argv)
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        for part in options.only:
            began = time.monotonic()
            print(f"\n## {part}\n", flush=True)
            arguments = ["--smoke"] if options.smoke else PARTS[part]
            command = [sys.executable, "-m", f"bench.{part}", *arguments, "--rows", str(rows)]
            if subprocess.run(command, check=False).returncode:
                failed.append(part)
            print(f"\n{part}: {time.monotonic() - began:.0f} s", flush=True)
        print(f"\n{machine()}\n", flush=True)
        report.write(report.read(rows), options)
    if failed:
        print("failed:", ", ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    report.run(main)
