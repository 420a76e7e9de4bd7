"""A SQLite log that records of another log are copied into as stored: same bytes, same positions, same tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import aiosqlite

from tracker.errors import LogUnavailable
from tracker.log.frames import FrameRow
from tracker.log.sqlite.replica import StreamEntry, Replica
from tracker.log.sqlite.log import Change
from tracker.log.sqlite.tree import SELECT_CHECKPOINT
from tracker.log.sqlite.trust import store_statements
from tracker.log.keys.key_store import DataKey
from tracker.log.cluster.messages import SignedTree


class SqliteCopyTarget(Replica):
    """A log that is being filled. It continues where an earlier copy ended."""

    # Copied records are acknowledged to no sender: after a power cut the copy continues from what is there.
    synchronous: ClassVar[str] = "NORMAL"

    async def append_raw(
        self, rows: Sequence[FrameRow], erases: Sequence[int], keys: Sequence[DataKey | None]
    ) -> list[int]:
        """Append these in one transaction; returns their positions. `erases`: what the only record of them erases.

        `keys`: of each record; None for one that is not encrypted or is erased. Raises `LogUnavailable`, also where the file
        is a replica, or has one of the records already.
        """
        if self._follows is not None:
            raise LogUnavailable(f"{self.path} is a replica of the stream {self._follows}: copy into the stream")

        async def write(connection: aiosqlite.Connection) -> Change[list[int]]:
            change = await self._apply(connection, [StreamEntry(0, b"", rows, erases)])
            ((*answers,),) = (answer or () for answer in change.answer)
            if any(answer.duplicate for answer in answers):
                raise LogUnavailable(f"{self.path} has some of these records already, at other positions")
            return Change([answer.position for answer in answers], change.frontier, change.inserted, change.statements)

        key_store, head = self._encryption.key_store, await self.head()
        if key_store is None and any(row[8] is not None for row in rows):
            raise LogUnavailable("these records are encrypted: to copy them, name a master key under [sealing] keys")
        if key_store is not None:
            await key_store.store({head + 1 + n: key for n, key in enumerate(keys) if key is not None})
        positions = await self._group_commit.run_exclusive(lambda: self._in_transaction(write, remember=True))
        if key_store is not None and erases:
            await key_store.destroy(erases)
        return positions

    async def store_signed_checkpoint(self, size: int, note: str, key: str) -> bool:
        """Store a checkpoint with its verifier key, as a clustered log does; "" where the key is not known.

        False when there is one of that size already. Raises `LogUnavailable`.
        """

        async def write(connection: aiosqlite.Connection) -> Change[bool]:
            if await connection.execute_fetchall(SELECT_CHECKPOINT, (size,)):
                return Change(False)
            return Change(True, statements=store_statements(SignedTree("", size, note, key)))

        return await self._group_commit.run_exclusive(lambda: self._in_transaction(write, remember=True))
