"""A server whose views lack most of a large log starts a rebuild, and accepts deliveries meanwhile."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
import structlog

from tests.flows.projector.test_projector import mixed_log
from tests.support.server import READ_KEY, SECRETS, Running, child_processes, expect_ended, now
from tracker.server import child_command, auto_rebuild
from tracker.server.child_command import CommandResult
from tracker.config.load import load
from tracker.demo.show import config_text
from tracker.demo.calls import ISSUERS, whole_call
from tracker.errors import LogUnavailable
from tracker.log.contract import Log
from tracker.log.file_lock import lock
from tracker.log.sqlite.log import SqliteLog
from tracker.projector.projector import Projector, compare_views
from tracker.server.declarations import use_recorded
from tracker.server.auto_rebuild import rebuild_if_far_behind
from tracker.sources import registry
from tracker.sources.contract import SourceSettings
from tracker.views.sqlite.views import SqliteViews

HOUR = 3_600_000_000


class Stores:
    """A log with calls, empty views, and a configuration with both paths."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "config.toml"
        path.write_text(config_text(folder, SECRETS, READ_KEY, 0), "utf-8")
        self.config = load(path, {})

    async def open(self) -> Stores:
        self.log = await mixed_log(self.folder / "log.db", random.Random(3))
        await use_recorded(self.log)
        await SqliteViews.create(self.folder / "views.db")
        self.views = await SqliteViews.open(self.folder / "views.db", writable=True)
        self.head = await self.log.head()
        return self

    async def rebuild(self) -> bool:
        return await rebuild_if_far_behind(self.config, self.log, self.views)

    async def close(self) -> None:
        await self.views.close()
        await self.log.close()


@pytest.fixture
async def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stores]:
    monkeypatch.setattr(auto_rebuild, "MIN_MISSING", 100)
    opened = await Stores(tmp_path).open()
    yield opened
    await opened.close()


async def test_a_rebuild_fills_the_views_and_the_projector_continues_from_its_position(
    stores: Stores, tmp_path: Path
) -> None:
    assert await stores.rebuild()
    assert await stores.views.projected_position() == stores.head
    livekit = registry.build(SourceSettings(name="lk", vendor="livekit", keys={ISSUERS["livekit"]: "x" * 40}))
    await stores.log.append_all(
        [
            livekit.verify_trusted(each.body, received_at=each.at, proof={"scheme": "import"})
            for each in whole_call("livekit", now() - HOUR)
        ]
    )
    await Projector(stores.log, stores.views).catch_up()
    await SqliteViews.create(tmp_path / "fresh.db")
    fresh = await SqliteViews.open(tmp_path / "fresh.db", writable=True)
    await Projector(stores.log, fresh).catch_up()
    assert await stores.views.projected_position() == await stores.log.head() > stores.head
    assert await compare_views(stores.views, fresh) == []
    await fresh.close()


async def unexpected_run(*_: Any) -> CommandResult:
    raise AssertionError("a rebuild was started")


async def test_no_rebuild_is_started_when_the_projector_is_faster(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_command, "run", unexpected_run)
    await Projector(stores.log, stores.views).catch_up(until=stores.head // 2 + 1)
    assert not await stores.rebuild()
    monkeypatch.setattr(auto_rebuild, "MIN_MISSING", stores.head + 1)
    await stores.views.close()
    for path in stores.folder.glob("views.db*"):
        path.unlink()
    await SqliteViews.create(stores.folder / "views.db")
    stores.views = await SqliteViews.open(stores.folder / "views.db", writable=True)
    assert not await stores.rebuild()


async def test_a_rebuild_is_started_when_half_of_the_log_is_missing(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[tuple[Any, ...]] = []

    async def run(*arguments: Any) -> CommandResult:
        commands.append(arguments)
        return CommandResult(0, b"", "")

    monkeypatch.setattr(child_command, "run", run)
    await Projector(stores.log, stores.views).catch_up(until=stores.head // 2)
    assert await stores.rebuild()
    assert commands == [(stores.config.path, "rebuild", "--wait")]


def broken_config(stores: Stores, _: pytest.MonkeyPatch) -> None:
    stores.config.path.write_text("nonsense", "utf-8")


def without_python(_: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")


@pytest.mark.parametrize("spoil", [broken_config, without_python])
async def test_after_a_failed_rebuild_the_projector_fills_the_views(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Stores, pytest.MonkeyPatch], None]
) -> None:
    spoil(stores, monkeypatch)
    with structlog.testing.capture_logs() as logged:
        assert not await stores.rebuild()
    assert "the rebuild failed, so the projector fills the views" in [each["event"] for each in logged]
    await Projector(stores.log, stores.views).catch_up()
    assert await stores.views.projected_position() == stores.head


async def test_no_rebuild_is_started_without_enough_free_space(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_command, "run", unexpected_run)
    monkeypatch.setattr(auto_rebuild, "FREE_SPACE_FACTOR", 2**50)
    with structlog.testing.capture_logs() as logged:
        assert not await stores.rebuild()
    assert [each["event"] for each in logged] == [
        "not enough free space to rebuild the views, so the projector fills them"
    ]


async def test_no_rebuild_is_started_when_log_or_views_cannot_be_read(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    class UnavailableLog:
        async def head(self) -> int:
            raise LogUnavailable("locked")

    monkeypatch.setattr(child_command, "run", unexpected_run)
    assert not await rebuild_if_far_behind(stores.config, cast("Log", UnavailableLog()), stores.views)
    (stores.folder / "log.db").rename(stores.folder / "gone.db")
    assert not await stores.rebuild()


async def test_a_waiting_rebuild_starts_when_the_other_one_has_ended(stores: Stores) -> None:
    other_lock = lock(stores.folder / "views.db-rebuild")
    assert (await child_command.run(stores.config.path, "rebuild")).code == 1
    waiting = asyncio.create_task(child_command.run(stores.config.path, "rebuild", "--wait"))
    await asyncio.sleep(2)
    assert not waiting.done()
    assert await stores.views.projected_position() == 0
    other_lock.close()
    ended = await waiting
    assert ended.code == 0, ended.last
    await stores.views.refresh()
    assert await stores.views.projected_position() == stores.head


async def test_a_rebuild_does_not_wait_for_a_lock_that_cannot_be_opened(stores: Stores) -> None:
    (stores.folder / "views.db-rebuild.lock").mkdir()
    ended = await asyncio.wait_for(child_command.run(stores.config.path, "rebuild", "--wait"), 30)
    assert (ended.code, "cannot be opened" in ended.last) == (1, True), ended.last


async def large_log(path: Path, rooms: int) -> int:
    """Write two records for each room; returns the number of records."""
    await SqliteLog.create(path)
    log = await SqliteLog.open(path)
    livekit = registry.build(SourceSettings(name="lk", vendor="livekit", keys={ISSUERS["livekit"]: "x" * 40}))
    at = now() - HOUR
    for first in range(0, rooms, 1_000):
        sent = [
            livekit.verify_trusted(
                json.dumps(
                    {
                        "event": event,
                        "id": f"EV_{event}_{n}",
                        "createdAt": str(at // 1_000_000),
                        "room": {"sid": f"RM_{n}", "name": f"room-{n}", "creationTime": str(at // 1_000_000)},
                    }
                ).encode(),
                received_at=at,
                proof={"scheme": "import"},
            )
            for n in range(first, first + 1_000)
            for event in ("room_started", "room_finished")
        ]
        await log.append_all(sent)
    head = await log.head()
    await log.close()
    return head


@pytest.mark.long  # the log has to be large: a real server decides by itself
async def test_a_server_accepts_deliveries_while_the_views_of_a_large_log_are_rebuilt(tmp_path: Path) -> None:
    running = Running(tmp_path)
    assert (await running.run("init"))[0] == 0
    (tmp_path / "log.db").unlink()
    head = await large_log(tmp_path / "log.db", auto_rebuild.MIN_MISSING // 2)
    assert head == auto_rebuild.MIN_MISSING
    await running.start()
    async with aiohttp.ClientSession() as web:
        call = whole_call("plugnmeet", now() - HOUR)
        status, body = await running.post(web, "plugnmeet", call[0])
        assert (status, body) == (200, {"position": head + 1, "duplicate": False})
        code, unready = await running.text(web, "/readyz")
        assert (code, "behind the log (position 0)" in unready) == (503, True), unready
        await running.until(web, "/metrics", f"tracker_projector_lag {head + 1:.1f}")
        # Kill it during the rebuild: the next start rebuilds again, and nothing is missing.
        while "the views lack most of the log" not in running.printed.read_text():
            await asyncio.sleep(0.1)
        left = [each for pid in running.children() for each in (pid, *child_processes(pid))]
        await running.kill()
        await expect_ended(left, 5)
        await running.start()
        for each in call[1:]:
            status, body = await running.post(web, "plugnmeet", each)
            assert status == 200
        await running.until(web, "/readyz", '"ready":true', seconds=90)
        found = await running.get(web, "/v1/stats", at_least=str(body["position"]))
        assert found["sessions"] == head // 2 + 1
    assert await running.stop() == 0
    printed = running.printed.read_text()
    assert printed.count("the views lack most of the log") == 2
    assert "the rebuild failed" not in printed
    code, out, stderr = await running.run("rebuild", "--check")
    assert code == 0, out + stderr
    with closing(sqlite3.connect(tmp_path / "views.db")) as views:
        assert views.execute("PRAGMA quick_check").fetchone() == ("ok",)
