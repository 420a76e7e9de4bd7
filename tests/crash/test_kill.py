"""`kill -9` under load, twenty times: what was answered 200 is in the log, and nothing there is torn."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from pathlib import Path

import aiohttp
import msgspec

from tests.support.server import SOURCES, Running
from tracker.demo.calls import VENDORS, SampleDelivery, whole_call
from tracker.log.sqlite.log import SqliteLog

ROUNDS = 20
SENDERS = 16


async def send_until_cut(
    running: Running,
    web: aiohttp.ClientSession,
    queue: list[tuple[str, SampleDelivery]],
    answered: dict[int, tuple[str, bytes]],
) -> None:
    """Take deliveries from the queue until the server is gone; one that got no answer goes back, as a sender's retry."""
    while queue:
        vendor, sent = queue.pop()
        try:
            status, said = await running.post(web, vendor, sent)
        except (aiohttp.ClientError, OSError, ValueError):
            queue.append((vendor, sent))
            return
        assert status == 200, said
        answered[said["position"]] = (SOURCES[vendor], sent.body)


async def test_twenty_kills_under_load_lose_nothing_that_was_answered(tmp_path: Path) -> None:
    running = Running(tmp_path)
    drawn = random.Random(20)
    start = 1_700_000_000_000_000
    queue = [
        (vendor, sent)
        for call in range(90)
        for vendor in VENDORS
        for sent in whole_call(vendor, start + call * 3_600_000_000, seed=call)
    ]
    drawn.shuffle(queue)
    deliveries = {(SOURCES[vendor], sent.body) for vendor, sent in queue}
    answered: dict[int, tuple[str, bytes]] = {}
    kills_under_load = 0
    for number in range(ROUNDS):
        await running.start(init=number == 0)
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(timeout=timeout) as web:
            tasks = [asyncio.create_task(send_until_cut(running, web, queue, answered)) for _ in range(SENDERS)]
            await asyncio.sleep(drawn.uniform(0.01, 0.12))
            kills_under_load += bool(queue)
            await running.kill()
            await asyncio.gather(*tasks)
    assert kills_under_load == ROUNDS, "the queue has to outlast the kills"

    await running.start()
    async with aiohttp.ClientSession() as web:
        while queue:
            await asyncio.gather(*(send_until_cut(running, web, queue, answered) for _ in range(SENDERS)))
        head = max(answered)
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(AssertionError):
                sessions = await running.get(web, "/v1/sessions", at_least=str(head), limit="1000")
                break
            assert time.monotonic() < deadline, "the views do not catch up"
        assert sessions["items"]
    assert await running.stop() == 0

    log = await SqliteLog.open(running.log_path)
    kept = [record async for chunk in log.read(0) for record in chunk]
    await log.close()
    assert [record.position for record in kept] == list(range(1, len(kept) + 1))
    for position, (source, body) in answered.items():
        assert (kept[position - 1].source, kept[position - 1].body) == (source, body)
    # Every delivery was retried until it was answered: all are there, and none twice.
    assert {(record.source, record.body) for record in kept} <= deliveries
    assert len({(record.source, record.dedupe_key) for record in kept}) == len(kept)

    code, out, complaint = await running.run("rebuild", "--check")
    assert code == 0, out + complaint
    code, out, complaint = await running.run("verify", "--json")
    assert code == 0, out + complaint
    assert msgspec.json.decode(out)["records"] == len(kept)
