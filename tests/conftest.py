"""Fixtures for every suite: one JetStream cluster for each worker of a run, started by the first test that uses it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hypothesis import settings

from tests.support.cluster import Cluster

pytest_plugins = ["tests.support.open_connections"]

# An example that takes long on a busy machine is no failure.
settings.register_profile("tracker", deadline=None)
settings.load_profile("tracker")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Three servers with `sync_interval: always`. Other tests share them: kill none, and use a stream name of your own."""
    async with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running
