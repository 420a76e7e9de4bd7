"""Misbehaving senders, a short run of `bench/faults/senders.py`; and connections without a request are closed."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from tests.support.programs import run_bench
from tracker.server.request_tracking import HEAD_SECONDS, KEEPALIVE_SECONDS, InFlightRequests


@pytest.mark.alone  # sixty deliveries have to be refused within half a second
def test_misbehaving_senders_do_not_delay_other_deliveries() -> None:
    run_bench("bench.faults.senders", "--quick", seconds=120)


async def test_a_connection_without_a_request_is_closed_and_one_that_waits_for_its_answer_stays() -> None:
    in_flight, received, answer = InFlightRequests(), asyncio.Event(), asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        received.set()
        await answer.wait()
        return web.Response(text="here")

    app = web.Application(middlewares=[in_flight.count])
    app.router.add_get("/", slow)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    assert runner.server is not None
    port = runner.addresses[0][1]
    busy, busy_writer = await asyncio.open_connection("127.0.0.1", port)
    half, half_writer = await asyncio.open_connection("127.0.0.1", port)
    busy_writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    half_writer.write(b"GET / HTTP/1.1\r\nHo")
    await received.wait()
    now = asyncio.get_running_loop().time()
    assert in_flight.close_due(runner.server.connections, now) == 0
    assert in_flight.close_due(runner.server.connections, now + HEAD_SECONDS + 1) == 1
    assert await half.read() == b""
    answer.set()
    assert (await busy.readuntil(b"here")).startswith(b"HTTP/1.1 200")
    assert in_flight.close_due(runner.server.connections, now + HEAD_SECONDS + 2) == 0
    assert in_flight.close_due(runner.server.connections, now + KEEPALIVE_SECONDS + 2 * HEAD_SECONDS) == 1
    assert await busy.read() == b""
    busy_writer.close()
    half_writer.close()
    await runner.cleanup()
