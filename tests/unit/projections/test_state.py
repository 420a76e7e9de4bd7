"""A track, ingress or session that starts again after its end is running; a repeat of its start is no new start."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.support.cases import iso, lk, person, pnm, seconds, session_of, timeline_of, track
from tracker.projections.claims import Claim
from tracker.projections.state import Interval

S = 1_000_000
JOINED = [lk("room_started", 0), lk("participant_joined", 10, participant=person(joined=10))]


def published(at: float, version: float | None = None, **more: Any) -> dict[str, Any]:
    return lk("track_published", at, participant=person(), track=track(version), **more)


def unpublished(at: float, version: float | None = None) -> dict[str, Any]:
    return lk("track_unpublished", at, participant=person(), track=track(version))


async def test_a_track_published_again_under_its_id_runs_in_whatever_order_the_events_come() -> None:
    events = [*JOINED, published(30), unpublished(100), published(101)]
    for order in (events, events[::-1], [*events, events[2]]):
        rows = await session_of("lk", order)
        (stream,) = rows.streams
        assert (seconds(stream.started_at), stream.ended_at, stream.end) == (30, None, None)
        assert rows.session.state == "open"


async def test_a_track_published_again_ends_with_its_person_if_its_second_end_is_lost() -> None:
    over = [lk("participant_left", 200, participant=person(joined=10)), lk("room_finished", 220)]
    rows = await session_of("lk", [*JOINED, published(30), unpublished(100), published(101), *over])
    (stream,) = rows.streams
    assert stream.end is not None
    assert (seconds(stream.ended_at), stream.end.provenance, rows.session.completeness) == (200, "inferred", "repaired")


async def test_a_repeated_publication_of_the_same_moment_does_not_reopen_a_track() -> None:
    rows = await session_of("lk", [*JOINED, published(30, 30.5), unpublished(31), published(30, 30.5, id="EV_other")])
    assert seconds(rows.streams[0].ended_at) == 31


async def test_a_publication_alone_that_is_stamped_after_its_end_does_not_outlive_it() -> None:
    rows = await session_of("lk", [*JOINED, published(102), unpublished(100)])
    assert seconds(rows.streams[0].ended_at) == 100
    assert "end_before_start" in {each.kind for each in rows.session.anomalies}


def ingress(event: str, at: float) -> dict[str, Any]:
    return lk(
        event,
        at,
        ingressInfo={"ingressId": "IN_1", "roomName": "standup", "reusable": True, "state": {"roomId": "RM_1"}},
    )


async def test_a_reusable_ingress_that_starts_again_is_running() -> None:
    events = [*JOINED, ingress("ingress_started", 20), ingress("ingress_ended", 40), ingress("ingress_started", 50)]
    over = [lk("participant_left", 90, participant=person(joined=10)), lk("room_finished", 100)]
    assert (await session_of("lk", [*events, *over])).session.completeness == "repaired"
    ended = [*events, ingress("ingress_ended", 60), *over]
    for order in (ended, ended[::-1]):
        assert (await session_of("lk", order)).session.completeness == "complete"


async def test_a_persons_speech_to_text_that_starts_again_is_running() -> None:
    def speech(what: str, at: float) -> dict[str, Any]:
        return pnm(f"speech_to_text_session_{what}", at, speech_service={"user_id": "ana"})

    over = [pnm("session_ended", 100), pnm("room_created", 0), pnm("room_started", 0)]
    events = [speech("started", 10), speech("ended", 20), speech("started", 30)]
    assert (await session_of("pnm", [*events, *over])).session.completeness == "repaired"
    assert (await session_of("pnm", [*events, speech("ended", 40), *over])).session.completeness == "complete"


async def test_a_message_that_arrives_after_the_end_it_precedes_reopens_no_supervisors_session() -> None:
    """A relayed message is as old as its arrival: no clock of the sender shows that it came later."""
    joined = {
        "type": "supervisor_join_session",
        "session_id": "SV",
        "client_id": "boss",
        "data": {"session_id_to_monitor": "S1"},
    }
    over = {
        "status": "supervisor_session_finished", "supervisor_session_id": "SV", "agent_session_id": "S1",
        "agent_client_id": "agent", "started_at": iso(10), "stopped_at": iso(20),
    }  # fmt: skip
    rows = await session_of("rec", [over | {"received": 21}, joined | {"received": 30}])
    (row,) = rows.supervisor_sessions
    assert (seconds(row.started_at), seconds(row.ended_at)) == (10, 20)


async def test_a_room_of_an_old_server_that_is_announced_again_shows_each_start_once() -> None:
    entries = await timeline_of("lk", [*JOINED, published(30), unpublished(100), published(101)])
    assert [each.kind for each in entries] == [
        "session.started", "participant.joined", "stream.published", "stream.unpublished", "stream.published",
    ]  # fmt: skip


def claim(at: int, key: str) -> Claim:
    return Claim(at * S, "reported", "server", key, 0, 1)


@given(
    starts=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    ends=st.lists(st.integers(1, 9), max_size=4),
    data=st.data(),
)
def test_a_thing_runs_if_its_last_start_is_another_than_its_first_and_later_than_its_last_end(
    starts: list[int], ends: list[int], data: st.DataObject
) -> None:
    claims = [(True, at, f"s{n}") for n, at in enumerate(starts)] + [(False, at, f"e{n}") for n, at in enumerate(ends)]
    shuffled = data.draw(st.permutations(claims))
    cut = data.draw(st.integers(0, len(shuffled)))
    parts = [Interval(), Interval()]
    for n, (begins, at, key) in enumerate([*shuffled, *shuffled[:2]]):
        part = parts[0 if n < cut else 1]
        if begins:
            part.claim_start(claim(at, key))
        else:
            part.claim_end(claim(at, key))
    parts[0].merge(parts[1])
    has_restarted = max(starts) > min(starts) and max(starts) > max(ends, default=0)
    assert (parts[0].final_end is None) == (not ends or has_restarted)
    assert json.dumps([parts[0].start and parts[0].start.at]) == json.dumps([min(starts) * S])
