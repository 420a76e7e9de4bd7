"""A log with compressed records is read, proved and checked for damage like a log with plain ones."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import zstandard

from tests.contracts.log_contract import LogContract
from tracker.domain.deliveries import Verified
from tracker.demo.calls import whole_call
from tracker.errors import LogCorrupt
from tracker.log.merkle.leaf import record_leaf_hashes
from tracker.log.sqlite import dictionaries
from tests.support.memory_log import MemoryLog
from tests.support.tampering import Tampered
from tracker.log.record_compression import MAGIC, MAX_BYTES, Packer, train_better, is_packed
from tracker.log.sqlite.log import SqliteLog
from tracker.config.encryption import MasterKey
from tracker.log.keys.key_store import KeyStore

START = 1_700_000_000_000_000


def deliveries(count: int, *, first: int = 0, source: str = "lk") -> list[Verified]:
    """Varied bodies of LiveKit."""
    bodies = (sent.body for seed in range(first, first + count) for sent in whole_call("livekit", START, seed=seed))
    return [
        Verified(
            source=source, vendor="livekit", event="e", dedupe_key=f"{first}-{n}", received_at=START + n, origin="webhook",
            proof=json.dumps({"scheme": "jwt", "jwt": random.Random(n).randbytes(20).hex()}).encode(), body=body,
        )
        for n, body in zip(range(count), bodies, strict=False)
    ]  # fmt: skip


async def packing_log(path: Path, sent: list[Verified]) -> SqliteLog:
    """An open log with these deliveries, whose dictionary is trained before the last of them."""
    if not path.exists():
        await SqliteLog.create(path)
    log = await SqliteLog.open(path)
    for start in range(0, len(sent), 500):
        await log.append_all(sent[start : start + 500])
        await trained(log)
    return log


async def trained(log: SqliteLog) -> None:
    """Return once no training is running."""
    if training := [task for task in asyncio.all_tasks() if task.get_name() == "log-training"]:
        await asyncio.wait(training)


async def everything(log: SqliteLog | MemoryLog) -> list[tuple[bytes, bytes]]:
    return [(record.proof, record.body) async for chunk in log.read(0) for record in chunk]


def rows(path: Path, sql: str, *bound: object) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path, isolation_level=None)) as plain:
        return plain.execute(sql, bound).fetchall()


def tamper(path: Path, sql: str, *bound: object) -> None:
    """Change the file without the log."""
    with closing(Tampered(path)) as log:
        log.run(sql, *bound)


async def damaged(path: Path) -> list[int]:
    """The positions of records that do not match their leaf."""
    log = await SqliteLog.open(path)
    found = [
        record.position
        async for chunk in log.read_stored(0)
        for record, leaf in zip(chunk, record_leaf_hashes(chunk), strict=True)
        if record.leaf != leaf
    ]
    await log.close()
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    async def make() -> None:
        await (await packing_log(made, deliveries(1600))).close()

    made = tmp_path_factory.mktemp("packed") / "log.db"
    asyncio.run(make())
    return made


@pytest.fixture
def packed(pristine: Path, path: Path) -> Path:
    """A copy of a log with 1,600 records, the last 600 of them compressed, to tamper with."""
    shutil.copy(pristine, path)
    return path


class TestPackedLog(LogContract):
    """The contract with every record compressed that can be."""

    @pytest.fixture
    async def log(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SqliteLog]:
        monkeypatch.setattr(dictionaries, "is_packed", lambda _proof, _body: True)
        await SqliteLog.create(tmp_path / "log.db")
        opened = await SqliteLog.open(tmp_path / "log.db")
        yield opened
        await opened.close()


async def test_a_log_with_compressed_records_has_the_same_records_and_tree(path: Path) -> None:
    sent = deliveries(1600)
    log, memory = await packing_log(path, sent), MemoryLog()
    await memory.append_all(sent)
    assert await everything(log) == await everything(memory)
    assert await log.tree_head() == await memory.tree_head()
    assert [chunk async for chunk in log.read_stored(0)] == [
        chunk[at : at + 500] async for chunk in memory.read_stored(0) for at in range(0, len(chunk), 500)
    ]
    for position in (1, 1600):
        assert await log.leaf(position) == await memory.leaf(position)
        assert await log.record(position) == await memory.record(position)
    await log.close()


async def test_the_first_thousand_records_are_plain_and_the_others_take_a_third(packed: Path) -> None:
    plain = "SELECT max(position) FROM records WHERE length(proof) > 0"
    assert rows(packed, plain) == rows(packed, "SELECT made_at_position FROM dictionaries") == [(1000,)]
    ((before, after),) = rows(packed, "SELECT avg(length(proof) + length(body)) FILTER (WHERE position <= 1000), "
                              "avg(length(proof) + length(body)) FILTER (WHERE position > 1000) FROM records")  # fmt: skip
    assert after < before / 3


async def test_a_compressed_body_can_be_read_with_zstd_alone(packed: Path) -> None:
    ((frame,),) = rows(packed, "SELECT body FROM records WHERE position = 1500")
    ((dictionary,),) = rows(packed, "SELECT bytes FROM dictionaries")
    plain = zstandard.ZstdDecompressor(dict_data=zstandard.ZstdCompressionDict(dictionary)).decompress(frame)
    sent = deliveries(1600)[1499]
    assert plain == len(sent.proof).to_bytes(8, "big") + sent.proof + sent.body


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE records SET body = substr(body, 1, 30) WHERE position = 1500",
        "UPDATE records SET body = CAST(substr(body, 1, 40) || x'ffff' || substr(body, 43) AS BLOB) WHERE position = 1500",
        "UPDATE records SET body = CAST(body || x'00' AS BLOB) WHERE position = 1500",
        "UPDATE records SET body = x'28b52ffd' WHERE position = 1500",
        "UPDATE records SET body = x'28b52ffd0300000000' WHERE position = 1500",
        "UPDATE records SET body = CAST(substr(body, 1, 5) || x'07' || substr(body, 7) AS BLOB) WHERE position = 1500",
        "UPDATE records SET body = (SELECT body FROM records WHERE position = 1501) WHERE position = 1500",
        "UPDATE records SET proof = x'7b7d' WHERE position = 1500",
        "UPDATE records SET body = x'7b7d' WHERE position = 1500",
    ],
)
async def test_a_changed_compressed_record_is_found_and_no_other(packed: Path, change: str) -> None:
    tamper(packed, change)
    assert await damaged(packed) == [1500]


async def test_the_error_names_a_record_that_does_not_decompress(packed: Path) -> None:
    tamper(packed, "UPDATE records SET body = substr(body, 1, 30) WHERE position = 1500")
    log = await SqliteLog.open(packed)
    with pytest.raises(LogCorrupt, match="position 1500 does not decompress"):
        await log.record(1500)
    with pytest.raises(LogCorrupt, match="position 1500 does not decompress"):
        await everything(log)
    assert await log.record(1499) is not None
    await log.close()


@pytest.mark.parametrize("change", ["DELETE FROM dictionaries", "UPDATE dictionaries SET bytes = x'00'"])
async def test_without_the_dictionary_compressed_records_are_damaged_and_new_ones_are_plain(
    packed: Path, change: str
) -> None:
    tamper(packed, change)
    assert await damaged(packed) == list(range(1001, 1601))
    log = await SqliteLog.open(packed)
    (new,) = deliveries(1, first=9000)
    assert (await log.append(new)).position == 1601
    record = await log.record(1601)
    assert record is not None
    assert record.body == new.body
    await log.close()


async def test_a_body_that_claims_to_be_huge_is_damaged_and_not_decompressed(packed: Path) -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(MAX_BYTES + 1))
    assert len(bomb) < 4096
    tamper(packed, "UPDATE records SET body = ?, proof = x'' WHERE position = 7", bomb)
    assert await damaged(packed) == [7]


async def test_chunks_are_bounded_by_their_decompressed_size(packed: Path) -> None:
    spaces = Packer().pack(b"{}", b" " * (3 * 1024 * 1024))
    tamper(packed, "UPDATE records SET body = ?, proof = x'' WHERE position BETWEEN 11 AND 20", spaces)
    log = await SqliteLog.open(packed)
    for chunks in (log.read(0), log.read_stored(0)):
        async for chunk in chunks:
            assert sum(len(record.body) for record in chunk) <= 8 * 1024 * 1024
    await log.close()


async def test_a_delivery_that_looks_compressed_is_read_unchanged(path: Path) -> None:
    frames = [MAGIC, MAGIC + b"x", zstandard.ZstdCompressor().compress(b"\0" * 8), Packer().pack(b"", b"deep") or b""]
    sent = [
        Verified(source="s", vendor="v", event="", dedupe_key=str(n), received_at=1, origin="webhook", proof=b"", body=body)
        for n, body in enumerate(frames)
    ]  # fmt: skip
    log = await packing_log(path, sent)
    assert await everything(log) == [(b"", body) for body in frames]
    await log.close()
    assert await damaged(path) == []


async def test_a_log_that_is_opened_again_uses_the_existing_dictionary(packed: Path) -> None:
    log = await packing_log(packed, deliveries(200, first=5000))
    await log.close()
    assert rows(packed, "SELECT count(*) FROM records WHERE position > 1600 AND length(proof) = 0") == [(200,)]
    assert rows(packed, "SELECT count(*) FROM dictionaries") == [(1,)]


async def test_two_processes_that_train_at_once_store_one_dictionary(path: Path) -> None:
    sent = deliveries(2400)
    await SqliteLog.create(path)
    first, second = await SqliteLog.open(path), await SqliteLog.open(path)
    await first.append_all(sent[:900])
    await second.append_all(sent[900:901])  # now the second one has seen the other records too
    await asyncio.gather(first.append_all(sent[901:1100]), second.append_all(sent[1100:1300]))
    await asyncio.gather(trained(first), trained(second))
    assert rows(path, "SELECT id FROM dictionaries") == [(1,)]
    await asyncio.gather(first.append_all(sent[1300:1800]), second.append_all(sent[1800:]))
    for log in (first, second):
        assert sorted(await everything(log)) == sorted((each.proof, each.body) for each in sent)
        await log.close()
    assert rows(path, "SELECT count(*) FROM records WHERE length(proof) = 0") == [(1100,)]


async def test_a_training_interrupted_by_a_close_is_repeated(path: Path) -> None:
    sent = deliveries(1200)
    await SqliteLog.create(path)
    log = await SqliteLog.open(path)
    await log.append_all(sent[:1000])
    await log.close()
    assert rows(path, "SELECT count(*) FROM dictionaries") == [(0,)]
    log = await packing_log(path, sent[1000:1010])
    await log.append_all(sent[1010:])
    await log.close()
    assert rows(path, "SELECT count(*) FROM records WHERE length(proof) = 0") == [(190,)]


async def test_changed_traffic_trains_another_dictionary(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dictionaries, "RETRAIN_RECORDS", 1000)
    others = [
        Verified(
            source="lk", vendor="livekit", event="e", dedupe_key=f"other-{n}", received_at=START, origin="webhook", proof=b"{}",
            body=json.dumps({"something": "else", "altogether": {"of": "another shape", "n": n, "w": str(n * n)}}).encode(),
        )
        for n in range(2000)
    ]  # fmt: skip
    log = await packing_log(packed, others)
    assert rows(packed, "SELECT id FROM dictionaries") == [(1,), (2,)]
    assert (await everything(log))[1600:] == [(each.proof, each.body) for each in others]
    await log.close()


async def test_records_with_nothing_in_common_get_no_dictionary() -> None:
    chance = random.Random(1)
    assert train_better([(b"{}", chance.randbytes(200)) for _ in range(1000)], None) is None
    assert train_better([], None) is None


async def test_an_encrypted_log_trains_no_dictionary(path: Path, tmp_path: Path) -> None:
    sent = deliveries(3000)
    await (await packing_log(path, sent[:900])).close()
    masters = [MasterKey("first", bytes(range(32)))]
    await KeyStore.create(tmp_path / "keys.db", masters)
    log = await SqliteLog.open(path, key_store=await KeyStore.open(tmp_path / "keys.db", masters))
    for start in range(900, 3000, 500):
        await log.append_all(sent[start : start + 500])
        await trained(log)
    assert await everything(log) == [(each.proof, each.body) for each in sent]
    await log.close()
    assert rows(path, "SELECT count(*) FROM dictionaries") == [(0,)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE dictionaries SET bytes = x'00'",
        "DELETE FROM dictionaries",
        "INSERT INTO dictionaries VALUES (3, 's', 'v', 1, x'00')",
        "INSERT OR REPLACE INTO dictionaries VALUES (1, 's', 'v', 1, x'00')",
    ],
)
async def test_a_dictionary_is_never_changed(packed: Path, statement: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="the log is append-only"):
        rows(packed, statement)


def test_a_compressed_row_is_recognised_by_its_proof_and_magic_number() -> None:
    frame = Packer().pack(b"{}", b" " * 100)
    assert frame is not None
    assert is_packed(b"", frame)
    assert not is_packed(b"{}", frame)
    assert not is_packed(b"", b"{}")
