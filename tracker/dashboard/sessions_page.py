"""The first page: every call, newest first, live; its filters are those of `GET /v1/sessions` and live in the address.

/                 figures, filters, the list
/?part=live       figures and list only: what the script puts in their place when something happened
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from tracker.views.answers import Session, time_of
from tracker.api.route import ApiRequest
from tracker.api.parameters import Parameter, choice
from tracker.dashboard.page_route import API, PageRoute
from tracker.dashboard.summary import summarise
from tracker.dashboard.rendering import page
from tracker.sources import registry
from tracker.sources.contract import Vendor

DURATIONS = (("60000", "1 minute"), ("300000", "5 minutes"), ("1800000", "30 minutes"), ("3600000", "1 hour"))


class SessionLine(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the list. `running_ms` is how long it has been going on, None once it ended or when nobody knows."""

    session: Session
    running_ms: int | None
    began_at: str | None
    room_state: str | None
    """What the vendor calls the state of the room, for vendors that have a word for it."""
    vendor_title: str


async def show(request: web.Request, asked: ApiRequest) -> web.StreamResponse:
    """`GET /`."""
    # Read first, so that what arrives while the page is made comes through the live stream rather than never.
    position = await asked.context.views.projected_position()
    found: Any = await API["findSessions"].handler(asked)
    template = "sessions.html" if asked.query["part"] is None else "sessions_part.html"
    return page(
        request,
        template,
        now=time_of(asked.context.now()),
        position=position,
        lines=await lines_of(asked, found.items),
        next=found.next,
        given=form_values(asked),
        durations=DURATIONS,
        standing=await summarise(request, asked),
    )


async def lines_of(asked: ApiRequest, sessions: Sequence[Session]) -> list[SessionLine]:
    """Sessions as rows of a list."""
    now = asked.context.now()
    return [await _line(asked, session, now) for session in sessions]


def form_values(asked: ApiRequest) -> dict[str, Any]:
    """The filters of this page by name, as they go back into forms and links."""
    shown = {name: value for name, value in asked.query.items() if name not in {"cursor", "part", "at_least"}}
    for name in ("from", "to"):
        if shown.get(name) is not None:
            moment = time_of(shown[name]) or ""
            shown[name] = moment.removesuffix("T00:00:00.000Z")
    if shown.get("limit") == 50:
        shown["limit"] = None
    return shown


async def _line(asked: ApiRequest, session: Session, now: int) -> SessionLine:
    began_at = session.started_at or session.created_at
    row = await asked.context.views.session(session.id) if session.state == "open" else None
    running = None if row is None else max(0, (now - row.begins_at) // 1_000)
    vendor = registry.VENDORS.get(session.vendor)
    return SessionLine(
        session=session,
        running_ms=running,
        began_at=began_at,
        room_state=None if vendor is None else await _room_state(asked, session, vendor),
        vendor_title=session.vendor if vendor is None else vendor.title,
    )


async def _room_state(asked: ApiRequest, session: Session, vendor: Vendor) -> str | None:
    if vendor.room_state is None:
        return None
    if session.state == "open":
        return vendor.room_state(None)
    rows, _ = await asked.context.views.timeline(
        session.id, kinds=["session.ended"], subject=None, limit=1, cursor=None
    )
    return vendor.room_state(rows[0].detail if rows else {})


def _parameters() -> tuple[Parameter, ...]:
    return (*API["findSessions"].parameters, choice("part", "Only what changes.", ("live",)))


PAGES = (PageRoute(path="/", parameters=_parameters(), show=show),)
