"""`tracker copy`: from a single server into a cluster and back, with every byte, time, checkpoint and erasure."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import signal
import sqlite3
import sys
from pathlib import Path


from tests.support.cluster import Cluster, node, own_cluster
from tests.contracts.log_contract import delivery
from tests.support.server import Running
from tracker.server import signing_keys
from tracker.server import stores
from tracker.config.load import load
from tracker.log.erasure_records import ErasedRecord, ErasureBody, make_erasure_record
from tracker.log.merkle.checkpoint import checkpoint_text
from tracker.log.merkle.note import sign_note
from tracker.log.sqlite.log import SqliteLog

SAME = {
    "records": "SELECT position, source, vendor, event, dedupe_key, received_at, origin FROM records ORDER BY position",
    "leaves": "SELECT * FROM leaves ORDER BY position",
    "tiles": "SELECT * FROM tiles ORDER BY level, n",
    "erasures": "SELECT * FROM erasures ORDER BY position",
    "checkpoints": "SELECT * FROM checkpoints ORDER BY size",
}


cluster = own_cluster


def single(folder: Path) -> Running:
    folder.mkdir()
    return Running(folder)


async def filled(running: Running, records: int = 3_000) -> None:
    """A log with records, two erasures, and checkpoints before and after."""
    assert (await running.run("init"))[0] == 0
    log = await SqliteLog.open(running.log_path)
    for start in range(0, records, 500):
        await log.append_all([
            delivery(f"k{n}", source="ab"[n % 2], body=b'{"n": %d, "%s": "%s"}' % (n, b"same" * 20, b"x" * (n % 50)))
            for n in range(start, start + 500)
        ])  # fmt: skip
        if start in {500, 1000}:
            erased = [start - 100, start - 99]
            record = make_erasure_record(
                ErasureBody(why="identity", at=start, erased=[ErasedRecord(each, []) for each in erased])
            )
            await log.append_erasure(record, erased)
            await checkpointed(log, running)
    await log.close()


async def checkpointed(log: SqliteLog, running: Running) -> None:
    signer = signing_keys.signer(load(running.config, {}))
    assert signer is not None
    size, root = await log.tree_head()
    await log.store_checkpoint(size, sign_note(checkpoint_text(signer.name, size, root), [signer]))


def key_of(running: Running) -> str:
    key = signing_keys.public_key(load(running.config, {}))
    assert key is not None
    return key


def rows(path: Path, what: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(SAME[what]).fetchall()
    finally:
        connection.close()


async def bodies(running: Running) -> str:
    code, out, stderr = await running.run("export")
    assert code == 0, stderr
    return out


async def copied(source: Running, to: Running) -> dict[str, object]:
    code, out, stderr = await source.run("copy", "--to", str(to.config), "--json")
    assert code == 0, stderr
    return json.loads(out)


async def test_a_log_copied_into_a_cluster_and_back_is_the_same(cluster: Cluster, tmp_path: Path) -> None:
    before, back = single(tmp_path / "single"), single(tmp_path / "back")
    there = node(tmp_path, "a", cluster, stream="copy")
    await filled(before)
    first_result = await copied(before, there)
    assert (first_result["records"], first_result["new"], first_result["checkpoints"]) == (3_002, 3_002, 2)
    # Another node, which has all of it from the stream.
    other = node(tmp_path, "b", cluster, stream="copy")
    assert (await other.run("init"))[0] == 0
    second_result = await copied(other, back)
    assert second_result == first_result
    for what in SAME:
        assert rows(before.log_path, what) == rows(there.log_path, what) == rows(back.log_path, what), what
    assert await bodies(before) == await bodies(there) == await bodies(back)
    # A second copy copies nothing, and a later one only new records.
    assert (await copied(before, there))["new"] == 0
    log = await SqliteLog.open(before.log_path)
    await log.append(delivery("one more"))
    await log.close()
    assert (await copied(before, there))["new"] == 1
    root = f"root {(await copied(there, back))['root']}"
    for running in (before, there, back):
        assert root in (await running.run("verify"))[1]


async def test_the_checkpoints_of_a_copy_verify_with_the_copied_key_and_verify_names_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    before, back, other = single(tmp_path / "single"), single(tmp_path / "back"), single(tmp_path / "other")
    there = node(tmp_path, "a", cluster, stream="keys")
    await filled(before, 1_500)
    key = key_of(before)
    assert (await copied(before, there))["keys"] == [key]
    # A server that has its own key already, and one that has none.
    assert (await other.run("init"))[0] == 0
    other.log_path.unlink()
    line = f'former_keys = ["{key}"]'
    for to in (back, other):
        code, out, _ = await there.run("copy", "--to", str(to.config))
        assert (code, line in out) == (0, True), out
    for running in (there, back):
        code, out, _ = await running.run("verify")
        assert code == 0, out
        assert "2 checkpoints in the log and 0 kept elsewhere are verified" in out
        assert f"signed by {key}, a key that only the log itself names: compare it" in out
        assert "the one that was appended, if that key is the right one" in out
        assert (await running.run("verify", "--json"))[1].count('"is_named_only": true') == 1
        code, out, _ = await running.run("verify", "--key", key)
        assert (code, "that only the log" in out, "if that key" in out) == (0, False, False)
    code, out, _ = await other.run("verify")
    assert (code, "0 checkpoints in the log" in out, line in out) == (1, True, True), out
    with other.config.open("a") as file:
        file.write(f"\n[evidence]\n{line}\n")
    code, out, _ = await other.run("verify")
    assert (code, "2 checkpoints in the log" in out, line in out) == (0, True, False), out


async def test_a_node_with_another_key_copies_no_checkpoints_until_their_key_is_configured(
    cluster: Cluster, tmp_path: Path
) -> None:
    before, there = single(tmp_path / "single"), node(tmp_path, "a", cluster, stream="foreign")
    await filled(before, 1_500)
    own = key_of(before)
    assert (await there.run("init"))[0] == 0
    line = f'former_keys = ["{own}"]'
    code, _, stderr = await before.run("copy", "--to", str(there.config))
    assert (code, line in stderr) == (1, True), stderr
    with there.config.open("a") as file:
        file.write(f"\n[evidence]\n{line}\n")
    assert (await copied(before, there))["checkpoints"] == 2
    assert rows(before.log_path, "checkpoints") == rows(there.log_path, "checkpoints")
    assert "2 checkpoints in the log" in (await there.run("verify"))[1]


def sealed(running: Running, master: str) -> Running:
    """The same server, with encryption under its own master key."""
    text = running.config.read_text()
    keys = f'keys = [{{ id = "{master}", secret = "{master * 64}" }}]'
    running.config.write_text(f'{text}\n[sealing]\n{keys}\npath = "{running.folder}/keys.db"\n')
    return running


async def test_an_encrypted_log_is_copied_with_its_keys_and_erased_records_stay_erased(
    cluster: Cluster, tmp_path: Path
) -> None:
    before = sealed(single(tmp_path / "single"), "a")
    there = sealed(node(tmp_path, "a", cluster, stream="sealed"), "b")
    back = sealed(single(tmp_path / "back"), "c")
    assert (await before.run("init"))[0] == 0
    log = await stores.open_log(load(before.config, {}))
    await log.append_all([delivery(f"k{n}", body=b'{"n": %d}' % n) for n in range(700)])
    record = make_erasure_record(ErasureBody(why="identity", at=1, erased=[ErasedRecord(each, []) for each in (5, 6)]))
    await log.append_erasure(record, [5, 6])
    await log.destroy_keys([5, 6])
    await log.append(delivery("after"))
    await log.close()
    code, _, stderr = await before.run("copy", "--to", str(single(tmp_path / "clear").config))
    assert (code, "the log to copy is encrypted" in stderr) == (2, True)
    assert (await copied(before, there))["root"] == (await copied(there, back))["root"]
    for what in SAME:
        assert rows(before.log_path, what) == rows(there.log_path, what) == rows(back.log_path, what), what
    exported = await bodies(before)
    assert exported == await bodies(there) == await bodies(back)
    shown = [re.search(rf'n\\?": ?{n}\b', line) is not None for n, line in enumerate(exported.splitlines()[:8])]
    assert shown == [True] * 4 + [False] * 2 + [True] * 2
    # The next copy includes an erasure made after the first, and duplicates are recognised everywhere.
    log = await stores.open_log(load(before.config, {}))
    await log.append_erasure(make_erasure_record(ErasureBody(why="identity", at=2, erased=[ErasedRecord(7, [])])), [7])
    await log.destroy_keys([7])
    await log.close()
    await copied(before, there)
    await copied(there, back)
    assert await bodies(before) == await bodies(there) == await bodies(back)
    for running in (before, back):
        log = await stores.open_log(load(running.config, {}))
        assert (await log.append(delivery("k3"))).duplicate
        leaf = await log.leaf(7)
        assert leaf is not None
        assert leaf.salt is None
        await log.close()


async def test_a_killed_copy_continues_where_it_stopped(cluster: Cluster, tmp_path: Path) -> None:
    before, back = single(tmp_path / "single"), single(tmp_path / "back")
    there = node(tmp_path, "a", cluster, stream="kill")
    await filled(before, 6_000)
    for source, to in ((before, there), (there, back)):
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "tracker", "copy", "--config", str(source.config), "--to", str(to.config)],
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stderr is not None
        while b"of 6002 records" not in await process.stderr.readline():
            assert process.returncode is None
        process.send_signal(signal.SIGKILL)
        await process.wait()
        result = await copied(source, to)
        assert result["records"] == 6_002
        assert 0 <= int(str(result["new"])) < 6_002
        for what in SAME:
            assert rows(source.log_path, what) == rows(to.log_path, what), what


async def test_copying_over_another_log_is_refused_and_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    first, second = single(tmp_path / "one"), single(tmp_path / "two")
    for running in (first, second):
        assert (await running.run("init"))[0] == 0
        log = await SqliteLog.open(running.log_path)
        await log.append(delivery(secrets.token_hex(8)))
        await log.append(delivery("same"))
        await log.close()
    there = node(tmp_path, "a", cluster, stream="other")
    await copied(first, there)
    for source, to in ((second, there), (first, second)):
        code, _, stderr = await source.run("copy", "--to", str(to.config))
        assert (code, "are not the first ones of the log to copy" in stderr) == (1, True), stderr
    assert (await first.run("copy", "--to", str(first.config)))[0] == 2
