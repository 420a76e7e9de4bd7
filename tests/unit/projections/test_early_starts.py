"""Impossible starts: before the session, or long before the event that reports them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.cases import START, iso, lk, person, pnm, room, seconds, session_of, timeline_of
from tracker.domain import facts as f
from tracker.projections.early_starts import MIN_TOLERANCE
from tracker.projections.folding import fold
from tracker.projections.rendering import RenderContext, render
from tracker.projections.sourced_fact import SourcedFact
from tracker.projections.state import SessionState

S = 1_000_000
LATE = room(created=1500)


def moved(event: str, at: float, joined: float = 60, **more: Any) -> dict[str, Any]:
    return lk(event, at, room=LATE, participant=person("PA_m", joined, **more))


FRAME = [lk("room_started", 1500, room=LATE), lk("room_finished", 2420, room=LATE)]


async def test_a_moved_participant_joins_when_the_join_is_sent() -> None:
    rows = await session_of("lk", [*FRAME, moved("participant_joined", 1800), moved("participant_left", 2400)])
    assert seconds(rows.connections[0].joined_at) == 1800
    assert (rows.session.participant_ms, [each.kind for each in rows.session.anomalies]) == (600_000, ["early_start"])


async def test_a_participant_moved_into_a_room_older_than_their_join_joins_when_the_join_is_sent() -> None:
    events = [lk("room_started", 0), lk("room_finished", 2420)]
    events += [
        lk(f"participant_{what}", at, participant=person(joined=60)) for what, at in (("joined", 1800), ("left", 2400))
    ]
    rows = await session_of("lk", events)
    assert (seconds(rows.connections[0].joined_at), rows.session.participant_ms) == (1800, 600_000)


async def test_a_lone_leave_of_a_moved_participant_counts_from_the_rooms_start() -> None:
    rows = await session_of("lk", [*FRAME, moved("participant_left", 2400)])
    (row,) = rows.connections
    assert (seconds(row.joined_at), row.join_provenance) == (1500, "inferred")
    assert rows.session.participant_ms == 900_000
    assert {each.kind for each in rows.session.anomalies} == {"early_start", "missing_start"}


async def test_a_join_that_took_half_a_minute_is_as_old_as_it_states() -> None:
    rows = await session_of(
        "lk",
        [lk("room_started", 0), lk("participant_joined", 40, participant=person(joined=10)), lk("room_finished", 99)],
    )
    assert seconds(rows.connections[0].joined_at) == 10
    assert "early_start" not in {each.kind for each in rows.session.anomalies}


async def test_a_participant_of_plugnmeet_joins_no_room_before_it_was_created() -> None:
    made = {"room": {"sid": "0000-1", "room_id": "room01", "creation_time": "@s:1500"}}
    events = [
        pnm("room_created", 1500, **made), pnm("room_started", 1500, **made),
        pnm("participant_joined", 1800, participant={"sid": "PA_m", "identity": "dana", "joined_at": "@s:60"}, **made),
        pnm("participant_left", 2400, participant={"sid": "PA_m", "identity": "dana", "joined_at": "@s:60"}, **made),
        pnm("session_ended", 2420, **made),
    ]  # fmt: skip
    rows = await session_of("pnm", events)
    assert (rows.session.participant_ms, [each.kind for each in rows.session.anomalies]) == (600_000, ["early_start"])


async def test_an_ingress_that_states_a_start_of_another_day_starts_with_its_event() -> None:
    info = {"ingressId": "IN_1", "roomName": "standup", "state": {"roomId": "RM_1", "startedAt": "@ns:-80000"}}
    started = lk(
        "ingress_started",
        100,
        ingressInfo=info | {"state": {"roomId": "RM_1", "startedAt": f"{START - 80_000}000000000"}},
    )
    entries = await timeline_of("lk", [lk("room_started", 0), started])
    assert [(each.kind, seconds(each.at)) for each in entries] == [("session.started", 0), ("ingress.started", 100)]


async def test_a_recording_that_began_before_its_streamrec_session_is_cut_to_the_session() -> None:
    uploaded = {
        "status": "upload_ready", "rec_id": "R1", "client_id": "agent", "recording_started_at": iso(-500),
        "recording_stopped_at": iso(90), "received": 101,
    }  # fmt: skip
    finished = {
        "status": "session_finished",
        "client_id": "agent",
        "started_at": iso(0),
        "stopped_at": iso(100),
        "received": 100,
    }
    rows = await session_of("rec", [(uploaded, {"sid": "S1"}), (finished, {"sid": "S1"})])
    (recording,) = rows.recordings
    assert (seconds(recording.started_at), seconds(recording.stopped_at)) == (0, 90)
    assert [each.kind for each in rows.session.anomalies] == ["early_start"]


@pytest.mark.parametrize("early", [1, 4])
async def test_a_start_a_few_seconds_before_the_session_is_shown_as_stated(early: int) -> None:
    """Times are cut to the second, and the clocks of a deployment differ."""
    made = room(created=10)
    events = [
        lk("room_started", 10, room=made),
        lk("participant_left", 90, room=made, participant=person(joined=10 - early)),
    ]
    rows = await session_of("lk", [*events, lk("room_finished", 99, room=made)])
    assert seconds(rows.connections[0].joined_at) == 10 - early
    assert "early_start" not in {each.kind for each in rows.session.anomalies}


async def test_a_session_whose_start_is_only_an_arrival_bounds_nothing() -> None:
    started = {"type": "session_start", "client_id": "agent", "session_id": "S1", "received": 500}
    uploaded = {
        "status": "upload_ready", "rec_id": "R1", "client_id": "agent", "session_id": "S1", "recording_started_at": iso(10),
        "recording_stopped_at": iso(90), "received": 501,
    }  # fmt: skip
    rows = await session_of("rec", [started, uploaded])
    assert seconds(rows.recordings[0].started_at) == 10


PLACE = {"at": S, "run": "R", "room": "room"}
MOMENTS = st.integers(1, 60).map(lambda second: second * S)


@st.composite
def ends(draw: st.DrawFn) -> f.Fact:
    began, at = sorted((draw(MOMENTS), draw(MOMENTS)))
    place, name = f.SessionRef(**PLACE), draw(st.sampled_from("ab"))
    return draw(
        st.sampled_from(
            [
                f.ParticipantLeft(at=at, place=place, connection=name, joined_at=began),
                f.StreamUnpublished(at=at, place=place, stream=name, started_at=began),
                f.SubscriptionEnded(at=at, place=place, stream=name, connection=name, started_at=began),
                f.RecordingReady(at=at, place=place, recording=name, started_at=began, stopped_at=at),
                f.SupervisorSessionEnded(at=at, place=place, activity=name, started_at=began),
            ]
        )
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(ends(), min_size=1, max_size=8), MOMENTS)
def test_nothing_starts_before_its_session(drawn: list[f.Fact], began: int) -> None:
    state = SessionState(source="s", vendor="v", run="R")
    history = [f.SessionStarted(at=began, place=f.SessionRef(**PLACE)), *drawn]
    for n, fact in enumerate(history):
        fold(state, SourcedFact(fact, n + 1, 0, "s", "v", f"k{n}", 0))
    rows = render(state, RenderContext(rules=f.RunRules()))
    starts = [row.joined_at for row in rows.connections] + [
        row.started_at for rows_of in (rows.streams, rows.recordings, rows.supervisor_sessions) for row in rows_of
    ]
    ended = [fact.at for fact in drawn]
    for start in starts:
        # An interval that ended before the session has length zero.
        assert start is None or start >= began - MIN_TOLERANCE or start in ended
