"""A rebuild in two processes gives the same views as in one, also when the second process dies or never starts."""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from tests.flows.privacy.test_erasure import sealed_config
from tests.flows.projector.test_projector import mixed_log, search_results
from tests.support.logs import opened
from tracker.projector import merge, rebuild
from tracker.cli.main import main
from tracker.demo.calls import SOURCES, whole_call
from tracker.log.contract import Log
from tracker.projector.batch import LoadFacts
from tracker.projector.projector import Progress, compare_views
from tracker.projector.rebuild import PART_SUFFIX, PartProcess, RebuildContext, build_views
from tracker.server import stores
from tracker.views.contract import MergeableViews
from tracker.views.sqlite.views import SqliteViews

HIDDEN = {"openvidu": frozenset({"ip", "clientData"})}


@asynccontextmanager
async def missing(path: Path) -> AsyncGenerator[Log]:
    raise FileNotFoundError(path)
    yield


def context(path: Path, open_log: Callable[[Path], AbstractAsyncContextManager[Log]] = opened) -> RebuildContext:
    return RebuildContext(functools.partial(open_log, path), stores.new_views, HIDDEN)


@pytest.fixture(autouse=True)
def _parallel_for_any_log(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.setattr(rebuild, "MIN_PARALLEL_RECORDS", 1)
    monkeypatch.setattr(rebuild, "HEAD_START_RECORDS", 0)


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
async def test_two_merged_halves_equal_the_views_of_the_whole_log(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "log.db"
    head = await log_at(path, seed)
    steps: list[tuple[int, int]] = []
    async with opened(path) as log:
        for until in (None, head * 2 // 3):
            ends = head if until is None else until
            single, halves = tmp_path / f"{until}-single.db", tmp_path / f"{until}-halves.db"
            progress: Progress = lambda at, of: steps.append((at, of))  # noqa: E731
            assert await build_views(log, single, context(path), single_process=True, until=until) == ends
            assert await build_views(log, halves, context(path), until=until, progress=progress) == ends
            assert not halves.with_name(halves.name + PART_SUFFIX).exists()
            views = [await SqliteViews.open(each, writable=False) for each in (single, halves)]
            assert await compare_views(*views) == []
            assert await search_results(views[0]) == await search_results(views[1])
            assert [row for row, *_ in await views[0].rows(COUNTS)] == [row for row, *_ in await views[1].rows(COUNTS)]
            for each in views:
                await each.close()
            assert steps == sorted(steps)
            assert steps[-1] == (ends, ends)
            steps.clear()
    assert b"198.51.100.4" not in b"".join(row for key, row in await rows(single) if "openvidu:" in key)


COUNTS = "SELECT json_array(source, span, at, net, peak) FROM levels UNION ALL SELECT json_array(span, at, source, sessions) FROM counts ORDER BY 1"


async def test_a_rebuild_finishes_without_a_second_process_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        await build_views(log, tmp_path / "single.db", context(path), single_process=True)
        monkeypatch.setattr(rebuild, "PartProcess", Dying)
        await build_views(log, tmp_path / "halves.db", context(path))
    assert killed
    assert not is_running(killed[0])
    assert await rows(tmp_path / "halves.db") == await rows(tmp_path / "single.db")


async def test_a_rebuild_finishes_without_a_second_process_that_cannot_read_the_log(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    head = await log_at(path)
    async with opened(path) as log:
        await build_views(log, tmp_path / "single.db", context(path, missing), single_process=True)
        assert await build_views(log, tmp_path / "halves.db", context(path, missing)) == head
    assert await rows(tmp_path / "halves.db") == await rows(tmp_path / "single.db")
    assert sorted(each.name for each in tmp_path.glob("halves*")) == ["halves.db", "halves.db-lock"]


def test_an_encrypted_log_with_an_erased_person_is_rebuilt_in_halves_and_leftovers_of_a_killed_rebuild_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(sealed_config(tmp_path), "utf-8")
    assert main(["init", "--config", str(config)]) == 0
    for vendor, source in SOURCES.items():
        calls = [sent.body for seed in (0, 1) for sent in whole_call(vendor, 10**15 + seed * 10**9, seed=seed)]
        (tmp_path / "calls").write_bytes(b"\n".join(calls) + b"\n")
        assert main(["import", "--config", str(config), source, str(tmp_path / "calls")]) == 0
    assert main(["rebuild", "--config", str(config)]) == 0
    assert main(["erase", "--config", str(config), "--identity", "user-alice", "--yes"]) == 0
    merged: list[Path] = []

    async def merge_parts(views: MergeableViews, part: Path, load_facts: LoadFacts) -> int:
        merged.append(part)
        return await merge.merge_parts(views, part, load_facts)

    monkeypatch.setattr(rebuild, "merge_parts", merge_parts)
    left = [tmp_path / f"views.db-rebuild{PART_SUFFIX}{ending}" for ending in ("", "-lock")]
    left[0].write_bytes(b"half of a file")
    assert main(["rebuild", "--config", str(config)]) == 0
    assert merged == left[:1]
    assert not list(tmp_path.glob("views.db-rebuild*"))
    monkeypatch.setattr(rebuild, "MIN_PARALLEL_RECORDS", 10**9)
    assert main(["rebuild", "--check", "--config", str(config)]) == 0
    assert len(merged) == 1


ORPHAN = """
import sys, time
from pathlib import Path
from tracker.projector.rebuild import PartProcess, RebuildContext

def never():
    time.sleep(60)

if __name__ == "__main__":
    context = RebuildContext(never, never, {})
    with PartProcess(context, Path(sys.argv[1]), 1, 2) as second:
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
