"""What BigBlueButton's events mean.

    meeting-…       SessionStarted SessionEnded; a breakout room names its parent
    user-…          ParticipantJoined ParticipantLeft by internal user id, which may leave and return
    user-audio-… user-cam-… meeting-screenshare-…   StreamPublished StreamUnpublished
    rap-…           the steps of a recording; one recording for each published format
    analytics       the whole meeting, stated afterwards: ParticipantAttended for each stay
    other known events   shown raw, without an anomaly

One delivery may hold several events. Each comes mapped (`data.id`), or raw (`envelope.name`) with a hook of `getRaw`; the same
event in both forms is one entry. Fields and quirks: docs/reference/vendors/bigbluebutton.md.

LIMIT: events without an id of their own are taken for the same event if they lie in the same two seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec

from tracker.domain import facts
from tracker.domain.deliveries import Record
from tracker.domain.facts import EventCopy, Fact, Micros, SessionRef
from tracker.sources.bigbluebutton.wire import RECORDING_READY, Content, external_id, name_of, read, unverified_claims
from tracker.sources.json_reading import (
    MAX_TIME,
    BodyUnreadable,
    as_count,
    as_object,
    as_text,
    iso_moment,
    person_name,
    pick_fields,
    repeat_of,
)

SECONDS_BELOW = 10**11
"""A time below is in seconds, others in milliseconds: events of the recording pipeline are in seconds."""
SAME_EVENT: Micros = 2_000_000
DIAL_IN = "v_"
"""How the internal id of somebody on the phone begins."""
NO_PARENT = "bbb-none"

_RAW_NAMES = {
    "MeetingCreatedEvtMsg": "meeting-created", "MeetingEndedEvtMsg": "meeting-ended", "MeetingDestroyedEvtMsg": "meeting-ended",
    "MeetingEndingEvtMsg": "", "UserJoinedMeetingEvtMsg": "user-joined", "UserLeftMeetingEvtMsg": "user-left",
    "UserJoinedVoiceConfToClientEvtMsg": "user-audio-voice-enabled", "UserLeftVoiceConfToClientEvtMsg": "user-audio-voice-disabled",
    "UserMutedVoiceEvtMsg": "user-audio-muted", "UserBroadcastCamStartedEvtMsg": "user-cam-broadcast-start",
    "UserBroadcastCamStoppedEvtMsg": "user-cam-broadcast-end", "CamStreamSubscribedInSfuEvtMsg": "",
    "ScreenshareRtmpBroadcastStartedEvtMsg": "meeting-screenshare-started",
    "ScreenshareRtmpBroadcastStoppedEvtMsg": "meeting-screenshare-stopped", "PresenterAssignedEvtMsg": "user-presenter-assigned",
    "PresenterUnassignedEvtMsg": "user-presenter-unassigned", "RecordingStatusChangedEvtMsg": "meeting-recording-changed",
    "GroupChatMessageBroadcastEvtMsg": "chat-group-message-sent", "SetCurrentPresentationEvtMsg": "meeting-presentation-changed",
    "UserEmojiChangedEvtMsg": "user-emoji-changed", "UserRaiseHandChangedEvtMsg": "user-raise-hand-changed",
    "PollStartedEvtMsg": "poll-started", "UserRespondedToPollRecordMsg": "poll-responded", "PadContentEvtMsg": "pad-content",
    "TranscriptUpdatedEvtMsg": "transcript-updated",
}  # fmt: skip
"""The names of raw messages → those of mapped events; "" is known and has no counterpart."""

_NOTES = frozenset({
    "meeting-recording-started", "meeting-recording-stopped", "meeting-recording-unhandled", "meeting-recording-changed",
    "meeting-presentation-changed", "user-audio-muted", "user-audio-unmuted", "user-presenter-assigned",
    "user-presenter-unassigned", "user-emoji-changed", "user-raise-hand-changed", "chat-group-message-sent", "poll-started",
    "poll-responded", "pad-content", "transcript-updated", "rap-published", "rap-unpublished", "rap-deleted",
})  # fmt: skip

_SHOWN = (
    "record-id", "workflow", "emoji", "raise-hand", "muted", "listening-only", "sharing-mic", "chat-id", "presentation-id", "recording",
    "locale", "final",
)  # fmt: skip
"""Fields of other events that are shown. Texts of people (chats, polls, notes, transcripts) stay in the record."""


class FieldMissing(Exception):
    """An event lacks a field that its meaning depends on; the message names the field. Not raised outside of this module."""


class EventContext(msgspec.Struct, frozen=True, kw_only=True):
    """One event, mapped or raw. `at`: when it was mapped or sent (µs), else when we received it, and `is_dated` is False."""

    name: str
    meeting: dict[str, Any]
    user: dict[str, Any]
    fields: dict[str, Any]
    """Of a mapped event `attributes`, of a raw one `body`."""
    at: Micros
    is_dated: bool
    is_known_raw: bool = False

    @property
    def run(self) -> str:
        """The internal id of the meeting. Raises `FieldMissing`."""
        run = as_text(self.meeting.get("internal-meeting-id"))
        if run is None:
            raise FieldMissing("internal-meeting-id is missing")
        return run

    @property
    def person(self) -> str:
        """The internal id of the user: the external one is missing or empty at times. Raises `FieldMissing`."""
        person = as_text(self.user.get("internal-user-id"))
        if person is None:
            raise FieldMissing("internal-user-id is missing")
        return person

    def fact(self, *ids: str | None, **detail: Any) -> dict[str, Any]:
        """The arguments of every fact. `ids`: what identifies the event besides its name, meeting and time."""
        return {
            "at": self.at,
            "clock": "server" if self.is_dated else "receiver",
            "precision": "ms" if self.is_dated else "us",
            "detail": detail,
            "copy": _copy(self.name, as_text(self.meeting.get("internal-meeting-id")), *ids, at=self.at),
        }

    def session_ref(self, **more: Any) -> SessionRef:
        """The meeting of this event. Raises `FieldMissing`."""
        run = self.run
        external = as_text(self.meeting.get("external-meeting-id"))
        ids = (
            ("internal-meeting-id", run),
            *((("external-meeting-id", external),) if external else ()),
            *more.pop("ids", ()),
        )
        name = as_text(self.meeting.get("name"))
        return SessionRef(at=self.at, run=run, room=external, room_name=name, ids=ids, **more)


def _copy(*ids: str | None, at: Micros) -> EventCopy:
    return repeat_of(*ids, at // SAME_EVENT)


def interpret(record: Record) -> tuple[Fact, ...]:
    """The facts of a recorded BigBlueButton delivery. Never raises; see `contract.Interpret`."""
    try:
        content = read(record.body)
    except BodyUnreadable as why:
        return (_unreadable(record, str(why)),)
    if content.analytics is not None:
        return _analytics(content.analytics, record)
    if content.token:
        return _recording_ready(content, record)
    return tuple(fact for event in content.events for fact in _facts_of(event, record))


def _facts_of(event: dict[str, Any], record: Record) -> tuple[Fact, ...]:
    context = _context_of(event, record)
    try:
        reader = READERS.get(context.name)
        if reader is not None:
            return reader(context)
        if context.name in _NOTES or context.is_known_raw or context.name.startswith("rap-"):
            return (_note(context),)
    except FieldMissing as missing:
        return (_note(context, ("unreadable", str(missing))),)
    return (_note(context, ("unknown_event", context.name) if context.name else ("unreadable", "no event name")),)


def _context_of(event: dict[str, Any], record: Record) -> EventContext:
    if "envelope" in event:
        return _raw_context(event, record)
    data = as_object(event.get("data"))
    attributes = as_object(data.get("attributes"))
    at = micros(as_object(data.get("event")).get("ts"))
    return EventContext(
        name=name_of(event), meeting=as_object(attributes.get("meeting")), user=as_object(attributes.get("user")),
        fields=attributes, at=record.received_at if at is None else at, is_dated=at is not None,
    )  # fmt: skip


def _raw_context(event: dict[str, Any], record: Record) -> EventContext:
    """A raw message as its mapped counterpart."""
    envelope, core = as_object(event.get("envelope")), as_object(event.get("core"))
    header, body = as_object(core.get("header")), as_object(core.get("body"))
    routing = as_object(envelope.get("routing"))
    sent = name_of(event)
    name = _RAW_NAMES.get(sent, sent)
    props = as_object(body.get("props"))
    meeting_props = as_object(props.get("meetingProp"))
    meeting = {
        "internal-meeting-id": header.get("meetingId") or routing.get("meetingId") or meeting_props.get("intId"),
        "external-meeting-id": meeting_props.get("extId"),
        "name": meeting_props.get("name"),
        "is-breakout": meeting_props.get("isBreakout"),
        "parent-id": as_object(props.get("breakoutProps")).get("parentId"),
        "create-time": as_object(props.get("durationProps")).get("createdTime"),
        "record": as_object(props.get("recordProp")).get("record"),
    }
    user = {
        "internal-user-id": body.get("intId") or body.get("userId") or header.get("userId") or routing.get("userId"),
        "external-user-id": body.get("extId"),
        "name": body.get("name"),
        "role": body.get("role"),
        "stream": body.get("stream"),
    }
    at = micros(envelope.get("timestamp"))
    is_leave = name == "user-left"
    return EventContext(
        name=name or sent, meeting={key: value for key, value in meeting.items() if value not in (None, "")},
        # A raw leave has the whole user as well, which marks a mapped one as made up.
        user={key: value for key, value in user.items() if value is not None and not (is_leave and key in {"name", "role"})},
        fields=body, at=record.received_at if at is None else at, is_dated=at is not None, is_known_raw=bool(header) and bool(sent),
    )  # fmt: skip


def micros(value: object) -> Micros | None:
    """Epoch seconds or milliseconds, also as text, as µs; None for anything that is not a time from 1970 to the year 10000."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 15:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < MAX_TIME / 1_000:
        return None
    at = round(value * (1_000_000 if value < SECONDS_BELOW else 1_000))
    return at if 0 < at < MAX_TIME else None


def is_true(value: object) -> bool:
    """Booleans are texts after bbb-webhooks was restarted."""
    return value is True or value == "true"


def _unreadable(record: Record, why: str) -> facts.Unknown:
    return facts.Unknown(at=record.received_at, clock="receiver", precision="us", anomalies=(("unreadable", why),))


def _note(context: EventContext, *anomalies: tuple[str, str]) -> facts.Unknown:
    """The event by its name, with the fields that hold no text of people."""
    shown = {
        name: value
        for name, value in pick_fields(context.fields, *_SHOWN).items()
        if not isinstance(value, dict | list)
    }
    internal = as_text(context.user.get("internal-user-id"))
    has_run = as_text(context.meeting.get("internal-meeting-id")) is not None
    # The owner of a poll stands for every answer in it.
    actor = None if context.name == "poll-responded" else internal
    about: dict[str, Any] = {"subject_type": "participant", "subject_id": actor} if actor else {}
    fact = context.fact(internal, *_note_ids(context), event=context.name, **shown)
    place = context.session_ref() if has_run else None
    return facts.Unknown(**fact, **about, place=place, actor=actor, anomalies=anomalies)


def _note_ids(context: EventContext) -> Iterator[str]:
    """What tells apart notes of one person in the same moment."""
    fields = context.fields
    for name in ("chat-message", "msg", "poll"):
        yield str(as_object(fields.get(name)).get("id"))
    for name in ("emoji", "raise-hand", "muted", "record-id", "workflow", "step"):
        yield str(fields.get(name))


# --- meetings ---------------------------------------------------------------------------------------------------------


def _meeting_created(context: EventContext) -> tuple[Fact, ...]:
    meeting = context.meeting
    created = micros(meeting.get("create-time"))
    parent = as_text(meeting.get("parent-id"))
    is_breakout = is_true(meeting.get("is-breakout"))
    detail = pick_fields(meeting, "record", "max-users", "metadata")
    if is_breakout:
        detail["is-breakout"] = True
    place = context.session_ref(
        starts_at=context.at if created is None else created,
        parent=parent if is_breakout and parent != NO_PARENT else None,
    )
    return (facts.SessionStarted(**context.fact(**detail), place=place, started_at=created),)


def _meeting_ended(context: EventContext) -> tuple[Fact, ...]:
    return (facts.SessionEnded(**context.fact(), place=context.session_ref(ends_at=context.at), reason="normal"),)


# --- people -----------------------------------------------------------------------------------------------------------


def _who(context: EventContext) -> dict[str, Any]:
    person = context.person
    return {
        "connection": person,
        "identity": external_id(context.user),
        "name": person_name(context.user.get("name")),
        "person": "sip" if person.startswith(DIAL_IN) else "standard",
        "reuses_id": True,
        "place": context.session_ref(),
    }


def _user_joined(context: EventContext) -> tuple[Fact, ...]:
    who = _who(context)
    detail = pick_fields(context.user, "role", "guest")
    platform, address = as_text(context.user.get("user-agent")), as_text(context.user.get("ip-address"))
    fact = context.fact(context.person, **detail)
    return (facts.ParticipantJoined(**fact, **who, platform=platform, ip=address),)


def _user_left(context: EventContext) -> tuple[Fact, ...]:
    who = _who(context)
    if {"name", "role"} & context.user.keys():
        # Made up by bbb-webhooks at the end of the meeting, for everybody whose leave it did not see.
        fact = context.fact(context.person)
        return (facts.ParticipantAttended(**fact, **who, left_at=context.at, reason="closed_by_server"),)
    vendor_reason = as_text(context.fields.get("reasonCode")) or as_text(context.fields.get("reason"))
    is_ejected = is_true(context.fields.get("eject"))
    fact = context.fact(context.person)
    return (
        facts.ParticipantLeft(**fact, **who, reason="removed" if is_ejected else "left", vendor_reason=vendor_reason),
    )


# --- streams ----------------------------------------------------------------------------------------------------------


def _stream(context: EventContext, stream: str, media: str, label: str, *, begins: bool) -> tuple[Fact, ...]:
    kind = facts.StreamPublished if begins else facts.StreamUnpublished
    person = as_text(context.user.get("internal-user-id"))
    return (
        kind(
            **context.fact(stream), place=context.session_ref(), stream=stream, connection=person,
            identity=external_id(context.user), media=media, label=label,
        ),
    )  # fmt: skip


def _voice_enabled(context: EventContext) -> tuple[Fact, ...]:
    if is_true(context.fields.get("listening-only") or context.user.get("listening-only")):
        return (_note(context),)
    return _stream(context, f"{context.person}/audio", "audio", "microphone", begins=True)


def _voice_disabled(context: EventContext) -> tuple[Fact, ...]:
    return _stream(context, f"{context.person}/audio", "audio", "microphone", begins=False)


def _camera(context: EventContext) -> tuple[Fact, ...]:
    stream = as_text(context.user.get("stream")) or f"{context.person}/camera"
    return _stream(context, stream, "video", "camera", begins=context.name == "user-cam-broadcast-start")


def _screenshare(context: EventContext) -> tuple[Fact, ...]:
    """A meeting has one screen at a time; the mapped event does not name it."""
    begins = context.name == "meeting-screenshare-started"
    return _stream(context, f"{context.run}/screen", "video", "screen", begins=begins)


# --- recordings -------------------------------------------------------------------------------------------------------


def _recording_step(context: EventContext) -> tuple[Fact, ...]:
    """A step of the recording scripts. Only a published format, and a step that failed, say something about a file."""
    fields = context.fields
    record = as_text(fields.get("record-id")) or as_text(context.meeting.get("internal-meeting-id"))
    if record is None:
        raise FieldMissing("record-id is missing")
    workflow = as_text(fields.get("workflow"))
    is_failed = "success" in fields and not is_true(fields["success"])
    is_published = context.name == "rap-publish-ended" and not is_failed
    if not is_failed and not is_published:
        return (_note(context),)
    recording = record if workflow is None else f"{record}/{workflow}"
    about = as_object(fields.get("recording"))
    playback = as_object(about.get("playback"))
    started, stopped = micros(about.get("start-time")), micros(about.get("end-time"))
    # The first step of the script knows only the record, which is the meeting's internal id unless it was imported.
    run = as_text(context.meeting.get("internal-meeting-id")) or record
    place = SessionRef(
        at=context.at if started is None else started, run=run, room=as_text(context.meeting.get("external-meeting-id")),
        ids=(("internal-meeting-id", run), ("record-id", record)),
    )  # fmt: skip
    file: dict[str, Any] = {"place": place, "recording": recording, "mode": workflow}
    if not is_published:
        fact = context.fact(recording)
        return (
            facts.RecordingFailed(
                **fact, **file, status=context.name, reason="server_failure", vendor_reason=context.name
            ),
        )
    found: list[Fact] = []
    # No other event says when it began and stopped.
    for kind, at in ((facts.RecordingStarted, started), (facts.RecordingStopped, stopped)):
        if at is not None:
            stated = context.fact(recording, kind.__name__) | {"at": at, "clock": "server", "precision": "ms"}
            found.append(kind(**stated, **file, reason="normal" if kind is facts.RecordingStopped else None))
    ready = facts.RecordingReady(
        **context.fact(recording, **pick_fields(fields, "step-time")), **file, status=context.name, started_at=started,
        stopped_at=stopped, size_bytes=_size(about.get("size")), url=as_text(playback.get("link")), reason="normal",
    )  # fmt: skip
    return (*found, ready)


def _size(value: object) -> int | None:
    """Bytes, as a number or as text."""
    is_digits = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19
    return as_count(int(value) if isinstance(value, str) and is_digits else value)


def _recording_ready(content: Content, record: Record) -> tuple[Fact, ...]:
    """The callback of a meeting's creator: one recording is ready. It has no time."""
    claims = unverified_claims(content.token)
    record_id, room = as_text(claims.get("record_id")), as_text(claims.get("meeting_id"))
    if record_id is None:
        return (_unreadable(record, "record_id is missing"),)
    ids = (("internal-meeting-id", record_id), ("record-id", record_id))
    place = SessionRef(at=record.received_at, run=record_id, room=room, ids=ids)
    return (
        facts.Unknown(
            at=record.received_at, clock="receiver", precision="us", place=place, subject_type="recording", subject_id=record_id,
            detail={"event": RECORDING_READY},
        ),
    )  # fmt: skip


# --- the analytics callback --------------------------------------------------------------------------------------------


def _analytics(body: dict[str, Any], record: Record) -> tuple[Fact, ...]:
    run, room = as_text(body.get("internal_meeting_id")), as_text(body.get("meeting_id"))
    if run is None:
        return (_unreadable(record, "internal_meeting_id is missing"),)
    data = as_object(body.get("data"))
    start, finish = iso_moment(data.get("start")), iso_moment(data.get("finish"))
    at = record.received_at if finish is None else finish
    clock: facts.Clock = "receiver" if finish is None else "server"
    ids = (("internal-meeting-id", run), *((("external-meeting-id", room),) if room else ()))
    place = SessionRef(at=at, run=run, room=room, starts_at=start, ids=ids)
    detail = {name: value for name, value in pick_fields(data, "duration").items() if isinstance(value, int | float)}
    ready = facts.AnalyticsReady(at=at, clock=clock, place=place, detail=detail, ended_at=finish)
    return (ready, *_attendees(data.get("attendees"), at, clock, place))


def _attendees(value: object, at: Micros, clock: facts.Clock, place: SessionRef) -> Iterator[Fact]:
    for item in cast("list[Any]", value) if isinstance(value, list) else ():
        attendee = as_object(item)
        identity = as_text(attendee.get("ext_user_id"))
        if identity is None:
            continue
        joins, leaves = _moments(attendee.get("joins")), _moments(attendee.get("leaves"))
        for n in range(max(len(joins), len(leaves))):
            yield facts.ParticipantAttended(
                at=at, clock=clock, place=place, connection="", identity=identity, name=person_name(attendee.get("name")),
                reuses_id=True, joined_at=joins[n] if n < len(joins) else None, left_at=leaves[n] if n < len(leaves) else None,
                reason="left", detail={"moderator": True} if is_true(attendee.get("moderator")) else {},
            )  # fmt: skip


def _moments(value: object) -> list[Micros]:
    found = (iso_moment(item) for item in cast("list[Any]", value)) if isinstance(value, list) else ()
    return sorted(at for at in found if at is not None)


READERS: dict[str, Callable[[EventContext], tuple[Fact, ...]]] = {
    "meeting-created": _meeting_created,
    "meeting-ended": _meeting_ended,
    "user-joined": _user_joined,
    "user-left": _user_left,
    "user-audio-voice-enabled": _voice_enabled,
    "user-audio-voice-disabled": _voice_disabled,
    "user-cam-broadcast-start": _camera,
    "user-cam-broadcast-end": _camera,
    "meeting-screenshare-started": _screenshare,
    "meeting-screenshare-stopped": _screenshare,
} | {
    f"rap-{step}-{moment}": _recording_step
    for step in ("archive", "sanity", "post-archive", "process", "post-process", "publish", "post-publish")
    for moment in ("started", "ended")
}
"""Mapped names → what reads them."""
