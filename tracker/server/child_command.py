"""One of our own commands in a process of its own: what reads a whole log would keep this one from answering."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import NamedTuple


FIRST_TO_GO = "500"
"""Of 1,000: how much rather than another process the kernel ends this one."""


class Ended(NamedTuple):
    """How it ended: `code` None where it was not begun; `out` is what it printed, `last` the last line it complained with."""

    code: int | None
    out: bytes
    last: str


async def run(config: Path, *arguments: str) -> Ended:
    """Run `tracker <arguments> --config <config>` to its end. Where we are stopped meanwhile, so is it."""
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tracker", *arguments, "--config", str(config),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    except OSError as error:
        return Ended(None, b"", f"no process can be started: {error}")
    # Where memory runs out it is this one that has to go, not the server.
    with contextlib.suppress(OSError):
        Path(f"/proc/{process.pid}/oom_score_adj").write_text(FIRST_TO_GO, "ascii")
    try:
        out, complaint = await process.communicate()
    except BaseException:
        # What is not done yet is done the next time.
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        raise
    return Ended(process.returncode, out, complaint.decode("utf-8", "replace").strip().rpartition("\n")[2])
