"""Reads the rows behind the page of a session, and summarises the proofs of its records.

A session may have 2,000 people and 50,000 events. Everything read here has a limit, and what a limit cut off is reported.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from tracker.api.route import ApiRequest
from tracker.dashboard.lanes import SessionParts
from tracker.evidence.proof_schemes import SCHEME_MEANINGS, meaning_of
from tracker.domain.rows import EntryRow, SessionRow

PAGE_ROWS = 1_000
ACTIVITIES = (
    "broadcast.started", "broadcast.stopped", "ingress.started", "ingress.ended", "transcription.started",
    "transcription.ended", "agent_job.started", "agent_job.ended",
)  # fmt: skip
MAX_ANOMALIES = 100
"""Anomalies whose record is looked up, at most."""
MAX_PROOFS = 200
"""Records whose proof is looked up, at most."""
MAX_COUNTED = 200_000


class RowLimits(msgspec.Struct, frozen=True):
    """Most rows to read of each kind."""

    people: int
    connections: int
    streams: int
    others: int = 2_000


STILL_LIMITS = RowLimits(people=5_000, connections=10_000, streams=1_000)
"""For the static SVG and the page."""

FULL_LIMITS = RowLimits(people=20_000, connections=60_000, streams=60_000)
"""For the script and the exports."""


class ProofSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What proves the records of a session.

    `records`: their number, at most `MAX_COUNTED`; then `is_counted` is false. `checked`: how many proofs were looked up.
    `schemes`: (what the proof proves, number of records). `checkpoint`: size of the newest signed checkpoint, None
    without one.
    """

    records: int
    is_counted: bool
    first: int
    last: int
    checked: int
    schemes: list[tuple[str, int]]
    has_erased: bool
    checkpoint: int | None


async def read_session_parts(api_request: ApiRequest, session: SessionRow, limits: RowLimits) -> SessionParts:
    """The rows of `session`, within `limits`."""
    views = api_request.context.views
    cut: dict[str, int] = {}

    async def pages(
        what: str, limit: int, query: Callable[[str | None], Awaitable[tuple[list[Any], str | None]]]
    ) -> Any:
        rows, cursor = await query(None)
        while cursor is not None and len(rows) < limit:
            more, cursor = await query(cursor)
            rows += more
        if cursor is not None:
            cut[what] = len(rows)
        return rows

    one: dict[str, Any] = {"session_id": session.id, "sources": None, "limit": PAGE_ROWS}
    people = await pages("participants", limits.people, lambda at: views.participants(identity=None, cursor=at, **one))
    return SessionParts(
        session=session,
        participants=people,
        connections=await pages(
            "connections", limits.connections, lambda at: views.connections(session.id, limit=PAGE_ROWS, cursor=at)
        ),
        streams=await pages("streams", limits.streams, lambda at: views.streams(session.id, limit=PAGE_ROWS, cursor=at)),
        recordings=await pages(
            "recordings", limits.others, lambda at: views.recordings(status=None, cursor=at, **one)
        ),
        supervisors=await pages(
            "supervisors", limits.others, lambda at: views.supervisor_sessions(client=None, cursor=at, **one)
        ),
        activities=await pages(
            "activities", limits.others,
            lambda at: views.timeline(session.id, kinds=ACTIVITIES, subject=None, limit=PAGE_ROWS, cursor=at),
        ),
        anomaly_entries=await _anomaly_entries(api_request, session),
        truncated=cut,
    )  # fmt: skip


async def summarise_proofs(api_request: ApiRequest, session: SessionRow) -> ProofSummary:
    """Summarise the proofs of the records behind `session`. It shows neither bodies nor signatures, so it needs no scope."""
    positions = await api_request.context.views.session_positions(session.id, limit=MAX_COUNTED, after=0)
    found: dict[str, int] = {}
    checked = positions[:MAX_PROOFS]
    for position in checked:
        record = await api_request.context.log.record(position)
        if record is not None:
            meaning = meaning_of(record)
            found[meaning] = found.get(meaning, 0) + 1
    newest = await api_request.context.log.last_checkpoint()
    return ProofSummary(
        records=len(positions),
        is_counted=len(positions) < MAX_COUNTED,
        first=session.first_position,
        last=session.last_position,
        checked=len(checked),
        schemes=sorted(found.items()),
        has_erased=SCHEME_MEANINGS["erased"] in found,
        checkpoint=None if newest is None else newest[0],
    )


async def _anomaly_entries(api_request: ApiRequest, session: SessionRow) -> list[EntryRow]:
    """The entries at the positions of anomalies: their times place the anomalies on the axis."""
    positions = sorted({anomaly.position for anomaly in session.anomalies if anomaly.position is not None})
    found: list[EntryRow] = []
    for position in positions[:MAX_ANOMALIES]:
        rows = await api_request.context.views.entries_after(position - 1, 2**31, limit=5)
        found += [row for row in rows if row.position == position and row.session_id == session.id]
    return found
