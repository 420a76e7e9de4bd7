"""A bounded queue that is fair between sources: one line for each, served in turn, so that a flood from one does not starve others.

    lk   ■■■■■■■■■■■■■■…     holds at most seven times the free places: alone, seven eighths of the bound
    ov   ■                   its next delivery goes with the next transaction, however long the other line is

The order of arrival is kept within a source. Between sources there is no order to keep.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from tracker.domain.deliveries import Verified
from tracker.errors import LogBusy

SHARE = 7
"""One source may hold at most this many times the free places, so the last eighth of the queue is for other sources."""


class PendingGroup(Protocol):
    """The records of one append, never split. `size` in bytes of bodies and proofs."""

    records: list[Verified]
    size: int


Group = TypeVar("Group", bound=PendingGroup)


class FairQueue(Generic[Group]):
    """The lines of all sources. `bound` in records, `bytes_bound` in bytes. `records` and `bytes`: the total queued now."""

    def __init__(self, bound: int, bytes_bound: int) -> None:
        self._bound = bound
        self._bytes_bound = bytes_bound
        self._lines: dict[str, deque[Group]] = {}
        self._held: Counter[str] = Counter()
        self.records = 0
        self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self._lines)

    def put(self, group: Group) -> None:
        """Append to the source's line. Raises `LogBusy` where that would exceed the bounds."""
        source, count = _source_of(group.records), len(group.records)
        # An empty queue takes a batch of any size: otherwise one larger than the bound could never be appended.
        if self._lines or self._bound < 1:
            if self.records + count > self._bound:
                raise LogBusy(
                    f"{self.records} records are waiting to be written, the bound is {self._bound}: try again"
                )
            if self.bytes + group.size > self._bytes_bound:
                raise LogBusy(f"{self.bytes} bytes are waiting to be written: try again")
            if count and self._held[source] + count > SHARE * (self._bound - self.records):
                raise LogBusy(
                    f"{self._held[source]} records of this source are waiting to be written, what is left of the "
                    f"{self._bound} is for other sources: try again"
                )
        self._lines.setdefault(source, deque()).append(group)
        self._count(source, count, group.size)

    def take(self, max_records: int, max_bytes: int) -> list[Group]:
        """The next group of each line in turn, as many as fit; at least one. The queue must not be empty."""
        taken: list[Group] = []
        records = size = 0
        for source in self._in_turn():
            group = self._lines[source][0]
            if taken and (records + len(group.records) > max_records or size + group.size > max_bytes):
                break
            taken.append(group)
            records, size = records + len(group.records), size + group.size
            line = self._lines[source]
            line.popleft()
            if not line:
                del self._lines[source]
            elif len(self._lines) > 1:  # move it to the end: the sources not served this time are first the next time
                self._lines[source] = self._lines.pop(source)
            self._count(source, -len(group.records), -group.size)
        return taken

    def _in_turn(self) -> Iterator[str]:
        while self._lines:
            yield next(iter(self._lines))

    def _count(self, source: str, records: int, size: int) -> None:
        self.records += records
        self.bytes += size
        self._held[source] += records
        if not self._held[source]:
            del self._held[source]


def _source_of(records: Sequence[Verified]) -> str:
    return records[0].source if records else ""
