"""Each node of a cluster shows all nodes and their latest deliveries, and marks nodes that went silent."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import aiohttp
import pytest

from tests.support.cluster import Cluster, node
from tests.support.server import now
from tracker.demo.calls import whole_call


@pytest.mark.asyncio(loop_scope="session")
async def test_each_node_shows_all_nodes_and_the_deliveries_of_each(tmp_path: Path, cluster: Cluster) -> None:
    stream = f"nodes-{secrets.token_hex(4)}"
    first = await node(tmp_path, "a", cluster, stream=stream).start("--role", "ingest", init=True)
    second = await node(tmp_path, "b", cluster, stream=stream).start(init=True)
    sent = whole_call("livekit", now(), seed=5)
    try:
        async with aiohttp.ClientSession() as web:
            for n, each in enumerate(sent[:6]):
                assert (await (first if n % 2 else second).post(web, "livekit", each))[0] == 200
            shown = await second.until(
                web, "/sources", '<th scope="row">a', "ingest, signs", '<td class="number">6</td>'
            )
            assert '<th scope="row">b' in shown
            assert "silent" not in shown
            assert "diverged" not in shown
            for running in (first, second):
                await running.until(web, "/metrics", "tracker_nodes 2.0")

            await first.kill()
            await second.until(web, "/sources", '<span class="badge stuck">silent</span>')
            await second.until(web, "/metrics", "tracker_nodes 1.0")
    finally:
        await asyncio.gather(first.stop(), second.stop())
