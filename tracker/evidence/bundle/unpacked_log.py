"""The records of a bundle as a log for reading: at their own positions, with gaps, from a temporary file.

Only checked records are added. The projector reads them as it reads any log. `slices` shows it a few at a time, so that the
memory it needs does not grow with the bundle.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Iterator
from typing import IO

from tracker.domain.deliveries import Record
from tracker.errors import LogCorrupt
from tracker.evidence.bundle.record_lines import RecordLine, decode_line

CHUNK_RECORDS = 200
SLICE_RECORDS = 2_000
SLICE_BYTES = 4 * 1024 * 1024


class UnpackedLog:
    """Implements `RecordReader`. `spool` is an empty temporary file for the lines of records."""

    def __init__(self, spool: IO[bytes]) -> None:
        self._spool = spool
        self.positions = array("q")
        """The session's records, ascending. Erasure records are not among them: `read` leaves them out."""
        self._starts = array("q")
        """Where the line of each of them begins in the spool."""
        self._erasures: dict[int, int] = {}
        """Position → where its line begins."""
        self._shown = 0
        """How many of `positions` readers see now."""

    @property
    def records(self) -> int:
        """How many lines were added."""
        return len(self.positions) + len(self._erasures)

    def add(self, position: int, line_bytes: bytes, *, is_of_session: bool) -> None:
        """Add a line. Lines of the session are added in ascending order."""
        start = self._spool.seek(0, 2)
        self._spool.write(line_bytes)
        if is_of_session:
            self.positions.append(position)
            self._starts.append(start)
            self._shown = len(self.positions)
        else:
            self._erasures[position] = start

    def slices(self) -> Iterator[int]:
        """Show the records of the session slice by slice. Yields the head after each slice; at the end all are shown."""
        self._shown = 0
        while self._shown < len(self.positions):
            first = self._starts[self._shown]
            self._shown = min(bisect_right(self._starts, first + SLICE_BYTES), self._shown + SLICE_RECORDS)
            yield self.positions[self._shown - 1]

    def _line(self, position: int) -> RecordLine | None:
        n = bisect_left(self.positions, position)
        is_of_session = n < len(self.positions) and self.positions[n] == position
        start = self._starts[n] if is_of_session else self._erasures.get(position)
        if start is None:
            return None
        self._spool.seek(start)
        return decode_line(self._spool.readline())

    async def head(self) -> int:
        return self.positions[self._shown - 1] if self._shown else 0

    async def record(self, position: int) -> Record | None:
        """See `RecordReader.record`. Raises `LogCorrupt` for a withheld erasure record, which has no body."""
        line = self._line(position)
        if line is not None and line.is_withheld:
            raise LogCorrupt(f"the erasure at position {position} is not in this bundle: it was withheld")
        return None if line is None else line.record

    async def last_from_source(self, source: str) -> int:
        lines = (line.record for position in self._all() if (line := self._line(position)) is not None)
        return max((record.position for record in lines if record.source == source), default=0)

    def _all(self) -> Iterator[int]:
        yield from self.positions
        yield from self._erasures

    async def read(self, after: int, *, limit: int | None = None) -> AsyncIterator[list[Record]]:
        """See `RecordReader.read`: the records of the session that are shown."""
        first = bisect_right(self.positions, after)
        end = self._shown if limit is None else min(self._shown, first + limit)
        for start in range(first, end, CHUNK_RECORDS):
            lines = [self._line(position) for position in self.positions[start : min(end, start + CHUNK_RECORDS)]]
            yield [line.record for line in lines if line is not None]

    async def wait(self, after: int, timeout: float) -> int:  # noqa: ARG002 - the protocol's parameters
        """See `RecordReader.wait`. No records are ever added later."""
        return await self.head()
