"""What LiveKit's egress events mean: an egress to files is a recording, one to streams a broadcast; some are both.

EgressInfo is livekit/protocol `protobufs/livekit_egress.proto:356-401`; its times are nanoseconds. Facts never hold its
request: it names stores, access keys and stream addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tracker.domain.facts import (
    BroadcastStarted,
    BroadcastStopped,
    BroadcastUpdated,
    EndReason,
    Fact,
    Micros,
    SessionRef,
    RecordingAborted,
    RecordingFact,
    RecordingFailed,
    RecordingLimitReached,
    RecordingProcessing,
    RecordingReady,
    RecordingStarted,
    RecordingStopped,
)
from tracker.sources import protojson
from tracker.sources.protojson import Message


_STATUSES = (
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
_MODES = ("room_composite", "participant", "track_composite", "track", "web", "egress", "replay")
_TO_FILES = ("file", "files", "file_outputs", "segments", "segment_outputs", "images", "image_outputs")
_TO_STREAMS = ("stream", "stream_outputs", "websocket_url")
_FILE_RESULTS = ("file_results", "segment_results", "image_results", "file", "segments")
_STREAM_RESULTS = ("stream_results", "stream")
# StreamInfo.Status. ACTIVE is the enum's zero, so it is absent.
_TARGET_STATUSES = ("ACTIVE", "FINISHED", "FAILED")
_FINER_WITHIN = 10_000_000
_SECOND = 1_000_000


class Egress(msgspec.Struct, frozen=True, kw_only=True):
    """An egress event with its session. `at` in µs; `has_timestamp`: `at` is the sender's time; `id` is never empty."""

    event: str
    info: Message
    at: Micros
    has_timestamp: bool
    place: SessionRef
    started_at: Micros | None
    ended_at: Micros | None
    id: str

    @property
    def end_reason(self) -> tuple[EndReason, str]:
        """Why it ended: the normalised reason, and LiveKit's own (`error`, `details`), else the status."""
        outcome = _OUTCOMES.get(self.status)
        detail = protojson.mask_addresses(self.info.text("error") or self.info.text("details"))
        return outcome[1] if outcome else "unknown", detail or self.status

    @property
    def status(self) -> str:
        """The vendor's status; an absent one is the enum's zero."""
        return self.info.enum("status", *_STATUSES) or "EGRESS_STARTING"

    @property
    def mode(self) -> str | None:
        """The kind of request, in snake_case."""
        return next((mode for mode in _MODES if self.info.object(mode)), None)


def room_name_of(info: Message) -> str | None:
    """The room that a request names; None for a web page, which has none."""
    return next((name for mode in _MODES if (name := info.object(mode).text("room_name"))), None)


def span(info: Message, *, is_over: bool) -> tuple[Micros | None, Micros | None]:
    """(start, end) of an egress, µs: its own, else those of its results. Before it is over, a result's end is not its end."""
    results = _results(info) + _targets(info)
    starts = [at for found in results if (at := found.moment("started_at", "ns")) is not None]
    ends = [at for found in results if is_over and (at := found.moment("ended_at", "ns")) is not None]
    return (
        info.moment("started_at", "ns") or min(starts, default=None),
        info.moment("ended_at", "ns") or max(ends, default=None),
    )


def read_egress(egress: Egress, fact: Callable[..., dict[str, Any]]) -> tuple[Fact, ...]:
    """The facts of an egress event; `fact(at, precision, **detail)` gives the arguments of every fact."""
    at = _event_time(egress)
    precision = "s" if at is None else "us"
    base = fact(at, precision, **_detail(egress))
    writes, sends = _outputs(egress.info)
    # Without outputs it counts as a recording: an automatic egress that failed to start has none.
    facts = _recording(egress, base) if writes or not sends else ()
    if facts:
        base = base | {"anomalies": ()}
    return facts + _broadcast(egress, base) if sends else facts


def _event_time(egress: Egress) -> Micros | None:
    """`updatedAt` where it is a more precise `createdAt`, and never before the stated end or start."""
    updated, ended = egress.info.moment("updated_at", "ns"), egress.ended_at
    near = updated is not None and (not egress.has_timestamp or abs(updated - egress.at) <= _FINER_WITHIN)
    at = updated if near else None
    if ended is not None and egress.event == "egress_ended" and (egress.at if at is None else at) < ended:
        return ended
    started = egress.started_at
    if at is None and started is not None and egress.has_timestamp and egress.at < started < egress.at + _SECOND:
        return started  # `createdAt` is cut to the second
    return at


def _detail(egress: Egress) -> dict[str, Any]:
    info = egress.info
    return {
        "source_type": info.enum("source_type", "EGRESS_SOURCE_TYPE_WEB", "EGRESS_SOURCE_TYPE_SDK"),
        "error": protojson.mask_addresses(info.text("error")),
        "error_code": info.whole("error_code") or None,
        "details": protojson.mask_addresses(info.text("details")),
        "manifest_location": protojson.strip_query(info.text("manifest_location")),
        "filename": _result(info).text("filename"),
        "participant": info.object("participant").text("identity"),
        "backup_storage_used": info.flag("backup_storage_used") or None,
        "retry_count": info.whole("retry_count") or None,
    }


def _outputs(info: Message) -> tuple[bool, bool]:
    """(writes files, sends streams), from the request of any version or from the results."""
    requests = [request for mode in _MODES if (request := info.object(mode))]
    requests += [output for request in requests for output in request.objects("outputs")]
    writes = any(info.value(name) for name in _FILE_RESULTS)
    writes = writes or any(request.value(name) for request in requests for name in _TO_FILES)
    sends = any(info.value(name) for name in _STREAM_RESULTS)
    sends = sends or any(request.value(name) for request in requests for name in _TO_STREAMS)
    return writes, sends


def _results(info: Message) -> list[Message]:
    """The files and playlists that were made."""
    results = [found for name in ("file_results", "segment_results") for found in info.objects(name)]
    return [found for found in [*results, info.object("file"), info.object("segments")] if found]


def _result(info: Message) -> Message:
    """The first file or playlist of the results."""
    return next(iter(_results(info)), Message({}))


def _targets(info: Message) -> list[Message]:
    """The addresses that a broadcast is sent to, each with its own state."""
    return info.objects("stream_results") or info.object("stream").objects("info")


def _recording(egress: Egress, base: dict[str, Any]) -> tuple[Fact, ...]:
    about: dict[str, Any] = {
        "place": egress.place,
        "recording": egress.id,
        "status": egress.status,
        "mode": egress.mode,
        "started_at": egress.started_at,
    }
    if egress.event == "egress_started":
        return (RecordingStarted(**base, **about),)
    ended, stopped_at = egress.event == "egress_ended", egress.ended_at
    # An end with a status of a later version is an end.
    default = (RecordingStopped, "unknown") if ended else (RecordingProcessing, None)
    outcome, reason = _OUTCOMES.get(egress.status, default)
    if stopped_at is not None:
        about["stopped_at"] = stopped_at
    if outcome is not RecordingProcessing:
        about |= {"reason": reason, "vendor_reason": egress.end_reason[1]}
    file_fields = _file_fields(egress.info)
    if stopped_at is None or not ended:
        return (outcome(**base, **about, **file_fields),)
    stop = base | {"at": stopped_at, "clock": "server", "precision": "us"}
    if outcome is RecordingStopped:
        return (RecordingStopped(**stop, **about, **file_fields),)
    # One delivery states two times: when the recording stopped, and when its file was ready (or failed).
    stopped = RecordingStopped(**(stop | {"detail": {}}), **about)
    return stopped, outcome(**(base | {"anomalies": ()}), **about, **file_fields)


def _file_fields(info: Message) -> dict[str, Any]:
    """The file's duration (stated in ns), size and address."""
    result = _result(info)
    lasted, size = result.whole("duration"), result.whole("size")
    return {
        "duration_ms": lasted // 1_000_000 if lasted and lasted > 0 else None,
        "size_bytes": size if size and size > 0 else None,
        "url": protojson.strip_query(result.text("location") or result.text("playlist_location")),
    }


def _broadcast(egress: Egress, base: dict[str, Any]) -> tuple[Fact, ...]:
    """The facts of a broadcast. Every change of a target sends an `egress_updated`: none of them starts it again."""
    more = protojson.drop_empty(mode=egress.mode, targets=[_target(found) for found in _targets(egress.info)])
    base = base | {"detail": base["detail"] | {"status": egress.status} | more}
    about: dict[str, Any] = {"place": egress.place, "activity": egress.id, "started_at": egress.started_at}
    if egress.event == "egress_started":
        return (BroadcastStarted(**base, **about),)
    if egress.event == "egress_updated":
        ending = egress.status == "EGRESS_ENDING" or egress.status in _OUTCOMES
        return (BroadcastUpdated(**base, **about, ending=ending),)
    if egress.ended_at is not None:
        base = base | {"at": egress.ended_at, "clock": "server", "precision": "us"}
    reason, vendor_reason = egress.end_reason
    return (BroadcastStopped(**base, **about, reason=reason, vendor_reason=vendor_reason),)


def _target(target: Message) -> dict[str, Any]:
    """One address of a broadcast, cut to its host, and its state."""
    lasted = target.whole("duration")
    return protojson.drop_empty(
        url=protojson.mask_addresses(target.text("url")),
        status=target.enum("status", *_TARGET_STATUSES) or "ACTIVE",
        error=protojson.mask_addresses(target.text("error")),
        retries=target.whole("retries") or None,
        duration_ms=lasted // 1_000_000 if lasted and lasted > 0 else None,
    )
