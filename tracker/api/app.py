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
from tracker.api.route import ApiRequest, BytesAnswer, ApiContext, TextAnswer, Route, SeveralFound, StreamAnswer
from tracker.api.health import COOKIE, READING, Description, Health
from tracker.api.parameters import AT_LEAST, read_query
from tracker.api.problems import encoded, failed, no_such_route, only, problem_of
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

WAIT_S = 5.0
"""How long `?at_least=` waits for the views."""

POLL_S = 0.02

_log = structlog.get_logger("api")


def add_routes(app: web.Application, door: ApiContext) -> None:
    """Answer every route of this door, and say so for paths under /v1 that are none."""
    for route in ROUTES:
        app.router.add_route("*", route.path, _answering(door, route))
    app.router.add_route("*", "/v1", _unknown)
    app.router.add_route("*", "/v1/{rest:.*}", _unknown)
    # Every other path that is none. Not `.*`: "/" is the dashboard's.
    app.router.add_route("*", "/{rest:.+}", _unknown)
    Health(door.unready, door.metrics).add_routes(app)
    Description(door.access, openapi.document(ROUTES)).add_routes(app)


def _answering(door: ApiContext, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answered(request: web.Request) -> web.StreamResponse:
        if request.method not in READING:
            return only("GET, HEAD")
        told: dict[str, str] = {}
        try:
            response = await _answer(door, route, request, told)
        except SeveralFound as found:
            response = encoded(300, found.page)
        except TrackerError as error:
            if isinstance(error, LogError | ViewsError) and not isinstance(error, ViewsBehind):
                _log.error("no answer", route=route.path, error=type(error).__name__, reason=str(error))
            response = problem_of(error)
        except Exception as error:
            # Where, not what: the message may hold what somebody said in a call.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{frame.filename}:{frame.lineno} in {frame.name}"
            _log.error("answer failed", route=route.path, error=type(error).__name__, where=where)
            response = failed()
        if not response.prepared:
            response.headers.update(told)
        return response

    return answered


async def _answer(door: ApiContext, route: Route, request: web.Request, told: dict[str, str]) -> web.StreamResponse:
    """The answer, or a `TrackerError`. `told` gets the headers that go on either."""
    reader = door.access.authorize(request.headers.get("Authorization"), request.cookies.get(COOKIE))
    if not reader.may(route.scope):
        raise ScopeMissing(
            f"this needs the scope {route.scope}: mint a token with `tracker token --scope {route.scope}`"
        )
    projected = await door.views.projected_position()
    told["X-Log-Position"] = str(projected)
    query = read_query(request.query.items(), (*route.parameters, AT_LEAST))
    if query["at_least"] is not None and query["at_least"] > projected:
        told["X-Log-Position"] = str(await _reach(door, query["at_least"]))
    found = await route.handler(ApiRequest(context=door, reader=reader, path=dict(request.match_info), query=query))
    if isinstance(found, StreamAnswer):
        return await found.stream(request, told)
    if isinstance(found, TextAnswer):
        headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
        return web.Response(text=found.text, headers=headers)
    if isinstance(found, BytesAnswer):
        response = web.Response(body=found.body, content_type="application/octet-stream")
        response.headers["Content-Disposition"] = f'attachment; filename="{found.file_name}"'
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
        return response
    return encoded(200, found)


async def _reach(door: ApiContext, position: int) -> int:
    """Wait until the views are at `position`; where they are then. Raises `ViewsBehind`."""
    loop = asyncio.get_running_loop()
    until = loop.time() + WAIT_S
    while (projected := await door.views.projected_position()) < position:
        if loop.time() >= until:
            raise ViewsBehind(
                f"the views are at position {projected} and did not reach {position} within {WAIT_S:.0f} s: ask again"
            )
        await asyncio.sleep(POLL_S)
    return projected


async def _unknown(request: web.Request) -> web.Response:
    return no_such_route(request.path)
