"""A BigBlueButton meeting as it happens: breakouts, the phone, a return, lost leaves, made-up leaves, and the analytics after all."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.memory_log import MemoryLog
from tests.support.memory_views import MemoryViews
from tracker.domain.rows import SessionRows
from tracker.projector.projector import Projector
from tracker.sources import registry
from tracker.sources.contract import SourceSettings

T = 1_790_000_000
RUN = f"9f0c6a2b-{T}000"
MAIN = {"internal-meeting-id": RUN, "external-meeting-id": "algebra-7"}
END = 3_600


def breakout(number: int) -> dict[str, Any]:
    return {"internal-meeting-id": f"b{number}-{T + 600}000", "external-meeting-id": f"{RUN}-{number}"}


def event(second: float, name: str, meeting: dict[str, Any] = MAIN, **attributes: Any) -> dict[str, Any]:
    ts = round((T + second) * 1000)
    return {"data": {"type": "event", "id": name, "attributes": {"meeting": meeting} | attributes, "event": {"ts": ts}}}


def user(internal: str, external: str | None = None, **more: Any) -> dict[str, Any]:
    return {"internal-user-id": internal, "external-user-id": external or ""} | more


def join(second: float, internal: str, external: str | None = None, meeting: dict[str, Any] = MAIN) -> dict[str, Any]:
    return event(
        second,
        "user-joined",
        meeting,
        user=user(internal, external, name=(external or internal).title(), role="VIEWER", guest=False),
    )


def leave(second: float, internal: str, external: str | None = None, meeting: dict[str, Any] = MAIN) -> dict[str, Any]:
    return event(second, "user-left", meeting, user=user(internal, external, guest=False))


def made_up(second: float, internal: str, external: str) -> dict[str, Any]:
    return event(second, "user-left", user=user(internal, external, name=external.title(), role="VIEWER", guest="true"))


def created(number: int) -> dict[str, Any]:
    meeting = breakout(number) | {
        "name": f"Room {number}",
        "is-breakout": True,
        "parent-id": RUN,
        "create-time": (T + 600) * 1000,
    }
    return event(600, "meeting-created", meeting)


def iso(second: float) -> str:
    return datetime.fromtimestamp(T + second, UTC).isoformat(timespec="milliseconds")


def attendee(external: str, *spans: tuple[float, float]) -> dict[str, Any]:
    return {
        "ext_user_id": external, "name": external.title(), "moderator": False,
        "joins": [iso(since) for since, _ in spans], "leaves": [iso(until) for _, until in spans],
    }  # fmt: skip


MEETING = [
    event(0, "meeting-created", MAIN | {"name": "Algebra", "is-breakout": False, "parent-id": "bbb-none", "create-time": T * 1000}),
    join(10, "w_ana", "ana"), join(20, "w_ben", "ben"), join(30, "w_cem", "cem"), join(40, "w_dia", "dia"), join(45, "v_77"),
    # Ben leaves and returns with the same internal id.
    leave(300, "w_ben", "ben"), join(420, "w_ben", "ben"),
    created(1), created(2),
    join(610, "w_a1", f"{RUN}-ana", breakout(1)), leave(900, "w_a1", f"{RUN}-ana", breakout(1)),
    join(610, "w_c2", f"{RUN}-cem", breakout(2)), leave(905, "w_c2", f"{RUN}-cem", breakout(2)),
    event(1_200, "meeting-ended", breakout(1)), event(1_200, "meeting-ended", breakout(2)),
    leave(2_000, "v_77"),
    # Lost: the leaves of Ana (3,000 s), Cem (3,100 s) and Dia (3,200 s). Ben's at the end is made up, after the end.
    event(END, "meeting-ended"), made_up(END + 4, "w_ben", "ben"),
]  # fmt: skip
ANALYTICS = {
    "version": "1.0", "meeting_id": "algebra-7", "internal_meeting_id": RUN,
    "data": {
        "start": iso(0), "finish": iso(END), "duration": END,
        "attendees": [
            attendee("ana", (10, 3_000)), attendee("ben", (20, 300), (420, END)), attendee("cem", (30, 3_100)), attendee("dia", (40, 3_200)),
        ],
    },
}  # fmt: skip


async def sessions(deliveries: list[Any]) -> dict[str, SessionRows]:
    source = registry.build(
        SourceSettings(name="bbb", vendor="bigbluebutton", secrets=("s",), hook_url="https://t/hooks/bbb")
    )
    log, views = MemoryLog(), MemoryViews()
    for delivery in deliveries:
        body = json.dumps(delivery, separators=(",", ":")).encode()
        await log.append(source.verify_trusted(body, received_at=(T + 4_000) * 10**6, proof={}))
    await Projector(log, views).catch_up()
    await log.close()
    return dict(views.sessions)


def attendance(rows: SessionRows) -> dict[str, list[tuple[Any, ...]]]:
    found: dict[str, list[tuple[Any, ...]]] = {}
    for row in rows.connections:
        assert row.joined_at is not None
        assert row.left_at is not None
        assert row.leave is not None
        span = ((row.joined_at / 10**6) - T, (row.left_at / 10**6) - T, row.join_provenance, row.leave.provenance)
        found.setdefault(row.participant, []).append(span)
    return found


async def test_the_attendance_is_right_to_the_second_and_says_how_it_is_known() -> None:
    rows = (await sessions([*MEETING, ANALYTICS]))[f"bbb:{RUN}"]
    assert attendance(rows) == {
        "ana": [(10, 3_000, "reported", "derived")],
        "ben": [(20, 300, "reported", "reported"), (420, END, "reported", "derived")],
        "cem": [(30, 3_100, "reported", "derived")],
        "dia": [(40, 3_200, "reported", "derived")],
        "v_77": [(45, 2_000, "reported", "reported")],
    }
    assert {row.id: row.presence_ms // 1000 for row in rows.participants} == {
        "ana": 2_990, "ben": 280 + 3_180, "cem": 3_070, "dia": 3_160, "v_77": 1_955,
    }  # fmt: skip
    assert rows.session.participants == 5
    assert {row.id: row.kind for row in rows.participants}["v_77"] == "sip"
    assert (rows.session.ended_at, rows.session.completeness) == ((T + END) * 10**6, "repaired")


async def test_without_the_analytics_lost_leaves_end_with_the_meeting() -> None:
    rows = (await sessions(MEETING))[f"bbb:{RUN}"]
    assert attendance(rows)["ana"] == [(10, END, "reported", "inferred")]
    assert attendance(rows)["ben"] == [(20, 300, "reported", "reported"), (420, END, "reported", "derived")]


async def test_a_lost_end_is_that_of_the_analytics() -> None:
    kept = [each for each in MEETING if each != event(END, "meeting-ended")]
    session = (await sessions([*kept, ANALYTICS]))[f"bbb:{RUN}"].session
    assert session.end is not None
    assert (session.ended_at, session.end.provenance) == ((T + END) * 10**6, "derived")


async def test_the_breakout_rooms_are_sessions_of_the_meeting() -> None:
    found = await sessions([*MEETING, ANALYTICS])
    rooms = {rows.session.room_name: rows for rows in found.values() if rows.session.parent_id == f"bbb:{RUN}"}
    assert set(rooms) == {"Room 1", "Room 2"}
    assert attendance(rooms["Room 1"]) == {f"{RUN}-ana": [(610, 900, "reported", "reported")]}
    assert len(found) == 3


@pytest.mark.parametrize("seed", range(4))
async def test_order_repeats_and_batches_of_events_change_nothing(seed: int) -> None:
    chance = random.Random(seed)
    deliveries: list[Any] = [*MEETING, ANALYTICS, *chance.sample(MEETING, 5)]
    chance.shuffle(deliveries)
    # Some hooks send several events at once.
    for n in range(len(deliveries) - 2, 0, -4):
        if all(isinstance(each, dict) and "data" in each and "version" not in each for each in deliveries[n : n + 2]):
            deliveries[n : n + 2] = [deliveries[n : n + 2]]
    found, plain = await sessions(deliveries), await sessions([*MEETING, ANALYTICS])
    for name, rows in plain.items():
        assert attendance(found[name]) == attendance(rows)
        assert found[name].participants == rows.participants
        assert found[name].session.completeness == rows.session.completeness


async def test_with_every_third_delivery_lost_nobody_is_there_longer_than_they_were() -> None:
    for first in range(3):
        rows = (await sessions([each for n, each in enumerate(MEETING) if n % 3 != first] + [ANALYTICS]))[f"bbb:{RUN}"]
        assert {row.id: row.presence_ms // 1000 for row in rows.participants if row.id in {"ana", "cem", "dia"}} == {
            "ana": 2_990, "cem": 3_070, "dia": 3_160,
        }  # fmt: skip
        assert rows.session.completeness == "repaired"
