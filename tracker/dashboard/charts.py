"""Bars and steps as SVG: drawn by the server, without a script; each mark has its words."""

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
LABELS = 8
"""So many labels fit under a chart."""

BAR = Markup('<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}: {}</title></rect>')
LINE = Markup('<path class="axis" d="M{} {:.1f}H{}"/><text x="{}" y="{:.1f}" text-anchor="end">{}</text>')
TICK = Markup('<text class="{}" x="{:.1f}" y="{}" text-anchor="middle">{}</text>')
FRAME = Markup('<svg class="chart" viewBox="0 0 {} {}" aria-hidden="true" focusable="false">{}</svg>')


class Bar(NamedTuple):
    """One bar: what stands under it, how high it is, and what it says when pointed at."""

    label: str
    value: int
    told: str


class Step(NamedTuple):
    """From `at` (µs) on it is `level`."""

    at: Micros
    level: int


def bars(shown: Sequence[Bar]) -> Markup:
    """A bar for each; empty where there is none. The table beside it says the same."""
    if not shown:
        return Markup()
    most = _round_up(max(bar.value for bar in shown))
    width = (WIDTH - LEFT) / len(shown)
    every = -(-len(shown) // LABELS)
    parts = [_scale(most)]
    for n, bar in enumerate(shown):
        height = bar.value / most * (HEIGHT - TOP - BOTTOM)
        x, y = LEFT + n * width, HEIGHT - BOTTOM - height
        parts.append(BAR.format(x + width * 0.1, y, width * 0.8, height, bar.label, bar.told))
        if n % every == 0:
            # Narrow screens have room for every other label, in larger letters.
            name = "tick" if n % (2 * every) == 0 else "tick wide"
            parts.append(TICK.format(name, x + width / 2, HEIGHT - 5, bar.label))
    return _framed(parts)


def steps(shown: Sequence[Step]) -> Markup:
    """A line that goes up and down with the level; empty for fewer than two steps."""
    if len(shown) < 2 or shown[0].at == shown[-1].at:
        return Markup()
    most = _round_up(max(step.level for step in shown))
    first, last = shown[0].at, shown[-1].at

    def place(step: Step) -> tuple[float, float]:
        x = LEFT + (step.at - first) / (last - first) * (WIDTH - LEFT)
        return x, HEIGHT - BOTTOM - step.level / most * (HEIGHT - TOP - BOTTOM)

    points = [f"M{LEFT} {HEIGHT - BOTTOM}"]
    for step in _thinned(shown):
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
    return _framed([_scale(most), drawn, *labels])


def _thinned(shown: Sequence[Step]) -> list[Step]:
    """No more steps than there are places for: of those that fall into one, the highest and the last."""
    if len(shown) <= 2 * WIDTH:
        return list(shown)
    first, last = shown[0].at, shown[-1].at
    kept: dict[int, list[Step]] = {}
    for step in shown:
        place = (step.at - first) * WIDTH // (last - first)
        highest = max(kept.get(place, [step])[0], step, key=lambda each: each.level)
        kept[place] = [highest, step]
    return [step for pair in kept.values() for step in pair]


def _scale(most: int) -> Markup:
    lines = Markup()
    for value in (0, most // 2, most) if most > 1 else (0, 1):
        y = HEIGHT - BOTTOM - value / most * (HEIGHT - TOP - BOTTOM)
        lines += LINE.format(LEFT, y, WIDTH, LEFT - 5, y + 4, value)
    return lines


def _framed(parts: Sequence[Markup]) -> Markup:
    return FRAME.format(WIDTH, HEIGHT, Markup().join(parts))


def _round_up(value: int) -> int:
    """The next number that halves well."""
    step = 2
    while step * 10 < value:
        step *= 10
    return max(1, value) if value < 2 else -(-value // step) * step
