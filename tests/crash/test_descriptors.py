"""File descriptors run out: those who come are told so and who is there is served; recovered without a restart."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from pathlib import Path

import aiohttp

from tests.support.server import Running, now
from tracker.demo.calls import whole_call


async def asked(running: Running, path: str) -> tuple[int, str, bytes]:
    """One GET on a connection of its own: status, Retry-After, body."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as web:
        async with web.get(running.url + path) as answer:
            return answer.status, answer.headers.get("Retry-After", ""), await answer.read()


async def asked_or_closed(running: Running, path: str) -> int | None:
    """The status, or None where the connection was closed without one."""
    try:
        return (await asked(running, path))[0]
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
        return None


async def test_without_descriptors_new_connections_get_503_and_those_there_are_served(tmp_path: Path) -> None:
    running = await Running(tmp_path).start(init=True)
    assert running.process is not None
    pid, port = running.process.pid, int(running.url.rsplit(":", 1)[1])
    calls = whole_call("openvidu", now())
    held: list[asyncio.StreamWriter] = []
    async with aiohttp.ClientSession() as there:
        assert (await running.post(there, "openvidu", calls[0]))[0] == 200
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (200, 200))
        for _ in range(150):  # 150 below the reserve of 50
            held.append((await asyncio.open_connection("127.0.0.1", port))[1])
        for path, status in (("/healthz", 200), ("/readyz", 503), ("/v1/sessions", 503)):
            found, retry, body = await asked(running, path)
            assert found == status, body
            assert status == 200 or retry
        async with aiohttp.ClientSession() as late:
            status, said = await running.post(late, "openvidu", calls[1])
            assert (status, said["type"]) == (503, "urn:tracker:problem:too-many-connections")
        assert (await running.post(there, "openvidu", calls[1]))[0] == 200
        async with there.get(running.url + "/readyz") as answer:
            assert answer.status == 503
            assert "descriptors" in await answer.text()
    # More of them than there are descriptors at all, silent, too: uvloop closes what it has none for, until others went.
    for _ in range(120):
        held.append((await asyncio.open_connection("127.0.0.1", port))[1])
    deadline = time.monotonic() + 30
    while (status := await asked_or_closed(running, "/readyz")) is None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)
    assert status == 503
    for writer in held:
        writer.close()
    deadline = time.monotonic() + 20
    while await asked_or_closed(running, "/readyz") != 200:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)
    async with aiohttp.ClientSession() as web:
        assert (await running.post(web, "openvidu", calls[2]))[0] == 200
    assert await running.stop() == 0
    told = [json.loads(line)["event"] for line in running.printed.read_text().splitlines() if line.startswith("{")]
    assert told.count("no file descriptors for more connections: they get 503") == 1
    assert told.count("connections are accepted again") == 1
