"""How a page is served: check the session, read the parameters, show the page or the page for an error.

    not signed in ───────────────────→ 303   to /sign-in, which leads back afterwards
    token without the scope ─────────→ 403
    unknown parameter or bad value ──→ 400   naming the parameter
    no such id ──────────────────────→ 404
    several sessions have that id ───→ 300   with the list
    log or views not available now ──→ 503   with Retry-After

Pages take the same parameters as the read API. Empty ones, as forms send them, count as absent.
"""

from __future__ import annotations

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
from tracker.api.problems import describe_error, method_not_allowed
from tracker.dashboard.rendering import READER_KEY, render_page
from tracker.domain.problem import INTERNAL_ERROR, raised_at
from tracker.errors import ScopeMissing, TokenInvalid, TrackerError

API_ROUTES: Mapping[str, Route] = {route.name: route for route in ROUTES}
"""The read API's routes by name: pages are made from their answers."""

_log = structlog.get_logger("dashboard")


class PageRoute(msgspec.Struct, frozen=True, kw_only=True):
    """One page. If `handler` raises `TrackerError`, a page shows the error."""

    path: str
    parameters: tuple[Parameter, ...]
    handler: Callable[[web.Request, ApiRequest], Awaitable[web.StreamResponse]]
    scope: str = "read:sessions"


def authenticate(context: ApiContext, request: web.Request) -> Reader:
    """The reader, by bearer token or cookie. Raises `TokenInvalid`."""
    return context.access.authorize(request.headers.get("Authorization"), request.cookies.get(SESSION_COOKIE))


def page_handler(context: ApiContext, route: PageRoute) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The aiohttp handler of one page."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.method not in READ_METHODS:
            return method_not_allowed("GET, HEAD")
        try:
            reader = request[READER_KEY] = authenticate(context, request)
        except TokenInvalid:
            return redirect_to_sign_in(request)
        try:
            _expect_scope(reader, route.scope)
            present = [(name, value) for name, value in request.query.items() if value]
            values = read_query(present, route.parameters)
            return await route.handler(request, make_request(context, reader, request.match_info, values))
        except MultipleChoices as several:
            return render_page(request, "several.html", status=300, message=str(several), found=several.page)
        except TrackerError as error:
            return error_page(request, error)
        except Exception as error:
            _log.error("page failed", route=route.path, error=type(error).__name__, where=raised_at(error))
            detail = "this page cannot be shown because of a bug in Tracker: please report it. The server's output says where it is."
            return render_page(request, "problem.html", status=500, title=INTERNAL_ERROR[1], detail=detail)

    return handle


def make_request(context: ApiContext, reader: Reader, path: Mapping[str, str], query: Mapping[str, Any]) -> ApiRequest:
    """A request as the read API's handlers take it. `limit` and `cursor` are set even if the page has neither."""
    return ApiRequest(
        context=context, reader=reader, path=dict(path), query={"limit": 50, "cursor": None} | dict(query)
    )


async def query_api(request: ApiRequest, route_name: str, **parameters: str | tuple[str, ...] | None) -> Any:
    """What the API's route of that name (such as `findSessions`) answers this reader, as the struct that it encodes.

    `parameters` are parsed like those of a URL; None and empty values are left out. The path is that of `request`.
    """
    route = API_ROUTES[route_name]
    query = [
        (name, value)
        for name, values in parameters.items()
        for value in ((values,) if isinstance(values, str) else values or ())
        if value
    ]
    return await route.handler(
        make_request(request.context, request.reader, request.path, read_query(query, route.parameters))
    )


def error_page(request: web.Request, error: TrackerError) -> web.Response:
    """The page that shows an error."""
    status, title, detail, headers = describe_error(error)
    response = render_page(request, "problem.html", status=status, title=title, detail=detail)
    response.headers.update(headers)
    return response


def redirect_to_sign_in(request: web.Request) -> web.Response:
    """Redirect to the sign-in page, which leads back to the requested page."""
    query = "" if request.path_qs == "/" else "?" + urlencode({"next": request.path_qs})
    return web.Response(status=303, headers={"Location": f"/sign-in{query}", "Cache-Control": "no-store"})


def _expect_scope(reader: Reader, scope: str) -> None:
    if not reader.has_scope(scope):
        raise ScopeMissing(f"this page needs the scope {scope}: mint a token with `tracker token --scope {scope}`")
