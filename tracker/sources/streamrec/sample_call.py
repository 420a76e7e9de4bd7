"""A sample call of StreamRec: four webhooks, all at ends, and the realtime messages that an application relays."""

from __future__ import annotations

from tracker.domain.facts import Micros
from tracker.sources.sample_calls import CallScript, Json, SignedRequest


def play(script: CallScript) -> None:
    """Write every delivery of one call."""
    client, session, watch, recording = script.reusable("agent-0042"), script.uuid(), script.uuid(), script.uuid()

    def relay(seconds: float, kind: str, who: str, sid: str, data: Json) -> None:
        script.send(seconds, kind, {"type": kind, "client_id": who, "session_id": sid, "data": data}, sid=session)

    def report(seconds: float, status: str, fields: Json, **query: str) -> None:
        script.send(seconds, status, {"status": status} | fields, sid=session, **query)

    relay(2, "session_start", client, session, {"version": "v1.2.3"})
    relay(30, "recording_start", client, session, {"rec_id": recording})
    relay(45, "supervisor_join_session", "supervisor-7", watch, {"session_id_to_monitor": session})
    relay(90, "recording_stop", client, session, {"rec_id": recording})
    uploaded: Json = {
        "msg": "Recording uploaded", "rec_id": recording, "client_id": client,
        "recording_started_at": script.iso(30.2), "recording_first_frame_written_at": script.iso(30.4),
        "recording_first_peerframe_captured_at": script.iso(30.1), "recording_stopped_at": script.iso(90.2),
        "recording_file_duration_ms": script.ms(90.2) - script.ms(30.4), "recording_file_size_bytes": 18_213_377,
    }  # fmt: skip
    watched: Json = {
        "supervisor_session_id": watch, "supervisor_client_id": "supervisor-7",
        "agent_session_id": session, "agent_client_id": client,
        "started_at": script.iso(45.3), "stopped_at": script.iso(119.8),
    }  # fmt: skip
    report(96, "upload_ready", uploaded, rid=recording)
    report(120, "supervisor_session_finished", watched)
    finished = {
        "rec_id": recording,
        "client_id": client,
        "started_at": script.iso(2.1),
        "stopped_at": script.iso(149.9),
    }
    report(150, "session_finished", {"msg": "Session finished"} | finished)


def sign(_body: bytes, secret: str, _now: Micros, _issuer: str) -> SignedRequest:
    """The token at the end of the address."""
    return {"Content-Type": "application/json"}, f"/{secret}", {}
