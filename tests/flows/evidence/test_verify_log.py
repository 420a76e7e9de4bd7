"""`tracker verify` finds every change made to a log around Tracker, and names the position."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.bundles import configured, filled
from tests.support.cluster import Cluster
from tests.support.tampering import (
    AFTER,
    FIRST,
    SIZE,
    Tampered,
    config_at,
    grow,
    update_leaf,
    make,
    faults,
    rebuild_tiles,
    verified,
)
from tracker.cli.checkpoint import checkpoint
from tracker.cli.init import init
from tracker.cli.main import main
from tracker.config import load
from tracker.errors import HistoryChanged
from tracker.log.merkle.hashing import leaf_hash
from tracker.log.merkle.note import Signer


@pytest.fixture(scope="module", params=["sqlite", "jetstream"])
def pristine(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The log of a single server, and the replica of a cluster node, which is the same kind of file."""
    folder = tmp_path_factory.mktemp("tampering") / "log"
    node: dict[str, object] | None = None
    if request.param == "jetstream":
        cluster: Cluster = request.getfixturevalue("cluster")
        node = {"servers": cluster.urls, "stream": f"s{secrets.token_hex(4)}", "node": "a"}
    asyncio.run(make(folder, jetstream=node))
    shutil.copy(folder / "checkpoints.txt", folder.parent / "shipped.txt")
    return folder


@pytest.fixture
def at(pristine: Path, tmp_path: Path) -> load.Config:
    """A copy of the log to tamper with."""
    shutil.copytree(pristine, tmp_path / "log")
    return config_at(tmp_path / "log")


def change_consistently(log: Tampered) -> None:
    log.run("UPDATE records SET event = 'room_finished' WHERE position = 100")
    update_leaf(log, 100)
    rebuild_tiles(log)


def change_leaf(log: Tampered) -> None:
    log.run("UPDATE leaves SET hash = ? WHERE position = 100", leaf_hash(b"another"))


def change_record_and_leaf(log: Tampered) -> None:
    log.run("UPDATE records SET received_at = received_at - 1 WHERE position = 100")
    update_leaf(log, 100)


def swap(log: Tampered) -> None:
    for sql in ("-1 WHERE position = 100", "100 WHERE position = 101", "101 WHERE position = -1"):
        log.run("PRAGMA ignore_check_constraints = 1")
        log.run(f"UPDATE records SET position = {sql}")


def insert(log: Tampered) -> None:
    """Insert a record in the middle and move everything after it."""
    log.run(
        "UPDATE records SET position = -position - 1 WHERE position >= 100".replace("-position", "1000000 + position")
    )
    log.run("UPDATE records SET position = position - 1000000 + 2 WHERE position > 1000000")
    log.run(
        "INSERT INTO records SELECT 100, source, vendor, event, 'forged', received_at, origin, proof, body "
        "FROM records WHERE position = 99"
    )


def append_without_leaf(log: Tampered) -> None:
    log.run(
        "INSERT INTO records SELECT ?, source, vendor, event, 'forged', received_at, origin, proof, body "
        "FROM records WHERE position = 99",
        SIZE + AFTER + 1,
    )


def replace(log: Tampered) -> None:
    log.run("PRAGMA recursive_triggers = ON")
    log.run(
        "INSERT OR REPLACE INTO records SELECT position, source, vendor, event, dedupe_key, received_at, origin, proof, "
        "x'7b7d' FROM records WHERE position = 100"
    )


def cut(*tables: str, since: int) -> Callable[[Tampered], None]:
    def run(log: Tampered) -> None:
        for table in tables:
            log.run(f"DELETE FROM {table} WHERE position >= ?", since)

    return run


def sql(*statements: str) -> Callable[[Tampered], None]:
    def run(log: Tampered) -> None:
        log.run("PRAGMA ignore_check_constraints = 1")
        for each in statements:
            log.run(each)

    return run


LEAF_MISMATCH = "the record does not match its leaf"
TABLE: dict[str, tuple[Callable[[Tampered], None], int | None, str]] = {
    "one byte of a body": (
        sql("UPDATE records SET body = CAST(replace(CAST(body AS TEXT), 'room', 'roon') AS BLOB) WHERE position = 100"),
        100,
        LEAF_MISMATCH,
    ),
    "one byte of a proof": (sql("UPDATE records SET proof = x'7b7d' WHERE position = 100"), 100, LEAF_MISMATCH),
    **{
        f"the field {field}": (
            sql(f"UPDATE records SET {field} = {value} WHERE position = 100"),
            100,
            LEAF_MISMATCH,
        )
        for field, value in {
            "source": "'pnm'", "vendor": "'plugnmeet'", "event": "'room_finished'", "dedupe_key": "'another'",
            "received_at": "received_at + 1", "origin": "'import'",
        }.items()
    },
    "a byte from proof to body": (
        sql("UPDATE records SET proof = CAST(proof || substr(body, 1, 1) AS BLOB), body = substr(body, 2) WHERE position = 100"), 100, LEAF_MISMATCH
    ),
    "a position": (sql("UPDATE records SET position = 5000 WHERE position = 100"), 100, "the record is missing"),
    "the last position": (
        sql(f"UPDATE records SET position = 5000 WHERE position = {SIZE + AFTER}"), SIZE + AFTER, "the record is missing"
    ),
    "a stored leaf": (change_leaf, 100, LEAF_MISMATCH),
    "a record with its leaf": (change_record_and_leaf, 1, "hash 0 of level 1"),
    "a record with its leaf after the last full tile": (
        lambda log: (log.run("UPDATE records SET event = '' WHERE position = 650"), update_leaf(log, 650))[0],
        SIZE,
        f"the checkpoint of {SIZE} records in the log does not hold",
    ),
    "a record with its leaf and tree": (change_consistently, FIRST, "does not hold"),
    "a tile": (sql("UPDATE tiles SET hash = zeroblob(32) WHERE n = 1"), 257, "hash 1 of level 1"),
    "a tile removed": (sql("DELETE FROM tiles WHERE n = 1"), 257, "is missing"),
    "the last record": (cut("records", since=SIZE + AFTER), SIZE + AFTER, "the records from here to the end were removed"),
    "the last signed record with its leaf": (
        cut("records", "leaves", since=SIZE), SIZE, f"signs more records than the {SIZE - 1} in the log"
    ),
    "a middle record": (sql("DELETE FROM records WHERE position = 100"), 100, "position 100 of the log"),
    "some middle records with their leaves": (
        sql("DELETE FROM records WHERE position IN (100, 101)", "DELETE FROM leaves WHERE position IN (100, 101)"),
        100,
        "positions 100 to 101",
    ),
    "two swapped": (swap, 100, LEAF_MISMATCH),
    "one inserted": (insert, 100, LEAF_MISMATCH),
    "one appended without a leaf": (append_without_leaf, SIZE + AFTER + 1, "the record has no leaf"),
    "one replaced": (replace, 100, LEAF_MISMATCH),
    "a checkpoint changed": (
        sql(f"UPDATE checkpoints SET note = replace(note, '{FIRST}', '{FIRST + 1}') WHERE size = {FIRST}"),
        None,
        "is not trusted",
    ),
    "a checkpoint moved": (
        sql(f"UPDATE checkpoints SET size = {FIRST + 1} WHERE size = {FIRST}"), FIRST + 1, "it was moved"
    ),
    "a checkpoint removed": (
        sql(f"DELETE FROM checkpoints WHERE size = {FIRST}"), FIRST, "is not in the log"
    ),
    "all checkpoints removed": (sql("DELETE FROM checkpoints"), FIRST, "is not in the log"),
}  # fmt: skip


async def test_an_untouched_log_has_no_fault(at: load.Config) -> None:
    found = await verified(at)
    assert faults(found) == []
    assert (found.records, found.checkpoints, found.shipped) == (SIZE + AFTER, 2, 2)


@pytest.mark.parametrize("what", TABLE)
async def test_every_change_is_found_and_named(at: load.Config, what: str) -> None:
    tamper, position, words = TABLE[what]
    with closing(Tampered(at.log.path)) as log:
        tamper(log)
    found = await verified(at)
    assert found.faults, what
    assert any(fault.position == position and words in fault.what for fault in found.faults), faults(found)
    if position is not None and not words.startswith("is not in the log") and "moved" not in words:
        assert min(fault.position for fault in found.faults if fault.position is not None) == position


async def test_an_old_copy_is_found_with_the_shipped_file(at: load.Config, pristine: Path) -> None:
    old = at.path.parent.parent / "old"
    old_at = config_at(old)
    old.mkdir()
    shutil.copy(pristine / "key", old / "key")
    await init(old_at)
    await grow(old_at, 1, FIRST)
    assert faults(await verified(old_at)) == []
    (line,) = [
        each for each in faults(await verified(old_at, files=[pristine.parent / "shipped.txt"])) if "signs more" in each
    ]
    assert line.startswith(
        f"{FIRST + 1}: the checkpoint of {SIZE} records in line 7 of shipped.txt signs more records than the {FIRST}"
    )
    assert "rolled back to an older copy" in line


async def test_a_log_replaced_with_another_key_is_found_with_the_file_and_with_the_key(
    at: load.Config, pristine: Path
) -> None:
    forged = await make(at.path.parent.parent / "forged", forged=[100])
    assert faults(await verified(forged)) == []
    by_file = faults(await verified(forged, files=[pristine.parent / "shipped.txt"]))
    assert any("shipped.txt is not trusted: it is signed by tracker.test/log+" in each for each in by_file)
    key = Signer.read((pristine / "key").read_text()).verifier
    by_key = faults(await verified(forged, keys=[str(key)]))
    assert any("in the log is not trusted" in each for each in by_key)


async def test_a_log_replaced_by_the_owner_of_the_key_is_found_with_the_file_alone(
    at: load.Config, pristine: Path
) -> None:
    forged = await make(at.path.parent.parent / "forged", forged=[100], key=(pristine / "key").read_bytes())
    assert faults(await verified(forged)) == []
    found = faults(await verified(forged, files=[pristine.parent / "shipped.txt"]))
    assert found[0].startswith(f"{FIRST}: the checkpoint of {FIRST} records in line 1 of shipped.txt does not hold")


async def test_an_edited_checkpoint_file_is_reported_by_line(at: load.Config) -> None:
    with at.evidence.file.open("a") as file:
        file.write("foreign text\n\n")
    assert faults(await verified(at)) == [
        "None: line 13 of checkpoints.txt is no checkpoint: the file was edited or damaged"
    ]


@pytest.mark.parametrize("pristine", ["sqlite"], indirect=True, scope="module")
async def test_checkpoints_without_a_key_are_not_trusted(at: load.Config) -> None:
    at.evidence.key_file.unlink()
    assert any("no key to check them with" in each for each in faults(await verified(at)))


def test_a_log_that_nobody_signed_agrees_with_itself_and_the_output_says_what_that_is_worth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "unsigned"
    config = configured(folder, sealed=False)
    asyncio.run(filled(config, ["livekit"]))
    config.evidence.key_file.unlink()
    code = main(["verify", "--config", str(config.path)])
    out = capsys.readouterr().out
    assert code == 0, out
    assert "no checkpoint was ever signed, so this log only agrees with itself" in out


async def test_a_tampered_log_is_not_signed(at: load.Config) -> None:
    with closing(Tampered(at.log.path)) as log:
        change_consistently(log)
    before = at.evidence.file.read_bytes()
    with pytest.raises(HistoryChanged, match=f"of {SIZE} records"):
        await checkpoint(at)
    assert at.evidence.file.read_bytes() == before


async def test_after_a_restored_copy_a_new_series_of_checkpoints_begins_as_the_docs_say(
    at: load.Config, pristine: Path, tmp_path: Path
) -> None:
    restored = tmp_path / "restored"
    restored.mkdir()
    here = config_at(restored)
    shutil.copy(pristine / "key", restored / "key")
    await init(here)
    await grow(here, 1, FIRST)
    shutil.copy(pristine / "checkpoints.txt", restored / "checkpoints.txt")
    await grow(here, FIRST + 1, FIRST + 10, sign=False)
    with pytest.raises(HistoryChanged, match=f"signs {SIZE} records, the log has {FIRST + 10}"):
        await checkpoint(here)
    for name in ("key", "checkpoints.txt"):
        (restored / name).rename(restored / f"{name}.before")
    former = str(Signer.read((restored / "key.before").read_text()).verifier)
    here = config_at(restored, origin="tracker.test/second", former_keys=[former])
    assert await init(here) == [restored / "key"]
    made = await checkpoint(here)
    assert made is not None
    assert made.note.startswith(f"tracker.test/second\n{FIRST + 10}\n")
    found = await verified(here)
    assert (faults(found), found.checkpoints, found.shipped) == ([], 2, 2)
    lost = faults(await verified(here, files=[restored / "checkpoints.txt.before"]))
    assert any(f"signs more records than the {FIRST + 10} in the log" in each for each in lost)


async def test_one_changed_byte_of_the_file_is_found(at: load.Config) -> None:
    whole = at.log.path.read_bytes()
    assert whole.count(b'"n": 100}') == 1
    at.log.path.write_bytes(whole.replace(b'"n": 100}', b'"n": 109}'))
    assert faults(await verified(at))[0].startswith(f"100: {LEAF_MISMATCH}")


async def test_an_unreadable_page_is_a_fault_and_does_not_end_the_command(at: load.Config) -> None:
    whole = bytearray(at.log.path.read_bytes())
    page = whole.index(b'"n": 400}') // 4096 * 4096
    whole[page : page + 100] = b"\xff" * 100
    at.log.path.write_bytes(whole)
    found = await verified(at)
    assert found.is_cut_short
    assert "cannot be read here" in found.faults[0].what
    assert 350 < (found.faults[0].position or 0) <= 400


@pytest.mark.parametrize("pristine", ["sqlite"], indirect=True, scope="module")
async def test_a_log_that_grows_and_is_signed_meanwhile_has_no_fault(at: load.Config) -> None:
    async def writing() -> None:
        n = SIZE + AFTER
        while True:
            await grow(at, n + 1, n + 40)
            n += 40

    running = asyncio.ensure_future(writing())
    try:
        for _ in range(12):
            assert faults(await verified(at)) == []
            assert not running.done()
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        (
            "CREATE TRIGGER swallow BEFORE INSERT ON records WHEN NEW.source = 'lk' BEGIN SELECT RAISE(IGNORE); END",
            "the trigger 'swallow' was added",
        ),
        ("DROP INDEX records_by_end_of_key", "the index 'records_by_end_of_key' is missing"),
    ],
)
async def test_a_changed_schema_is_the_first_fault(at: load.Config, sql: str, named: str) -> None:
    with closing(Tampered(at.log.path)) as log:
        log.run("UPDATE leaves SET hash = ? WHERE position = 100", leaf_hash(b"another"))
        log.run(sql)
    found = faults(await verified(at))
    assert (
        found[0] == f"None: the schema of the log is not the one that Tracker made: {named}. Deliveries may be missing"
    )
    assert any(each.startswith("100: ") for each in found[1:])
