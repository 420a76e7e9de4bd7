"""What several suites share: one cluster for the whole run, started when the first test asks for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.cluster import Cluster


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Three servers that sync always. Do not kill them: others use them too; take a stream name of your own."""
    async with Cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started
