"""Runs a `tracker` command in a process of its own: reading a whole log would keep this one from answering."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import NamedTuple


OOM_SCORE = "500"
"""`oom_score_adj`: the OOM killer should pick this process before the server."""


class CommandResult(NamedTuple):
    """`code`: None when it did not start. `out`: its standard output. `last`: the last line of its standard error."""

    code: int | None
    out: bytes
    last: str


async def run(config: Path, *arguments: str) -> CommandResult:
    """Run `tracker <arguments> --config <config>` and wait for its end. It is terminated when the caller is cancelled."""
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tracker", *arguments, "--config", str(config),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    except OSError as error:
        return CommandResult(None, b"", f"no process can be started: {error}")
    with contextlib.suppress(OSError):
        Path(f"/proc/{process.pid}/oom_score_adj").write_text(OOM_SCORE, "ascii")
    try:
        out, stderr = await process.communicate()
    except BaseException:
        # The next run does the rest.
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        raise
    return CommandResult(process.returncode, out, stderr.decode("utf-8", "replace").strip().rpartition("\n")[2])
