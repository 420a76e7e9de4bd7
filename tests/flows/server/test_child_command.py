"""Commands that a process starts end with it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.server import Running, child_processes, expect_ended
from tracker.log.file_lock import lock

START_AND_WAIT = """
import asyncio, sys
from pathlib import Path
from tracker.server import child_command

asyncio.run(child_command.run(Path(sys.argv[1]), "rebuild", "--wait"))
"""


async def test_a_rebuild_that_a_server_starts_runs_below_its_priority_and_ends_when_it_is_killed(
    tmp_path: Path,
) -> None:
    running = Running(tmp_path)
    assert (await running.run("init"))[0] == 0
    with lock(tmp_path / "views.db-rebuild"):
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", START_AND_WAIT, str(running.config), cwd=ROOT
        )
        while not (children := child_processes(parent.pid)):
            await asyncio.sleep(0.02)
        own = os.getpriority(os.PRIO_PROCESS, parent.pid)
        while os.getpriority(os.PRIO_PROCESS, children[0]) != min(19, own + 5):
            await asyncio.sleep(0.02)
        parent.kill()
        await parent.wait()
        await expect_ended(children, 5)


async def test_a_command_typed_by_a_person_does_not_end_with_its_input(tmp_path: Path) -> None:
    running = Running(tmp_path)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tracker", "init", "--config", str(running.config), cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await process.wait() == 0
