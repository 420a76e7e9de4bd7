"""Jitsi: the facts of its events, and what they add up to."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.domain import facts
from tracker.domain.deliveries import Record
from tracker.domain.facts import Fact
from tracker.sources.jitsi.events import interpret

T = 1_790_000_000
RECEIVED = (T + 700) * 1_000_000 + 5
ROOM = {"room_name": "daily", "room_jid": "daily@conference.meet.example", "is_breakout": False}
JID = "5c1e@meet.example/aZ9"
PERSON = {"id": "u-7", "name": "Guest B", "occupant_jid": JID, "joined_at": T}


def read(event: str, **fields: Any) -> tuple[Fact, ...]:
    body = {"event_name": event} | ROOM | fields
    body = {name: value for name, value in body.items() if value is not ...}
    record = Record(
        position=1, source="jitsi", vendor="jitsi", event=event, dedupe_key="k", received_at=RECEIVED, origin="webhook",
        proof=b"{}", body=msgspec.json.encode(body),
    )  # fmt: skip
    return interpret(record)


def only(event: str, **fields: Any) -> Any:
    (fact,) = read(event, **fields)
    assert fact.anomalies == ()
    return fact


def test_a_run_is_a_room_and_the_second_of_its_creation() -> None:
    started = only("muc-room-created", created_at=T)
    assert (type(started), started.at, started.clock, started.precision) == (
        facts.SessionStarted,
        T * 10**6,
        "server",
        "s",
    )
    assert (started.place.run, started.place.room, started.place.starts_at) == (None, ROOM["room_jid"], T * 10**6)
    ended = only("muc-room-destroyed", created_at=T, destroyed_at=T + 600)
    assert (type(ended), ended.at, ended.started_at) == (facts.SessionEnded, (T + 600) * 10**6, T * 10**6)
    assert (ended.place.starts_at, ended.place.ends_at) == (T * 10**6, (T + 600) * 10**6)


def test_a_join_and_a_leave_belong_to_the_run_at_the_moment_of_the_join() -> None:
    joined = only("muc-occupant-joined", occupant=PERSON)
    left = only("muc-occupant-left", occupant=PERSON | {"left_at": T + 600})
    assert (joined.connection, joined.identity, joined.name, joined.joined_at) == (JID, "u-7", "Guest B", T * 10**6)
    assert (left.connection, left.at, left.joined_at) == (JID, (T + 600) * 10**6, T * 10**6)
    assert joined.place.at == left.place.at == T * 10**6


def test_a_breakout_room_is_another_room() -> None:
    joined = only("muc-occupant-joined", occupant=PERSON, is_breakout=True, breakout_room_id="b1")
    assert joined.place.room == f"{ROOM['room_jid']}/b1"
    assert joined.place.room_name == "daily / b1"


@pytest.mark.parametrize(
    "jid",
    [
        "recorder@recorder.meet.example/x",
        "x@recorder.meet.example/y",
        "transcriber@meet.example",
        "jibri@auth.meet.example/1",
    ],
)
def test_recorders_and_transcribers_are_no_people(jid: str) -> None:
    assert only("muc-occupant-joined", occupant={"occupant_jid": jid, "joined_at": T}).person == "recorder"


def test_a_person_whose_name_is_recorder_is_a_person() -> None:
    assert only("muc-occupant-joined", occupant=PERSON | {"name": "recorder", "id": "recorder"}).person == "standard"


def test_the_list_at_the_end_states_everybody() -> None:
    other = {"occupant_jid": "b@meet.example/1", "joined_at": T + 5}
    end, first, second = read(
        "muc-room-destroyed",
        created_at=T,
        destroyed_at=T + 600,
        all_occupants=[PERSON | {"left_at": T + 9}, other, {}, 7],
    )
    assert type(end) is facts.SessionEnded
    assert isinstance(first, facts.ParticipantAttended)
    assert isinstance(second, facts.ParticipantAttended)
    assert (first.connection, first.joined_at, first.left_at, first.reason) == (JID, T * 10**6, (T + 9) * 10**6, "left")
    assert (second.connection, second.joined_at, second.left_at, second.reason) == (
        "b@meet.example/1",
        (T + 5) * 10**6,
        None,
        None,
    )


def test_a_room_that_is_destroyed_twice_has_ended_once() -> None:
    first, second = (only("muc-room-destroyed", created_at=T, destroyed_at=T + end) for end in (600, 601))
    assert first.copy == second.copy


@pytest.mark.parametrize(
    ("event", "fields", "anomaly"),
    [
        ("muc-room-opened", {}, ("unknown_event", "muc-room-opened")),
        ("", {}, ("unreadable", "no event name")),
        ("muc-room-created", {"room_jid": ...}, ("unreadable", "room_jid is missing")),
        ("muc-occupant-left", {}, ("unreadable", "occupant is missing")),
        ("muc-occupant-left", {"occupant": {"id": "u-7"}}, ("unreadable", "occupant.occupant_jid is missing")),
    ],
)
def test_what_cannot_be_read_is_named(event: str, fields: dict[str, Any], anomaly: tuple[str, str]) -> None:
    (fact,) = read(event, **fields)
    assert fact.anomalies == (anomaly,)


@pytest.mark.parametrize("value", ["1790000000", -1, 0, True, None, 1e99, 2**70, [T]])
def test_a_time_that_is_none_is_the_arrival(value: Any) -> None:
    joined = only("muc-occupant-joined", occupant=PERSON | {"joined_at": value})
    assert (joined.at, joined.clock, joined.joined_at) == (RECEIVED, "receiver", None)


def test_half_seconds_are_read() -> None:
    assert only("muc-room-created", created_at=T + 0.5).at == T * 10**6 + 500_000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*PERSON, "left_at"]), inner, max_size=5)
    ),
    max_leaves=8,
)


@given(
    st.sampled_from(["muc-room-created", "muc-room-destroyed", "muc-occupant-joined", "muc-occupant-left", "x"]),
    JSON, JSON, JSON,
)  # fmt: skip
def test_no_body_raises(event: str, occupant: Any, created: Any, listed: Any) -> None:
    for fact in read(event, occupant=occupant, created_at=created, destroyed_at=created, all_occupants=listed):
        msgspec.json.encode(fact)
