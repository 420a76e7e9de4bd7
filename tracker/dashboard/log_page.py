"""The log by position: what arrived, in order; bodies and proofs only for those who may read records."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from tracker.api.route import ApiRequest
from tracker.api.parameters import choice
from tracker.dashboard.list_pages import sources_of
from tracker.dashboard.page_route import API, PageRoute, ask
from tracker.dashboard.cluster_status import cluster_view
from tracker.dashboard.rendering import page
from tracker.dashboard.sessions_page import form_values

MOST_SHOWN = 200_000
"""Characters of a body; the rest is in the bytes to save."""


async def show(request: web.Request, asked: ApiRequest) -> web.StreamResponse:
    """`GET /log`: the newest records, or those after a position."""
    head = await asked.context.log.head()
    limit: int = asked.query["limit"]
    after: int | None = asked.query["after"]
    cursor: str | None = asked.query["cursor"]
    if after is None and cursor is None:
        # Without being asked for a place, the end is what somebody wants to see.
        after = max(0, head - limit)
    source: str | None = asked.query["source"]
    start = None if after is None else str(after)
    found: Any = await ask(asked, "findRecords", after=start, source=source, limit=str(limit), cursor=cursor)
    first = found.items[0].position if found.items else (after or 0) + 1
    return page(
        request,
        "log.html",
        head=head,
        records=found.items,
        next=found.next,
        older=max(0, first - 1 - limit) if first > 1 else None,
        given=form_values(asked),
        sources=await sources_of(asked),
        may_read=asked.reader.has_scope("read:records"),
        cluster=cluster_view(request),
    )


async def show_record(request: web.Request, asked: ApiRequest) -> web.StreamResponse:
    """`GET /log/{position}`."""
    record: Any = await ask(asked, "findRecord")
    may_read = asked.reader.has_scope("read:records")
    form = asked.query["form"] or "readable"
    text, language = _readable(record.body, form) if may_read and record.body is not None else (None, None)
    return page(
        request,
        "record.html",
        record=record,
        head=await asked.context.log.head(),
        may_read=may_read,
        text=text,
        language=language,
        form=form,
        proof=_indented(record.proof) if may_read else None,
    )


def _readable(body: str, form: str) -> tuple[str, str]:
    """The body with its JSON laid out, and what it is; as it came where it is something else, or where asked to."""
    try:
        if form == "raw":
            return body[:MOST_SHOWN], "text, as it came"
        return msgspec.json.format(body.encode(), indent=2).decode()[:MOST_SHOWN], "JSON, laid out"
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return body[:MOST_SHOWN], "text, as it came"


def _indented(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


PAGES = (
    PageRoute(path="/log", parameters=API["findRecords"].parameters, show=show),
    PageRoute(
        path="/log/{position}",
        parameters=(choice("form", "The body laid out, or as it came.", ("readable", "raw")),),
        show=show_record,
    ),
)
