"""A cluster whose servers are killed, cut off and stalled loses no answered delivery. Runs `bench/faults/cluster.py`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import aiohttp
import pytest

from tests.support.cluster import Cluster, node
from tests.support.load import Load, deliveries
from tests.support.power_loss import Disk, missing_requirement
from tests.support.programs import run_bench
from tests.support.server import Running


@pytest.mark.parametrize(
    "options", [["--quick"], pytest.param([], marks=pytest.mark.long)], ids=["each fault once", "all rounds"]
)
def test_after_kills_cuts_and_stalls_every_node_has_each_answered_delivery_once(options: list[str]) -> None:
    printed = run_bench("bench.faults.cluster", *options, seconds=300 if options else 1200)
    assert "lost 0, gaps 0, twice 0" in printed
    assert ("power of all servers cut" in printed) == (missing_requirement() is None), printed


@pytest.mark.long  # it tests NATS and the simulated power cut, not Tracker
def test_servers_with_default_syncs_lose_acknowledged_messages_in_a_power_cut_and_with_sync_always_none() -> None:
    if reason := missing_requirement():
        pytest.skip(reason)
    assert "always" in run_bench("bench.faults.cluster", "--quick", "--control", seconds=300)


async def test_servers_without_sync_always_are_refused_and_an_unknown_sync_setting_is_reported(
    tmp_path: Path,
) -> None:
    async with Cluster(tmp_path / "servers", sync=None) as cluster:
        seen = node(tmp_path, "a", cluster)
        with pytest.raises(AssertionError, match="sync_interval: always"):
            await seen.start(init=True)
        unseen = await node(tmp_path, "b", cluster, monitored=False).start(init=True)
        async with aiohttp.ClientSession() as web, web.get(f"{unseen.url}/metrics") as answer:
            metrics = (await answer.text()).splitlines()
        assert await unseen.stop() == 0
        assert "monitoring" in unseen.printed.read_text()
        assert "tracker_stream_servers_unread 3.0" in metrics


async def test_a_node_whose_stream_lost_applied_records_refuses_deliveries_and_reports_it(tmp_path: Path) -> None:
    if reason := missing_requirement():
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
        source, statuses = deliveries(), set[int]()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as web:
            deadline = time.monotonic() + 60
            readiness = ""
            while "lost" not in readiness and time.monotonic() < deadline:
                for _ in range(len(load.answered) + 1):
                    fresh = next(source)
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    statuses.add((await running.post(web, *fresh))[0])
                    readiness = (await running.text(web, "/readyz"))[1]
                await asyncio.sleep(0.3)
        assert "lost" in readiness, running.printed.read_text()[-3000:]
        assert statuses == {503}
        await running.kill()
        with pytest.raises(AssertionError, match="lost"):
            await running.start()
    finally:
        await cluster.stop()
        disk.unmount()


async def test_a_node_that_has_nothing_to_apply_is_ready_again_when_the_servers_are_back(tmp_path: Path) -> None:
    async with Cluster(tmp_path / "servers") as cluster, aiohttp.ClientSession() as web:
        running = await node(tmp_path, "a", cluster).start(init=True)
        assert await readiness_becomes(web, running, 200)
        cluster.kill()
        assert await readiness_becomes(web, running, 503)
        for number in range(3):
            cluster.start_server(number)
        assert await readiness_becomes(web, running, 200)
        assert await running.stop() == 0


async def readiness_becomes(web: aiohttp.ClientSession, running: Running, status: int) -> bool:
    """Whether `/readyz` answers with this status within a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        async with web.get(f"{running.url}/readyz") as answer:
            if answer.status == status:
                return True
        await asyncio.sleep(0.1)
    return False
