"""A list that ends a room fills in what was lost before: its times are derived, and reported ones are stronger."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import msgspec
import pytest

from tests.support.memory_log import MemoryLog
from tests.support.memory_views import MemoryViews
from tracker.domain.rows import SessionRows
from tracker.projector.projector import Projector
from tracker.sources import registry
from tracker.sources.contract import SourceSettings

T = 1_790_000_000
SECRET = "a-secret-of-at-least-thirty-two-bytes"
ROOM = {"room_name": "daily", "room_jid": "daily@conference.meet.example"}
ANA = {"occupant_jid": "ana@meet.example/1", "id": "ana", "name": "Ana", "joined_at": T + 10}
BEN = {"occupant_jid": "ben@meet.example/2", "id": "ben", "name": "Ben", "joined_at": T + 20}

CREATED = {"event_name": "muc-room-created", "created_at": T}
JOINED = {"event_name": "muc-occupant-joined", "occupant": ANA}
LEFT = {"event_name": "muc-occupant-left", "occupant": ANA | {"left_at": T + 100}}
DESTROYED = {
    "event_name": "muc-room-destroyed", "created_at": T, "destroyed_at": T + 200,
    "all_occupants": [ANA | {"left_at": T + 101}, BEN | {"left_at": T + 150}],
}  # fmt: skip


async def sessions_of(*events: dict[str, Any]) -> dict[str, SessionRows]:
    source = registry.build(SourceSettings(name="j", vendor="jitsi", secrets=(SECRET,)))
    log, views = MemoryLog(), MemoryViews()
    for event in events:
        body = msgspec.json.encode(ROOM | event)
        await log.append(source.verify_trusted(body, received_at=(T + 300) * 10**6, proof={}))
    await Projector(log, views).catch_up()
    await log.close()
    return dict(views.sessions)


async def only(*events: dict[str, Any]) -> SessionRows:
    (rows,) = (await sessions_of(*events)).values()
    return rows


def times(rows: SessionRows, participant: str) -> tuple[Any, ...]:
    (row,) = [each for each in rows.connections if each.participant == participant]
    assert row.joined_at is not None
    assert row.left_at is not None
    assert row.leave is not None
    return row.joined_at // 10**6 - T, row.join_provenance, row.left_at // 10**6 - T, row.leave.provenance


async def test_somebody_whose_events_were_all_lost_was_there_from_the_list() -> None:
    rows = await only(CREATED, JOINED, LEFT, DESTROYED)
    assert times(rows, "ben") == (20, "derived", 150, "derived")
    assert (rows.session.participants, rows.session.peak_participants, rows.session.completeness) == (2, 2, "repaired")
    shown = [(gap.kind, gap.subject_id, gap.provenance) for gap in rows.gaps]
    assert shown == [("participant.joined", "ben", "derived"), ("participant.left", "ben", "derived")]


async def test_a_reported_join_and_leave_are_stronger_than_the_list() -> None:
    assert times(await only(CREATED, JOINED, LEFT, DESTROYED), "ana") == (10, "reported", 100, "reported")


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        ([CREATED, JOINED, DESTROYED], (10, "reported", 101, "derived")),
        ([CREATED, LEFT, DESTROYED], (10, "derived", 100, "reported")),
        ([LEFT, DESTROYED], (10, "derived", 100, "reported")),
    ],
)
async def test_the_list_fills_in_only_what_was_lost(received: list[dict[str, Any]], expected: tuple[Any, ...]) -> None:
    assert times(await only(*received), "ana") == expected


async def test_somebody_still_there_at_the_end_leaves_with_the_room() -> None:
    stayed = DESTROYED | {"all_occupants": [ANA]}
    assert times(await only(CREATED, JOINED, stayed), "ana") == (10, "reported", 200, "inferred")


async def test_order_and_repeats_change_nothing() -> None:
    def plain(rows: SessionRows) -> Any:
        return [
            [msgspec.structs.astuple(row) for row in rows.connections],
            rows.session.participant_ms,
            rows.session.completeness,
            [(gap.at, gap.kind, gap.subject_id) for gap in rows.gaps],
        ]

    expected = plain(await only(CREATED, JOINED, LEFT, DESTROYED))
    for order in permutations([CREATED, JOINED, LEFT, DESTROYED]):
        assert plain(await only(*order, *order)) == expected


async def test_a_breakout_room_is_a_session_with_its_own_people() -> None:
    breakout = {"is_breakout": True, "breakout_room_id": "b1"}
    moved = ANA | {"occupant_jid": "ana@meet.example/3", "joined_at": T + 60}
    found = await sessions_of(
        CREATED,
        JOINED,
        LEFT,
        CREATED | breakout | {"created_at": T + 60},
        JOINED | breakout | {"occupant": moved},
        DESTROYED
        | breakout
        | {"created_at": T + 60, "destroyed_at": T + 90, "all_occupants": [moved | {"left_at": T + 90}]},
        DESTROYED | {"all_occupants": []},
    )
    main, other = f"j:{ROOM['room_jid']}_{T}000", f"j:{ROOM['room_jid']}/b1_{T + 60}000"
    assert set(found) == {main, other}
    assert times(found[other], "ana") == (60, "reported", 90, "derived")
    assert [each.participant for each in found[main].connections] == ["ana"]


async def test_the_next_run_of_a_room_ends_one_whose_server_was_restarted() -> None:
    again = CREATED | {"created_at": T + 1_000}
    found = await sessions_of(CREATED, JOINED, again)
    ended = found[f"j:{ROOM['room_jid']}_{T}000"].session
    assert ended.end is not None
    assert (ended.end.reason, ended.end.provenance) == ("superseded", "inferred")
