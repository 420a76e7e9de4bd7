"""Keys in the bucket whose frame was never published are destroyed; keys of published frames never are."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, node_config, own_cluster
from tests.contracts.log_contract import delivery
from tests.support.server import READ_KEY, SECRETS, Running
from tests.support.encrypted_replicas import SealedNodes, absent_from_files
from tracker.server import stores
from tracker.config.load import load
from tracker.demo.show import config_text
from tracker.domain.deliveries import KEY_LOST
from tracker.log.erasure_records import ErasedRecord, ErasureBody, make_erasure_record
from tracker.log.keys.frame_keys import decode
from tracker.log.jetstream.log import JetstreamLog
from tracker.log.jetstream.orphan_keys import sweep_orphan_keys

DYING = """
import os, signal, sys
from tracker.cli.main import main
from tracker.log.jetstream.stream import Stream

publish, left = Stream.publish, [int(sys.argv.pop(1))]

async def dying(self, *args, **kwargs):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return await publish(self, *args, **kwargs)

Stream.publish = dying
sys.exit(main(sys.argv[1:]))
"""
"""A `tracker` that kills itself when its n-th frame's keys are in the bucket, before it publishes the frame."""


cluster = own_cluster


@pytest.fixture
async def nodes(cluster: Cluster, tmp_path: Path) -> AsyncIterator[SealedNodes]:
    async with SealedNodes(cluster, tmp_path) as opened:
        yield opened


async def sweep(log: JetstreamLog, *, older_than: float = -60) -> int:
    """Sweep keys older than `older_than` seconds; returns how many frames' keys were destroyed."""
    assert log._encryption is not None
    key_store = log._encryption._key_store
    return await sweep_orphan_keys(log._stream, log.replica, key_store, log._replicator.reached, older_than=older_than)


async def test_only_keys_without_a_published_frame_are_swept(nodes: SealedNodes) -> None:
    log = await nodes.open("a")
    assert log._encryption is not None
    await log.append_all([delivery("a"), delivery("b")])
    # Another node was killed between writing its keys and publishing its frame.
    frame, entry = log._make_frame([(delivery("c"), "hmac:c")], ())
    assert entry is not None
    await log._encryption.put(frame.id, entry)
    await log.append(delivery("d"))
    (wrapped,) = decode(entry).wrapped
    assert wrapped is not None
    folders = nodes.folders()
    assert any(wrapped in path.read_bytes() for folder in folders for path in folder.rglob("*.blk"))
    assert await sweep(log, older_than=600) == 0, "the frame may still be published"
    assert await sweep(log) == 1
    assert await absent_from_files([wrapped], folders)
    assert await sweep(log) == 0
    late = await nodes.open("b")
    assert [record.erased_by async for chunk in late.read(0) for record in chunk] == [None] * 3


async def test_a_frame_published_after_its_keys_were_swept_stops_no_node(nodes: SealedNodes) -> None:
    log = await nodes.open("a")
    assert log._encryption is not None
    frame, entry = log._make_frame([(delivery("a"), "hmac:a")], ())
    again, entry_again = log._make_frame([(delivery("b"), "hmac:b")], ())
    assert entry is not None
    assert entry_again is not None
    for each, keys in ((frame, entry), (again, entry_again)):
        await log._encryption.put(each.id, keys)
    assert await sweep(log) == 2
    # One frame from a server that was paused, and one whose node asks for its keys again.
    log._encryption.forget(frame.id)
    assert (await log._send(frame, None))[0].position == 1
    assert (await log._send(again, entry_again))[0].position == 2
    await log.append(delivery("c"))
    other = await nodes.open("b")
    assert [record.erased_by async for chunk in other.read(0) for record in chunk] == [KEY_LOST, None, None]


async def test_keys_older_than_the_stream_are_not_swept(nodes: SealedNodes) -> None:
    log = await nodes.open("a")
    await log.append(delivery("a"))
    await log.close()
    async with nodes.connected() as stream:
        await stream.api_request(f"STREAM.DELETE.{nodes.stream}", {})
    assert await sweep(await nodes.open("b")) == 0
    ((wrapped,),) = (await nodes.entries()).values()
    assert wrapped is not None


def sealed(folder: Path, *, cluster: Cluster | None = None, stream: str = "") -> Running:
    """A single server with encryption, or with `cluster` a node."""
    folder.mkdir()
    text = config_text(folder, SECRETS, READ_KEY, 0)
    if cluster is not None:
        text = node_config(text, "a", servers=cluster.urls, monitoring=cluster.monitoring, stream=stream, signs=True)
    keys = f'[sealing]\nkeys = [{{ id = "main", secret = "{"ab" * 32}" }}]\npath = "{folder}/keys.db"\n'
    return Running(folder, config=f"{text}\n{keys}")


async def die(source: Running, to: Running, frames: int) -> None:
    """Run `tracker copy` and kill it right before it publishes its n-th frame."""
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", DYING, str(frames), "copy", "--config", str(source.config), "--to", str(to.config)],
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await process.wait() == -9


async def test_a_copy_that_is_killed_several_times_leaves_one_key_for_each_record(
    cluster: Cluster, nodes: SealedNodes, tmp_path: Path
) -> None:
    before, there = sealed(tmp_path / "single"), sealed(tmp_path / "node", cluster=cluster, stream=nodes.stream)
    assert (await before.run("init"))[0] == 0
    material: set[bytes] = set()

    async def copy_and_kill(frames: int) -> None:
        await die(before, there, frames)
        material.update(each for wrapped in (await nodes.entries()).values() for each in wrapped if each is not None)

    log = await stores.open_log(load(before.config, {}))
    try:
        await log.append_all([delivery(f"k{n}", body=b'{"n": %d}' % n) for n in range(40)])
        await copy_and_kill(1)
        # The same frame, longer by now; then the erasure behind it.
        await log.append_all([delivery(f"l{n}") for n in range(40)])
        await copy_and_kill(1)
        await log.append_erasure(
            make_erasure_record(ErasureBody(why="identity", at=1, erased=[ErasedRecord(3, [])])), [3]
        )
        await log.destroy_keys([3])
        await copy_and_kill(2)
    finally:
        await log.close()
    code, _, stderr = await before.run("copy", "--to", str(there.config))
    assert code == 0, stderr
    entries = await nodes.entries()
    used_keys = {each for wrapped in entries.values() for each in wrapped if each is not None}
    assert sum(len(wrapped) for wrapped in entries.values()) == 81, "one key for each record"
    assert len(used_keys) == 80
    # Keys that the killed copies wrote are in no file: the last copy wrote other ones.
    assert len(material - used_keys) == 40 + 80 + 1
    folders = [*nodes.folders(), there.folder]
    assert not await absent_from_files(list(used_keys)[:1], folders[:1])
    assert await absent_from_files(material - used_keys, folders)

    # Records erased there stay unreadable.
    node = await stores.open_log(load(there.config, {}))
    assert isinstance(node, JetstreamLog)
    try:
        assert await node.wait_until_caught_up(20)
        gone = [1, 60]
        lost = [entries[frame][n] for frame, n in await node.replica.copies_of(gone)]
        erased_records = [ErasedRecord(each, []) for each in gone]
        await node.append_erasure(make_erasure_record(ErasureBody(why="identity", at=2, erased=erased_records)), gone)
        await node.destroy_keys(gone)
        assert await sweep(node) == 0
    finally:
        await node.close()
    assert len(lost) == 2
    assert await absent_from_files([each for each in lost if each is not None], folders)
