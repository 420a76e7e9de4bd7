"""The runs of a room, found by the marks nearby, are those that follow from all its marks at once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.whole_room import RoomState, Runs
from tracker.domain.facts import RunRules, SessionRef
from tracker.domain.known_marks import KnownMarks
from tracker.projections.learned_marks import LearnedMarks
from tracker.projections.runs import Room, RoomChanges, room_changes

MS = 1_000
RULES = [
    RunRules(),
    RunRules(tolerance=2 * MS),
    RunRules(tolerance=5 * MS),
    RunRules(tolerance=3 * MS, ends_only=True),
    RunRules(tolerance=10 * MS, ends_only=True),
    RunRules(tolerance=2 * MS, noticed_within=12 * MS),
]
times = st.integers(0, 40).map(lambda n: n * MS)
"""Whole milliseconds: keys are named after them."""


def place_of(
    at: int, run: str | None, starts: int | None, lasts: int | None, ends: int | None, anchor: str | None, late: bool
) -> SessionRef:
    if starts is not None and lasts is not None:
        ends = starts + lasts
    is_late = late and run is None and starts is None and ends is None and anchor is None
    return SessionRef(at=at, room="r", run=run, starts_at=starts, ends_at=ends, anchor=anchor, is_late=is_late)


places = st.builds(
    place_of, times, st.sampled_from([None, None, None, "u", "v", "w", "x", "y", "z"]), st.none() | times,
    st.none() | st.integers(-2, 20).map(lambda n: n * MS), st.none() | st.none() | times, st.sampled_from([None, None, "j", "k"]),
    st.booleans(),
)  # fmt: skip
facts = st.lists(st.tuples(places, st.booleans()), min_size=1, max_size=14)


def learned(known: list[tuple[SessionRef, bool]], saved: KnownMarks) -> LearnedMarks:
    marks = LearnedMarks(saved)
    for place, is_sender_clock in known:
        marks.learn(place, is_sender_clock=is_sender_clock)
    return marks


def saved(known: list[tuple[SessionRef, bool]]) -> KnownMarks:
    marks = KnownMarks()
    for change in learned(known, marks).changes:
        marks.apply(change)
    return marks


def oracle(known: list[tuple[SessionRef, bool]], rules: RunRules) -> Runs:
    state = RoomState()
    for place, is_sender_clock in known:
        state.learn(place, is_sender_clock=is_sender_clock)
    return Runs("r", state, rules)


@pytest.mark.parametrize("rules", RULES)
@settings(max_examples=120, deadline=None)
@given(known=facts, middle=st.integers(0, 14), moments=st.lists(times, min_size=1, max_size=5))
def test_every_fact_is_in_the_run_that_follows_from_all_marks(
    rules: RunRules, known: list[tuple[SessionRef, bool]], middle: int, moments: list[int]
) -> None:
    runs = oracle(known, rules)
    room = Room("r", learned(known[middle:], saved(known[:middle])), rules)
    assert room.runs_between(-(10**9), 10**9) == runs.runs
    for low in moments:
        assert room.runs_between(low, low + 5 * MS) == [run for run in runs.runs if low <= run.start <= low + 5 * MS]
    for place, _ in known:
        assert Room("r", room.marks, rules).find_run(place) == runs.find_run(place)
        assert room.find_run(place) == runs.find_run(place)
    for at in moments:
        for key in {"u", *(run.key for run in runs.runs)}:
            assert room.next_start(key, at)[1] == following(runs, key, at)


def following(runs: Runs, key: str, at: int) -> int | None:
    at = max([at, *(run.start for run in runs.runs if run.key == key)])
    for run in runs.runs:
        if run.start > at:
            return run.start
    return None


def is_covered(place: SessionRef, marks: LearnedMarks, changes: RoomChanges) -> bool:
    moments = [place.at if place.starts_at is None else place.starts_at]
    if place.anchor is not None:
        found = marks.named(2, place.anchor)
        moments += [] if found is None else [found.at]
        if place.anchor in changes.anchors:
            return True
    return any(window.low <= moment < window.high for window in changes.windows for moment in moments)


@pytest.mark.parametrize("rules", RULES)
@settings(max_examples=120, deadline=None)
@given(known=facts, new=facts, moments=st.lists(times, min_size=1, max_size=5))
def test_new_marks_name_every_fact_and_every_session_that_they_change(
    rules: RunRules, known: list[tuple[SessionRef, bool]], new: list[tuple[SessionRef, bool]], moments: list[int]
) -> None:
    before = Room("r", saved(known), rules)
    marks = learned(new, saved(known))
    after = Room("r", marks, rules)
    changes = room_changes(before, after, marks.changes, rules)
    for place, _ in known:
        if place.run is None and before.find_run(place) != after.find_run(place):
            assert is_covered(place, marks, changes), (place, changes)
    keys = {run.key for room in (before, after) for run in room.runs_between(-(10**9), 10**9)}
    for at in [*moments, *(place.at for place, _ in known)]:
        for key in keys:
            since, follows = before.next_start(key, at)
            if after.next_start(key, at)[1] != follows:
                assert key in changes.runs or any(w.low <= since < w.high for w in changes.followed), (key, at, changes)


@given(known=facts, middle=st.integers(0, 14))
def test_marks_do_not_depend_on_the_order_or_the_number_of_batches(
    known: list[tuple[SessionRef, bool]], middle: int
) -> None:
    whole, backwards = saved(known), saved(known[::-1])
    first = saved(known[:middle])
    for change in learned(known[middle:], first).changes:
        first.apply(change)

    def content(marks: KnownMarks) -> list[Any]:
        return [list(marks.select(kind)) for kind in range(7)]

    assert content(whole) == content(backwards) == content(first)
