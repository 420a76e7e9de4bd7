"""One of our own commands in a process of its own: what reads a whole log would keep this one from answering."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import NamedTuple


class Ended(NamedTuple):
    """How it ended: `out` is what it printed, `last` the last line it complained with."""

    code: int | None
    out: bytes
    last: str


async def run(config: Path, *arguments: str) -> Ended:
    """Run `tracker <arguments> --config <config>` to its end. Where we are stopped meanwhile, so is it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tracker", *arguments, "--config", str(config),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, complaint = await process.communicate()
    except BaseException:
        # What is not done yet is done the next time.
        process.terminate()
        await process.wait()
        raise
    return Ended(process.returncode, out, complaint.decode("utf-8", "replace").strip().rpartition("\n")[2])
