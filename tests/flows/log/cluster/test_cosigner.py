"""Two nodes check each other: equal checkpoints are cosigned, and a tampered node is found."""

from __future__ import annotations

import asyncio
import json
import secrets
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from tests.support.cluster import Cluster, node
from tests.support.server import Running, now
from tests.support.tampering import Tampered
from tracker.demo.calls import whole_call
from tracker.log.merkle.cosignature import CosignerKey, verify_cosignatures
from tracker.log.merkle.leaf import record_leaf_hashes
from tracker.log.sqlite.log import SqliteLog


async def tamper(path: Path, position: int) -> None:
    """Change a record of a stopped node and its leaf, so that the file is consistent."""
    log = await SqliteLog.open(path)
    (record,) = [each async for chunk in log.read_stored(position - 1) for each in chunk if each.position == position]
    await log.close()
    changed = record._replace(body=record.body.replace(b"room", b"mood"))
    assert changed != record
    with closing(Tampered(path)) as file:
        file.run("UPDATE records SET proof = ?, body = ? WHERE position = ?", changed.proof, changed.body, position)
        file.run("UPDATE leaves SET hash = ? WHERE position = ?", record_leaf_hashes([changed])[0], position)


@pytest.mark.asyncio(loop_scope="session")
async def test_a_checkpoint_is_cosigned_by_the_other_node_and_a_tampered_node_is_found(
    tmp_path: Path, cluster: Cluster
) -> None:
    stream = f"vouch-{secrets.token_hex(4)}"
    first = await node(tmp_path, "a", cluster, stream=stream).start(init=True)
    second = await node(tmp_path, "b", cluster, stream=stream).start(init=True)
    sent = whole_call("livekit", now(), seed=5)
    try:
        async with aiohttp.ClientSession() as web:
            for each in sent[:6]:
                assert (await first.post(web, "livekit", each))[0] == 200
            code, out, stderr = await first.run("checkpoint", "--json")
            assert code == 0, stderr
            made = json.loads(out)
            # On both nodes the other node's line follows the log's own.
            key = CosignerKey.read((await second.text(web, "/v1/log/key"))[1])
            assert key.name.endswith("/b")
            notes = [
                await each.until(web, f"/v1/log/checkpoint?size={made['size']}", f"{key.name} ")
                for each in (first, second)
            ]
            assert notes[0] == notes[1]
            assert notes[0].startswith(made["note"])
            assert [each.key for each in verify_cosignatures(notes[0], [key])] == [key]
            assert (await second.run("checkpoint"))[0] == 2
            line = f"cosigned up to {made['size']} records by {key.name}"
            assert f"{line} (its key is not known)" in (await first.run("verify"))[1]
            assert f"{line}+{key.id.hex()}" in (await second.run("verify"))[1]
            assert "tracker_log_diverged 0.0" in (await second.text(web, "/metrics"))[1]

            await second.stop()
            await tamper(second.log_path, 3)
            await second.start()
            assert "from position 3 on" in await second.until(web, "/readyz", "position 3")
            assert (await second.text(web, "/readyz"))[0] == 503
            assert "tracker_log_diverged 1.0" in (await second.text(web, "/metrics"))[1]
            await first.until(web, "/metrics", "tracker_nodes_diverged 1.0")
            for path in ("/log", "/sources"):
                shown = (await second.text(web, path))[1]
                assert 'href="/log/3">position 3<' in shown
                assert "Leaf elsewhere" in shown
                assert "Node b reports that its first 6 records" in (await first.text(web, path))[1]
            assert "tracker_log_diverged 0.0" in (await first.text(web, "/metrics"))[1]

            # The diverged node answers nothing any more, not even from its records before that.
            for each in (sent[0], sent[6]):
                code, problem = await second.post(web, "livekit", each)
                assert (code, problem["type"]) == (503, "urn:tracker:problem:node-diverged")
            for path in ("/v1/records/1", "/v1/sessions", "/"):
                assert (await second.text(web, path))[0] == 503
            assert "from position 3 on" in (await second.text(web, "/v1/log/checkpoint"))[1]
            (tmp_path / "more.jsonl").write_bytes(sent[6].body)
            for command in (("rebuild",), ("import", "lk", str(tmp_path / "more.jsonl"))):
                code, _, stderr = await second.run(*command)
                assert (code, "this node has diverged" in stderr) == (1, True), stderr

            # The log continues without it, and a restart does not change that.
            position = (await first.post(web, "livekit", sent[6]))[1]["position"]
            await second.stop()
            await second.start()
            await second.until(web, "/readyz", "has diverged")
            assert (await second.post(web, "livekit", sent[0]))[0] == 503
            assert (await second.text(web, f"/v1/records/{position}?at_least={position}"))[0] == 503
            assert (await first.text(web, f"/v1/records/{position}?at_least={position}"))[0] == 200

            # With a new replica it catches up and cosigns, and its report is settled.
            await second.stop()
            for each in second.folder.glob("*.db*"):
                each.unlink()
            await second.start(init=True)
            assert (await first.run("checkpoint"))[0] == 0
            await first.until(web, "/metrics", "tracker_nodes_diverged 0.0")
            await second.until(web, "/readyz", '"ready":true')
    finally:
        await asyncio.gather(first.stop(), second.stop())


@pytest.mark.asyncio(loop_scope="session")
async def test_a_second_signing_node_is_not_trusted_and_reported(tmp_path: Path, cluster: Cluster) -> None:
    stream = f"vouch-{secrets.token_hex(4)}"
    first = await node(tmp_path, "a", cluster, stream=stream).start(init=True)
    sent = whole_call("livekit", now(), seed=5)
    second: Running | None = None
    try:
        async with aiohttp.ClientSession() as web:
            assert (await first.post(web, "livekit", sent[0]))[0] == 200
            assert (await first.run("checkpoint"))[0] == 0
            second = await node(tmp_path, "c", cluster, stream=stream, signs=True).start(init=True)
            await second.until(web, "/metrics", "tracker_checkpoint_doubted 1.0")
            assert "tracker_log_diverged 0.0" in (await second.text(web, "/metrics"))[1]
            code, _, stderr = await second.run("checkpoint")
            assert code == 1
            assert "is not trusted" in stderr
            await first.until(web, "/sources", "The nodes a, c all sign checkpoints, but only one may")
            assert (await first.run("checkpoint"))[0] == 0
    finally:
        await asyncio.gather(*[each.stop() for each in (first, second) if each is not None])
