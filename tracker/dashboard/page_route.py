"""A page on its way to the reader: what it is asked with, and the door's answer to what cannot be shown.

    no session ──────────────────────→ 303   to /sign-in, and back afterwards
    a token without the scope ───────→ 403
    a parameter unknown or bad ──────→ 400   naming it
    nothing has that id ─────────────→ 404
    several have that id ────────────→ 300   with the list
    the stores cannot answer now ────→ 503   with Retry-After

Pages ask with the same parameters as the read API; empty ones, as forms send them, count as left out.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec
import structlog
from aiohttp import web

from tracker.api.auth import Reader
from tracker.api.app import ROUTES
from tracker.api.route import ApiRequest, ApiContext, Route, MultipleChoices
from tracker.api.health import SESSION_COOKIE, READ_METHODS
from tracker.api.parameters import Parameter, read_query
from tracker.api.problems import STORES_UNAVAILABLE, ERROR_STATUSES, method_not_allowed
from tracker.dashboard.rendering import READER, page
from tracker.errors import LogError, ScopeMissing, TokenInvalid, TrackerError, ViewsBehind, ViewsError

API: Mapping[str, Route] = {route.name: route for route in ROUTES}
"""The read API's routes by their names: what pages are made of."""

_log = structlog.get_logger("dashboard")


class PageRoute(msgspec.Struct, frozen=True, kw_only=True):
    """One page. `show` gets the request and the question; what it raises becomes a page of its own."""

    path: str
    parameters: tuple[Parameter, ...]
    show: Callable[[web.Request, ApiRequest], Awaitable[web.StreamResponse]]
    scope: str = "read:sessions"


def reader_of(door: ApiContext, request: web.Request) -> Reader:
    """Who looks, by the cookie or a bearer token. Raises `TokenInvalid`."""
    return door.access.authorize(request.headers.get("Authorization"), request.cookies.get(SESSION_COOKIE))


def answering(door: ApiContext, route: PageRoute) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The aiohttp handler of one page."""

    async def answered(request: web.Request) -> web.StreamResponse:
        if request.method not in READ_METHODS:
            return method_not_allowed("GET, HEAD")
        try:
            reader = request[READER] = reader_of(door, request)
        except TokenInvalid:
            return to_sign_in(request)
        try:
            _expect_scope(reader, route.scope)
            given = [(name, value) for name, value in request.query.items() if value]
            values = read_query(given, route.parameters)
            return await route.show(request, asked(door, reader, request.match_info, values))
        except MultipleChoices as found:
            return page(request, "several.html", status=300, message=str(found), found=found.page)
        except TrackerError as error:
            return problem_page(request, error)
        except Exception as error:
            # Where, not what: the message may hold what somebody said in a call.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{frame.filename}:{frame.lineno} in {frame.name}"
            _log.error("page failed", route=route.path, error=type(error).__name__, where=where)
            detail = "this page is missing because of a mistake in Tracker; its log says where: please report it"
            return page(request, "problem.html", status=500, title="Tracker made a mistake", detail=detail)

    return answered


def asked(door: ApiContext, reader: Reader, path: Mapping[str, str], query: Mapping[str, Any]) -> ApiRequest:
    """A question as the read API's functions take it; `limit` and `cursor` are there even where a page has neither."""
    return ApiRequest(context=door, reader=reader, path=dict(path), query={"limit": 50, "cursor": None} | dict(query))


async def ask(question: ApiRequest, route: str, **given: str | tuple[str, ...] | None) -> Any:
    """What the read API answers the same reader on the route of that name (`findSessions`), as the struct it encodes.

    `given` is read as if it stood in an address; None and empty values are left out. The path is the question's.
    """
    asked_of = API[route]
    query = [
        (name, value)
        for name, values in given.items()
        for value in ((values,) if isinstance(values, str) else values or ())
        if value
    ]
    return await asked_of.handler(
        asked(question.context, question.reader, question.path, read_query(query, asked_of.parameters))
    )


def problem_page(request: web.Request, error: TrackerError) -> web.Response:
    """The page that says why there is no other."""
    status, title, headers = ERROR_STATUSES.get(type(error), (503, "No answer now", {"Retry-After": "2"}))
    silent = isinstance(error, LogError | ViewsError) and not isinstance(error, ViewsBehind)
    response = page(
        request, "problem.html", status=status, title=title, detail=STORES_UNAVAILABLE if silent else str(error)
    )
    response.headers.update(headers)
    return response


def to_sign_in(request: web.Request) -> web.Response:
    """Off to the sign-in page, which leads back to where this request wanted to go."""
    wanted = "" if request.path_qs == "/" else "?" + urlencode({"next": request.path_qs})
    return web.Response(status=303, headers={"Location": f"/sign-in{wanted}", "Cache-Control": "no-store"})


def _expect_scope(reader: Reader, scope: str) -> None:
    if not reader.has_scope(scope):
        raise ScopeMissing(f"this page needs the scope {scope}: mint a token with `tracker token --scope {scope}`")
