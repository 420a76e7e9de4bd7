"""A room that is announced long after its creation: its start, or the same room again on another node."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from tests.support.cases import lk, person, pnm, room, seconds, session_of, timeline_of

OLD = {"sid": "RM_1", "name": "standup", "creationTime": "@s:0", "emptyTimeout": 3600}
"""A room as servers up to 1.3.1 describe it."""


def old(event: str, at: float, **fields: Any) -> dict[str, Any]:
    return lk(event, at, room=OLD, **fields)


AHEAD = [
    old("room_started", 2700),
    old("participant_joined", 2701, participant=person(joined=2701)),
    old("participant_left", 3301, participant=person(joined=2701)),
    old("room_finished", 3321),
]


async def test_a_room_created_in_advance_is_an_ordinary_session_in_any_order_of_its_events() -> None:
    for order in permutations(AHEAD):
        rows = await session_of("lk", list(order))
        session = rows.session
        assert (session.completeness, session.anomalies, session.start_provenance) == ("complete", [], "reported")
        assert (seconds(session.started_at), session.duration_ms, session.participants) == (0, 3_321_000, 1)
    entries = await timeline_of("lk", AHEAD)
    assert [each.kind for each in entries] == [
        "session.started", "participant.joined", "participant.left", "session.ended",
    ]  # fmt: skip
    assert entries[0].provenance == "reported"


async def test_an_old_room_with_earlier_participants_is_resumed_and_its_start_is_missing() -> None:
    before = old("participant_joined", 60, participant=person("PA_b", joined=60))
    entries = await timeline_of("lk", [before, *AHEAD])
    assert [each.kind for each in entries if each.kind.startswith("session.")] == [
        "session.started", "session.resumed", "session.ended",
    ]  # fmt: skip
    assert entries[0].provenance == "derived"
    rows = await session_of("lk", [before, *AHEAD])
    assert "missing_start" in {each.kind for each in rows.session.anomalies}


async def test_a_leave_alone_shows_that_a_person_was_there_before_the_announcement() -> None:
    left = old("participant_left", 3000, participant=person("PA_b", joined=60))
    rows = await session_of("lk", [*AHEAD, left])
    assert rows.session.start_provenance == "derived"


async def test_an_old_room_announced_at_once_and_again_is_started_and_resumed() -> None:
    events = [old("room_started", 0), *AHEAD]
    entries = await timeline_of("lk", events)
    assert [(each.kind, seconds(each.at)) for each in entries if each.kind.startswith("session.")] == [
        ("session.started", 0), ("session.resumed", 2700), ("session.ended", 3321),
    ]  # fmt: skip
    assert (await session_of("lk", events)).session.completeness == "complete"


async def test_an_old_room_created_in_advance_and_announced_twice_is_started_and_resumed() -> None:
    entries = await timeline_of("lk", [*AHEAD, old("room_started", 3000)])
    assert [(each.kind, seconds(each.at)) for each in entries if each.kind.startswith("session.")] == [
        ("session.started", 0), ("session.resumed", 3000), ("session.ended", 3321),
    ]  # fmt: skip


async def test_a_room_of_a_newer_server_announced_again_is_resumed_and_starts_once() -> None:
    again = lk("room_started", 60)
    events = [lk("room_started", 0), lk("participant_joined", 5, participant=person(joined=5)), again]
    entries = await timeline_of("lk", events)
    assert [each.kind for each in entries] == ["session.started", "participant.joined", "session.resumed"]


@pytest.mark.parametrize("hook", ["lk", "pnm"])
async def test_a_late_announcement_without_earlier_events_is_the_start(hook: str) -> None:
    if hook == "lk":
        events = [
            lk("room_started", 60),
            lk("participant_joined", 61, participant=person(joined=61)),
            lk("room_finished", 99),
        ]
    else:
        events = [pnm("room_started", 60), pnm("room_finished", 99)]
    rows = await session_of(hook, events)
    assert (seconds(rows.session.started_at), rows.session.start_provenance) == (0, "reported")
    assert "missing_start" not in {each.kind for each in rows.session.anomalies}


async def test_a_plugnmeet_room_that_livekit_announced_late_has_its_start() -> None:
    joined = pnm("participant_joined", 61, participant={"sid": "PA_a", "identity": "ana", "joined_at": "@s:61"})
    rows = await session_of("pnm", [pnm("room_created", 0), pnm("room_started", 60), joined])
    assert [each.kind for each in rows.session.anomalies] == []
    assert room()["sid"] == "RM_1"
