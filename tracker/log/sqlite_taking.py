"""A SQLite log that takes the records of another log as that one keeps them: same bytes, same positions, same tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import aiosqlite

from tracker.errors import LogUnavailable
from tracker.log.frames import FrameRow
from tracker.log.sqlite_following import Entry, Replica
from tracker.log.sqlite import Change


class TakingLog(Replica):
    """A log of its own that is being filled; it goes on where an earlier copy ended."""

    # Nobody is answered for what is copied: after a power cut the copy goes on from what is there.
    synchronous: ClassVar[str] = "NORMAL"

    async def take(self, rows: Sequence[FrameRow], erases: Sequence[int]) -> list[int]:
        """Append these in one transaction; their positions. `erases`: what the only one of them says is erased.

        Raises `LogUnavailable`, also where the file is a replica, or has one of them already.
        """
        if self._follows is not None:
            raise LogUnavailable(f"{self.path} is a replica of the stream {self._follows}: copy into the stream")

        async def write(connection: aiosqlite.Connection) -> Change[list[int]]:
            change = await self._apply(connection, [Entry(0, b"", rows, erases)])
            ((*answers,),) = (answer or () for answer in change.answer)
            if any(answer.duplicate for answer in answers):
                raise LogUnavailable(f"{self.path} has some of these records already, at other positions")
            return Change([answer.position for answer in answers], change.frontier, change.statements)

        return await self._group_commit.alone(lambda: self._in_transaction(write, remember=True))
