"""An ingest node and a read node: two real processes on a real cluster."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import aiohttp
import pytest

from tests.support.cluster import Cluster, node
from tests.support.server import READ, Running, now
from tracker.demo.calls import whole_call


@pytest.mark.asyncio(loop_scope="session")
async def test_a_read_node_answers_what_an_ingest_node_recorded(tmp_path: Path, cluster: Cluster) -> None:
    stream = f"roles-{secrets.token_hex(4)}"
    ingest = await node(tmp_path, "a", cluster, stream=stream).start("--role", "ingest", init=True)
    reader = node(tmp_path, "b", cluster, stream=stream)
    assert (await reader.run("init"))[0] == 0
    (reader.folder / "data" / "checkpoint.key").unlink()
    await reader.start("--role", "read")
    vendor, sent = "livekit", whole_call("livekit", now(), seed=5)[0]
    try:
        async with aiohttp.ClientSession() as web:
            status, answer = await ingest.post(web, vendor, sent)
            assert (status, answer["duplicate"]) == (200, False)
            found = await reader.get(web, f"/v1/records/{answer['position']}", at_least=str(answer["position"]))
            assert found["position"] == answer["position"]
            status, problem = await reader.post(web, vendor, sent)
            assert (status, problem["type"]) == (503, "urn:tracker:problem:role-read")
            for path in ("/v1/sessions", "/", "/docs"):
                async with web.get(ingest.url + path, headers=READ) as refused:
                    assert refused.status == 404
                    assert (await refused.json(content_type=None))["type"] == "urn:tracker:problem:role-ingest"
            for running in (ingest, reader):
                async with web.get(f"{running.url}/readyz") as ready:
                    assert ready.status == 200, await ready.text()
                async with web.get(f"{running.url}/metrics") as metrics:
                    assert "tracker_stream_behind_messages" in await metrics.text()
        assert not (ingest.folder / "views.db").exists()
        assert (reader.folder / "views.db").exists()
        printed = reader.printed.read_text()
        assert "this node cosigns nothing" in printed
        assert "tracker rebuild" not in printed  # it rebuilds missing views without help
        assert "cosigns nothing" not in ingest.printed.read_text()
    finally:
        codes = await asyncio.gather(ingest.stop(), reader.stop())
    assert codes == [0, 0]


@pytest.mark.parametrize("role", ["ingest", "read"])
async def test_roles_are_refused_on_a_single_machine(tmp_path: Path, role: str) -> None:
    running = Running(tmp_path)
    assert (await running.run("init"))[0] == 0
    code, _, stderr = await running.run("serve", "--role", role)
    assert code == 2
    assert f"--role {role}" in stderr
