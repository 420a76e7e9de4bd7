"""The contents of timeline.json: a session and its rows as the API answers them, read page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from tracker.domain.facts import Micros
from tracker.domain.rows import SessionRow
from tracker.views.contract import ViewsReader
from tracker.views.presenters import SESSION_PARTS, present_session, session_part

PAGE_ROWS = 1000


class BundleContents(NamedTuple):
    """A session with everything in it. `parts` gives pages of answers for each name in `manifest.PARTS`."""

    row: SessionRow
    session: msgspec.Struct
    parts: Mapping[str, AsyncIterator[Sequence[msgspec.Struct]]]


def bundle_contents(views: ViewsReader, row: SessionRow, *, stuck_before: Micros) -> BundleContents:
    """The session of `row` as the routes below `/v1/sessions/{id}` answer it, read from `views`.

    An open session is stuck when its last event is not after `stuck_before` (µs).
    """
    parts = {name: _read_pages(views, name, row.id) for name in SESSION_PARTS}
    return BundleContents(row, present_session(row, stuck_before=stuck_before), parts)


async def _read_pages(views: ViewsReader, name: str, session_id: str) -> AsyncIterator[Sequence[msgspec.Struct]]:
    cursor: str | None = None
    while True:
        answers, cursor = await session_part(views, name, session_id, limit=PAGE_ROWS, cursor=cursor)
        yield answers
        if cursor is None:
            return
