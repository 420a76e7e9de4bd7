"""The records of a bundle as a log for reading: at their own positions, with gaps, from a temporary file.

Only checked records are added. The projector reads them as it reads any log.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import IO

from tracker.domain.deliveries import Record
from tracker.errors import LogCorrupt
from tracker.evidence.bundle.record_lines import RecordLine, decode_line

CHUNK_RECORDS = 200


class UnpackedLog:
    """Implements `RecordReader`. `spool` is an empty temporary file for the lines of records."""

    def __init__(self, spool: IO[bytes]) -> None:
        self._spool = spool
        self._places: dict[int, tuple[int, int]] = {}
        """Position → start and length of its line in the spool."""
        self.positions: list[int] = []
        """The session's records, ascending. Erasure records are not among them: `read` leaves them out."""

    def add(self, position: int, line_bytes: bytes, *, is_of_session: bool) -> None:
        """Add a line. Lines of the session are added in ascending order."""
        start = self._spool.seek(0, 2)
        self._spool.write(line_bytes)
        self._places[position] = (start, len(line_bytes))
        if is_of_session:
            self.positions.append(position)

    def _line(self, position: int) -> RecordLine | None:
        place = self._places.get(position)
        if place is None:
            return None
        self._spool.seek(place[0])
        return decode_line(self._spool.read(place[1]))

    async def head(self) -> int:
        return self.positions[-1] if self.positions else 0

    async def record(self, position: int) -> Record | None:
        """See `RecordReader.record`. Raises `LogCorrupt` for a withheld erasure record, which has no body."""
        line = self._line(position)
        if line is not None and line.is_withheld:
            raise LogCorrupt(f"the erasure at position {position} is not in this bundle: it was withheld")
        return None if line is None else line.record

    async def last_from_source(self, source: str) -> int:
        lines = (line.record for position in self._places if (line := self._line(position)) is not None)
        return max((record.position for record in lines if record.source == source), default=0)

    async def read(self, after: int, *, limit: int | None = None) -> AsyncIterator[list[Record]]:
        """See `RecordReader.read`: the records of the session."""
        positions = [position for position in self.positions if position > after][:limit]
        for start in range(0, len(positions), CHUNK_RECORDS):
            lines = [self._line(position) for position in positions[start : start + CHUNK_RECORDS]]
            yield [line.record for line in lines if line is not None]

    async def wait(self, after: int, timeout: float) -> int:  # noqa: ARG002 - the protocol's parameters
        """See `RecordReader.wait`. No records are ever added later."""
        return await self.head()
