"""`GET /v1/sessions/{id}/evidence` of a running server: who may read it, its headers, and that it verifies."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import quote

import aiohttp
import jwt
import pytest

from tests.support.bundles import START, configured, failed, outcomes, unpacked, verified
from tests.support.server import READ, READ_KEY, Running
from tracker.config.load import load
from tracker.demo.calls import whole_call


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    """A server with a signed, encrypted log of two calls."""
    folder = tmp_path_factory.mktemp("server")
    configured(folder)
    running = Running(folder, config=(folder / "config.toml").read_text("utf-8"))
    loop = asyncio.new_event_loop()

    async def fill() -> None:
        await running.start(init=True)
        async with aiohttp.ClientSession() as web:
            position = 0
            for vendor in ("livekit", "plugnmeet"):
                for sent in whole_call(vendor, START):
                    status, answer = await running.post(web, vendor, sent)
                    assert status == 200
                    position = answer["position"]
            await running.get(web, "/v1/stats", at_least=str(position))

    loop.run_until_complete(fill())
    yield running
    loop.run_until_complete(running.stop())
    loop.close()


@pytest.fixture
async def web() -> AsyncGenerator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


def token(*scopes: str, **claims: object) -> dict[str, str]:
    payload = {"sub": "t", "scope": " ".join(scopes), "exp": int(time.time()) + 600} | claims
    return {"Authorization": f"Bearer {jwt.encode(payload, READ_KEY, algorithm='HS256', headers={'kid': 'demo'})}"}


async def session_of(server: Running, web: aiohttp.ClientSession, source: str) -> str:
    (found,) = (await server.get(web, "/v1/sessions", source=source))["items"]
    return found["id"]


def address(server: Running, session: str) -> str:
    return f"{server.url}/v1/sessions/{quote(session, safe='')}/evidence"


async def test_the_bundle_is_sent_as_a_file_and_verifies_with_the_servers_key(
    server: Running, web: aiohttp.ClientSession, tmp_path: Path
) -> None:
    session = await session_of(server, web, "lk")
    async with web.get(address(server, session), headers=READ) as answer:
        content = await answer.read()
        assert answer.status == 200, content
        assert answer.headers["Content-Type"] == "application/zip"
        assert re.fullmatch(r'attachment; filename="evidence-lk_RM_\w+\.zip"', answer.headers["Content-Disposition"])
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Content-Length"] == str(len(content))
        assert int(answer.headers["X-Log-Position"]) >= 14
    (tmp_path / "it.zip").write_bytes(content)
    async with web.get(f"{server.url}/v1/log/key", headers=READ) as answer:
        key = (await answer.text()).strip()
    config = load(server.config, {})
    found = await verified(tmp_path / "it.zip", config, keys=[key])
    assert not failed(found)
    assert set(outcomes(found).values()) == {"ok"}


async def test_the_bundle_contains_exactly_the_answers_of_the_api(
    server: Running, web: aiohttp.ClientSession, tmp_path: Path
) -> None:
    session = await session_of(server, web, "pnm")
    async with web.get(address(server, session), headers=READ) as answer:
        (tmp_path / "it.zip").write_bytes(await answer.read())
    timeline = json.loads(unpacked(tmp_path / "it.zip")["timeline.json"])
    path = f"/v1/sessions/{quote(session, safe='')}"
    assert timeline["session"] == await server.get(web, path)
    for part in ("timeline", "participants", "connections", "streams", "recordings"):
        assert timeline[part] == (await server.get(web, f"{path}/{part}", limit="1000"))["items"], part


async def test_every_id_of_the_session_gives_its_bundle(server: Running, web: aiohttp.ClientSession) -> None:
    session = await session_of(server, web, "lk")
    async with web.get(address(server, session.partition(":")[2]), headers=READ) as answer:
        assert answer.status == 200
        assert "evidence-lk_RM_" in answer.headers["Content-Disposition"]


async def test_the_bundle_needs_the_scope_read_records(server: Running, web: aiohttp.ClientSession) -> None:
    session = await session_of(server, web, "lk")
    for headers, status in [
        ({}, 401),
        (token("read:sessions"), 403),
        (token("read:records", sources=["pnm"]), 404),
        (token("read:records", sources=["lk"]), 200),
    ]:
        async with web.get(address(server, session), headers=headers) as answer:
            assert answer.status == status, await answer.read()
            if status != 200:
                assert answer.headers["Content-Type"] == "application/problem+json"
    async with web.get(address(server, "lk:nothing"), headers=READ) as answer:
        assert answer.status == 404
    async with web.post(address(server, session), headers=READ) as answer:
        assert answer.status == 405


async def test_head_answers_headers_and_builds_no_bundle(server: Running, web: aiohttp.ClientSession) -> None:
    session = await session_of(server, web, "lk")
    async with web.head(address(server, session), headers=READ) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "application/zip"
        assert await answer.read() == b""
    async with web.head(address(server, session), headers=token("read:sessions")) as answer:
        assert answer.status == 403


async def test_bundles_of_an_open_session_verify_each_time(
    server: Running, web: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Bundles are built while deliveries arrive; each is consistent."""
    sent = whole_call("openvidu_meet", START)
    status, answer = await server.post(web, "openvidu_meet", sent[0])
    assert status == 200
    await server.get(web, "/v1/stats", at_least=str(answer["position"]))
    session = await session_of(server, web, "meet")

    async def rest() -> None:
        for each in sent[1:]:
            await server.post(web, "openvidu_meet", each)
            await asyncio.sleep(0.02)

    async def ask(n: int) -> None:
        async with web.get(address(server, session), headers=READ) as answer:
            assert answer.status == 200
            (tmp_path / f"{n}.zip").write_bytes(await answer.read())

    async with asyncio.TaskGroup() as group:
        group.create_task(rest())
        for n in range(6):
            group.create_task(ask(n))
            await asyncio.sleep(0.03)
    for n in range(6):
        assert not failed(await verified(tmp_path / f"{n}.zip")), n


async def test_the_page_of_the_session_links_the_bundle(server: Running, web: aiohttp.ClientSession) -> None:
    session = await session_of(server, web, "lk")
    async with web.get(f"{server.url}/sessions/{quote(session, safe='')}", headers=READ) as answer:
        page = await answer.text()
    assert answer.status == 200
    assert f"/v1/sessions/{quote(session, safe='')}/evidence" in page
