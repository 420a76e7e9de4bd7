"""The door for reading: prove the token, read the question, wait for the views if asked to, answer.

    no token, or one that does not verify ─────→ 401
    a token without the scope of the route ────→ 403
    a parameter unknown or of a bad value ─────→ 400   with its name
    ?at_least= not reached within 5 s ─────────→ 504
    nothing has that id, or nothing you see ───→ 404
    several have that id ──────────────────────→ 300   with the list
    the stores cannot answer now ──────────────→ 503   with Retry-After

Every answer past the token carries `X-Log-Position`: everything up to that position is in the answer. It is read before
the rows are, so that it never promises more than they hold.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from tracker.api import lists, bundles, evidence, live, openapi, records, sessions
from tracker.api.route import ApiRequest, BytesAnswer, ApiContext, TextAnswer, Route, MultipleChoices, StreamAnswer
from tracker.api.health import SESSION_COOKIE, READ_METHODS, ApiDocs, Health
from tracker.api.parameters import AT_LEAST, read_query
from tracker.api.problems import json_response, internal_error, unknown_route, method_not_allowed, error_response
from tracker.errors import LogError, ScopeMissing, TrackerError, ViewsBehind, ViewsError

__all__ = ["ROUTES", "add_routes"]

ROUTES: tuple[Route, ...] = (
    *sessions.ROUTES,
    *records.ROUTES,
    *lists.ROUTES,
    *live.ROUTES,
    *evidence.ROUTES,
    *bundles.ROUTES,
)

AT_LEAST_TIMEOUT_S = 5.0
"""How long `?at_least=` waits for the views."""

AT_LEAST_POLL_S = 0.02

_log = structlog.get_logger("api")


def add_routes(app: web.Application, context: ApiContext) -> None:
    """Answer every route of this door, and say so for paths under /v1 that are none."""
    for route in ROUTES:
        app.router.add_route("*", route.path, _handler(context, route))
    app.router.add_route("*", "/v1", _unknown_route)
    app.router.add_route("*", "/v1/{rest:.*}", _unknown_route)
    # Every other path that is none. Not `.*`: "/" is the dashboard's.
    app.router.add_route("*", "/{rest:.+}", _unknown_route)
    Health(context.unready_reasons, context.render_metrics).add_routes(app)
    ApiDocs(context.access, openapi.document(ROUTES)).add_routes(app)


def _handler(context: ApiContext, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answered(request: web.Request) -> web.StreamResponse:
        if request.method not in READ_METHODS:
            return method_not_allowed("GET, HEAD")
        told: dict[str, str] = {}
        try:
            response = await _respond(context, route, request, told)
        except MultipleChoices as found:
            response = json_response(300, found.page)
        except TrackerError as error:
            if isinstance(error, LogError | ViewsError) and not isinstance(error, ViewsBehind):
                _log.error("no answer", route=route.path, error=type(error).__name__, reason=str(error))
            response = error_response(error)
        except Exception as error:
            # Where, not what: the message may hold what somebody said in a call.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{frame.filename}:{frame.lineno} in {frame.name}"
            _log.error("answer failed", route=route.path, error=type(error).__name__, where=where)
            response = internal_error()
        if not response.prepared:
            response.headers.update(told)
        return response

    return answered


async def _respond(
    context: ApiContext, route: Route, request: web.Request, headers: dict[str, str]
) -> web.StreamResponse:
    """The answer, or a `TrackerError`. `told` gets the headers that go on either."""
    reader = context.access.authorize(request.headers.get("Authorization"), request.cookies.get(SESSION_COOKIE))
    if not reader.has_scope(route.scope):
        raise ScopeMissing(
            f"this needs the scope {route.scope}: mint a token with `tracker token --scope {route.scope}`"
        )
    projected = await context.views.projected_position()
    headers["X-Log-Position"] = str(projected)
    query = read_query(request.query.items(), (*route.parameters, AT_LEAST))
    if query["at_least"] is not None and query["at_least"] > projected:
        headers["X-Log-Position"] = str(await _wait_for_position(context, query["at_least"]))
    found = await route.handler(ApiRequest(context=context, reader=reader, path=dict(request.match_info), query=query))
    if isinstance(found, StreamAnswer):
        return await found.stream(request, headers)
    if isinstance(found, TextAnswer):
        headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
        return web.Response(text=found.text, headers=headers)
    if isinstance(found, BytesAnswer):
        response = web.Response(body=found.body, content_type="application/octet-stream")
        response.headers["Content-Disposition"] = f'attachment; filename="{found.file_name}"'
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
        return response
    return json_response(200, found)


async def _wait_for_position(context: ApiContext, position: int) -> int:
    """Wait until the views are at `position`; where they are then. Raises `ViewsBehind`."""
    loop = asyncio.get_running_loop()
    until = loop.time() + AT_LEAST_TIMEOUT_S
    while (projected := await context.views.projected_position()) < position:
        if loop.time() >= until:
            raise ViewsBehind(
                f"the views are at position {projected} and did not reach {position} within {AT_LEAST_TIMEOUT_S:.0f} s: ask again"
            )
        await asyncio.sleep(AT_LEAST_POLL_S)
    return projected


async def _unknown_route(request: web.Request) -> web.Response:
    return unknown_route(request.path)
