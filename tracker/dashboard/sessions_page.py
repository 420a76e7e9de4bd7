"""The first page: all sessions, newest first, updated live. Its filters are those of `GET /v1/sessions`, in the URL.

/                 figures, filters, the list
/?part=live       figures and list only: the script replaces both when something has changed
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from tracker.views.answers import Session, time_of
from tracker.api.route import ApiRequest
from tracker.api.parameters import Parameter, choice
from tracker.dashboard.page_route import API_ROUTES, PageRoute
from tracker.dashboard.summary import summarise
from tracker.dashboard.rendering import render_page
from tracker.sources import registry
from tracker.sources.contract import Vendor

DURATIONS = (("60000", "1 minute"), ("300000", "5 minutes"), ("1800000", "30 minutes"), ("3600000", "1 hour"))


class SessionLine(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the list. `running_ms`: how long the session has been running, None if it has ended or is unknown."""

    session: Session
    running_ms: int | None
    began_at: str | None
    room_state: str | None
    """What the vendor calls the state of the room, for vendors that have a word for it."""
    vendor_title: str


async def show_sessions(request: web.Request, api_request: ApiRequest) -> web.StreamResponse:
    """`GET /`."""
    # Read the position first: what arrives while the page is made then comes through the live stream.
    position = await api_request.context.views.projected_position()
    found: Any = await API_ROUTES["findSessions"].handler(api_request)
    template = "sessions.html" if api_request.query["part"] is None else "sessions_part.html"
    return render_page(
        request,
        template,
        now=time_of(api_request.context.now()),
        position=position,
        lines=await session_lines(api_request, found.items),
        next=found.next,
        given=form_values(api_request),
        durations=DURATIONS,
        summary=await summarise(request, api_request),
    )


async def session_lines(api_request: ApiRequest, sessions: Sequence[Session]) -> list[SessionLine]:
    """Sessions as rows of the list."""
    now = api_request.context.now()
    return [await _line(api_request, session, now) for session in sessions]


def form_values(api_request: ApiRequest) -> dict[str, Any]:
    """The filters of this page, as forms and links need them."""
    shown = {name: value for name, value in api_request.query.items() if name not in {"cursor", "part", "at_least"}}
    for name in ("from", "to"):
        if shown.get(name) is not None:
            moment = time_of(shown[name]) or ""
            shown[name] = moment.removesuffix("T00:00:00.000Z")
    if shown.get("limit") == 50:
        shown["limit"] = None
    return shown


async def _line(api_request: ApiRequest, session: Session, now: int) -> SessionLine:
    began_at = session.started_at or session.created_at
    row = await api_request.context.views.session(session.id) if session.state == "open" else None
    running = None if row is None else max(0, (now - row.begins_at) // 1_000)
    vendor = registry.VENDORS.get(session.vendor)
    return SessionLine(
        session=session,
        running_ms=running,
        began_at=began_at,
        room_state=None if vendor is None else await _room_state(api_request, session, vendor),
        vendor_title=session.vendor if vendor is None else vendor.title,
    )


async def _room_state(api_request: ApiRequest, session: Session, vendor: Vendor) -> str | None:
    if vendor.room_state is None:
        return None
    if session.state == "open":
        return vendor.room_state(None)
    rows, _ = await api_request.context.views.timeline(
        session.id, kinds=["session.ended"], subject=None, limit=1, cursor=None
    )
    return vendor.room_state(rows[0].detail if rows else {})


def _parameters() -> tuple[Parameter, ...]:
    return (*API_ROUTES["findSessions"].parameters, choice("part", "Only the parts that change.", ("live",)))


PAGES = (PageRoute(path="/", parameters=_parameters(), handler=show_sessions),)
