"""Timeline entries that no event of their own told: starts and ends that were derived or inferred. Pure.

They are made from the rows each time a session is rendered, so a reported end that arrives late makes them vanish.
Their position is the last record known of the session: with that much of the log, this is what follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tracker.domain.facts import Micros, Provenance
from tracker.projections.recordings import RenderedRecording
from tracker.domain.rows import ConnectionRow, EntryRow, SessionRow, StreamRow, SupervisorSessionRow

FIRST = 1_000_000
"""`n` of the first of them: far from the facts of any record."""

_Gap = tuple[Micros, str, str, str | None, str | None, Provenance, dict[str, Any]]


def gap_entries(
    session: SessionRow, connections: list[ConnectionRow], streams: list[StreamRow],
    recordings: list[RenderedRecording], supervisors: list[SupervisorSessionRow],
) -> tuple[EntryRow, ...]:  # fmt: skip
    """The entries of one session that fill what its events left out, in order of time."""
    gaps: list[_Gap] = [*_of_session(session), *_of_connections(connections), *_of_streams(streams)]
    gaps += [*_of_recordings(recordings), *_of_supervisors(supervisors)]
    gaps.sort(key=lambda gap: (gap[0], gap[1], gap[3] or ""))
    return tuple(
        EntryRow(
            id=f"{session.last_position}-{FIRST + k}",
            session_id=session.id,
            position=session.last_position,
            n=FIRST + k,
            at=at,
            received_at=None,
            kind=kind,
            subject_type=subject_type,
            subject_id=subject_id,
            actor=actor,
            detail=detail,
            source=session.source,
            provenance=provenance,
            clock="server",
            dedupe_key="",
            hidden=False,
        )
        for k, (at, kind, subject_type, subject_id, actor, provenance, detail) in enumerate(gaps)
    )


def _of_session(session: SessionRow) -> Iterator[_Gap]:
    if session.started_at is not None and session.start_provenance not in {None, "reported"}:
        yield session.started_at, "session.started", "session", None, None, session.start_provenance or "inferred", {}
    end = session.end
    if session.ended_at is not None and end is not None and end.provenance != "reported":
        yield session.ended_at, "session.ended", "session", None, None, end.provenance, {"reason": end.reason}


def _of_connections(rows: list[ConnectionRow]) -> Iterator[_Gap]:
    for row in rows:
        if row.aborted:
            continue
        detail = {"connection": row.id}
        if row.joined_at is not None and row.join_provenance not in {None, "reported"}:
            provenance = row.join_provenance or "inferred"
            yield (
                row.joined_at,
                "participant.joined",
                "participant",
                row.participant,
                row.participant,
                provenance,
                detail,
            )
        if row.left_at is not None and row.leave is not None and row.leave.provenance != "reported":
            why = {**detail, "reason": row.leave.reason}
            yield (
                row.left_at,
                "participant.left",
                "participant",
                row.participant,
                row.participant,
                row.leave.provenance,
                why,
            )


def _of_streams(rows: list[StreamRow]) -> Iterator[_Gap]:
    for row in rows:
        subject, began, ended = (
            ("stream", "stream.published", "stream.unpublished")
            if row.direction == "published"
            else ("subscription", "subscription.started", "subscription.ended")
        )
        if row.started_at is not None and row.start_provenance not in {None, "reported"}:
            yield row.started_at, began, subject, row.stream, row.participant, row.start_provenance or "inferred", {}
        if row.ended_at is not None and row.end is not None and row.end.provenance != "reported":
            yield (
                row.ended_at,
                ended,
                subject,
                row.stream,
                row.participant,
                row.end.provenance,
                {"reason": row.end.reason},
            )


def _of_recordings(recordings: list[RenderedRecording]) -> Iterator[_Gap]:
    for recording in recordings:
        row = recording.row
        subject = row.vendor_id
        if recording.legacy:
            # Their own entries are hidden: a newer server tells the same twice. Here nothing else told it.
            for step in row.history:
                yield step["at"], f"recording.{step['status']}", "recording", subject, None, "reported", {}
        if row.started_at is not None and row.start_provenance not in {None, "reported"}:
            yield (
                row.started_at,
                "recording.started",
                "recording",
                subject,
                None,
                row.start_provenance or "inferred",
                {},
            )
        if row.stopped_at is not None and row.stop_provenance not in {None, "reported"}:
            yield row.stopped_at, "recording.stopped", "recording", subject, None, row.stop_provenance or "inferred", {}


def _of_supervisors(rows: list[SupervisorSessionRow]) -> Iterator[_Gap]:
    for row in rows:
        if row.started_at is not None and row.start_provenance not in {None, "reported"}:
            provenance = row.start_provenance or "inferred"
            yield (
                row.started_at,
                "supervisor_session.started",
                "supervisor_session",
                row.id,
                row.supervisor_client,
                provenance,
                {},
            )
        if row.ended_at is not None and row.provenance == "inferred":
            yield (
                row.ended_at,
                "supervisor_session.ended",
                "supervisor_session",
                row.id,
                row.supervisor_client,
                "inferred",
                {},
            )
