"""The marks of one room in memory: of a room that has few, and of what a batch learned."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence

from tracker.domain.facts import Micros
from tracker.domain.room_marks import EARLIEST, LATEST, START, Mark, MarkChange


class KnownMarks:
    """The marks of one room in sorted lists."""

    def __init__(self, marks: Iterable[tuple[int, Mark]] = ()) -> None:
        """`marks`: (kind, mark), ascending."""
        self._sorted: dict[int, list[Mark]] = {}
        self._named: dict[tuple[int, str], Mark] = {}
        for kind, mark in marks:
            self._sorted.setdefault(kind, []).append(mark)
            if kind < START:
                self._named[kind, mark.name] = mark

    def select(
        self,
        kind: int,
        low: Micros = EARLIEST,
        high: Micros = LATEST,
        *,
        limit: int = -1,
        backwards: bool = False,
        until_from: Micros = EARLIEST,
        until_to: Micros = LATEST,
    ) -> Sequence[Mark]:
        marks = self._sorted.get(kind)
        if not marks:
            return ()
        found = marks[bisect_left(marks, (low,)) : bisect_right(marks, (high, LATEST, "\U0010ffff"))]
        if until_from > EARLIEST or until_to < LATEST:
            found = [mark for mark in found if until_from <= mark.until <= until_to]
        if backwards:
            found.reverse()
        return found if limit < 0 else found[:limit]

    def named(self, kind: int, name: str) -> Mark | None:
        return self._named.get((kind, name))

    def has(self, kind: int, mark: Mark) -> bool:
        """Whether this mark is known."""
        marks = self._sorted.get(kind, ())
        index = bisect_left(marks, mark)
        return index < len(marks) and marks[index] == mark

    def apply(self, change: MarkChange) -> None:
        """Add, move or remove a mark. Applying a change again changes nothing."""
        kind, before, after = change
        name = (before or after or Mark(0)).name
        held = self._named.get((kind, name)) if kind < START else None
        if held is not None:
            of_kind = self._sorted[kind]
            del of_kind[bisect_left(of_kind, held)]
            del self._named[kind, name]
        if after is not None and not self.has(kind, after):
            insort(self._sorted.setdefault(kind, []), after)
            if kind < START:
                self._named[kind, name] = after
