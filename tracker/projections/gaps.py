"""Timeline entries for starts and ends that no event reported: they were derived or inferred. Pure.

They are made from the rows each time a session is rendered, so a reported end that arrives late makes them vanish.
Their position is the session's last record: with that much of the log, they follow from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from tracker.domain.facts import Micros, Provenance
from tracker.projections.announcements import Announcements
from tracker.projections.recordings import RenderedRecording
from tracker.domain.rows import ConnectionRow, End, EntryRow, SessionRow, StreamRow, SupervisorSessionRow

FIRST_N = 1_000_000
"""`n` of the first of these entries: larger than `n` of any fact of a record."""


class _Gap(NamedTuple):
    at: Micros
    kind: str
    subject_type: str
    subject_id: str | None
    actor: str | None
    provenance: Provenance
    detail: dict[str, Any]


class ActivitySpan(NamedTuple):
    """When an activity without rows of its own (a broadcast, an ingress, …) began and ended, and how that is known."""

    kind: str
    id: str
    identity: str | None
    started_at: Micros | None
    start_provenance: Provenance | None
    ended_at: Micros | None
    end: End | None


def gap_entries(
    session: SessionRow, connections: list[ConnectionRow], streams: list[StreamRow],
    recordings: list[RenderedRecording], supervisors: list[SupervisorSessionRow], activities: list[ActivitySpan],
    announced: Announcements, resumed_at: Micros | None, *, last_n: int,
) -> tuple[EntryRow, ...]:  # fmt: skip
    """The entries that fill what the events of a session left out, in order of time.

    `resumed_at`: when the session began again after a reported end.
    `last_n`: the `n` of the session's first fact of its last record. A record may be about several sessions.
    """
    gaps: list[_Gap] = [*_of_session(session), *_of_connections(connections), *_of_streams(streams)]
    gaps += [*_of_recordings(recordings), *_of_supervisors(supervisors), *_of_activities(activities)]
    gaps += _of_announcements(session, announced)
    if resumed_at is not None:
        gaps.append(_Gap(resumed_at, "session.resumed", "session", None, None, "derived", {}))
    gaps.sort(key=lambda gap: (gap.at, gap.kind, gap.subject_id or ""))
    return tuple(
        EntryRow(
            id=f"{session.last_position}-{n}",
            session_id=session.id,
            position=session.last_position,
            n=n,
            at=gap.at,
            received_at=None,
            kind=gap.kind,
            subject_type=gap.subject_type,
            subject_id=gap.subject_id,
            actor=gap.actor,
            detail=gap.detail,
            source=session.source,
            provenance=gap.provenance,
            clock="server",
            dedupe_key="",
            hidden=False,
        )
        for n, gap in enumerate(gaps, FIRST_N * (1 + last_n))
    )


def _gap(
    at: Micros | None, kind: str, subject_id: str | None, actor: str | None, provenance: Provenance | None,
    subject_type: str, detail: dict[str, Any] | None = None,
) -> Iterator[_Gap]:  # fmt: skip
    """The entry of a start or an end, unless its own event reported it."""
    if at is not None and provenance is not None and provenance != "reported":
        yield _Gap(at, kind, subject_type, subject_id, actor, provenance, detail or {})


def _of_session(row: SessionRow) -> Iterator[_Gap]:
    yield from _gap(row.started_at, "session.started", None, None, row.start_provenance, "session")
    if row.end is not None:
        detail = {"reason": row.end.reason}
        yield from _gap(row.ended_at, "session.ended", None, None, row.end.provenance, "session", detail)


def _of_announcements(row: SessionRow, announced: Announcements) -> Iterator[_Gap]:
    """The entries of announcements whose own entries are hidden: only the whole session shows what each of them was."""
    if announced.first is not None:
        # Where its own entry is not hidden, the first announcement is in the timeline twice: as what it says, and as the start.
        provenance: Provenance = "reported" if announced.first in announced.hidden else "derived"
        yield _Gap(row.started_at or announced.first.at, "session.started", "session", None, None, provenance, {})
    for claim in announced.hidden:
        if claim is not announced.first:
            yield _Gap(claim.at, "session.resumed", "session", None, None, "reported", {})


def _of_connections(rows: list[ConnectionRow]) -> Iterator[_Gap]:
    for row in rows:
        if row.aborted:
            continue
        who, detail = row.participant, {"connection": row.id}
        yield from _gap(row.joined_at, "participant.joined", who, who, row.join_provenance, "participant", detail)
        if row.leave is not None:
            detail = {**detail, "reason": row.leave.reason}
            yield from _gap(row.left_at, "participant.left", who, who, row.leave.provenance, "participant", detail)


def _of_streams(rows: list[StreamRow]) -> Iterator[_Gap]:
    for row in rows:
        subject, began, ended = (
            ("stream", "stream.published", "stream.unpublished")
            if row.direction == "published"
            else ("subscription", "subscription.started", "subscription.ended")
        )
        yield from _gap(row.started_at, began, row.stream, row.participant, row.start_provenance, subject)
        if row.end is not None:
            detail = {"reason": row.end.reason}
            yield from _gap(row.ended_at, ended, row.stream, row.participant, row.end.provenance, subject, detail)


def _of_recordings(recordings: list[RenderedRecording]) -> Iterator[_Gap]:
    for recording in recordings:
        row = recording.row
        subject = row.vendor_id
        if recording.legacy:
            # The entries of legacy facts are hidden, because newer servers report the same twice. Here nothing else did.
            for step in row.history:
                yield _Gap(step["at"], f"recording.{step['status']}", "recording", subject, None, "reported", {})
        yield from _gap(row.started_at, "recording.started", subject, None, row.start_provenance, "recording")
        yield from _gap(row.stopped_at, "recording.stopped", subject, None, row.stop_provenance, "recording")


def _of_supervisors(rows: list[SupervisorSessionRow]) -> Iterator[_Gap]:
    for row in rows:
        who, subject = row.supervisor_client, "supervisor_session"
        yield from _gap(row.started_at, "supervisor_session.started", row.id, who, row.start_provenance, subject)
        if row.provenance == "inferred":
            yield from _gap(row.ended_at, "supervisor_session.ended", row.id, who, row.provenance, subject)


def _of_activities(spans: list[ActivitySpan]) -> Iterator[_Gap]:
    for span in spans:
        ended = "stopped" if span.kind == "broadcast" else "ended"
        started, who = f"{span.kind}.started", span.identity
        yield from _gap(span.started_at, started, span.id, who, span.start_provenance, span.kind)
        if span.end is not None:
            detail = {"reason": span.end.reason}
            yield from _gap(span.ended_at, f"{span.kind}.{ended}", span.id, who, span.end.provenance, span.kind, detail)
