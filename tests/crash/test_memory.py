"""Many large bodies at once: those beyond the memory bound get 503, small ones are recorded, memory stays bounded."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiohttp

from tests.support.senders import LARGE_BODY_BYTES, start_large_upload
from tests.support.server import Running, now
from tracker.demo.calls import whole_call
from tracker.ingest.request_body import MAX_BUFFERED_BYTES

UPLOADS = 2 * MAX_BUFFERED_BYTES // LARGE_BODY_BYTES


async def test_large_bodies_beyond_the_bound_are_refused_and_small_ones_are_recorded(tmp_path: Path) -> None:
    running = await Running(tmp_path).start(init=True)
    assert running.process is not None
    port = int(running.url.rsplit(":", 1)[1])
    uploads = await asyncio.gather(*(start_large_upload(port) for _ in range(UPLOADS)))
    first_lines = [asyncio.create_task(reader.readline()) for reader, _ in uploads]
    deadline = time.monotonic() + 20
    while sum(task.done() for task in first_lines) < UPLOADS // 3:
        assert time.monotonic() < deadline, "no upload is refused"
        await asyncio.sleep(0.1)
    assert {task.result() for task in first_lines if task.done()} == {b"HTTP/1.1 503 Service Unavailable\r\n"}
    assert sum(task.done() for task in first_lines) < UPLOADS
    calls = whole_call("openvidu", now())
    async with aiohttp.ClientSession() as web:
        assert (await running.post(web, "openvidu", calls[0]))[0] == 200
        async with web.get(running.url + "/readyz") as answer:
            assert answer.status == 503
            assert "being received" in await answer.text()
        resident = Path(f"/proc/{running.process.pid}/status").read_text().split("VmRSS:")[1].split()[0]
        assert int(resident) * 1024 < 2 * MAX_BUFFERED_BYTES + 100_000_000
        for _, writer in uploads:
            writer.close()
        while True:
            async with web.get(running.url + "/readyz") as answer:
                if answer.status == 200:
                    break
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        assert (await running.post(web, "openvidu", calls[1]))[0] == 200
    await asyncio.gather(*first_lines, return_exceptions=True)
    assert await running.stop() == 0
    assert "no more fit" in running.printed.read_text()
