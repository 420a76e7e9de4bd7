"""What a plugNmeet call leaves behind, read: recordings, RTMP broadcasts, transcriptions, artifacts, analytics.

All are plugNmeet's own events, stamped when they are *sent*. `recording_info.record_id` groups a recording's events; the
recorder's success flag is not forwarded, so that only `recorder_msg` tells a failure (plugNmeet-recorder
`pkg/controllers/recorder_end.go:82-97`, `recorder_start.go:64`, `transcoder_service.go:164-178`: "success" or an error's text).

LIMIT: a merged recording has a record_id of its own and only a `recording_proceeded`: its start is not told.
"""

from __future__ import annotations

import math
from typing import Any

from tracker.domain.facts import (
    AnalyticsReady,
    ArtifactCreated,
    BroadcastStarted,
    BroadcastStopped,
    EndReason,
    Fact,
    RecordingFailed,
    RecordingProcessing,
    RecordingReady,
    RecordingStarted,
    RecordingStopped,
    TranscriptionEnded,
    TranscriptionStarted,
    TranscriptionUsage,
)
from tracker.sources import protojson
from tracker.sources.plugnmeet.events import EventContext
from tracker.sources.protojson import Message


_SUCCESS = "success"
_BYTES_A_MB = 1_000_000
"""transcoder_service.go:292: `float32(stat.Size()) / 1000000.0`, rounded to two places."""

_LARGEST = 2**53

# RoomArtifactType, plugnmeet_room_artifacts.proto. The wire has names; the documentation's samples have numbers.
_ARTIFACTS = (
    "UNKNOWN_ARTIFACT", "MEETING_ANALYTICS", "MEETING_SUMMARY", "MEETING_SUMMARY_USAGE", "SPEECH_TRANSCRIPTION",
    "SPEECH_TRANSCRIPTION_USAGE", "SYNTHESIZED_SPEECH_USAGE", "CHAT_TRANSLATION_USAGE",
    "AI_TEXT_CHAT_INTERACTION_USAGE", "AI_TEXT_CHAT_SUMMARIZATION_USAGE",
)  # fmt: skip
_USAGES = ("token_usage", "duration_usage", "character_count_usage")


def _failure(info: Message) -> str | None:
    """What went wrong, in the recorder's words; None for a success, and where it says nothing."""
    message = info.text("recorder_msg")
    return None if message is None or message.strip().lower() == _SUCCESS else protojson.masked(message)


def _reason(info: Message) -> EndReason:
    if _failure(info) is not None:
        return "server_failure"
    return "normal" if info.text("recorder_msg") else "unknown"


def recorded(said: EventContext) -> tuple[Fact, ...]:
    """A step of a recording."""
    info = said.message.message("recording_info")
    name = info.text("record_id")
    if name is None:
        return said.unread(f"{said.event} without recording_info.record_id")
    failure = _failure(info)
    base = said.fact(recorder_id=info.text("recorder_id"), recorder_msg=protojson.masked(info.text("recorder_msg")))
    about: dict[str, Any] = {"place": said.place(), "recording": name}
    if said.event == "start_recording":
        return (RecordingStarted(**base, **about),)
    if said.event == "recording_proceeded":
        made: dict[str, Any] = {"url": protojson.masked_query(info.text("file_path")), "size_bytes": _size(info)}
        return (RecordingReady(**base, **about, **made),)
    failed = RecordingFailed(**(base | {"anomalies": ()}), **about, reason="server_failure", vendor_reason=failure)
    if said.event == "end_recording":
        stopped = RecordingStopped(**base, **about, reason=_reason(info), vendor_reason=failure)
        return (stopped,) if failure is None else (stopped, failed)
    return (RecordingProcessing(**base, **about),) if failure is None else (failed,)


def _size(info: Message) -> int | None:
    """`file_size`, MB, in bytes; None for 0, which says nothing."""
    size = info.number("file_size")
    if size is None or not math.isfinite(size) or not 0 < size * _BYTES_A_MB < _LARGEST:
        return None
    return round(size * _BYTES_A_MB)


def broadcast(said: EventContext) -> tuple[Fact, ...]:
    """RTMP to the outside; the address (it ends in a stream key) is never told, nor shown where an error repeats it."""
    info = said.message.message("recording_info")
    activity = info.text("record_id")
    if activity is None:
        return said.unread(f"{said.event} without recording_info.record_id")
    base = said.fact(recorder_id=info.text("recorder_id"), recorder_msg=protojson.masked(info.text("recorder_msg")))
    about: dict[str, Any] = {"place": said.place(), "activity": activity}
    if said.event == "start_rtmp":
        return (BroadcastStarted(**base, **about),)
    return (BroadcastStopped(**base, **about, reason=_reason(info), vendor_reason=_failure(info)),)


def transcription(said: EventContext) -> tuple[Fact, ...]:
    """Speech to text of one person (up to 2.0). The end states its length in whole seconds, none when it was under one."""
    speech = said.message.message("speech_service")
    person = speech.text("user_id")
    if person is None:
        return said.unread(f"{said.event} without speech_service.user_id")
    about: dict[str, Any] = {"activity": person, "identity": person}
    if said.event == "speech_to_text_session_started":
        return (TranscriptionStarted(**said.fact(), **about, place=said.place()),)
    usage = _seconds(speech)
    # redis/speech_to_text.go:71-89 (v2.0.0): the seconds since this person's last start.
    lasted = usage * 1_000_000 if usage and said.own is not None else None
    started_at = said.at - lasted if lasted is not None and lasted < said.at else None
    fact = said.fact(total_usage_s=usage)
    return (TranscriptionEnded(**fact, **about, place=said.place(started_at), started_at=started_at, reason="unknown"),)


def _seconds(speech: Message) -> int | None:
    usage = speech.whole("total_usage")
    return usage if usage is not None and 0 < usage < _LARGEST else None


def transcription_usage(said: EventContext) -> tuple[Fact, ...]:
    """What the whole run used, sent after its end."""
    usage = _seconds(said.message.message("speech_service"))
    return (TranscriptionUsage(**said.fact(total_usage_s=usage), place=said.place(), subject_type="transcription"),)


def artifact(said: EventContext) -> tuple[Fact, ...]:
    """A file made from the call, or what making it used."""
    made = said.message.message("room_artifact")
    about = made.message("metadata")
    file, job, user = about.message("file_info"), about.message("provider_job_info"), about.message("user_info")
    size = file.whole("file_size")
    usage = {name: protojson.displayable(dict(found.fields)) for name in _USAGES if (found := about.message(name))}
    fact = said.fact(
        type=made.enum("type", *_ARTIFACTS) or _ARTIFACTS[0],
        file_path=protojson.masked_query(file.text("file_path")),
        size_bytes=size if size and size > 0 else None,
        mime_type=file.text("mime_type"),
        job_id=job.text("job_id"),
        reference_artifact_id=about.text("reference_artifact_id"),
        user_name=user.text("name"),
        **usage,
    )
    subject: dict[str, Any] = {"subject_type": "artifact", "subject_id": made.text("artifact_id")}
    return (ArtifactCreated(**fact, **subject, place=said.place(), actor=user.text("user_id")),)


def analytics(said: EventContext) -> tuple[Fact, ...]:
    """The analytics file exists, about 50 s after the end; since 2.0 `file_id` is the artifact's id."""
    file_id = said.message.message("analytics").text("file_id")
    return (AnalyticsReady(**said.fact(), subject_type="artifact", subject_id=file_id, place=said.place()),)
