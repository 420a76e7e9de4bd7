"""Whatever a stranger sends to any route, no answer is a bare 500, and nothing secret of it is answered or logged."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.server import SECRETS, TOKEN, Running, now
from tracker.api.app import ROUTES
from tracker.dashboard.app import PAGES
from tracker.demo.calls import sign, whole_call
from tracker.demo.show import SOURCES, config_text

SECRET = "s3cr3t-t0k3n-0f-a-s0urc3"
RAW = (b"\xff", b"\xed\xa0\x80", b"\x80abc", b"caf\xe9")
ESCAPED = ("%ff", "%ED%A0%80", "%C3%28", "%00", "%2F%2e%2e", "%EF%BF%BE", "%")
PATHS = sorted({*(route.path for route in ROUTES), *(page.path for page in PAGES), "/healthz", "/readyz", "/metrics",
                "/openapi.json", "/docs", "/open", "/sign-in", "/sign-out", "/static/{name}", "/nothing/{id}"})  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("requests")


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    started = await Running(tmp_path).start(init=True)
    yield started
    await started.stop()


async def exchange(running: Running, request: bytes, *, parts: int = 1) -> bytes:
    """Send bytes as they are; the whole answer. The connection is closed by the server, or after the first answer."""
    port = int(running.url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        await writer.drain()
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            return head + (await reader.readexactly(int(length[1])) if length else b"")
    finally:
        writer.close()


def get(target: bytes | str, *headers: bytes, method: bytes = b"GET", token: bool = True) -> bytes:
    target = target.encode() if isinstance(target, str) else target
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: 127.0.0.1", b"Connection: close", *headers]
    if token:
        lines.append(b"Authorization: Bearer " + TOKEN.encode())
    return b"\r\n".join(lines) + b"\r\n\r\n"


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def lone(*key: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).rstrip(b"=").decode()


async def test_no_bytes_in_a_path_a_parameter_or_a_header_are_a_500(running: Running) -> None:
    requests: list[bytes] = []
    for path in PATHS:
        for raw in (*RAW, *(text.encode() for text in ESCAPED)):
            requests.append(get(re.sub(r"\{\w+\}", "\0", path).encode().replace(b"\0", raw)))
        plain = re.sub(r"\{\w+\}", "1", path).encode()
        for name in (
            b"q",
            b"cursor",
            b"source",
            b"identity",
            b"room",
            b"kind",
            b"session",
            b"from",
            b"limit",
            b"for",
            b"code",
            b"next",
            b"nothing",
        ):
            requests += [get(plain + b"?" + name + b"=" + raw) for raw in (*RAW[:2], b"%ED%A0%80")]
        for header in (
            b"Cookie: tracker_session=",
            b"Last-Event-ID: ",
            b"If-None-Match: ",
            b"Accept: ",
            b"X-Forwarded-Proto: ",
        ):
            if path != "/v1/live" or header.startswith(b"Last"):
                requests.append(get(plain, header + RAW[0] + RAW[1]))
        requests.append(get(plain, b"Authorization: Bearer " + RAW[0] + b"." + RAW[1], token=False))
    wrong = []
    for request in requests:
        if request.startswith((b"GET /v1/live HTTP",)):
            continue
        answer = await exchange(running, request)
        if status_of(answer) >= 500:
            wrong.append((request, answer))
    assert not wrong, wrong[:3]
    assert "failed" not in running.printed.read_text()


async def test_a_cursor_with_a_lone_surrogate_or_another_shape_is_400_on_every_list(running: Running) -> None:
    cursors = [
        lone(name, *key)
        for name in (
            "sessions",
            "timeline",
            "rooms",
            "participants",
            "recordings",
            "supervisor_sessions",
            "records",
            "streams",
        )
        for key in (
            (1, "\ud800"),
            ("\udfff", "a"),
            ("a", "\ud800"),
            (1, "a", "\ud800"),
            (1, "\ud800", "a"),
            (2**70, "a"),
            (1, 2, 3, 4, 2**63),
        )
    ]
    for route in ROUTES:
        if "cursor" not in {parameter.name for parameter in route.parameters}:
            continue
        path = re.sub(r"\{\w+\}", "1", route.path)
        for cursor in cursors:
            answer = await exchange(running, get(f"{path}?cursor={cursor}"))
            assert status_of(answer) in {400, 404}, (path, cursor, answer)


WRONG_PATHS = (
    "/hooks/rec%2f{}", "/hooks/rec%2F{}", "/hooks/{}", "/hooks/{}/", "/hooks//{}", "/hooks/rec//{}", "/hooks/rec/{}/x", "/hooks/rec%252F{}",
    "/hooks/%72ec%2f{}", "/hooks/rec%5c{}", "/hooks/rec\\{}", "/hooks/rec;{}", "/hooks/REC/{}", "/hooks/rec.{}", "/hooks/rec%20/{}",
    "/hooks/rec%00{}", "/hooks/{}%0a", "/hooks/./{}", "/hooks/x/../{}", "/hooks?{}", "/hooks/?rec={}", "/HOOKS/rec/{}", "/hook/rec/{}",
    "/hooks/{}%ff", "/hooks/lk/{}",
)  # fmt: skip


async def test_a_token_in_a_wrong_hook_path_is_never_logged_answered_or_a_label(running: Running) -> None:
    for path in WRONG_PATHS:
        for method in (b"POST", b"GET"):
            answer = await exchange(running, get(path.format(SECRET), b"Content-Length: 0", method=method, token=False))
            assert status_of(answer) in {400, 401, 404, 405}, (path, answer)
            if path.startswith("/hooks"):
                assert SECRET.encode() not in answer, path
    metrics = await exchange(running, get("/metrics", token=False))
    assert SECRET.encode() not in metrics
    assert SECRET not in running.printed.read_text()


UNREADABLE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\x00\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization Bearer %s\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n Authorization: Bearer %s\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization : Bearer %s\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: " + b"a" * 20_000 + b"%s\r\n\r\n",
    b"GET /hooks/rec/%s" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /hooks/rec/%s HTTP/9.9\r\nHost: a\r\n\r\n",
    b"GET /hooks/rec/%s FTP/1.1\r\nHost: a\r\n\r\n",
    b"G@T /hooks/rec/%s HTTP/1.1\r\nHost: a\r\n\r\n",
    b"/hooks/rec/%s\r\n\r\n",
    b"POST /hooks/rec/%s HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    b"POST /hooks/rec/%s HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"POST /hooks/rec/%s HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST /hooks/lk HTTP/1.1\r\nHost: a\r\nExpect: %s\r\nContent-Length: 3\r\n\r\n",
    b"GET http://[%s/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"CONNECT %s HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x16\x03\x01\x02\x00%s\r\n\r\n",
)


@pytest.mark.parametrize("request_", UNREADABLE, ids=range(len(UNREADABLE)))
async def test_a_request_that_cannot_be_read_is_not_quoted(running: Running, request_: bytes) -> None:
    answer = await exchange(running, request_.replace(b"%s", SECRET.encode()))
    assert 400 <= status_of(answer) < 500, answer
    assert SECRET.encode() not in answer
    assert b"aiohttp" not in answer
    if status_of(answer) == 400:
        assert b"Content-Type: application/problem+json" in answer
        assert b"urn:tracker:problem:request-unreadable" in answer
    printed = running.printed.read_text()
    assert SECRET not in printed
    assert "Traceback" not in printed


async def test_an_authentic_delivery_with_bytes_that_are_no_text_around_it_is_recorded(running: Running) -> None:
    for vendor in SECRETS:
        sent = whole_call(vendor, now())[-1]
        headers, suffix, _ = sign(vendor, sent.body, SECRETS[vendor], now())
        lines = [f"{name}: {value}".encode() for name, value in headers.items()]
        target = (
            f"/hooks/{SOURCES[vendor]}{suffix}".encode() + (b"&" if "?" in suffix else b"?") + b"sid=%ff&note=%ED%A0%80"
        )
        lines += [b"User-Agent: caf\xe9 \xff", f"Content-Length: {len(sent.body)}".encode()]
        answer = await exchange(running, get(target, *lines, method=b"POST", token=False) + sent.body)
        assert status_of(answer) == 200, (vendor, answer)
    answer = await exchange(running, get("/v1/records"))
    assert status_of(answer) == 200
    recorded = json.loads(answer.split(b"\r\n\r\n", 1)[1])["items"]
    assert {each["vendor"] for each in recorded} == set(SECRETS) | {"tracker"}


async def test_a_proof_that_is_no_text_is_refused(running: Running) -> None:
    for vendor in SECRETS:
        sent = whole_call(vendor, now())[-1]
        headers, suffix, _ = sign(vendor, sent.body, SECRETS[vendor], now())
        lines = [name.encode() + b": \xff\xed\xa0\x80" for name in headers]
        target = f"/hooks/{SOURCES[vendor]}".encode() + (b"/\xff\xed\xa0\x80" if suffix else b"")
        lines.append(f"Content-Length: {len(sent.body)}".encode())
        answer = await exchange(running, get(target, *lines, method=b"POST", token=False) + sent.body)
        assert status_of(answer) in {400, 401, 403, 404}, (vendor, answer)


async def test_no_answer_names_a_version(running: Running) -> None:
    sent = whole_call("livekit", now())[0]
    headers, _, _ = sign("livekit", sent.body, SECRETS["livekit"], now())
    async with aiohttp.ClientSession() as web:
        for path in (
            "/",
            "/healthz",
            "/readyz",
            "/v1/sessions",
            "/static/tracker.css",
            "/docs",
            "/nothing",
            "/sign-in",
        ):
            async with web.get(running.url + path, allow_redirects=False) as answer:
                assert answer.headers.getall("Server") == ["tracker"], path
        async with web.post(f"{running.url}/hooks/lk", data=sent.body, headers=headers) as answer:
            assert (answer.status, answer.headers.getall("Server")) == (200, ["tracker"])
        async with web.post(f"{running.url}/hooks/lk", data=sent.body) as answer:
            assert (answer.status, answer.headers.getall("Server")) == (401, ["tracker"])


async def test_without_keys_only_a_local_host_is_answered_except_for_hooks(tmp_path: Path) -> None:
    text = config_text(tmp_path, SECRETS, "x" * 32, 0)
    keyless = "\n".join(line for line in text.splitlines() if line != "[access]" and not line.startswith("keys = [{"))
    running = await Running(tmp_path, config=keyless).start(init=True)
    sent = whole_call("livekit", now())[0]
    headers, _, _ = sign("livekit", sent.body, SECRETS["livekit"], now())
    try:
        async with aiohttp.ClientSession() as web:
            for host, status in (
                ("evil.example", 421),
                ("localhost:1", 200),
                ("127.9.9.9:80", 200),
                ("[::1]:8080", 200),
            ):
                for path in ("/healthz", "/docs", "/metrics"):
                    async with web.get(running.url + path, headers={"Host": host}) as answer:
                        assert answer.status == status, (host, path)
            async with web.get(f"{running.url}/v1/sessions", headers={"Host": "evil.example"}) as answer:
                assert (answer.status, (await answer.json(content_type=None))["type"]) == (
                    421,
                    "urn:tracker:problem:host-not-local",
                )
            async with web.post(
                f"{running.url}/hooks/lk", data=sent.body, headers=headers | {"Host": "x.example"}
            ) as answer:
                assert answer.status == 200
    finally:
        await running.stop()
