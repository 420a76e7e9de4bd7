"""A lost bucket of data keys is restored from the nodes' key stores; erased keys are not restored."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, own_cluster
from tests.contracts.log_contract import delivery
from tests.support.encrypted_replicas import MASTERS, SealedNodes, absent_from_files
from tracker.domain.deliveries import KEY_LOST
from tracker.errors import LogCorrupt, LogMissing, LogUnavailable
from tracker.log.jetstream import encryption
from tracker.log.keys.frame_keys import decode
from tracker.log.jetstream.log import JetstreamLog
from tracker.log.jetstream.key_bucket import KeyBucket
from tracker.log.jetstream.restore_keys import restore_keys
from tracker.config.encryption import MasterKey
from tracker.log.keys.key_store import KeyStore


cluster = own_cluster


async def records_of(log: JetstreamLog) -> list[tuple[int, bytes, int | None]]:
    return [(each.position, each.body, each.erased_by) async for chunk in log.read(0) for each in chunk]


async def append_frames(log: JetstreamLog, name: str, count: int = 10) -> None:
    """Append `count` records, each in its own frame."""
    for n in range(count):
        await log.append(delivery(f"{name}{n}", body=f'{{"{name}": {n}}}'.encode()))


async def erase(log: JetstreamLog, positions: list[int]) -> None:
    await log.append_erasure(delivery(f"erasing {positions}", source="tracker"), positions)
    await log.destroy_keys(positions)


def remove_keys(keys: Path, frames: list[bytes]) -> None:
    """Remove the keys of these frames from a key store."""
    connection = sqlite3.connect(keys)
    connection.executemany("DELETE FROM frames WHERE id = ?", [(frame,) for frame in frames])
    connection.commit()
    connection.close()


async def test_a_lost_bucket_is_restored_and_erased_records_stay_erased(cluster: Cluster, tmp_path: Path) -> None:
    async with SealedNodes(cluster, tmp_path) as nodes:
        log = await nodes.open("a")
        await append_frames(log, "a")
        await erase(log, [3])
        await nodes.lose_bucket()
        with pytest.raises(LogUnavailable, match="restore it with `tracker restore-keys`"):
            await asyncio.wait_for(log.append(delivery("none")), 30)
        with pytest.raises(LogUnavailable, match="it was lost"):
            await nodes.open("b")
        restored = await nodes.restore("a")
        assert (restored.frames, restored.entries, restored.missing, restored.ahead) == (11, 11, 0, 0)
        assert (await nodes.restore("a")).entries == 0, "nothing is missing"
        await append_frames(log, "after", 2)
        other = await nodes.open("b")
        assert await records_of(other) == await records_of(log)
        assert [position for position, _, by in await records_of(other) if by is not None] == [3]
        gone = await log.replica.copies_of([3])
        entries = await nodes.entries()
        assert [entries[frame] for frame, _ in gone] == [[None]]
        assert sum(wrapped is None for each in entries.values() for wrapped in each) == 1


async def test_a_node_that_lacks_keys_creates_no_bucket_and_each_node_adds_its_keys(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with SealedNodes(cluster, tmp_path) as nodes:
        logs = [await nodes.open(node) for node in "ab"]
        await append_frames(logs[0], "a")
        await logs[1].wait(9, 10)
        frames = [(await logs[0].replica.copies_of([n]))[0].frame for n in range(1, 11)]
        await asyncio.gather(*(log.close() for log in logs))
        remove_keys(nodes.keys("a"), frames[:3])
        remove_keys(nodes.keys("b"), frames[2:8])
        await nodes.lose_bucket()
        with pytest.raises(LogUnavailable, match=r"lacks the keys of 3 records \(the first at position 1\)"):
            await nodes.restore("a")
        async with nodes.connected() as stream:
            assert not await KeyBucket(stream).exists()
        with pytest.raises(LogMissing, match="restore-keys"):
            await nodes.open("a")
        first, second = await asyncio.gather(nodes.restore("a", partly=True), nodes.restore("b", partly=True))
        assert first.entries + second.entries == 9
        again = await nodes.restore("a")
        assert (again.entries, again.missing, again.first) == (0, 1, 3)
        assert set(await nodes.entries()) == {*frames[:2], *frames[3:]}


async def test_a_new_node_waits_for_keys_that_another_node_may_restore(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encryption, "KEYLESS_SECONDS", 0.5)
    async with SealedNodes(cluster, tmp_path) as nodes:
        logs = [await nodes.open(node) for node in "ab"]
        await append_frames(logs[0], "a", 4)
        await logs[1].wait(3, 10)
        ((frame, _),) = await logs[0].replica.copies_of([2])
        await logs[0].close()
        remove_keys(nodes.keys("a"), [frame])
        await nodes.lose_bucket()
        assert (await nodes.restore("a", partly=True)).missing == 1
        opening = asyncio.create_task(nodes.open("c"))
        await asyncio.sleep(4)
        assert not opening.done()
        assert frame not in await nodes.entries()
        assert (await nodes.restore("b")).missing == 0
        assert await records_of(await opening) == await records_of(logs[1])


async def test_a_bucket_that_was_created_by_hand_counts_as_lost(cluster: Cluster, tmp_path: Path) -> None:
    async with SealedNodes(cluster, tmp_path) as nodes:
        log = await nodes.open("a")
        await append_frames(log, "a", 2)
        ((frame, _),) = await log.replica.copies_of([2])
        await log.close()
        await nodes.lose_bucket()
        async with nodes.connected() as stream:
            await KeyBucket(stream).create()
        with pytest.raises(LogUnavailable, match="it was lost"):
            await nodes.open("b")
        with pytest.raises(LogMissing, match="restore-keys"):
            await nodes.open("a")
        remove_keys(nodes.keys("a"), [frame])
        with pytest.raises(LogUnavailable, match="lacks the keys of 1 records"):
            await nodes.restore("a")
        assert (await nodes.restore("a", partly=True)).entries == 1


async def test_an_incomplete_entry_is_completed_by_the_other_node(cluster: Cluster, tmp_path: Path) -> None:
    async with SealedNodes(cluster, tmp_path) as nodes:
        logs = [await nodes.open(node) for node in "ab"]
        await logs[0].append_all([delivery(f"k{n}") for n in range(4)])
        await logs[1].wait(3, 10)
        copies = await logs[0].replica.copies_of([1, 2, 3, 4])
        await asyncio.gather(*(log.close() for log in logs))
        for node, lost in (("a", copies[:2]), ("b", copies[1:3])):
            vault = await KeyStore.open(nodes.keys(node), MASTERS)
            await vault.destroy_copies(lost)
            await vault.close()
        await nodes.lose_bucket()
        assert (await nodes.restore("a", partly=True)).missing == 2
        # A new node between the two restores, and again after the second one.
        late = await nodes.open("c")
        assert [by for _, _, by in await records_of(late)] == [KEY_LOST, KEY_LOST, None, None]
        assert (await nodes.restore("b")).missing == 1
        (wrapped,) = (await nodes.entries()).values()
        assert [each is None for each in wrapped] == [False, True, False, False]
        assert (await nodes.restore("c")).missing == 1
        assert [by for _, _, by in await records_of(late)] == [None, KEY_LOST, None, None]


async def test_a_node_that_was_offline_restores_no_erased_key(cluster: Cluster, tmp_path: Path) -> None:
    async with SealedNodes(cluster, tmp_path) as nodes:
        first, away = await nodes.open("a"), await nodes.open("b")
        await append_frames(first, "a")
        await away.wait(9, 10)
        await away.close()
        gone = [2, 7]
        frames = {frame for frame, _ in await first.replica.copies_of(gone)}
        await erase(first, gone)
        await nodes.lose_bucket()
        # It has all keys but that of the erasure record, which it has not applied.
        with pytest.raises(LogUnavailable, match="has not applied 1 encrypted records"):
            await nodes.restore("b")
        restored = await nodes.restore("b", partly=True)
        assert (restored.missing, restored.ahead) == (0, 1)
        entries = await nodes.entries()
        assert {frame for frame, wrapped in entries.items() if wrapped == [None]} == frames
        assert len(entries) == 10
        assert (await nodes.restore("a")).entries == 1
        assert (await nodes.restore("b")).ahead == 0


async def test_a_key_store_from_a_backup_restores_no_key_erased_since(cluster: Cluster, tmp_path: Path) -> None:
    async with SealedNodes(cluster, tmp_path) as nodes:
        log = await nodes.open("a")
        await append_frames(log, "a", 4)
        before = await nodes.entries()
        frames = [(await log.replica.copies_of([n]))[0].frame for n in (1, 2)]
        connection = sqlite3.connect(nodes.keys("a"))
        connection.execute("VACUUM INTO ?", (str(tmp_path / "backup.db"),))
        connection.close()
        await erase(log, [1, 2])
        await log.close()
        (tmp_path / "backup.db").replace(nodes.keys("a"))
        lost = [each for frame in frames for each in before[frame] if each is not None]
        assert not await absent_from_files(lost, [tmp_path])
        await nodes.lose_bucket()
        # The key of the erasure record is not in the backup.
        restored = await nodes.restore("a", partly=True)
        assert (restored.entries, restored.missing, restored.first) == (4, 1, 5)
        entries = await nodes.entries()
        assert [entries[frame] for frame in frames] == [[None], [None]]
        assert await absent_from_files(lost, [*nodes.folders(), tmp_path])


async def test_an_erased_key_that_is_in_the_bucket_again_is_removed(cluster: Cluster, tmp_path: Path) -> None:
    async with SealedNodes(cluster, tmp_path) as nodes:
        log = await nodes.open("a")
        await append_frames(log, "a", 3)
        before = await nodes.entries()
        ((frame, _),) = await log.replica.copies_of([2])
        async with nodes.connected() as stream:
            bucket = KeyBucket(stream)
            held = await bucket.find(frame)
            assert held is not None
            await erase(log, [2])
            latest = await bucket.find(frame)
            assert latest is not None
            # As an operator does who restores an old copy.
            assert await bucket.replace(frame, latest[0], held[1])
        assert (await nodes.restore("a")).entries == 0
        assert (await nodes.entries())[frame] == [None]
        lost = [each for each in before[frame] if each is not None]
        assert lost
        assert await absent_from_files(lost, nodes.folders())


async def test_an_erasure_during_a_restore_of_keys_is_not_undone(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SealedNodes(cluster, tmp_path) as nodes:
        log, other = await nodes.open("a"), await nodes.open("b")
        await append_frames(log, "a", 3)
        await other.wait(2, 10)
        await other.close()
        ((frame, _),) = await log.replica.copies_of([2])
        await nodes.lose_bucket()
        held = KeyBucket.find
        erasing: list[asyncio.Task[None]] = []

        async def read_before_erasure(bucket: KeyBucket, wanted: bytes) -> tuple[int, bytes] | None:
            # The erasure finds no entry to destroy; the restore writes it afterwards.
            if not erasing:
                erasing.append(asyncio.create_task(erase(log, [2])))
            await asyncio.shield(erasing[0])
            return await held(bucket, wanted)

        monkeypatch.setattr(KeyBucket, "find", read_before_erasure)
        await nodes.restore("b")
        monkeypatch.undo()
        assert erasing
        assert (await nodes.entries())[frame] == [None]


async def test_nothing_is_restored_with_another_master_key_or_from_another_log(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with SealedNodes(cluster, tmp_path) as nodes, SealedNodes(cluster, tmp_path) as others:
        log, stranger = await nodes.open("a"), await others.open("a")
        await append_frames(log, "a", 3)
        await append_frames(stranger, "b", 3)
        await asyncio.gather(log.close(), stranger.close())
        await nodes.lose_bucket()
        with pytest.raises(
            LogUnavailable, match="the master key under .sealing. keys is not the one that wrapped these keys"
        ):
            await nodes.restore("a", masters=[MasterKey("2026", bytes(32))])
        with pytest.raises(LogUnavailable, match="which is not configured"):
            await nodes.restore("a", masters=[MasterKey("other", bytes(32))])
        vault = await KeyStore.open(others.keys("a"), MASTERS)
        # The key store of one cluster beside the replica of another; and both, with the other's stream.
        with pytest.raises(LogUnavailable, match="lacks the keys of 3 records"):
            await restore_keys(nodes.settings("a"), nodes.replica("a"), vault)
        with pytest.raises(LogCorrupt, match="this replica follows the log"):
            await restore_keys(nodes.settings("a"), others.replica("a"), vault)
        await vault.close()
        assert (await nodes.restore("a")).entries == 3
        before = await nodes.entries()
        vault = await KeyStore.open(others.keys("a"), MASTERS)
        with pytest.raises(LogUnavailable, match="is not the key store of the bucket"):
            await restore_keys(nodes.settings("a"), nodes.replica("a"), vault, partly=True)
        await vault.close()
        assert await nodes.entries() == before


async def test_keys_under_an_older_master_key_are_restored_under_the_current_one(
    cluster: Cluster, tmp_path: Path
) -> None:
    newer = MasterKey("2027", bytes(reversed(range(32))))
    async with SealedNodes(cluster, tmp_path) as nodes:
        log = await nodes.open("a")
        await append_frames(log, "a", 3)
        await nodes.lose_bucket()
        assert (await nodes.restore("a", masters=[newer, *MASTERS])).entries == 3
        async with nodes.connected() as stream:
            found = await KeyBucket(stream).next_revision(0)
            assert found is not None
            assert decode(found.entry).master == newer.id
