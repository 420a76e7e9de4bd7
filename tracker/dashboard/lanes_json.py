"""Swim lanes as JSON for the page's script: columns of numbers, and a list that holds every word once. Pure."""

from __future__ import annotations

from typing import Any

from tracker.dashboard.lanes import Lanes
from tracker.domain.facts import Micros


def lanes_to_json(lanes: Lanes) -> dict[str, Any]:
    """The lanes as columns: times are µs after `begin`; words are indexes into the list `words`."""
    words: dict[str | None, int] = {None: 0}

    def word(text: str | None) -> int:
        return words.setdefault(text, len(words))

    def moment(at: Micros | None) -> int | None:
        return None if at is None else at - lanes.begin

    index = {lane.key: n for n, lane in enumerate(lanes.lanes)}
    columns: dict[str, list[Any]] = {
        name: [] for name in ("lane", "row", "start", "end", "start_by", "end_by", "phase", "reason", "note", "key")
    }
    for n, lane in enumerate(lanes.lanes):
        for bar in lane.bars:
            values = (
                n, bar.row, moment(bar.start), moment(bar.end), word(bar.start_by), word(bar.end_by), word(bar.phase),
                word(bar.reason), word(bar.note), bar.key,
            )  # fmt: skip
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
    return {
        "begin": lanes.begin,
        "until": lanes.until - lanes.begin,
        "latest": lanes.latest - lanes.begin,
        "goes_on": lanes.is_running,
        "lanes": [
            [word(lane.kind), lane.label, lane.about, -1 if lane.parent is None else index[lane.parent], lane.rows, lane.key]
            for lane in lanes.lanes
        ],
        "bars": columns,
        "dots": [
            [n, dot.at - lanes.begin, word(dot.name), dot.position]
            for n, lane in enumerate(lanes.lanes)
            for dot in lane.dots
        ],
        "marks": [[mark.at - lanes.begin, word(mark.kind), mark.detail, mark.position, mark.key] for mark in lanes.marks],
        "steps": [[at - lanes.begin, count] for at, count in lanes.steps],
        "words": list(words),
        "left_out": lanes.truncated,
    }  # fmt: skip
