"""`kill -9` under load: every delivery answered with 200 is in the log, and no record is torn."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from pathlib import Path

import aiohttp
import msgspec
import pytest

from tests.support.senders import SENDERS, send_until_killed
from tests.support.server import SOURCES, Running
from tracker.demo.calls import VENDORS, whole_call
from tracker.log.sqlite.log import SqliteLog


@pytest.mark.parametrize("rounds", [5, pytest.param(50, marks=pytest.mark.long)])
async def test_kills_under_load_lose_nothing_that_was_answered(tmp_path: Path, rounds: int) -> None:
    running = Running(tmp_path)
    chance = random.Random(20)
    start = 1_700_000_000_000_000
    queue = [
        (vendor, sent)
        for call in range(max(90, 5 * rounds))
        for vendor in VENDORS
        for sent in whole_call(vendor, start + call * 3_600_000_000, seed=call)
    ]
    chance.shuffle(queue)
    deliveries = {(SOURCES[vendor], sent.body) for vendor, sent in queue}
    answered: dict[int, tuple[str, bytes]] = {}
    kills_under_load = 0
    for number in range(rounds):
        await running.start(init=number == 0)
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(timeout=timeout) as web:
            tasks = [asyncio.create_task(send_until_killed(running, web, queue, answered)) for _ in range(SENDERS)]
            await asyncio.sleep(chance.uniform(0.01, 0.12))
            kills_under_load += bool(queue)
            await running.kill()
            await asyncio.gather(*tasks)
    assert kills_under_load == rounds, "the queue was empty before the last kill: make it longer"

    await running.start()
    async with aiohttp.ClientSession() as web:
        while queue:
            await asyncio.gather(*(send_until_killed(running, web, queue, answered) for _ in range(SENDERS)))
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
    records = [record async for chunk in log.read(0) for record in chunk]
    await log.close()
    assert [record.position for record in records] == list(range(1, len(records) + 1))
    for position, (source, body) in answered.items():
        assert (records[position - 1].source, records[position - 1].body) == (source, body)
    # Every delivery was retried until it was answered: all of them are in the log, each once.
    assert {(record.source, record.body) for record in records} <= deliveries
    assert len({(record.source, record.dedupe_key) for record in records}) == len(records)

    code, out, stderr = await running.run("rebuild", "--check")
    assert code == 0, out + stderr
    code, out, stderr = await running.run("verify", "--json")
    assert code == 0, out + stderr
    assert msgspec.json.decode(out)["records"] == len(records)
