"""A person is erased on one of two nodes: afterwards no node and no server of the cluster has their bytes or keys."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import nats

from tests.support.cluster import Cluster, node
from tests.support.server import Running
from tracker.demo.calls import whole_call
from tracker.log.keys.frame_keys import decode
from tracker.log.sqlite.log import SqliteLog
from tracker.log.sqlite.replica import Replica
from tracker.config.encryption import MasterKey
from tracker.log.keys.key_store import KeyStore
from tracker.server.sources import shipped_dictionaries

MASTER = "ab" * 32
MASTERS = (MasterKey("main", bytes.fromhex(MASTER)),)
PERSON = b"user-alice"
SEALING = f"""
[sealing]
keys = [{{ id = "main", secret = "{MASTER}" }}]
path = "keys.db"
[evidence]
key_file = "sign.key"
file = "checkpoints.txt"
"""
COMPACTED_SECONDS = 30
LOG_BYTES = 8 * 2**20
"""The servers compact a changed Raft log every two to three minutes, or at once when it has this size."""


def on_disk(folder: Path) -> bytes:
    found: list[bytes] = []
    for path in sorted(folder.rglob("*")):
        try:
            found.append(path.read_bytes())
        except (IsADirectoryError, FileNotFoundError):  # a server removed its file
            continue
    return b"\n".join(found)


async def until(what: Callable[[], bool], seconds: float) -> float:
    """Wait until `what()` is true; returns the seconds it took."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < seconds
        await asyncio.sleep(0.25)
    return time.monotonic() - began


async def fill(cluster: Cluster, subject: str) -> None:
    """Make the Raft log of a subject so large that servers compact it, with random bytes that do not compress."""
    client = await nats.connect(cluster.urls)
    for _ in range(LOG_BYTES // 2**19 + 2):
        answer = await client.request(subject, secrets.token_bytes(2**19), timeout=20)
        assert b"error" not in answer.data, answer.data
    await client.close()


async def keys_of(running: Running, positions: list[int]) -> list[bytes]:
    """The wrapped data keys of all copies of these records in this node's key store."""
    replica = await Replica.open(running.log_path, encrypted_unread=True)
    copies = await replica.copies_of(positions)
    found: list[bytes] = []
    with contextlib.closing(sqlite3.connect(running.folder / "keys.db")) as keys:
        for frame, n in copies:
            for (entry,) in keys.execute("SELECT keys FROM frames WHERE id = ?", (frame,)):
                wrapped = decode(entry).wrapped[n]
                found += [] if wrapped is None else [wrapped]
    await replica.close()
    return found


async def test_a_person_erased_on_one_node_is_erased_on_all_nodes_and_servers(tmp_path: Path) -> None:
    async with Cluster(tmp_path / "nats") as cluster, aiohttp.ClientSession() as web:
        first = node(tmp_path, "a", cluster, more=SEALING)
        second = node(tmp_path, "b", cluster, more=SEALING)
        for running in (first, second):
            await running.start(init=True)
        sent = whole_call("livekit", 1_700_000_000_000_000)
        for n, each in enumerate(sent):
            status, answer = await (first, second)[n % 2].post(web, "livekit", each)
            assert (status, answer["position"]) == (200, n + 1)
        for running in (first, second):
            await running.get(web, "/v1/sessions", at_least=str(len(sent)))
            assert PERSON in on_disk(running.folder), "in its views"
        stores = [cluster.store(n) for n in range(cluster.size)]
        assert not any(PERSON in on_disk(store) for store in stores)

        code, out, stderr = await second.run("erase", "--identity", PERSON.decode(), "--json")
        assert code == 0, stderr
        positions: list[int] = json.loads(out)["items"][0]["positions"]
        assert positions
        keys = await keys_of(first, positions)
        assert len(keys) == len(positions)
        assert any(key in on_disk(store) for key in keys for store in stores)
        code, out, stderr = await second.run("erase", "--identity", PERSON.decode(), "--yes", "--json")
        assert code == 0, stderr
        assert json.loads(out)["items"][0]["positions"] == positions

        # On the erasing node at once, on the other one after its views are rebuilt.
        assert PERSON not in on_disk(second.folder)
        await until(lambda: PERSON not in on_disk(first.folder), 60)
        for running in (first, second):
            held = on_disk(running.folder)
            assert not any(key in held for key in keys)
            assert (await running.run("rebuild", "--check"))[0] == 0
            assert PERSON.decode() not in (await running.run("export"))[1]
        code, out, stderr = await first.run("verify")
        assert code == 0, out + stderr
        assert (await first.run("export"))[1] == (await second.run("export"))[1]

        # Removed from the bucket's files at once, and from the Raft logs when the servers compact them.
        blocks = [path for store in stores for path in store.rglob("KV_*/msgs/*.blk")]
        assert blocks
        assert not any(key in path.read_bytes() for key in keys for path in blocks)
        assert (await first.stop(), await second.stop()) == (0, 0)
        await fill(cluster, "$KV.tracker-keys.filling")
        await until(lambda: not any(key in on_disk(store) for key in keys for store in stores), COMPACTED_SECONDS)


async def test_an_erasure_killed_between_two_steps_is_finished_by_the_next_start(tmp_path: Path) -> None:
    async with Cluster(tmp_path / "nats") as cluster, aiohttp.ClientSession() as web:
        first = node(tmp_path, "a", cluster, more=SEALING)
        await first.start(init=True)
        sent = whole_call("livekit", 1_700_000_000_000_000)
        for each in sent:
            assert (await first.post(web, "livekit", each))[0] == 200
        await first.get(web, "/v1/sessions", at_least=str(len(sent)))
        await first.stop()
        keys = await keys_of(first, list(range(1, len(sent) + 1)))
        head = len(sent)
        # Killed later each time; the last one runs to its end.
        for moment in (0.8, 1.2, 1.6, 2.0, None):
            process = await asyncio.create_subprocess_exec(
                *[__import__("sys").executable, "-m", "tracker", "erase", "--config", str(first.config)],
                *["--identity", PERSON.decode(), "--yes"],
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            if moment is None:
                assert await process.wait() == 0
            else:
                await asyncio.sleep(moment)
                if process.returncode is None:
                    process.kill()
                await process.wait()
        assert PERSON not in on_disk(first.folder)
        log = await SqliteLog.open(
            first.log_path, key_store=await KeyStore.open(first.folder / "keys.db", MASTERS, shipped_dictionaries())
        )
        erased = [position for position, _ in await log.erased_positions(0, 1000)]
        assert erased
        assert await log.head() > head
        await log.close()
        held = on_disk(first.folder)
        assert not any(keys[position - 1] in held for position in erased)
        blocks = [path for n in range(cluster.size) for path in cluster.store(n).rglob("KV_*/msgs/*.blk")]
        assert not any(keys[position - 1] in path.read_bytes() for position in erased for path in blocks)
        assert (await first.run("verify"))[0] == 0
        await first.start()
        assert PERSON.decode() not in json.dumps(await first.get(web, "/v1/sessions"))
        assert (await first.stop(), PERSON in on_disk(first.folder)) == (0, False)


async def test_rotating_the_master_key_wraps_all_keys_again_on_every_node(tmp_path: Path) -> None:
    async with Cluster(tmp_path / "nats") as cluster, aiohttp.ClientSession() as web:
        first, second = node(tmp_path, "a", cluster, more=SEALING), node(tmp_path, "b", cluster, more=SEALING)
        sent = whole_call("livekit", 1_700_000_000_000_000)
        await first.start(init=True)
        for each in sent:
            assert (await first.post(web, "livekit", each))[0] == 200
        await second.start(init=True)
        await second.get(web, "/v1/sessions", at_least=str(len(sent)))
        assert (await first.stop(), await second.stop()) == (0, 0)
        exported = (await first.run("export"))[1]
        old, new = f'{{ id = "main", secret = "{MASTER}" }}', f'{{ id = "next", secret = "{"cd" * 32}" }}'
        for running in (first, second):
            text = running.config.read_text()
            running.config.write_text(text.replace(old, f"{new}, {old}"))
            code, out, stderr = await running.run("rekey")
            assert (code, f"{len(sent)} data keys" in out) == (0, True), out + stderr
            # The old master key is not needed any more.
            running.config.write_text(text.replace(old, new))
            assert (await running.run("export"))[1] == exported
        third = node(tmp_path, "c", cluster, more=SEALING)
        third.config.write_text(third.config.read_text().replace(old, new))
        await third.start(init=True)
        await third.get(web, "/v1/sessions", at_least=str(len(sent)))
        assert (await third.stop(), (await third.run("export"))[1]) == (0, exported)
