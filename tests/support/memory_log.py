"""A log in memory: the same contract, gone with the process. It is the only test double.

An append is "durable" when it is in the list. Everything happens between two awaits, so nothing needs a lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec

from tracker.domain.deliveries import Appended, Record, Verified
from tracker.errors import LogUnavailable
from tracker.log.contract import StoredLeaf, StoredRecord, TreeHead
from tracker.log.group_commit import QUEUE_BYTES, storable_texts
from tracker.log.merkle.leaf import record_leaf_hash, stored_digest
from tracker.log.merkle.tree import TILE_WIDTH, Frontier

CHUNK_RECORDS = 1000


class MemoryLog:
    """The contract of `Log`. After `close()` every method raises `LogUnavailable`."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._positions: dict[tuple[str, str], int] = {}
        self._frontier = Frontier()
        self._tiles: dict[int, list[bytes]] = {0: []}
        self._checkpoints: dict[int, str] = {}
        self._changed = asyncio.Event()
        self._closed = False

    @property
    def max_batch_bytes(self) -> int:
        return QUEUE_BYTES

    async def append(self, verified: Verified) -> Appended:
        """Append one. Never raises `LogBusy`: there is no queue."""
        return (await self.append_all([verified]))[0]

    def append_for(self, answer: asyncio.Future[Appended], verified: Verified) -> None:
        try:
            (appended,) = self._append([verified])
        except LogUnavailable as error:
            if not answer.done():
                answer.set_exception(error.with_traceback(None))
            return
        if not answer.done():
            answer.set_result(appended)

    async def append_all(self, batch: Sequence[Verified]) -> list[Appended]:
        return self._append(batch)

    def _append(self, batch: Sequence[Verified]) -> list[Appended]:
        self._refuse_when_closed()
        before = len(self._records)
        answers = [self._append_one(storable_texts(verified)) for verified in batch]
        if len(self._records) > before:
            self._changed.set()
            self._changed = asyncio.Event()
        return answers

    async def check_writable(self) -> None:
        self._refuse_when_closed()

    def _append_one(self, verified: Verified) -> Appended:
        key = (verified.source, verified.dedupe_key)
        known = self._positions.get(key)
        if known is not None:
            return Appended(known, duplicate=True)
        position = len(self._records) + 1
        self._records.append(Record(position=position, **msgspec.structs.asdict(verified)))
        leaf = record_leaf_hash(position, *msgspec.structs.astuple(verified))
        self._tiles[0].append(leaf)
        for level, _, tile_hash in self._frontier.append(leaf):
            self._tiles.setdefault(level, []).append(tile_hash)
        self._positions[key] = position
        return Appended(position, duplicate=False)

    async def head(self) -> int:
        self._refuse_when_closed()
        return len(self._records)

    async def record(self, position: int) -> Record | None:
        self._refuse_when_closed()
        return self._records[position - 1] if 1 <= position <= len(self._records) else None

    async def last_from_source(self, source: str) -> int:
        return max((position for (name, _), position in self._positions.items() if name == source), default=0)

    async def read(self, after: int, *, limit: int | None = None) -> AsyncIterator[list[Record]]:
        """Lists of at most 1000 records."""
        self._refuse_when_closed()
        start = max(after, 0)
        end = len(self._records) if limit is None else min(len(self._records), start + limit)
        while start < end:
            stop = min(start + CHUNK_RECORDS, end)
            yield self._records[start:stop]
            start = stop

    async def wait(self, after: int, timeout: float) -> int:
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            changed = self._changed
            head = await self.head()
            left = deadline - asyncio.get_running_loop().time()
            if head > after or left <= 0:
                return head
            try:
                async with asyncio.timeout(left):
                    await changed.wait()
            except TimeoutError:
                continue

    async def append_erasure(self, verified: Verified, positions: Sequence[int]) -> Appended:
        """Nothing is encrypted here, so erased bytes are dropped at once."""
        appended = await self.append(verified)
        for n, record in enumerate(self._records):
            if record.position in positions or record.erased_by in positions:
                self._records[n] = msgspec.structs.replace(record, proof=b"{}", body=b"", erased_by=appended.position)
        return appended

    async def positions_from_source(self, source: str, *, event: str | None = None) -> list[int]:
        return [
            record.position
            for record in self._records
            if record.source == source and (event is None or record.event == event)
        ]

    async def erased_positions(self, after: int, limit: int) -> list[tuple[int, int]]:
        erased = [
            (record.position, record.erased_by)
            for record in self._records[max(after, 0) :]
            if record.erased_by is not None
        ]
        return erased[:limit]

    async def surplus_tile(self) -> tuple[int, int] | None:
        return None

    async def destroy_keys(self, positions: Sequence[int]) -> None:  # noqa: ARG002 - the contract's
        """There are no keys."""
        self._refuse_when_closed()

    async def tree_head(self) -> TreeHead:
        self._refuse_when_closed()
        return TreeHead(self._frontier.size, self._frontier.root())

    async def tile(self, level: int, n: int) -> list[bytes]:
        self._refuse_when_closed()
        return self._tiles.get(level, [])[n * TILE_WIDTH : (n + 1) * TILE_WIDTH] if n >= 0 else []

    async def leaf(self, position: int) -> StoredLeaf | None:
        record = await self.record(position)
        if record is None:
            return None
        return StoredLeaf(position, self._tiles[0][position - 1], stored_digest(record.proof, record.body), None, None)

    async def read_stored(self, after: int) -> AsyncIterator[list[StoredRecord]]:
        async for chunk in self.read(after):
            yield [
                StoredRecord(
                    each.position, each.source, each.vendor, each.event, each.dedupe_key, each.received_at, each.origin,
                    each.proof, each.body, self._tiles[0][each.position - 1], None,
                )
                for each in chunk
            ]  # fmt: skip

    async def store_checkpoint(self, size: int, note: str) -> bool:
        self._refuse_when_closed()
        return self._checkpoints.setdefault(size, note) is note

    async def checkpoints(self, *, after: int = 0, limit: int | None = None) -> list[tuple[int, str]]:
        self._refuse_when_closed()
        return sorted(stored for stored in self._checkpoints.items() if stored[0] > after)[:limit]

    async def cosignatures(self, size: int) -> list[str]:  # noqa: ARG002 - the contract's
        """There are no other nodes."""
        self._refuse_when_closed()
        return []

    async def last_checkpoint(self) -> tuple[int, str] | None:
        self._refuse_when_closed()
        return max(self._checkpoints.items(), default=None)

    async def close(self) -> None:
        self._closed = True
        self._changed.set()

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise LogUnavailable("the log is closed: the server is stopping")
