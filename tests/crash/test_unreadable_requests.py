"""A request that is not HTTP is logged without its bytes, because they may contain a secret."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.server import Running

SECRET = b"a-token-that-nobody-may-read"


async def test_the_bytes_of_an_unreadable_request_are_not_logged(tmp_path: Path) -> None:
    running = await Running(tmp_path).start(init=True)
    port = int(running.url.rsplit(":", 1)[1])
    for request in (
        b"POST /hooks/ov HTTP/1.1\r\nHost: x\r\nAuthorization: " + SECRET + b"\x00\r\n\r\n",
        b"POST /hooks/rec/" + SECRET + b"?q=" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        assert b" 400 " in await reader.readline()
        writer.close()
    assert await running.stop() == 0
    printed = running.printed.read_bytes()
    assert SECRET not in printed
    assert printed.count(b"a request could not be read") == 2
