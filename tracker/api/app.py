"""The read API: check the token, read the parameters, wait for the views if the request says so, answer.

    missing or invalid token ──────────────────→ 401
    token without the scope of the route ──────→ 403
    unknown parameter, or a bad value ─────────→ 400   naming the parameter
    ?at_least= not reached within 5 s ─────────→ 504
    no such id, or the token may not see it ───→ 404
    several sessions have that id ─────────────→ 300   with the list
    log or views not available now ────────────→ 503   with Retry-After

Every answer to an accepted token carries `X-Log-Position`: the answer holds everything up to that position. The position
is read before the rows, so it never promises more than they hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from tracker.api import lists, bundles, evidence, live, openapi, records, sessions
from tracker.api.route import ApiRequest, BytesAnswer, ApiContext, TextAnswer, Route, MultipleChoices, StreamAnswer
from tracker.api.health import SESSION_COOKIE, READ_METHODS, ApiDocs, Health
from tracker.api.parameters import AT_LEAST, read_query
from tracker.api.problems import error_response, internal_error, json_response, method_not_allowed, unknown_route
from tracker.domain.polling import LOOK_SECONDS
from tracker.domain.problem import raised_at
from tracker.domain.texts import is_utf8
from tracker.errors import LogError, ParameterInvalid, ScopeMissing, TrackerError, ViewsBehind, ViewsError

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
"""How long `?at_least=` waits for the views, in seconds."""

_log = structlog.get_logger("api")


def add_routes(app: web.Application, context: ApiContext) -> None:
    """Add every route of the API, the health routes and the API's documentation. Any other path gets 404."""
    for route in ROUTES:
        app.router.add_route("*", route.path, _handler(context, route))
    app.router.add_route("*", "/v1", _unknown_route)
    app.router.add_route("*", "/v1/{rest:.*}", _unknown_route)
    # `.+`, not `.*`: "/" belongs to the dashboard.
    app.router.add_route("*", "/{rest:.+}", _unknown_route)
    Health(context.unready_reasons, context.render_metrics, context.access).add_routes(app)
    ApiDocs(context.access, openapi.document(ROUTES)).add_routes(app)


def _handler(context: ApiContext, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        if request.method not in READ_METHODS:
            return method_not_allowed("GET, HEAD")
        headers: dict[str, str] = {}
        try:
            response = await _respond(context, route, request, headers)
        except MultipleChoices as several:
            response = json_response(300, several.page)
        except TrackerError as error:
            if isinstance(error, LogError | ViewsError) and not isinstance(error, ViewsBehind):
                _log.error("request not answered", route=route.path, error=type(error).__name__, reason=str(error))
            response = error_response(error)
        except Exception as error:
            _log.error("answer failed", route=route.path, error=type(error).__name__, where=raised_at(error))
            response = internal_error()
        if not response.prepared:
            response.headers.update(headers)
        return response

    return handle


async def _respond(
    context: ApiContext, route: Route, request: web.Request, headers: dict[str, str]
) -> web.StreamResponse:
    """Answer one request, or raise `TrackerError`. Headers for either case are put into `headers`."""
    reader = context.access.authorize(request.headers.get("Authorization"), request.cookies.get(SESSION_COOKIE))
    if not reader.has_scope(route.scope):
        raise ScopeMissing(
            f"this route needs the scope {route.scope}: mint a token with `tracker token --scope {route.scope}`"
        )
    projected = await context.views.projected_position()
    headers["X-Log-Position"] = str(projected)
    query = read_query(request.query.items(), (*route.parameters, AT_LEAST))
    if query["at_least"] is not None and query["at_least"] > projected:
        headers["X-Log-Position"] = str(await _wait_for_position(context, query["at_least"]))
    for name, value in request.match_info.items():
        if not is_utf8(value):
            raise ParameterInvalid(name, "is not Unicode text")
    answer = await route.handler(ApiRequest(context=context, reader=reader, path=dict(request.match_info), query=query))
    if isinstance(answer, StreamAnswer):
        return await answer.stream(request, headers)
    if isinstance(answer, TextAnswer):
        headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
        return web.Response(text=answer.text, headers=headers)
    if isinstance(answer, BytesAnswer):
        response = web.Response(body=answer.body, content_type="application/octet-stream")
        response.headers["Content-Disposition"] = f'attachment; filename="{answer.file_name}"'
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
        return response
    return json_response(200, answer)


async def _wait_for_position(context: ApiContext, position: int) -> int:
    """Wait until the views have reached `position`; return where they are. Raises `ViewsBehind`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + AT_LEAST_TIMEOUT_S
    while (projected := (await context.views.look()).position) < position:
        if loop.time() >= deadline:
            raise ViewsBehind(
                f"the views are at position {projected} and did not reach {position} within {AT_LEAST_TIMEOUT_S:.0f} s: try again"
            )
        await asyncio.sleep(LOOK_SECONDS)
    return projected


async def _unknown_route(request: web.Request) -> web.Response:
    return unknown_route(request.path)
