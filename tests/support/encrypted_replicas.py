"""Encrypting nodes of a cluster, inside the test process: each with its own replica and key store.

async with SealedNodes(cluster, folder) as nodes:
    log = await nodes.open("a")                       # level with the stream, closed at the end
    await nodes.restore("a"), await nodes.entries()   # restore the bucket of keys; read its entries
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Iterable, Sequence
from pathlib import Path
from types import TracebackType

from tests.support.cluster import Cluster
from tests.support.replicas import opened, settings_of
from tracker.log.keys.frame_keys import decode
from tracker.log.jetstream.log import JetstreamLog
from tracker.log.jetstream.key_bucket import KeyBucket
from tracker.log.jetstream.restore_keys import RestoreResult, restore_keys
from tracker.config.jetstream import JetstreamConfig
from tracker.log.jetstream.stream import Stream
from tracker.config.encryption import MasterKey
from tracker.log.keys.key_store import KeyStore

MASTERS = (MasterKey("2026", bytes(range(32))),)


class SealedNodes:
    """Nodes of one new stream."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.stream = f"s{secrets.token_hex(4)}"
        self._cluster, self._folder = cluster, folder
        self._closing = contextlib.AsyncExitStack()

    async def __aenter__(self) -> SealedNodes:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._closing.aclose()

    def settings(self, node: str = "x") -> JetstreamConfig:
        return settings_of(self._cluster, node=node, stream=self.stream)

    def replica(self, node: str) -> Path:
        return self._folder / f"{self.stream}-{node}" / "log.db"

    def keys(self, node: str) -> Path:
        return self.replica(node).with_name("keys.db")

    async def open(self, node: str) -> JetstreamLog:
        """A node's log, level with the stream. Creates what is missing, as `tracker init` does."""
        log = await opened(self.replica(node), self.settings(node), MASTERS)
        self._closing.push_async_callback(log.close)
        return log

    async def restore(
        self, node: str, *, partly: bool = False, masters: Sequence[MasterKey] = MASTERS
    ) -> RestoreResult:
        """What `tracker restore-keys` does on a node."""
        vault = await KeyStore.open(self.keys(node), masters)
        try:
            return await restore_keys(self.settings(node), self.replica(node), vault, partly=partly)
        finally:
            await vault.close()

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncGenerator[Stream]:
        """A separate connection for the test."""
        stream = await Stream.open(self.settings())
        try:
            yield stream
        finally:
            await stream.close()

    async def lose_bucket(self) -> None:
        """Delete the bucket of keys."""
        async with self.connected() as stream:
            await stream.api_request(f"STREAM.DELETE.KV_{self.stream}-keys", {})

    async def entries(self) -> dict[bytes, list[bytes | None]]:
        """The wrapped keys of every revision in the bucket, by frame."""
        found: dict[bytes, list[bytes | None]] = {}
        async with self.connected() as stream:
            bucket, after = KeyBucket(stream), 0
            while (value := await bucket.next_revision(after)) is not None:
                after = value.sequence
                found.setdefault(value.frame, []).extend(decode(value.entry).wrapped)
        return found

    def folders(self) -> list[Path]:
        """The servers' folders for the bucket."""
        return [
            path for n in range(self._cluster.size) for path in self._cluster.store(n).rglob(f"KV_{self.stream}-keys")
        ]


async def absent_from_files(values: Iterable[bytes], folders: Sequence[Path]) -> bool:
    """Whether no file contains any of these values. Waits up to 4 s for the servers to write."""
    for _ in range(40):
        files = [path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()]
        if not any(value in file for value in values for file in files):
            return True
        await asyncio.sleep(0.1)
    return False
