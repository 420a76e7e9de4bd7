"""File descriptors run out: new connections get 503, open ones are served, and no restart is needed."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from pathlib import Path

import aiohttp

from tests.support.server import Running, now
from tracker.demo.calls import whole_call


async def get(running: Running, path: str) -> tuple[int, str, bytes]:
    """GET on a new connection: status, Retry-After, body. No answer names a version."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as web:
        async with web.get(running.url + path) as answer:
            assert answer.headers["Server"] == "tracker"
            return answer.status, answer.headers.get("Retry-After", ""), await answer.read()


async def status_of(running: Running, path: str) -> int | None:
    """The status of a GET; None if the connection was closed without an answer."""
    try:
        return (await get(running, path))[0]
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
        return None


async def test_without_descriptors_new_connections_get_503_and_open_ones_are_served(tmp_path: Path) -> None:
    held: list[asyncio.StreamWriter] = []
    try:
        await use_up_descriptors(tmp_path, held)
    finally:
        for writer in held:
            writer.close()


async def use_up_descriptors(tmp_path: Path, held: list[asyncio.StreamWriter]) -> None:
    running = await Running(tmp_path).start(init=True)
    assert running.process is not None
    pid, port = running.process.pid, int(running.url.rsplit(":", 1)[1])
    calls = whole_call("openvidu", now())

    async def hold(connections: int) -> None:
        for _ in range(connections):
            held.append((await asyncio.open_connection("127.0.0.1", port))[1])

    async with aiohttp.ClientSession() as open_connection:
        assert (await running.post(open_connection, "openvidu", calls[0]))[0] == 200
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (200, 200))
        await hold(150)  # 50 stay in reserve
        for path, status in (("/healthz", 200), ("/readyz", 503), ("/v1/sessions", 503)):
            for _ in range(20):
                await hold(5)  # the server may have closed a file meanwhile
                found, retry, body = await get(running, path)
                if found == status:
                    break
            assert found == status, body
            assert status == 200 or retry
        await hold(5)
        async with aiohttp.ClientSession() as late:
            status, problem = await running.post(late, "openvidu", calls[1])
            assert (status, problem["type"]) == (503, "urn:tracker:problem:too-many-connections")
        assert (await running.post(open_connection, "openvidu", calls[1]))[0] == 200
        async with open_connection.get(running.url + "/readyz") as answer:
            assert answer.status == 503
            assert "descriptors" in await answer.text()
    # More connections than descriptors: uvloop closes the ones it has no descriptor for.
    await hold(120)
    deadline = time.monotonic() + 30
    while (status := await status_of(running, "/readyz")) is None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)
    assert status == 503
    for writer in held:
        writer.close()
    deadline = time.monotonic() + 20
    while await status_of(running, "/readyz") != 200:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)
    async with aiohttp.ClientSession() as web:
        assert (await running.post(web, "openvidu", calls[2]))[0] == 200
    assert await running.stop() == 0
    events = [json.loads(line)["event"] for line in running.printed.read_text().splitlines() if line.startswith("{")]
    assert events.count("no file descriptors for more connections: they get 503") == 1
    assert events.count("connections are accepted again") == 1
