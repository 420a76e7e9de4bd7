"""Rows as answers: how the API, the dashboard and evidence bundles show what the views hold.

Pure functions of a row, and the parts of a session. They know nothing of HTTP or of who asks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import msgspec

from tracker.domain import rows
from tracker.domain.facts import Micros
from tracker.domain.rows import EntryRow, RecordingRow, SessionRow, SupervisorSessionRow
from tracker.views.answers import Agent, Connection, End, Entry, Participant, Recording, RecordingStatus, Room, Session, Stream, Subject, Supervisor, SupervisorSession, Upload, time_of  # fmt: skip
from tracker.views.contract import ViewsReader

Answer = TypeVar("Answer", bound=msgspec.Struct)


@functools.cache
def _fields(answer: type[msgspec.Struct]) -> tuple[tuple[str, bool], ...]:
    """The name of each field, and whether it is a time."""
    return tuple((name, name == "at" or name.endswith("_at")) for name in answer.__struct_fields__)


def present(answer: type[Answer], row: Any, **own: Any) -> Answer:
    """An answer with the fields of the same names in `row`, times as text. `own`: the values of its other fields."""
    for name, is_time in _fields(answer):
        if name not in own:
            value = getattr(row, name)
            own[name] = time_of(value) if is_time else _end(value) if isinstance(value, rows.End) else value
    return answer(**own)


def _end(row: rows.End) -> End:
    return End(
        reason=row.reason,
        vendor_reason=row.vendor_reason,
        provenance=row.provenance,
        not_after=time_of(row.not_after) if row.provenance == "inferred" else msgspec.UNSET,
    )


def present_session(row: SessionRow, *, stuck_before: Micros) -> Session:
    """The answer for a session. It is stuck when it is open and its last event is not after `stuck_before` (µs)."""
    is_stuck = row.state == "open" and row.last_event_at <= stuck_before
    return present(Session, row, room=Room(row.room_id, row.room_name), stuck=is_stuck)


def present_entry(row: EntryRow) -> Entry:
    """The answer for a timeline entry."""
    return present(Entry, row, subject=Subject(row.subject_type, row.subject_id))


def present_recording(row: RecordingRow) -> Recording:
    """The answer for a recording."""
    history = [RecordingStatus(each["status"], time_of(each.get("at")), each.get("position")) for each in row.history]
    return present(Recording, row, upload=Upload(row.upload_status, row.upload_http_status), history=history)


def present_supervisor_session(row: SupervisorSessionRow) -> SupervisorSession:
    """The answer for a supervisor session."""
    agent = Agent(row.agent_session, row.agent_client)
    return present(SupervisorSession, row, supervisor=Supervisor(row.supervisor_client), agent=agent)


class SessionPart(NamedTuple):
    """One list of a session: the answer for a row, and the filters with which the query leaves nothing out."""

    present: Callable[[Any], msgspec.Struct]
    filters: dict[str, Any]


SESSION_PARTS = {
    "participants": SessionPart(functools.partial(present, Participant), {"identity": None, "sources": None}),
    "connections": SessionPart(functools.partial(present, Connection), {}),
    "streams": SessionPart(functools.partial(present, Stream), {}),
    "recordings": SessionPart(present_recording, {"status": None, "sources": None}),
    "supervisor_sessions": SessionPart(present_supervisor_session, {"client": None, "sources": None}),
    "timeline": SessionPart(present_entry, {"kinds": (), "subject": None}),
}
"""By the name of the query in `ViewsReader`."""


async def session_part(
    views: ViewsReader, name: str, session_id: str, *, limit: int, cursor: str | None, **filters: Any
) -> tuple[list[msgspec.Struct], str | None]:
    """One page of a list of a session, as answers, and the cursor of the next."""
    part, query = SESSION_PARTS[name], getattr(views, name)
    rows, after = await query(session_id=session_id, limit=limit, cursor=cursor, **(part.filters | filters))
    return [part.present(row) for row in rows], after
