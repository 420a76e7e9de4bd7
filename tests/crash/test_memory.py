"""Many large bodies at once: those there is no room for are told so, small ones are recorded, and memory stays bounded."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiohttp

from tests.support.server import SECRETS, SOURCES, Running, now
from tracker.ingest.request_body import ARRIVING_BYTES
from tracker.demo.calls import sign, whole_call

SIZE = 4_000_000
BODIES = 2 * ARRIVING_BYTES // SIZE


async def half_sent(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection with all but the last bytes of a large body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    headers, suffix, _ = sign("openvidu", b"", SECRETS["openvidu"], now())
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST /hooks/{SOURCES['openvidu']}{suffix} HTTP/1.1\r\nHost: x\r\n{lines}Content-Length: {SIZE}\r\n\r\n"
    writer.write(head.encode() + b'{"event":"' + b"x" * (SIZE - 1000))
    return reader, writer


async def test_large_bodies_beyond_the_bound_are_refused_and_small_ones_are_recorded(tmp_path: Path) -> None:
    running = await Running(tmp_path).start(init=True)
    assert running.process is not None
    port = int(running.url.rsplit(":", 1)[1])
    held = await asyncio.gather(*(half_sent(port) for _ in range(BODIES)))
    first = [asyncio.create_task(reader.readline()) for reader, _ in held]
    deadline = time.monotonic() + 20
    while sum(task.done() for task in first) < BODIES // 3:
        assert time.monotonic() < deadline, "nobody is refused"
        await asyncio.sleep(0.1)
    assert {task.result() for task in first if task.done()} == {b"HTTP/1.1 503 Service Unavailable\r\n"}
    assert sum(task.done() for task in first) < BODIES
    calls = whole_call("openvidu", now())
    async with aiohttp.ClientSession() as web:
        assert (await running.post(web, "openvidu", calls[0]))[0] == 200
        async with web.get(running.url + "/readyz") as answer:
            assert answer.status == 503
            assert "half-way here" in await answer.text()
        resident = Path(f"/proc/{running.process.pid}/status").read_text().split("VmRSS:")[1].split()[0]
        assert int(resident) * 1024 < 2 * ARRIVING_BYTES + 100_000_000
        for _, writer in held:
            writer.close()
        while True:
            async with web.get(running.url + "/readyz") as answer:
                if answer.status == 200:
                    break
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        assert (await running.post(web, "openvidu", calls[1]))[0] == 200
    await asyncio.gather(*first, return_exceptions=True)
    assert await running.stop() == 0
    assert "no room for more" in running.printed.read_text()
