"""A session that is set aside: its rows cannot be made or stored, so one row stands for it and says why.

Everything else goes on. The record and the reason are an anomaly of that row. The facts stay in the log, so a later Tracker
that can read them shows the session again, at its next rebuild.
"""

from __future__ import annotations

import msgspec

from tracker.domain.facts import Clock, Micros
from tracker.domain.rows import Anomaly, EntryRow, SessionRow, SessionRows

KIND = "set_aside"
"""The kind of the anomaly."""


class SetAside(msgspec.Struct, frozen=True):
    """A session that is set aside, the record with which that happened, and why."""

    session: str
    position: int
    reason: str


def set_aside_rows(
    session_id: str, *, source: str, vendor: str, position: int, reason: str, first_position: int, last_position: int,
    first_at: Micros, last_at: Micros, lookups: tuple[str, ...] = (), state: bytes,
) -> SessionRows:  # fmt: skip
    """The rows of a session that is set aside with the record at `position`."""
    session = SessionRow(
        id=session_id, source=source, vendor=vendor, room_id=None, room_name=None, vendor_ids={}, state="open",
        created_at=None, started_at=None, ended_at=None, duration_ms=None, start_provenance=None, end=None,
        participants=0, peak_participants=0, participant_ms=0, recordings=0, supervisors=0, completeness="open",
        anomalies=[Anomaly(kind=KIND, position=position, detail=reason)],
        first_position=first_position, last_position=last_position, last_event_at=last_at, begins_at=first_at,
    )  # fmt: skip
    return SessionRows(
        session=session, lookups=lookups, participants=(), connections=(), streams=(), recordings=(),
        supervisor_sessions=(), gaps=(), state=state,
    )  # fmt: skip


def refused_rows(rows: SessionRows, reason: str) -> SessionRows:
    """What stands for rows that the views refuse. They may refuse any text in them, so only the id and numbers are left."""
    session = rows.session
    return set_aside_rows(
        session.id, source=session.source, vendor=session.vendor, position=session.last_position, reason=reason,
        first_position=session.first_position, last_position=session.last_position,
        first_at=_storable(session.begins_at), last_at=_storable(session.last_event_at), state=rows.state,
    )  # fmt: skip


def stand_in_entry(
    position: int, n: int, session_id: str | None, *, at: Micros, received_at: Micros | None, source: str, clock: Clock,
    key: str, reason: str,
) -> EntryRow:  # fmt: skip
    """What stands for an entry that cannot be made or stored."""
    return EntryRow(
        f"{position}-{n}", session_id, position, n, _storable(at), received_at, "unknown", "session", None, None,
        {KIND: reason}, source, "reported", clock, key, hidden=False,
    )  # fmt: skip


def _storable(at: Micros) -> Micros:
    return max(-(2**63), min(at, 2**63 - 1))


def find_set_aside(session: SessionRow) -> SetAside | None:
    """Why a session is set aside; None if it is not."""
    return next(
        (SetAside(session.id, each.position or 0, each.detail) for each in session.anomalies if each.kind == KIND), None
    )


def describe_error(error: BaseException) -> str:
    """The error in words that quote nothing from a sender: its type, and the function that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return type(error).__name__ if trace is None else f"{type(error).__name__} in {trace.tb_frame.f_code.co_name}"
