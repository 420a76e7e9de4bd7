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
from typing import Any

from tracker.domain.deliveries import Record
from tracker.domain import facts
from tracker.domain.facts import EndReason, Fact, Micros
from tracker.sources import livekit_protocol
from tracker.sources.json_reading import person_name
from tracker.sources.livekit_protocol import Event, Reader, room_creation
from tracker.sources.protojson import (
    as_object, clean_value, either, enum, enum_table, mask_addresses, moment, number, parse_nested, spellings,
    strip_query, text, whole,
)  # fmt: skip


_RESUMED_AFTER = 5_000_000
"""A LiveKit room announced later than this after its creation existed before: a node died and another took it over."""

_FIRST_JOIN_WITHIN = 60_000_000
"""The first join creates LiveKit's room. In a later join, `creation_time` may be that of an older run (see LIMIT)."""

# pkg/config/constants.go:9-14. LiveKit's kind is STANDARD for the bots, and absent in versions without kinds.
_BOTS = {"RECORDER_BOT": "egress", "RTMP_BOT": "egress"}
_PREFIXES = {"ingres_": "ingress", "pnm_agent-": "agent", "pnm_tts_agent-": "agent", "sip_": "sip"}
_ANY_PREFIX = tuple(_PREFIXES)
_CALLER = "sip_"
_LONGEST_NAME = 200

_ENVELOPE = ("event", "id", "created_at", "num_dropped", "room")
_SHOWN_APART = spellings(*_ENVELOPE)
_KNOWN = spellings(*_ENVELOPE, "participant", "recording_info", "speech_service", "track", "analytics", "room_artifact")


def event_name(body: dict[str, Any]) -> str:
    """The event's name in lower case: before 2024-04-09 plugNmeet's own were in upper case. "" where there is none."""
    return (text(body.get("event")) or "").lower()[:_LONGEST_NAME]


def read_event(body: dict[str, Any], received_at: Micros) -> Event:
    """What every event has. `received_at` (µs) counts where it states no time (before 2024-04-23).

    `created_at` is when LiveKit queued a relayed event, or when plugNmeet sent its own. `room_created_at` is
    `room.creation_time`: plugNmeet's in its own events, LiveKit's in relayed ones.
    """
    room = as_object(body.get("room"))
    run, name, described = (
        text(room.get("sid")),
        text(room.get("room_id") or room.get("roomId")),
        text(room.get("metadata")),
    )
    # JSON that may hold an encryption key, a SIP pin and links, so only single fields are read.
    metadata = as_object(parse_nested(described)) if described else {}
    own = moment(body.get("created_at") or body.get("createdAt"), "s")
    ids = (("room_sid", run),) if run is not None else ()
    return Event(
        body=body,
        name=event_name(body),
        at=received_at if own is None else own,
        created_at=own,
        # LiveKit sends a minimal room with tracks; plugNmeet then writes "0", which reads as absent.
        room_created_at=room_creation(room),
        starts_at=None,
        run=run,
        room=name,
        # Only the documentation has `room.name`; the title is what people call the room.
        room_name=text(room.get("name")) or text(metadata.get("room_title") or metadata.get("roomTitle")),
        ids=ids if name is None else (*ids, ("room_id", name)),
        anomalies=livekit_protocol.dropped_webhooks(body),
        known=_KNOWN,
        shown_apart=_SHOWN_APART,
        metadata=metadata,
    )


def _room_detail(event: Event) -> dict[str, Any]:
    metadata = event.metadata
    extra = either(metadata, "extra_data", "extraData")
    inner = parse_nested(extra) if isinstance(extra, str) else None
    return {
        "parent_room_id": text(metadata.get("parent_room_id") or metadata.get("parentRoomId")),
        "is_breakout_room": (metadata.get("is_breakout_room") or metadata.get("isBreakoutRoom")) is True or None,
        "extra_data": clean_value(inner if isinstance(inner, dict | list) else extra),
    }


def room_created(event: Event) -> tuple[Fact, ...]:
    """The run was created by plugNmeet; perhaps nobody ever joins it."""
    created = event.room_created_at or event.at
    place = event.session_ref(created, starts_at=event.room_created_at or event.created_at)
    return (
        facts.SessionCreated(
            **event.fact(event.room_created_at, detail=_room_detail(event)), place=place, started_at=created
        ),
    )


def room_started(event: Event) -> tuple[Fact, ...]:
    """LiveKit's room began, or was announced again: the event alone decides, so that the order of arrival does not matter."""
    created = event.room_created_at or event.at
    detail = _room_detail(event)
    # Up to 1.6, plugNmeet created LiveKit's room, whose `RM_…` sid it used, before the first join (room_auth.go:131).
    early = (event.run or "").startswith("RM_")
    if event.created_at is not None and event.created_at - created > _RESUMED_AFTER and not early:
        return (
            facts.SessionResumed(
                **event.fact(detail=detail), place=event.session_ref(starts_at=created), started_at=created
            ),
        )
    place = event.session_ref(created, starts_at=event.room_created_at or event.created_at)
    return (facts.SessionStarted(**event.fact(event.room_created_at, detail=detail), place=place, started_at=created),)


def room_ended(event: Event) -> tuple[Fact, ...]:
    """`session_ended` (plugNmeet) and `room_finished` (LiveKit) report the same end. Neither gives a reason."""
    fact = event.end(event.room_created_at, _room_detail(event) | {"event": event.name})
    place = event.session_ref(starts_at=event.room_created_at, ends_at=fact["at"])
    return (facts.SessionEnded(**fact, place=place, started_at=event.room_created_at, reason="unknown"),)


def _identity(person: dict[str, Any]) -> str | None:
    """The person. A caller's number has no `+` in joined and left, but has one in tracks (webhook_user.go:42-46)."""
    identity = text(person.get("identity"))
    return identity.replace("+", "") if identity is not None and identity.startswith(_CALLER) else identity


def _person_kind(person: dict[str, Any], identity: str) -> str:
    """The kind of participant: plugNmeet's own identities are more specific than LiveKit's kind."""
    if identity in _BOTS:
        return _BOTS[identity]
    if identity.startswith(_ANY_PREFIX):
        return next(kind for prefix, kind in _PREFIXES.items() if identity.startswith(prefix))
    return livekit_protocol.person_kind(person)


def participant(event: Event) -> tuple[Fact, ...]:
    """A join or a leave; a leave states the time of its join. Sent when the connection became active."""
    person = as_object(event.body.get("participant"))
    identity = _identity(person)
    return livekit_protocol.participant(
        event, person, identity, _person_kind(person, identity or ""), first_join_within=_FIRST_JOIN_WITHIN
    )


def track(event: Event) -> tuple[Fact, ...]:
    """A track was published or unpublished; of the person there are only sid and identity."""
    return livekit_protocol.track(event, _identity(as_object(event.body.get("participant"))))


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
_ARTIFACTS = enum_table(
    "UNKNOWN_ARTIFACT", "MEETING_ANALYTICS", "MEETING_SUMMARY", "MEETING_SUMMARY_USAGE", "SPEECH_TRANSCRIPTION",
    "SPEECH_TRANSCRIPTION_USAGE", "SYNTHESIZED_SPEECH_USAGE", "CHAT_TRANSLATION_USAGE",
    "AI_TEXT_CHAT_INTERACTION_USAGE", "AI_TEXT_CHAT_SUMMARIZATION_USAGE",
)  # fmt: skip
_USAGES = (
    ("token_usage", "tokenUsage"), ("duration_usage", "durationUsage"), ("character_count_usage", "characterCountUsage"),
)  # fmt: skip


def _recorder_word(info: dict[str, Any]) -> str:
    return (text(info.get("recorder_msg") or info.get("recorderMsg")) or "").strip().lower()


def _recorder(event: Event) -> tuple[str | None, dict[str, Any], str | None, EndReason]:
    """(record id, arguments of a fact, the recorder's error message, why it stopped) of a recording or a broadcast.

    There is no error message for a success, and where the recorder says nothing.
    """
    info = _recording_info(event)
    message = mask_addresses(text(info.get("recorder_msg") or info.get("recorderMsg")))
    detail = {"recorder_id": text(info.get("recorder_id") or info.get("recorderId")), "recorder_msg": message}
    word = _recorder_word(info)
    failure = message if word and word not in _NO_FAILURE else None
    reason: EndReason = "unknown" if not word else "normal" if failure is None else "server_failure"
    return text(info.get("record_id") or info.get("recordId")), event.fact(detail=detail), failure, reason


def _recording_info(event: Event) -> dict[str, Any]:
    return as_object(event.body.get("recording_info") or event.body.get("recordingInfo"))


def recording(event: Event) -> tuple[Fact, ...]:
    """A step of a recording."""
    name, base, failure, reason = _recorder(event)
    if name is None:
        return event.unreadable(f"{event.name} without recording_info.record_id")
    about: dict[str, Any] = {"place": event.session_ref(), "recording": name}
    if event.name == "start_recording":
        return (facts.RecordingStarted(**base, **about),)
    if event.name == "recording_proceeded":
        info = _recording_info(event)
        url = strip_query(text(info.get("file_path") or info.get("filePath")))
        return (facts.RecordingReady(**base, **about, url=url, size_bytes=_size(info)),)
    failed = facts.RecordingFailed(
        **(base | {"anomalies": ()}), **about, reason="server_failure", vendor_reason=failure
    )
    if event.name == "end_recording":
        stopped = facts.RecordingStopped(**base, **about, reason=reason, vendor_reason=failure)
        return (stopped,) if failure is None else (stopped, failed)
    return (facts.RecordingProcessing(**base, **about),) if failure is None else (failed,)


def _size(info: dict[str, Any]) -> int | None:
    """`file_size`, stated in MB (in MiB by the TypeScript recorder), as bytes; None for 0, which means unknown."""
    size = number(info.get("file_size") or info.get("fileSize"))
    unit = _BYTES_A_MIB if _recorder_word(info) == _OLD_PROCEEDED else _BYTES_A_MB
    if size is None or not math.isfinite(size) or not 0 < size * unit < _LARGEST:
        return None
    return round(size * unit)


def broadcast(event: Event) -> tuple[Fact, ...]:
    """RTMP to the outside. Facts never hold the address, which ends in a stream key; errors that repeat it are masked."""
    activity, base, failure, reason = _recorder(event)
    if activity is None:
        return event.unreadable(f"{event.name} without recording_info.record_id")
    about: dict[str, Any] = {"place": event.session_ref(), "activity": activity}
    if event.name == "start_rtmp":
        return (facts.BroadcastStarted(**base, **about),)
    return (facts.BroadcastStopped(**base, **about, reason=reason, vendor_reason=failure),)


def _speech(event: Event) -> tuple[str | None, int | None]:
    """(person, seconds) of a transcription."""
    speech = as_object(event.body.get("speech_service") or event.body.get("speechService"))
    usage = whole(speech.get("total_usage") or speech.get("totalUsage"))
    return text(
        speech.get("user_id") or speech.get("userId")
    ), usage if usage is not None and 0 < usage < _LARGEST else None


def transcription(event: Event) -> tuple[Fact, ...]:
    """Speech to text of one person (up to 2.0). The end states the duration in whole seconds, none where it was under one."""
    person, usage = _speech(event)
    if person is None:
        return event.unreadable(f"{event.name} without speech_service.user_id")
    about: dict[str, Any] = {"activity": person, "identity": person}
    if event.name == "speech_to_text_session_started":
        return (facts.TranscriptionStarted(**event.fact(), **about, place=event.session_ref()),)
    # redis/speech_to_text.go:71-89 (v2.0.0): the seconds since this person's last start.
    lasted = usage * 1_000_000 if usage and event.created_at is not None else None
    started_at = event.at - lasted if lasted is not None and lasted < event.at else None
    fact = event.fact(detail={"total_usage_s": usage})
    return (
        facts.TranscriptionEnded(
            **fact, **about, place=event.session_ref(started_at), started_at=started_at, reason="unknown"
        ),
    )


def transcription_usage(event: Event) -> tuple[Fact, ...]:
    """The usage of the whole run, sent after its end."""
    fact = event.fact(detail={"total_usage_s": _speech(event)[1]})
    return (facts.TranscriptionUsage(**fact, place=event.session_ref(), subject_type="transcription"),)


def artifact(event: Event) -> tuple[Fact, ...]:
    """A file made from the call, or the usage of making it."""
    made = as_object(event.body.get("room_artifact") or event.body.get("roomArtifact"))
    about = as_object(made.get("metadata"))
    file = as_object(about.get("file_info") or about.get("fileInfo"))
    job = as_object(about.get("provider_job_info") or about.get("providerJobInfo"))
    user = as_object(about.get("user_info") or about.get("userInfo"))
    size = whole(file.get("file_size") or file.get("fileSize"))
    detail: dict[str, Any] = {
        "type": enum(made.get("type"), _ARTIFACTS) or "UNKNOWN_ARTIFACT",
        "file_path": strip_query(text(file.get("file_path") or file.get("filePath"))),
        "size_bytes": size if size and size > 0 else None,
        "mime_type": text(file.get("mime_type") or file.get("mimeType")),
        "job_id": text(job.get("job_id") or job.get("jobId")),
        "reference_artifact_id": text(about.get("reference_artifact_id") or about.get("referenceArtifactId")),
        "user_name": person_name(text(user.get("name"))),
    }
    detail |= {name: clean_value(as_object(either(about, name, spelling))) for name, spelling in _USAGES}
    return (
        facts.ArtifactCreated(
            **event.fact(detail=detail),
            subject_type="artifact",
            subject_id=text(made.get("artifact_id") or made.get("artifactId")),
            place=event.session_ref(),
            actor=text(user.get("user_id") or user.get("userId")),
        ),
    )


def analytics(event: Event) -> tuple[Fact, ...]:
    """The analytics file exists, about 50 s after the end; since 2.0 `file_id` is the artifact's id."""
    file_id = text(either(as_object(event.body.get("analytics")), "file_id", "fileId"))
    return (
        facts.AnalyticsReady(**event.fact(), subject_type="artifact", subject_id=file_id, place=event.session_ref()),
    )


def interpret(record: Record) -> tuple[Fact, ...]:
    """The facts of a plugNmeet webhook. Never raises."""
    return livekit_protocol.interpret(record, read_event, _READERS)


_READERS: dict[str, Reader] = {
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
