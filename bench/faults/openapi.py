"""Requests to every route of the OpenAPI description, valid and invalid: `python -m bench.faults.openapi`.

`[--examples 100] [--minutes 10]`; needs `pip install -e '.[faults]'` (schemathesis). The server is real and filled with
whole calls of all vendors. No answer may be a 5xx (except 503 and 504, which are documented), none may take longer than ten
seconds, every answer has to match its description, and the server's memory may not grow. Prints schemathesis's own report
and the memory.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import shutil
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from bench import report
from bench.faults.senders import memory
from tests.support.server import TOKEN, Running, now
from tracker.demo.calls import VENDORS, whole_call

HOUR = 3_600_000_000
HOOKS = """
import schemathesis

@schemathesis.check
def no_server_error(ctx, response, case):
    assert response.status_code < 500 or response.status_code in (503, 504), response.status_code

@schemathesis.hook
def map_query(ctx, query):
    # `at_least` waits five seconds for a position that never comes: that would be most of the run.
    return {name: value for name, value in (query or {}).items() if name != "at_least"}
"""


async def run_schemathesis(
    url: str, examples: int, seed: int, checks: str, minutes: float, hooks: Path
) -> tuple[int, str]:
    """Run schemathesis once; returns its exit code and report."""
    program = Path(sysconfig.get_path("scripts")) / "schemathesis"
    command = [
        str(program if program.exists() else shutil.which("schemathesis") or "schemathesis"), "run", f"{url}/openapi.json",
        "--url", url, "-H", f"Authorization: Bearer {TOKEN}", "--max-examples", str(examples), "--seed", str(seed),
        "--checks", checks, "--request-timeout", "10", "--continue-on-failure", "--phases", "examples,coverage,fuzzing",
        "--exclude-path", "/v1/live", "--suppress-health-check", "all", "--no-color", "--workers", "8", "--max-failures", "20", "--max-time", str(int(minutes * 60)),
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "tracker_hooks", "PYTHONPATH": str(hooks)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode(errors="replace")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; returns the exit code."""
    parser = report.parser(__doc__)
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10, help="the most minutes of a round")
    parser.add_argument("--rounds", type=int, default=2, help="memory is compared between them")
    parser.add_argument("--checks", default="no_server_error,status_code_conformance,response_schema_conformance")
    options = parser.parse_args(argv)
    if options.smoke:
        options.examples, options.rounds, options.minutes = 1, 1, 0.1
    if importlib.util.find_spec("schemathesis") is None:
        print("skipped: schemathesis is not installed (pip install '.[faults]')")
        return 0
    return asyncio.run(ask_all(options))


async def ask_all(options: argparse.Namespace) -> int:
    """Run the rounds; returns the exit code of the worst."""
    worst = 0
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tracker_hooks.py").write_text(HOOKS, "utf-8")
        running = await Running(Path(folder)).start(init=True)
        try:
            async with aiohttp.ClientSession() as web:
                for vendor in VENDORS:
                    for n in range(3):
                        for sent in whole_call(vendor, now() - (n + 1) * HOUR, seed=n):
                            await running.post(web, vendor, sent)
            print(f"memory before: {memory(running):.0f} MiB", flush=True)
            for number in range(options.rounds):
                code, report = await run_schemathesis(
                    running.url, options.examples, options.seed + number, options.checks, options.minutes, Path(folder)
                )
                worst = max(worst, code)
                print(report)
                print(f"memory after round {number + 1}: {memory(running):.0f} MiB", flush=True)
            printed = running.printed.read_text("utf-8", "replace")
            tracebacks = [line for line in printed.splitlines() if "Traceback" in line]
            print("tracebacks in the server's log:", len(tracebacks), *tracebacks[:3], sep="\n")
        finally:
            await running.stop()
    return worst


if __name__ == "__main__":
    report.run(main)
