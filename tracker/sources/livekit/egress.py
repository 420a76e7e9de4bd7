"""What LiveKit's egress events mean: an egress to files is a recording, one to streams a broadcast; some are both.

EgressInfo is livekit/protocol `protobufs/livekit_egress.proto:356-401`; its times are nanoseconds. Facts never hold its
request: it names stores, access keys and stream addresses.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tracker.domain.facts import (
    BroadcastStarted, BroadcastStopped, BroadcastUpdated, EndReason, EventCopy, Fact, Micros, SessionRef,
    RecordingAborted, RecordingFact, RecordingFailed, RecordingLimitReached, RecordingProcessing, RecordingReady,
    RecordingStarted, RecordingStopped,
)  # fmt: skip
from tracker.sources.livekit_protocol import Event
from tracker.sources.protojson import (
    as_object, as_objects, camel, drop_empty, either, enum, enum_table, mask_addresses, moment, spellings,
    strip_query, text, whole,
)  # fmt: skip


_NO_RESULT: dict[str, Any] = {}
_STATUSES = enum_table(
    "EGRESS_STARTING", "EGRESS_ACTIVE", "EGRESS_ENDING", "EGRESS_COMPLETE", "EGRESS_FAILED", "EGRESS_ABORTED",
    "EGRESS_LIMIT_REACHED",
)  # fmt: skip
_OUTCOMES: dict[str, tuple[type[RecordingFact], EndReason]] = {
    "EGRESS_COMPLETE": (RecordingReady, "normal"),
    "EGRESS_FAILED": (RecordingFailed, "server_failure"),
    # It ended before it started: stopped at once, or its start never came. `details` says which.
    "EGRESS_ABORTED": (RecordingAborted, "unknown"),
    "EGRESS_LIMIT_REACHED": (RecordingLimitReached, "timeout"),
}
_MODES = {
    spelling: mode
    for mode in ("room_composite", "participant", "track_composite", "track", "web", "egress", "replay")
    for spelling in (mode, camel(mode))
}
"""The kinds of request."""
_TO_FILES = spellings("file", "files", "file_outputs", "segments", "segment_outputs", "images", "image_outputs")
_TO_STREAMS = spellings("stream", "stream_outputs", "websocket_url")
_REQUESTED = dict.fromkeys(_TO_FILES, "files") | dict.fromkeys(_TO_STREAMS, "streams")
_FILE_RESULTS = spellings("file_results", "segment_results", "image_results", "file", "segments")
_RESULTS = dict.fromkeys(_FILE_RESULTS, "files") | dict.fromkeys(spellings("stream_results", "stream"), "streams")
_ONLY_STREAMS = {"streams"}
# StreamInfo.Status. ACTIVE is the enum's zero, so it is absent.
_TARGET_STATUSES = enum_table("ACTIVE", "FINISHED", "FAILED")
_SOURCES = enum_table("EGRESS_SOURCE_TYPE_WEB", "EGRESS_SOURCE_TYPE_SDK")
_FINER_WITHIN = 10_000_000
_SECOND = 1_000_000


class Egress(msgspec.Struct, kw_only=True):
    """An egress event with its session. `id` is never empty."""

    event: Event
    info: dict[str, Any]
    requests: dict[str, dict[str, Any]]
    place: SessionRef
    started_at: Micros | None
    ended_at: Micros | None
    id: str
    copy: EventCopy | None
    status: str = ""
    """The vendor's status; an absent one is the enum's zero."""

    def __post_init__(self) -> None:
        self.status = enum(self.info.get("status"), _STATUSES) or "EGRESS_STARTING"

    @property
    def end_reason(self) -> tuple[EndReason, str]:
        """Why it ended: the normalised reason, and LiveKit's own (`error`, `details`), else the status."""
        outcome = _OUTCOMES.get(self.status)
        detail = mask_addresses(text(self.info.get("error")) or text(self.info.get("details")))
        return outcome[1] if outcome else "unknown", detail or self.status

    @property
    def mode(self) -> str | None:
        """The kind of request, in snake_case."""
        return next(iter(self.requests), None)


def requests_of(info: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The request by its kind; of one egress there is only one."""
    return {_MODES[name]: value for name, value in info.items() if name in _MODES and type(value) is dict and value}


def room_name_of(requests: dict[str, dict[str, Any]]) -> str | None:
    """The room that a request names; None for a web page, which has none."""
    return next(
        (name for found in requests.values() if (name := text(found.get("room_name") or found.get("roomName")))), None
    )


def span(info: dict[str, Any], *, is_over: bool) -> tuple[Micros | None, Micros | None]:
    """(start, end) of an egress, µs: its own, else those of its results. Before it is over, a result's end is not its end."""
    started_at = moment(info.get("started_at") or info.get("startedAt"), "ns")
    ended_at = moment(info.get("ended_at") or info.get("endedAt"), "ns")
    if started_at is not None and (ended_at is not None or not is_over):
        return started_at, ended_at
    results = _results(info) + _targets(info)
    starts = [
        at for found in results if (at := moment(found.get("started_at") or found.get("startedAt"), "ns")) is not None
    ]
    ends = [
        at
        for found in results
        if is_over and (at := moment(found.get("ended_at") or found.get("endedAt"), "ns")) is not None
    ]
    return started_at or min(starts, default=None), ended_at or max(ends, default=None)


def read_egress(egress: Egress) -> tuple[Fact, ...]:
    """The facts of an egress event."""
    at = _event_time(egress)
    result = next(iter(_results(egress.info)), _NO_RESULT)
    base = egress.event.fact(at, "s" if at is None else "us", _detail(egress, result))
    base["copy"] = egress.copy
    outputs = _outputs(egress)
    if outputs == _ONLY_STREAMS:
        return _broadcast(egress, base)
    # Without outputs it counts as a recording: an automatic egress that failed to start has none.
    facts = _recording(egress, result, base)
    return facts + _broadcast(egress, base | {"anomalies": ()}) if "streams" in outputs else facts


def _event_time(egress: Egress) -> Micros | None:
    """`updatedAt` where it is a more precise `createdAt`, and never before the stated end or start."""
    event, started, ended = egress.event, egress.started_at, egress.ended_at
    at = moment(egress.info.get("updated_at") or egress.info.get("updatedAt"), "ns")
    if at is not None and event.created_at is not None and abs(at - event.at) > _FINER_WITHIN:
        at = None
    if ended is not None and event.name == "egress_ended" and (event.at if at is None else at) < ended:
        return ended
    if at is None and started is not None and event.created_at is not None and event.at < started < event.at + _SECOND:
        return started  # `createdAt` is cut to the second
    return at


def _detail(egress: Egress, result: dict[str, Any]) -> dict[str, Any]:
    info = egress.info
    return {
        "source_type": enum(either(info, "source_type", "sourceType"), _SOURCES),
        "error": mask_addresses(text(info.get("error"))),
        "error_code": whole(info.get("error_code") or info.get("errorCode")) or None,
        "details": mask_addresses(text(info.get("details"))),
        "manifest_location": strip_query(text(info.get("manifest_location") or info.get("manifestLocation"))),
        "filename": text(result.get("filename")),
        "participant": text(as_object(info.get("participant")).get("identity")),
        "backup_storage_used": (info.get("backup_storage_used") or info.get("backupStorageUsed")) is True or None,
        "retry_count": whole(info.get("retry_count") or info.get("retryCount")) or None,
    }


def _outputs(egress: Egress) -> set[str]:
    """Which of "files" and "streams" it writes: from the request of any version, or from the results."""
    outputs = {_RESULTS[name] for name, value in egress.info.items() if name in _RESULTS and value}
    for request in egress.requests.values():
        for requested in (request, *as_objects(request.get("outputs"))):
            outputs |= {_REQUESTED[name] for name, value in requested.items() if name in _REQUESTED and value}
    return outputs


def _results(info: dict[str, Any]) -> list[dict[str, Any]]:
    """The files and playlists that were made."""
    results = as_objects(info.get("file_results") or info.get("fileResults"))
    results += as_objects(info.get("segment_results") or info.get("segmentResults"))
    return [found for found in [*results, as_object(info.get("file")), as_object(info.get("segments"))] if found]


def _targets(info: dict[str, Any]) -> list[dict[str, Any]]:
    """The addresses that a broadcast is sent to, each with its own state."""
    targets = as_objects(info.get("stream_results") or info.get("streamResults"))
    return targets or as_objects(as_object(info.get("stream")).get("info"))


def _lasted_ms(result: dict[str, Any]) -> int | None:
    """A duration, stated in ns."""
    lasted = whole(result.get("duration"))
    return lasted // 1_000_000 if lasted and lasted > 0 else None


def _recording(egress: Egress, result: dict[str, Any], base: dict[str, Any]) -> tuple[Fact, ...]:
    about: dict[str, Any] = {
        "place": egress.place,
        "recording": egress.id,
        "status": egress.status,
        "mode": egress.mode,
        "started_at": egress.started_at,
    }
    if egress.event.name == "egress_started":
        return (RecordingStarted(**base, **about),)
    ended, stopped_at = egress.event.name == "egress_ended", egress.ended_at
    # An end with a status of a later version is an end.
    default = (RecordingStopped, "unknown") if ended else (RecordingProcessing, None)
    outcome, reason = _OUTCOMES.get(egress.status, default)
    if stopped_at is not None:
        about["stopped_at"] = stopped_at
    if outcome is not RecordingProcessing:
        about |= {"reason": reason, "vendor_reason": egress.end_reason[1]}
    file_fields = _file_fields(result)
    if stopped_at is None or not ended:
        return (outcome(**base, **about, **file_fields),)
    stop = base | {"at": stopped_at, "clock": "server", "precision": "us"}
    if outcome is RecordingStopped:
        return (RecordingStopped(**stop, **about, **file_fields),)
    # One delivery states two times: when the recording stopped, and when its file was ready (or failed).
    stopped = RecordingStopped(**(stop | {"detail": {}}), **about)
    return stopped, outcome(**(base | {"anomalies": ()}), **about, **file_fields)


def _file_fields(result: dict[str, Any]) -> dict[str, Any]:
    """The file's duration, size and address."""
    size = whole(result.get("size"))
    return {
        "duration_ms": _lasted_ms(result),
        "size_bytes": size if size and size > 0 else None,
        "url": strip_query(
            text(result.get("location")) or text(result.get("playlist_location") or result.get("playlistLocation"))
        ),
    }


def _broadcast(egress: Egress, base: dict[str, Any]) -> tuple[Fact, ...]:
    """The facts of a broadcast. Every change of a target sends an `egress_updated`: none of them starts it again."""
    more = drop_empty({"mode": egress.mode, "targets": [_target(found) for found in _targets(egress.info)]})
    base = base | {"detail": base["detail"] | {"status": egress.status} | more}
    about: dict[str, Any] = {"place": egress.place, "activity": egress.id, "started_at": egress.started_at}
    if egress.event.name == "egress_started":
        return (BroadcastStarted(**base, **about),)
    if egress.event.name == "egress_updated":
        ending = egress.status == "EGRESS_ENDING" or egress.status in _OUTCOMES
        return (BroadcastUpdated(**base, **about, ending=ending),)
    if egress.ended_at is not None:
        base = base | {"at": egress.ended_at, "clock": "server", "precision": "us"}
    reason, vendor_reason = egress.end_reason
    return (BroadcastStopped(**base, **about, reason=reason, vendor_reason=vendor_reason),)


def _target(target: dict[str, Any]) -> dict[str, Any]:
    """One address of a broadcast, cut to its host, and its state."""
    return drop_empty(
        {
            "url": mask_addresses(text(target.get("url"))),
            "status": enum(target.get("status"), _TARGET_STATUSES) or "ACTIVE",
            "error": mask_addresses(text(target.get("error"))),
            "retries": whole(target.get("retries")) or None,
            "duration_ms": _lasted_ms(target),
        }
    )
