"""Two nodes on one cluster, from `tracker init` on: both have the same history, and a disconnected node reports it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import aiohttp

from tests.support.cluster import Cluster, node
from tests.support.server import Running
from tracker.demo.calls import SampleDelivery


def started(n: int) -> SampleDelivery:
    body = {
        "event": "room_started",
        "id": f"EV_{n}",
        "createdAt": "1700000000",
        "room": {"sid": f"RM_{n}", "name": "r"},
    }
    return SampleDelivery(event="room_started", body=json.dumps(body).encode(), at=0)


async def test_two_nodes_have_the_same_history_and_a_disconnected_node_reports_it(tmp_path: Path) -> None:
    async with Cluster(tmp_path / "nats") as cluster, aiohttp.ClientSession() as web:
        first, second = [node(tmp_path, name, cluster, more='behind_at_most = "2s"') for name in "ab"]
        await first.start(init=True)
        for n in range(1, 6):
            assert await first.post(web, "livekit", started(n)) == (200, {"position": n, "duplicate": False})
        await second.start(init=True)
        assert await second.post(web, "livekit", started(3)) == (200, {"position": 3, "duplicate": True})
        assert await second.post(web, "livekit", started(6)) == (200, {"position": 6, "duplicate": False})
        for running in (first, second):
            found = json.loads(await running.until(web, "/v1/sessions?at_least=6", status=200))
            assert len(found["items"]) == 6
        assert "tracker_stream_servers_unread 0.0" in (await first.text(web, "/metrics"))[1]

        # Commands that run beside a server.
        lines = tmp_path / "more.jsonl"
        lines.write_bytes(b"\n".join(started(n).body for n in range(4, 10)))
        code, out, stderr = await second.run("import", "--json", "lk", str(lines))
        assert (code, json.loads(out)[0]["new"], json.loads(out)[0]["known"]) == (0, 3, 3), stderr
        await first.until(web, "/v1/sessions?at_least=9", status=200)
        roots = [(await running.run("verify"))[1].splitlines()[0] for running in (first, second)]
        assert roots[0] == roots[1]
        assert roots[0].startswith("9 records, root ")
        assert (await first.run("rebuild", "--check"))[0] == 0

        # Without NATS servers: only duplicates are answered, readers get 503, and the node recovers by itself.
        cluster.kill()
        assert await first.post(web, "livekit", started(3)) == (200, {"position": 3, "duplicate": True})
        assert "no connection to NATS" in await first.until(web, "/readyz", status=503)
        problem = json.loads(await first.until(web, "/v1/sessions", status=503))
        assert problem["type"].endswith(":node-behind")
        assert (await first.text(web, "/healthz"))[0] == 200
        for number in range(cluster.size):
            cluster.start_server(number)
        await cluster.ready()
        await first.until(web, "/readyz", status=200)
        await first.until(web, "/v1/sessions", status=200)
        assert (await first.post(web, "livekit", started(10)))[0] == 200
        assert (await first.stop(), await second.stop()) == (0, 0)

        # A replica accepts no deliveries as a single server's log, even if config.toml says so.
        first.config.write_text(first.config.read_text().replace('engine = "jetstream"', 'engine = "sqlite"'))
        await first.start()
        assert (await first.post(web, "livekit", started(11)))[0] == 503
        await first.stop()


async def test_init_writes_a_cluster_configuration_and_refuses_a_contradicting_one(tmp_path: Path) -> None:
    running = Running(tmp_path, config="")
    running.config.unlink()
    code, out, stderr = await running.run("init", "--engine", "jetstream")
    assert code == 1
    assert "cannot be reached" in stderr
    written = tomllib.loads(running.config.read_text())
    assert written["log"]["engine"] == "jetstream"
    assert written["jetstream"]["replicas"] == 3
    assert "node" not in written["jetstream"]
    running.config.write_text('[log]\nengine = "sqlite"\n')
    code, _, stderr = await running.run("init", "--engine", "jetstream")
    assert (code, "log.engine" in stderr) == (2, True)
