"""Rows as answers: how the API, the dashboard and evidence bundles show what the views hold.

Pure functions of a row. They know nothing of HTTP or of who asks.
"""

from __future__ import annotations

from tracker.domain.facts import Micros
from tracker.domain.rows import ConnectionRow, EntryRow, ParticipantRow, RecordingRow, SessionRow, StreamRow, SupervisorSessionRow  # fmt: skip
from tracker.views.answers import Agent, Connection, Entry, Participant, Recording, RecordingStatus, Room, Session, Stream, Subject, Supervisor, SupervisorSession, Upload, time_of  # fmt: skip


def present_session(row: SessionRow, *, stuck_before: Micros) -> Session:
    """The answer for a session. It is stuck when it is open and its last event is not after `stuck_before` (µs)."""
    return Session(
        id=row.id,
        source=row.source,
        vendor=row.vendor,
        room=Room(row.room_id, row.room_name),
        vendor_ids=row.vendor_ids,
        state=row.state,
        stuck=row.state == "open" and row.last_event_at <= stuck_before,
        created_at=time_of(row.created_at),
        started_at=time_of(row.started_at),
        ended_at=time_of(row.ended_at),
        duration_ms=row.duration_ms,
        end=row.end,
        participants=row.participants,
        peak_participants=row.peak_participants,
        participant_ms=row.participant_ms,
        recordings=row.recordings,
        supervisors=row.supervisors,
        completeness=row.completeness,
        anomalies=row.anomalies,
        first_position=row.first_position,
        last_position=row.last_position,
        last_event_at=time_of(row.last_event_at),
    )


def present_entry(row: EntryRow) -> Entry:
    """The answer for a timeline entry."""
    return Entry(
        id=row.id,
        session_id=row.session_id,
        position=row.position,
        at=time_of(row.at),
        received_at=time_of(row.received_at),
        kind=row.kind,
        subject=Subject(row.subject_type, row.subject_id),
        actor=row.actor,
        detail=row.detail,
        source=row.source,
        provenance=row.provenance,
        clock=row.clock,
    )


def present_participant(row: ParticipantRow) -> Participant:
    """The answer for a participant of one session."""
    return Participant(
        id=row.id,
        identity=row.identity,
        name=row.name,
        kind=row.kind,
        connections=row.connections,
        first_joined_at=time_of(row.first_joined_at),
        last_left_at=time_of(row.last_left_at),
        presence_ms=row.presence_ms,
    )


def present_connection(row: ConnectionRow) -> Connection:
    """The answer for a connection."""
    return Connection(
        id=row.id,
        participant=row.participant,
        joined_at=time_of(row.joined_at),
        left_at=time_of(row.left_at),
        duration_ms=row.duration_ms,
        join_provenance=row.join_provenance,
        leave=row.leave,
        aborted=row.aborted,
        platform=row.platform,
        location=row.location,
        ip=row.ip,
    )


def present_stream(row: StreamRow) -> Stream:
    """The answer for a stream or a subscription."""
    return Stream(
        id=row.id,
        direction=row.direction,
        stream=row.stream,
        participant=row.participant,
        connection=row.connection,
        publisher=row.publisher,
        media=row.media,
        label=row.label,
        started_at=time_of(row.started_at),
        ended_at=time_of(row.ended_at),
        duration_ms=row.duration_ms,
        start_provenance=row.start_provenance,
        end=row.end,
        detail=row.detail,
    )


def present_recording(row: RecordingRow) -> Recording:
    """The answer for a recording."""
    return Recording(
        id=row.id,
        session_id=row.session_id,
        vendor_id=row.vendor_id,
        mode=row.mode,
        status=row.status,
        upload=Upload(row.upload_status, row.upload_http_status),
        started_at=time_of(row.started_at),
        first_frame_at=time_of(row.first_frame_at),
        first_peerframe_at=time_of(row.first_peerframe_at),
        stopped_at=time_of(row.stopped_at),
        duration_ms=row.duration_ms,
        size_bytes=row.size_bytes,
        url=row.url,
        stop_reason=row.stop_reason,
        start_provenance=row.start_provenance,
        stop_provenance=row.stop_provenance,
        history=[
            RecordingStatus(each["status"], time_of(each.get("at")), each.get("position")) for each in row.history
        ],
    )


def present_supervisor_session(row: SupervisorSessionRow) -> SupervisorSession:
    """The answer for a supervisor session."""
    return SupervisorSession(
        id=row.id,
        supervisor=Supervisor(row.supervisor_client),
        agent=Agent(row.agent_session, row.agent_client),
        session_id=row.session_id,
        started_at=time_of(row.started_at),
        ended_at=time_of(row.ended_at),
        duration_ms=row.duration_ms,
        provenance=row.provenance,
    )
