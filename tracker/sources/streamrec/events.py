"""What StreamRec's webhooks mean, and the realtime messages an application relays to the same hook.

    webhooks (`status`)            all sent at ends; each states both ends of its interval, by the server's clock
    relayed messages (`type`)      sent at starts; they have no time, so the time of receipt counts (`clock: receiver`)
    hints (`sid`, `rid`)           query parameters of the address, recorded in the proof: which session and recording

A room is a client (the agent), a session one of its streams. Fields: docs/reference/vendors/streamrec.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from tracker.domain.deliveries import Record
from tracker.domain import facts
from tracker.domain.facts import EventCopy, Fact, Micros, SessionRef
from tracker.sources.contract import LOG_FIELDS, Where
from tracker.sources.json_reading import (
    BodyUnreadable,
    as_count,
    event_name,
    as_object,
    iso_moment,
    pick_fields,
    read_proof,
    repeat_of,
    read_object,
    as_text,
)


Anomalies = tuple[tuple[str, str], ...]


class FieldMissing(Exception):
    """A message lacks a field that its meaning depends on; the message names the field. Not raised outside of this module."""


class EventContext(msgspec.Struct, frozen=True, kw_only=True):
    """What every body has: its name, its fields, the relayed message's `data`, the hints, and when we received it.

    `repeat`: what makes a webhook a repeat of another one, whatever its `msg` says. Any field tells relayed messages apart.
    """

    name: str
    body: dict[str, Any]
    data: dict[str, Any]
    sid: str | None
    rid: str | None
    received_at: Micros
    repeat: EventCopy | None

    def first_text(self, *names: str) -> str | None:
        """The first of these fields that holds text, in `data` before the body itself."""
        for where in (self.data, self.body) if self.data else (self.body,):
            for name in names:
                value = as_text(where.get(name))
                if value is not None:
                    return value
        return None

    @property
    def run(self) -> str | None:
        """The agent's session: `session_id`, else the hint. Messages of a supervisor name the supervisor's own session."""
        return self.first_text("session_id") or self.sid

    def fact(self, at: Micros | None = None, anomalies: Anomalies = (), **detail: Any) -> dict[str, Any]:
        """The arguments of every fact: at `at` (µs, the vendor's clock), or when we received it."""
        return {
            "at": self.received_at if at is None else at,
            "clock": "receiver" if at is None else "server",
            "precision": "us" if at is None or at % 1000 else "ms",
            "detail": pick_fields(self.body, "msg") | detail,
            "anomalies": anomalies,
            "copy": self.repeat,
        }

    def session_ref(
        self,
        at: Micros | None,
        run: str | None,
        client: str | None,
        *,
        rec_id: str | None = None,
        supervisor_session_id: str | None = None,
        **more: Any,
    ) -> SessionRef:
        """The session `run` of `client`; `more`: further arguments of `SessionRef`. Raises `FieldMissing`."""
        if run is None and client is None:
            raise FieldMissing("client_id is missing, and sid names no session")
        ids = () if client is None else (("client_id", client),)
        if run is not None:
            ids += (("session_id", run),)
        if rec_id is not None:
            ids += (("rec_id", rec_id),)
        if supervisor_session_id is not None:
            ids += (("supervisor_session_id", supervisor_session_id),)
        return SessionRef(at=self.received_at if at is None else at, run=run, room=client, ids=ids, **more)


_WEBHOOKS = frozenset({"upload_ready", "upload_failed", "session_finished", "supervisor_session_finished"})


def interpret(record: Record) -> tuple[Fact, ...]:
    """The facts of a recorded StreamRec delivery. Never raises; see `contract.Interpret`."""
    try:
        body, problem = read_object(record.body), None
    except BodyUnreadable as why:
        body, problem = {}, str(why)
    hints = read_proof(record)
    name = name_of(body)
    context = EventContext(
        name=name,
        body=body,
        data=as_object(body.get("data")),
        sid=as_text(hints.get("sid")),
        rid=as_text(hints.get("rid")),
        received_at=record.received_at,
        repeat=_repeat(body, record) if name in _WEBHOOKS else None,
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


def _repeat(body: dict[str, Any], record: Record) -> EventCopy:
    # Of two that differ in `msg` alone, their keys decide which is shown: any order of arrival shows the same.
    content = {name: value for name, value in body.items() if name != "msg"} if "msg" in body else body
    return repeat_of(content, text=int(hashlib.sha256(record.body).hexdigest()[:8], 16))


def name_of(body: dict[str, Any]) -> str:
    """The event's name: `status` of a webhook, `type` of a realtime message, "" where there is neither."""
    status, kind = event_name(body.get("status")), event_name(body.get("type"))
    return kind if kind in _READERS and status not in _READERS else status or kind


def _raw(context: EventContext, *anomalies: tuple[str, str]) -> facts.Unknown:
    """A message that is not read further: its name only, because an SDP, a webhook_url and a guest token are secrets.

    Only `sid` gives its session: the session_id of such a message may be a supervisor's.
    """
    place = None if context.sid is None else context.session_ref(None, context.sid, None)
    fact = context.fact(anomalies=anomalies)
    fact["detail"] = {"event": context.name} if context.name else {}
    return facts.Unknown(**fact, place=place, subject_id=context.sid)


def _recording(context: EventContext, at: Micros | None = None) -> dict[str, Any]:
    """The recording, started `at` (µs) where that is stated: `rec_id`, else the hint `rid`.

    Without either, the id is generated from session (or client) and time, and `projections` finds the recording.
    """
    rec_id, rid, client = context.first_text("rec_id", "recording_id"), context.rid, context.first_text("client_id")
    about: dict[str, Any] = {"status": context.name}
    if rec_id is not None:
        about |= {"recording": rec_id, "alias": rid if rid != rec_id else None}
    elif rid is not None:
        about["recording"] = rid
    else:
        owner = context.run or client
        if owner is None:
            raise FieldMissing("rec_id, session_id and client_id are missing")
        about |= {"recording": f"{owner}/{context.received_at // 1000}", "nameless": True}
    anchor = None if "nameless" in about else about["recording"]
    return about | {"place": context.session_ref(at, context.run, client, anchor=anchor, rec_id=rec_id)}


def _span(context: EventContext, start: str, stop: str) -> tuple[Micros | None, Micros | None, Anomalies]:
    """(start, end, anomalies), as stated."""
    (began, first), (ended, second) = _dated(context, start), _dated(context, stop)
    anomalies = first + second
    if began is not None and ended is not None and ended < began:
        anomalies += (("end_before_start", f"{stop} is before {start}"),)
    return began, ended, anomalies


def _dated(context: EventContext, name: str) -> tuple[Micros | None, Anomalies]:
    stated = context.body.get(name)
    moment = iso_moment(stated)
    if moment is not None:
        return moment, ()
    moment = _moment(stated)
    if moment is None:
        return None, (("unreadable", f"{name} is no time"),)
    return moment, (("clock_skew", f"{name} states no offset from UTC: UTC is assumed"),)


def _moment(stated: object) -> Micros | None:
    """A time in µs; UTC where it states no offset, as in all samples of the vendor."""
    moment = iso_moment(stated)
    return iso_moment(f"{stated}Z") if moment is None and isinstance(stated, str) else moment


def _upload_ready(context: EventContext) -> tuple[Fact, ...]:
    began, ended, anomalies = _span(context, "recording_started_at", "recording_stopped_at")
    about: dict[str, Any] = _recording(context, began or ended)
    about |= {
        "started_at": began,
        "stopped_at": ended,
        "duration_ms": as_count(context.body.get("recording_file_duration_ms")),
        "size_bytes": as_count(context.body.get("recording_file_size_bytes")),
    }
    if began is None and ended is None:
        return (facts.RecordingUploaded(**context.fact(anomalies=anomalies), **about),)
    frames: dict[str, Any] = {
        "first_frame_at": _moment(context.body.get("recording_first_frame_written_at")),
        # The client's clock (RTCP): shown, never compared with other clocks.
        "first_peerframe_at": _moment(context.body.get("recording_first_peerframe_captured_at")),
    }
    stopped = facts.RecordingStopped(**context.fact(ended, anomalies), **about, **frames, reason="normal")
    return (stopped, facts.RecordingUploaded(**context.fact(), **about))


def _upload_failed(context: EventContext) -> tuple[Fact, ...]:
    # It states no time: the anchor places it with the recording's other messages.
    about = _recording(context)
    return (
        facts.RecordingUploadFailed(
            **context.fact(), **about, http_status=as_count(context.body.get("upload_status_code"))
        ),
    )


def _session_finished(context: EventContext) -> tuple[Fact, ...]:
    began, ended, anomalies = _span(context, "started_at", "stopped_at")
    # rec_id is undocumented here and may be empty: it helps to find the session, it never names it.
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
    return (facts.SessionEnded(**context.fact(ended, anomalies), place=place, started_at=began, reason="normal"),)


def _supervisor_session_finished(context: EventContext) -> tuple[Fact, ...]:
    began, ended, anomalies = _span(context, "started_at", "stopped_at")
    activity = context.first_text("supervisor_session_id")
    if activity is None:
        raise FieldMissing("supervisor_session_id is missing")
    agent, run = (
        context.first_text("agent_client_id"),
        context.first_text("agent_session_id") or _supervised_session(context, activity),
    )
    return (
        facts.SupervisorSessionEnded(
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
    return (facts.SessionStarted(**context.fact(**pick_fields(context.data, "version")), place=place),)


def _recording_start(context: EventContext) -> tuple[Fact, ...]:
    return (facts.RecordingStarted(**context.fact(), **_recording(context)),)


def _recording_stop(context: EventContext) -> tuple[Fact, ...]:
    about = _recording(context)
    return (facts.RecordingStopped(**context.fact(), **about, reason="normal"),)


def _supervisor_join_session(context: EventContext) -> tuple[Fact, ...]:
    activity = context.first_text("session_id", "supervisor_session_id")
    if activity is None:
        raise FieldMissing("session_id is missing")
    agent = context.first_text("client_id_to_monitor", "agent_client_id")
    run = context.first_text("session_id_to_monitor", "agent_session_id") or _supervised_session(context, activity)
    is_placed = run is not None or agent is not None
    # Without either, only its end says whose session it was.
    anomalies: Anomalies = () if is_placed else (("unreadable", "session_id_to_monitor is missing"),)
    return (
        facts.SupervisorSessionStarted(
            **context.fact(anomalies=anomalies),
            place=context.session_ref(None, run, agent, supervisor_session_id=activity) if is_placed else None,
            activity=activity,
            identity=context.first_text("client_id"),
            supervisor_client=context.first_text("client_id"),
            agent_client=agent,
            agent_session=run,
        ),
    )


def _supervised_session(context: EventContext, own: str) -> str | None:
    """The hint, where it is not the supervisor's own session: then it is the supervised session."""
    return context.sid if context.sid != own else None


def _signalling(context: EventContext) -> tuple[Fact, ...]:
    """Known signalling without a kind of its own: no anomaly."""
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
    "recording_state": _signalling,
    "sdp_update": _signalling,
    "candidate": _signalling,
}


_OWN_IDS = ("client_id", "session_id", "rec_id", "recording_id", "supervisor_session_id", "supervisor_client_id")


def why_no_event(value: Mapping[str, Any], _where: Where) -> str | None:
    """See `contract.WhyNoEvent`. Every event names a client, a session or a recording; an unknown one names two of them."""
    body = dict(value)
    name, data = name_of(body), as_object(body.get("data"))
    if not name:
        return "it has neither status nor type"
    if not LOG_FIELDS.isdisjoint(body):
        return "the log line of an application"
    named = sum(as_text(where.get(field)) is not None for field in _OWN_IDS for where in (body, data))
    if name in _READERS:
        return None if named else "it names no client, session or recording"
    return None if named > 1 else "an unknown event that names no client and session"
