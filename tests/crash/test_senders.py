"""Senders that misbehave, in small: the whole of it is `bench/faults/senders.py`. And who asks nothing is let go."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from aiohttp import web

from tests.support.samples import ROOT
from tracker.server.request_tracking import HEAD_SECONDS, KEEPALIVE_SECONDS, InFlightRequests


def test_no_body_and_no_sender_keeps_others_from_being_recorded() -> None:
    command = [sys.executable, "-m", "bench.faults.senders", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


async def test_a_connection_that_asks_nothing_is_closed_and_one_that_is_answered_stays() -> None:
    under_way, asked, answer = InFlightRequests(), asyncio.Event(), asyncio.Event()

    async def slowly(_: web.Request) -> web.Response:
        asked.set()
        await answer.wait()
        return web.Response(text="here")

    app = web.Application(middlewares=[under_way.count])
    app.router.add_get("/", slowly)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    assert runner.server is not None
    port = runner.addresses[0][1]
    busy, busy_writer = await asyncio.open_connection("127.0.0.1", port)
    slow, slow_writer = await asyncio.open_connection("127.0.0.1", port)
    busy_writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    slow_writer.write(b"GET / HTTP/1.1\r\nHo")
    await asked.wait()
    now = asyncio.get_running_loop().time()
    assert under_way.look(runner.server.connections, now) == 0
    assert under_way.look(runner.server.connections, now + HEAD_SECONDS + 1) == 1
    assert await slow.read() == b""
    answer.set()
    assert (await busy.readuntil(b"here")).startswith(b"HTTP/1.1 200")
    assert under_way.look(runner.server.connections, now + HEAD_SECONDS + 2) == 0
    assert under_way.look(runner.server.connections, now + KEEPALIVE_SECONDS + 2 * HEAD_SECONDS) == 1
    assert await busy.read() == b""
    busy_writer.close()
    slow_writer.close()
    await runner.cleanup()
