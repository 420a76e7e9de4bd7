"""`tracker restore-keys`: the bucket of data keys of a running cluster is deleted and restored without the erased keys."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.cluster import Cluster, node, own_cluster
from tests.support.server import Running
from tests.support.encrypted_replicas import absent_from_files
from tracker.demo.calls import whole_call
from tracker.log.keys.frame_keys import decode
from tracker.log.jetstream.key_bucket import KeyBucket
from tracker.config.jetstream import JetstreamConfig
from tracker.log.jetstream.stream import Stream

SEALING = '[sealing]\nkeys = [{{ id = "main", secret = "{secret}" }}]\npath = "{folder}/{name}/keys.db"\n'
PERSON = "user-alice"
DYING = """
import os, signal, sys
from tracker.cli.main import main
from tracker.log.jetstream import restore_keys
from tracker.log.jetstream.key_bucket import KeyBucket

restore_keys.PARALLEL_REQUESTS = 2
replace, left = KeyBucket.replace, [int(sys.argv.pop(1))]

async def dying(self, *args):
    done = await replace(self, *args)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return done

KeyBucket.replace = dying
sys.exit(main(sys.argv[1:]))
"""
"""A `tracker` that kills itself when it has restored its n-th entry, while other requests are pending."""


cluster = own_cluster


def sealed(folder: Path, name: str, cluster: Cluster) -> Running:
    return node(folder, name, cluster, more=SEALING.format(secret="ab" * 32, folder=folder, name=name))


async def delete_bucket(cluster: Cluster) -> None:
    stream = await Stream.open(JetstreamConfig(servers=tuple(cluster.urls), stream="tracker", node="x", replicas=3))
    await stream.api_request("STREAM.DELETE.KV_tracker-keys", {})
    await stream.close()


async def entries(cluster: Cluster) -> dict[bytes, list[bytes | None]]:
    stream = await Stream.open(JetstreamConfig(servers=tuple(cluster.urls), stream="tracker", node="x", replicas=3))
    bucket, after, found = KeyBucket(stream), 0, dict[bytes, list[bytes | None]]()
    while (each := await bucket.next_revision(after)) is not None:
        after = each.sequence
        found.setdefault(each.frame, []).extend(decode(each.entry).wrapped)
    await stream.close()
    return found


async def readiness(web: aiohttp.ClientSession, running: Running) -> tuple[int, Any]:
    status, text = await running.text(web, "/readyz")
    return status, json.loads(text)


async def test_a_deleted_bucket_of_a_running_cluster_is_restored(cluster: Cluster, tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as web:
        first, second = sealed(tmp_path, "a", cluster), sealed(tmp_path, "b", cluster)
        for running in (first, second):
            await running.start(init=True)
        sent = whole_call("livekit", 1_700_000_000_000_000)
        for n, each in enumerate(sent):
            assert (await (first, second)[n % 2].post(web, "livekit", each))[0] == 200
        for running in (first, second):
            await running.get(web, "/v1/sessions", at_least=str(len(sent)))
        before = await entries(cluster)
        code, _, stderr = await second.run("erase", "--identity", PERSON, "--yes")
        assert code == 0, stderr
        await delete_bucket(cluster)

        # The nodes report it, without a delivery and with one.
        async with asyncio.timeout(30):
            while (await readiness(web, first))[0] == 200:
                await asyncio.sleep(0.2)
        status, readiness_body = await readiness(web, first)
        assert (status, "tracker restore-keys" in json.dumps(readiness_body)) == (503, True)
        more = whole_call("livekit", 1_700_000_900_000_000)
        assert (await first.post(web, "livekit", more[0]))[0] == 503
        third = sealed(tmp_path, "c", cluster)
        code, _, stderr = await third.run("init")
        assert (code, "it was lost" in stderr) == (1, True), stderr
        await second.stop()
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "tracker", "serve", "--config", str(second.config)], stderr=asyncio.subprocess.PIPE
        )
        _, output = await process.communicate()
        assert b"tracker restore-keys" in output

        # Killed between two entries several times, then run on both nodes at once.
        for entry in (1, 2, 1):
            process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-c", DYING, str(entry), "restore-keys", "--config", str(first.config)],
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            assert await process.wait() == -9
        assert 0 < len(await entries(cluster)) < len(before)
        done = await asyncio.gather(*(running.run("restore-keys", "--json") for running in (first, second)))
        assert [code for code, _, _ in done] == [0, 0], done
        assert sum(json.loads(out)["entries"] for _, out, _ in done) >= 1
        code, out, _ = await first.run("restore-keys", "--json")
        result = json.loads(out)
        assert (code, result["entries"], result["missing"], result["ahead"]) == (0, 0, 0, 0)
        assert result["frames"] >= len(before)

        # New deliveries are recorded, a new node reads the old ones, and erased records stay erased.
        async with asyncio.timeout(30):
            while (await readiness(web, first))[0] != 200:
                await asyncio.sleep(0.2)
        position = 0
        for each in more:
            status, answer = await first.post(web, "livekit", each)
            assert status == 200
            position = answer["position"]
        await third.start(init=True)
        await third.get(web, "/v1/sessions", at_least=str(position))
        exports = [(await running.run("export"))[1].splitlines() for running in (first, third)]
        assert exports[0] == exports[1]
        assert not any(PERSON in line for line in exports[1][: len(sent) + 1])
        assert sum("room_started" in line for line in exports[1][: len(sent)]) == 1, (
            "records that are not erased are readable"
        )
        assert any(PERSON in line for line in exports[1][len(sent) + 1 :])
        gone = [
            each
            for frame, wrapped in (await entries(cluster)).items()
            if frame in before and wrapped == [None]
            for each in before[frame]
            if each is not None
        ]
        assert gone
        folders = [path for n in range(3) for path in cluster.store(n).rglob("KV_tracker-keys")]
        assert await absent_from_files(gone, [*folders, first.folder, second.folder, third.folder])
        assert (await first.stop(), await third.stop()) == (0, 0)


async def test_restore_keys_is_refused_on_a_single_server(tmp_path: Path) -> None:
    (tmp_path / "single").mkdir()
    code, _, stderr = await Running(tmp_path / "single").run("restore-keys")
    assert (code, "only the nodes of a cluster" in stderr) == (2, True)
