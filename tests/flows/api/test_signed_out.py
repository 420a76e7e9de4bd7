"""A cookie that was signed out opens nothing after a restart, against a real server."""

from __future__ import annotations

from pathlib import Path

import aiohttp

from tests.support.server import READ, Running


async def test_a_session_that_was_signed_out_stays_so_over_a_restart(tmp_path: Path) -> None:
    running = await Running(tmp_path).start(init=True)
    token = READ["Authorization"].removeprefix("Bearer ")
    cookie = {"Cookie": f"tracker_session={token}"}
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as web:

        async def status() -> int:
            async with web.get(f"{running.url}/v1/sessions", headers=cookie) as answer:
                return answer.status

        assert await status() == 200
        async with web.post(f"{running.url}/sign-out", headers=cookie, allow_redirects=False) as answer:
            assert answer.status == 303
        assert await status() == 401
        assert await running.stop() == 0
        await running.start()
        assert await status() == 401
        async with web.post(f"{running.url}/sign-in", data={"token": token}, allow_redirects=False) as answer:
            assert answer.status == 303
        assert await status() == 200
    assert await running.stop() == 0
