"""The answer of `stats`, added up from the tables of `counts`.

A range of time is split into the largest rows inside it. For the rest at its ends, less than ten minutes (ten seconds for the
peak), the sessions themselves are read. So the cost does not depend on how much happened in the range.
LIMIT: the peak of several sources together, but not all, is computed from their sessions.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

from tracker.domain.facts import Micros
from tracker.views.sqlite import counts
from tracker.views.sqlite import queries as sql
from tracker.views.sqlite.writer import SELECT_SOURCES, json_list, decode_source

EARLIEST, LATEST = -(2**61 // counts.DAY) * counts.DAY, 2**61 // counts.DAY * counts.DAY
"""All sessions are between these. Each is the start of a day."""

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
FIELDS = ("sessions", "participants", "participant_ms", "recordings")

Row = Sequence[Any]
Statement = tuple[str, Sequence[Any]]


class Stretch(NamedTuple):
    """A part of a range: whole rows of one span or, with `span` 0, the sessions themselves."""

    span: int
    from_at: Micros
    to_at: Micros


class StatsPlan(NamedTuple):
    """The statements of one `stats`, by the purpose of their rows."""

    open: Statement
    sources: Statement
    sums: list[Statement]
    """What began in the range: rows (at, source, sessions, participants, participant_ms, recordings) to add up."""
    before: list[Statement]
    """What changed before the range: rows (at, net, peak)."""
    over: list[Statement]
    """How many sessions ended exactly at its start; or the peak itself, if it is not added up."""
    changes: list[Statement]
    """What changed in the range, by time."""


def plan_stats(sources: tuple[str, ...] | None, from_at: Micros, to_at: Micros) -> StatsPlan:
    """The statements to run in one snapshot. `build_stats` takes their results in the order of `statements`."""
    narrowed = None if sources is None else json_list(sources)
    spans = (counts.TEN_MINUTES, counts.DAY)
    sums: list[Statement] = [
        (counts.SELECT_COUNTS, (narrowed, each.from_at, each.to_at, each.span))
        if each.span
        else (counts.SELECT_BEGUN, (narrowed, each.from_at, each.to_at))
        for each in split_range(from_at, to_at, spans)
    ]
    common = (sql.SELECT_OPEN, (narrowed,)), (SELECT_SOURCES, ()), sums
    if from_at >= to_at:
        return StatsPlan(*common, before=[], over=[], changes=[])
    if sources is not None and len(set(sources)) > 1:
        return StatsPlan(*common, before=[], over=[(sql.SELECT_PEAK, (narrowed, from_at, to_at))], changes=[])
    key = "" if sources is None else next(iter(sources), "\0")
    return StatsPlan(
        *common,
        before=_changes(key, EARLIEST, from_at),
        over=[(counts.SELECT_OVER, (key, from_at))],
        changes=_changes(key, from_at, to_at),
    )


def statements(plan: StatsPlan) -> list[Statement]:
    """All statements of a plan, in a fixed order."""
    return [plan.open, plan.sources, *plan.sums, *plan.before, *plan.over, *plan.changes]


def build_stats(
    plan: StatsPlan, rows: Sequence[Sequence[Row]], sources: tuple[str, ...] | None, from_at: Micros
) -> dict[str, Any]:
    """The answer of `ViewsReader.stats`, from the rows of each of `statements`."""
    open_now: dict[str, int] = {source: count for source, count in rows[0] if count}
    rest = iter(rows[2:])
    days, began = _days(chain.from_iterable(next(rest) for _ in plan.sums))
    before = list(chain.from_iterable(next(rest) for _ in plan.before))
    over = list(chain.from_iterable(next(rest) for _ in plan.over))
    return {
        "open": sum(open_now.values()),
        "sessions": sum(began.values()),
        "days": days,
        "peak": _peak(before, over[0][0], chain.from_iterable(rest), from_at) if plan.changes else _found(over),
        "sources": [
            {
                "source": row.source,
                "vendor": row.vendor,
                "sessions": began.get(row.source, 0),
                "open": open_now.get(row.source, 0),
                "last_received_at": row.last_received_at,
            }
            for row in map(decode_source, rows[1])
            if sources is None or row.source in sources
        ],
    }


def split_range(from_at: Micros, to_at: Micros, spans: Sequence[int]) -> list[Stretch]:
    """A range, split into the largest rows that fit, in order. `spans` ascend; each is a multiple of the one before."""
    from_at, to_at = max(from_at, EARLIEST), min(to_at, LATEST)
    if from_at >= to_at:
        return []
    if not spans:
        return [Stretch(0, from_at, to_at)]
    span = spans[-1]
    first, last = -(-from_at // span) * span, to_at // span * span
    if first >= last:
        return split_range(from_at, to_at, spans[:-1])
    inside = Stretch(span, first, last)
    return [*split_range(from_at, first, spans[:-1]), inside, *split_range(last, to_at, spans[:-1])]


def _changes(key: str, from_at: Micros, to_at: Micros) -> list[Statement]:
    return [
        (counts.SELECT_LEVELS, (key, each.from_at, each.to_at, each.span))
        if each.span
        else (counts.SELECT_EDGES, (key, each.from_at, each.to_at))
        for each in split_range(from_at, to_at, (counts.TEN_SECONDS, counts.TEN_MINUTES, counts.DAY))
    ]


def _days(rows: Iterable[Row]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The sums by day, and the number of sessions by source."""
    days: dict[Micros, dict[str, Any]] = {}
    began: dict[str, int] = {}
    for at, source, *sums in rows:
        number = at // counts.DAY
        day = days.get(number)
        if day is None:
            name = (EPOCH + dt.timedelta(days=number)).date().isoformat()
            day = days[number] = {"day": name, **dict.fromkeys(FIELDS, 0)}
        for field, count in zip(FIELDS, sums, strict=True):
            day[field] += count
        began[source] = began.get(source, 0) + sums[0]
    return [days[number] for number in sorted(days)], began


def _peak(before: Iterable[Row], over: int, changes: Iterable[Row], from_at: Micros) -> dict[str, Any]:
    """The highest number of open sessions, and the first moment with that number.

    `before`: changes up to `from_at`; `over` of them are sessions that ended exactly then. `changes`: the later changes.
    """
    height = sum(net for _, net, _ in before)
    highest, first = height - over, from_at
    for at, net, peak in changes:
        rise, offset = (net, 0) if peak is None else (-(-peak // counts.PEAK_UNIT), -peak % counts.PEAK_UNIT)
        if height + rise > highest:
            highest, first = height + rise, at + offset
        height += net
    return {"sessions": highest, "at": first} if highest > 0 else _found(())


def _found(rows: Sequence[Row]) -> dict[str, Any]:
    return {"sessions": rows[0][0], "at": rows[0][1]} if rows else {"sessions": 0, "at": None}
