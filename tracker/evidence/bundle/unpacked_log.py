"""The records of a bundle as a log that can be read: at their own positions, with gaps, from a file of our own.

Only what was checked is put in; the projector then reads it as it reads any log. Nothing can be appended.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import AsyncIterator, Sequence
from typing import IO, NoReturn

from tracker.evidence.bundle.record_lines import RecordLine, decode_line
from tracker.domain.deliveries import Appended, Record, Verified
from tracker.errors import LogCorrupt, LogUnavailable
from tracker.log.contract import StoredLeaf, StoredRecord, TreeHead

CHUNK = 200


class UnpackedLog:
    """The contract of `Log`, for reading. `spool`: an empty file that is ours; lines of checked records go into it."""

    def __init__(self, spool: IO[bytes]) -> None:
        self._spool = spool
        self._places: dict[int, tuple[int, int]] = {}
        self.positions: list[int] = []
        """Of the records of the session, ascending; those of erasures are not among them: `read` leaves them out."""

    @property
    def max_batch_bytes(self) -> int:
        """See `Log.most_bytes`. Nothing is taken."""
        return 0

    def put(self, position: int, written: bytes, *, is_of_session: bool) -> None:
        """Put a line in. Positions are put in ascending order."""
        start = self._spool.seek(0, 2)
        self._spool.write(written)
        self._places[position] = (start, len(written))
        if is_of_session:
            self.positions.append(position)

    def line(self, position: int) -> RecordLine | None:
        """The line at a position, or None."""
        place = self._places.get(position)
        if place is None:
            return None
        self._spool.seek(place[0])
        return decode_line(self._spool.read(place[1]))

    async def head(self) -> int:
        """See `Log.head`."""
        return self.positions[-1] if self.positions else 0

    async def record(self, position: int) -> Record | None:
        """See `Log.record`. Raises `LogCorrupt` for a record that was withheld: it says nothing."""
        line = self.line(position)
        if line is not None and line.is_withheld:
            raise LogCorrupt(f"the erasure at position {position} is not in this bundle: it was withheld")
        return None if line is None else line.record

    async def last_from_source(self, source: str) -> int:
        """See `Log.last_of`."""
        found = (line.record for position in self._places if (line := self.line(position)) is not None)
        return max((record.position for record in found if record.source == source), default=0)

    async def read(self, after: int, *, limit: int | None = None) -> AsyncIterator[list[Record]]:
        """See `Log.read`: the records of the session."""
        wanted = [position for position in self.positions if position > after][:limit]
        for start in range(0, len(wanted), CHUNK):
            lines = [self.line(position) for position in wanted[start : start + CHUNK]]
            yield [line.record for line in lines if line is not None]

    async def wait(self, after: int, timeout: float) -> int:  # noqa: ARG002 - the contract's
        """See `Log.wait`. Nothing comes any more."""
        return await self.head()

    async def leaf(self, position: int) -> StoredLeaf | None:
        """See `Log.leaf`."""
        line = self.line(position)
        return None if line is None else line.leaf

    async def close(self) -> None:
        """See `Log.close`. The file is its maker's."""

    async def append(self, verified: Verified) -> Appended:  # noqa: ARG002 - the contract's
        """Refused."""
        _refuse()

    def append_for(self, answer: Future[Appended], verified: Verified) -> None:  # noqa: ARG002 - the contract's
        """Refused."""
        _refuse()

    async def append_all(self, batch: Sequence[Verified]) -> list[Appended]:  # noqa: ARG002 - the contract's
        """Refused."""
        _refuse()

    async def append_erasure(self, verified: Verified, positions: Sequence[int]) -> Appended:  # noqa: ARG002
        """Refused."""
        _refuse()

    async def positions_from_source(self, source: str) -> list[int]:  # noqa: ARG002 - the contract's
        """Refused."""
        _refuse()

    async def erased_positions(self, after: int, limit: int) -> list[tuple[int, int]]:  # noqa: ARG002 - the contract's
        """Refused."""
        _refuse()

    async def surplus_tile(self) -> tuple[int, int] | None:
        """Refused."""
        _refuse()

    async def destroy_keys(self, positions: Sequence[int]) -> None:  # noqa: ARG002 - the contract's
        """Refused."""
        _refuse()

    async def tree_head(self) -> TreeHead:
        """Refused."""
        _refuse()

    async def tile(self, level: int, n: int) -> list[bytes]:  # noqa: ARG002 - the contract's
        """Refused."""
        _refuse()

    async def read_stored(self, after: int) -> AsyncIterator[list[StoredRecord]]:  # noqa: ARG002 - the contract's
        """Nothing: a bundle holds plain bytes."""
        for nothing in ():
            yield nothing

    async def store_checkpoint(self, size: int, note: str) -> bool:  # noqa: ARG002 - the contract's
        """Refused."""
        _refuse()

    async def checkpoints(self, *, after: int = 0, limit: int | None = None) -> list[tuple[int, str]]:  # noqa: ARG002
        """None."""
        return []

    async def last_checkpoint(self) -> tuple[int, str] | None:
        """None."""
        return None

    async def cosignatures(self, size: int) -> list[str]:  # noqa: ARG002 - the contract's
        """None."""
        return []


def _refuse() -> NoReturn:
    raise LogUnavailable("this is the unpacked copy of a bundle, not a log")
