"""An inferred end is never earlier than a sign of life, and life reopens a session."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tests.support.cases import Message, lk, person, project, room, seconds, track
from tracker.domain.rows import SessionRows

PUBLISHER = {"sid": "PA_a", "identity": "a"}
NEXT = {"room": room("RM_2", 200)}
STARTED = [lk("room_started", 0), lk("participant_joined", 5, participant=person("PA_a", 5))]


async def runs(messages: list[Message]) -> Iterator[SessionRows]:
    """The first run after these deliveries, in several orders and twice."""
    found: list[SessionRows] = []
    for seed in range(4):
        chance = random.Random(seed)
        order = chance.sample(messages, len(messages)) if seed else messages
        views = await project("lk", [*order, *chance.sample(messages, 2)])
        found.append(views.sessions["lk:RM_1"])
    return iter(found)


async def test_a_run_that_the_next_one_follows_a_day_later_ended_at_its_last_sign_of_life() -> None:
    lost = [*STARTED, lk("track_published", 30, participant=PUBLISHER, track=track(30))]
    for rows in await runs([*lost, lk("room_started", 86_400, room=room("RM_2", 86_400))]):
        end = rows.session.end
        assert end is not None
        assert (seconds(rows.session.ended_at), end.reason, end.provenance) == (30, "superseded", "inferred")
        assert seconds(end.not_after) == 86_400
        assert [seconds(each.left_at) for each in rows.connections] == [30]


async def test_a_run_goes_on_while_somebody_in_it_does_something_after_the_next_start() -> None:
    alive = [
        *STARTED,
        lk("room_started", 200, **NEXT),
        lk("track_published", 240, participant=PUBLISHER, track=track(240)),
    ]
    for rows in await runs(alive):
        assert rows.session.state == "open"
    left = lk("participant_left", 300, participant=person("PA_a", 5))
    for rows in await runs([*alive, left]):
        assert (seconds(rows.session.ended_at), rows.session.participant_ms) == (300, 295_000)


async def test_a_join_after_the_reported_end_reopens_a_session_and_a_late_leave_does_not() -> None:
    over = [*STARTED, lk("room_finished", 60)]
    late = [lk("participant_left", 63, participant=person("PA_a", 5))]
    for rows in await runs([*over, *late]):
        assert seconds(rows.session.ended_at) == 60
    again = lk("participant_joined", 62, participant=person("PA_b", 62))
    for rows in await runs([*over, *late, again]):
        assert rows.session.state == "open"
        assert [seconds(each.at) for each in rows.gaps if each.kind == "session.resumed"] == [62]
        assert "late_event" in {each.kind for each in rows.session.anomalies}
