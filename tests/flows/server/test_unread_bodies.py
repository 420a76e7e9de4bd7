"""Request bodies that nobody reads cost nothing, and forms are small: over real HTTP, against a server of its own."""

from __future__ import annotations

import asyncio
import gzip
import os
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.support.bombs import MIB, gzip_bomb
from tests.support.server import READ, Running, now
from tracker.dashboard.form import FORM_BYTES
from tracker.demo.calls import whole_call
from tracker.server.unread_bodies import DRAIN_BYTES


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """One server for all tests: none of them leaves anything behind that another would notice."""
    server = await Running(tmp_path_factory.mktemp("server")).start(init=True)
    yield server
    await server.stop()


def processor_seconds(running: Running) -> float:
    """What the server has used of the processor so far."""
    assert running.process is not None
    fields = Path(f"/proc/{running.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def send(running: Running, head: str, body: bytes) -> tuple[str, int]:
    """The first line of the answer, and how many bytes of the body were accepted before the connection ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(running.url.rsplit(":", 1)[1]))
    sent = 0
    try:
        writer.write(head.encode())
        for begin in range(0, len(body), 64 * 1024):
            writer.write(body[begin : begin + 64 * 1024])
            await asyncio.wait_for(writer.drain(), 10)
            sent = begin
    except (ConnectionError, TimeoutError):
        pass
    try:
        return (await asyncio.wait_for(reader.readline(), 10)).decode().strip(), sent
    except ConnectionError:
        return "closed", sent
    finally:
        writer.close()


def post(path: str, length: int, *lines: str) -> str:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {length}", *lines, "", ""])


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/v1/sessions", "/sign-in", "/hooks/nobody", "/nowhere"])
async def test_a_compressed_body_that_nobody_reads_is_never_decompressed(running: Running, path: str) -> None:
    body = gzip_bomb(2048)
    before = processor_seconds(running)
    await asyncio.gather(*(send(running, post(path, len(body), "Content-Encoding: gzip"), body) for _ in range(4)))
    assert processor_seconds(running) - before < 1.0


async def test_a_delivery_that_expands_beyond_the_bound_is_refused_and_others_are_recorded(
    running: Running, web: aiohttp.ClientSession
) -> None:
    body = gzip_bomb(2048)
    head = post("/hooks/ov", len(body), "Content-Encoding: gzip")
    attacks = [asyncio.create_task(send(running, head, body)) for _ in range(4)]
    for sent in whole_call("openvidu", now()):
        assert (await running.post(web, "openvidu", sent))[0] == 200
    answers = [first for first, _ in await asyncio.gather(*attacks)]
    assert {"HTTP/1.1 413 Request Entity Too Large"} >= set(answers) - {"closed", ""}
    assert "HTTP/1.1 413 Request Entity Too Large" in answers


async def test_after_a_refusal_little_more_is_read(running: Running) -> None:
    size = 64 * MIB
    first, sent = await send(running, post("/hooks/nobody", size), bytes(size))
    assert first in {"HTTP/1.1 404 Not Found", "closed", ""}
    assert sent < DRAIN_BYTES + 8 * MIB  # what the system buffers on both sides, and no more


async def test_a_small_body_that_nobody_reads_leaves_the_answer_whole(running: Running) -> None:
    first, _ = await send(running, post("/healthz", 1000), bytes(1000))
    assert first == "HTTP/1.1 405 Method Not Allowed"


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)]
)
async def test_compressed_deliveries_are_recorded_as_what_they_were(
    running: Running, web: aiohttp.ClientSession, encoding: str, pack: object
) -> None:
    delivery = whole_call("openvidu", now())[0]
    secret = "openvidu-secret-of-at-least-thirty-two-bytes"
    headers = {"Authorization": secret, "Content-Encoding": encoding}
    async with web.post(f"{running.url}/hooks/ov", data=pack(delivery.body), headers=headers) as answer:  # type: ignore[operator]
        assert answer.status == 200
        position = (await answer.json())["position"]
    async with web.get(f"{running.url}/v1/records/{position}/body", headers=READ) as answer:
        assert await answer.read() == delivery.body


@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [({"Content-Encoding": "br"}, 415, "encoding-unsupported"), ({"Content-Encoding": "gzip"}, 400, "body-broken")],
)
async def test_a_body_that_is_not_what_its_encoding_says_is_refused(
    running: Running, web: aiohttp.ClientSession, headers: dict[str, str], status: int, kind: str
) -> None:
    async with web.post(f"{running.url}/hooks/ov", data=b"{}", headers=headers) as answer:
        assert (answer.status, (await answer.json(content_type=None))["type"]) == (
            status,
            f"urn:tracker:problem:{kind}",
        )


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("multipart/form-data; boundary=x", b"--x--\r\n", 415),
        ("text/plain", b"token=a", 415),
        ("application/x-www-form-urlencoded", b"token=" + b"a" * FORM_BYTES, 413),
        ("application/x-www-form-urlencoded", b"token=%ff%fe", 400),
        ("application/x-www-form-urlencoded", b"\xff\xfe=1", 400),
        ("application/x-www-form-urlencoded", b"&".join(b"a=1" for _ in range(17)), 400),
        ("application/x-www-form-urlencoded", b"token", 400),
        ("application/x-www-form-urlencoded", b"", 401),
        ("application/x-www-form-urlencoded", b"token=a", 401),
    ],
)
async def test_a_form_is_small_and_url_encoded_or_a_problem(
    running: Running, web: aiohttp.ClientSession, content_type: str, body: bytes, status: int
) -> None:
    async with web.post(f"{running.url}/sign-in", data=body, headers={"Content-Type": content_type}) as answer:
        assert answer.status == status
        if status not in {401}:
            assert answer.content_type == "application/problem+json"
    assert "Traceback" not in running.printed.read_text()
