"""The seam of the log: append-only, one gapless order of positions.

Laws every engine keeps (the suite is `tests/contracts/log_contract.py`):
positions are 1, 2, 3 … in commit order · append is all or nothing and returns after the data is durable · a repeat
returns the first position and burns none · readers see no position before all smaller ones · `wait` wakes readers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from tracker.deliveries import Appended, Record, Verified


class Log(Protocol):
    """One log. All methods raise `LogUnavailable` when the store cannot answer; nothing was recorded then."""

    async def append(self, verified: Verified) -> Appended:
        """Durable on return: the record's position, or the first position of a repeat.

        Concurrent appends share one transaction (group commit). Raises `LogBusy` when the queue is over its bound and
        `LogUnavailable` when the store refuses; nothing of this delivery was recorded then.
        """
        ...

    async def append_all(self, batch: Sequence[Verified]) -> list[Appended]:
        """The same for many, in order, all in one transaction: either all are durable on return or none is."""
        ...

    async def head(self) -> int:
        """The last position, 0 when empty."""
        ...

    async def record(self, position: int) -> Record | None:
        """The record at a position, or None."""
        ...

    def read(self, after: int, *, limit: int | None = None) -> AsyncIterator[list[Record]]:
        """Records with positions greater than `after`, in order, in lists of bounded size, up to the present head."""
        ...

    async def wait(self, after: int, timeout: float) -> int:
        """Return the head as soon as it is greater than `after`, or after `timeout` seconds, whatever it is then."""
        ...

    async def close(self) -> None:
        """Commit what was accepted, then let go of the store. Idempotent."""
        ...
