"""The clustered engine keeps the log's contract, against three real servers."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.clustered import Cluster
from tests.contracts.log_contract import LogContract
from tracker.log.jetstream import JetstreamLog
from tracker.log.jetstream_checking import join
from tracker.log.jetstream_stream import StreamSettings
from tracker.log.sqlite_following import Replica


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    running = asyncio.run(Cluster(tmp_path_factory.mktemp("nats")).start())
    yield running
    asyncio.run(running.stop())


def settings_of(cluster: Cluster, *, node: str = "a", stream: str | None = None) -> StreamSettings:
    """A stream of its own, unless it is named."""
    return StreamSettings(
        servers=tuple(cluster.urls), stream=stream or f"s{secrets.token_hex(4)}", node=node, replicas=cluster.size
    )


async def opened(path: Path, settings: StreamSettings) -> JetstreamLog:
    """A node's log, level with the stream, which is made where there is none."""
    if not path.exists():
        log_id = await join(settings, secrets.token_hex(8))
        await Replica.begin(path, log_id=log_id, stream=settings.stream)
    log = await JetstreamLog.open(path, settings)
    assert await log.caught_up(20)
    return log


class TestJetstreamLog(LogContract):
    """The whole suite."""

    @pytest.fixture
    async def log(self, cluster: Cluster, tmp_path: Path) -> AsyncIterator[JetstreamLog]:
        log = await opened(tmp_path / "log.db", settings_of(cluster))
        yield log
        await log.close()
