"""What StreamRec's webhooks mean, and the realtime messages an application relays to the same hook.

    webhooks (`status`)            all at ends; each states both ends of its interval, by the server's clock
    relayed messages (`type`)      at starts; they carry no time, so ours stands in (`clock: receiver`)
    hints (`sid`, `rid`)           query parameters of the address, kept in the proof: session and recording meant

A room is a client (the agent), a session one stream of it. Which fields there are: docs/reference/vendors/streamrec.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from tracker.domain.deliveries import Record
from tracker.domain.facts import (
    Fact,
    Micros,
    SessionRef,
    RecordingStarted,
    RecordingStopped,
    RecordingUploaded,
    RecordingUploadFailed,
    SessionEnded,
    SessionStarted,
    SupervisorSessionEnded,
    SupervisorSessionStarted,
    Unknown,
)
from tracker.sources.json_reading import (
    LAST,
    BodyUnreadable,
    count,
    event_name,
    fields,
    picked,
    proof_of,
    read_object,
    text,
)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:?\d\d)", re.ASCII)

Anomalies = tuple[tuple[str, str], ...]


class FieldMissing(Exception):
    """A message lacks the field that says what it is about; the message names the field. Stays in this vendor."""


class EventContext(msgspec.Struct, frozen=True, kw_only=True):
    """What any body says: its name, its fields, the relayed message's `data`, the hints, and when we received it."""

    name: str
    body: dict[str, Any]
    data: dict[str, Any]
    sid: str | None
    rid: str | None
    received_at: Micros

    def of(self, *names: str) -> str | None:
        """The first of these fields that holds text, in `data` before the body itself."""
        found = (text(where.get(name)) for where in (self.data, self.body) for name in names)
        return next((value for value in found if value is not None), None)

    @property
    def run(self) -> str | None:
        """The agent's session: `session_id`, else the hint. A supervisor's messages have a session of their own."""
        return self.of("session_id") or self.sid

    def fact(self, at: Micros | None = None, anomalies: Anomalies = (), **detail: Any) -> dict[str, Any]:
        """The arguments every fact takes: at `at` (µs) by their clock, or by ours when they state no time."""
        return {
            "at": self.received_at if at is None else at,
            "clock": "receiver" if at is None else "server",
            "precision": "us" if at is None or at % 1000 else "ms",
            "detail": picked(self.body, "msg") | detail,
            "anomalies": anomalies,
        }

    def place(self, at: Micros | None, run: str | None, client: str | None, **more: Any) -> SessionRef:
        """The session `run` of `client`; `more` are further arguments and `rec_id`. Raises `FieldMissing`."""
        if run is None and client is None:
            raise FieldMissing("client_id is missing, and sid names no session")
        ids = (("client_id", client), ("session_id", run), *((name, more.pop(name, None)) for name in _OTHER_IDS))
        return SessionRef(
            at=self.received_at if at is None else at,
            run=run,
            room=client,
            ids=tuple((name, value) for name, value in ids if value is not None),
            **more,
        )


_OTHER_IDS = ("rec_id", "supervisor_session_id")


def interpret(record: Record) -> tuple[Fact, ...]:
    """What a kept StreamRec delivery means. Never raises; see `contract.Interpret`."""
    try:
        body, problem = read_object(record.body), None
    except BodyUnreadable as why:
        body, problem = {}, str(why)
    hints = proof_of(record)
    said = EventContext(
        name=name_of(body),
        body=body,
        data=fields(body.get("data")),
        sid=text(hints.get("sid")),
        rid=text(hints.get("rid")),
        received_at=record.received_at,
    )
    if problem is not None or not said.name:
        return (_raw(said, ("unreadable", problem or "neither status nor type")),)
    try:
        reader = _READERS.get(said.name)
        return reader(said) if reader is not None else (_raw(said, ("unknown_event", said.name)),)
    except FieldMissing as missing:
        return (_raw(said, ("unreadable", str(missing))),)
    except Exception as error:
        return (_raw(said, ("unreadable", f"unforeseen {type(error).__name__}")),)


def name_of(body: dict[str, Any]) -> str:
    """What tells the kind: `status` of a webhook, `type` of a realtime message, "" where there is neither."""
    status, kind = event_name(body.get("status")), event_name(body.get("type"))
    return kind if kind in _READERS and status not in _READERS else status or kind


def moment(value: object) -> Micros | None:
    """ISO 8601 with a zone as µs, finer digits cut off; None for what is none, or before 1970.

    A time nobody set is Go's zero time, `0001-01-01T00:00:00Z`.
    """
    if not isinstance(value, str) or not _MOMENT.fullmatch(value):
        return None
    try:
        at = (datetime.fromisoformat(value.upper()) - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        return None
    return at if 0 < at < LAST else None


def _raw(said: EventContext, *anomalies: tuple[str, str]) -> Unknown:
    """The message without a reading: its name only, because an SDP, a webhook_url or a guest token is a secret.

    Only `sid` places it: the session_id of an unread message may be a supervisor's, which is no session of an agent.
    """
    place = None if said.sid is None else said.place(None, said.sid, None)
    fact = said.fact(anomalies=anomalies)
    fact["detail"] = {"event": said.name} if said.name else {}
    return Unknown(**fact, place=place, subject_id=said.sid)


def _recording(said: EventContext, at: Micros | None = None) -> dict[str, Any]:
    """Which recording, begun `at` (µs) where that is stated: `rec_id`, else the hint `rid`.

    Where there is neither, the name is made up of session (or client) and time: `projections` finds the one meant.
    """
    rec_id, rid, client = said.of("rec_id", "recording_id"), said.rid, said.of("client_id")
    told: dict[str, Any] = {"status": said.name}
    if rec_id is not None:
        told |= {"recording": rec_id, "alias": rid if rid != rec_id else None}
    elif rid is not None:
        told["recording"] = rid
    else:
        owner = said.run or client
        if owner is None:
            raise FieldMissing("rec_id, session_id and client_id are missing")
        told |= {"recording": f"{owner}/{said.received_at // 1000}", "nameless": True}
    anchor = None if "nameless" in told else told["recording"]
    return told | {"place": said.place(at, said.run, client, anchor=anchor, rec_id=rec_id)}


def _span(said: EventContext, start: str, stop: str) -> tuple[Micros | None, Micros | None, Anomalies]:
    """Both ends as stated, and what is wrong with them."""
    began, ended = moment(said.body.get(start)), moment(said.body.get(stop))
    anomalies = tuple(
        ("unreadable", f"{name} is no time") for name, value in ((start, began), (stop, ended)) if value is None
    )
    if began is not None and ended is not None and ended < began:
        anomalies = (("end_before_start", f"{stop} is before {start}"),)
    return began, ended, anomalies


def _upload_ready(said: EventContext) -> tuple[Fact, ...]:
    began, ended, anomalies = _span(said, "recording_started_at", "recording_stopped_at")
    told: dict[str, Any] = _recording(said, began or ended)
    told |= {
        "started_at": began,
        "stopped_at": ended,
        "duration_ms": count(said.body.get("recording_file_duration_ms")),
        "size_bytes": count(said.body.get("recording_file_size_bytes")),
    }
    if began is None and ended is None:
        return (RecordingUploaded(**said.fact(anomalies=anomalies), **told),)
    frames: dict[str, Any] = {
        "first_frame_at": moment(said.body.get("recording_first_frame_written_at")),
        # The client's clock (RTCP): shown, never compared with anything but itself.
        "first_peerframe_at": moment(said.body.get("recording_first_peerframe_captured_at")),
    }
    stopped = RecordingStopped(**said.fact(ended, anomalies), **told, **frames, reason="normal")
    return (stopped, RecordingUploaded(**said.fact(), **told))


def _upload_failed(said: EventContext) -> tuple[Fact, ...]:
    # No time in it at all: the anchor lets it follow the recording's other messages.
    told = _recording(said)
    return (RecordingUploadFailed(**said.fact(), **told, http_status=count(said.body.get("upload_status_code"))),)


def _session_finished(said: EventContext) -> tuple[Fact, ...]:
    began, ended, anomalies = _span(said, "started_at", "stopped_at")
    # rec_id is undocumented here and may be empty: it helps to find, it never names the session.
    rec_id = said.of("rec_id")
    place = said.place(
        began or ended,
        said.run,
        said.of("client_id"),
        starts_at=began,
        ends_at=said.received_at if ended is None else ended,
        anchor=rec_id,
        rec_id=rec_id,
    )
    return (SessionEnded(**said.fact(ended, anomalies), place=place, started_at=began, reason="normal"),)


def _supervisor_session_finished(said: EventContext) -> tuple[Fact, ...]:
    began, ended, anomalies = _span(said, "started_at", "stopped_at")
    activity = said.of("supervisor_session_id")
    if activity is None:
        raise FieldMissing("supervisor_session_id is missing")
    agent, run = said.of("agent_client_id"), said.of("agent_session_id") or _other_session(said, activity)
    return (
        SupervisorSessionEnded(
            **said.fact(ended, anomalies),
            place=said.place(began or ended, run, agent, supervisor_session_id=activity),
            activity=activity,
            identity=said.of("supervisor_client_id"),
            started_at=began,
            reason="normal",
            supervisor_client=said.of("supervisor_client_id"),
            agent_client=agent,
            agent_session=run,
        ),
    )


def _session_start(said: EventContext) -> tuple[Fact, ...]:
    place = said.place(None, said.run, said.of("client_id"), starts_at=said.received_at)
    return (SessionStarted(**said.fact(**picked(said.data, "version")), place=place),)


def _recording_start(said: EventContext) -> tuple[Fact, ...]:
    return (RecordingStarted(**said.fact(), **_recording(said)),)


def _recording_stop(said: EventContext) -> tuple[Fact, ...]:
    told = _recording(said)
    return (RecordingStopped(**said.fact(), **told, reason="normal"),)


def _supervisor_join_session(said: EventContext) -> tuple[Fact, ...]:
    activity = said.of("session_id", "supervisor_session_id")
    if activity is None:
        raise FieldMissing("session_id is missing")
    agent = said.of("client_id_to_monitor", "agent_client_id")
    run = said.of("session_id_to_monitor", "agent_session_id") or _other_session(said, activity)
    is_placed = run is not None or agent is not None
    # Without either, its end will say whose session it was: the moment is kept in the timeline of all.
    anomalies: Anomalies = () if is_placed else (("unreadable", "session_id_to_monitor is missing"),)
    return (
        SupervisorSessionStarted(
            **said.fact(anomalies=anomalies),
            place=said.place(None, run, agent, supervisor_session_id=activity) if is_placed else None,
            activity=activity,
            identity=said.of("client_id"),
            supervisor_client=said.of("client_id"),
            agent_client=agent,
            agent_session=run,
        ),
    )


def _other_session(said: EventContext, own: str) -> str | None:
    """The hint, where it is not the supervisor's own session: then it is the one that is listened to."""
    return said.sid if said.sid != own else None


def _no_kind(said: EventContext) -> tuple[Fact, ...]:
    """Signalling we know and have no kind for: no anomaly."""
    return (_raw(said),)


_READERS: dict[str, Callable[[EventContext], tuple[Fact, ...]]] = {
    "upload_ready": _upload_ready,
    "upload_failed": _upload_failed,
    "session_finished": _session_finished,
    "supervisor_session_finished": _supervisor_session_finished,
    "session_start": _session_start,
    "recording_start": _recording_start,
    "recording_stop": _recording_stop,
    "supervisor_join_session": _supervisor_join_session,
    "recording_state": _no_kind,
    "sdp_update": _no_kind,
    "candidate": _no_kind,
}
