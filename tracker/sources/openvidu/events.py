"""What OpenVidu 2's events mean: every generation from the first CDR (2.0) to 2.32 and OpenVidu 3's v2compatibility.

    session…            SessionCreated SessionEnded             both state its exact start
    participant…        ParticipantJoined ParticipantLeft       an end states its start (`startTime`), to the ms
    webrtcConnection…   OUTBOUND a stream, INBOUND a subscription
    recording…          by status; recordingStarted/Stopped (≤ 2.20) are `legacy`
    node…, HANode…      no session; nodeCrashed lists the sessions it ended

Fields and their quirks: docs/reference/vendors/openvidu.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, cast

import msgspec

from tracker.domain.text_cache import text_cache
from tracker.domain.deliveries import Record
from tracker.domain import facts
from tracker.domain.facts import EndReason, Fact, Micros, SessionRef
from tracker.sources.json_reading import as_word, given_id, person_name, replace_surrogates
from tracker.sources.openvidu.wire import Event, event_copy, parse_json, read_event, repeat_copy, shown_name


_LONGEST_SECONDS = 1e9
"""Thirty years: no media file is longer."""

_RECORDING_KINDS: dict[str, type[facts.RecordingFact]] = {
    "started": facts.RecordingStarted,
    "stopped": facts.RecordingStopped,
    "ready": facts.RecordingReady,
    "failed": facts.RecordingFailed,
}


_NO_CONNECTION_ID = "unknown"


_LAST_MS = 253_402_300_800_000
"""The year 10000, in ms: neither views nor answers can hold a later time."""

_LONGEST_NAME = 200

# S/core/EndReason.java, all 16 values, and broadcastStoppedByServer (≥ 2.26).
_REASONS: dict[str, EndReason] = {
    "lastParticipantLeft": "normal",
    "sessionClosedByServer": "closed_by_server",
    "mediaServerDisconnect": "server_failure",
    "mediaServerReconnect": "server_failure",
    "nodeCrashed": "server_failure",
    "openviduServerStopped": "server_shutdown",
    "automaticStop": "timeout",
    "disconnect": "left",
    "forceDisconnectByUser": "removed",
    "forceDisconnectByServer": "removed",
    "networkDisconnect": "network_lost",
    "unsubscribe": "normal",
    "unpublish": "normal",
    "forceUnpublishByUser": "removed",
    "forceUnpublishByServer": "removed",
    "recordingStoppedByServer": "normal",
    "broadcastStoppedByServer": "normal",
}

_CDR_NAME = re.compile(r"CDR\.(?P<date>\d{4}-\d{2}-\d{2})_(?P<run>\d{2}-\d{2}-\d{2})\.log")

_SECRET_KEY = re.compile(r"passw|secret|token|authorization|credential", re.IGNORECASE)
# Greedy up to the last @: a password may contain @ or /, and losing a path is better than showing a password.
_URI_USER = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://).*@", re.DOTALL)
# Cameras also accept credentials in the query, or, some makes, in the path.
_URI_CREDENTIAL = re.compile(r"((?:user(?:name)?|usr|pass(?:word|wd)?|pwd|auth|key)=)[^&/;?]*", re.IGNORECASE)


_MISSING = object()

_PLAIN_NAMES = frozenset({
    "sessionId", "uniqueSessionId", "timestamp", "startTime", "endTime", "duration", "reason", "participantId", "connectionId",
    "location", "ip", "platform", "clientData", "serverData", "streamId", "connection", "receivingFrom", "videoSource",
    "videoFramerate", "videoDimensions", "audioEnabled", "videoEnabled", "adaptativeBitrate", "networkCache",
    "onlyPlayWithSubscribers", "id", "name", "outputMode", "resolution", "frameRate", "recordingLayout", "customLayout",
    "media_node_id", "hasAudio", "hasVideo", "size", "status", "filterType", "eventType", "data", "from", "type",
})  # fmt: skip
"""Fields that hold neither a secret nor an address."""


class FieldMissing(Exception):
    """An event lacks a field that its meaning depends on; the message names the field. Not raised outside of this module."""


class EventContext(msgspec.Struct):
    """What every event has, whatever its kind.

    `fields` are its fields, without secrets (see `_safe_value`). A reader takes out those that its fact has attributes for;
    what remains is the detail. `at` is when it happened; `timestamp` is the event's own (None where it is missing or
    impossible; then `at` is when we received it); `start_time` is its `startTime`. All in µs. `room` is the sessionId, `run`
    the uniqueSessionId. `fact` are the arguments that all facts have.
    """

    fields: dict[str, Any]
    at: Micros
    timestamp: Micros | None
    start_time: Micros | None
    room: str | None
    run: str | None
    fact: dict[str, Any]

    def ending(self) -> dict[str, Any]:
        """The arguments of an end: the normalised reason and the vendor's own."""
        vendor_reason = as_word(self.fields.pop("reason", None))
        return {"reason": _REASONS.get(vendor_reason or "", "unknown"), "vendor_reason": vendor_reason}

    def session_ref(
        self, *, starts: Micros | None = None, ends: Micros | None = None, recording: str | None = None
    ) -> SessionRef:
        """The session of this event. `starts` / `ends`: the event itself states when its run began / ended (µs).

        `uniqueSessionId` is `sessionId + "_" + start in ms` (Session.java). So a stated start gives the run key in every
        version, and the key gives the start to every event that has it. Raises `FieldMissing` where the event names no
        session.
        """
        room, run = self.room, self.run
        ids = () if room is None else (("sessionId", room),)
        if run is not None:
            starts = start_in_key(run) if starts is None else starts
        elif room is None:
            raise FieldMissing("sessionId is missing")
        elif starts is not None:
            run = f"{room}_{starts // 1000:012}"
        if run is not None:
            ids += (("uniqueSessionId", run),)
        if recording is not None:
            ids += (("recordingId", recording),)
        at = self.at if self.start_time is None else self.start_time
        return SessionRef(at=at, run=run, room=room, starts_at=starts, ends_at=ends, ids=ids)


def event_context(event: Event, record: Record, *anomalies: tuple[str, str]) -> EventContext:
    """The context of `event`, with the `anomalies` found so far. Never raises."""
    copy, fields = event_copy(event, record), event.fields
    if not event.is_plain or not _PLAIN_NAMES.issuperset(fields):
        fields = _safe_fields(fields)
    take = fields.pop
    stated, ended, began = take("timestamp", None), take("endTime", None), take("startTime", _MISSING)
    timestamp = micros(stated)
    timestamp = micros(ended) if timestamp is None else timestamp  # ≤ 2.4 states the end twice
    if event.lossy and event.is_json:
        anomalies += (("lossy_encoding", "the body is not UTF-8 and was read as ISO-8859-1"),)
    if timestamp is None and not any(kind == "unreadable" for kind, _ in anomalies):
        anomalies += (_time_anomaly("timestamp", stated),)
    start = micros(began)
    if start is None and began is not _MISSING:
        anomalies += (_time_anomaly("startTime", began),)
    room, run = as_text(take("sessionId", None)), as_text(take("uniqueSessionId", None))
    if room is None and run is not None and start_in_key(run) is not None:
        room = run.rpartition("_")[0]
    at = record.received_at if timestamp is None else timestamp
    fact = {
        "at": at,
        "clock": "receiver" if timestamp is None else "server",
        "precision": "us" if timestamp is None else "ms",
        "detail": fields,
        "anomalies": anomalies,
        "server_run": _server_run(record.proof),
        "copy": copy,
    }
    return EventContext(fields, at, timestamp, start, room, run, fact)


def micros(value: object) -> Micros | None:
    """Epoch milliseconds as µs; None for anything that is not a time between 1970 and the year 10000."""
    return value * 1000 if type(value) is int and 0 < value < _LAST_MS else None


def start_in_key(run: str | None) -> Micros | None:
    """The start (µs) that a uniqueSessionId ends with; None where no full timestamp follows the last `_`."""
    digits = run.rpartition("_")[2] if run else ""
    return micros(int(digits)) if 12 <= len(digits) <= 15 and digits.isascii() and digits.isdigit() else None


def as_text(value: object) -> str | None:
    """A non-empty string, or None."""
    return value if isinstance(value, str) and value else None


def dimensions(value: object) -> object:
    """VideoDimensions as {"width", "height"}. Unlike documented, it is a string of JSON; other values are returned unchanged."""
    if not isinstance(value, str):
        return value
    try:
        parsed = parse_json(value)
    except ValueError:
        return value
    return _safe_value("videoDimensions", parsed) if isinstance(parsed, dict) else value


def _safe_fields(fields: dict[str, Any]) -> dict[str, Any]:
    safe: dict[str, Any] = {}
    for key, value in fields.items():
        name, hidden, address = _field_traits(key) if len(key) <= _LONGEST_NAME else _traits(key)
        if not hidden:
            plain = value.isascii() and not address if type(value) is str else value is None or type(value) is bool
            safe[name] = value if plain else _safe_value(key, value)
    return safe


@text_cache(1024)
def _field_traits(key: str) -> tuple[str, bool, bool]:
    # OpenVidu uses the same few names.
    return _traits(key)


def _traits(key: str) -> tuple[str, bool, bool]:
    """(displayable name, may hold a secret, holds an address) of a field, from its name."""
    return replace_surrogates(key), _SECRET_KEY.search(key) is not None, key.lower().endswith(("uri", "url"))


def _safe_value(key: str, value: Any) -> Any:
    """The value without secrets, lone surrogates, and integers wider than 64 bits."""
    if isinstance(value, str):
        return (
            _without_credentials(replace_surrogates(value))
            if key.lower().endswith(("uri", "url"))
            else replace_surrogates(value)
        )
    if isinstance(value, dict):
        return _safe_fields(cast("dict[str, Any]", value))
    if isinstance(value, list):
        return [_safe_value(key, item) for item in cast("list[Any]", value)]
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    return value


def _without_credentials(uri: str) -> str:
    return _URI_CREDENTIAL.sub(r"\1…", _URI_USER.sub(r"\1", uri))


def _time_anomaly(key: str, value: object) -> tuple[str, str]:
    if value is None:
        return ("unreadable", f"{key} is missing")
    return ("clock_skew", f"{key} is no time in epoch milliseconds")


def _server_run(proof: bytes) -> str | None:
    """The server process that wrote an imported CDR line: `folder/date_time`, from the name of its file.

    The import added it to the proof. Up to 2026-11 it added the time alone; the name of the file has the date.
    """
    if b'"run"' not in proof and b"\\" not in proof and proof.isascii():
        # The JSON has no escapes, and no field of this name.
        return None
    try:
        fields = json.loads(proof)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    run, file, folder = (as_text(cast("dict[str, Any]", fields).get(name)) for name in ("run", "file", "folder"))
    dated = None if file is None else _CDR_NAME.match(file)
    if dated is not None and dated["run"] == run:
        run = f"{dated['date']}_{run}"
    return run if run is None or folder is None else f"{folder}/{run}"


def interpret(record: Record) -> tuple[Fact, ...]:
    """The facts of a recorded OpenVidu 2 delivery. Never raises; see `contract.Interpret`."""
    event = read_event(record.body)
    try:
        if event.unreadable is not None:
            return (_unknown(event, record, "unreadable", event.unreadable),)
        reader = _READERS.get(event.name)
        if reader is None:
            return (_unknown(event, record, "unknown_event", shown_name(event)),)
        return reader(event_context(event, record))
    except FieldMissing as missing:
        # Read again: the reader has taken fields out.
        return (_unknown(read_event(record.body), record, "unreadable", str(missing)),)
    except Exception as error:
        return (_unknown(Event(), record, "unreadable", f"unforeseen {type(error).__name__}"),)


def _unknown(event: Event, record: Record, anomaly: str, why: str) -> facts.Unknown:
    context = event_context(event, record, (anomaly, why))
    if event.name:
        context.fields["event"] = shown_name(event)
    place = context.session_ref() if context.room or context.run else None
    return facts.Unknown(**context.fact, place=place, subject_id=context.room)


def _session_created(context: EventContext) -> tuple[Fact, ...]:
    start = context.timestamp
    return (facts.SessionCreated(**context.fact, place=context.session_ref(starts=start), started_at=start),)


def _session_destroyed(context: EventContext) -> tuple[Fact, ...]:
    start = context.start_time
    place = context.session_ref(starts=start, ends=context.at)
    return (facts.SessionEnded(**context.fact, **context.ending(), place=place, started_at=start),)


def _participant(context: EventContext) -> dict[str, Any]:
    take, fact = context.fields.pop, context.fact
    stated = _take_connection(context)
    # Without an id, the time of the join still tells one such connection from another.
    connection = _NO_CONNECTION_ID if stated is None else given_id(stated, _NO_CONNECTION_ID)
    platform, location = as_text(take("platform", None)), as_text(take("location", None))
    if stated is None:
        fact["anomalies"] += (("unreadable", "participantId is missing"),)
    return {
        **fact,
        "place": context.session_ref(),
        "connection": connection,
        "identity": None if stated is None else connection,
        "name": person_name(context.fields.get("clientData")),
        "person": "ipcam" if platform == "IPCAM" or connection.startswith("ipc_") else "standard",
        "keyed_by_join": True,
        "platform": platform,
        "location": None if location == "unknown" else location,  # the Community Edition always sends this word
        "ip": as_text(take("ip", None)),
    }


def _participant_joined(context: EventContext) -> tuple[Fact, ...]:
    context.fields.pop("reason", None)
    return (facts.ParticipantJoined(**_participant(context), joined_at=context.timestamp),)


def _participant_left(context: EventContext) -> tuple[Fact, ...]:
    return (facts.ParticipantLeft(**_participant(context), **context.ending(), joined_at=context.start_time),)


def _webrtc_created(context: EventContext) -> tuple[Fact, ...]:
    context.fields.pop("reason", None)
    inbound, media = _media(context)
    kind = facts.SubscriptionStarted if inbound else facts.StreamPublished
    return (kind(**context.fact, **media, started_at=context.timestamp),)


def _webrtc_destroyed(context: EventContext) -> tuple[Fact, ...]:
    inbound, media = _media(context)
    kind = facts.SubscriptionEnded if inbound else facts.StreamUnpublished
    return (kind(**context.fact, **media, **context.ending(), started_at=context.start_time),)


def _media(context: EventContext) -> tuple[bool, dict[str, Any]]:
    """(whether it is a subscription, the arguments of the subscription or stream)."""
    fields, take = context.fields, context.fields.pop
    direction, stream = take("connection", None), as_text(take("streamId", None))
    publisher, connection = as_text(take("receivingFrom", None)), _take_connection(context)
    if direction not in ("INBOUND", "OUTBOUND"):
        raise FieldMissing("connection is neither INBOUND nor OUTBOUND")
    is_inbound = direction == "INBOUND"
    if is_inbound and stream is None and publisher is None:
        raise FieldMissing("streamId and receivingFrom are missing")
    if connection is None:
        if is_inbound:
            context.session_ref()  # raises where the session is missing, too: that is what a subscription reports first
        raise FieldMissing("participantId is missing")
    place = context.session_ref()
    if "videoDimensions" in fields:
        fields["videoDimensions"] = dimensions(fields["videoDimensions"])
    connection = given_id(connection, _NO_CONNECTION_ID)
    about: dict[str, Any] = {"place": place, "connection": connection}
    # ≤ 2.8 has no streamId: a connection publishes one stream at a time, so the publisher's id names it.
    if is_inbound:
        return True, {**about, "stream": stream or publisher, "publisher": publisher}
    audio, video = fields.get("audioEnabled") is True, fields.get("videoEnabled") is True
    source = as_text(fields.get("videoSource"))
    return False, {
        **about,
        "stream": stream or connection,
        "identity": connection,
        "keyed_by_start": True,
        "media": "audio+video" if audio and video else "audio" if audio else "video" if video else None,
        "label": source.lower() if source else "microphone" if audio and not video else None,
    }


def _take_connection(context: EventContext) -> str | None:
    # ≥ 2.17 sends connectionId and participantId, earlier versions only participantId.
    connection, participant = context.fields.pop("connectionId", None), context.fields.pop("participantId", None)
    return as_text(connection) or as_text(participant)


def _recording_status_changed(context: EventContext) -> tuple[Fact, ...]:
    status, copy, start = as_word(context.fields.get("status")), context.fact["copy"], context.start_time
    kind = _RECORDING_KINDS.get(status or "", facts.RecordingProcessing)
    over = kind in (facts.RecordingStopped, facts.RecordingReady, facts.RecordingFailed)
    recording, ending = _recording(context, measured=over), context.ending()
    if copy is not None and start is not None and kind is not facts.RecordingProcessing:
        # A failed start is often reported twice, within a second (≥ 2.32): a recording has each status once.
        context.fact["copy"] = repeat_copy(copy, recording["recording"], start, status)
    return (
        kind(
            **context.fact,
            **recording,
            **(ending if over else {}),
            status=status,
            started_at=context.timestamp if start is None and kind is facts.RecordingStarted else start,
            stopped_at=context.timestamp if kind is facts.RecordingStopped else None,
        ),
    )


def _recording_started(context: EventContext) -> tuple[Fact, ...]:
    context.fields.pop("reason", None)
    recording = _recording(context, measured=False)
    return (facts.RecordingStarted(**context.fact, **recording, legacy=True, started_at=context.timestamp),)


def _recording_stopped(context: EventContext) -> tuple[Fact, ...]:
    about = _recording(context, measured=True) | context.ending()
    start, stop = context.start_time, context.timestamp
    return (facts.RecordingStopped(**context.fact, **about, legacy=True, started_at=start, stopped_at=stop),)


def _recording(context: EventContext, *, measured: bool) -> dict[str, Any]:
    # `measured`: whether size and duration are valid. A `started` may carry those of the finished file, because the sender
    # prints an object that has changed in between, so they are ignored in a start.
    take = context.fields.pop
    recording, mode = as_text(take("id", None)), as_text(take("outputMode", None))
    if recording is None:
        raise FieldMissing("id is missing")
    seconds, size = take("duration", None), take("size", None)
    length = seconds if type(seconds) in (int, float) else -1
    octets = size if type(size) is int else -1
    # Before the file is ready, zero means that it is not known yet; then it is the file's.
    least = 0 if take("status", None) == "ready" else 1
    has_length = measured and 0 <= length < _LONGEST_SECONDS and length * 1000 >= least
    return {
        "place": context.session_ref(recording=recording),
        "recording": recording,
        "keyed_by_start": True,
        "mode": mode,
        "duration_ms": round(length * 1000) if has_length else None,
        "size_bytes": octets if measured and least <= octets < 2**63 else None,
    }


def _broadcast_started(context: EventContext) -> tuple[Fact, ...]:
    context.fields.pop("reason", None)
    return (facts.BroadcastStarted(**context.fact, **_broadcast(context), started_at=context.timestamp),)


def _broadcast_stopped(context: EventContext) -> tuple[Fact, ...]:
    about = _broadcast(context) | context.ending()
    return (facts.BroadcastStopped(**context.fact, **about, started_at=context.start_time),)


def _broadcast(context: EventContext) -> dict[str, Any]:
    # These events are undocumented and have no known id; a session has one broadcast at a time, so the session names it.
    if context.room is None:
        raise FieldMissing("sessionId is missing")
    return {"place": context.session_ref(), "activity": context.room}


def _signal_sent(context: EventContext) -> tuple[Fact, ...]:
    sender = as_text(context.fields.pop("from", None))  # null: sent by the application's server over REST
    place = context.session_ref()
    return (facts.SignalSent(**context.fact, place=place, actor=sender, subject_id=context.room),)


def _filter_event(context: EventContext) -> tuple[Fact, ...]:
    actor, stream = _take_connection(context), as_text(context.fields.pop("streamId", None))
    place = context.session_ref()
    return (facts.FilterEvent(**context.fact, place=place, actor=actor, subject_type="stream", subject_id=stream),)


def _node_crashed(context: EventContext) -> tuple[Fact, ...]:
    fact, fields, node = context.fact, context.fields, _node(context)
    listed = fields.get("sessionIds")
    rooms = [as_text(item) for item in cast("list[Any]", listed)] if isinstance(listed, list) else []
    lost = micros(fields.get("timeOfDisconnection"))
    left = {name: value for name, value in fields.items() if name not in ("sessionIds", "recordingIds", "broadcasts")}
    return (
        facts.NodeCrashed(**fact, **node),
        *(
            # sessionIds are not unique ids: the time of the crash tells which run it was.
            facts.NodeCrashed(**fact | {"detail": left}, **node, place=_crashed(room, lost, context.at))
            for room in dict.fromkeys(rooms)
            if room is not None
        ),
    )


def _crashed(room: str, lost: Micros | None, noticed: Micros) -> SessionRef:
    at = noticed if lost is None else lost
    return SessionRef(at=at, room=room, is_late=lost is None, ids=(("sessionId", room),))


def _node_recovered(context: EventContext) -> tuple[Fact, ...]:
    return (facts.NodeRecovered(**context.fact, **_node(context)),)


def _node_status(context: EventContext) -> tuple[Fact, ...]:
    return (facts.NodeStatus(**context.fact, **_node(context)),)


def _node(context: EventContext) -> dict[str, Any]:
    node = as_text(context.fields.get("id")) or as_text(context.fields.get("nodeId"))
    if node is None and "clusterId" in context.fields:  # autoscaling is about the whole cluster
        return {"subject_type": "cluster", "subject_id": as_text(context.fields.get("clusterId"))}
    return {"subject_type": "node", "subject_id": node}


_READERS: dict[str, Callable[[EventContext], tuple[Fact, ...]]] = {
    "sessionCreated": _session_created,
    "sessionDestroyed": _session_destroyed,
    "participantJoined": _participant_joined,
    "participantLeft": _participant_left,
    "webrtcConnectionCreated": _webrtc_created,
    "webrtcConnectionDestroyed": _webrtc_destroyed,
    "recordingStatusChanged": _recording_status_changed,
    "recordingStarted": _recording_started,
    "recordingStopped": _recording_stopped,
    "broadcastStarted": _broadcast_started,
    "broadcastStopped": _broadcast_stopped,
    "signalSent": _signal_sent,
    "filterEventDispatched": _filter_event,
    "nodeCrashed": _node_crashed,
    "nodeRecovered": _node_recovered,
    "mediaNodeStatusChanged": _node_status,
    "autoscaling": _node_status,
    "HANodeRegistered": _node_status,
    "HANodeDeregistered": _node_status,
    "HANodeTerminated": _node_status,  # the name one page of the documentation uses for HANodeDeregistered
}

KNOWN_EVENTS = frozenset(_READERS)
