"""What plugNmeet's events mean: those that its server relays from LiveKit, and its own.

A relayed event keeps LiveKit's `id`, `created_at`, participant and track. plugNmeet fills in `room.sid`, metadata and limits
from its own store, by room *name*, when it processes the event (plugNmeet-server `pkg/models/webhook_*.go`).

Its own events are stamped when they are *sent*. `recording_info.record_id` groups a recording's events; the recorder's
success flag is not forwarded, so only `recorder_msg` shows a failure (plugNmeet-recorder since 1.5
`pkg/controllers/recorder_end.go:82-97`, `recorder_start.go:64`, `transcoder_service.go:164-178`: "success" or an error's text;
before: see `_NO_FAILURE`).

LIMIT: an event that plugNmeet processes only after the next run of its room was created has the next run's sid, and is
counted there. The event alone does not show it.
LIMIT: from 2.4, a track of a hybrid native client names the sid of a twin whose join is never sent (webhook.go:76-87).
LIMIT: a merged recording has its own record_id and only a `recording_proceeded`: its start is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, cast


from tracker.domain.deliveries import Record
from tracker.domain import facts
from tracker.domain.facts import EndReason, Fact, Micros, SessionRef
from tracker.sources import livekit_protocol, protojson
from tracker.sources.json_reading import person_name
from tracker.sources.protojson import Message


_RESUMED_AFTER = 5_000_000
"""A LiveKit room announced later than this after its creation existed before: a node died and another took it over."""

_FIRST_JOIN_WITHIN = 60_000_000
"""The first join creates LiveKit's room. In a later join, `creation_time` may be that of an older run (see LIMIT)."""

_LONGEST_NAME = 200

# pkg/config/constants.go:9-14. LiveKit's kind is STANDARD for the bots, and absent in versions without kinds.
_BOTS = {"RECORDER_BOT": "egress", "RTMP_BOT": "egress"}
_PREFIXES = {"ingres_": "ingress", "pnm_agent-": "agent", "pnm_tts_agent-": "agent", "sip_": "sip"}
_CALLER = "sip_"

_ENVELOPE = ("event", "id", "created_at", "num_dropped", "room")
_SHOWN_APART = protojson.spellings(*_ENVELOPE)
_KNOWN = protojson.spellings(
    *_ENVELOPE, "participant", "recording_info", "speech_service", "track", "analytics", "room_artifact"
)


class EventContext(livekit_protocol.Envelope, frozen=True, kw_only=True):
    """What every event has.

    `created_at` is when LiveKit queued a relayed event, or when plugNmeet sent its own. `room_created_at` is
    `room.creation_time`: plugNmeet's in its own events, LiveKit's in relayed ones.
    """

    known: ClassVar[frozenset[str]] = _KNOWN

    room_title: str | None
    metadata: Message

    def session_ref(
        self, at: Micros | None = None, *, starts_at: Micros | None = None, ends_at: Micros | None = None
    ) -> SessionRef | None:
        """The session of this event; None where the event names no room."""
        if self.run is None and self.room is None:
            return None
        named = {"room_sid": self.run, "room_id": self.room}
        return SessionRef(
            at=self.at if at is None else at,
            run=self.run,
            room=self.room,
            room_name=self.room_title,
            starts_at=starts_at,
            ends_at=ends_at,
            ids=tuple((name, value) for name, value in named.items() if value is not None),
        )

    def raw(self, anomaly: str, why: str) -> tuple[Fact, ...]:
        """See `Envelope`."""
        fact = self.fact(event=self.name)
        fact["detail"] |= protojson.unknown_fields(self.message, _SHOWN_APART)
        fact["anomalies"] = (*self.anomalies, (anomaly, why))
        return (facts.Unknown(**fact, place=self.session_ref()),)


def event_name(message: Message) -> str:
    """The event's name in lower case: before 2024-04-09 plugNmeet's own were in upper case. "" where there is none."""
    return (message.text("event") or "").lower()[:_LONGEST_NAME]


def event_context(message: Message, received_at: Micros) -> EventContext:
    """The context of an event. `received_at` (µs) counts where it states no time (before 2024-04-23)."""
    room = message.object("room")
    metadata = _metadata(room)
    own = message.moment("created_at", "s")
    dropped = message.whole("num_dropped") or 0
    return EventContext(
        name=event_name(message),
        message=message,
        at=received_at if own is None else own,
        created_at=own,
        # LiveKit sends a minimal room with tracks; plugNmeet then writes "0", which reads as absent.
        room_created_at=room.moment("creation_time_ms", "ms") or room.moment("creation_time", "s"),
        run=room.text("sid"),
        room=room.text("room_id"),
        # Only the documentation has `room.name`; the title is what people call the room.
        room_title=room.text("name") or metadata.text("room_title"),
        metadata=metadata,
        anomalies=(("number_mismatch", f"sender reports {dropped} dropped webhooks"),) if dropped > 0 else (),
    )


def _metadata(room: Message) -> Message:
    """`room.metadata`, a JSON text. It may hold an encryption key, a SIP pin and links, so only single fields are read."""
    value = protojson.parse_nested(room.text("metadata"))
    return Message(cast("dict[str, Any]", value)) if isinstance(value, dict) else Message({})


def _room_detail(context: EventContext) -> dict[str, Any]:
    given = context.metadata.value("extra_data")
    inner = protojson.parse_nested(given) if isinstance(given, str) else None
    return {
        "parent_room_id": context.metadata.text("parent_room_id"),
        "is_breakout_room": context.metadata.flag("is_breakout_room") or None,
        "extra_data": protojson.clean_value(inner if isinstance(inner, dict | list) else given),
    }


def room_created(context: EventContext) -> tuple[Fact, ...]:
    """The run was created by plugNmeet; perhaps nobody ever joins it."""
    created = context.room_created_at or context.at
    place = context.session_ref(created, starts_at=context.room_created_at or context.created_at)
    return (
        facts.SessionCreated(
            **context.fact(context.room_created_at, **_room_detail(context)), place=place, started_at=created
        ),
    )


def room_started(context: EventContext) -> tuple[Fact, ...]:
    """LiveKit's room began, or was announced again: the event alone decides, so that the order of arrival does not matter."""
    created = context.room_created_at or context.at
    detail = _room_detail(context)
    # Up to 1.6, plugNmeet created LiveKit's room, whose `RM_…` sid it used, before the first join (room_auth.go:131).
    early = (context.run or "").startswith("RM_")
    if context.created_at is not None and context.created_at - created > _RESUMED_AFTER and not early:
        return (
            facts.SessionResumed(
                **context.fact(**detail), place=context.session_ref(starts_at=created), started_at=created
            ),
        )
    place = context.session_ref(created, starts_at=context.room_created_at or context.created_at)
    return (facts.SessionStarted(**context.fact(context.room_created_at, **detail), place=place, started_at=created),)


def room_ended(context: EventContext) -> tuple[Fact, ...]:
    """`session_ended` (plugNmeet) and `room_finished` (LiveKit) report the same end. Neither gives a reason."""
    fact = context.end(context.room_created_at, event=context.name, **_room_detail(context))
    place = context.session_ref(starts_at=context.room_created_at, ends_at=fact["at"])
    return (facts.SessionEnded(**fact, place=place, started_at=context.room_created_at, reason="unknown"),)


def _identity(person: Message) -> str | None:
    """The person. A caller's number has no `+` in joined and left, but has one in tracks (webhook_user.go:42-46)."""
    identity = person.text("identity")
    return identity.replace("+", "") if identity is not None and identity.startswith(_CALLER) else identity


def _person_kind(person: Message) -> str:
    """The kind of participant: plugNmeet's own identities are more specific than LiveKit's kind."""
    identity = person.text("identity") or ""
    by_prefix = next((kind for prefix, kind in _PREFIXES.items() if identity.startswith(prefix)), None)
    return _BOTS.get(identity) or by_prefix or livekit_protocol.person_kind(person)


def participant(context: EventContext) -> tuple[Fact, ...]:
    """A join or a leave; a leave states the time of its join."""
    person = context.message.object("participant")
    connection = person.text("sid")
    if connection is None:
        return context.unreadable(f"{context.name} without participant.sid")
    joined_at, precision, anomalies = livekit_protocol.stated_join(context, person)
    first = (
        joined_at is not None
        and context.room_created_at is not None
        and 0 <= joined_at - context.room_created_at <= _FIRST_JOIN_WITHIN
    )
    about: dict[str, Any] = {
        "place": context.session_ref(joined_at, starts_at=context.room_created_at if first else None),
        "connection": connection,
        "identity": _identity(person),
        "name": person_name(person.text("name")),
        "person": _person_kind(person),
        "joined_at": joined_at,
    }
    detail = livekit_protocol.person_detail(person)
    if context.name == "participant_joined":
        # Sent when the connection became active; `created_at` is later (queueing) and cut to the second.
        fact = context.fact(joined_at, precision, **detail)
        fact["anomalies"] += anomalies
        return (facts.ParticipantJoined(**fact, **about),)
    reason, vendor_reason = livekit_protocol.disconnect_reason(person)
    return (
        facts.ParticipantLeft(**context.end(joined_at, **detail), **about, reason=reason, vendor_reason=vendor_reason),
    )


def track(context: EventContext) -> tuple[Fact, ...]:
    """A track was published or unpublished; of the person there are only sid and identity."""
    return livekit_protocol.track(context, _identity(context.message.object("participant")))


_GO_SUCCESS = "success"
_OLD_PROCEEDED = "process completed"
_NO_FAILURE = {_GO_SUCCESS, "started", "no error", _OLD_PROCEEDED}
"""What a recorder says when nothing went wrong. The TypeScript recorder (plugNmeet-recorder up to 1.4.3) says "started"
(src/recorder.ts), nothing or "no error" at the end (src/PNMRecorder.ts) and "process completed"
(src/services/recordingService.ts)."""

_BYTES_A_MB = 1_000_000
"""transcoder_service.go:292: `float32(stat.Size()) / 1000000.0`, rounded to two places."""
_BYTES_A_MIB = 1024 * 1024
"""recordingService.ts of the TypeScript recorder: `(stat.size / (1024 * 1024)).toFixed(2)`."""

_LARGEST = 2**53

# RoomArtifactType, plugnmeet_room_artifacts.proto. The wire has names; the documentation's samples have numbers.
_ARTIFACTS = (
    "UNKNOWN_ARTIFACT", "MEETING_ANALYTICS", "MEETING_SUMMARY", "MEETING_SUMMARY_USAGE", "SPEECH_TRANSCRIPTION",
    "SPEECH_TRANSCRIPTION_USAGE", "SYNTHESIZED_SPEECH_USAGE", "CHAT_TRANSLATION_USAGE",
    "AI_TEXT_CHAT_INTERACTION_USAGE", "AI_TEXT_CHAT_SUMMARIZATION_USAGE",
)  # fmt: skip
_USAGES = ("token_usage", "duration_usage", "character_count_usage")


def _recorder_word(info: Message) -> str:
    return (info.text("recorder_msg") or "").strip().lower()


def _failure(info: Message) -> str | None:
    """The recorder's error message; None for a success, and where there is no message."""
    word = _recorder_word(info)
    return protojson.mask_addresses(info.text("recorder_msg")) if word and word not in _NO_FAILURE else None


def _reason(info: Message) -> EndReason:
    if _failure(info) is not None:
        return "server_failure"
    return "normal" if _recorder_word(info) else "unknown"


def recording(context: EventContext) -> tuple[Fact, ...]:
    """A step of a recording."""
    info = context.message.object("recording_info")
    name = info.text("record_id")
    if name is None:
        return context.unreadable(f"{context.name} without recording_info.record_id")
    failure = _failure(info)
    base = context.fact(
        recorder_id=info.text("recorder_id"), recorder_msg=protojson.mask_addresses(info.text("recorder_msg"))
    )
    about: dict[str, Any] = {"place": context.session_ref(), "recording": name}
    if context.name == "start_recording":
        return (facts.RecordingStarted(**base, **about),)
    if context.name == "recording_proceeded":
        made: dict[str, Any] = {"url": protojson.strip_query(info.text("file_path")), "size_bytes": _size(info)}
        return (facts.RecordingReady(**base, **about, **made),)
    failed = facts.RecordingFailed(
        **(base | {"anomalies": ()}), **about, reason="server_failure", vendor_reason=failure
    )
    if context.name == "end_recording":
        stopped = facts.RecordingStopped(**base, **about, reason=_reason(info), vendor_reason=failure)
        return (stopped,) if failure is None else (stopped, failed)
    return (facts.RecordingProcessing(**base, **about),) if failure is None else (failed,)


def _size(info: Message) -> int | None:
    """`file_size`, stated in MB (in MiB by the TypeScript recorder), as bytes; None for 0, which means unknown."""
    size = info.number("file_size")
    unit = _BYTES_A_MIB if _recorder_word(info) == _OLD_PROCEEDED else _BYTES_A_MB
    if size is None or not math.isfinite(size) or not 0 < size * unit < _LARGEST:
        return None
    return round(size * unit)


def broadcast(context: EventContext) -> tuple[Fact, ...]:
    """RTMP to the outside. Facts never hold the address, which ends in a stream key; errors that repeat it are masked."""
    info = context.message.object("recording_info")
    activity = info.text("record_id")
    if activity is None:
        return context.unreadable(f"{context.name} without recording_info.record_id")
    base = context.fact(
        recorder_id=info.text("recorder_id"), recorder_msg=protojson.mask_addresses(info.text("recorder_msg"))
    )
    about: dict[str, Any] = {"place": context.session_ref(), "activity": activity}
    if context.name == "start_rtmp":
        return (facts.BroadcastStarted(**base, **about),)
    return (facts.BroadcastStopped(**base, **about, reason=_reason(info), vendor_reason=_failure(info)),)


def transcription(context: EventContext) -> tuple[Fact, ...]:
    """Speech to text of one person (up to 2.0). The end states the duration in whole seconds, none where it was under one."""
    speech = context.message.object("speech_service")
    person = speech.text("user_id")
    if person is None:
        return context.unreadable(f"{context.name} without speech_service.user_id")
    about: dict[str, Any] = {"activity": person, "identity": person}
    if context.name == "speech_to_text_session_started":
        return (facts.TranscriptionStarted(**context.fact(), **about, place=context.session_ref()),)
    usage = _seconds(speech)
    # redis/speech_to_text.go:71-89 (v2.0.0): the seconds since this person's last start.
    lasted = usage * 1_000_000 if usage and context.created_at is not None else None
    started_at = context.at - lasted if lasted is not None and lasted < context.at else None
    fact = context.fact(total_usage_s=usage)
    return (
        facts.TranscriptionEnded(
            **fact, **about, place=context.session_ref(started_at), started_at=started_at, reason="unknown"
        ),
    )


def _seconds(speech: Message) -> int | None:
    usage = speech.whole("total_usage")
    return usage if usage is not None and 0 < usage < _LARGEST else None


def transcription_usage(context: EventContext) -> tuple[Fact, ...]:
    """The usage of the whole run, sent after its end."""
    usage = _seconds(context.message.object("speech_service"))
    return (
        facts.TranscriptionUsage(
            **context.fact(total_usage_s=usage), place=context.session_ref(), subject_type="transcription"
        ),
    )


def artifact(context: EventContext) -> tuple[Fact, ...]:
    """A file made from the call, or the usage of making it."""
    artifact_info = context.message.object("room_artifact")
    about = artifact_info.object("metadata")
    file, job, user = about.object("file_info"), about.object("provider_job_info"), about.object("user_info")
    size = file.whole("file_size")
    usage = {name: protojson.clean_value(dict(found.fields)) for name in _USAGES if (found := about.object(name))}
    fact = context.fact(
        type=artifact_info.enum("type", *_ARTIFACTS) or _ARTIFACTS[0],
        file_path=protojson.strip_query(file.text("file_path")),
        size_bytes=size if size and size > 0 else None,
        mime_type=file.text("mime_type"),
        job_id=job.text("job_id"),
        reference_artifact_id=about.text("reference_artifact_id"),
        user_name=person_name(user.text("name")),
        **usage,
    )
    subject: dict[str, Any] = {"subject_type": "artifact", "subject_id": artifact_info.text("artifact_id")}
    return (facts.ArtifactCreated(**fact, **subject, place=context.session_ref(), actor=user.text("user_id")),)


def analytics(context: EventContext) -> tuple[Fact, ...]:
    """The analytics file exists, about 50 s after the end; since 2.0 `file_id` is the artifact's id."""
    file_id = context.message.object("analytics").text("file_id")
    return (
        facts.AnalyticsReady(
            **context.fact(), subject_type="artifact", subject_id=file_id, place=context.session_ref()
        ),
    )


def interpret(record: Record) -> tuple[Fact, ...]:
    """The facts of a plugNmeet webhook. Never raises."""
    return livekit_protocol.interpret(record, event_context, _READERS)


_READERS: dict[str, Callable[[EventContext], tuple[Fact, ...]]] = {
    "room_created": room_created,
    "room_started": room_started,
    "session_ended": room_ended,
    "room_finished": room_ended,
    "participant_joined": participant,
    "participant_left": participant,
    "track_published": track,
    "track_unpublished": track,
    "start_recording": recording,
    "end_recording": recording,
    "recording_proceeded": recording,
    "recording_transcoding_finished": recording,
    "start_rtmp": broadcast,
    "end_rtmp": broadcast,
    "speech_to_text_session_started": transcription,
    "speech_to_text_session_ended": transcription,
    "speech_to_text_total_usage": transcription_usage,
    "artifact_created": artifact,
    "analytics_proceeded": analytics,
}

KNOWN_EVENTS = frozenset(_READERS)
