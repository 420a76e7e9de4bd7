"""The live stream over real HTTP: new entries, resumed without gap or repeat, filtered; slow clients delay nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.server import READ, READ_KEY, Running, now
from tracker.api.auth import AccessKey, mint_token
from tracker.demo.calls import whole_call

END = 999_999_999


class Listener:
    """A client of the stream that stores what it receives."""

    def __init__(
        self, web: aiohttp.ClientSession, url: str, headers: dict[str, str] | None = None, **query: str
    ) -> None:
        self.ids: list[str] = []
        self.entries: list[Any] = []
        self.at: list[float] = []
        self.comments = 0
        self.opened = asyncio.Event()
        self.ended = False
        self._task = asyncio.create_task(self._follow(web, url, READ | (headers or {}), query))

    async def _follow(
        self, web: aiohttp.ClientSession, url: str, headers: dict[str, str], query: dict[str, str]
    ) -> None:
        with contextlib.suppress(aiohttp.ClientError):
            async with web.get(
                f"{url}/v1/live", params=query, headers=headers, timeout=aiohttp.ClientTimeout(total=None)
            ) as answer:
                assert answer.status == 200, await answer.text()
                assert answer.content_type == "text/event-stream"
                self.opened.set()
                await self._read(answer)
        self.ended = True

    async def _read(self, answer: aiohttp.ClientResponse) -> None:
        event: dict[str, str] = {}
        async for line in answer.content:
            text = line.decode().rstrip("\r\n")
            if text.startswith(":"):
                self.comments += 1
            elif text:
                name, _, value = text.partition(": ")
                event[name] = value
            elif "data" in event:
                assert event["event"] == "entry"
                self.ids.append(event["id"])
                self.entries.append(json.loads(event["data"]))
                self.at.append(time.monotonic())
                event = {}

    async def has(self, count: int, within: float = 10) -> list[str]:
        deadline = time.monotonic() + within
        while len(self.ids) < count and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        assert len(self.ids) >= count, f"{len(self.ids)} of {count}"
        return self.ids

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@contextlib.asynccontextmanager
async def listening(
    web: aiohttp.ClientSession, url: str, headers: dict[str, str] | None = None, **query: str
) -> AsyncIterator[Listener]:
    listener = Listener(web, url, headers, **query)
    try:
        await asyncio.wait_for(listener.opened.wait(), 10)
        yield listener
    finally:
        await listener.close()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    running = await Running(tmp_path).start(init=True)
    yield running
    await running.stop()


@pytest.fixture
async def web() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


async def play(server: Running, web: aiohttp.ClientSession, vendor: str, *, seed: int = 0) -> int:
    """Send a whole call; returns the position of its last delivery."""
    position = 0
    for sent in whole_call(vendor, now() - 600_000_000, seed=seed):
        status, reply = await server.post(web, vendor, sent)
        assert status == 200, reply
        position = max(position, reply["position"])
    return position


async def entry_ids(server: Running, web: aiohttp.ClientSession, position: int) -> list[str]:
    """The ids of all entries of the timelines that an event reported, in log order."""
    ids = []
    for session in (await server.get(web, "/v1/sessions", at_least=str(position), limit="1000"))["items"]:
        entries = (await server.get(web, f"/v1/sessions/{session['id']}/timeline", limit="1000"))["items"]
        ids += [entry["id"] for entry in entries if entry["received_at"]]
    return in_order(ids)


def in_order(ids: list[str]) -> list[str]:
    return sorted(ids, key=lambda each: tuple(map(int, each.split("-"))))


async def test_an_entry_arrives_soon_after_its_delivery(server: Running, web: aiohttp.ClientSession) -> None:
    await entry_ids(server, web, await play(server, web, "plugnmeet"))
    async with listening(web, server.url) as live:
        for n, sent in enumerate(list(whole_call("livekit", now()))[:4]):
            posted = time.monotonic()
            status, reply = await server.post(web, "livekit", sent)
            assert status == 200
            await live.has(n + 1)
            assert live.at[-1] - posted < 5
            assert live.entries[-1]["position"] == reply["position"]
        session = live.entries[0]["session_id"]
        timeline = (await server.get(web, f"/v1/sessions/{session}/timeline"))["items"]
        by_id = {entry["id"]: entry for entry in timeline}
        assert all(by_id[entry["id"]] == entry for entry in live.entries)


async def test_without_an_id_the_stream_begins_at_the_present(server: Running, web: aiohttp.ClientSession) -> None:
    await entry_ids(server, web, await play(server, web, "livekit"))
    async with listening(web, server.url) as live:
        await play(server, web, "livekit", seed=1)
        await live.has(5)
        assert min(entry["position"] for entry in live.entries) > 5


async def test_a_resumed_stream_has_no_gap_and_no_repeat(server: Running, web: aiohttp.ClientSession) -> None:
    ids = await entry_ids(server, web, await play(server, web, "livekit"))
    for after in (ids[0], ids[len(ids) // 2], ids[-2]):
        rest = ids[ids.index(after) + 1 :]
        async with listening(web, server.url, {"Last-Event-ID": after}) as by_header:
            async with listening(web, server.url, last_event_id=after) as by_query:
                assert await by_header.has(len(rest)) == rest
                assert await by_query.has(len(rest)) == rest
    async with listening(web, server.url, {"Last-Event-ID": ids[-2]}, last_event_id=ids[0]) as live:
        assert await live.has(1) == ids[-1:], "the id in the header is used before the one in the URL"


async def test_a_restart_and_a_rebuild_lose_and_repeat_no_entry(server: Running, web: aiohttp.ClientSession) -> None:
    got: list[str] = []
    async with listening(web, server.url, last_event_id="0-0") as live:
        await play(server, web, "livekit")
        await live.has(5)
        assert await server.stop() == 0
        await asyncio.sleep(0.1)
        assert live.ended
        got += live.ids
    await server.start()
    await play(server, web, "openvidu")
    async with listening(web, server.url, {"Last-Event-ID": got[-1]}) as live:
        last = await play(server, web, "plugnmeet")
        ids = await entry_ids(server, web, last)
        await live.has(len(ids) - len(got))
        code, _, stderr = await server.run("rebuild")
        assert code == 0, stderr
        ids = await entry_ids(server, web, await play(server, web, "streamrec"))
        got += await live.has(len(ids) - len(got))
    await asyncio.sleep(0.4)
    assert got == ids
    async with listening(web, server.url, last_event_id="0-0") as live:
        assert await live.has(len(ids)) == ids


async def test_rebuilt_views_repeat_no_entry(server: Running, web: aiohttp.ClientSession) -> None:
    async with listening(web, server.url, last_event_id="0-0") as live:
        ids = await entry_ids(server, web, await play(server, web, "livekit"))
        await live.has(len(ids))
        for name in ("views.db", "views.db-wal", "views.db-shm"):
            (server.folder / name).unlink(missing_ok=True)
        await asyncio.sleep(2.5)
        ids = await entry_ids(server, web, await play(server, web, "livekit", seed=1))
        await live.has(len(ids))
        await asyncio.sleep(0.4)
        assert live.ids == ids


async def test_filters_and_the_token_narrow_the_stream(server: Running, web: aiohttp.ClientSession) -> None:
    position = 0
    for vendor in ("livekit", "openvidu"):
        position = await play(server, web, vendor)
    sessions = (await server.get(web, "/v1/sessions", at_least=str(position)))["items"]
    one = next(each for each in sessions if each["source"] == "lk")
    narrow = mint_token(
        AccessKey("demo", "HS256", READ_KEY), scopes=["read:sessions"], sources=["ov"], expires_s=60, now=now()
    )
    only_ov = {"Authorization": f"Bearer {narrow}"}

    async def every(headers: dict[str, str] | None = None, **query: str) -> list[Any]:
        async with listening(web, server.url, headers, last_event_id="0-0", **query) as live:
            await live.has(1)
            await asyncio.sleep(0.3)
            return live.entries

    assert {each["source"] for each in await every()} == {"lk", "ov"}
    assert {each["source"] for each in await every(source="lk")} == {"lk"}
    assert {each["source"] for each in await every(only_ov)} == {"ov"}
    assert {each["kind"] for each in await every(kind="participant.joined,participant.left")} == {
        "participant.joined", "participant.left",
    }  # fmt: skip
    by_ours, by_theirs = await every(session=one["id"]), await every(session=one["room"]["name"])
    assert {each["session_id"] for each in by_ours} == {one["id"]}
    assert by_ours == by_theirs

    async def status(path: str, headers: dict[str, str]) -> tuple[int, str]:
        async with web.get(server.url + path, headers=headers) as answer:
            return answer.status, answer.content_type

    problem = "application/problem+json"
    assert await status("/v1/live", {}) == (401, problem)
    assert await status("/v1/live?session=none", READ) == (404, problem)
    assert await status(f"/v1/live?session={one['id']}", only_ov) == (404, problem)
    assert await status("/v1/live?last_event_id=soon", READ) == (400, problem)
    assert await status("/v1/live", READ | {"Last-Event-ID": "soon"}) == (400, problem)
    assert await status("/v1/live?colour=red", READ) == (400, problem)


async def test_three_hundred_clients_get_all_entries_and_a_stop_waits_for_none(
    server: Running, web: aiohttp.ClientSession
) -> None:
    listeners = [Listener(web, server.url) for _ in range(300)]
    await asyncio.gather(*(asyncio.wait_for(each.opened.wait(), 20) for each in listeners))
    ids = await entry_ids(server, web, await play(server, web, "livekit"))
    for each in listeners:
        assert await each.has(len(ids)) == ids
    stopping = time.monotonic()
    assert await server.stop() == 0
    assert time.monotonic() - stopping < 8
    await asyncio.sleep(0.2)
    assert all(each.ended for each in listeners)
    await asyncio.gather(*(each.close() for each in listeners))


async def test_a_client_that_reads_nothing_is_disconnected_and_delays_nobody(
    server: Running, web: aiohttp.ClientSession
) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(slow, (host, int(port)))
        request = f"GET /v1/live HTTP/1.1\r\nHost: {host}\r\nAuthorization: {READ['Authorization']}\r\n\r\n"
        await loop.sock_sendall(slow, request.encode())
        async with listening(web, server.url) as live:
            total = 0
            for seed in range(110):
                calls = list(whole_call("openvidu", now() - 600_000_000, seed=seed))
                answers = await asyncio.gather(*(server.post(web, "openvidu", sent) for sent in calls))
                total += sum(status == 200 for status, _ in answers)
            assert total > 1000
            await live.has(total // 2, within=20)
            deadline = time.monotonic() + 20
            while "live client disconnected" not in server.printed.read_text() and time.monotonic() < deadline:
                await asyncio.sleep(0.1)
            assert "live client disconnected" in server.printed.read_text()
            assert not live.ended


def short_lived(seconds: int, sources: list[str] | None = None) -> str:
    key = AccessKey(id="demo", algorithm="HS256", secret=READ_KEY)
    return mint_token(key, scopes=["read:sessions"], sources=sources, expires_s=seconds, now=now())


async def text_until_the_end(
    web: aiohttp.ClientSession, url: str, within: float = 20, **headers: str
) -> tuple[float, str]:
    """When (seconds since the epoch) a stream ended, and everything it sent."""
    async with (
        asyncio.timeout(within),
        web.get(f"{url}/v1/live", headers=headers, timeout=aiohttp.ClientTimeout(total=None)) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return (await answer.text(), time.time())[::-1]


async def test_a_stream_ends_when_its_token_expires(server: Running, web: aiohttp.ClientSession) -> None:
    token = short_lived(3)
    expires = time.time() + 3
    streams = await asyncio.gather(
        text_until_the_end(web, server.url, Authorization=f"Bearer {token}"),
        text_until_the_end(web, server.url, Cookie=f"tracker_session={token}"),
    )
    for ended, sent in streams:
        assert expires - 1.1 < ended < expires + 1.5
        assert ": ended: the token expired" in sent


async def test_a_stream_goes_on_when_the_token_of_another_expires(server: Running, web: aiohttp.ClientSession) -> None:
    async with listening(web, server.url) as lasting:
        await text_until_the_end(web, server.url, Authorization=f"Bearer {short_lived(1)}")
        await play(server, web, "livekit")
        await lasting.has(5)
        assert not lasting.ended


async def test_a_stream_that_sends_all_the_time_ends_when_its_token_expires(
    server: Running, web: aiohttp.ClientSession
) -> None:
    ending = asyncio.create_task(text_until_the_end(web, server.url, Authorization=f"Bearer {short_lived(2)}"))
    for seed in range(60):
        await play(server, web, "streamrec", seed=seed)
        if ending.done():
            break
    assert "ended: the token expired" in (await ending)[1]


@pytest.mark.parametrize("name", ["token", "link"])
async def test_a_stream_ends_when_its_session_is_signed_out_and_the_cookie_is_refused(
    tmp_path: Path, web: aiohttp.ClientSession, name: str
) -> None:
    server = Running(tmp_path)
    if name == "link":
        # Without keys, only the printed link signs in.
        lines = server.config.read_text("utf-8").splitlines()
        server.config.write_text(
            "\n".join(line for line in lines if not line.startswith(("[access]", "keys = [{ id"))), "utf-8"
        )
    await server.start(init=True)
    try:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
            if name == "link":
                code = server.printed.read_text().split("/open?code=")[1].split()[0]
                async with browser.get(f"{server.url}/open", params={"code": code}) as answer:
                    assert answer.status == 200
            else:
                async with browser.post(f"{server.url}/sign-in", data={"token": short_lived(600)}) as answer:
                    assert answer.status == 200
            cookie = next(each.value for each in browser.cookie_jar if each.key == "tracker_session")
            stolen = {"Cookie": f"tracker_session={cookie}"}
            ending = asyncio.create_task(text_until_the_end(web, server.url, **stolen))
            await asyncio.sleep(0.5)
            assert not ending.done()
            signed_out = time.time()
            async with browser.post(f"{server.url}/sign-out") as answer:
                assert answer.status == 200
            ended, sent = await ending
            assert ended - signed_out < 2
            assert ": ended: " in sent
            async with web.get(f"{server.url}/v1/live", headers=stolen) as answer:
                assert answer.status == 401
            if name == "token":
                # Signing in again with the same token is a new session.
                async with browser.post(f"{server.url}/sign-in", data={"token": cookie}) as answer:
                    assert answer.status == 200
                async with web.get(f"{server.url}/v1/sessions", headers=stolen) as answer:
                    assert answer.status == 200
    finally:
        await server.stop()
