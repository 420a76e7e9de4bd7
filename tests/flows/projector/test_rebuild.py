"""A rebuild on two cores gives the very same views as on one, also when its second process dies or never starts."""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.flows.privacy.test_erasure import sealed_config
from tests.flows.projector.test_projector import mixed_log, words
from tracker.projector import merge, rebuild
from tracker.cli.main import main
from tracker.demo.calls import VENDORS, whole_call
from tracker.log.contract import Log
from tracker.log.sqlite.log import SqliteLog
from tracker.projector.batch import LoadFacts
from tracker.projector.projector import differences
from tracker.projector.rebuild import ENDING, PartProcess, build
from tracker.views.contract import MergeableViews
from tracker.views.sqlite.views import SqliteViews

HIDDEN = {"openvidu": frozenset({"ip", "clientData"})}


@asynccontextmanager
async def opened(path: Path) -> AsyncGenerator[Log]:
    log = await SqliteLog.open(path)
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def gone(path: Path) -> AsyncGenerator[Log]:
    raise FileNotFoundError(path)
    yield


@pytest.fixture(autouse=True)
def _any_log_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.setattr(rebuild, "WORTH_HALVES", 1)
    monkeypatch.setattr(rebuild, "HEAD_START", 0)


async def log_at(path: Path, seed: int = 1) -> int:
    log = await mixed_log(path, random.Random(seed))
    head = await log.head()
    await log.close()
    return head


async def rows(path: Path) -> list[tuple[str, bytes]]:
    views = await SqliteViews.open(path, writable=False)
    found = [row async for row in views.dump(positions=True)]
    await views.close()
    return found


@pytest.mark.parametrize("seed", range(3))
async def test_two_halves_are_the_views_of_the_whole_log(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "log.db"
    head = await log_at(path, seed)
    steps: list[tuple[int, int]] = []
    async with opened(path) as log:
        both = functools.partial(build, log, functools.partial(opened, path), hidden=HIDDEN)
        for until in (None, head * 2 // 3):
            ends = head if until is None else until
            alone, halves = tmp_path / f"{until}-alone.db", tmp_path / f"{until}-halves.db"
            assert await both(alone, alone=True, until=until) == ends
            assert await both(halves, until=until, progress=lambda at, of: steps.append((at, of))) == ends
            assert not halves.with_name(halves.name + ENDING).exists()
            views = [await SqliteViews.open(each, writable=False) for each in (alone, halves)]
            assert await differences(*views) == []
            assert await words(views[0]) == await words(views[1])
            assert [row for row, *_ in await views[0].rows(COUNTS)] == [row for row, *_ in await views[1].rows(COUNTS)]
            for each in views:
                await each.close()
            assert steps == sorted(steps)
            assert steps[-1] == (ends, ends)
            steps.clear()
    assert b"198.51.100.4" not in b"".join(row for key, row in await rows(alone) if "openvidu:" in key)


COUNTS = "SELECT json_array(source, span, at, net, peak) FROM levels UNION ALL SELECT json_array(span, at, source, sessions) FROM counts ORDER BY 1"


async def test_a_second_process_that_is_killed_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.db"
    await log_at(path)
    killed: list[int] = []

    class Dying(PartProcess):
        def __enter__(self) -> PartProcess:  # pyright: ignore[reportIncompatibleMethodOverride]
            super().__enter__()
            assert self.pid is not None
            killed.append(self.pid)
            os.kill(self.pid, signal.SIGKILL)
            return self

    async with opened(path) as log:
        both = functools.partial(build, log, functools.partial(opened, path), hidden=HIDDEN)
        await both(tmp_path / "alone.db", alone=True)
        monkeypatch.setattr(rebuild, "Second", Dying)
        await both(tmp_path / "halves.db")
    assert killed
    assert not is_running(killed[0])
    assert await rows(tmp_path / "halves.db") == await rows(tmp_path / "alone.db")


async def test_a_second_process_that_cannot_read_the_log_is_done_without(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    head = await log_at(path)
    async with opened(path) as log:
        both = functools.partial(build, log, functools.partial(gone, path), hidden=HIDDEN)
        await both(tmp_path / "alone.db", alone=True)
        assert await both(tmp_path / "halves.db") == head
    assert await rows(tmp_path / "halves.db") == await rows(tmp_path / "alone.db")
    assert sorted(each.name for each in tmp_path.glob("halves*")) == ["halves.db", "halves.db-lock"]


def test_a_sealed_log_with_an_erased_person_is_rebuilt_in_halves_and_what_a_killed_rebuild_left_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(sealed_config(tmp_path), "utf-8")
    assert main(["init", "--config", str(config)]) == 0
    for vendor, source in zip(VENDORS, ("ov", "meet", "lk", "pnm", "rec"), strict=True):
        calls = [sent.body for seed in (0, 1) for sent in whole_call(vendor, 10**15 + seed * 10**9, seed=seed)]
        (tmp_path / "calls").write_bytes(b"\n".join(calls) + b"\n")
        assert main(["import", "--config", str(config), source, str(tmp_path / "calls")]) == 0
    assert main(["rebuild", "--config", str(config)]) == 0
    assert main(["erase", "--config", str(config), "--identity", "user-alice", "--yes"]) == 0
    together: list[Path] = []

    async def put_together(views: MergeableViews, part: Path, recall: LoadFacts) -> int:
        together.append(part)
        return await merge.merge_parts(views, part, recall)

    monkeypatch.setattr(rebuild, "put_together", put_together)
    left = [tmp_path / f"views.db-rebuild{ENDING}{ending}" for ending in ("", "-lock")]
    left[0].write_bytes(b"half of a file")
    assert main(["rebuild", "--config", str(config)]) == 0
    assert together == left[:1]
    assert not list(tmp_path.glob("views.db-rebuild*"))
    monkeypatch.setattr(rebuild, "WORTH_HALVES", 10**9)
    assert main(["rebuild", "--check", "--config", str(config)]) == 0
    assert len(together) == 1


ORPHAN = """
import functools, sys, time
from pathlib import Path
from tracker.server import stores
from tracker.projector.rebuild import Second

def never():
    time.sleep(60)

if __name__ == "__main__":
    with Second(never, Path(sys.argv[1]), 1, 2, {}) as second:
        print(second.pid, flush=True)
        time.sleep(60)
"""


def test_a_second_process_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    with subprocess.Popen([sys.executable, script, tmp_path / "half"], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        second = int(parent.stdout.readline())
        time.sleep(1)
        assert is_running(second)
        parent.kill()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and is_running(second):
        time.sleep(0.05)
    assert not is_running(second)


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
