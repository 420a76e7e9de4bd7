"""A cluster is broken in every way once, and loses nothing that was answered; the long rounds are in `bench/faults/cluster.py`."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from tests.support.cluster import Cluster, node
from tests.support.load import Load, deliveries
from tests.support.power_loss import Disk, why_not
from tests.support.server import Running
from tests.support.samples import ROOT


def broken(*options: str) -> str:
    """What the program printed; it has to find nothing."""
    command = [sys.executable, "-m", "bench.faults.cluster", "--quick", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


def test_whatever_is_killed_cut_or_stalled_what_was_answered_is_there_once_on_every_node() -> None:
    said = broken()
    assert "lost 0, gaps 0, twice 0" in said
    assert ("power of all servers cut" in said) == (why_not() is None), said


def test_servers_that_sync_by_default_lose_acknowledged_messages_in_a_power_cut_and_those_that_sync_always_do_not() -> (
    None
):
    if reason := why_not():
        pytest.skip(reason)
    assert "always" in broken("--control")


async def test_servers_that_do_not_sync_always_are_refused_and_where_that_cannot_be_read_it_is_told(
    tmp_path: Path,
) -> None:
    async with Cluster(tmp_path / "servers", sync=None) as cluster:
        seen = node(tmp_path, "a", cluster)
        with pytest.raises(AssertionError, match="sync_interval: always"):
            await seen.start(init=True)
        unseen = await node(tmp_path, "b", cluster, monitored=False).start(init=True)
        async with aiohttp.ClientSession() as web, web.get(f"{unseen.url}/metrics") as answer:
            told = (await answer.text()).splitlines()
        assert await unseen.stop() == 0
        assert "monitoring" in unseen.printed.read_text()
        assert "tracker_stream_servers_unread 3.0" in told


async def test_a_node_whose_stream_has_lost_what_it_applied_takes_nothing_more_and_says_so(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    disk = Disk(tmp_path / "power").mount()
    cluster = Cluster(disk.path, sync=None)
    try:
        await cluster.start()
        running = await node(tmp_path, "a", cluster, monitored=False).start(init=True)
        disk.sync()
        load = Load([running])
        load.start()
        await asyncio.sleep(2)
        await load.drain()
        assert load.answered
        cluster.kill()
        disk.cut_power()
        for number in range(3):
            cluster.start_server(number)
        source, seen = deliveries(), set[int]()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as web:
            deadline = time.monotonic() + 60
            said = ""
            while "lost" not in said and time.monotonic() < deadline:
                for _ in range(len(load.answered) + 1):
                    fresh = next(source)
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    seen.add((await running.post(web, *fresh))[0])
                    async with web.get(f"{running.url}/readyz") as answer:
                        said = await answer.text()
                await asyncio.sleep(0.3)
        assert "lost" in said, running.printed.read_text()[-3000:]
        assert seen == {503}
        await running.kill()
        with pytest.raises(AssertionError, match="lost"):
            await running.start()
    finally:
        await cluster.stop()
        disk.unmount()


async def test_a_node_that_has_nothing_to_apply_is_ready_again_when_the_servers_are_back(tmp_path: Path) -> None:
    async with Cluster(tmp_path / "servers") as cluster, aiohttp.ClientSession() as web:
        running = await node(tmp_path, "a", cluster).start(init=True)
        assert await becomes(web, running, 200)
        cluster.kill()
        assert await becomes(web, running, 503)
        for number in range(3):
            cluster.start_server(number)
        assert await becomes(web, running, 200)
        assert await running.stop() == 0


async def becomes(web: aiohttp.ClientSession, running: Running, status: int) -> bool:
    """Whether `/readyz` answers so within a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        async with web.get(f"{running.url}/readyz") as answer:
            if answer.status == status:
                return True
        await asyncio.sleep(0.1)
    return False
