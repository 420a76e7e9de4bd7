"""Requests that cannot be read are answered with a fixed problem: aiohttp's own answers quote lines of the request.

not HTTP, too long, a broken header ──→ 400 request-unreadable   nothing of the request is answered or logged
a path or a query that is not UTF-8 ──→ 400 request-unreadable   except for hooks: what else is sent there may be authentic
an error that nobody caught ──────────→ 500 failed
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from tracker.api.problems import SERVER_NAME, internal_error, problem_response
from tracker.domain.problem import raised_at
from tracker.domain.texts import is_utf8

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

BAD_REQUEST = 400
EXPECTATION_FAILED = "417: Expectation Failed"

_log = structlog.get_logger("server")


def install() -> None:
    """Answer requests that aiohttp cannot read, and errors that nobody caught, without quoting them. For the whole process."""
    # aiohttp has no setting for this, and makes its connections itself; the method is public.
    web.RequestHandler.handle_error = _handle_error  # pyright: ignore[reportAttributeAccessIssue]


@web.middleware
async def refuse_undecodable(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse a path or a query that is not UTF-8: it could neither be looked up nor answered."""
    target = request.raw_path
    if target.isascii() or target.startswith("/hooks/") or (is_utf8(target) and is_utf8(request.path)):
        return await handler(request)
    return _unreadable(BAD_REQUEST)


async def name_server(_request: web.Request, response: web.StreamResponse) -> None:
    """Signal `on_response_prepare`: the header `Server` names no versions."""
    response.headers["Server"] = SERVER_NAME
    if isinstance(response, web.HTTPExpectationFailed):
        response.text = EXPECTATION_FAILED  # aiohttp's quotes the header
        response.headers["Content-Length"] = str(len(EXPECTATION_FAILED))


def _handle_error(
    _self: web.RequestHandler,
    request: web.BaseRequest,
    status: int = 500,
    exc: BaseException | None = None,
    message: str | None = None,  # noqa: ARG001 - it quotes the request
) -> web.StreamResponse:
    if status == BAD_REQUEST:
        _log.warning("a request could not be read", error=type(exc).__name__, remote=request.remote)
        response = _unreadable(status)
    else:
        where = raised_at(exc) if isinstance(exc, Exception) and exc.__traceback__ is not None else None
        _log.error("a request failed", error=type(exc).__name__, where=where, remote=request.remote)
        response = internal_error()
    if request.writer.output_size > 0:
        raise ConnectionError("a part of another answer was sent already")
    response.force_close()
    return response


def _unreadable(status: int) -> web.Response:
    detail = (
        "the request is no valid HTTP/1.1, or too long: its first line, a header or the framing of its body. "
        "Correct the sender or the proxy"
    )
    return problem_response(status, "request-unreadable", "The request cannot be read", detail)
