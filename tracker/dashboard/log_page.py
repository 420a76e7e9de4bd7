"""The log by position. Bodies and proofs are shown only to readers with the scope `read:records`."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from tracker.api.route import ApiRequest
from tracker.api.parameters import choice
from tracker.dashboard.list_pages import visible_sources
from tracker.dashboard.page_route import API_ROUTES, PageRoute, query_api
from tracker.dashboard.cluster_status import cluster_status
from tracker.dashboard.rendering import render_page
from tracker.dashboard.sessions_page import form_values

MAX_BODY_CHARS = 200_000
"""Most characters of a body on the page; the download has all of it."""


async def show_log(request: web.Request, api_request: ApiRequest) -> web.StreamResponse:
    """`GET /log`: the newest records, or those after a position."""
    head = await api_request.context.log.head()
    limit: int = api_request.query["limit"]
    after: int | None = api_request.query["after"]
    cursor: str | None = api_request.query["cursor"]
    if after is None and cursor is None:
        # Without a position, show the end of the log.
        after = max(0, head - limit)
    source: str | None = api_request.query["source"]
    start = None if after is None else str(after)
    found: Any = await query_api(
        api_request, "findRecords", after=start, source=source, limit=str(limit), cursor=cursor
    )
    first = found.items[0].position if found.items else (after or 0) + 1
    return render_page(
        request,
        "log.html",
        head=head,
        records=found.items,
        next=found.next,
        older=max(0, first - 1 - limit) if first > 1 else None,
        given=form_values(api_request),
        sources=await visible_sources(api_request),
        may_read=api_request.reader.has_scope("read:records"),
        cluster=cluster_status(request),
    )


async def show_record(request: web.Request, api_request: ApiRequest) -> web.StreamResponse:
    """`GET /log/{position}`."""
    record: Any = await query_api(api_request, "findRecord")
    may_read = api_request.reader.has_scope("read:records")
    form = api_request.query["form"] or "readable"
    text, language = _format_body(record.body, form) if may_read and record.body is not None else (None, None)
    return render_page(
        request,
        "record.html",
        record=record,
        head=await api_request.context.log.head(),
        may_read=may_read,
        text=text,
        language=language,
        form=form,
        proof=_format_json(record.proof) if may_read else None,
    )


def _format_body(body: str, form: str) -> tuple[str, str]:
    """(text, what it is): formatted JSON, or the body as received if it is not JSON or `form` is "raw"."""
    try:
        if form == "raw":
            return body[:MAX_BODY_CHARS], "text, as received"
        return msgspec.json.format(body.encode(), indent=2).decode()[:MAX_BODY_CHARS], "formatted JSON"
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return body[:MAX_BODY_CHARS], "text, as received"


def _format_json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


PAGES = (
    PageRoute(path="/log", parameters=API_ROUTES["findRecords"].parameters, handler=show_log),
    PageRoute(
        path="/log/{position}",
        parameters=(choice("form", "The body formatted, or as received.", ("readable", "raw")),),
        handler=show_record,
    ),
)
