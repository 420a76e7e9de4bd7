"""A rebuild that interprets in a second process gives the very same views, also when that process dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tracker import interpreting, projector
from tracker.demo_calls import ISSUERS, VENDORS, whole_call
from tracker.interpreting import Interpreter
from tracker.log.sqlite import SqliteLog
from tracker.projector import Projector
from tracker.sources import registry
from tracker.sources.contract import SourceSettings
from tracker.views.sqlite import SqliteViews

START = 1_700_000_000_000_000
HIDDEN = {"openvidu": frozenset({"ip", "clientData"})}


async def log_at(path: Path) -> SqliteLog:
    await SqliteLog.create(path)
    log = await SqliteLog.open(path)
    for vendor in VENDORS:
        keys = {ISSUERS[vendor]: "x" * 40} if vendor in ISSUERS else {}
        settings = SourceSettings(name=vendor, vendor=vendor, secrets=() if keys else ("x" * 40,), keys=keys)
        source = registry.build(settings)
        calls = [sent for seed in range(3) for sent in whole_call(vendor, START + seed * 10**9, seed=seed)]
        batch = [source.admit(sent.body, received_at=sent.at, proof={"scheme": "import"}) for sent in calls]
        unreadable = [source.admit(b'{"event": NaN', received_at=START, proof={})]
        await log.append_all([*batch, *unreadable])
    return log


async def rows(path: Path, log: SqliteLog, ahead: projector.Ahead | None) -> list[tuple[str, bytes]]:
    views = await SqliteViews.build(path)
    await Projector(log, views, now=lambda: START, batch=20, hidden=HIDDEN, ahead=ahead).catch_up()
    await views.finish()
    finished = await SqliteViews.open(path, writable=False)
    found = [row async for row in finished.dump(positions=True)]
    await finished.close()
    return found


async def test_facts_from_the_worker_give_the_same_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projector, "WORTH_AHEAD", 1)
    log = await log_at(tmp_path / "log.db")
    expected = await rows(tmp_path / "alone.db", log, None)
    with Interpreter(HIDDEN) as ahead:
        assert await rows(tmp_path / "ahead.db", log, ahead) == expected
    assert b"198.51.100.4" not in b"".join(row for key, row in expected if "openvidu:" in key)
    await log.close()


async def test_a_worker_that_dies_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projector, "WORTH_AHEAD", 1)
    log = await log_at(tmp_path / "log.db")
    expected = await rows(tmp_path / "alone.db", log, None)
    died = 0

    class Dying(Interpreter):
        async def end(self, records, begun):  # pyright: ignore
            nonlocal died
            if not died and self._pool is not None:
                died = next(iter(self._pool._processes))  # noqa: SLF001
                os.kill(died, signal.SIGKILL)
            return await super().end(records, begun)

    with Dying(HIDDEN) as ahead:
        assert await rows(tmp_path / "ahead.db", log, ahead) == expected
    assert died
    await log.close()


ORPHAN = """
import os, sys, time, asyncio
from tracker.interpreting import Interpreter
async def main():
    with Interpreter() as ahead:
        await ahead.begin([])
        print(next(iter(ahead._pool._processes)), flush=True)
        time.sleep(60)
if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_worker_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and is_running(worker):
        time.sleep(0.05)
    assert not is_running(worker)


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_the_collector_is_as_it_was_afterwards() -> None:
    import gc

    before = gc.get_threshold()
    with interpreting.rare_collections():
        assert gc.get_threshold() == interpreting.RARELY
    assert gc.get_threshold() == before
