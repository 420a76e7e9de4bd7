"""What OpenVidu 2's events mean: every generation from the first CDR (2.0) to 2.32 and OpenVidu 3's v2compatibility.

    session…            SessionCreated SessionEnded             its start is exact and is told by both
    participant…        ParticipantJoined ParticipantLeft       an end states its start (`startTime`), to the ms
    webrtcConnection…   OUTBOUND a stream, INBOUND a subscription
    recording…          by status; recordingStarted/Stopped (≤ 2.20) are `legacy`
    node…, HANode…      no session; nodeCrashed lists those it took down

Fields and their quirks: docs/reference/vendors/openvidu.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from tracker.domain.deliveries import Record
from tracker.domain.facts import (
    BroadcastStarted,
    BroadcastStopped,
    Fact,
    FilterEvent,
    NodeCrashed,
    NodeRecovered,
    NodeStatus,
    ParticipantJoined,
    ParticipantLeft,
    SessionRef,
    RecordingFact,
    RecordingFailed,
    RecordingProcessing,
    RecordingReady,
    RecordingStarted,
    RecordingStopped,
    SessionCreated,
    SessionEnded,
    SignalSent,
    StreamPublished,
    StreamUnpublished,
    SubscriptionEnded,
    SubscriptionStarted,
    Unknown,
)
from tracker.sources.openvidu.fields import (
    FieldMissing,
    EventContext,
    dimensions,
    needed,
    readable_name,
    text,
    event_context,
)
from tracker.sources.openvidu.wire import Event, read_event, shown_name


_LONGEST_SECONDS = 1e9
"""Thirty years: no media file is longer, and no store refuses it in ms."""

_RECORDING_KINDS: dict[str, type[RecordingFact]] = {
    "started": RecordingStarted,
    "stopped": RecordingStopped,
    "ready": RecordingReady,
    "failed": RecordingFailed,
}


_NAMELESS = "unknown"


def interpret(record: Record) -> tuple[Fact, ...]:
    """What a kept OpenVidu 2 delivery means. Never raises; see `contract.Interpret`."""
    event = read_event(record.body)
    try:
        return _read(event, record)
    except FieldMissing as missing:
        return (_unreadable(event, record, str(missing)),)
    except Exception as error:
        return (_unreadable(Event(), record, f"unforeseen {type(error).__name__}"),)


def _read(event: Event, record: Record) -> tuple[Fact, ...]:
    if event.unreadable is not None:
        return (_unreadable(event, record, event.unreadable),)
    reader = _READERS.get(event.name)
    if reader is not None:
        return reader(event_context(event, record))
    return (_unknown(event, record, "unknown_event", shown_name(event)),)


def _unreadable(event: Event, record: Record, why: str) -> Unknown:
    return _unknown(event, record, "unreadable", why)


def _unknown(event: Event, record: Record, anomaly: str, why: str) -> Unknown:
    said = event_context(event, record, (anomaly, why))
    fact = said.fact()
    if event.name:
        fact["detail"]["event"] = shown_name(event)
    return Unknown(**fact, place=said.place() if said.room or said.run else None, subject_id=said.room)


def _session_created(said: EventContext) -> tuple[Fact, ...]:
    return (SessionCreated(**said.fact(), place=said.place(starts=said.own), started_at=said.own),)


def _session_destroyed(said: EventContext) -> tuple[Fact, ...]:
    place = said.place(starts=said.start, ends=said.at)
    return (SessionEnded(**said.fact("reason"), **said.ending(), place=place, started_at=said.start),)


def _participant(said: EventContext) -> dict[str, Any]:
    connection = _connection_or_none(said)
    nameless = connection is None
    # Without an id somebody came all the same; the moment of the join still tells one such connection from another.
    connection = connection or _NAMELESS
    platform = text(said.inner.get("platform"))
    location = text(said.inner.get("location"))
    fact = said.fact("connectionId", "participantId", "platform", "location", "ip", "reason")
    if nameless:
        fact["anomalies"] = (*fact["anomalies"], ("unreadable", "participantId is missing"))
    return {
        **fact,
        "place": said.place(),
        "connection": connection,
        "identity": None if nameless else connection,
        "name": readable_name(said.inner.get("clientData")),
        "person": "ipcam" if platform == "IPCAM" or connection.startswith("ipc_") else "standard",
        "keyed_by_join": True,
        "platform": platform,
        "location": None if location == "unknown" else location,  # always that word on the Community Edition
        "ip": text(said.inner.get("ip")),
    }


def _participant_joined(said: EventContext) -> tuple[Fact, ...]:
    return (ParticipantJoined(**_participant(said), joined_at=said.own),)


def _participant_left(said: EventContext) -> tuple[Fact, ...]:
    return (ParticipantLeft(**_participant(said), **said.ending(), joined_at=said.start),)


def _webrtc_created(said: EventContext) -> tuple[Fact, ...]:
    if _inbound(said):
        return (SubscriptionStarted(**_subscription(said), started_at=said.own),)
    return (StreamPublished(**_stream(said), started_at=said.own),)


def _webrtc_destroyed(said: EventContext) -> tuple[Fact, ...]:
    if _inbound(said):
        return (SubscriptionEnded(**_subscription(said), **said.ending(), started_at=said.start),)
    return (StreamUnpublished(**_stream(said), **said.ending(), started_at=said.start),)


def _inbound(said: EventContext) -> bool:
    direction = text(said.inner.get("connection"))
    if direction not in ("INBOUND", "OUTBOUND"):
        raise FieldMissing("connection is neither INBOUND nor OUTBOUND")
    return direction == "INBOUND"


def _subscription(said: EventContext) -> dict[str, Any]:
    publisher = text(said.inner.get("receivingFrom"))
    # ≤ 2.8 names no stream: a connection publishes one at a time, so the publisher's id names it (see _stream).
    stream = text(said.inner.get("streamId")) or publisher
    if stream is None:
        raise FieldMissing("streamId and receivingFrom are missing")
    return {**_leg(said), "stream": stream, "connection": _connection(said), "publisher": publisher}


def _stream(said: EventContext) -> dict[str, Any]:
    connection = _connection(said)
    audio, video = said.inner.get("audioEnabled") is True, said.inner.get("videoEnabled") is True
    source = text(said.inner.get("videoSource"))
    return {
        **_leg(said),
        "stream": text(said.inner.get("streamId")) or connection,
        "connection": connection,
        "identity": connection,
        "keyed_by_start": True,
        "media": "+".join(part for part, there in (("audio", audio), ("video", video)) if there) or None,
        "label": source.lower() if source else "microphone" if audio and not video else None,
    }


def _leg(said: EventContext) -> dict[str, Any]:
    fact = said.fact("connectionId", "participantId", "connection", "receivingFrom", "streamId", "reason")
    if "videoDimensions" in said.inner:
        fact["detail"]["videoDimensions"] = dimensions(said.inner["videoDimensions"])
    return {**fact, "place": said.place()}


def _connection(said: EventContext) -> str:
    return _connection_or_none(said) or needed(said.inner, "participantId")


def _connection_or_none(said: EventContext) -> str | None:
    # 2.17 introduced connectionId and still sends participantId beside it; before there was only the latter.
    return text(said.inner.get("connectionId")) or text(said.inner.get("participantId"))


def _recording_status_changed(said: EventContext) -> tuple[Fact, ...]:
    status = text(said.inner.get("status"))
    kind = _RECORDING_KINDS.get(status or "", RecordingProcessing)
    over = kind in (RecordingStopped, RecordingReady, RecordingFailed)
    start = said.own if said.start is None and kind is RecordingStarted else said.start
    return (
        kind(
            **_recording(said, measured=over),
            **(said.ending() if over else {}),
            status=status,
            started_at=start,
            stopped_at=said.own if kind is RecordingStopped else None,
        ),
    )


def _recording_started(said: EventContext) -> tuple[Fact, ...]:
    return (RecordingStarted(**_recording(said, measured=False), legacy=True, started_at=said.own),)


def _recording_stopped(said: EventContext) -> tuple[Fact, ...]:
    fields = _recording(said, measured=True)
    return (RecordingStopped(**fields, **said.ending(), legacy=True, started_at=said.start, stopped_at=said.own),)


def _recording(said: EventContext, *, measured: bool) -> dict[str, Any]:
    # `measured`: size and duration mean something. A `started` may carry the finished file's, because the sender
    # prints an object that has changed meanwhile; from a start they are not believed.
    recording = needed(said.inner, "id")
    seconds, size = said.inner.get("duration"), said.inner.get("size")
    length = seconds if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) else 0
    octets = size if isinstance(size, int) and not isinstance(size, bool) else 0
    return {
        **said.fact("id", "outputMode", "duration", "size", "status", "reason"),
        "place": said.place(recording=recording),
        "recording": recording,
        "keyed_by_start": True,
        "mode": text(said.inner.get("outputMode")),
        "duration_ms": round(length * 1000) if measured and 0 < length < _LONGEST_SECONDS else None,
        "size_bytes": octets if measured and 0 < octets < 2**63 else None,
    }


def _broadcast_started(said: EventContext) -> tuple[Fact, ...]:
    return (BroadcastStarted(**_broadcast(said), started_at=said.own),)


def _broadcast_stopped(said: EventContext) -> tuple[Fact, ...]:
    return (BroadcastStopped(**_broadcast(said), **said.ending(), started_at=said.start),)


def _broadcast(said: EventContext) -> dict[str, Any]:
    # Undocumented events without a known id; a session has one broadcast at a time, so the session names it.
    if said.room is None:
        raise FieldMissing("sessionId is missing")
    return {**said.fact("reason"), "place": said.place(), "activity": said.room}


def _signal_sent(said: EventContext) -> tuple[Fact, ...]:
    fact = said.fact("from")
    sender = text(said.inner.get("from"))  # null: sent by the application's server over REST
    return (SignalSent(**fact, place=said.place(), actor=sender, subject_id=said.room),)


def _filter_event(said: EventContext) -> tuple[Fact, ...]:
    actor = text(said.inner.get("connectionId")) or text(said.inner.get("participantId"))
    fact = said.fact("connectionId", "participantId", "streamId")
    stream = text(said.inner.get("streamId"))
    return (FilterEvent(**fact, place=said.place(), actor=actor, subject_type="stream", subject_id=stream),)


def _node_crashed(said: EventContext) -> tuple[Fact, ...]:
    listed = said.inner.get("sessionIds")
    rooms = [text(item) for item in cast("list[Any]", listed)] if isinstance(listed, list) else []
    node = _node(said)
    lost = said.moment("timeOfDisconnection") or said.at
    alone = said.fact("sessionIds", "recordingIds", "broadcasts")
    return (
        NodeCrashed(**said.fact(), **node),
        *(
            # sessionIds are plain, not unique ones: the moment of the crash tells which run it was.
            NodeCrashed(**alone, **node, place=SessionRef(at=lost, room=room, ids=(("sessionId", room),)))
            for room in dict.fromkeys(rooms)
            if room is not None
        ),
    )


def _node_recovered(said: EventContext) -> tuple[Fact, ...]:
    return (NodeRecovered(**said.fact(), **_node(said)),)


def _node_status(said: EventContext) -> tuple[Fact, ...]:
    return (NodeStatus(**said.fact(), **_node(said)),)


def _node(said: EventContext) -> dict[str, Any]:
    node = text(said.inner.get("id")) or text(said.inner.get("nodeId"))
    if node is None and "clusterId" in said.inner:  # autoscaling is about all nodes together
        return {"subject_type": "cluster", "subject_id": text(said.inner.get("clusterId"))}
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
