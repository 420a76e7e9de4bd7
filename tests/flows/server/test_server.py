"""A real server in its own process: live, stopped, started twice, its views rebuilt and deleted while it runs."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from tests.support.server import READ, SECRETS, Running, now
from tracker.demo.show import SOURCES, config_text
from tracker.demo.calls import VENDORS, sign, whole_call

HOUR = 3_600_000_000


async def test_calls_of_all_vendors_are_sessions_before_at_least_gives_up(
    running: Running, web: aiohttp.ClientSession
) -> None:
    await running.projector()
    start = now() - HOUR
    head = 0
    for vendor in VENDORS:
        for sent in whole_call(vendor, start):
            status, body = await running.post(web, vendor, sent)
            assert (status, body["duplicate"]) == (200, False)
            head = body["position"]
    found = await running.get(web, "/v1/sessions", at_least=str(head))
    assert {session["source"] for session in found["items"]} == set(SOURCES.values())
    assert {session["completeness"] for session in found["items"]} == {"complete"}
    assert running.printed.read_text().find("Authorization") == -1
    for secret in SECRETS.values():
        assert secret not in running.printed.read_text()


async def test_a_second_server_on_the_same_log_names_the_process_that_holds_it(running: Running) -> None:
    assert running.process is not None
    code, _, stderr = await running.run("serve")
    assert code == 1
    assert f"process {running.process.pid}" in stderr


async def test_a_stopping_server_answers_the_requests_it_accepted(running: Running, web: aiohttp.ClientSession) -> None:
    sent = whole_call("openvidu", now() - HOUR)[0]
    headers, _, _ = sign("openvidu", sent.body, SECRETS["openvidu"], now())

    async def slow_body() -> AsyncIterator[bytes]:
        yield sent.body[:10]
        await asyncio.sleep(0.6)
        yield sent.body[10:]

    posting = asyncio.create_task(web.post(f"{running.url}/hooks/ov", data=slow_body(), headers=headers))
    await asyncio.sleep(0.2)
    stopping = asyncio.create_task(running.stop())
    async with await posting as answer:
        assert (answer.status, (await answer.json())["position"]) == (200, 1)
    assert await stopping == 0
    code, out, _ = await running.run("records", "--json")
    assert code == 0
    assert json.loads(out)["items"][0]["body_text"].encode() == sent.body


async def test_views_rebuilt_while_the_server_runs_are_used_without_a_restart(
    running: Running, web: aiohttp.ClientSession
) -> None:
    for sent in whole_call("livekit", now() - HOUR):
        _, body = await running.post(web, "livekit", sent)
    await running.get(web, "/v1/sessions", at_least=str(body["position"]))
    inode = (running.folder / "views.db").stat().st_ino
    code, _, stderr = await running.run("rebuild")
    assert code == 0, stderr
    assert (running.folder / "views.db").stat().st_ino != inode
    for sent in whole_call("plugnmeet", now() - HOUR):
        _, body = await running.post(web, "plugnmeet", sent)
    found = await running.get(web, "/v1/sessions", at_least=str(body["position"]))
    assert {session["source"] for session in found["items"]} == {"lk", "pnm"}
    code, out, stderr = await running.run("rebuild", "--check")
    assert code == 0, out + stderr


async def test_views_deleted_while_the_server_runs_are_rebuilt(running: Running, web: aiohttp.ClientSession) -> None:
    for sent in whole_call("livekit", now() - HOUR):
        _, body = await running.post(web, "livekit", sent)
    before = await running.get(web, "/v1/sessions", at_least=str(body["position"]))
    for path in running.folder.glob("views.db*"):
        path.unlink()
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        async with web.get(f"{running.url}/v1/sessions", headers=READ) as answer:
            if answer.status == 200 and await answer.json() == before:
                break
        await asyncio.sleep(0.1)
    else:
        pytest.fail("the views did not come back")


async def test_while_the_log_cannot_be_written_deliveries_get_503_and_nothing_is_lost(
    running: Running, web: aiohttp.ClientSession
) -> None:
    sent = whole_call("openvidu", now() - HOUR)[0]
    with closing(sqlite3.connect(running.log_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        headers, _, _ = sign("openvidu", sent.body, SECRETS["openvidu"], now())
        async with web.post(f"{running.url}/hooks/ov", data=sent.body, headers=headers) as answer:
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) > 0
            assert answer.content_type == "application/problem+json"
        async with web.get(f"{running.url}/readyz") as answer:
            assert answer.status == 503
        other.execute("ROLLBACK")
    status, body = await running.post(web, "openvidu", sent)
    assert (status, body) == (200, {"position": 1, "duplicate": False})
    async with web.get(f"{running.url}/readyz") as answer:
        assert answer.status == 200


async def test_serve_refuses_a_missing_log_and_creates_none(tmp_path: Path) -> None:
    running = Running(tmp_path)
    code, _, stderr = await running.run("serve")
    assert code == 2
    assert "tracker init" in stderr
    assert not running.log_path.exists()


async def test_without_read_keys_only_a_loopback_address_is_allowed(tmp_path: Path) -> None:
    text = config_text(tmp_path, SECRETS, "x" * 32, 0)
    open_to_all = "\n".join(
        line for line in text.splitlines() if line != "[access]" and not line.startswith("keys = [{")
    )
    running = Running(tmp_path, config=open_to_all.replace('host = "127.0.0.1"', 'host = "0.0.0.0"'))
    assert (await running.run("init"))[0] == 0
    code, _, stderr = await running.run("serve")
    assert (code, "server.host" in stderr) == (2, True)


async def test_without_read_keys_a_sign_in_link_works_once(tmp_path: Path) -> None:
    text = config_text(tmp_path, SECRETS, "x" * 32, 0)
    keyless = "\n".join(line for line in text.splitlines() if line != "[access]" and not line.startswith("keys = [{"))
    running = await Running(tmp_path, config=keyless).start(init=True)
    try:
        link = next(word for word in running.printed.read_text().split() if "/open?code=" in word)
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=jar) as web:
            async with web.get(f"{running.url}/v1/sessions") as answer:
                assert answer.status == 401
            async with web.get(link) as answer:
                assert answer.status == 200
            async with web.get(f"{running.url}/v1/sessions") as answer:
                assert answer.status == 200
        async with aiohttp.ClientSession() as other, other.get(link) as answer:
            assert answer.status == 401
    finally:
        await running.stop()


async def test_metrics_count_deliveries_by_source_and_outcome(running: Running, web: aiohttp.ClientSession) -> None:
    sent = whole_call("openvidu", now() - HOUR)[0]
    await running.post(web, "openvidu", sent)
    await running.post(web, "openvidu", sent)
    async with web.post(f"{running.url}/hooks/ov", data=sent.body, headers={"Authorization": "wrong"}) as answer:
        assert answer.status == 401
    async with web.get(f"{running.url}/metrics") as answer:
        text = await answer.text()
    for outcome in ("recorded", "duplicate", "signature_mismatch"):
        assert f'tracker_deliveries_total{{outcome="{outcome}",source="ov"}} 1.0' in text
    for name in ("append_seconds", "batch_size", "queue_depth", "projector_lag", "source_last_delivery_seconds"):
        assert f"tracker_{name}" in text


async def test_late_views_make_a_server_unready_for_reads_only_and_a_blocked_log_for_hooks_only(
    running: Running, web: aiohttp.ClientSession
) -> None:
    async def ready() -> dict[str, bool]:
        found = {}
        for purpose in ("hooks", "reads"):
            async with web.get(f"{running.url}/readyz", params={"for": purpose}) as answer:
                body = await answer.json()
                assert str(running.folder) not in str(body)
                found[purpose] = body["ready"]
        return found

    assert await ready() == {"hooks": True, "reads": True}
    with closing(sqlite3.connect(running.log_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert await ready() == {"hooks": False, "reads": True}
        other.execute("ROLLBACK")
    with closing(sqlite3.connect(running.folder / "views.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        _, sent = await running.post(web, "livekit", whole_call("livekit", now())[0])
        assert sent["position"] == 1
        deadline = time.monotonic() + 30
        while (await ready())["reads"]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.5)
        assert await ready() == {"hooks": True, "reads": False}
        other.execute("ROLLBACK")
