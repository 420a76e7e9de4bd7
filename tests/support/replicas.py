"""Nodes of a cluster inside the test process: logs on one stream, each with its own replica file.

settings = settings_of(cluster)                                        # a stream of its own
async with nodes(cluster, folder, "a", "b") as (first, second): ...    # two nodes of one new stream
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from tests.support.cluster import Cluster
from tracker.log.jetstream.log import JetstreamLog
from tracker.log.jetstream.validation import join_stream
from tracker.log.jetstream.encryption import join_key_bucket
from tracker.config.jetstream import JetstreamConfig
from tracker.log.sqlite.replica import Replica
from tracker.config.encryption import MasterKey
from tracker.log.keys.key_store import KeyStore


def settings_of(cluster: Cluster, *, node: str = "a", stream: str | None = None) -> JetstreamConfig:
    """Settings for a new stream, or for the named one."""
    return JetstreamConfig(
        servers=tuple(cluster.urls), stream=stream or f"s{secrets.token_hex(4)}", node=node, replicas=cluster.size
    )


async def opened(path: Path, settings: JetstreamConfig, masters: Sequence[MasterKey] = ()) -> JetstreamLog:
    """A node's log, level with the stream. Creates what is missing, as `tracker init` does.

    With master keys it encrypts; its key store is `keys.db` beside the log.
    """
    keys = path.with_name("keys.db")
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        if masters:
            await KeyStore.create(keys, masters, await join_key_bucket(settings, masters, is_new_node=True))
        await Replica.init(path, log_id=await join_stream(settings, secrets.token_hex(8)), stream=settings.stream)
    log = await JetstreamLog.open(path, settings, key_store=await KeyStore.open(keys, masters) if masters else None)
    assert await log.wait_until_caught_up(20)
    return log


async def level(*logs: JetstreamLog) -> None:
    """Wait until every node has the records of all of them."""
    async with asyncio.timeout(20):
        while len({await log.head() for log in logs}) > 1:
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def nodes(cluster: Cluster, folder: Path, *names: str) -> AsyncGenerator[list[JetstreamLog]]:
    """Nodes of one new stream, each with a new replica; closed on leaving."""
    stream, label = settings_of(cluster).stream, secrets.token_hex(4)
    async with contextlib.AsyncExitStack() as closing:
        logs: list[JetstreamLog] = []
        for name in names:
            log = await opened(folder / f"{label}-{name}.db", settings_of(cluster, node=name, stream=stream))
            closing.push_async_callback(log.close)
            logs.append(log)
        yield logs
