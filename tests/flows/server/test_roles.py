"""Nodes of a cluster that only take, and nodes that only answer: two real processes on a real cluster."""

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
async def test_what_one_node_takes_another_answers(tmp_path: Path, cluster: Cluster) -> None:
    stream = f"roles-{secrets.token_hex(4)}"
    taking = await node(tmp_path, "a", cluster, stream=stream).start("--role", "ingest", init=True)
    answering = node(tmp_path, "b", cluster, stream=stream)
    assert (await answering.run("init"))[0] == 0
    (answering.folder / "data" / "checkpoint.key").unlink()
    await answering.start("--role", "read")
    vendor, sent = "livekit", whole_call("livekit", now(), seed=5)[0]
    try:
        async with aiohttp.ClientSession() as web:
            status, answer = await taking.post(web, vendor, sent)
            assert (status, answer["duplicate"]) == (200, False)
            found = await answering.get(web, f"/v1/records/{answer['position']}", at_least=str(answer["position"]))
            assert found["position"] == answer["position"]
            status, problem = await answering.post(web, vendor, sent)
            assert (status, problem["type"]) == (503, "urn:tracker:problem:role-read")
            for path in ("/v1/sessions", "/", "/docs"):
                async with web.get(taking.url + path, headers=READ) as refused:
                    assert refused.status == 404
                    assert (await refused.json(content_type=None))["type"] == "urn:tracker:problem:role-ingest"
            for running in (taking, answering):
                async with web.get(f"{running.url}/readyz") as ready:
                    assert ready.status == 200, await ready.text()
                async with web.get(f"{running.url}/metrics") as metrics:
                    assert "tracker_stream_behind_messages" in await metrics.text()
        assert not (taking.folder / "views.db").exists()
        assert (answering.folder / "views.db").exists()
        said = answering.printed.read_text()
        assert "this node cosigns nothing" in said
        assert "tracker rebuild" not in said  # views that are not there yet make themselves
        assert "cosigns nothing" not in taking.printed.read_text()
    finally:
        codes = await asyncio.gather(taking.stop(), answering.stop())
    assert codes == [0, 0]


@pytest.mark.parametrize("role", ["ingest", "read"])
async def test_one_machine_with_one_file_is_served_by_one_server(tmp_path: Path, role: str) -> None:
    running = Running(tmp_path)
    assert (await running.run("init"))[0] == 0
    code, _, complaint = await running.run("serve", "--role", role)
    assert code == 2
    assert f"--role {role}" in complaint
