"""Evidence in a cluster: both nodes give the same proofs and bundles, which can be verified offline."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import zipfile
from pathlib import Path
from typing import Any

import aiohttp
import nats
import pytest

from tests.support.cluster import Cluster, node
from tests.support.server import READ, Running, now
from tracker.demo.calls import whole_call
from tracker.log.merkle.checkpoint import checkpoint_text
from tracker.log.merkle.cosignature import CosignerKey, cosign, verify_cosignatures
from tracker.log.merkle.note import Signer, read_note, sign_note
from tracker.log.cluster.messages import DivergenceReport, CosignedTree, SignedTree, encode


async def run_json(running: Running, *arguments: str) -> dict[str, Any]:
    code, out, err = await running.run(*arguments, "--json")
    assert code == 0, out + err
    return json.loads(out)


async def verified(bundle: Path, *more: str) -> dict[str, str]:
    """Check → outcome, verified in a folder that has nothing else: no config, no log."""
    empty = bundle.with_suffix("")
    empty.mkdir()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tracker", "verify", str(bundle), *more, "--json", cwd=empty,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    checks = json.loads(out)["checks"]
    assert process.returncode == 0, [each for each in checks if each["outcome"] == "failed"]
    return {each["name"]: each["outcome"] for each in checks}


async def bundled(web: aiohttp.ClientSession, running: Running, session: str, to: Path) -> Path:
    async with web.get(f"{running.url}/v1/sessions/{session}/evidence", headers=READ) as answer:
        assert answer.status == 200, await answer.text()
        to.write_bytes(await answer.read())
    return to


def inside(bundle: Path, name: str) -> str:
    with zipfile.ZipFile(bundle) as file:
        return file.read(name).decode()


@pytest.mark.asyncio(loop_scope="session")
async def test_every_node_gives_the_same_proofs_and_bundles_signed_by_one_and_cosigned_by_the_other(
    tmp_path: Path, cluster: Cluster
) -> None:
    stream = f"evidence-{secrets.token_hex(4)}"
    first = await node(tmp_path, "a", cluster, stream=stream).start(init=True)
    second = await node(tmp_path, "b", cluster, stream=stream).start(init=True)
    try:
        async with aiohttp.ClientSession() as web:
            position = 0
            for sent in whole_call("livekit", now()):
                position = (await first.post(web, "livekit", sent))[1]["position"]
            (session,) = (await second.get(web, "/v1/sessions", at_least=str(position)))["items"]
            made = await run_json(first, "checkpoint")
            size = str(made["size"])
            for each in (first, second):
                await each.until(web, f"/v1/log/checkpoint?size={size}", "/b ")
            for kind, query in (
                ("inclusion", {"position": "3", "size": size}),
                ("consistency", {"first": "3", "second": size}),
            ):
                one, other = [await each.get(web, f"/v1/log/proof/{kind}", **query) for each in (first, second)]
                assert one["hashes"]
                assert one == other
            key, cosigner = await key_of(web, first), await key_of(web, second)
            note = (await first.text(web, "/v1/log/checkpoint"))[1]
            bundles = [
                await bundled(web, each, session["id"], tmp_path / f"{n}.zip") for n, each in enumerate((first, second))
            ]
        for n, each in enumerate((first, second)):
            bundles.append(tmp_path / f"written-{n}.zip")
            code, _, err = await each.run("export", "--evidence", session["id"], "--out", str(bundles[-1]))
            assert code == 0, err
        roots = {(await run_json(each, "verify", "--views", "--proofs"))["root"] for each in (first, second)}
        assert len(roots) == 1
        for n, bundle in enumerate(bundles):
            outcomes = await verified(bundle, "--key", key, *(["--key", cosigner] if n % 2 else []))
            assert outcomes.pop("vendors") == "not checked"  # the senders' secrets are not in this folder
            assert inside(bundle, "manifest.sig").count(f"— tracker.local/log{'/b' if n % 2 else ''} ") == 1
            assert set(outcomes.values()) == {"ok"}
            assert inside(bundle, "checkpoint.txt") == note
            assert inside(bundle, "key.txt") == f"{key}\n"
    finally:
        await asyncio.gather(first.stop(), second.stop())


async def published(cluster: Cluster, subject: str, *messages: bytes) -> None:
    """Publish messages with a node's password but without its key."""
    client = await nats.connect(cluster.urls[0])  # pyright: ignore[reportUnknownMemberType]
    stream = client.jetstream()  # pyright: ignore[reportUnknownMemberType]
    for each in messages:
        await stream.publish(subject, each)
    await client.close()


@pytest.mark.asyncio(loop_scope="session")
async def test_forged_messages_about_the_tree_are_counted_and_change_nothing(tmp_path: Path, cluster: Cluster) -> None:
    stream = f"forged-{secrets.token_hex(4)}"
    forger, origin, huge = Signer.generate("tracker.local/log"), "tracker.local/log", 10**15
    lie = sign_note(checkpoint_text(origin, huge, bytes(32)), [forger])
    forged = SignedTree("a", huge, lie, str(forger.verifier))
    first = await node(tmp_path, "a", cluster, stream=stream).start(init=True)
    second = await node(tmp_path, "b", cluster, stream=stream).start(init=True)
    sent = whole_call("livekit", now())
    try:
        async with aiohttp.ClientSession() as web:
            await published(cluster, f"{stream}.checkpoints", encode(forged), b"garbage")
            assert (await first.post(web, "livekit", sent[0]))[0] == 200
            made = await run_json(first, "checkpoint")
            for each in (first, second):
                await each.until(web, f"/v1/log/checkpoint?size={made['size']}", f"{origin}/b ")
            key = await key_of(web, first)
            # The attacker now guesses the size of the next checkpoint and forges a line of the other node.
            forged_next = SignedTree("a", 2, sign_note(checkpoint_text(origin, 2, bytes(32)), [forger]), key)
            liar = Signer.generate(f"{origin}/b")
            line = cosign(read_note(made["note"]).text, liar, 5)
            false = CosignedTree("b", made["size"], liar.name, line, str(CosignerKey.from_signer(liar)))
            alarm = DivergenceReport("b", huge, bytes(32), None)
            await published(cluster, f"{stream}.checkpoints", *map(encode, (forged_next, false, alarm)))
            position = (await second.post(web, "livekit", sent[1]))[1]["position"]
            assert position == 2
            newest = await run_json(first, "checkpoint")
            assert newest["size"] == 2
            for each in (first, second):
                whole = await each.until(web, "/v1/log/checkpoint", f"{origin}/b ")
                assert whole.startswith(newest["note"])
                assert [
                    line.key.name for line in verify_cosignatures(whole, [CosignerKey.read(await key_of(web, second))])
                ]
                shown = await each.until(web, "/metrics", "tracker_vouchers_set_aside 4.0")
                for expected in ("stream_refused 1.0", "log_diverged 0.0", "nodes_diverged 0.0", "doubted 0.0"):
                    assert expected in shown
                assert "is quarantined" in each.printed.read_text()
        for each in (first, second):
            code, out, err = await each.run("verify")
            assert (code, "2 checkpoints in the log" in out) == (0, True), out + err
    finally:
        await asyncio.gather(first.stop(), second.stop())


async def key_of(web: aiohttp.ClientSession, running: Running) -> str:
    return (await running.text(web, "/v1/log/key"))[1].strip()
