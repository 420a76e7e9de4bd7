"""An encrypted log keeps the log's contract, and nothing in it can be read or guessed without its keys."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.contracts.log_contract import LogContract, delivery
from tracker.domain.deliveries import Appended
from tracker.errors import LogCorrupt, LogMissing, LogUnavailable
from tracker.log.merkle.leaf import compute_commitment, record_leaf_hash
from tracker.log.sqlite.log import SqliteLog
from tracker.config.encryption import MasterKey
from tracker.log.keys.key_store import KeyStore

FIRST = MasterKey("first", bytes(range(32)))
SECOND = MasterKey("second", bytes(range(1, 33)))
SECRET_TEXT = b"alice@example.org said hello"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys.db"


@pytest.fixture
async def log(tmp_path: Path, keys: Path) -> AsyncIterator[SqliteLog]:
    await SqliteLog.create(tmp_path / "log.db")
    await KeyStore.create(keys, [FIRST])
    log = await opened(tmp_path)
    yield log
    await log.close()


async def opened(folder: Path, *masters: MasterKey) -> SqliteLog:
    vault = await KeyStore.open(folder / "keys.db", masters or (FIRST,))
    return await SqliteLog.open(folder / "log.db", key_store=vault)


def everything_on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file())


class TestSealedLog(LogContract):
    """The contract, with two differences: dedupe keys are keyed hashes, and leaves are of encrypted bytes."""

    sealed = True

    @pytest.fixture
    async def log(self, tmp_path: Path) -> AsyncIterator[SqliteLog]:
        await SqliteLog.create(tmp_path / "log.db")
        await KeyStore.create(tmp_path / "keys.db", [FIRST])
        log = await opened(tmp_path)
        yield log
        await log.close()


async def test_files_contain_no_body_proof_or_key_in_clear_text(log: SqliteLog, tmp_path: Path) -> None:
    await log.append(delivery("room:alice@example.org", body=SECRET_TEXT))
    record = await log.record(1)
    assert record is not None
    assert (record.body, record.proof) == (SECRET_TEXT, b'{"iss":"k"}')
    await log.close()
    found = everything_on_disk(tmp_path)
    assert b"alice" not in found
    assert b'{"iss"' not in found


async def test_the_leaf_commits_to_the_encrypted_bytes_and_with_a_secret_salt_to_the_plain_ones(log: SqliteLog) -> None:
    await log.append(delivery("a", body=SECRET_TEXT))
    (stored,) = [each async for chunk in log.read_stored(0) for each in chunk]
    leaf = await log.leaf(1)
    assert leaf is not None
    assert leaf.salt is not None
    assert record_leaf_hash(*stored[:9], commitment=stored.commitment) == stored.leaf == leaf.hash
    assert leaf.commitment == compute_commitment(leaf.salt, b'{"iss":"k"}', SECRET_TEXT)


async def test_an_erased_record_is_unreadable_and_its_leaf_stays(log: SqliteLog, tmp_path: Path) -> None:
    await log.append_all([delivery(f"k{n}", body=SECRET_TEXT) for n in range(5)])
    before = await log.tree_head()
    leaf = await log.leaf(3)
    assert await log.append_erasure(delivery("e", source="tracker"), [3]) == Appended(6, duplicate=False)
    await log.destroy_keys([3])
    record = await log.record(3)
    assert record is not None
    assert (record.body, record.proof, record.erased_by) == (b"", b"{}", 6)
    gone = await log.leaf(3)
    assert leaf is not None
    assert gone is not None
    assert (gone.hash, gone.salt) == (leaf.hash, None)
    assert await log.append(delivery("k2", body=SECRET_TEXT)) == Appended(3, duplicate=True)
    assert (await log.tree_head()).size == before.size + 1
    others = [each async for chunk in log.read(0) for each in chunk]
    assert [each.erased_by for each in others] == [None, None, 6, None, None, None]
    await log.close()
    with closing(sqlite3.connect(tmp_path / "keys.db")) as keys:
        assert keys.execute("SELECT position FROM keys WHERE position <= 5").fetchall() == [(1,), (2,), (4,), (5,)]
        assert keys.execute("PRAGMA freelist_count").fetchone() == (0,)


async def test_no_file_contains_a_destroyed_key(log: SqliteLog, tmp_path: Path) -> None:
    await log.append_all([delivery(f"k{n}") for n in range(500)])
    with closing(sqlite3.connect(tmp_path / "keys.db")) as keys:
        wrapped = [row[0] for row in keys.execute("SELECT wrapped FROM keys WHERE position <= 500 ORDER BY position")]
    assert len(wrapped) == 500
    await log.append_erasure(delivery("e", source="tracker"), range(1, 501))
    await log.destroy_keys(range(1, 501))
    found = everything_on_disk(tmp_path)
    assert not [n for n, each in enumerate(wrapped, 1) if each in found]


async def test_after_rotation_the_old_master_key_is_not_needed(log: SqliteLog, tmp_path: Path) -> None:
    await log.append_all([delivery(f"k{n}", body=SECRET_TEXT) for n in range(4500)])
    await log.close()
    vault = await KeyStore.open(tmp_path / "keys.db", [SECOND, FIRST])
    assert await vault.count_outdated() >= 4500
    done: int | None = 0
    while done is not None:
        done = await vault.rewrap(done)
    assert await vault.count_outdated() == 0
    await vault.close()
    again = await opened(tmp_path, SECOND)
    assert {each.body async for chunk in again.read(0) for each in chunk} == {SECRET_TEXT}
    assert await again.append(delivery("k7")) == Appended(8, duplicate=True)
    await again.close()
    with pytest.raises(LogUnavailable, match="second"):
        await KeyStore.open(tmp_path / "keys.db", [FIRST])


async def test_two_processes_encrypt_in_turn_and_each_reads_all(log: SqliteLog, tmp_path: Path) -> None:
    other = await opened(tmp_path)
    for n in range(40):
        await (log, other)[n % 2].append_all([delivery(f"k{n}-{m}", body=b"%d" % n) for m in range(1 + 100 * (n % 3))])
    for reading in (log, other):
        bodies = [each.body async for chunk in reading.read(0) for each in chunk]
        assert bodies == [b"%d" % n for n in range(40) for _ in range(1 + 100 * (n % 3))]
    await other.close()


async def test_another_master_key_of_the_same_name_is_refused(log: SqliteLog, keys: Path) -> None:
    with pytest.raises(LogUnavailable, match="not the one that wrapped these keys"):
        await KeyStore.open(keys, [MasterKey("first", SECOND.key)])


async def test_an_encrypted_log_is_not_opened_without_its_keys(log: SqliteLog, tmp_path: Path, keys: Path) -> None:
    await log.append(delivery("a"))
    with pytest.raises(LogUnavailable, match="sealing"):
        await SqliteLog.open(tmp_path / "log.db")
    await log.close()
    keys.unlink()
    with pytest.raises(LogMissing, match="key store"):
        await KeyStore.open(keys, [FIRST])


async def test_a_delivery_recorded_before_encryption_is_a_duplicate_afterwards(tmp_path: Path) -> None:
    await SqliteLog.create(tmp_path / "log.db")
    clear = await SqliteLog.open(tmp_path / "log.db")
    await clear.append(delivery("a"))
    await clear.close()
    await KeyStore.create(tmp_path / "keys.db", [FIRST])
    log = await opened(tmp_path)
    assert await log.append(delivery("a")) == Appended(1, duplicate=True)
    assert await log.append(delivery("b")) == Appended(2, duplicate=False)
    assert await log.append(delivery("b")) == Appended(2, duplicate=True)
    assert [each.body async for chunk in log.read(0) for each in chunk] == [b"{}", b"{}"]
    await log.close()


async def test_an_encrypted_body_moved_to_another_position_cannot_be_decrypted(log: SqliteLog, tmp_path: Path) -> None:
    await log.append_all([delivery("a", body=b"one"), delivery("b", body=b"two")])
    with closing(sqlite3.connect(tmp_path / "log.db", isolation_level=None)) as plain:
        plain.execute("DROP TRIGGER records_are_never_updated")
        plain.execute("UPDATE records SET body = (SELECT body FROM records WHERE position = 2) WHERE position = 1")
    with pytest.raises(LogCorrupt, match="position 1"):
        await log.record(1)


async def test_the_error_of_a_damaged_key_store_names_it_and_no_thread_is_left(tmp_path: Path) -> None:
    (tmp_path / "keys.db").write_bytes(b"no database at all" * 100)
    before = threading.active_count()
    with pytest.raises(LogCorrupt, match="keys.db"):
        await KeyStore.open(tmp_path / "keys.db", [FIRST])
    for _ in range(100):
        if threading.active_count() <= before:
            break
        await asyncio.sleep(0.02)
    assert threading.active_count() <= before


async def test_a_key_store_opened_for_reading_decrypts_and_makes_no_keys(log: SqliteLog, tmp_path: Path) -> None:
    await log.append(delivery("a", body=b"secret"))
    vault = await KeyStore.open(tmp_path / "keys.db", [FIRST], writable=False)
    reading = await SqliteLog.open(tmp_path / "log.db", key_store=vault, writable=False)
    record = await reading.record(1)
    assert record is not None
    assert record.body == b"secret"
    with pytest.raises(LogUnavailable):
        await vault.make_keys(100_000, 100_000)
    await reading.close()
