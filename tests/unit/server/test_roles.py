"""What a node with one role does."""

from __future__ import annotations

import asyncio

from tracker.domain.text_cache import text_cache
from tracker.server.roles import drop_text_caches_regularly


async def test_a_node_without_views_drops_its_caches_of_texts_regularly() -> None:
    calls: list[str] = []
    cached = text_cache(8)(calls.append)
    dropping = asyncio.create_task(drop_text_caches_regularly(0.01))
    cached("alice")
    cached("alice")
    assert calls == ["alice"]
    async with asyncio.timeout(5):
        while len(calls) == 1:
            await asyncio.sleep(0.02)
            cached("alice")
    dropping.cancel()
