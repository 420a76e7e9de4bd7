"""The swim lanes as a still picture: for the first moment, for paper, and for browsers that run no scripts. Pure.

Solid is reported; stripes are derived, a grid is inferred; an arrow still goes on. Colour says nothing that a shape or
a word does not say too. Only classes and attributes: the page's policy allows no inline style.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence

import msgspec
from markupsafe import Markup, escape

from tracker.dashboard.lanes import Bar, Lane, Lanes, Mark
from tracker.domain.facts import Micros

WIDTH = 1200
GUTTER = 210
RIGHT = 24
CHART = 56
HEAD = 22
"""The strip of clock times between the chart and the lanes."""
ROW = {"session": 22, "participant": 24, "recording": 22, "supervisor": 22, "activity": 20}
MINOR = 15
"""Height of a lane of streams or subscriptions."""
UNSURE = 56.0
"""How long the hatched part before an unsure end is at most."""
TIP = 7.0
LABEL = 27
"""Characters a label has room for."""
MOST = 140
"""Lanes in one picture; the script's picture has them all."""

STEPS = (
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1_800,
    3_600,
    7_200,
    14_400,
    21_600,
    43_200,
    86_400,
    172_800,
    604_800,
)
"""Distances of clock times on the axis, seconds."""  # fmt: skip

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class LanesPicture(msgspec.Struct, frozen=True):
    """The picture, and how many lanes were left out of it."""

    svg: Markup
    left_out: int


def draw_lanes(lanes: Lanes, name: str) -> LanesPicture:
    """The picture of `lanes`; `name` is the session's, for those who hear it."""
    shown = shown_lanes(lanes.lanes, MOST)
    scale = _Scale(lanes.begin, lanes.until)
    top = CHART + HEAD + 6
    heights = [_height(lane) for lane in shown]
    total = top + (18 if lanes.marks else 0) + sum(heights) + 8
    size = f'viewBox="0 0 {WIDTH} {total}" width="{WIDTH}" height="{total}"'
    parts: list[str] = [
        f'<svg class="lanes-svg" {size} role="img" aria-labelledby="lanes-title lanes-about">',
        f'<title id="lanes-title">Swim lanes of {escape(name)}</title>',
        f'<desc id="lanes-about">{escape(_told(lanes))}</desc>',
        _DEFS,
        *_grid(scale, total),
        *_chart(lanes, scale),
    ]
    if lanes.marks:
        parts += _marks(lanes.marks, scale, top)
        top += 18
    for lane, height in zip(shown, heights, strict=True):
        parts += _lane(lane, lanes, scale, top)
        top += height
    if lanes.goes_on:
        x = scale.x(lanes.until)
        parts.append(f'<line class="now" x1="{x}" x2="{x}" y1="{CHART}" y2="{total - 8}"/>')
    parts.append("</svg>")
    return LanesPicture(Markup("".join(parts)), len(lanes.lanes) - len(shown))  # noqa: S704 - everything foreign was escaped


def shown_lanes(lanes: Sequence[Lane], most: int) -> list[Lane]:
    """The lanes a picture of `most` has room for: what people receive is left out first, then what they publish."""
    for left_out in ((), ("subscription",), ("subscription", "stream")):
        shown = [lane for lane in lanes if lane.kind not in left_out]
        if len(shown) <= most:
            return shown
    return [lane for lane in lanes if lane.kind not in {"subscription", "stream"}][:most]


def clock(at: Micros, *, day: bool = False, second: bool = True) -> str:
    """A moment in UTC, as it stands on the axis."""
    try:
        moment = _EPOCH + dt.timedelta(microseconds=at)
    except OverflowError:
        return "?"
    return moment.strftime(("%d %b " if day else "") + ("%H:%M:%S" if second else "%H:%M"))


def ticks(begin: Micros, until: Micros, most: int = 9) -> tuple[int, list[Micros]]:
    """The distance (s) and the moments of clock times on an axis."""
    seconds = max(1, (until - begin) // 1_000_000)
    step = next((step for step in STEPS if seconds / step <= most), -(-seconds // most))
    first = -(-begin // (step * 1_000_000)) * step * 1_000_000
    return step, list(range(first, until + 1, step * 1_000_000))


class _Scale:
    def __init__(self, begin: Micros, until: Micros) -> None:
        self.begin, self.until = begin, until
        self._per = (WIDTH - GUTTER - RIGHT) / max(1, until - begin)

    def x(self, at: Micros) -> float:
        inside = min(max(at, self.begin), self.until)
        return round(GUTTER + (inside - self.begin) * self._per, 1)


_DEFS = (
    '<defs><pattern id="hatch-derived" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect class="gap" width="3" height="6"/></pattern>'
    '<pattern id="hatch-inferred" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect class="gap" width="4" height="6"/><rect class="gap" width="6" height="2"/></pattern></defs>'
)


def _height(lane: Lane) -> int:
    return ROW.get(lane.kind, MINOR) + (lane.rows - 1) * (12 if lane.kind == "participant" else 9)


def _grid(scale: _Scale, total: int) -> Iterator[str]:
    step, moments = ticks(scale.begin, scale.until)
    has_days = scale.until - scale.begin > 86_400_000_000
    for at in moments:
        x = scale.x(at)
        yield f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{total - 8}"/>'
        if x < WIDTH - 40:
            text = clock(at, day=has_days, second=step < 60)
            yield f'<text class="tick" x="{x + 4}" y="{CHART + 15}">{text}</text>'
    yield f'<text class="tick" x="8" y="{CHART + 15}">{clock(scale.begin, day=True)} UTC</text>'


def _chart(lanes: Lanes, scale: _Scale) -> Iterator[str]:
    """People present, as steps; the axis is that of the lanes."""
    peak = max((count for _, count in lanes.steps), default=0)
    yield f'<text class="label" x="8" y="18">People present</text><text class="about" x="8" y="34">at most {peak}</text>'
    if peak:
        floor, room = CHART - 2, CHART - 12
        path = [f"M{scale.x(lanes.begin)} {floor}"]
        for at, count in lanes.steps:
            path.append(f"H{scale.x(at)}V{round(floor - room * count / peak, 1)}")
        path.append(f"H{scale.x(lanes.until)}V{floor}Z")
        yield f'<path class="steps" d="{"".join(path)}"/>'
    yield f'<line class="floor" x1="{GUTTER}" x2="{WIDTH - RIGHT}" y1="{CHART - 2}" y2="{CHART - 2}"/>'


def _marks(marks: Sequence[Mark], scale: _Scale, top: float) -> Iterator[str]:
    yield f'<text class="about" x="8" y="{top + 12}">Notices ({len(marks)})</text>'
    for mark in marks[:MOST]:
        x = scale.x(mark.at)
        said = escape(f"{mark.kind.replace('_', ' ')}: {mark.detail}")
        yield (
            f'<path class="mark {escape(mark.kind)}" d="M{x - 5} {top + 13}L{x} {top + 3}L{x + 5} {top + 13}Z">'
            f"<title>{said}</title></path>"
        )


def _lane(lane: Lane, lanes: Lanes, scale: _Scale, top: float) -> Iterator[str]:
    is_minor = lane.parent is not None
    kind = lane.kind
    if kind in {"participant", "session"}:
        yield f'<line class="rule" x1="0" x2="{WIDTH}" y1="{top}" y2="{top}"/>'
    left, base = (22, top + 11) if is_minor else (8, top + 16)
    room = LABEL - 2 if is_minor else LABEL
    label = lane.label if len(lane.label) <= room else lane.label[: room - 1] + "…"
    named = f"{lane.label} · {lane.about}" if lane.about else lane.label
    yield (
        f'<text class="{"about" if is_minor else "label"}" x="{left}" y="{base}">{escape(label)}'
        f"<title>{escape(named)}</title></text>"
    )
    row_height = 12 if kind == "participant" else 9
    thick = {"participant": 11, "session": 8, "recording": 10}.get(kind, 7)
    if lane.rows > 1:
        thick = min(thick, row_height - 2)
    first = top + (ROW.get(kind, MINOR) - thick) / 2
    for bar in lane.bars:
        yield from _bar(lane, bar, lanes, scale, first + bar.row * row_height, thick)
    for dot in lane.dots:
        if dot.at <= lanes.until:
            x, y = scale.x(dot.at), first + thick / 2
            said = escape(f"{dot.name}: {clock(dot.at, day=True)} UTC")
            yield f'<path class="dot" d="M{x} {y - 5}L{x + 4} {y}L{x} {y + 5}L{x - 4} {y}Z"><title>{said}</title></path>'


def _bar(lane: Lane, bar: Bar, lanes: Lanes, scale: _Scale, y: float, thick: float) -> Iterator[str]:
    start = bar.start if bar.start is not None else bar.end
    if start is None:
        return
    is_cut = bar.end is not None and bar.end > lanes.until
    left, right = scale.x(start), scale.x(lanes.until if bar.end is None else bar.end)
    if bar.start is None:
        left = max(GUTTER, right - 16)
    wide = max(2.0, round(right - left, 1))
    ends = f"start-{bar.start_by or 'unknown'} end-{bar.end_by or 'open'}"
    yield f'<g class="bar {bar.phase} {ends}"><title>{escape(bar_text(lane, bar))}</title>'
    yield f'<rect class="body" x="{left}" y="{y}" width="{wide}" height="{thick}"/>'
    unsure_left = bar.start_by if bar.start_by in {"derived", "inferred"} else "inferred" if bar.start is None else None
    unsure_right = bar.end_by if bar.end_by in {"derived", "inferred"} else None
    room = wide if bool(unsure_left) != bool(unsure_right) else wide / 2
    zone = round(min(UNSURE, room), 1)
    if unsure_left:
        yield f'<rect class="hatch {unsure_left}" x="{left}" y="{y}" width="{zone}" height="{thick}" fill="url(#hatch-{unsure_left})"/>'
    if unsure_right:
        x = round(left + wide - zone, 1)
        yield f'<rect class="hatch {unsure_right}" x="{x}" y="{y}" width="{zone}" height="{thick}" fill="url(#hatch-{unsure_right})"/>'
    yield f'<rect class="edge" x="{left}" y="{y}" width="{wide}" height="{thick}"/>'
    if bar.end is None or is_cut:
        x, middle = round(left + wide, 1), y + thick / 2
        yield f'<path class="tip" d="M{x} {y - 2}L{x + TIP} {middle}L{x} {y + thick + 2}Z"/>'
    yield "</g>"


def bar_text(lane: Lane, bar: Bar) -> str:
    """One bar in words."""
    start = (
        "start unknown" if bar.start is None else f"from {clock(bar.start, day=True)} UTC ({bar.start_by or 'unknown'})"
    )
    end = "still running" if bar.end is None else f"to {clock(bar.end, day=True)} UTC ({bar.end_by or 'unknown'})"
    why = f": {bar.reason}" if bar.reason else ""
    note = f" ({bar.note})" if bar.note and bar.note != bar.reason else ""
    return f"{lane.label}, {bar.phase}: {start} {end}{why}{note}"


def _told(lanes: Lanes) -> str:
    people = sum(lane.kind == "participant" for lane in lanes.lanes)
    unsure = sum(
        bool({bar.start_by, bar.end_by} & {"derived", "inferred"}) for lane in lanes.lanes for bar in lane.bars
    )
    return (
        f"{people} people from {clock(lanes.begin, day=True)} to {clock(lanes.until, day=True)} UTC"
        f"{', still going on' if lanes.goes_on else ''}; {unsure} bars with an end that was derived or inferred; "
        f"{len(lanes.marks)} notices. The tables below say the same in words."
    )
