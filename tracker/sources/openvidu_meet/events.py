"""What OpenVidu Meet's events mean, from 3.4 to the development version after 3.9.

    meeting…        SessionStarted SessionEnded: a room holds one meeting at a time, and no id tells meetings apart
    recording…      by status, or by the event's name where the status is unknown
    participant…    (≥ 3.9) identified by identity and joinDate, which a left event repeats

`creationDate` of the envelope is when the sending began; `data.creationDate` is when the *room* was created. Links in the
data grant access to the room (`?secret=`): facts never hold them. Fields and quirks: docs/reference/vendors/openvidu_meet.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from tracker.domain.deliveries import Record
from tracker.domain import facts
from tracker.domain.facts import EndReason, Fact, Micros, SessionRef
from tracker.sources.json_reading import (
    MAX_TIME,
    BodyUnreadable,
    as_count,
    event_name,
    person_name,
    as_object,
    without_secrets,
    pick_fields,
    read_proof,
    repeat_of,
    read_object,
    as_text,
    as_word,
)


SCHEME = "hmac-sha256"
"""The `scheme` of a proof that this vendor's `verify` makes."""

_LONGEST_SECONDS = 1e9
"""Thirty years: no media file is longer."""

# meet-ce/typings, MeetParticipantLeaveReason (3.9). `meeting_ended_by_self` is the client's name for the same reason.
_LEAVE_REASONS: dict[str, EndReason] = {
    "voluntary_leave": "left",
    "network_disconnect": "network_lost",
    "server_shutdown": "server_shutdown",
    "participant_kicked": "removed",
    "meeting_ended": "closed_by_server",
    "meeting_ended_by_self": "closed_by_server",
    "duplicate_identity": "replaced",
}

# The four final values of MeetRecordingStatus (LiveKit's EGRESS_…, in lower case since the first release).
_RECORDING_ENDS: dict[str, tuple[type[facts.RecordingFact], EndReason]] = {
    "complete": (facts.RecordingReady, "normal"),
    "failed": (facts.RecordingFailed, "server_failure"),
    "aborted": (facts.RecordingAborted, "server_failure"),
    "limit_reached": (facts.RecordingLimitReached, "timeout"),
}


class FieldMissing(Exception):
    """An event lacks a field that its meaning depends on; the message names the field. Not raised outside of this module."""


class EventContext(msgspec.Struct, frozen=True, kw_only=True):
    """What every event has: its name, `data`, when it was sent (`at`, µs), and the anomalies of the envelope.

    `is_dated` is False where the envelope has no valid creationDate; then `at` is when we received it.
    """

    name: str
    data: dict[str, Any]
    at: Micros
    is_dated: bool
    anomalies: tuple[tuple[str, str], ...]

    def fact(self, at: Micros | None = None, **detail: Any) -> dict[str, Any]:
        """The arguments of every fact, at `at` (µs, stated by `data`) or when it was sent."""
        dated = self.is_dated or at is not None
        return {
            "at": self.at if at is None else at,
            "clock": "server" if dated else "receiver",
            "precision": "us" if not dated or (at is not None and at % 1000) else "ms",
            "detail": detail,
            "anomalies": self.anomalies,
        }

    def session_ref(self, at: Micros | None = None, **more: Any) -> SessionRef:
        """The session of this event: the room, at `at` (µs) or when this was sent. Raises `FieldMissing`."""
        ids = (("roomId", self.room), *more.pop("ids", ()))
        name = as_text(self.data.get("roomName"))
        return SessionRef(at=self.at if at is None else at, room=self.room, room_name=name, ids=ids, **more)

    @property
    def room(self) -> str:
        """`roomId`, else the room that a recordingId begins with. Raises `FieldMissing`."""
        room = as_text(self.data.get("roomId")) or _recording_id_part(as_text(self.data.get("recordingId")), 0)
        if room is None:
            raise FieldMissing("data.roomId is missing")
        return room


def interpret(record: Record) -> tuple[Fact, ...]:
    """The facts of a recorded OpenVidu Meet delivery. Never raises; see `contract.Interpret`."""
    try:
        body = read_object(record.body)
    except BodyUnreadable as why:
        return (_unreadable(_context_of({}, record, has_body=False), str(why)),)
    context = _context_of(body, record)
    try:
        reader = _READERS.get(context.name)
        if reader is not None:
            return reader(context)
        if not context.name:
            return (_unreadable(context, "no event name"),)
        return (_raw(context, ("unknown_event", context.name)),)
    except FieldMissing as missing:
        return (_unreadable(context, str(missing)),)
    except Exception as error:
        return (_unreadable(context, f"unforeseen {type(error).__name__}"),)


def _context_of(body: dict[str, Any], record: Record, *, has_body: bool = True) -> EventContext:
    sent = micros(body.get("creationDate"))
    anomalies: list[tuple[str, str]] = []
    if sent is None and has_body:
        anomalies.append(("unreadable", "creationDate is no time in epoch milliseconds"))
    proof = read_proof(record) if record.origin == "webhook" else {}
    stamp = proof.get("timestamp")
    # The sender writes one number twice (openvidu-webhook.service.ts): a difference means that something in between changed it.
    if sent is not None and proof.get("scheme") == SCHEME and str(sent // 1000) != str(stamp):
        # Without the stamp itself, the time of signing: the proof holds it, and views do not depend on it.
        anomalies.append(("clock_skew", f"X-Timestamp is not the body's creationDate {sent // 1000}"))
    return EventContext(
        name=event_name(body.get("event")),
        data=as_object(body.get("data")),
        at=record.received_at if sent is None else sent,
        is_dated=sent is not None,
        anomalies=tuple(anomalies),
    )


def micros(value: object) -> Micros | None:
    """Epoch milliseconds, whole or fractional, as µs; None for anything that is not a time from 1970 to the year 10000.

    Recording dates are nanoseconds divided in doubles (1783584060123.4568): rounded, they are right to the µs.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not 0 < value <= MAX_TIME / 1000:
        return None
    moment = round(value * 1000)
    return moment if 0 < moment < MAX_TIME else None


def _unreadable(context: EventContext, why: str) -> facts.Unknown:
    return _raw(context, ("unreadable", why))


def _raw(context: EventContext, anomaly: tuple[str, str]) -> facts.Unknown:
    """The raw event, scalars only: unknown objects may hold secrets."""
    shown = {
        name: value
        for name, value in as_object(without_secrets(context.data)).items()
        if not isinstance(value, dict | list)
    }
    fact = context.fact()
    fact["detail"] = {name: value for name, value in (("event", context.name), ("data", shown)) if value}
    fact["anomalies"] = (*context.anomalies, anomaly)
    room = as_text(context.data.get("roomId"))
    return facts.Unknown(**fact, place=context.session_ref() if room else None, subject_id=room)


def _meeting_detail(context: EventContext) -> dict[str, Any]:
    return pick_fields(context.data, "status", "meetingEndAction", "owner", "config")


def _meeting_started(context: EventContext) -> tuple[Fact, ...]:
    fact = context.fact(**_meeting_detail(context))
    return (facts.SessionStarted(**fact, place=context.session_ref(starts_at=context.at), started_at=context.at),)


def _meeting_ended(context: EventContext) -> tuple[Fact, ...]:
    # `status` does not help: with the end action "delete" it still says active_meeting (handleRoomFinished).
    vendor_reason = as_word(context.data.get("reason")) or as_word(context.data.get("cause"))
    reason: EndReason = (
        "normal" if vendor_reason is None else "timeout" if vendor_reason == "max_duration_reached" else "unknown"
    )
    fact = context.fact(**_meeting_detail(context))
    return (
        facts.SessionEnded(
            **fact, place=context.session_ref(ends_at=context.at), reason=reason, vendor_reason=vendor_reason
        ),
    )


def _participant(context: EventContext) -> tuple[dict[str, Any], str, Micros | None, SessionRef]:
    """(participant, identity, joinDate, place). joinDate 0: the backend did not know it."""
    person = as_object(context.data.get("participant"))
    identity = as_text(person.get("participantIdentity"))
    if identity is None:
        raise FieldMissing("data.participant.participantIdentity is missing")
    joined = micros(person.get("joinDate"))
    return person, identity, joined, context.session_ref(joined, ids=())


def _connection(person: dict[str, Any], identity: str, joined: Micros | None) -> dict[str, Any]:
    name = person_name(person.get("participantName"))
    return {
        "connection": identity, "identity": identity, "name": name, "keyed_by_join": True, "joined_at": joined,
    }  # fmt: skip


def _participant_joined(context: EventContext) -> tuple[Fact, ...]:
    person, identity, joined, place = _participant(context)
    fact = context.fact(joined, **pick_fields(person, "role", "externalId", "metadata"))
    return (facts.ParticipantJoined(**fact, place=place, **_connection(person, identity, joined)),)


def _participant_left(context: EventContext) -> tuple[Fact, ...]:
    person, identity, joined, place = _participant(context)
    vendor_reason = as_word(person.get("leaveReason"))
    fact = context.fact(micros(person.get("leaveDate")), **pick_fields(person, "role", "externalId", "metadata"))
    reason = _LEAVE_REASONS.get(vendor_reason or "", "unknown")
    who = _connection(person, identity, joined)
    return (facts.ParticipantLeft(**fact, place=place, **who, reason=reason, vendor_reason=vendor_reason),)


def _participant_changed(context: EventContext) -> tuple[Fact, ...]:
    """A change of role or a raised hand: a known event without a kind of its own, so it is no anomaly."""
    person, identity, _, place = _participant(context)
    fact = context.fact(event=context.name, participant=without_secrets(person), **pick_fields(context.data, "origin"))
    return (facts.Unknown(**fact, place=place, actor=identity, subject_type="participant", subject_id=identity),)


def _recording(context: EventContext) -> tuple[Fact, ...]:
    data = context.data
    recording = as_text(data.get("recordingId"))
    if recording is None:
        raise FieldMissing("data.recordingId is missing")
    status = as_word(data.get("status"))
    word = (status or "").lower()
    started, stopped = micros(data.get("startDate")), micros(data.get("endDate"))
    steps, reason = _recording_steps(context.name, word, has_stop=stopped is not None)
    is_over = steps[0] not in (facts.RecordingStarted, facts.RecordingProcessing)
    egress = _recording_id_part(recording, 1)
    ids = (("recordingId", recording), *((("egress_id", egress),) if egress else ()))
    detail = pick_fields(data, "layout", "encoding", "filename", "errorCode", "error", "details")
    about: dict[str, Any] = {
        # Without a startDate (≥ 3.9: `starting`, and what never recorded) the recording's other events may know one.
        "place": context.session_ref(started, anchor=recording, ids=ids),
        "recording": recording,
        "status": status,
        "started_at": started,
    }
    if is_over:
        about |= {
            "stopped_at": stopped,
            "duration_ms": _milliseconds(data.get("duration")),
            "size_bytes": as_count(data.get("size")),
            "reason": reason,
            "vendor_reason": as_text(detail.get("error")) or as_text(detail.get("details")),
        }
    # Media stopped at endDate; the file's outcome is dated by the event.
    # A redelivery by LiveKit and the garbage collector make Meet send a step again, with another creationDate.
    copy = repeat_of(context.name, data)
    return tuple(
        step(**context.fact(stopped if step is facts.RecordingStopped else None, **detail), **about, copy=copy)
        for step in steps
    )


def _recording_steps(
    event: str, word: str, *, has_stop: bool
) -> tuple[tuple[type[facts.RecordingFact], ...], EndReason]:
    """The facts of a recording event. A final status gives two: media stopped, and the outcome of the file.

    The status decides; the event's name decides where the status is missing or unknown.
    """
    if word in _RECORDING_ENDS:
        outcome, reason = _RECORDING_ENDS[word]
        return ((facts.RecordingStopped, outcome) if has_stop or word == "complete" else (outcome,)), reason
    if word == "starting" or event == "recordingStarted":
        return (facts.RecordingStarted,), "unknown"
    if event == "recordingEnded":
        return (facts.RecordingStopped,), "unknown"
    return (facts.RecordingProcessing,), "unknown"


def _milliseconds(seconds: object) -> int | None:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    return round(seconds * 1000) if 0 <= seconds < _LONGEST_SECONDS else None


def _recording_id_part(recording: str | None, part: int) -> str | None:
    """A part of `{roomId}--{egressId}--{uid}` (recording.helper.ts). It is split from the right: a room may contain `--`."""
    parts = (recording or "").rsplit("--", 2)
    return parts[part] or None if len(parts) == 3 else None


def _test(context: EventContext) -> tuple[Fact, ...]:
    return (facts.Test(**context.fact(**pick_fields(context.data, "message")), subject_type="source"),)


_READERS: dict[str, Callable[[EventContext], tuple[Fact, ...]]] = {
    "meetingStarted": _meeting_started,
    "meetingEnded": _meeting_ended,
    "recordingStarted": _recording,
    "recordingUpdated": _recording,
    "recordingEnded": _recording,
    "participantJoined": _participant_joined,
    "participantLeft": _participant_left,
    "participantRoleChanged": _participant_changed,
    "participantHandChanged": _participant_changed,
    "testEvent": _test,
}


_AFTERWARDS = {"none": "OPEN", "close": "CLOSED", "delete": "DELETED"}
"""What becomes of the room when its meeting ends, by its `meetingEndAction`."""


def room_state(end: Mapping[str, Any] | None) -> str:
    """ACTIVE, OPEN, CLOSED or DELETED: what OpenVidu Meet's own list calls the room. See `Vendor.room_state`."""
    if end is None:
        return "ACTIVE"
    # `status` of an ended meeting cannot be trusted: with the end action "delete" it still says active_meeting.
    return "CLOSED" if end.get("status") == "closed" else _AFTERWARDS.get(str(end.get("meetingEndAction")), "OPEN")
