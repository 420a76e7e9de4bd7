"""A rebuild in several processes gives the same views as in one, and fails with a clear error when one of them does."""

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
from tracker.errors import ViewsUnavailable
from tracker.log.contract import Log
from tracker.projector.batch import LoadFacts
from tracker.projector.projector import Progress, compare_views
from tracker.projector.rebuild import PART_SUFFIX, PartProcess, RebuildContext, build_views, remove_parts
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
    monkeypatch.setattr(rebuild, "MIN_PART_RECORDS", 1)
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


@pytest.mark.parametrize("jobs", [2, 5])
async def test_merged_parts_equal_the_views_of_the_whole_log(tmp_path: Path, jobs: int) -> None:
    path = tmp_path / "log.db"
    head = await log_at(path, seed=jobs)
    ends = head if jobs % 2 else head * 2 // 3
    until = None if ends == head else ends
    steps: list[tuple[int, int]] = []
    progress: Progress = lambda at, of: steps.append((at, of))  # noqa: E731
    single, parts = tmp_path / "single.db", tmp_path / "parts.db"
    async with opened(path) as log:
        assert await build_views(log, single, context(path), jobs=1, until=until) == ends
        assert await build_views(log, parts, context(path), jobs=jobs, until=until, progress=progress) == ends
    assert not list(tmp_path.glob(f"*{PART_SUFFIX}*"))
    views = [await SqliteViews.open(each, writable=False) for each in (single, parts)]
    assert await compare_views(*views) == []
    assert await search_results(views[0]) == await search_results(views[1])
    assert [row for row, *_ in await views[0].rows(COUNTS)] == [row for row, *_ in await views[1].rows(COUNTS)]
    for each in views:
        await each.close()
    assert steps == sorted(steps)
    assert steps[-1] == (ends, ends)
    assert b"198.51.100.4" not in b"".join(row for key, row in await rows(single) if "openvidu:" in key)


COUNTS = "SELECT json_array(source, span, at, net, peak) FROM levels UNION ALL SELECT json_array(span, at, source, sessions) FROM counts ORDER BY 1"


async def test_a_rebuild_ends_with_an_error_when_one_of_its_processes_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.db"
    await log_at(path)
    started: list[int] = []

    class Dying(PartProcess):
        def __enter__(self) -> PartProcess:  # pyright: ignore[reportIncompatibleMethodOverride]
            super().__enter__()
            assert self.pid is not None
            started.append(self.pid)
            if len(started) == 2:
                os.kill(self.pid, signal.SIGKILL)
            return self

    monkeypatch.setattr(rebuild, "PartProcess", Dying)
    async with opened(path) as log:
        with pytest.raises(ViewsUnavailable, match=r"was ended by signal 9; the views in use are unchanged.*--jobs 1"):
            await build_views(log, tmp_path / "parts.db", context(path), jobs=4)
    assert len(started) == 3
    assert not any(is_running(pid) for pid in started)
    remove_parts(tmp_path / "parts.db")
    assert not list(tmp_path.glob(f"*{PART_SUFFIX}*"))


async def test_a_rebuild_ends_with_the_error_of_a_process_that_cannot_read_the_log(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    await log_at(path)
    async with opened(path) as log:
        with pytest.raises(ViewsUnavailable, match=r"for the records \d+ to \d+ failed; .*FileNotFoundError"):
            await build_views(log, tmp_path / "parts.db", context(path, missing), jobs=2)


def test_an_encrypted_log_with_an_erased_person_is_rebuilt_in_parts_and_leftovers_of_a_killed_rebuild_are_removed(
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
    left = tmp_path / f"views.db-rebuild{PART_SUFFIX}-12345"
    left.write_bytes(b"half of a file")
    assert main(["rebuild", "--config", str(config), "--jobs", "3"]) == 0
    assert len(merged) == 2
    assert not list(tmp_path.glob("views.db-rebuild*"))
    assert main(["rebuild", "--check", "--config", str(config), "--jobs", "1"]) == 0
    assert len(merged) == 2


@pytest.mark.parametrize("jobs", ["0", "33", "two"])
def test_a_number_of_processes_that_makes_no_sense_is_refused(jobs: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["rebuild", "--jobs", jobs])
    assert "--jobs" in capsys.readouterr().err


ORPHAN = """
import sys, time
from pathlib import Path
from tracker.projector.rebuild import PartProcess, RebuildContext

def never():
    time.sleep(60)

if __name__ == "__main__":
    context = RebuildContext(never, never, {})
    with PartProcess(context, Path(sys.argv[1]), 1, 2) as part:
        print(part.pid, flush=True)
        time.sleep(60)
"""


def test_a_process_of_a_rebuild_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
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
