"""BigBlueButton: the facts of its events, mapped and raw."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.domain import facts
from tracker.domain.deliveries import Record
from tracker.domain.facts import Fact
from tracker.sources.bigbluebutton.events import READERS, interpret

TS = 1_790_000_000_100
AT = TS * 1_000
RECEIVED = 1_790_000_005_000_000
RUN, ROOM = "9f0c-1789999990000", "algebra-7"
MEETING = {"internal-meeting-id": RUN, "external-meeting-id": ROOM}
USER = {"internal-user-id": "w_k2m9", "external-user-id": "stu-41"}
JOINED = USER | {"name": "Pupil A", "role": "VIEWER", "presenter": False, "guest": False}
CREATED = MEETING | {
    "name": "Algebra", "is-breakout": False, "parent-id": "bbb-none", "duration": 0, "create-time": 1_789_999_990_000,
    "moderator-pass": "SECRET-M", "viewer-pass": "SECRET-V", "record": True, "max-users": 0,
    "metadata": {"course": "7", "bbb-recording-ready-url": "https://x.example/SECRET-U"},
}  # fmt: skip


def mapped(event: str, ts: Any = TS, **attributes: Any) -> dict[str, Any]:
    return {
        "data": {"type": "event", "id": event, "attributes": {"meeting": MEETING} | attributes, "event": {"ts": ts}}
    }


def raw(name: str, body: dict[str, Any], at: int = TS, user: str = "") -> dict[str, Any]:
    header = {"name": name, "meetingId": RUN, "userId": user}
    routing = {"msgType": "BROADCAST_TO_MEETING", "meetingId": RUN, "userId": user}
    return {"envelope": {"name": name, "routing": routing, "timestamp": at}, "core": {"header": header, "body": body}}


def read(*events: Any, body: bytes | None = None) -> tuple[Fact, ...]:
    if body is None:
        text = json.dumps(list(events), ensure_ascii=False)
        body = urlencode({"domain": "bbb.example", "event": text, "timestamp": "1790000000123"}).encode()
    record = Record(
        position=1, source="bbb", vendor="bigbluebutton", event="", dedupe_key="k", received_at=RECEIVED,
        origin="webhook", proof=b"{}", body=body,
    )  # fmt: skip
    return interpret(record)


def only(*events: Any) -> Any:
    (fact,) = read(*events)
    assert fact.anomalies == ()
    return fact


def test_a_meeting_is_a_run_with_its_internal_id_and_the_time_of_its_creation() -> None:
    started, ended = only(mapped("meeting-created", meeting=CREATED)), only(mapped("meeting-ended"))
    assert (type(started), started.started_at, started.place.starts_at) == (
        facts.SessionStarted,
        1_789_999_990_000_000,
        1_789_999_990_000_000,
    )
    assert (started.place.run, started.place.room, started.place.room_name, started.place.parent) == (
        RUN,
        ROOM,
        "Algebra",
        None,
    )
    assert (type(ended), ended.at, ended.place.ends_at) == (facts.SessionEnded, AT, AT)


def test_a_breakout_room_names_its_parent() -> None:
    meeting = CREATED | {"is-breakout": True, "parent-id": "1234-1", "internal-meeting-id": "5678-2"}
    assert only(mapped("meeting-created", meeting=meeting)).place.parent == "1234-1"
    assert only(mapped("meeting-created", meeting=meeting | {"is-breakout": "true"})).place.parent == "1234-1"


@pytest.mark.parametrize("event", sorted({*READERS, "user-emoji-changed", "chat-group-message-sent", "new-event"}))
def test_secrets_are_in_no_fact(event: str) -> None:
    user = JOINED | {"session-token": "SECRET-T", "stream": "s1"}
    shown = msgspec.json.encode(
        read(
            mapped(
                event, meeting=CREATED, user=user, **{"record-id": RUN, "success": True, "session-token": "SECRET-X"}
            )
        )
    )
    assert b"SECRET" not in shown


def test_a_person_is_the_external_id_and_a_connection_the_internal_one() -> None:
    joined, left = only(mapped("user-joined", user=JOINED)), only(mapped("user-left", user=USER | {"guest": False}))
    assert (joined.connection, joined.identity, joined.name, joined.person, joined.reuses_id) == (
        "w_k2m9",
        "stu-41",
        "Pupil A",
        "standard",
        True,
    )
    assert (type(left), left.connection, left.identity, left.reason) == (
        facts.ParticipantLeft,
        "w_k2m9",
        "stu-41",
        "left",
    )


def test_without_an_external_id_the_internal_one_identifies() -> None:
    joined = only(mapped("user-joined", user=JOINED | {"external-user-id": ""}))
    assert (joined.connection, joined.identity) == ("w_k2m9", None)


def test_somebody_on_the_phone_is_a_person() -> None:
    assert only(mapped("user-joined", user=JOINED | {"internal-user-id": "v_77"})).person == "sip"


def test_a_leave_that_was_made_up_at_the_end_only_states_a_time() -> None:
    made_up = only(mapped("user-left", user=JOINED | {"guest": "false"}))
    assert (type(made_up), made_up.left_at, made_up.joined_at, made_up.connection) == (
        facts.ParticipantAttended,
        AT,
        None,
        "w_k2m9",
    )


def test_streams_have_an_owner() -> None:
    camera = USER | {"stream": "w_k2m9_77ab"}
    assert only(mapped("user-cam-broadcast-start", user=camera)).stream == "w_k2m9_77ab"
    assert type(only(mapped("user-cam-broadcast-end", user=camera))) is facts.StreamUnpublished
    voice = only(mapped("user-audio-voice-enabled", user=USER | {"listening-only": False, "sharing-mic": True}))
    off = only(mapped("user-audio-voice-disabled", user=USER | {"listening-only": False, "sharing-mic": False}))
    assert (voice.stream, voice.media, voice.connection) == (off.stream, "audio", "w_k2m9")
    screen = only(mapped("meeting-screenshare-started", user=USER))
    assert (screen.stream, screen.label) == (f"{RUN}/screen", "screen")


def test_somebody_who_only_listens_publishes_nothing() -> None:
    assert type(only(mapped("user-audio-voice-enabled", user=USER | {"listening-only": True}))) is facts.Unknown


def test_the_times_of_the_recording_scripts_are_seconds() -> None:
    assert only(mapped("rap-archive-started", ts=1_790_004_000, **{"record-id": RUN})).at == 1_790_004_000_000_000
    assert only(mapped("rap-published", ts=1_790_004_000_000, **{"record-id": RUN})).at == 1_790_004_000_000_000


PUBLISHED = {
    "record-id": RUN, "success": True, "step-time": 8123, "workflow": "video",
    "recording": {
        "name": "Algebra", "is-breakout": "false", "start-time": "1789999991000", "end-time": "1790003600000", "size": "5120000",
        "metadata": {}, "playback": {"format": "video", "link": "https://bbb.example/playback/video/x"},
    },
}  # fmt: skip


def test_each_published_format_is_a_recording_with_its_times() -> None:
    started, stopped, ready = read(mapped("rap-publish-ended", ts=1_790_004_000, **PUBLISHED))
    assert [type(fact) for fact in (started, stopped, ready)] == [
        facts.RecordingStarted,
        facts.RecordingStopped,
        facts.RecordingReady,
    ]
    assert isinstance(ready, facts.RecordingReady)
    assert (ready.recording, ready.mode, ready.size_bytes) == (f"{RUN}/video", "video", 5_120_000)
    assert (started.at, stopped.at, ready.at) == (1_789_999_991_000_000, 1_790_003_600_000_000, 1_790_004_000_000_000)
    assert len({fact.copy for fact in (started, stopped, ready)}) == 3


def test_a_recording_without_times_is_ready_all_the_same() -> None:
    empty = PUBLISHED | {"recording": {"start-time": {}, "end-time": {}, "size": {}, "playback": {}}}
    (ready,) = read(mapped("rap-publish-ended", **empty))
    assert isinstance(ready, facts.RecordingReady)
    assert (ready.started_at, ready.stopped_at, ready.size_bytes, ready.url) == (None, None, None, None)


@pytest.mark.parametrize("success", [False, "false"])
@pytest.mark.parametrize("event", ["rap-archive-ended", "rap-process-ended", "rap-publish-ended"])
def test_a_step_that_failed_is_a_failed_recording(event: str, success: Any) -> None:
    (failed,) = read(mapped(event, **PUBLISHED | {"success": success}))
    assert isinstance(failed, facts.RecordingFailed)
    assert failed.vendor_reason == event


@pytest.mark.parametrize(
    "event", ["rap-archive-started", "rap-sanity-ended", "rap-process-ended", "meeting-recording-started"]
)
def test_other_steps_and_the_marks_are_shown_raw(event: str) -> None:
    assert type(only(mapped(event, **PUBLISHED))) is facts.Unknown


def test_the_owner_of_a_poll_is_not_who_answered() -> None:
    assert only(mapped("poll-responded", user=USER, poll={"id": "p", "answerIds": [1]})).actor is None
    assert only(mapped("poll-started", user=USER, poll={"id": "p"})).actor == "w_k2m9"


def test_texts_of_people_are_not_shown() -> None:
    message = {"id": "m1", "message": "PRIVATE", "sender": {"name": "x"}}
    assert b"PRIVATE" not in msgspec.json.encode(only(mapped("chat-group-message-sent", **{"chat-message": message})))


# --- several events, and raw ones ---------------------------------------------------------------------------------------


def test_each_event_of_a_delivery_is_a_fact() -> None:
    found = read(
        mapped("user-joined", user=JOINED), mapped("user-audio-muted", user=USER), mapped("user-left", user=USER)
    )
    assert [type(fact) for fact in found] == [facts.ParticipantJoined, facts.Unknown, facts.ParticipantLeft]


PAIRS = [
    (mapped("user-joined", user=JOINED), raw("UserJoinedMeetingEvtMsg", {"intId": "w_k2m9", "extId": "stu-41", "name": "Pupil A", "role": "VIEWER"}, TS - 7)),
    (mapped("user-left", user=USER), raw("UserLeftMeetingEvtMsg", {"intId": "w_k2m9", "eject": False, "name": "Pupil A"}, TS - 7)),
    (mapped("user-cam-broadcast-start", user=USER | {"stream": "s1"}), raw("UserBroadcastCamStartedEvtMsg", {"userId": "w_k2m9", "stream": "s1"}, TS - 7)),
    (mapped("meeting-ended"), raw("MeetingEndedEvtMsg", {"meetingId": RUN}, TS - 7)),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_an_event_mapped_and_raw_is_one_entry(first: dict[str, Any], second: dict[str, Any]) -> None:
    one, other = only(first), only(second)
    assert type(one) is type(other)
    assert one.copy == other.copy
    assert one.place.run == other.place.run == RUN
    assert other.at == AT - 7_000


def test_a_raw_meeting_has_all_its_properties() -> None:
    props = {
        "meetingProp": {"name": "Algebra", "extId": ROOM, "intId": RUN, "isBreakout": True},
        "breakoutProps": {"parentId": "1234-1"}, "durationProps": {"createdTime": 1_789_999_990_000},
        "password": {"moderatorPass": "SECRET", "viewerPass": "SECRET"},
    }  # fmt: skip
    started = only(raw("MeetingCreatedEvtMsg", {"props": props}))
    assert (started.place.run, started.place.room, started.place.parent) == (RUN, ROOM, "1234-1")
    assert started.started_at == 1_789_999_990_000_000
    assert b"SECRET" not in msgspec.json.encode(started)


def test_an_ejected_person_was_removed() -> None:
    left = only(
        raw(
            "UserLeftMeetingEvtMsg",
            {
                "intId": "w_k2m9",
                "eject": True,
                "ejectedBy": "w_1",
                "reason": "banned",
                "reasonCode": "user_banned_by_moderator",
            },
        )
    )
    assert (left.reason, left.vendor_reason) == ("removed", "user_banned_by_moderator")


def test_other_raw_messages_are_no_anomaly() -> None:
    assert type(only(raw("CamStreamSubscribedInSfuEvtMsg", {"userId": "w_k2m9"}))) is facts.Unknown
    assert type(only(raw("SomethingElseEvtMsg", {}))) is facts.Unknown


# --- the analytics ------------------------------------------------------------------------------------------------------


def test_the_analytics_state_everybody_and_the_end() -> None:
    attendee = {
        "ext_user_id": "stu-41",
        "name": "Pupil A",
        "moderator": False,
        "joins": ["2026-09-21T14:13:20.000+00:00"],
        "leaves": ["2026-09-21T14:23:20.000+00:00"],
    }
    data = {
        "start": "2026-09-21T14:13:10.000+00:00",
        "finish": "2026-09-21T15:13:20.000+00:00",
        "duration": 3610,
        "attendees": [attendee, {}, 7],
    }
    body = {"version": "1.0", "meeting_id": ROOM, "internal_meeting_id": RUN, "data": data}
    ready, attended = read(body=msgspec.json.encode(body))
    assert isinstance(ready, facts.AnalyticsReady)
    assert isinstance(attended, facts.ParticipantAttended)
    assert ready.ended_at == ready.at == 1_790_003_600_000_000
    assert ready.place is not None
    assert ready.place.starts_at == 1_789_999_990_000_000
    assert (attended.connection, attended.identity, attended.joined_at, attended.left_at) == (
        "",
        "stu-41",
        1_790_000_000_000_000,
        1_790_000_600_000_000,
    )


@pytest.mark.parametrize(
    ("event", "anomaly"),
    [
        (mapped("new-event"), ("unknown_event", "new-event")),
        (mapped(""), ("unreadable", "no event name")),
        (mapped("user-joined"), ("unreadable", "internal-user-id is missing")),
        (mapped("user-joined", user=JOINED, meeting={}), ("unreadable", "internal-meeting-id is missing")),
        (mapped("rap-publish-ended", meeting={}), ("unreadable", "record-id is missing")),
        ({}, ("unreadable", "no event name")),
    ],
)
def test_what_cannot_be_read_is_named(event: Any, anomaly: tuple[str, str]) -> None:
    (fact,) = read(event)
    assert fact.anomalies == (anomaly,)


@pytest.mark.parametrize(
    "body", [b"", b"event=", b"event=[]", b"event=%5B7%5D", b"x=1", b"[]", b"\xff", b"event=" + b"%5B" * 2_000]
)
def test_a_body_without_events_is_unreadable(body: bytes) -> None:
    (fact,) = read(body=body)
    assert [kind for kind, _ in fact.anomalies] == ["unreadable"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*JOINED, *MEETING, "start-time", "size"]), inner, max_size=5)
    ),
    max_leaves=8,
)


@given(st.sampled_from([*READERS, "user-emoji-changed", "x"]), JSON, JSON, JSON, JSON)
def test_no_event_raises(event: str, ts: Any, user: Any, meeting: Any, rest: Any) -> None:
    attributes = {"user": user, "meeting": meeting, "record-id": RUN, "success": rest, "recording": rest}
    for fact in read(mapped(event, ts=ts, **attributes)):
        msgspec.json.encode(fact)


@given(st.sampled_from(["MeetingCreatedEvtMsg", "UserJoinedMeetingEvtMsg", "UserLeftMeetingEvtMsg", "X"]), JSON, JSON)
def test_no_raw_message_raises(name: str, body: Any, at: Any) -> None:
    for fact in read(raw(name, body, at)):
        msgspec.json.encode(fact)


@given(JSON, JSON)
def test_no_analytics_raise(data: Any, attendees: Any) -> None:
    body = {"internal_meeting_id": RUN, "data": data if not isinstance(data, dict) else data | {"attendees": attendees}}
    for fact in read(body=msgspec.json.encode(body)):
        msgspec.json.encode(fact)
