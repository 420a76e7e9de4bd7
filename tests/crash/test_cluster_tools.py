"""The tools that break clusters: a proxy that cuts inside an acknowledgement, and a killed leader."""

from __future__ import annotations

from pathlib import Path

import nats
import nats.errors
import pytest
from nats.js.api import StreamConfig

from tests.support.cluster import Cluster
from tests.support.tcp_proxy import ACKNOWLEDGEMENT, Proxy


async def ignore(_: Exception) -> None:
    """Ignore errors: the test breaks connections on purpose."""


async def test_a_cut_inside_an_acknowledgement_loses_the_answer_but_not_the_message(
    cluster: Cluster,
) -> None:
    direct = await nats.connect(servers=cluster.urls, error_cb=ignore)
    await direct.jetstream().add_stream(StreamConfig(name="cutting", subjects=["cutting.*"], num_replicas=3))
    leader = await cluster.leader_of("cutting")
    proxy = await Proxy("127.0.0.1", int(cluster.urls[leader].rsplit(":", 1)[1])).start()
    client = await nats.connect(servers=[proxy.url], error_cb=ignore, allow_reconnect=False)
    cut = proxy.cut_within(ACKNOWLEDGEMENT)
    with pytest.raises((nats.errors.Error, TimeoutError)):
        await client.jetstream(timeout=2).publish("cutting.x", b"one")
    assert cut.is_set()
    assert (await direct.jetstream().stream_info("cutting")).state.messages == 1
    await direct.jetstream().delete_stream("cutting")
    await direct.close()
    await proxy.stop()


async def test_a_killed_leader_is_replaced_and_comes_back(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        client = await nats.connect(servers=cluster.urls, error_cb=ignore)
        await client.jetstream().add_stream(StreamConfig(name="killed", subjects=["killed.*"], num_replicas=3))
        leader = await cluster.leader_of("killed")
        cluster.kill(leader)
        assert await cluster.leader_of("killed") != leader
        cluster.start_server(leader)
        await cluster.ready()
        await client.close()
