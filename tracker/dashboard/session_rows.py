"""What the page of a session is made of: the rows behind it, read page by page, and what its records prove.

A session may have 2,000 people and 50,000 events: whatever is read here is bounded, and what a bound cut off is said.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from tracker.api.route import ApiRequest
from tracker.dashboard.lanes import SessionParts
from tracker.domain.deliveries import Record
from tracker.domain.rows import EntryRow, SessionRow

PAGE = 1_000
ACTIVITIES = (
    "broadcast.started", "broadcast.stopped", "ingress.started", "ingress.ended", "transcription.started",
    "transcription.ended", "agent_job.started", "agent_job.ended",
)  # fmt: skip
NOTICED = 100
"""Anomalies whose record is looked up."""
PROVED = 200
"""Records whose proof is looked at."""
COUNTED = 200_000

SCHEMES = {
    "jwt": "signed by the sender (a JWT over the body's SHA-256)",
    "hmac-sha256": "signed by the sender (HMAC-SHA256 over the body)",
    "header": "came with the sender's secret header; the body itself is not signed",
    "url_token": "came to the secret address; the body itself is not signed",
    "import": "read from a file by the operator; nothing proves who sent it",
    "erased": "erased since: what was in it is gone, its place in the log is still proved",
}
"""What a record's proof proves, by its scheme."""


class Bounds(msgspec.Struct, frozen=True):
    """How many rows are read at most."""

    people: int
    connections: int
    streams: int
    others: int = 2_000


STILL_BOUNDS = Bounds(people=5_000, connections=10_000, streams=1_000)
"""Enough for the first picture."""

FULL_BOUNDS = Bounds(people=20_000, connections=60_000, streams=60_000)
"""As much as the script's picture draws."""


class ProofSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What is proved of a session: its records, how many were looked at, and what each kind of proof says of how many.

    `checkpoint`: how many records of the log the newest signed checkpoint holds, None without one.
    """

    records: int
    is_counted: bool
    first: int
    last: int
    looked_at: int
    schemes: list[tuple[str, int]]
    has_erased: bool
    checkpoint: int | None


async def parts_of(asked: ApiRequest, session: SessionRow, bounds: Bounds) -> SessionParts:
    """Everything the lanes of `session` are made of, within `bounds`."""
    views = asked.context.views
    cut: dict[str, int] = {}

    async def pages(what: str, most: int, ask: Callable[[str | None], Awaitable[tuple[list[Any], str | None]]]) -> Any:
        rows, cursor = await ask(None)
        while cursor is not None and len(rows) < most:
            more, cursor = await ask(cursor)
            rows += more
        if cursor is not None:
            cut[what] = len(rows)
        return rows

    one: dict[str, Any] = {"session_id": session.id, "sources": None, "limit": PAGE}
    people = await pages("participants", bounds.people, lambda at: views.participants(identity=None, cursor=at, **one))
    return SessionParts(
        session=session,
        participants=people,
        connections=await pages(
            "connections", bounds.connections, lambda at: views.connections(session.id, limit=PAGE, cursor=at)
        ),
        streams=await pages("streams", bounds.streams, lambda at: views.streams(session.id, limit=PAGE, cursor=at)),
        recordings=await pages(
            "recordings", bounds.others, lambda at: views.recordings(status=None, cursor=at, **one)
        ),
        supervisors=await pages(
            "supervisors", bounds.others, lambda at: views.supervisor_sessions(client=None, cursor=at, **one)
        ),
        activities=await pages(
            "activities", bounds.others,
            lambda at: views.timeline(session.id, kinds=ACTIVITIES, subject=None, limit=PAGE, cursor=at),
        ),
        noticed=await _noticed(asked, session),
        left_out=cut,
    )  # fmt: skip


async def proved_by(asked: ApiRequest, session: SessionRow) -> ProofSummary:
    """What the records behind `session` prove. Needs no scope: it shows neither bodies nor signatures."""
    positions = await asked.context.views.session_positions(session.id, limit=COUNTED, after=0)
    found: dict[str, int] = {}
    looked_at = positions[:PROVED]
    for position in looked_at:
        record = await asked.context.log.record(position)
        if record is not None:
            scheme = _scheme_of(record)
            found[scheme] = found.get(scheme, 0) + 1
    newest = await asked.context.log.last_checkpoint()
    return ProofSummary(
        records=len(positions),
        is_counted=len(positions) < COUNTED,
        first=session.first_position,
        last=session.last_position,
        looked_at=len(looked_at),
        schemes=[(SCHEMES.get(scheme, f"proved by {scheme}"), count) for scheme, count in sorted(found.items())],
        has_erased="erased" in found,
        checkpoint=None if newest is None else newest[0],
    )


async def _noticed(asked: ApiRequest, session: SessionRow) -> list[EntryRow]:
    """The entries at the positions of anomalies: where on the axis they belong."""
    positions = sorted({anomaly.position for anomaly in session.anomalies if anomaly.position is not None})
    found: list[EntryRow] = []
    for position in positions[:NOTICED]:
        rows = await asked.context.views.entries_after(position - 1, 2**31, limit=5)
        found += [row for row in rows if row.position == position and row.session_id == session.id]
    return found


def _scheme_of(record: Record) -> str:
    if record.erased_by is not None:
        return "erased"
    if record.origin == "import":
        return "import"
    try:
        return msgspec.json.decode(record.proof, type=_Proof).scheme
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "an unknown scheme"


class _Proof(msgspec.Struct):
    scheme: str
