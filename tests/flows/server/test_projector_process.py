"""The projector is a process of its own: its end touches no delivery, and it ends with its server."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import aiohttp

from tests.support.server import READ, Running, expect_ended, is_running, now
from tracker.demo.calls import VENDORS, whole_call

HOUR = 3_600_000_000


async def test_it_runs_below_the_servers_priority_and_is_the_first_choice_of_the_oom_killer(running: Running) -> None:
    assert running.process is not None
    pid = await running.projector()
    deadline = time.monotonic() + 20
    own = os.getpriority(os.PRIO_PROCESS, running.process.pid)
    while os.getpriority(os.PRIO_PROCESS, pid) != min(19, own + 5):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"
    assert Path(f"/proc/{running.process.pid}/oom_score_adj").read_text().strip() != "1000"


async def test_a_killed_server_leaves_no_process_behind(running: Running, web: aiohttp.ClientSession) -> None:
    await running.projector()
    _, answer = await running.post(web, "livekit", whole_call("livekit", now())[0])
    await running.get(web, "/v1/sessions", at_least=str(answer["position"]))
    left = running.children()
    await running.kill()
    await expect_ended(left, 2)


async def test_a_stopped_server_stops_its_projector_first_even_one_that_hangs(
    running: Running, web: aiohttp.ClientSession
) -> None:
    pid = await running.projector()
    _, answer = await running.post(web, "livekit", whole_call("livekit", now())[0])
    await running.get(web, "/v1/sessions", at_least=str(answer["position"]))
    assert await running.stop() == 0
    assert not is_running(pid)
    await running.start()
    pid = await running.projector()
    os.kill(pid, signal.SIGSTOP)
    assert await running.stop() == 0
    assert not is_running(pid)
    await running.start()
    found = await running.get(web, "/v1/sessions", at_least=str(answer["position"]))
    assert len(found["items"]) == 1
    # All its log lines are those of a server: one JSON object each.
    lines = [
        line for line in running.printed.read_text().splitlines() if line and not line.startswith("tracker serves")
    ]
    assert all(json.loads(line)["logger"] for line in lines)


async def test_while_the_projector_ends_at_once_deliveries_are_answered_and_readyz_says_why_reads_are_not(
    running: Running, web: aiohttp.ClientSession
) -> None:
    pid = await running.projector()
    text = running.config.read_text("utf-8")
    running.config.write_text("nonsense", "utf-8")
    os.kill(pid, signal.SIGKILL)
    sent = whole_call("livekit", now())
    reason = await running.until(web, "/readyz?for=reads", "times in a row (exit code 1)", status=503)
    assert "starting it again" in running.printed.read_text()
    assert str(running.folder) not in reason
    for each in sent:
        status, answer = await running.post(web, "livekit", each)
        assert status == 200
    assert (await running.text(web, "/readyz?for=hooks"))[0] == 200
    running.config.write_text(text, "utf-8")
    await running.until(web, f"/v1/sessions?at_least={answer['position']}", '"lk:', status=200)
    lines = [json.loads(line) for line in running.printed.read_text().splitlines() if line.startswith("{")]
    assert {"the projector ends", "the projector ended, starting it again"} <= {line["event"] for line in lines}


async def test_the_metrics_of_both_processes_are_one_page_and_outlive_the_projector(
    running: Running, web: aiohttp.ClientSession
) -> None:
    async def counted(n: int) -> None:
        body = json.dumps({"event": "something_new", "id": f"EV_{n}"}).encode()
        first = whole_call("livekit", now())[0]
        status, _ = await running.post(web, "livekit", type(first)("something_new", body, now(), {}))
        assert status == 200
        await running.until(web, "/metrics", f'tracker_unknown_events_total{{source="lk"}} {n:.1f}')
        await running.until(web, "/metrics", "tracker_projector_lag 0.0")

    await counted(1)
    pid = await running.projector()
    os.kill(pid, signal.SIGKILL)
    await running.projector(other_than=pid)
    await counted(2)


async def test_damage_that_only_a_reader_finds_is_repaired_by_the_projector(
    running: Running, web: aiohttp.ClientSession
) -> None:
    for vendor in VENDORS:
        for sent in whole_call(vendor, now() - HOUR):
            _, answer = await running.post(web, vendor, sent)
    before = await running.get(web, "/v1/sessions", at_least=str(answer["position"]))
    views, other = running.folder / "views.db", running.folder / "other.db"
    with closing(sqlite3.connect(views)) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        shutil.copy(views, other)
        ((page, size),) = file.execute(
            "SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_schema WHERE name = 'sessions_newest'"
        )
    with other.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(bytes(range(256)) * (size // 256))
    os.replace(other, views)
    deadline = time.monotonic() + 30
    while not list(running.folder.glob("views.db.damaged-*")):
        assert time.monotonic() < deadline, running.printed.read_text()
        await running.text(web, "/v1/sessions")
        await asyncio.sleep(0.1)
    while True:
        async with web.get(f"{running.url}/v1/sessions", headers=READ) as found:
            if found.status == 200 and await found.json() == before:
                break
        assert time.monotonic() < deadline, running.printed.read_text()
        await asyncio.sleep(0.1)
    assert (await running.post(web, "livekit", sent))[0] in {200, 401}
