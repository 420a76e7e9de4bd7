"""The contents of timeline.json: a session and its rows as the API answers them, read page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from tracker.domain.facts import Micros
from tracker.domain.rows import SessionRow
from tracker.views import presenters
from tracker.views.contract import ViewsReader

PAGE_ROWS = 1000

_Query = Callable[..., Awaitable[tuple[list[Any], str | None]]]


class BundleContents(NamedTuple):
    """A session with everything in it. `parts` gives pages of answers for each name in `manifest.PARTS`."""

    row: SessionRow
    session: msgspec.Struct
    parts: Mapping[str, AsyncIterator[Sequence[msgspec.Struct]]]


def bundle_contents(views: ViewsReader, row: SessionRow, *, stuck_before: Micros) -> BundleContents:
    """The session of `row` as the routes below `/v1/sessions/{id}` answer it, read from `views`.

    An open session is stuck when its last event is not after `stuck_before` (µs).
    """

    def pages(
        query: _Query, present: Callable[[Any], msgspec.Struct], **filters: Any
    ) -> AsyncIterator[Sequence[msgspec.Struct]]:
        return _read_pages(query, present, {"session_id": row.id} | filters)

    parts = {
        "participants": pages(views.participants, presenters.present_participant, identity=None, sources=None),
        "connections": pages(views.connections, presenters.present_connection),
        "streams": pages(views.streams, presenters.present_stream),
        "recordings": pages(views.recordings, presenters.present_recording, status=None, sources=None),
        "supervisor_sessions": pages(
            views.supervisor_sessions, presenters.present_supervisor_session, client=None, sources=None
        ),
        "timeline": pages(views.timeline, presenters.present_entry, kinds=(), subject=None),
    }
    return BundleContents(row, presenters.present_session(row, stuck_before=stuck_before), parts)


async def _read_pages(
    query: _Query, present: Callable[[Any], msgspec.Struct], filters: Mapping[str, Any]
) -> AsyncIterator[Sequence[msgspec.Struct]]:
    cursor: str | None = None
    while True:
        rows, cursor = await query(**filters, limit=PAGE_ROWS, cursor=cursor)
        yield [present(row) for row in rows]
        if cursor is None:
            return
