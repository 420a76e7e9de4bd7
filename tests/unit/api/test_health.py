"""`/readyz` for deliveries, for readers and for both; what it says to strangers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from tracker.api.auth import Access, mint_token
from tracker.api.health import Health
from tracker.config.schema import AccessKey
from tracker.errors import LogUnavailable, NodeBehind, TrackerError, ViewsDamaged

NOW = 1_790_000_000_000_000
KEY = AccessKey(id="main", algorithm="HS256", secret="a-read-key-of-at-least-thirty-two-bytes")
HOOKS: list[str | TrackerError] = [LogUnavailable("/var/lib/tracker/log.db: disk I/O error"), NodeBehind("12 s behind")]
READS: list[str | TrackerError] = [
    "the views are 20 s behind the log (position 3)",
    ViewsDamaged("/srv/views.db is damaged"),
]


async def unready(purpose: str | None = None) -> list[str | TrackerError]:
    return (HOOKS if purpose != "reads" else []) + (READS if purpose != "hooks" else [])


@pytest.fixture
async def client() -> AsyncIterator[TestClient[Any, Any]]:
    app = web.Application()
    Health(unready, lambda: (b"", "text/plain"), Access([KEY], now=lambda: NOW)).add_routes(app)
    async with TestClient(TestServer(app)) as opened:
        yield opened


async def reasons(client: TestClient[Any, Any], query: str = "", token: str | None = None) -> list[str]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with client.get(f"/readyz{query}", headers=headers) as answer:
        assert answer.status == 503
        return (await answer.json())["reasons"]


async def test_a_reader_with_a_token_sees_the_reasons_of_the_traffic_asked_for(client: TestClient[Any, Any]) -> None:
    token = mint_token(KEY, scopes=["read:sessions"], sources=None, expires_s=60, now=NOW)
    assert await reasons(client, token=token) == [str(each) for each in HOOKS + READS]
    assert await reasons(client, "?for=hooks", token) == [str(each) for each in HOOKS]
    assert await reasons(client, "?for=reads", token) == [str(each) for each in READS]


@pytest.mark.parametrize("token", [None, "wrong"])
async def test_without_a_token_no_path_is_named(client: TestClient[Any, Any], token: str | None) -> None:
    shown = await reasons(client, token=token)
    assert len(shown) == 4
    assert "/" not in "".join(shown)
    assert "12 s behind" in shown
    assert READS[0] in shown


@pytest.mark.parametrize("query", ["?for=", "?for=hook", "?for=hooks,reads", "?for=hooks&for=reads", "?for=%ED%A0%80"])
async def test_another_purpose_is_400(client: TestClient[Any, Any], query: str) -> None:
    async with client.get(f"/readyz{query}") as answer:
        assert answer.status == 400
        assert (await answer.json(content_type=None))["parameter"] == "for"
