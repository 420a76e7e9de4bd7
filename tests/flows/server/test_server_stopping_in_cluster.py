"""A node that stops while no NATS server answers ends within its grace, and answers the requests it accepted."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

import aiohttp

from tests.support.cluster import Cluster, node
from tests.support.server import now
from tracker.demo.calls import SampleDelivery

GRACE = 8


def started(n: int) -> SampleDelivery:
    room = {"sid": f"RM_{n}", "name": "r"}
    body = {"event": "room_started", "id": f"EV_{n}", "createdAt": "1700000000", "room": room}
    return SampleDelivery(event="room_started", body=json.dumps(body).encode(), at=now())


@pytest.mark.alone
async def test_a_node_without_its_cluster_stops_within_its_grace(tmp_path: Path) -> None:
    async with Cluster(tmp_path / "nats") as cluster, aiohttp.ClientSession() as web:
        running = node(tmp_path, "a", cluster)
        text = running.config.read_text()
        assert "[server]\n" in text
        running.config.write_text(text.replace("[server]\n", f'[server]\nshutdown_grace = "{GRACE}s"\n'))
        await running.start(init=True)
        assert (await running.post(web, "livekit", started(0)))[0] == 200
        cluster.kill()
        # More than one frame: the deliveries behind the first one get no extra time.
        waiting = [asyncio.create_task(running.post(web, "livekit", started(n))) for n in range(1, 80)]
        await asyncio.sleep(0.5)
        began = time.monotonic()
        assert await running.stop() == 0
        assert time.monotonic() - began < GRACE
        answers = await asyncio.gather(*waiting)
        assert {status for status, _ in answers} == {503}
        assert all(problem["type"].endswith("log-unavailable") for _, problem in answers)
