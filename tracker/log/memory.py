"""A log in memory: the same contract, gone with the process. The only test double, and what `tracker demo` may use.

An append is "durable" when it is in the list; everything happens between two awaits, so nothing needs a lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec

from tracker.deliveries import Appended, Record, Verified
from tracker.errors import LogUnavailable
from tracker.log.group_commit import storable

CHUNK_RECORDS = 1000


class MemoryLog:
    """The contract of `Log`. After `close()` every method raises `LogUnavailable`."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._positions: dict[tuple[str, str], int] = {}
        self._changed = asyncio.Event()
        self._closed = False

    async def append(self, verified: Verified) -> Appended:
        """See `Log.append`. Never raises `LogBusy`: there is no queue."""
        return (await self.append_all([verified]))[0]

    async def append_all(self, batch: Sequence[Verified]) -> list[Appended]:
        """See `Log.append_all`."""
        self._refuse_when_closed()
        before = len(self._records)
        answers = [self._place(storable(verified)) for verified in batch]
        if len(self._records) > before:
            self._changed.set()
            self._changed = asyncio.Event()
        return answers

    async def probe(self) -> None:
        """Whether records could be taken now. Raises `LogUnavailable` after `close()`."""
        self._refuse_when_closed()

    def _place(self, verified: Verified) -> Appended:
        key = (verified.source, verified.dedupe_key)
        known = self._positions.get(key)
        if known is not None:
            return Appended(known, duplicate=True)
        position = len(self._records) + 1
        self._records.append(Record(position=position, **msgspec.structs.asdict(verified)))
        self._positions[key] = position
        return Appended(position, duplicate=False)

    async def head(self) -> int:
        """See `Log.head`."""
        self._refuse_when_closed()
        return len(self._records)

    async def record(self, position: int) -> Record | None:
        """See `Log.record`."""
        self._refuse_when_closed()
        return self._records[position - 1] if 1 <= position <= len(self._records) else None

    async def read(self, after: int, *, limit: int | None = None) -> AsyncIterator[list[Record]]:
        """See `Log.read`. Lists of at most 1000 records."""
        self._refuse_when_closed()
        start = max(after, 0)
        end = len(self._records) if limit is None else min(len(self._records), start + limit)
        while start < end:
            stop = min(start + CHUNK_RECORDS, end)
            yield self._records[start:stop]
            start = stop

    async def wait(self, after: int, timeout: float) -> int:
        """See `Log.wait`."""
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

    async def close(self) -> None:
        """See `Log.close`."""
        self._closed = True
        self._changed.set()

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise LogUnavailable("the log is closed: the server is stopping")
