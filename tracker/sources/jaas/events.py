"""What the events of JaaS (8x8) mean.

    ROOM_…                     SessionStarted SessionEnded: `sessionId` is the run, also in its breakout rooms
    PARTICIPANT_… DIAL_… SIP_… ParticipantJoined ParticipantLeft, by `participantJid`
    RECORDING_…                by time until RECORDING_UPLOADED names the recording
    LIVE_STREAM_…              BroadcastStarted BroadcastStopped
    …_UPLOADED                 ArtifactCreated; the link grants access and is left out
    other known events         shown raw, without an anomaly

A breakout room is a session of its own: it has the `sessionId` of its main room, and `breakoutRoomId`.

LIMIT: JaaS reports only people with a JWT, so guests are missing from its calls.

Fields and quirks: docs/reference/vendors/jaas.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from tracker.domain import facts
from tracker.domain.deliveries import Record
from tracker.domain.facts import EndReason, Fact, Micros, SessionRef
from tracker.sources.json_reading import (
    MAX_TIME,
    BodyUnreadable,
    as_count,
    as_object,
    as_text,
    event_name,
    person_name,
    pick_fields,
    read_object,
    repeat_of,
    without_secrets,
)

_LEAVE_REASONS: dict[str, EndReason] = {
    "left": "left",
    "kicked": "removed",
    "switch_room": "left",
    "unrecoverable_error": "network_lost",
}

_NOTES = frozenset({
    "PARTICIPANT_JOINED_LOBBY", "PARTICIPANT_LEFT_LOBBY", "SPEAKER_STATS", "USAGE", "FEEDBACK", "POLL_CREATED", "POLL_ANSWER",
    "REACTIONS", "AGGREGATED_REACTIONS", "ROLE_CHANGED", "TRANSCRIPTION_CHUNK_RECEIVED", "VIDEO_SEGMENT_UPLOADED",
    "RTCSTATS_UPLOADED", "SCREEN_SHARING_HISTORY", "SETTINGS_PROVISIONING",
})  # fmt: skip
"""Known events without a meaning of their own here. Those that begin with `DOCUMENT_` are known, too."""


class FieldMissing(Exception):
    """An event lacks a field that its meaning depends on; the message names the field. Not raised outside of this module."""


class EventContext(msgspec.Struct, frozen=True, kw_only=True):
    """What every event has: its name, `data`, when it happened (`at`, µs), and the whole body.

    `is_dated` is False where the envelope has no valid timestamp; then `at` is when we received it.
    """

    name: str
    data: dict[str, Any]
    body: dict[str, Any]
    at: Micros
    is_dated: bool
    anomalies: tuple[tuple[str, str], ...]

    def fact(self, **detail: Any) -> dict[str, Any]:
        """The arguments of every fact."""
        return {
            "at": self.at,
            "clock": "server" if self.is_dated else "receiver",
            "precision": "ms" if self.is_dated else "us",
            "detail": detail,
            "anomalies": self.anomalies,
        }

    def session_ref(self, at: Micros | None = None, **more: Any) -> SessionRef:
        """The session of this event. Raises `FieldMissing`."""
        session = as_text(self.body.get("sessionId"))
        if session is None:
            raise FieldMissing("sessionId is missing")
        room = as_text(self.body.get("fqn")) or session
        name = room.rpartition("/")[2]
        ids = (("sessionId", session), ("fqn", room), *more.pop("ids", ()))
        breakout = as_text(self.data.get("breakoutRoomId"))
        if breakout is not None:
            # Every breakout event names the main room.
            more["parent"] = session
            session, room, name = f"{session}/{breakout}", f"{room}/{breakout}", f"{name} / {breakout}"
            ids = (*ids, ("breakoutRoomId", breakout))
        return SessionRef(at=self.at if at is None else at, run=session, room=room, room_name=name, ids=ids, **more)


def event_type(body: Mapping[str, Any]) -> str:
    """The event's name; "" where there is none. A body with nothing but `fqn` asks for settings."""
    name = event_name(body.get("eventType"))
    return name or ("SETTINGS_PROVISIONING" if set(body) == {"fqn"} else "")


def interpret(record: Record) -> tuple[Fact, ...]:
    """The facts of a recorded JaaS delivery. Never raises; see `contract.Interpret`."""
    try:
        body = read_object(record.body)
    except BodyUnreadable as why:
        return (_raw(_context_of({}, record), ("unreadable", str(why))),)
    context = _context_of(body, record)
    reader = _READERS.get(context.name)
    try:
        if reader is not None:
            return reader(context)
        if context.name in _NOTES or context.name.startswith("DOCUMENT_"):
            return (_raw(context),)
        return (_raw(context, ("unknown_event", context.name) if context.name else ("unreadable", "no event name")),)
    except FieldMissing as missing:
        return (_raw(context, ("unreadable", str(missing))),)


def _context_of(body: dict[str, Any], record: Record) -> EventContext:
    sent = _micros(body.get("timestamp"))
    name = event_type(body)
    missing = sent is None and bool(body) and name != "SETTINGS_PROVISIONING"
    return EventContext(
        name=name,
        data=as_object(body.get("data")),
        body=body,
        at=record.received_at if sent is None else sent,
        is_dated=sent is not None,
        anomalies=(("unreadable", "timestamp is no time in epoch milliseconds"),) if missing else (),
    )


def _micros(value: object) -> Micros | None:
    """Epoch milliseconds as µs; None for anything that is not a time from 1970 to the year 10000."""
    milliseconds = as_count(value)
    return None if not milliseconds or milliseconds * 1000 >= MAX_TIME else milliseconds * 1000


def _is_true(value: object) -> bool:
    """Booleans may be sent as text."""
    return value is True or value == "true"


def _raw(context: EventContext, *anomalies: tuple[str, str]) -> facts.Unknown:
    """The raw event, scalars only: unknown objects may hold secrets."""
    shown = {
        name: value
        for name, value in as_object(without_secrets(context.data)).items()
        if not isinstance(value, dict | list) and name != "preAuthenticatedLink"
    }
    fact = context.fact(**{name: value for name, value in (("event", context.name), ("data", shown)) if value})
    fact["anomalies"] = (*context.anomalies, *anomalies)
    has_session = as_text(context.body.get("sessionId")) is not None
    return facts.Unknown(**fact, place=context.session_ref() if has_session else None)


def _room_created(context: EventContext) -> tuple[Fact, ...]:
    fact = context.fact(**pick_fields(context.data, "conference", "isBreakout"))
    return (facts.SessionStarted(**fact, place=context.session_ref(starts_at=context.at), started_at=context.at),)


def _room_destroyed(context: EventContext) -> tuple[Fact, ...]:
    fact = context.fact(**pick_fields(context.data, "conference", "isBreakout"))
    return (facts.SessionEnded(**fact, place=context.session_ref(ends_at=context.at), reason="normal"),)


def _connection(context: EventContext, person: str) -> dict[str, Any]:
    data = context.data
    jid = as_text(data.get("participantJid")) or as_text(data.get("participantId"))
    if jid is None:
        raise FieldMissing("data.participantJid is missing")
    return {
        "connection": jid,
        "identity": as_text(data.get("id")),
        "name": person_name(data.get("name")) or person_name(data.get("nick")),
        "person": person,
        "place": context.session_ref(),
    }


def _detail(context: EventContext) -> dict[str, Any]:
    found = pick_fields(context.data, "participantId", "group", "direction", "sipAddress")
    if "moderator" in context.data:
        found["moderator"] = _is_true(context.data["moderator"])
    return found


def _joined(context: EventContext) -> tuple[Fact, ...]:
    if _is_recorder(context):
        return (_raw(context),)
    return (facts.ParticipantJoined(**context.fact(**_detail(context)), **_connection(context, "standard")),)


def _left(context: EventContext) -> tuple[Fact, ...]:
    if _is_recorder(context):
        return (_raw(context),)
    vendor_reason = as_text(context.data.get("disconnectReason"))
    reason = _LEAVE_REASONS.get(vendor_reason or "", "unknown")
    return (
        facts.ParticipantLeft(
            **context.fact(**_detail(context)),
            **_connection(context, "standard"),
            reason=reason,
            vendor_reason=vendor_reason,
        ),
    )


def _is_recorder(context: EventContext) -> bool:
    """A recorder whose start JaaS did not see is announced like a participant, with nothing but the conference."""
    return "conference" in context.data and not {"participantJid", "participantId", "id"} & context.data.keys()


def _phone_joined(context: EventContext) -> tuple[Fact, ...]:
    return (facts.ParticipantJoined(**context.fact(**_detail(context)), **_connection(context, "sip")),)


def _phone_left(context: EventContext) -> tuple[Fact, ...]:
    who = _connection(context, "sip")
    return (facts.ParticipantLeft(**context.fact(**_detail(context)), **who, reason="left"),)


def _recording_mark(context: EventContext) -> tuple[Fact, ...]:
    """The start or the stop of a recording, which does not name it: only the upload does."""
    kind = facts.RecordingStarted if context.name == "RECORDING_STARTED" else facts.RecordingStopped
    place = context.session_ref()
    made_up = f"{place.run}/{context.at // 1000}"
    return (kind(**context.fact(), place=place, recording=made_up, nameless=True),)


def _recording_uploaded(context: EventContext) -> tuple[Fact, ...]:
    data = context.data
    recording = as_text(data.get("recordingSessionId"))
    if recording is None:
        raise FieldMissing("data.recordingSessionId is missing")
    started, stopped = _micros(data.get("startTimestamp")), _micros(data.get("endTimestamp"))
    seconds = as_count(data.get("durationSec"))
    fact = context.fact(**pick_fields(data, "initiatorId", "share"))
    place = context.session_ref(started, ids=(("recordingSessionId", recording),))
    copy = repeat_of(context.name, recording, started, stopped)
    return (
        facts.RecordingUploaded(
            **fact, place=place, recording=recording, started_at=started, stopped_at=stopped,
            duration_ms=None if seconds is None else seconds * 1000, copy=copy,
        ),
    )  # fmt: skip


def _broadcast(context: EventContext) -> tuple[Fact, ...]:
    """A room has one live stream at a time, and no event names it."""
    kind = facts.BroadcastStarted if context.name == "LIVE_STREAM_STARTED" else facts.BroadcastStopped
    return (kind(**context.fact(), place=context.session_ref(), activity="live_stream"),)


def _uploaded(context: EventContext) -> tuple[Fact, ...]:
    what = context.name.removesuffix("_UPLOADED").lower()
    fact = context.fact(**pick_fields(context.data, "size", "initiatorId"))
    return (facts.ArtifactCreated(**fact, place=context.session_ref(), subject_type="artifact", subject_id=what),)


_READERS: dict[str, Callable[[EventContext], tuple[Fact, ...]]] = {
    "ROOM_CREATED": _room_created,
    "ROOM_DESTROYED": _room_destroyed,
    "PARTICIPANT_JOINED": _joined,
    "PARTICIPANT_LEFT": _left,
    "DIAL_IN_STARTED": _phone_joined,
    "DIAL_IN_ENDED": _phone_left,
    "DIAL_OUT_STARTED": _phone_joined,
    "DIAL_OUT_ENDED": _phone_left,
    "SIP_CALL_IN_STARTED": _phone_joined,
    "SIP_CALL_IN_ENDED": _phone_left,
    "SIP_CALL_OUT_STARTED": _phone_joined,
    "SIP_CALL_OUT_ENDED": _phone_left,
    "RECORDING_STARTED": _recording_mark,
    "RECORDING_ENDED": _recording_mark,
    "RECORDING_UPLOADED": _recording_uploaded,
    "LIVE_STREAM_STARTED": _broadcast,
    "LIVE_STREAM_ENDED": _broadcast,
    "TRANSCRIPTION_UPLOADED": _uploaded,
    "CHAT_UPLOADED": _uploaded,
}
