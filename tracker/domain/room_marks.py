"""Marks: what facts state about the runs of one room, one row for each statement, ordered by time.

    KEYED    a run key and its earliest stated start
    LOOSE    a run key without a stated start: the times of its earliest and its latest fact
    ANCHOR   a recording id and its earliest time by the sender's clock
    FIRST    the earliest time of a fact without a run key
    START    a stated start without a run key
    END      a stated end
    SPAN     a start and an end stated together without a run key (vendors with `ends_only`)

The runs of a room follow from its marks (`projections/runs`). The views keep them; nothing reads all marks of a room.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from tracker.domain.facts import Micros

KINDS = range(7)
KEYED, LOOSE, ANCHOR, FIRST, START, END, SPAN = KINDS
"""The kinds of marks, as they are stored. There is at most one mark of a name for each kind below `START`."""

EARLIEST = -(2**62)
LATEST = 2**62
"""Bounds of every time (µs). A tolerance before or after them still fits into 64 bits."""


class Mark(NamedTuple):
    """`until` is the end of a span, or the time of the latest fact of a loose run; else 0. Times are µs."""

    at: Micros
    until: Micros = 0
    name: str = ""


class Marks(Protocol):
    """The marks of one room."""

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
        """Marks with `low <= at <= high` and `until_from <= until <= until_to`, in ascending or descending order.

        At most `limit`; all with -1.
        """
        ...

    def named(self, kind: int, name: str) -> Mark | None:
        """The mark of this name. Only for the kinds below `START`."""
        ...


class MarkChange(NamedTuple):
    """One mark that was added, moved or removed. For the kinds from `START` on, `before` is None: they are only added."""

    kind: int
    before: Mark | None
    after: Mark | None
