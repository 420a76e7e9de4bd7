"""A node measures how far it is behind with its monotonic clock, so wrong wall clocks do not matter."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from tests.support.cluster import Cluster
from tests.contracts.log_contract import delivery
from tests.support.tcp_proxy import Proxy
from tests.support.replicas import opened, settings_of

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("hours_off", [-1, 1])
async def test_a_node_whose_clock_is_an_hour_off_measures_right_how_far_it_is_behind(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours_off: int
) -> None:
    right = time.time
    monkeypatch.setattr("time.time", lambda: right() + 3_600 * hours_off)
    way = await Proxy("127.0.0.1", int(cluster.urls[0].rpartition(":")[2])).start()
    try:
        settings = msgspec.structs.replace(settings_of(cluster), servers=(way.url,))
        log = await opened(tmp_path / "a" / "log.db", settings)
        try:
            await log.append(delivery("1"))
            await asyncio.sleep(1.2)  # time for one more check
            assert log.lag().seconds < 2
            way.stall()
            await asyncio.sleep(3)
            assert 2 < log.lag().seconds < 10
            way.mend()
            async with asyncio.timeout(20):
                while log.lag().seconds > 1.5:
                    await asyncio.sleep(0.05)
        finally:
            way.mend()
            await log.close()
    finally:
        await way.stop()
