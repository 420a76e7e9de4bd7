"""A crash that is noticed after its room was opened again ended the run before, whatever arrives later and in whatever order."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from tests.support.cases import START, project, seconds
from tracker.domain.rows import SessionRows


def ms(at: float) -> int:
    return round((START + at) * 1000)


def created(at: float) -> dict[str, Any]:
    return {"event": "sessionCreated", "sessionId": "S", "uniqueSessionId": f"S_{at}", "timestamp": ms(at)}


def joined(at: float, run: float, connection: str) -> dict[str, Any]:
    return {
        "event": "participantJoined", "sessionId": "S", "uniqueSessionId": f"S_{run}", "timestamp": ms(at),
        "connectionId": connection, "participantId": connection, "location": "x", "platform": "x",
    }  # fmt: skip


def crashed(at: float, **more: Any) -> dict[str, Any]:
    return {"event": "nodeCrashed", "timestamp": ms(at), "id": "media-1", "sessionIds": ["S"]} | more


async def runs(*messages: dict[str, Any]) -> list[SessionRows]:
    views = await project("ov", list(messages))
    return sorted(views.sessions.values(), key=lambda rows: rows.session.begins_at)


def outcome(rows: SessionRows) -> tuple[Any, ...]:
    end = rows.session.end
    return (None, None) if end is None else (end.reason, seconds(rows.session.ended_at))


FIRST = [created(0), joined(1, 0, "con_A"), created(100)]


@pytest.mark.parametrize("more", [[], [joined(105, 100, "con_B")], [joined(130, 100, "con_B")]])
async def test_it_does_not_end_the_run_that_was_opened_meanwhile(more: list[dict[str, Any]]) -> None:
    for order in permutations([*FIRST, crashed(110), *more]):
        before, after = await runs(*order)
        assert outcome(before)[0] == "server_failure"
        assert outcome(after) == (None, None)


async def test_after_a_reported_end_of_the_run_before_it_is_the_new_runs_crash() -> None:
    destroyed = {
        "event": "sessionDestroyed",
        "sessionId": "S",
        "uniqueSessionId": "S_0",
        "timestamp": ms(90),
        "startTime": ms(0),
        "duration": 90,
        "reason": "lastParticipantLeft",
    }
    for order in permutations([*FIRST, destroyed, crashed(110)]):
        before, after = await runs(*order)
        assert outcome(before) == ("normal", 90)
        assert outcome(after) == ("server_failure", 110)


async def test_the_time_of_a_crash_says_which_run_it_was() -> None:
    for order in permutations([*FIRST, crashed(110, timeOfDisconnection=ms(105))]):
        before, after = await runs(*order)
        assert outcome(after)[0] == "server_failure"
        assert outcome(before)[0] == "superseded"


async def test_long_after_the_new_start_it_is_the_new_runs_crash() -> None:
    before, after = await runs(*FIRST, crashed(900))
    assert (outcome(before)[0], outcome(after)[0]) == ("superseded", "server_failure")
