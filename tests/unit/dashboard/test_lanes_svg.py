"""The static picture: a shape and a class for each part of the lanes, and all vendor text escaped."""

from __future__ import annotations

from xml.etree import ElementTree

from tracker.dashboard.lanes import Bar, Lane, Lanes, Mark
from tracker.dashboard.lanes_svg import MAX_LANES, draw_lanes, choose_lanes, axis_ticks

S = 1_000_000


def bar(start: int | None, end: int | None, start_by: str | None = "reported", end_by: str | None = "reported") -> Bar:
    return Bar(key="c:1", phase="connection", start=start, end=end, start_by=start_by, end_by=end_by)


def picture(*lanes: Lane, marks: list[Mark] | None = None) -> ElementTree.Element:
    drawn = Lanes(
        begin=0, until=1000 * S, latest=1000 * S, is_running=True, lanes=list(lanes), marks=marks or [],
        steps=[(0, 1), (500 * S, 2), (900 * S, 0)],
    )  # fmt: skip
    return ElementTree.fromstring(str(draw_lanes(drawn, "<script>alert(1)</script>").svg))


def person(*bars: Bar, name: str = "Alice") -> Lane:
    return Lane(kind="participant", key="p:1", label=name, bars=list(bars))


def groups(root: ElementTree.Element) -> list[ElementTree.Element]:
    return [each for each in root.iter("g") if "bar" in each.get("class", "").split()]


def parts_of(group: ElementTree.Element) -> list[str]:
    return [(each.get("class") or "").split()[0] for each in group if each.get("class")]


def test_solid_is_reported_and_hatched_is_derived_or_inferred() -> None:
    found = groups(picture(person(bar(0, 900 * S), bar(0, 900 * S, "derived", "inferred"))))
    assert found[0].get("class") == "bar connection start-reported end-reported"
    assert parts_of(found[0]) == ["body", "edge"]
    assert found[1].get("class") == "bar connection start-derived end-inferred"
    fills = [each.get("fill") for each in found[1] if "hatch" in (each.get("class") or "")]
    assert fills == ["url(#hatch-derived)", "url(#hatch-inferred)"]


def test_an_open_bar_ends_in_an_arrow_and_an_unknown_start_is_hatched() -> None:
    running, unknown = groups(picture(person(bar(0, None, end_by=None), bar(None, 500 * S, None))))
    assert running.get("class", "").endswith("end-open")
    assert "tip" in parts_of(running)
    assert unknown.get("class", "").startswith("bar connection start-unknown")
    assert "hatch" in parts_of(unknown)


def test_every_bar_has_a_title() -> None:
    title = groups(picture(person(bar(0, 60 * S, end_by="inferred"))))[0].findtext("title")
    assert title == "Alice, connection: from 01 Jan 00:00:00 UTC (reported) to 01 Jan 00:01:00 UTC (inferred)"


def test_names_are_escaped_and_there_is_no_inline_style() -> None:
    marks = [Mark(at=5, kind='x" onload="alert(1)', detail="<b>", position=1)]
    drawn = Lanes(
        begin=0,
        until=S,
        latest=S,
        is_running=False,
        lanes=[person(bar(0, S), name='<script>"&')],
        marks=marks,
        steps=[],
    )
    text = str(draw_lanes(drawn, "<script>alert(1)</script>").svg)
    assert "<script" not in text
    assert "style=" not in text
    names = {name for each in ElementTree.fromstring(text).iter() for name in each.attrib}
    assert not [name for name in names if name.startswith("on") or name == "style"]


def test_a_large_picture_leaves_out_subscriptions_first_and_says_how_many() -> None:
    lanes = [
        Lane(kind=kind, key=f"{kind}{n}", label="x", bars=[])
        for n in range(MAX_LANES // 2)
        for kind in ("participant", "stream", "subscription")
    ]
    assert {lane.kind for lane in choose_lanes(lanes, MAX_LANES)} == {"participant", "stream"}
    assert {lane.kind for lane in choose_lanes(lanes, MAX_LANES - 2)} == {"participant"}
    assert len(choose_lanes(lanes, 10)) == 10


def test_the_axis_is_labelled_at_round_times() -> None:
    step, moments = axis_ticks(7 * S, 607 * S)
    assert step == 120
    assert all(at % (step * S) == 0 for at in moments)
    assert len(axis_ticks(0, 0)[1]) == 1
    assert len(axis_ticks(0, 10**15)[1]) < 12
