"""What a clustered log answers from its own replica: everything but the ways in."""

from __future__ import annotations

from collections.abc import AsyncIterator

from tracker.domain.deliveries import Record
from tracker.log.contract import StoredLeaf, StoredRecord, TreeHead
from tracker.log.sqlite.replica import Replica
from tracker.log.keys.frame_store import DataKey


class ReplicaReader:
    """The reading and proving half of `Log`, handed on to `replica`. Each method: see `Log`."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica

    async def head(self) -> int:
        return await self.replica.head()

    async def record(self, position: int) -> Record | None:
        return await self.replica.record(position)

    async def last_from_source(self, source: str) -> int:
        return await self.replica.last_from_source(source)

    def read(self, after: int, *, limit: int | None = None) -> AsyncIterator[list[Record]]:
        return self.replica.read(after, limit=limit)

    async def wait(self, after: int, timeout: float) -> int:
        return await self.replica.wait(after, timeout)

    async def positions_from_source(self, source: str) -> list[int]:
        return await self.replica.positions_from_source(source)

    async def erased_positions(self, after: int, limit: int) -> list[tuple[int, int]]:
        return await self.replica.erased_positions(after, limit)

    async def erasures_made_by(self, after: int, until: int) -> dict[int, list[int]]:
        """See `SqliteProving.erasures_told`."""
        return await self.replica.erasures_made_by(after, until)

    async def data_keys(self, after: int, until: int) -> dict[int, DataKey]:
        """See `SqliteProving.data_keys`."""
        return await self.replica.data_keys(after, until)

    async def surplus_tile(self) -> tuple[int, int] | None:
        return await self.replica.surplus_tile()

    async def tree_head(self) -> TreeHead:
        return await self.replica.tree_head()

    async def tile(self, level: int, n: int) -> list[bytes]:
        return await self.replica.tile(level, n)

    async def leaf(self, position: int) -> StoredLeaf | None:
        return await self.replica.leaf(position)

    def read_stored(self, after: int) -> AsyncIterator[list[StoredRecord]]:
        return self.replica.read_stored(after)

    async def checkpoints(self, *, after: int = 0, limit: int | None = None) -> list[tuple[int, str]]:
        return await self.replica.checkpoints(after=after, limit=limit)

    async def cosignatures(self, size: int) -> list[str]:
        return await self.replica.cosignatures(size)

    async def last_checkpoint(self) -> tuple[int, str] | None:
        return await self.replica.last_checkpoint()
