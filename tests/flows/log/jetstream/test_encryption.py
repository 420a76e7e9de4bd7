"""The clustered engine with encryption: it keeps the log's contract, and neither the stream nor erased records are readable."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support import replicas
from tests.support.cluster import Cluster, own_cluster
from tests.contracts.log_contract import LogContract, delivery
from tests.support.replicas import level, settings_of
from tests.support.encrypted_replicas import MASTERS
from tracker.domain.deliveries import Appended
from tracker.errors import LogMissing, LogUnavailable
from tracker.log.keys.frame_keys import decode
from tracker.log.jetstream.log import JetstreamLog
from tracker.log.jetstream.validation import join_stream
from tracker.log.jetstream.key_bucket import KeyBucket
from tracker.log.jetstream.encryption import join_key_bucket
from tracker.config.jetstream import JetstreamConfig
from tracker.log.jetstream.stream import Stream
from tracker.log.sqlite.log import SqliteLog
from tracker.log.sqlite.replica import Replica
from tracker.config.encryption import MasterKey
from tracker.log.keys.key_store import KeyStore


cluster = own_cluster


async def opened(folder: Path, settings: JetstreamConfig) -> JetstreamLog:
    """The log of an encrypting node in that folder."""
    return await replicas.opened(folder / "log.db", settings, MASTERS)


class TestSealedJetstreamLog(LogContract):
    """The whole suite, with encryption."""

    sealed = True

    @pytest.fixture
    async def log(self, cluster: Cluster, tmp_path: Path) -> AsyncIterator[JetstreamLog]:
        log = await opened(tmp_path, settings_of(cluster))
        yield log
        await log.close()


async def records_of(log: JetstreamLog | SqliteLog) -> list[tuple[int, bytes, bytes, int | None]]:
    return [(each.position, each.proof, each.body, each.erased_by) async for chunk in log.read(0) for each in chunk]


async def test_two_nodes_encrypt_into_one_history_and_a_third_reads_it_offline(
    cluster: Cluster, tmp_path: Path
) -> None:
    settings = settings_of(cluster)
    first = await opened(tmp_path / "a", settings)
    second = await opened(tmp_path / "b", settings_of(cluster, node="b", stream=settings.stream))
    deliveries = [delivery(f"k{n}", body=b'{"n": %d}' % n) for n in range(60)]
    await asyncio.gather(*[log.append(each) for each in deliveries for log in (first, second)])
    await level(first, second)
    assert await first.tree_head() == await second.tree_head()
    assert await first.head() == 60
    assert sorted(body for _, _, body, _ in await records_of(first)) == sorted(each.body for each in deliveries)
    assert await records_of(first) == await records_of(second)
    third = await opened(tmp_path / "c", settings_of(cluster, node="c", stream=settings.stream))
    await third.close()
    offline = await SqliteLog.open(
        tmp_path / "c" / "log.db", key_store=await KeyStore.open(tmp_path / "c" / "keys.db", MASTERS)
    )
    assert await records_of(offline) == await records_of(first)
    assert (await offline.leaf(5)) == await first.leaf(5)
    await asyncio.gather(first.close(), second.close(), offline.close())


async def test_records_erased_on_one_node_and_all_their_copies_are_unreadable_on_all(
    cluster: Cluster, tmp_path: Path
) -> None:
    settings = settings_of(cluster)
    first = await opened(tmp_path / "a", settings)
    second = await opened(tmp_path / "b", settings_of(cluster, node="b", stream=settings.stream))
    deliveries = [delivery(f"k{n}", body=b'{"n": %d}' % n) for n in range(20)]
    await asyncio.gather(*[log.append(each) for each in deliveries for log in (first, second)])
    await level(first, second)
    # Force one copy: a second frame with a record that this node already has.
    again = [each.body for each in deliveries].index((await records_of(first))[2][2])
    frame, keys = second._make_frame([(deliveries[again], second.replica.dedupe_hashes(deliveries[again])[0])], ())
    assert (await second._send(frame, keys))[0] == Appended(3, duplicate=True)
    await level(first, second)
    copies = await first.replica.copies_of(range(1, 21))
    assert len(copies) > 20, "some records have a second copy"
    gone = [3, 4, 20]
    assert (await second.append_erasure(delivery("erasing", source="tracker"), gone)).position == 21
    await second.destroy_keys(gone)
    await level(first, second)
    for log in (first, second):
        assert [(position, by) for position, _, _, by in await records_of(log) if by is not None] == [
            (each, 21) for each in gone
        ]
        leaf = await log.leaf(3)
        assert leaf is not None
        assert leaf.salt is None
    # No revision of any entry has one of their keys, and all other keys are there.
    await expect_withdrawn(first, gone)
    late = await opened(tmp_path / "c", settings_of(cluster, node="c", stream=settings.stream))
    assert await records_of(late) == await records_of(first)
    # A repeat of an erased delivery is a duplicate, and the record stays erased.
    assert all([(await late.append(each)).duplicate for each in deliveries])
    assert await records_of(late) == await records_of(first)
    await asyncio.gather(first.close(), second.close(), late.close())


async def expect_withdrawn(log: JetstreamLog, gone: list[int]) -> None:
    bucket = KeyBucket(log._stream)
    lost = set(await log.replica.copies_of(gone))
    after, seen = 0, dict[bytes, int]()
    while (found := await bucket.next_revision(after)) is not None:
        after, frame, entry, _ = found
        seen[frame] = seen.get(frame, 0) + 1
        for n, wrapped in enumerate(decode(entry).wrapped):
            assert (wrapped is None) == ((frame, n) in lost)
    assert set(seen.values()) == {1}, "older revisions are gone"


async def test_a_copy_that_arrives_after_the_erasure_loses_its_key_too(cluster: Cluster, tmp_path: Path) -> None:
    settings = settings_of(cluster)
    log = await opened(tmp_path / "a", settings)
    await log.append(delivery("a"))
    await log.append_erasure(delivery("erasing", source="tracker"), [1])
    await log.destroy_keys([1])
    # The same delivery from another node, which had not applied the first one yet.
    frame, keys = log._make_frame([(delivery("a"), log.replica.dedupe_hashes(delivery("a"))[0])], ())
    assert await log._send(frame, keys) == [Appended(1, duplicate=True)]
    assert not await log.replica._encryption.key_store.keys_of_copies(await log.replica.copies_of([1]))
    assert log._encryption._scheduled[-1][1] == [1]
    log._encryption._scheduled = [(0.0, positions) for _, positions in log._encryption._scheduled]
    async with asyncio.timeout(15):
        while log._encryption._scheduled:
            await asyncio.sleep(0.1)
    await expect_withdrawn(log, [1])
    await log.close()


async def test_an_interrupted_erasure_is_finished_by_another_node(cluster: Cluster, tmp_path: Path) -> None:
    settings = settings_of(cluster)
    first = await opened(tmp_path / "a", settings)
    second = await opened(tmp_path / "b", settings_of(cluster, node="b", stream=settings.stream))
    await first.append_all([delivery("a"), delivery("b")])
    await first.append_erasure(delivery("erasing", source="tracker"), [1])
    await first.close()
    await second.wait(2, 10)
    assert [each[3] for each in await records_of(second)] == [3, None, None]
    async with asyncio.timeout(10):
        while not second._encryption._scheduled:
            await asyncio.sleep(0.02)
    second._encryption._scheduled = [(0.0, positions) for _, positions in second._encryption._scheduled]
    async with asyncio.timeout(15):
        while second._encryption._scheduled:
            await asyncio.sleep(0.1)
    await expect_withdrawn(second, [1])
    await second.close()


async def test_the_stream_contains_no_clear_text(cluster: Cluster, tmp_path: Path) -> None:
    settings = settings_of(cluster)
    log = await opened(tmp_path / "a", settings)
    secret = "marie.curie@" + secrets.token_hex(8)
    await log.append(delivery(secret, body=f'{{"who": "{secret}"}}'.encode()))
    await log.close()
    held = [path.read_bytes() for n in range(3) for path in cluster.store(n).rglob("*") if path.is_file()]
    held += [path.read_bytes() for path in (tmp_path / "a").iterdir()]
    assert sum(len(each) for each in held) > 1000
    assert not any(secret.encode() in each for each in held)
    assert any(settings.stream.encode() in each for each in held)


async def test_a_node_without_the_master_key_or_with_another_key_store_is_refused(
    cluster: Cluster, tmp_path: Path
) -> None:
    settings = settings_of(cluster)
    first = await opened(tmp_path / "a", settings)
    await first.append(delivery("a"))
    await Replica.init(tmp_path / "clear.db", log_id=first.state.log_id, stream=settings.stream)
    with pytest.raises(LogMissing, match="other nodes encrypt their records"):
        await JetstreamLog.open(tmp_path / "clear.db", settings)
    await KeyStore.create(tmp_path / "other.db", MASTERS)
    with pytest.raises(LogUnavailable, match="not the key store of this stream"):
        await JetstreamLog.open(
            tmp_path / "clear.db", settings, key_store=await KeyStore.open(tmp_path / "other.db", MASTERS)
        )
    with pytest.raises(LogUnavailable, match="master key 2026, which is not configured"):
        await join_key_bucket(settings, [MasterKey("other", bytes(32))])
    await first.close()


async def test_a_new_node_does_not_replace_a_lost_bucket(cluster: Cluster, tmp_path: Path) -> None:
    settings = settings_of(cluster)
    first = await opened(tmp_path / "a", settings)
    await first.append(delivery("a"))
    await first.close()
    stream = await Stream.open(settings)
    bucket = KeyBucket(stream)
    await stream.api_request(f"STREAM.DELETE.KV_{bucket.name}", {})
    with pytest.raises(LogUnavailable, match="it was lost"):
        await join_key_bucket(settings, MASTERS, is_new_node=True)
    assert not await bucket.exists()
    await stream.close()


async def test_a_log_in_clear_text_encrypts_new_records(cluster: Cluster, tmp_path: Path) -> None:
    settings = settings_of(cluster)
    (tmp_path / "a").mkdir()
    await Replica.init(tmp_path / "a" / "log.db", log_id=await join_stream(settings, "x"), stream=settings.stream)
    log = await JetstreamLog.open(tmp_path / "a" / "log.db", settings)
    await log.wait_until_caught_up(10)
    await log.append(delivery("a"))
    await log.close()
    await KeyStore.create(tmp_path / "a" / "keys.db", MASTERS, await join_key_bucket(settings, MASTERS))
    log = await opened(tmp_path / "a", settings)
    assert await log.append(delivery("a")) == Appended(1, duplicate=True)
    assert await log.append(delivery("b")) == Appended(2, duplicate=False)
    assert await log.append(delivery("b")) == Appended(2, duplicate=True)
    assert [each[3] for each in await records_of(log)] == [None, None]
    stream = await Stream.open(settings)
    assert not await KeyBucket(stream).publish_dedupe_secret({})
    await stream.close()
    await log.close()


async def test_two_processes_of_a_node_encrypt_into_one_file(cluster: Cluster, tmp_path: Path) -> None:
    settings = settings_of(cluster)
    server = await opened(tmp_path / "a", settings)
    importing = await opened(tmp_path / "a", settings)

    async def append(log: JetstreamLog, name: str) -> list[Appended]:
        return [await log.append(delivery(f"{name}{n}", body=f"{name}{n}".encode())) for n in range(30)]

    one, other = await asyncio.gather(append(server, "a"), append(importing, "b"))
    assert sorted(answer.position for answer in one + other) == list(range(1, 61))
    assert not any(answer.duplicate for answer in one + other)
    await level(server, importing)
    bodies = {position: body for position, _, body, erased_by in await records_of(server) if erased_by is None}
    assert [bodies[answer.position] for answer in other] == [b"b%d" % n for n in range(30)]
    assert await records_of(importing) == await records_of(server)
    await asyncio.gather(server.close(), importing.close())


async def test_keys_survive_a_kill_of_the_leader_of_their_bucket(cluster: Cluster, tmp_path: Path) -> None:
    settings = settings_of(cluster)
    log = await opened(tmp_path / "a", settings)
    answers: list[Appended] = []

    async def append() -> None:
        for n in range(60):
            answers.append(await log.append(delivery(f"k{n}", body=b"%d" % n)))
            await asyncio.sleep(0.01)

    appending = asyncio.create_task(append())
    while len(answers) < 15:
        await asyncio.sleep(0.01)
    leader = await cluster.leader_of(f"KV_{settings.stream}-keys")
    cluster.kill(leader)
    await asyncio.wait_for(appending, 60)
    cluster.start_server(leader)
    await cluster.ready()
    assert answers == [Appended(n + 1, duplicate=False) for n in range(60)]
    late = await opened(tmp_path / "b", settings_of(cluster, node="b", stream=settings.stream))
    assert [(body, by) for _, _, body, by in await records_of(late)] == [(b"%d" % n, None) for n in range(60)]
    await asyncio.gather(log.close(), late.close())
