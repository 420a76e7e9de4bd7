"""Weak secrets: what Tracker's operator invents is refused before anything starts, a vendor's gives a warning."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from tests.support.server import READ, READ_KEY, SECRETS, Running
from tracker.demo.show import config_text


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"streamrec": "fifteen-letters"}, "sources[4].secret"),
        ({"streamrec": "ababababababababababab"}, "sources[4].secret"),
        ({"read": "thirty-one-bytes-are-not-enough"}, "access.keys[0].secret"),
        ({"read": "a" * 40}, "access.keys[0].secret"),
    ],
)
async def test_a_secret_that_tracker_itself_defines_is_refused_with_the_command_that_makes_one(
    changed: dict[str, str], key: str, tmp_path: Path
) -> None:
    text = config_text(tmp_path, SECRETS | changed, changed.get("read", READ_KEY), 0)
    for command in (("init",), ("serve",), ("token", "--scope", "read:sessions")):
        code, _, complaint = await Running(tmp_path, config=text).run(*command)
        assert code == 2
        assert key in complaint
        assert "openssl rand -hex 32" in complaint
        assert not any(secret in complaint for secret in changed.values())
    assert not (tmp_path / "log.db").exists()


async def test_a_vendors_weak_secret_starts_with_a_warning_that_stands_on_the_sources_page(tmp_path: Path) -> None:
    weak = {"livekit": "secret", "openvidu_meet": "meet-api-key", "openvidu": "short-one"}
    server = Running(tmp_path, config=config_text(tmp_path, SECRETS | weak, READ_KEY, 0))
    await server.start(init=True)
    try:
        printed = server.printed.read_text()
        async with aiohttp.ClientSession(headers=READ) as web, web.get(server.url + "/sources") as answer:
            page = await answer.text()
        assert answer.status == 200
    finally:
        assert await server.stop() == 0
    assert [name for name in ("ov", "meet", "lk", "pnm", "rec") if f'"source": "{name}"' in printed] == [
        "ov",
        "meet",
        "lk",
    ]
    assert page.count("weak secret") == 3
    assert "well-known one of LiveKit" in page
    assert not any(f'"{secret}"' in printed or f">{secret}<" in page for secret in weak.values())


async def test_strong_secrets_start_without_a_word(tmp_path: Path) -> None:
    server = Running(tmp_path)
    await server.start(init=True)
    assert await server.stop() == 0
    assert "weak" not in server.printed.read_text()
