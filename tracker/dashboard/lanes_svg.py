"""Swim lanes as a static SVG: until the script has loaded, for print, and for browsers without scripts. Pure.

A solid end is reported, stripes are derived, a grid is inferred, an arrow is still running. Nothing is shown by colour
alone. The SVG uses classes and attributes only: the page's Content-Security-Policy allows no inline style.
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
RIGHT_MARGIN = 24
CHART_HEIGHT = 56
AXIS_HEIGHT = 22
"""Height of the time axis between the chart and the lanes."""
ROW_HEIGHTS = {"session": 22, "participant": 24, "recording": 22, "supervisor": 22, "activity": 20}
MINOR_HEIGHT = 15
"""Height of a lane of streams or subscriptions."""
MAX_HATCH = 56.0
"""Longest hatched part at an end that was not reported."""
ARROW_WIDTH = 7.0
MAX_LABEL = 27
"""Longest label, in characters."""
MAX_LANES = 140
"""Most lanes in the SVG. The script draws all of them."""

STEPS = (
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 21_600, 43_200, 86_400, 172_800, 604_800,
)  # fmt: skip
"""Possible distances between ticks on the axis, in seconds."""

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class LanesPicture(msgspec.Struct, frozen=True):
    """The SVG, and how many lanes it omits."""

    svg: Markup
    omitted: int


def draw_lanes(lanes: Lanes, name: str) -> LanesPicture:
    """Draw `lanes`. `name` is the session's name, for screen readers."""
    shown = choose_lanes(lanes.lanes, MAX_LANES)
    scale = _Scale(lanes.begin, lanes.until)
    top = CHART_HEIGHT + AXIS_HEIGHT + 6
    heights = [_height(lane) for lane in shown]
    total = top + (18 if lanes.marks else 0) + sum(heights) + 8
    size = f'viewBox="0 0 {WIDTH} {total}" width="{WIDTH}" height="{total}"'
    parts: list[str] = [
        f'<svg class="lanes-svg" {size} role="img" aria-labelledby="lanes-title lanes-about">',
        f'<title id="lanes-title">Swim lanes of {escape(name)}</title>',
        f'<desc id="lanes-about">{escape(_description(lanes))}</desc>',
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
    if lanes.is_running:
        x = scale.x(lanes.until)
        parts.append(f'<line class="now" x1="{x}" x2="{x}" y1="{CHART_HEIGHT}" y2="{total - 8}"/>')
    parts.append("</svg>")
    return LanesPicture(Markup("".join(parts)), len(lanes.lanes) - len(shown))  # noqa: S704 - all values from outside are escaped


def choose_lanes(lanes: Sequence[Lane], limit: int) -> list[Lane]:
    """At most `limit` lanes: subscriptions are omitted first, then streams."""
    for left_out in ((), ("subscription",), ("subscription", "stream")):
        shown = [lane for lane in lanes if lane.kind not in left_out]
        if len(shown) <= limit:
            return shown
    return [lane for lane in lanes if lane.kind not in {"subscription", "stream"}][:limit]


def clock(at: Micros, *, day: bool = False, second: bool = True) -> str:
    """A time in UTC for the axis."""
    try:
        moment = _EPOCH + dt.timedelta(microseconds=at)
    except OverflowError:
        return "?"
    return moment.strftime(("%d %b " if day else "") + ("%H:%M:%S" if second else "%H:%M"))


def axis_ticks(begin: Micros, until: Micros, limit: int = 9) -> tuple[int, list[Micros]]:
    """The distance (s) and the times of the ticks of an axis."""
    seconds = max(1, (until - begin) // 1_000_000)
    step = next((step for step in STEPS if seconds / step <= limit), -(-seconds // limit))
    first = -(-begin // (step * 1_000_000)) * step * 1_000_000
    return step, list(range(first, until + 1, step * 1_000_000))


class _Scale:
    def __init__(self, begin: Micros, until: Micros) -> None:
        self.begin, self.until = begin, until
        self._per = (WIDTH - GUTTER - RIGHT_MARGIN) / max(1, until - begin)

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
    return ROW_HEIGHTS.get(lane.kind, MINOR_HEIGHT) + (lane.rows - 1) * (12 if lane.kind == "participant" else 9)


def _grid(scale: _Scale, total: int) -> Iterator[str]:
    step, moments = axis_ticks(scale.begin, scale.until)
    has_days = scale.until - scale.begin > 86_400_000_000
    for at in moments:
        x = scale.x(at)
        yield f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{total - 8}"/>'
        if x < WIDTH - 40:
            text = clock(at, day=has_days, second=step < 60)
            yield f'<text class="tick" x="{x + 4}" y="{CHART_HEIGHT + 15}">{text}</text>'
    yield f'<text class="tick" x="8" y="{CHART_HEIGHT + 15}">{clock(scale.begin, day=True)} UTC</text>'


def _chart(lanes: Lanes, scale: _Scale) -> Iterator[str]:
    """People present, as a step chart on the axis of the lanes."""
    peak = max((count for _, count in lanes.steps), default=0)
    yield f'<text class="label" x="8" y="18">People present</text><text class="about" x="8" y="34">at most {peak}</text>'
    if peak:
        floor, room = CHART_HEIGHT - 2, CHART_HEIGHT - 12
        path = [f"M{scale.x(lanes.begin)} {floor}"]
        for at, count in lanes.steps:
            path.append(f"H{scale.x(at)}V{round(floor - room * count / peak, 1)}")
        path.append(f"H{scale.x(lanes.until)}V{floor}Z")
        yield f'<path class="steps" d="{"".join(path)}"/>'
    yield f'<line class="floor" x1="{GUTTER}" x2="{WIDTH - RIGHT_MARGIN}" y1="{CHART_HEIGHT - 2}" y2="{CHART_HEIGHT - 2}"/>'


def _marks(marks: Sequence[Mark], scale: _Scale, top: float) -> Iterator[str]:
    yield f'<text class="about" x="8" y="{top + 12}">Notices ({len(marks)})</text>'
    for mark in marks[:MAX_LANES]:
        x = scale.x(mark.at)
        tooltip = escape(f"{mark.kind.replace('_', ' ')}: {mark.detail}")
        yield (
            f'<path class="mark {escape(mark.kind)}" d="M{x - 5} {top + 13}L{x} {top + 3}L{x + 5} {top + 13}Z">'
            f"<title>{tooltip}</title></path>"
        )


def _lane(lane: Lane, lanes: Lanes, scale: _Scale, top: float) -> Iterator[str]:
    is_minor = lane.parent is not None
    kind = lane.kind
    if kind in {"participant", "session"}:
        yield f'<line class="rule" x1="0" x2="{WIDTH}" y1="{top}" y2="{top}"/>'
    left, base = (22, top + 11) if is_minor else (8, top + 16)
    room = MAX_LABEL - 2 if is_minor else MAX_LABEL
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
    first = top + (ROW_HEIGHTS.get(kind, MINOR_HEIGHT) - thick) / 2
    for bar in lane.bars:
        yield from _bar(lane, bar, lanes, scale, first + bar.row * row_height, thick)
    for dot in lane.dots:
        if dot.at <= lanes.until:
            x, y = scale.x(dot.at), first + thick / 2
            tooltip = escape(f"{dot.name}: {clock(dot.at, day=True)} UTC")
            yield f'<path class="dot" d="M{x} {y - 5}L{x + 4} {y}L{x} {y + 5}L{x - 4} {y}Z"><title>{tooltip}</title></path>'


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
    yield f'<g class="bar {bar.phase} {ends}"><title>{escape(describe_bar(lane, bar))}</title>'
    yield f'<rect class="body" x="{left}" y="{y}" width="{wide}" height="{thick}"/>'
    unsure_left = bar.start_by if bar.start_by in {"derived", "inferred"} else "inferred" if bar.start is None else None
    unsure_right = bar.end_by if bar.end_by in {"derived", "inferred"} else None
    room = wide if bool(unsure_left) != bool(unsure_right) else wide / 2
    zone = round(min(MAX_HATCH, room), 1)
    if unsure_left:
        yield f'<rect class="hatch {unsure_left}" x="{left}" y="{y}" width="{zone}" height="{thick}" fill="url(#hatch-{unsure_left})"/>'
    if unsure_right:
        x = round(left + wide - zone, 1)
        yield f'<rect class="hatch {unsure_right}" x="{x}" y="{y}" width="{zone}" height="{thick}" fill="url(#hatch-{unsure_right})"/>'
    yield f'<rect class="edge" x="{left}" y="{y}" width="{wide}" height="{thick}"/>'
    if bar.end is None or is_cut:
        x, middle = round(left + wide, 1), y + thick / 2
        yield f'<path class="tip" d="M{x} {y - 2}L{x + ARROW_WIDTH} {middle}L{x} {y + thick + 2}Z"/>'
    yield "</g>"


def describe_bar(lane: Lane, bar: Bar) -> str:
    """The tooltip of a bar."""
    start = (
        "start unknown" if bar.start is None else f"from {clock(bar.start, day=True)} UTC ({bar.start_by or 'unknown'})"
    )
    end = "still running" if bar.end is None else f"to {clock(bar.end, day=True)} UTC ({bar.end_by or 'unknown'})"
    why = f": {bar.reason}" if bar.reason else ""
    note = f" ({bar.note})" if bar.note and bar.note != bar.reason else ""
    return f"{lane.label}, {bar.phase}: {start} {end}{why}{note}"


def _description(lanes: Lanes) -> str:
    people = sum(lane.kind == "participant" for lane in lanes.lanes)
    unsure = sum(
        bool({bar.start_by, bar.end_by} & {"derived", "inferred"}) for lane in lanes.lanes for bar in lane.bars
    )
    return (
        f"{people} people from {clock(lanes.begin, day=True)} to {clock(lanes.until, day=True)} UTC"
        f"{', still running' if lanes.is_running else ''}; {unsure} bars with an end that was derived or inferred; "
        f"{len(lanes.marks)} notices. The tables below list the same data."
    )
