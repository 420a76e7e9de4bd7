"""Joins and leaves of ids that are used again, and what a summary fills in: the same in any order."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.domain import facts as f
from tracker.domain.facts import RunRules, SessionRef
from tracker.projections.folding import fold
from tracker.projections.rendering import RenderContext, render
from tracker.projections.sourced_fact import SourcedFact
from tracker.projections.state import SessionState, decode_state

S = 1_000_000
T = 1_790_000_000 * S
PLACE = SessionRef(at=T, run="R", room="room")
CONTEXT = RenderContext(rules=RunRules())

Visit = tuple[Any, ...]


def joined(second: float, connection: str = "w1", identity: str | None = "ana", **more: Any) -> f.Fact:
    at = T + round(second * S)
    return f.ParticipantJoined(at=at, place=PLACE, connection=connection, identity=identity, reuses_id=True, **more)


def left(second: float, connection: str = "w1", identity: str | None = "ana", **more: Any) -> f.Fact:
    at = T + round(second * S)
    return f.ParticipantLeft(
        at=at, place=PLACE, connection=connection, identity=identity, reuses_id=True, reason="left", **more
    )


def stated(since: float | None, until: float | None, identity: str = "ana", connection: str = "") -> f.Fact:
    return f.ParticipantAttended(
        at=T + 2_000 * S, place=PLACE, connection=connection, identity=identity, reuses_id=True, reason="left",
        joined_at=None if since is None else T + round(since * S), left_at=None if until is None else T + round(until * S),
    )  # fmt: skip


def ended(second: float) -> f.Fact:
    return f.SessionEnded(at=T + round(second * S), place=PLACE, reason="normal")


def visits(*found: f.Fact, order: random.Random | None = None) -> list[Visit]:
    """(participant, joined, by, left, by), seconds after T, of every connection."""
    items = [SourcedFact(fact, n + 1, 0, "s", "v", f"{n:04}", fact.at) for n, fact in enumerate(found)]
    if order is not None:
        items += order.sample(items, k=len(items) // 2)
        order.shuffle(items)
    state = SessionState("s", "v", "R")
    for item in items:
        fold(state, item)
    return [
        (
            row.participant,
            None if row.joined_at is None else (row.joined_at - T) / S, row.join_provenance,
            None if row.left_at is None else (row.left_at - T) / S, None if row.leave is None else row.leave.provenance,
        )
        for row in render(state, CONTEXT).connections
    ]  # fmt: skip


def test_somebody_who_left_and_came_back_was_away_in_between() -> None:
    assert visits(joined(0), left(100), joined(160), left(300)) == [
        ("ana", 0, "reported", 100, "reported"), ("ana", 160, "reported", 300, "reported"),
    ]  # fmt: skip


def test_a_join_reported_twice_is_one_visit() -> None:
    assert visits(joined(0), joined(0.4), left(100), left(100.2)) == [("ana", 0, "reported", 100, "reported")]


def test_a_lost_leave_ends_at_the_next_join() -> None:
    assert visits(joined(0), joined(160), left(300)) == [
        ("ana", 0, "reported", 160, "inferred"), ("ana", 160, "reported", 300, "reported"),
    ]  # fmt: skip


def test_a_leave_alone_is_a_visit_without_a_start() -> None:
    assert visits(left(100)) == [("ana", None, None, 100, "reported")]


def test_a_leave_and_a_join_at_one_moment_are_in_the_order_that_makes_sense() -> None:
    assert visits(joined(0), left(100), joined(100), left(200)) == [
        ("ana", 0, "reported", 100, "reported"), ("ana", 100, "reported", 200, "reported"),
    ]  # fmt: skip
    assert visits(joined(50), left(50)) == [("ana", 50, "reported", 50, "reported")]


def test_a_leave_after_the_end_is_a_leave_at_the_end() -> None:
    assert visits(joined(0), ended(500), left(503)) == [("ana", 0, "reported", 500, "derived")]
    assert visits(joined(0), ended(500), stated(None, 503, connection="w1")) == [("ana", 0, "reported", 500, "derived")]


def test_a_made_up_leave_does_not_replace_the_one_that_was_reported() -> None:
    assert visits(joined(0), left(100), ended(500), stated(None, 500, connection="w1")) == [
        ("ana", 0, "reported", 100, "reported")
    ]


def test_a_summary_fills_in_what_was_lost() -> None:
    assert visits(joined(0), stated(0, 100)) == [("ana", 0, "reported", 100, "derived")]
    assert visits(left(100), stated(0, 100)) == [("ana", 0, "derived", 100, "reported")]
    assert visits(stated(0, 100)) == [("ana", 0, "derived", 100, "derived")]


def test_a_summary_never_replaces_what_was_reported() -> None:
    assert visits(joined(3), left(95), stated(0, 100)) == [("ana", 3, "reported", 95, "reported")]


def test_of_two_devices_the_lost_leave_is_the_one_that_no_event_reported() -> None:
    found = visits(joined(10, "w1"), joined(12, "w2"), left(100, "w2"), stated(10, 100), stated(12, 200))
    assert found == [("ana", 10, "reported", 200, "derived"), ("ana", 12, "reported", 100, "reported")]


def test_a_summary_knows_a_visit_of_which_nothing_arrived() -> None:
    found = visits(joined(0), left(100), stated(0, 100), stated(160, 300))
    assert found == [("ana", 0, "reported", 100, "reported"), ("ana", 160, "derived", 300, "derived")]


def test_people_are_filled_in_by_their_own_identity_only() -> None:
    found = visits(joined(0, "w1", "ana"), joined(5, "w2", "ben"), stated(5, 90, "ben"))
    assert found == [("ana", 0, "reported", None, None), ("ben", 5, "reported", 90, "derived")]


def test_somebody_without_an_identity_is_the_connection() -> None:
    assert visits(joined(0, identity=None), left(9, identity=None)) == [("w1", 0, "reported", 9, "reported")]


MOMENTS = st.integers(0, 40).map(lambda n: n * 15.0)
EVENTS = st.lists(
    st.one_of(
        st.builds(joined, MOMENTS, st.sampled_from(["w1", "w2"])),
        st.builds(left, MOMENTS, st.sampled_from(["w1", "w2"])),
        st.builds(stated, MOMENTS | st.none(), MOMENTS | st.none()),
        st.builds(stated, st.none(), MOMENTS, connection=st.just("w1")),
        st.builds(ended, MOMENTS),
    ),
    max_size=12,
)


@given(EVENTS, st.integers(0, 2**32))
def test_order_and_repeats_change_nothing(events: list[f.Fact], seed: int) -> None:
    assert visits(*events, order=random.Random(seed)) == visits(*events)


@given(EVENTS)
def test_every_reported_join_and_first_leave_remains(events: list[f.Fact]) -> None:
    found = visits(*events)
    starts = {at for _, at, by, _, _ in found if by == "reported"}
    assert starts == {(fact.at - T) / S for fact in events if isinstance(fact, f.ParticipantJoined)}
    assert all(since is None or until is None or since <= until for _, since, _, until, _ in found)


@given(EVENTS, st.integers(0, 12))
def test_states_of_two_parts_merged_are_the_state_of_all(events: list[f.Fact], cut: int) -> None:
    items = [SourcedFact(fact, n + 1, 0, "s", "v", f"{n:04}", fact.at) for n, fact in enumerate(events)]
    whole, first, second = (SessionState("s", "v", "R") for _ in range(3))
    for n, item in enumerate(items):
        fold(whole, item)
        fold(first if n < cut else second, item)
    first.merge(second)
    if items:
        assert render(first, CONTEXT).connections == render(whole, CONTEXT).connections


@pytest.mark.parametrize("person", ["standard", "sip"])
def test_the_kind_of_a_person_is_kept(person: str) -> None:
    state = SessionState("s", "v", "R")
    for n, fact in enumerate((joined(0, person=person), left(9, person=person))):
        fold(state, SourcedFact(fact, n + 1, 0, "s", "v", str(n), fact.at))
    assert [row.kind for row in render(state, CONTEXT).participants] == [person]


def test_a_join_that_was_rendered_before_its_leave_arrived_is_paired_with_it() -> None:
    state = SessionState("s", "v", "R")
    for n, fact in enumerate((joined(0), left(9))):
        fold(state, SourcedFact(fact, n + 1, 0, "s", "v", str(n), fact.at))
        rows = render(state, CONTEXT)
        state = decode_state(rows.state)
    assert [(row.join_provenance, row.left_at) for row in rows.connections] == [("reported", T + 9 * S)]
