"""Bar and step charts as SVG, drawn by the server. Every bar has a tooltip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from tracker.views.answers import time_of
from tracker.domain.facts import Micros

WIDTH = 720
HEIGHT = 160
LEFT = 34
TOP = 10
BOTTOM = 20
MAX_LABELS = 8
"""Most labels under a chart."""

BAR = Markup('<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}: {}</title></rect>')
LINE = Markup('<path class="axis" d="M{} {:.1f}H{}"/><text x="{}" y="{:.1f}" text-anchor="end">{}</text>')
TICK = Markup('<text class="{}" x="{:.1f}" y="{}" text-anchor="middle">{}</text>')
FRAME = Markup('<svg class="chart" viewBox="0 0 {} {}" aria-hidden="true" focusable="false">{}</svg>')


class Bar(NamedTuple):
    """One bar: the label under it, its height, and its tooltip."""

    label: str
    value: int
    tooltip: str


class Step(NamedTuple):
    """The value is `level` from `at` (µs) on."""

    at: Micros
    level: int


def draw_bars(bars: Sequence[Bar]) -> Markup:
    """A bar chart; empty without bars. Screen readers use the table next to it instead."""
    if not bars:
        return Markup()
    top = _round_up(max(bar.value for bar in bars))
    width = (WIDTH - LEFT) / len(bars)
    every = -(-len(bars) // MAX_LABELS)
    parts = [_y_axis(top)]
    for n, bar in enumerate(bars):
        height = bar.value / top * (HEIGHT - TOP - BOTTOM)
        x, y = LEFT + n * width, HEIGHT - BOTTOM - height
        parts.append(BAR.format(x + width * 0.1, y, width * 0.8, height, bar.label, bar.tooltip))
        if n % every == 0:
            # Narrow screens show every other label, in a larger font.
            name = "tick" if n % (2 * every) == 0 else "tick wide"
            parts.append(TICK.format(name, x + width / 2, HEIGHT - 5, bar.label))
    return _svg(parts)


def draw_steps(steps: Sequence[Step]) -> Markup:
    """A step chart; empty for fewer than two steps."""
    if len(steps) < 2 or steps[0].at == steps[-1].at:
        return Markup()
    top = _round_up(max(step.level for step in steps))
    first, last = steps[0].at, steps[-1].at

    def place(step: Step) -> tuple[float, float]:
        x = LEFT + (step.at - first) / (last - first) * (WIDTH - LEFT)
        return x, HEIGHT - BOTTOM - step.level / top * (HEIGHT - TOP - BOTTOM)

    points = [f"M{LEFT} {HEIGHT - BOTTOM}"]
    for step in _thin_out(steps):
        x, y = place(step)
        points.append(f"H{x:.1f}V{y:.1f}")
    drawn = Markup('<path class="step" d="{}"/>').format("".join(points))
    ends = [("start", LEFT, first), ("end", WIDTH, last)]
    labels = [
        Markup('<text class="tick" x="{}" y="{}" text-anchor="{}">{} UTC</text>').format(
            x, HEIGHT - 5, anchor, (time_of(at) or "")[:16].replace("T", " ")
        )
        for anchor, x, at in ends
    ]
    return _svg([_y_axis(top), drawn, *labels])


def _thin_out(steps: Sequence[Step]) -> list[Step]:
    """At most two steps per pixel column: the highest and the last."""
    if len(steps) <= 2 * WIDTH:
        return list(steps)
    first, last = steps[0].at, steps[-1].at
    by_column: dict[int, list[Step]] = {}
    for step in steps:
        column = (step.at - first) * WIDTH // (last - first)
        highest = max(by_column.get(column, [step])[0], step, key=lambda each: each.level)
        by_column[column] = [highest, step]
    return [step for pair in by_column.values() for step in pair]


def _y_axis(top: int) -> Markup:
    lines = Markup()
    for value in (0, top // 2, top) if top > 1 else (0, 1):
        y = HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)
        lines += LINE.format(LEFT, y, WIDTH, LEFT - 5, y + 4, value)
    return lines


def _svg(parts: Sequence[Markup]) -> Markup:
    return FRAME.format(WIDTH, HEIGHT, Markup().join(parts))


def _round_up(value: int) -> int:
    """A round upper bound of the y axis that can be halved."""
    step = 2
    while step * 10 < value:
        step *= 10
    return max(1, value) if value < 2 else -(-value // step) * step
