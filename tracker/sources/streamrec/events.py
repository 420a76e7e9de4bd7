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
    MAX_TIME,
    BodyUnreadable,
    as_count,
    event_name,
    as_object,
    pick_fields,
    read_proof,
    read_object,
    as_text,
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

    def first_text(self, *names: str) -> str | None:
        """The first of these fields that holds text, in `data` before the body itself."""
        found = (as_text(where.get(name)) for where in (self.data, self.body) for name in names)
        return next((value for value in found if value is not None), None)

    @property
    def run(self) -> str | None:
        """The agent's session: `session_id`, else the hint. A supervisor's messages have a session of their own."""
        return self.first_text("session_id") or self.sid

    def fact(self, at: Micros | None = None, anomalies: Anomalies = (), **detail: Any) -> dict[str, Any]:
        """The arguments every fact takes: at `at` (µs) by their clock, or by ours when they state no time."""
        return {
            "at": self.received_at if at is None else at,
            "clock": "receiver" if at is None else "server",
            "precision": "us" if at is None or at % 1000 else "ms",
            "detail": pick_fields(self.body, "msg") | detail,
            "anomalies": anomalies,
        }

    def session_ref(self, at: Micros | None, run: str | None, client: str | None, **more: Any) -> SessionRef:
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
    hints = read_proof(record)
    context = EventContext(
        name=name_of(body),
        body=body,
        data=as_object(body.get("data")),
        sid=as_text(hints.get("sid")),
        rid=as_text(hints.get("rid")),
        received_at=record.received_at,
    )
    if problem is not None or not context.name:
        return (_raw(context, ("unreadable", problem or "neither status nor type")),)
    try:
        reader = _READERS.get(context.name)
        return reader(context) if reader is not None else (_raw(context, ("unknown_event", context.name)),)
    except FieldMissing as missing:
        return (_raw(context, ("unreadable", str(missing))),)
    except Exception as error:
        return (_raw(context, ("unreadable", f"unforeseen {type(error).__name__}")),)


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
    return at if 0 < at < MAX_TIME else None


def _raw(context: EventContext, *anomalies: tuple[str, str]) -> Unknown:
    """The message without a reading: its name only, because an SDP, a webhook_url or a guest token is a secret.

    Only `sid` places it: the session_id of an unread message may be a supervisor's, which is no session of an agent.
    """
    place = None if context.sid is None else context.session_ref(None, context.sid, None)
    fact = context.fact(anomalies=anomalies)
    fact["detail"] = {"event": context.name} if context.name else {}
    return Unknown(**fact, place=place, subject_id=context.sid)


def _recording(context: EventContext, at: Micros | None = None) -> dict[str, Any]:
    """Which recording, begun `at` (µs) where that is stated: `rec_id`, else the hint `rid`.

    Where there is neither, the name is made up of session (or client) and time: `projections` finds the one meant.
    """
    rec_id, rid, client = context.first_text("rec_id", "recording_id"), context.rid, context.first_text("client_id")
    told: dict[str, Any] = {"status": context.name}
    if rec_id is not None:
        told |= {"recording": rec_id, "alias": rid if rid != rec_id else None}
    elif rid is not None:
        told["recording"] = rid
    else:
        owner = context.run or client
        if owner is None:
            raise FieldMissing("rec_id, session_id and client_id are missing")
        told |= {"recording": f"{owner}/{context.received_at // 1000}", "nameless": True}
    anchor = None if "nameless" in told else told["recording"]
    return told | {"place": context.session_ref(at, context.run, client, anchor=anchor, rec_id=rec_id)}


def _span(context: EventContext, start: str, stop: str) -> tuple[Micros | None, Micros | None, Anomalies]:
    """Both ends as stated, and what is wrong with them."""
    began, ended = moment(context.body.get(start)), moment(context.body.get(stop))
    anomalies = tuple(
        ("unreadable", f"{name} is no time") for name, value in ((start, began), (stop, ended)) if value is None
    )
    if began is not None and ended is not None and ended < began:
        anomalies = (("end_before_start", f"{stop} is before {start}"),)
    return began, ended, anomalies


def _upload_ready(context: EventContext) -> tuple[Fact, ...]:
    began, ended, anomalies = _span(context, "recording_started_at", "recording_stopped_at")
    told: dict[str, Any] = _recording(context, began or ended)
    told |= {
        "started_at": began,
        "stopped_at": ended,
        "duration_ms": as_count(context.body.get("recording_file_duration_ms")),
        "size_bytes": as_count(context.body.get("recording_file_size_bytes")),
    }
    if began is None and ended is None:
        return (RecordingUploaded(**context.fact(anomalies=anomalies), **told),)
    frames: dict[str, Any] = {
        "first_frame_at": moment(context.body.get("recording_first_frame_written_at")),
        # The client's clock (RTCP): shown, never compared with anything but itself.
        "first_peerframe_at": moment(context.body.get("recording_first_peerframe_captured_at")),
    }
    stopped = RecordingStopped(**context.fact(ended, anomalies), **told, **frames, reason="normal")
    return (stopped, RecordingUploaded(**context.fact(), **told))


def _upload_failed(context: EventContext) -> tuple[Fact, ...]:
    # No time in it at all: the anchor lets it follow the recording's other messages.
    told = _recording(context)
    return (
        RecordingUploadFailed(**context.fact(), **told, http_status=as_count(context.body.get("upload_status_code"))),
    )


def _session_finished(context: EventContext) -> tuple[Fact, ...]:
    began, ended, anomalies = _span(context, "started_at", "stopped_at")
    # rec_id is undocumented here and may be empty: it helps to find, it never names the session.
    rec_id = context.first_text("rec_id")
    place = context.session_ref(
        began or ended,
        context.run,
        context.first_text("client_id"),
        starts_at=began,
        ends_at=context.received_at if ended is None else ended,
        anchor=rec_id,
        rec_id=rec_id,
    )
    return (SessionEnded(**context.fact(ended, anomalies), place=place, started_at=began, reason="normal"),)


def _supervisor_session_finished(context: EventContext) -> tuple[Fact, ...]:
    began, ended, anomalies = _span(context, "started_at", "stopped_at")
    activity = context.first_text("supervisor_session_id")
    if activity is None:
        raise FieldMissing("supervisor_session_id is missing")
    agent, run = (
        context.first_text("agent_client_id"),
        context.first_text("agent_session_id") or _other_session(context, activity),
    )
    return (
        SupervisorSessionEnded(
            **context.fact(ended, anomalies),
            place=context.session_ref(began or ended, run, agent, supervisor_session_id=activity),
            activity=activity,
            identity=context.first_text("supervisor_client_id"),
            started_at=began,
            reason="normal",
            supervisor_client=context.first_text("supervisor_client_id"),
            agent_client=agent,
            agent_session=run,
        ),
    )


def _session_start(context: EventContext) -> tuple[Fact, ...]:
    place = context.session_ref(None, context.run, context.first_text("client_id"), starts_at=context.received_at)
    return (SessionStarted(**context.fact(**pick_fields(context.data, "version")), place=place),)


def _recording_start(context: EventContext) -> tuple[Fact, ...]:
    return (RecordingStarted(**context.fact(), **_recording(context)),)


def _recording_stop(context: EventContext) -> tuple[Fact, ...]:
    told = _recording(context)
    return (RecordingStopped(**context.fact(), **told, reason="normal"),)


def _supervisor_join_session(context: EventContext) -> tuple[Fact, ...]:
    activity = context.first_text("session_id", "supervisor_session_id")
    if activity is None:
        raise FieldMissing("session_id is missing")
    agent = context.first_text("client_id_to_monitor", "agent_client_id")
    run = context.first_text("session_id_to_monitor", "agent_session_id") or _other_session(context, activity)
    is_placed = run is not None or agent is not None
    # Without either, its end will say whose session it was: the moment is kept in the timeline of all.
    anomalies: Anomalies = () if is_placed else (("unreadable", "session_id_to_monitor is missing"),)
    return (
        SupervisorSessionStarted(
            **context.fact(anomalies=anomalies),
            place=context.session_ref(None, run, agent, supervisor_session_id=activity) if is_placed else None,
            activity=activity,
            identity=context.first_text("client_id"),
            supervisor_client=context.first_text("client_id"),
            agent_client=agent,
            agent_session=run,
        ),
    )


def _other_session(context: EventContext, own: str) -> str | None:
    """The hint, where it is not the supervisor's own session: then it is the one that is listened to."""
    return context.sid if context.sid != own else None


def _no_kind(context: EventContext) -> tuple[Fact, ...]:
    """Signalling we know and have no kind for: no anomaly."""
    return (_raw(context),)


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
