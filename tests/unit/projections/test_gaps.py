"""The timeline shows start and end of a broadcast once, with any lost events and in any order of arrival."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from tests.support.cases import lk, pnm, seconds, session_of, timeline_of

FAILED = {
    "url": "rtmp://b.example/app/KEY",
    "status": "FAILED",
    "error": "broken pipe",
    "startedAt": "@ns:11.5",
    "endedAt": "@ns:70",
}
ACTIVE = {"url": "rtmp://a.example/app/KEY", "startedAt": "@ns:11.5"}


def egress(event: str, at: float, *targets: dict[str, Any], **info: Any) -> dict[str, Any]:
    request = {"roomComposite": {"roomName": "standup", "streamOutputs": [{"urls": ["rtmp://a.example/app/KEY"]}]}}
    about = {"egressId": "EG_1", "roomId": "RM_1", "roomName": "standup", "streamResults": list(targets)} | request
    return lk(event, at, egressInfo=about | info)


STARTED = egress("egress_started", 10)
UPDATES = [
    egress("egress_updated", 12, ACTIVE, status="EGRESS_ACTIVE", startedAt="@ns:11"),
    egress("egress_updated", 70, ACTIVE, FAILED, status="EGRESS_ACTIVE", startedAt="@ns:11"),
    egress("egress_updated", 300, ACTIVE, FAILED, status="EGRESS_ENDING", startedAt="@ns:11"),
]
ENDED = egress("egress_ended", 302, ACTIVE, FAILED, status="EGRESS_COMPLETE", startedAt="@ns:11", endedAt="@ns:301")
ROOM = [lk("room_started", 0), lk("room_finished", 320)]


async def broadcast(events: list[dict[str, Any]]) -> list[tuple[str, float | None, str]]:
    entries = await timeline_of("lk", [*ROOM, *events])
    return [
        (each.kind.removeprefix("broadcast."), seconds(each.at), each.provenance)
        for each in entries
        if each.kind.startswith("broadcast.")
    ]


async def test_many_updates_are_one_start_and_one_stop_in_any_order() -> None:
    for order in permutations([STARTED, UPDATES[1], UPDATES[2], ENDED]):
        assert await broadcast(list(order)) == [
            ("started", 10, "reported"), ("updated", 70, "reported"), ("updated", 300, "reported"), ("stopped", 301, "reported"),
        ]  # fmt: skip
        assert (await session_of("lk", [*ROOM, *order])).session.completeness == "complete"


async def test_a_target_that_failed_is_shown_with_its_error_and_without_its_key() -> None:
    entries = await timeline_of("lk", [*ROOM, STARTED, *UPDATES, ENDED])
    shown = [each.detail.get("targets", []) for each in entries if each.kind == "broadcast.updated"]
    assert [[target["status"] for target in targets] for targets in shown] == [
        ["ACTIVE"],
        ["ACTIVE", "FAILED"],
        ["ACTIVE", "FAILED"],
    ]
    assert shown[1][1] == {"url": "rtmp://b.example/…", "status": "FAILED", "error": "broken pipe"}
    assert "KEY" not in str([each.detail for each in entries])


async def test_a_broadcast_whose_start_was_lost_starts_once_derived_from_its_updates() -> None:
    found = await broadcast([*UPDATES, ENDED])
    assert [each for each in found if each[0] != "updated"] == [
        ("started", 11, "derived"),
        ("stopped", 301, "reported"),
    ]


async def test_a_broadcast_whose_end_was_lost_stops_at_its_ending_state() -> None:
    found = await broadcast([STARTED, *UPDATES])
    assert [each for each in found if each[0] != "updated"] == [
        ("started", 10, "reported"),
        ("stopped", 300, "derived"),
    ]


async def test_a_broadcast_without_further_events_stops_with_its_session() -> None:
    assert await broadcast([STARTED]) == [("started", 10, "reported"), ("stopped", 320, "inferred")]


@pytest.mark.parametrize("message", ["had error", "no error"])
async def test_a_broadcast_of_plugnmeet_starts_and_stops_once(message: str) -> None:
    info = {"record_id": "RTMP-1", "recorder_id": "node_01"}
    events = [
        pnm("room_created", 0), pnm("room_started", 0), pnm("start_rtmp", 10, recording_info=info | {"recorder_msg": "started"}),
        pnm("end_rtmp", 90, recording_info=info | {"recorder_msg": message}), pnm("session_ended", 100),
    ]  # fmt: skip
    entries = [each for each in await timeline_of("pnm", events) if each.kind.startswith("broadcast.")]
    assert [each.kind for each in entries] == ["broadcast.started", "broadcast.stopped"]
    assert entries[1].detail.get("vendor_reason") == (message if message == "had error" else None)


async def test_an_ingress_without_a_start_event_starts_at_the_time_its_end_states() -> None:
    state = {"roomId": "RM_1", "startedAt": "@ns:20", "endedAt": "@ns:40"}
    ended = lk("ingress_ended", 40, ingressInfo={"ingressId": "IN_1", "roomName": "standup", "state": state})
    entries = await timeline_of("lk", [*ROOM, ended])
    assert [(each.kind, seconds(each.at), each.provenance) for each in entries if each.kind.startswith("ingress.")] == [
        ("ingress.started", 20, "derived"), ("ingress.ended", 40, "reported"),
    ]  # fmt: skip
