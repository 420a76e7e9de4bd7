"""Presence of people: connections, participants and the session agree in every case."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.cases import START, lk, person, pnm, project_deliveries, seconds, session_of, track
from tracker.demo.calls import SOURCES, VENDORS, whole_call
from tracker.domain import facts as f
from tracker.domain.rows import SessionRows
from tracker.projections.folding import fold
from tracker.projections.people import PERSON_KINDS, max_present
from tracker.projections.rendering import RenderContext, render
from tracker.projections.sourced_fact import SourcedFact
from tracker.projections.state import SessionState

S = 1_000_000


def agree(rows: SessionRows) -> None:
    """Assert that connections, participants and the session of these rows agree."""
    by_person: dict[str, list[Any]] = {person.id: [] for person in rows.participants}
    for row in rows.connections:
        by_person[row.participant].append(row)
        if row.joined_at is not None and row.left_at is not None:
            assert row.duration_ms == max(0, (row.left_at - row.joined_at) // 1000)
    counted = [each for each in rows.participants if each.kind in PERSON_KINDS and each.connections]
    for each in rows.participants:
        theirs = by_person[each.id]
        active = [row for row in theirs if not row.aborted]
        assert theirs
        assert each.connections == len(active)
        lengths = [row.duration_ms or 0 for row in active]
        assert max(lengths, default=0) <= each.presence_ms or each.last_left_at is None
        assert each.presence_ms <= sum(lengths)
        joins = [row.joined_at for row in active if row.joined_at is not None]
        if active:
            assert each.first_joined_at == min(joins, default=None)
    assert rows.session.participants == len(counted)
    assert rows.session.participant_ms == sum(each.presence_ms for each in counted)
    assert (rows.session.peak_participants > 0) == (rows.session.participants > 0)
    assert rows.session.peak_participants <= rows.session.participants
    moments = [row.joined_at for row in rows.connections if row.joined_at is not None and not row.aborted]
    ids = {each.id for each in counted}
    for at in moments:
        here = {
            row.participant
            for row in rows.connections
            if row.participant in ids and not row.aborted and row.joined_at is not None
            and (row.joined_at <= at and (row.left_at is None or at < row.left_at))
        }  # fmt: skip
        assert len(here) <= rows.session.peak_participants
    # Only those whose join is known are known to have met somebody.
    met = {row.participant for row in rows.connections if row.joined_at is not None and not row.aborted} & ids
    assert rows.session.peak_participants <= max(len(met), min(1, len(counted)))


# --- an abort after a reported join ------------------------------------------------------------------------------------

OVER = [lk("room_started", 0), lk("room_finished", 900)]
ABORTED = lk("participant_connection_aborted", 600, participant=person(joined=590, disconnectReason="STATE_MISMATCH"))


async def test_an_abort_after_a_reported_join_is_a_leave() -> None:
    rows = await session_of("lk", [*OVER, lk("participant_joined", 10, participant=person(joined=10)), ABORTED])
    (row,) = rows.connections
    assert (row.aborted, seconds(row.joined_at), seconds(row.left_at)) == (False, 10, 600)
    assert row.leave is not None
    assert (row.leave.reason, row.leave.vendor_reason, row.leave.provenance) == (
        "network_lost", "STATE_MISMATCH", "reported",
    )  # fmt: skip
    assert (rows.session.participants, rows.session.participant_ms, rows.session.completeness) == (
        1,
        590_000,
        "complete",
    )
    agree(rows)


async def test_an_abort_without_a_join_but_after_a_stream_is_a_leave_since_the_stream() -> None:
    published = lk("track_published", 20, participant=person(), track=track())
    rows = await session_of("lk", [*OVER, published, ABORTED])
    (row,) = rows.connections
    assert (row.aborted, seconds(row.joined_at), row.join_provenance) == (False, 20, "inferred")
    assert (rows.session.participants, rows.session.participant_ms, rows.session.completeness) == (
        1,
        580_000,
        "repaired",
    )
    assert [each.kind for each in rows.session.anomalies] == ["missing_end", "missing_start"]
    agree(rows)


async def test_an_abort_alone_is_nobody() -> None:
    rows = await session_of("lk", [*OVER, ABORTED])
    assert [row.aborted for row in rows.connections] == [True]
    assert (rows.session.participants, rows.session.peak_participants, rows.session.participant_ms) == (0, 0, 0)
    assert rows.session.completeness == "complete"
    agree(rows)


async def test_an_abort_without_a_reason_after_a_join_gives_no_reason() -> None:
    joined = lk("participant_joined", 10, participant=person(joined=10))
    aborted = lk("participant_connection_aborted", 600, participant=person(joined=590))
    rows = await session_of("lk", [*OVER, joined, aborted])
    assert rows.connections[0].leave is not None
    assert (rows.connections[0].leave.reason, rows.connections[0].leave.vendor_reason) == ("unknown", None)


async def test_a_failed_attempt_before_a_join_does_not_begin_the_presence() -> None:
    tried = lk("participant_connection_aborted", 20, participant=person("PA_1", 5, identity="ana"))
    joined = lk("participant_joined", 60, participant=person("PA_2", 60, identity="ana"))
    left = lk("participant_left", 100, participant=person("PA_2", 60, identity="ana"))
    rows = await session_of("lk", [*OVER, tried, joined, left])
    (ana,) = rows.participants
    assert (ana.connections, seconds(ana.first_joined_at), seconds(ana.last_left_at), ana.presence_ms) == (
        1,
        60,
        100,
        40_000,
    )
    agree(rows)


async def test_a_leave_that_states_a_join_later_than_the_persons_stream_begins_with_the_stream() -> None:
    published = lk("track_published", 20, participant=person(), track=track())
    left = lk("participant_left", 600, participant=person(joined=590))
    rows = await session_of("lk", [*OVER, published, left])
    (row,) = rows.connections
    assert (seconds(row.joined_at), row.join_provenance, rows.session.participant_ms) == (20, "inferred", 580_000)
    agree(rows)


@pytest.mark.parametrize("hook", ["lk", "pnm"])
async def test_a_person_known_only_by_a_leave_was_there_for_a_moment(hook: str) -> None:
    left = {"participant": {"sid": "PA_a", "identity": "a"}}
    events = [lk("participant_left", 50, **left)] if hook == "lk" else [pnm("participant_left", 50, **left)]
    rows = await session_of(hook, events)
    assert (rows.connections[0].joined_at, rows.participants[0].presence_ms) == (None, 0)
    assert (rows.session.participants, rows.session.peak_participants) == (1, 1)
    agree(rows)


@pytest.mark.parametrize("hook", ["lk", "pnm"])
async def test_a_person_known_only_by_a_leave_is_counted_but_does_not_raise_the_peak(hook: str) -> None:
    def sent(name: str, at: int, sid: str, **more: Any) -> Any:
        who = {"participant": {"sid": sid, "identity": sid.lower()} | more}
        return lk(name, at, **who) if hook == "lk" else pnm(name, at, **who)

    events = [
        sent("participant_joined", 10, "PA_a"),
        sent("participant_left", 50, "PA_b"),
        sent("participant_left", 50, "PA_c"),
    ]
    rows = await session_of(hook, events)
    assert (rows.session.participants, rows.session.peak_participants) == (3, 1)
    agree(rows)


async def test_a_person_who_leaves_in_the_second_of_the_join_is_counted() -> None:
    rows = await session_of(
        "lk",
        [*OVER, *(lk(f"participant_{what}", 10, participant=person(joined=10)) for what in ("joined", "left"))],
    )
    assert (rows.session.participants, rows.session.peak_participants, rows.session.participant_ms) == (1, 1, 0)


async def test_a_connection_that_joins_again_under_its_id_is_there_again() -> None:
    """A migration: the old node reports the leave, the new one the join."""
    events = [
        lk("room_started", 0),
        lk("participant_joined", 10, participant=person(joined=10)),
        lk("participant_left", 300, participant=person(joined=10, disconnectReason="MIGRATION")),
        lk("participant_joined", 301, participant=person(joined=301)),
    ]
    rows = await session_of("lk", events)
    assert (rows.connections[0].left_at, rows.session.state, rows.session.peak_participants) == (None, "open", 1)
    events += [lk("participant_left", 500, participant=person(joined=301)), lk("room_finished", 520)]
    for order in (events, events[::-1]):
        rows = await session_of("lk", order)
        assert (rows.session.participant_ms, rows.session.completeness) == (490_000, "complete")
        agree(rows)


async def test_a_connection_whose_first_join_was_lost_is_there_again_after_it_left_and_joined() -> None:
    left = lk("participant_left", 300, participant=person(joined=10, disconnectReason="MIGRATION"))
    rows = await session_of(
        "lk", [lk("room_started", 0), left, lk("participant_joined", 301, participant=person(joined=301))]
    )
    assert (rows.connections[0].left_at, rows.session.state) == (None, "open")


async def test_a_join_after_an_abort_under_the_same_id_is_there() -> None:
    aborted = lk("participant_connection_aborted", 20, participant=person(joined=15))
    joined = lk("participant_joined", 30, participant=person(joined=30))
    for order in ([aborted, joined], [joined, aborted]):
        rows = await session_of("lk", [lk("room_started", 0), *order])
        assert (rows.connections[0].aborted, rows.connections[0].left_at) == (False, None)
        assert (rows.session.participants, rows.session.peak_participants) == (1, 1)


async def test_a_join_sent_again_after_a_leave_with_its_old_time_does_not_reopen_the_connection() -> None:
    """Servers before 1.4.4 send a join again when a connection resumes."""
    events = [
        lk("participant_joined", 10, participant=person(joined=10)),
        lk("participant_left", 30, participant=person(joined=10)),
        lk("participant_joined", 25, participant=person(joined=10), id="EV_again"),
    ]
    rows = await session_of("lk", [*OVER, *events])
    assert seconds(rows.connections[0].left_at) == 30


def test_people_who_leave_and_join_at_one_moment_do_not_meet_but_those_of_a_moment_do() -> None:
    assert max_present([[(0, 5)], [(5, 9)]]) == 1
    assert max_present([[(5, 5)], [(5, 9)]]) == 2
    assert max_present([[(0, 5)], [(5, 5)]]) == 1
    assert max_present([[(0, None)], [(3, 3)], [(3, 3)]]) == 3
    assert max_present([]) == 0


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("seed", range(6))
async def test_what_is_left_of_a_call_after_losses_makes_rows_that_agree(vendor: str, seed: int) -> None:
    chance = random.Random(seed)
    call = whole_call(vendor, START * S, seed=seed)
    left = [each for each in call if chance.random() > seed / 8]
    views = await project_deliveries(SOURCES[vendor], chance.sample(left, len(left)))
    for rows in views.sessions.values():
        agree(rows)


# --- random histories --------------------------------------------------------------------------------------------------

PEOPLE = st.sampled_from(["ana", "bo", "cy"])
MOMENTS = st.integers(1, 13).map(lambda second: second * S)


@st.composite
def connection_facts(draw: st.DrawFn) -> f.Fact:
    who, at = draw(PEOPLE), draw(MOMENTS)
    kind = draw(st.sampled_from([f.ParticipantJoined, f.ParticipantLeft, f.ParticipantConnectionAborted]))
    keyed = draw(st.booleans())
    return kind(
        at=at,
        place=f.SessionRef(at=at, run="R", room="room", starts_at=draw(st.sampled_from([None, None, S, 9 * S]))),
        clock=draw(st.sampled_from(["server", "server", "receiver"])),
        connection=who if keyed else f"{who}-{draw(st.integers(1, 2))}",
        identity=draw(st.sampled_from([who, who, None])),
        person=draw(st.sampled_from(["standard", "standard", "sip", "agent", "hidden"])),
        joined_at=draw(st.one_of(st.none(), MOMENTS)) if kind is not f.ParticipantJoined or keyed else at,
        keyed_by_join=keyed,
        reason=draw(st.sampled_from([None, "left", "join_failed"])),
    )


@st.composite
def stream_facts(draw: st.DrawFn) -> f.Fact:
    who, at = f"{draw(PEOPLE)}-{draw(st.integers(1, 3))}", draw(MOMENTS)
    place = f.SessionRef(at=at, run="R", room="room")
    if draw(st.booleans()):
        kind = draw(st.sampled_from([f.StreamPublished, f.StreamUnpublished]))
        return kind(at=at, place=place, stream=f"s-{who}", connection=who)
    received = draw(st.sampled_from([f.SubscriptionStarted, f.SubscriptionEnded]))
    return received(at=at, place=place, stream="s", connection=who, started_at=draw(st.one_of(st.none(), MOMENTS)))


@st.composite
def session_facts(draw: st.DrawFn) -> f.Fact:
    at = draw(MOMENTS)
    kind = draw(st.sampled_from([f.SessionStarted, f.SessionEnded, f.SessionCreated, f.SessionResumed]))
    return kind(at=at, place=f.SessionRef(at=at, run="R", room="room"), started_at=draw(st.one_of(st.none(), MOMENTS)))


HISTORIES = st.lists(
    st.one_of(connection_facts(), connection_facts(), stream_facts(), session_facts()), min_size=1, max_size=14
)


def rendered(history: list[f.Fact], order: list[int], context: RenderContext) -> SessionRows:
    state = SessionState(source="s", vendor="v", run="R")
    for n in order:
        fold(state, SourcedFact(history[n], n + 1, 0, "s", "v", f"k{n}", 20 * S))
    return render(state, context)


@settings(max_examples=300, deadline=None)
@given(
    history=HISTORIES,
    data=st.data(),
    rules=st.builds(f.RunRules, tolerance=st.sampled_from([0, 5 * S]), room_is_person=st.booleans()),
    next_start=st.sampled_from([None, 8 * S]),
)
def test_any_history_in_any_order_makes_rows_that_agree(
    history: list[f.Fact], data: st.DataObject, rules: f.RunRules, next_start: int | None
) -> None:
    context = RenderContext(rules=rules, next_start=next_start, latest=20 * S)
    rows = rendered(history, list(range(len(history))), context)
    agree(rows)
    order = data.draw(st.permutations(range(len(history))))
    repeats = data.draw(st.lists(st.sampled_from(range(len(history))), max_size=3))
    again = rendered(history, [*order, *repeats], context)
    for name in ("participants", "connections", "streams"):
        assert getattr(again, name) == getattr(rows, name)
    assert again.session == rows.session
