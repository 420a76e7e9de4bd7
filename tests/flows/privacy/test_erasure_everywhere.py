"""After an erasure by session, no answer of a running server holds any text of it: no route, page, live stream or bundle."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import zipfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs

import aiohttp
import msgspec
import pytest

from tests.flows.privacy.test_erasure import sealed_config
from tests.support.server import READ, Running, now
from tracker.demo.calls import VENDORS, whole_call

CANARY = "canary7f3"
STAYS = {
    "openvidu": r"sessionId|uniqueSessionId|id|event|connection|status",
    "openvidu_meet": r"event|data\.(roomId|recordingId|status)",
    "livekit": r"event|id|room\.(sid|name)|(egress|ingress)Info\.(egressId|ingressId|roomId|roomName|state\.roomId|status)",
    "plugnmeet": r"event|id|room\.(sid|room_id)|recording_info\.record_id",
    "bigbluebutton": (
        r"(internal_)?meeting_id|data\.(id|type)|data\.attributes\.(record-id|workflow)"
        r"|data\.attributes\.meeting\.(internal-meeting-id|external-meeting-id|parent-id)"
    ),
    "jitsi": r"event_name|room_(jid|name)|breakout_room_id",
    "declared": r"event|payload\.object\.(id|uuid)",
    "jaas": r"idempotencyKey|eventType|sessionId|fqn|data\.(recordingSessionId|breakoutRoomId)",
    "streamrec": r"status|type|(data\.)?(session_id|agent_session_id|session_id_to_monitor|supervisor_session_id|rec_id)",
}
"""What an erasure keeps (docs/guides/erase.md), and the words that say what an event is."""
NO_TEXT = re.compile(r"[0-9.]*|[0-9]{4}-[0-9]{2}-.*")
PAGES = (
    "/",
    "/sessions",
    "/rooms",
    "/people",
    "/participants",
    "/recordings",
    "/supervisors",
    "/statistics",
    "/sources",
    "/log",
)


def with_canary(vendor: str, value: Any, path: str = "") -> Any:
    """A body in which every free text holds the canary, also in JSON inside a text."""
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {key: with_canary(vendor, inner, f"{path}.{key}" if path else key) for key, inner in fields.items()}
    if isinstance(value, list):
        return [with_canary(vendor, inner, path) for inner in cast("list[Any]", value)]
    if not isinstance(value, str) or NO_TEXT.fullmatch(value) or re.fullmatch(STAYS[vendor], path):
        return value
    if value[:1] == "{":
        with contextlib.suppress(ValueError):
            return json.dumps(with_canary(vendor, json.loads(value), f"{path}."))
    return f"{value}-{CANARY}"


def content(body: bytes) -> Any:
    """The JSON of a body, or of the field `event` of a form."""
    return json.loads(body if body[:1] == b"{" else parse_qs(body.decode())["event"][0])


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[Running]:
    running = await Running(tmp_path, config=sealed_config(tmp_path)).start(init=True)
    yield running
    await running.stop()


async def stream_text(server: Running, web: aiohttp.ClientSession, last: str, seconds: float = 1.5) -> str:
    """What a live stream sends from `last` on, within some time."""
    sent = bytearray()
    with contextlib.suppress(TimeoutError):
        async with (
            asyncio.timeout(seconds),
            web.get(f"{server.url}/v1/live", headers=READ | {"Last-Event-ID": last}) as answer,
        ):
            async for chunk in answer.content.iter_any():
                sent += chunk
    return sent.decode()


async def answers(server: Running, web: aiohttp.ClientSession, head: int) -> AsyncGenerator[tuple[str, str]]:
    """Everything a reader can ask for, as (path, text)."""
    sessions = (await server.get(web, "/v1/sessions", limit="1000"))["items"]
    paths = [
        "/v1/sessions", "/v1/rooms", "/v1/records?limit=1000", "/v1/recordings", "/v1/supervisor-sessions", "/v1/stats", "/metrics", *PAGES,
        f"/v1/sessions?q={CANARY}", f"/v1/participants?identity={CANARY}",
    ]  # fmt: skip
    for session in sessions:
        base = session["id"]
        kinds = ("", "/timeline?limit=1000", "/participants", "/connections", "/streams", "/recordings", "/records")
        paths += [f"/v1/sessions/{base}{kind}" for kind in kinds]
        paths += [f"/sessions/{base}", f"/sessions/{base}/lanes.json", f"/sessions/{base}/events.json"]
    for position in range(1, head + 1):
        paths += [f"/v1/records/{position}", f"/v1/records/{position}/body"]
    for path in paths:
        yield path, (await server.text(web, path))[1]
    ids = ("0-0", f"{head // 4}-0", f"{head - 1}-0")
    for last, text in zip(ids, await asyncio.gather(*(stream_text(server, web, last) for last in ids)), strict=True):
        yield f"/v1/live after {last}", text


@pytest.mark.parametrize("vendor", VENDORS)
async def test_no_answer_of_a_running_server_holds_a_text_of_an_erased_session(server: Running, vendor: str) -> None:
    async with aiohttp.ClientSession() as web:
        # A client that stays connected keeps the live stream's buffer filled.
        listening = asyncio.create_task(stream_text(server, web, "0-0", 600))
        await asyncio.sleep(0.3)
        head = 0
        for sent in whole_call(vendor, now() - 600_000_000):
            body = json.dumps(with_canary(vendor, content(sent.body))).encode()
            status, answer = await server.post(web, vendor, msgspec.structs.replace(sent, body=body))
            assert status == 200
            head = max(head, answer["position"])
        sessions = (await server.get(web, "/v1/sessions", at_least=str(head)))["items"]
        before = {path async for path, text in answers(server, web, head) if CANARY in text}
        assert any(path.startswith("/v1/live") for path in before)
        assert any(path.endswith("/timeline?limit=1000") for path in before)
        for session in sessions:
            code, _, complaint = await server.run("erase", "--session", session["id"], "--yes")
            assert code == 0, complaint
        # At once: the server has had no time to notice by itself.
        resumed = await stream_text(server, web, f"{head // 2}-0", 0.5)
        assert CANARY not in resumed
        assert "erased" in resumed
        left = {path: text async for path, text in answers(server, web, head) if CANARY in text}
        # The page of a search and the answer about an identity repeat what was asked for.
        assert {path: text[:2_000] for path, text in left.items() if CANARY not in path} == {}
        session = (await server.get(web, "/v1/sessions"))["items"][0]["id"]
        async with web.get(f"{server.url}/v1/sessions/{session}/evidence", headers=READ) as answer:
            assert answer.status == 200
            bundle = zipfile.ZipFile(io.BytesIO(await answer.read()))
        assert [each for each in bundle.namelist() if CANARY.encode() in bundle.read(each)] == []
        assert CANARY not in server.printed.read_text()
        listening.cancel()
