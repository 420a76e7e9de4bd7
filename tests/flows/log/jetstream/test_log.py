"""The clustered engine keeps the log's contract, against three real servers."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tests.support.cluster import Cluster, own_cluster
from tests.contracts.log_contract import LogContract, delivery
from tests.support.replicas import level, opened, settings_of
from tracker.domain.deliveries import Appended
from tracker.errors import LogCorrupt, LogError, LogMissing, LogUnavailable, NodeDiverged, NodeOutdated
from tracker.log.jetstream import connection
from tracker.log.frames import frame_row
from tracker.log.jetstream.log import JetstreamLog
from tracker.log.jetstream.validation import check_stream, join_stream
from tracker.config.jetstream import JetstreamConfig
from tracker.log.jetstream.stream import Stream, wanted_config
from tracker.log.sqlite.log import SqliteLog
from tracker.log.sqlite.replica import StreamEntry, Replica


cluster = own_cluster


class TestJetstreamLog(LogContract):
    """The whole suite."""

    @pytest.fixture
    async def log(self, cluster: Cluster, tmp_path: Path) -> AsyncIterator[JetstreamLog]:
        log = await opened(tmp_path / "log.db", settings_of(cluster))
        yield log
        await log.close()


async def read_all(log: JetstreamLog) -> list[tuple[int, str]]:
    return [(record.position, record.dedupe_key) async for chunk in log.read(0) for record in chunk]


async def test_two_nodes_that_get_the_same_deliveries_record_each_once_at_the_same_position(
    cluster: Cluster, tmp_path: Path
) -> None:
    settings = settings_of(cluster)
    first = await opened(tmp_path / "a.db", settings)
    second = await opened(tmp_path / "b.db", settings_of(cluster, node="b", stream=settings.stream))
    deliveries = [delivery(f"k{n}") for n in range(60)]
    answers = await asyncio.gather(*[log.append(each) for each in deliveries for log in (first, second)])
    pairs = list(zip(answers[::2], answers[1::2], strict=True))
    assert all(one.position == other.position for one, other in pairs)
    assert all(one.duplicate != other.duplicate for one, other in pairs), "one of the two was the first"
    await level(first, second)
    assert await first.head() == len(deliveries)
    assert await first.tree_head() == await second.tree_head()
    assert await read_all(first) == await read_all(second)
    await asyncio.gather(first.close(), second.close())


async def test_an_empty_node_catches_up_including_erasures(cluster: Cluster, tmp_path: Path) -> None:
    settings = settings_of(cluster)
    first = await opened(tmp_path / "a.db", settings)
    for start in range(0, 2000, 250):
        await first.append_all([delivery(f"k{n}") for n in range(start, start + 250)])
    await first.append_erasure(delivery("erasing", source="tracker"), [5, 6])
    await first.append_erasure(delivery("erasing again", source="tracker"), [6, 7, 99_999, -1])
    late = await opened(tmp_path / "b.db", settings_of(cluster, node="b", stream=settings.stream))
    assert await late.tree_head() == await first.tree_head()
    assert (
        await late.erased_positions(0, 10) == await first.erased_positions(0, 10) == [(5, 2001), (6, 2001), (7, 2002)]
    )
    assert late.lag().messages == 0
    await asyncio.gather(first.close(), late.close())


async def test_two_processes_of_a_node_share_one_replica_and_both_answer_right(
    cluster: Cluster, tmp_path: Path
) -> None:
    settings = settings_of(cluster)
    server = await opened(tmp_path / "a.db", settings)
    importing = await opened(tmp_path / "a.db", settings)

    async def append(log: JetstreamLog, name: str) -> list[Appended]:
        return [await log.append(delivery(f"{name}{n}")) for n in range(40)]

    one, other = await asyncio.gather(append(server, "a"), append(importing, "b"))
    assert sorted(answer.position for answer in one + other) == list(range(1, 81))
    assert not any(answer.duplicate for answer in one + other)
    assert await server.append(delivery("b0")) == Appended(other[0].position, duplicate=True)
    assert await server.tree_head() == await importing.tree_head()
    await asyncio.gather(server.close(), importing.close())


async def test_a_frame_that_is_in_the_stream_twice_gets_the_answers_of_the_first(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await opened(tmp_path / "a.db", settings_of(cluster))
    publish = Stream.publish

    async def lost_twice(stream: Stream, data: bytes, message_id: str, timeout: float, after: int | None) -> int:
        # Under another message id, so that the servers do not drop it as a duplicate; the acknowledgement is lost.
        await publish(stream, data, "one" + message_id, timeout)
        await publish(stream, data, "two" + message_id, timeout)
        monkeypatch.undo()
        raise LogUnavailable("no answer in time")

    monkeypatch.setattr(Stream, "publish", lost_twice)
    assert await log.append_all([delivery("a"), delivery("b"), delivery("a")]) == [
        Appended(1, duplicate=False), Appended(2, duplicate=False), Appended(1, duplicate=True),
    ]  # fmt: skip
    assert await log.append(delivery("c")) == Appended(3, duplicate=False)
    await log.close()


async def test_a_deleted_consumer_is_created_again(cluster: Cluster, tmp_path: Path) -> None:
    settings = settings_of(cluster)
    log = await opened(tmp_path / "a.db", settings)
    await log.append(delivery("a"))
    async with stream_of(settings) as stream:
        readers = (await stream.api_request(f"CONSUMER.NAMES.{stream.name}", {}, 5))["consumers"]
        assert len(readers) == 1
        await stream.delete_consumer(readers[0])
    assert await asyncio.wait_for(log.append(delivery("b")), 10) == Appended(2, duplicate=False)
    await log.close()


async def test_messages_that_are_no_frames_are_skipped_and_counted(cluster: Cluster, tmp_path: Path) -> None:
    settings = settings_of(cluster)
    log = await opened(tmp_path / "a.db", settings)
    async with stream_of(settings) as stream:
        await stream.publish(b"hello", "h", 5)
    assert await log.append(delivery("a")) == Appended(1, duplicate=False)
    assert log.skipped_messages() == 1
    await log.close()


async def test_a_frame_of_a_newer_version_stops_the_node_after_all_frames_before_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    settings = settings_of(cluster)
    log = await opened(tmp_path / "a.db", settings)
    for key in "ab":
        await log.append(delivery(key))
    async with stream_of(settings) as stream:
        await stream.publish(b"TKF\x03c...", "n", 5)
    late = tmp_path / "late.db"
    await Replica.init(late, log_id=log.state.log_id, stream=settings.stream)
    second = await JetstreamLog.open(late, settings)
    for each in (log, second):
        async with asyncio.timeout(10):
            while each.stop_reason() is None:
                await asyncio.sleep(0.02)
        assert await each.head() == 2
        for refused in (
            each.check_writable(),
            each.append(delivery("c")),
            each.append_raw([frame_row(delivery("c"))], [], [None]),
        ):
            with pytest.raises(NodeOutdated, match=r"frame 3 .* version 3, this Tracker knows 2: upgrade this node"):
                await refused
        await each.close()


async def test_a_diverged_node_records_nothing_and_destroys_no_shared_key(cluster: Cluster, tmp_path: Path) -> None:
    log = await opened(tmp_path / "a.db", settings_of(cluster))
    await log.append(delivery("a"))
    found: list[str] = []
    log.set_divergence_check(lambda: found[0] if found else None)
    await log.append(delivery("b"))
    found.append("not what was signed")
    erasing = delivery("erasing", source="tracker")
    for refused in (
        log.append(delivery("a")), log.append_erasure(erasing, [1]), log.append_raw([frame_row(delivery("c"))], [], [None]),
        log.check_writable(),
    ):  # fmt: skip
        with pytest.raises(NodeDiverged, match="not what was signed"):
            await refused
    assert await log.head() == 2
    await log.close()


@pytest.mark.parametrize("which", ["unfit", "corrupt", "behind"])
async def test_copying_into_a_stream_that_has_deliveries_is_refused(
    cluster: Cluster, tmp_path: Path, which: str
) -> None:
    settings = settings_of(cluster)
    log = await opened(tmp_path / "a.db", settings)
    if which == "unfit":
        log._config_error = "max_age is 5, not 0"
    elif which == "corrupt":
        log._replicator.trouble = LogCorrupt("the stream has lost message 3")
    else:
        log._caught_up.clear()
    for refused in (log.append(delivery("a")), log.append_raw([frame_row(delivery("a"))], [], [None])):
        with pytest.raises(LogError, match=r"max_age is 5|lost message 3|catching up"):
            await refused
    async with stream_of(settings) as stream:
        assert (await stream.state()).last == 0
    await log.close()


async def test_a_batch_that_does_not_fit_into_one_frame_is_refused(tmp_path: Path) -> None:
    async with Cluster(tmp_path / "nats", max_payload=64 * 1024) as small:
        settings = settings_of(small)
        log = await opened(tmp_path / "a.db", settings)
        noise = [delivery(f"k{n}", body=secrets.token_bytes(10_000)) for n in range(20)]
        with pytest.raises(LogUnavailable, match="raise max_payload"):
            await log.append_all(noise)
        assert await log.head() == 0
        # Waiting deliveries become several frames; a batch that compresses well may be larger than a frame.
        assert sorted(answer.position for answer in await asyncio.gather(*map(log.append, noise))) == list(range(1, 21))
        assert (await log.append(delivery("zeros", body=bytes(200_000)))).position == 21
        assert log.max_batch_bytes < 64 * 1024
        await log.close()
        with pytest.raises(LogUnavailable, match="max_payload: 5MB"):
            await JetstreamLog.open(tmp_path / "a.db", settings, body_bytes=4 * 2**20)


@contextlib.asynccontextmanager
async def stream_of(settings: JetstreamConfig) -> AsyncIterator[Stream]:
    """A separate connection to the stream."""
    stream = await Stream.open(settings)
    try:
        yield stream
    finally:
        await stream.close()


async def edit(cluster: Cluster, settings: JetstreamConfig, **config: object) -> None:
    """Change a stream's settings, as an operator might."""
    stream = await Stream.open(settings)
    state = await stream.state()
    await stream.api_request(f"STREAM.UPDATE.{settings.stream}", state.config | config, 10)
    await stream.close()


async def test_a_stream_whose_settings_would_lose_records_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    settings = settings_of(cluster)
    await (await opened(tmp_path / "a.db", settings)).close()
    await edit(cluster, settings, max_age=3_600 * 10**9, num_replicas=1)
    with pytest.raises(LogUnavailable, match=r"num_replicas is 1, not 3.*max_age is 3600000000000, not 0"):
        await JetstreamLog.open(tmp_path / "a.db", settings)


@pytest.mark.parametrize(
    ("settings_by_hand", "problem"),
    [
        ({"subject_transform": {"src": "{}.frames", "dest": "{}.x"}}, "subject_transform is"),
        ({"republish": {"src": "{}.frames", "dest": "elsewhere.{}"}}, "republish is"),
        ({"first_seq": 50}, "first_seq is 50"),
        ({"subjects": None, "mirror": {"name": "{}"}}, "mirror is"),
        ({"metadata": {"tracker_log_id": "x", "tracker_format": "9"}}, "the format '9', this Tracker knows '1'"),
    ],
)
async def test_init_refuses_a_stream_with_wrong_settings(
    cluster: Cluster, settings_by_hand: dict[str, object], problem: str
) -> None:
    settings, other = settings_of(cluster), settings_of(cluster)
    name = other.stream if "mirror" in settings_by_hand else settings.stream  # the mirrored stream has to exist
    stream = await Stream.open(settings)
    if "mirror" in settings_by_hand:
        await join_stream(other, "x")
    config = msgspec.json.decode(msgspec.json.encode(settings_by_hand).decode().replace("{}", name))
    config = {key: value for key, value in (wanted_config(settings, "x") | config).items() if value is not None}
    await stream.api_request(f"STREAM.CREATE.{settings.stream}", config, 10)
    await stream.close()
    with pytest.raises(LogUnavailable, match=problem):
        await join_stream(settings, "y")


async def test_a_stream_with_more_replicas_than_configured_is_accepted(cluster: Cluster) -> None:
    settings = settings_of(cluster)
    fewer = msgspec.structs.replace(settings, replicas=1)
    assert await join_stream(settings, "x") == await join_stream(fewer, "y") == "x"


async def test_a_running_node_writes_nothing_to_a_stream_with_changed_settings_until_they_are_restored(
    cluster: Cluster, tmp_path: Path
) -> None:
    settings = settings_of(cluster)
    log = await opened(tmp_path / "log.db", settings)
    by_hand = await Stream.open(settings)
    config = wanted_config(settings, log.state.log_id)
    await by_hand.api_request(f"STREAM.UPDATE.{settings.stream}", config | {"max_age": 3600 * 10**9}, 10)
    async with asyncio.timeout(20):
        while not (reason := await unready(log)):
            await asyncio.sleep(0.1)
    assert "max_age" in reason
    # The reader of the stream may notice it before the writer does.
    async with asyncio.timeout(60):
        while "max_age" not in await refused(log):
            await asyncio.sleep(0.1)
    await by_hand.api_request(f"STREAM.UPDATE.{settings.stream}", config, 10)
    async with asyncio.timeout(20):
        while await unready(log):
            await asyncio.sleep(0.1)
    assert (await log.append(delivery("a"))).position == 1
    await by_hand.close()
    await log.close()


async def refused(log: JetstreamLog) -> str:
    try:
        await log.append(delivery("a"))
    except LogUnavailable as error:
        return str(error)
    return ""


async def unready(log: JetstreamLog) -> str:
    try:
        await log.check_writable()
    except LogUnavailable as error:
        return str(error)
    return ""


async def test_a_missing_stream_and_one_of_another_log_are_refused(cluster: Cluster, tmp_path: Path) -> None:
    settings, other = settings_of(cluster), settings_of(cluster)
    await Replica.init(tmp_path / "a.db", log_id="mine", stream=settings.stream)
    with pytest.raises(LogMissing, match="there is no stream"):
        await JetstreamLog.open(tmp_path / "a.db", settings)
    await join_stream(other, "another")
    with pytest.raises(LogCorrupt, match="holds the log another, but this replica follows the log mine"):
        await JetstreamLog.open(tmp_path / "a.db", other)
    await SqliteLog.create(tmp_path / "own.db")
    with pytest.raises(LogCorrupt, match="not a replica of a stream"):
        await JetstreamLog.open(tmp_path / "own.db", other)


async def test_a_stream_behind_its_replica_or_with_another_history_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    settings = settings_of(cluster)
    log = await opened(tmp_path / "a.db", settings)
    for key in "ab":
        await log.append(delivery(key))
    await log.close()
    replica = await Replica.open(tmp_path / "a.db")
    cursor = await replica.cursor()
    await replica.close()
    stream = await Stream.open(settings)
    with pytest.raises(LogCorrupt, match="ends at message 2, but this replica has applied 3"):
        await check_stream(stream, cursor._replace(sequence=3), body_bytes=0)
    with pytest.raises(LogCorrupt, match="their histories differ"):
        await check_stream(stream, cursor._replace(digest=b"x" * 32), body_bytes=0)
    await check_stream(stream, cursor, body_bytes=0)
    await stream.close()


async def test_a_replica_appends_only_records_of_the_stream(tmp_path: Path) -> None:
    await Replica.init(tmp_path / "a.db", log_id="x", stream="s")
    log = await SqliteLog.open(tmp_path / "a.db")
    with pytest.raises(LogUnavailable, match="replica of the stream s"):
        await log.append(delivery("a"))
    assert await log.head() == 0
    await log.close()


async def test_a_gap_between_cursor_and_next_message_is_an_error(tmp_path: Path) -> None:
    await Replica.init(tmp_path / "a.db", log_id="x", stream="s")
    replica = await Replica.open(tmp_path / "a.db")
    one, three = (
        StreamEntry(1, b"1" * 32, [frame_row(delivery("a"))]),
        StreamEntry(3, b"3" * 32, [frame_row(delivery("c"))]),
    )
    assert await replica.apply([one]) == [[Appended(1, duplicate=False)]]
    with pytest.raises(LogCorrupt, match="missing after 1"):
        await replica.apply([three])
    assert await replica.apply([one]) == [None]
    assert (await replica.cursor())[2:] == (1, b"1" * 32)
    await replica.close()


async def test_open_fails_when_no_server_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.6)
    await Replica.init(tmp_path / "a.db", log_id="x", stream="s")
    settings = JetstreamConfig(servers=("nats://127.0.0.1:9",), stream="s", node="a", replicas=3)
    with pytest.raises(LogUnavailable, match="cannot be reached"):
        await JetstreamLog.open(tmp_path / "a.db", settings)


async def test_closing_does_not_wait_for_servers_that_are_gone(tmp_path: Path) -> None:
    async with Cluster(tmp_path / "nats") as gone:
        log = await opened(tmp_path / "a.db", settings_of(gone))
        await log.append(delivery("a"))
        gone.kill()
        waiting = [asyncio.create_task(log.append(delivery(f"b{n}"))) for n in range(1_200)]  # three frames
        await asyncio.sleep(0.5)
        await asyncio.wait_for(log.close(), 6)
        for each in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(each, LogUnavailable)


async def test_an_invalid_seed_is_reported(tmp_path: Path) -> None:
    seed = tmp_path / "seed"
    seed.write_text("no seed of a key")
    settings = JetstreamConfig(servers=("nats://127.0.0.1:9",), stream="s", node="a", replicas=3, nkey_seed_file=seed)
    with pytest.raises(LogUnavailable, match="nkey_seed_file: nkeys: invalid seed"):
        await Stream.open(settings)
