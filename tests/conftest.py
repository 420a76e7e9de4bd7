"""Fixtures for every suite: one JetStream cluster for each worker of a run, started by the first test that uses it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hypothesis import settings

from tests.support.cluster import Cluster
from tests.support.declarations import understand
from tracker.log.declaration_records import DeclarationHistory
from tracker.projector.declarations import use_history
from tracker.views.sqlite import schema

pytest_plugins = ["tests.support.open_connections"]

# An example that takes long on a busy machine is no failure.
settings.register_profile("tracker", deadline=None)
settings.load_profile("tracker")


@pytest.fixture(autouse=True)
def declarations() -> None:
    """Each test begins without the declarations of another log; sample calls of declared sources are understood."""
    use_history(DeclarationHistory())
    schema.interpret_by("")
    understand()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Three servers with `sync_interval: always`. Other tests share them: kill none, and use a stream name of your own."""
    async with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running
