"""`kill -9` under load, of the server and of its projector: what was answered is in the log, and the views follow."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from pathlib import Path

import aiohttp
import msgspec
import pytest

from tests.support.senders import SENDERS, send_until_killed
from tests.support.server import SOURCES, Running, expect_ended
from tracker.domain.deliveries import TRACKER
from tracker.demo.calls import VENDORS, SampleDelivery, whole_call
from tracker.log.sqlite.log import SqliteLog

START = 1_700_000_000_000_000


@pytest.mark.parametrize("rounds", [3, pytest.param(50, marks=pytest.mark.long)])
async def test_kills_under_load_lose_nothing_that_was_answered(tmp_path: Path, rounds: int) -> None:
    running = Running(tmp_path)
    chance = random.Random(20)
    queue = [
        (vendor, sent)
        for call in range(max(50, 5 * rounds))
        for vendor in VENDORS
        for sent in whole_call(vendor, START + call * 3_600_000_000, seed=call)
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
            left = running.children()
            await running.kill()
            await asyncio.gather(*tasks)
            await expect_ended(left, 5)
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
    assert {(record.source, record.body) for record in records if record.source != TRACKER} <= deliveries
    assert len({(record.source, record.dedupe_key) for record in records}) == len(records)

    code, out, stderr = await running.run("rebuild", "--check")
    assert code == 0, out + stderr
    code, out, stderr = await running.run("verify", "--json")
    assert code == 0, out + stderr
    assert msgspec.json.decode(out)["records"] == len(records)


@pytest.mark.parametrize("rounds", [3, pytest.param(50, marks=pytest.mark.long)])
async def test_kills_of_the_projector_under_load_refuse_no_delivery_and_the_views_equal_a_rebuild(
    tmp_path: Path, rounds: int
) -> None:
    running = await Running(tmp_path).start(init=True)
    chance = random.Random(21)
    answered: dict[int, tuple[str, bytes]] = {}
    queue: list[tuple[str, SampleDelivery]] = []
    calls = 0

    async def send(web: aiohttp.ClientSession) -> None:
        nonlocal calls
        while len(killed) < rounds:
            if not queue:
                vendor, calls = VENDORS[calls % len(VENDORS)], calls + 1
                queue.extend((vendor, sent) for sent in whole_call(vendor, START + calls * 3_600_000_000, seed=calls))
            vendor, sent = queue.pop()
            status, answer = await running.post(web, vendor, sent)
            assert status == 200, answer
            answered[answer["position"]] = (SOURCES[vendor], sent.body)

    killed: list[int] = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as web:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(send(web))
            while len(killed) < rounds:
                pid = await running.projector(other_than=killed[-1] if killed else None)
                # Also while it starts, and with the back-off of a projector that ended again and again.
                await asyncio.sleep(chance.uniform(0, 1.5))
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
        head = max(answered)
        await running.until(web, f"/v1/sessions?at_least={head}", status=200)
    assert await running.stop() == 0
    await expect_ended(killed, 5)
    log = await SqliteLog.open(running.log_path)
    records = [record async for chunk in log.read(0) for record in chunk]
    await log.close()
    assert [record.position for record in records] == list(range(1, head + 1))
    for position, (source, body) in answered.items():
        assert (records[position - 1].source, records[position - 1].body) == (source, body)
    code, out, stderr = await running.run("rebuild", "--check")
    assert code == 0, out + stderr
