"""A node stops writing to a bucket of data keys whose settings changed, because records with lost keys are unreadable."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import nats
import pytest

from tests.support.cluster import Cluster
from tests.contracts.log_contract import delivery
from tests.support.replicas import opened, settings_of
from tracker.errors import LogUnavailable
from tracker.config.encryption import MasterKey

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_running_node_writes_nothing_to_a_bucket_with_changed_settings_until_they_are_restored(
    cluster: Cluster, tmp_path: Path
) -> None:
    settings = settings_of(cluster)
    name = f"KV_{settings.stream}-keys"
    client: Any = await nats.connect(cluster.urls)  # pyright: ignore[reportUnknownMemberType]

    async def api_request(what: str, data: dict[str, Any]) -> dict[str, Any]:
        answer = json.loads((await client.request(f"$JS.API.STREAM.{what}.{name}", json.dumps(data).encode(), 10)).data)
        assert "error" not in answer, answer
        return answer["config"]

    async def wait_for_error(words: str | None) -> None:
        """Wait until the node reports an error with these words, or None until it is writable."""
        async with asyncio.timeout(20):
            while True:
                try:
                    await log.check_writable()
                except LogUnavailable as error:
                    if words is not None and words in str(error):
                        return
                else:
                    if words is None:
                        return
                await asyncio.sleep(0.1)

    log = await opened(tmp_path / "a" / "log.db", settings, [MasterKey("main", bytes(32))])
    try:
        await log.append(delivery("1"))
        good = await api_request("INFO", {})
        for changed, words in (
            ({"max_age": 120 * 10**9}, "max_age is 120000000000, not 0"),
            ({"republish": {"src": ">", "dest": "elsewhere.>"}}, "republish is"),
        ):
            await api_request("UPDATE", good | changed)
            await wait_for_error(words)
            with pytest.raises(LogUnavailable, match=words):
                await log.append(delivery("2"))
            await api_request("UPDATE", good)
            await wait_for_error(None)
        assert (await log.append(delivery("2"))).position == 2
    finally:
        await log.close()
        await client.close()
