"""Runs a `tracker` command in a process of its own, which ends with this one.

    this process ── holds the writing end of a pipe, and writes nothing
    the command  ── reads it as its standard input (`cli/parent`); at its end, this process is gone

The kernel closes the pipe however a process ends, also by `kill -9`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import NamedTuple

OOM_SCORE = "1000"
"""`oom_score_adj`: the OOM killer should pick this process before any other. What it does is done again."""
STOP_SECONDS = 5.0


class CommandResult(NamedTuple):
    """`code`: None when it did not start. `out`: its standard output. `last`: the last line of its standard error."""

    code: int | None
    out: bytes
    last: str


class ChildCommand:
    """A running command. `stop` it in any case."""

    def __init__(self, process: asyncio.subprocess.Process, writing_end: int) -> None:
        self.process = process
        self._writing_end: int | None = writing_end

    @classmethod
    async def start(cls, config: Path, *arguments: str, out: int | None, errors: int | None) -> ChildCommand:
        """Start `tracker <arguments> --config <config>`; `out` and `errors` as `subprocess` takes them. Raises `OSError`."""
        reading_end, writing_end = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tracker", *arguments, "--config", str(config), "--end-with-parent",
                stdin=reading_end, stdout=out, stderr=errors,
            )  # fmt: skip
        except BaseException:
            os.close(writing_end)
            raise
        finally:
            os.close(reading_end)
        with contextlib.suppress(OSError):
            Path(f"/proc/{process.pid}/oom_score_adj").write_text(OOM_SCORE, "ascii")
        return cls(process, writing_end)

    async def stop(self) -> None:
        """Terminate it if it still runs, wait for its end, and kill it after 5 s. Idempotent."""
        try:
            if self.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self.process.terminate()
                try:
                    await asyncio.wait_for(self.process.wait(), STOP_SECONDS)
                except TimeoutError:
                    with contextlib.suppress(ProcessLookupError):
                        self.process.kill()
                    await self.process.wait()
        finally:
            if self._writing_end is not None:
                os.close(self._writing_end)
                self._writing_end = None


async def run(config: Path, *arguments: str) -> CommandResult:
    """Run `tracker <arguments> --config <config>` and wait for its end. It is stopped when the caller is cancelled."""
    pipe = asyncio.subprocess.PIPE
    try:
        child = await ChildCommand.start(config, *arguments, out=pipe, errors=pipe)
    except OSError as error:
        return CommandResult(None, b"", f"no process can be started: {error}")
    try:
        out, stderr = await child.process.communicate()
    finally:
        # If it still runs: the next run does the rest.
        await child.stop()
    return CommandResult(child.process.returncode, out, stderr.decode("utf-8", "replace").strip().rpartition("\n")[2])
