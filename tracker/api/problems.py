"""What a reader is told when there is no answer: one table, problem+json (RFC 9457).

    400 parameter-invalid · 401 token-invalid · 403 scope-missing · 404 not-found · 405 method-not-allowed
    503 views-* log-* with Retry-After · 504 views-behind · 500 failed

Several sessions for one id (300) are an answer with a list, not a problem. `docs/reference/errors.md` says what to do about each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from tracker.errors import (
    Erased,
    LogBusy,
    LogCorrupt,
    LogError,
    LogMissing,
    LogUnavailable,
    NodeBehind,
    NodeDiverged,
    NodeOutdated,
    NotFound,
    ParameterInvalid,
    ScopeMissing,
    TokenInvalid,
    TrackerError,
    ViewsBehind,
    ViewsError,
    ViewsMissing,
    ViewsOutdated,
    ViewsUnavailable,
)  # fmt: skip

RETRY_SOON = {"Retry-After": "2"}

ERROR_STATUSES: dict[type[TrackerError], tuple[int, str, Mapping[str, str]]] = {
    ParameterInvalid: (400, "A parameter cannot be used", {}),
    TokenInvalid: (401, "No token that opens this door", {"WWW-Authenticate": 'Bearer realm="tracker"'}),
    ScopeMissing: (
        403,
        "The token is not good for this",
        {"WWW-Authenticate": 'Bearer realm="tracker", error="insufficient_scope"'},
    ),
    NotFound: (404, "Nothing has that id", {}),
    Erased: (410, "These bytes were erased", {}),
    ViewsBehind: (504, "The views have not got there yet", RETRY_SOON),
    ViewsMissing: (503, "There are no views yet", RETRY_SOON),
    ViewsOutdated: (503, "The views are of another version", RETRY_SOON),
    ViewsUnavailable: (503, "The views cannot answer now", RETRY_SOON),
    LogMissing: (503, "There is no log", RETRY_SOON),
    LogUnavailable: (503, "The log cannot answer now", RETRY_SOON),
    LogBusy: (503, "The log is busy", RETRY_SOON),
    LogCorrupt: (503, "The log cannot be read", RETRY_SOON),
    NodeBehind: (503, "This node is catching up", RETRY_SOON),
    NodeOutdated: (503, "This node has to be upgraded", RETRY_SOON),
    NodeDiverged: (503, "This node is not to be believed", RETRY_SOON),
}
"""This door's status table: status, title, headers."""

STORES_UNAVAILABLE = (
    "the stores behind this door cannot answer now: try again shortly. The operator finds why in the server's output."
)


SHOWN_TO_READERS = (ViewsBehind, NodeBehind, NodeOutdated, NodeDiverged)
"""Said to readers as they are: another node answers them."""


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why there is no answer (RFC 9457). `parameter` names the parameter to change, where it was one."""

    type: str
    title: str
    status: int
    detail: str
    parameter: str | None = None


def error_response(error: TrackerError) -> web.Response:
    """The problem a reader is told; what names files and disks stays in our own log."""
    status, title, headers = ERROR_STATUSES.get(type(error), (503, "No answer now", RETRY_SOON))
    silent = isinstance(error, LogError | ViewsError) and not isinstance(error, SHOWN_TO_READERS)
    detail = STORES_UNAVAILABLE if silent else str(error)
    parameter = error.parameter if isinstance(error, ParameterInvalid) else None
    return problem_response(status, problem_kind(error), title, detail, headers=headers, parameter=parameter)


def problem_kind(error: Exception) -> str:
    """The last part of the problem's type: the error's name in kebab-case."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", type(error).__name__).lower()


def unknown_route(path: str) -> web.Response:
    """For paths under /v1 that are none."""
    detail = f"there is no {path[:200]!r} here; /openapi.json lists every route"
    return problem_response(404, "route-unknown", "No such route", detail)


def method_not_allowed(allow: str) -> web.Response:
    """For other methods than those of the route."""
    return problem_response(
        405, "method-not-allowed", "This door only reads", f"send {allow.partition(',')[0]}", headers={"Allow": allow}
    )


def internal_error() -> web.Response:
    """A mistake of ours: said as such, and nothing about it leaks."""
    detail = "there is no answer because of a mistake in Tracker; its log says where: please report it"
    return problem_response(500, "failed", "Tracker made a mistake", detail)


def problem_response(
    status: int,
    kind: str,
    title: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    parameter: str | None = None,
) -> web.Response:
    """One problem document. `kind` is in kebab-case."""
    document = Problem(
        type=f"urn:tracker:problem:{kind}", title=title, status=status, detail=detail, parameter=parameter
    )
    return json_response(status, document, content_type="application/problem+json", headers=headers)


def json_response(
    status: int, document: Any, *, content_type: str = "application/json", headers: Mapping[str, str] | None = None
) -> web.Response:
    """A JSON answer that no cache keeps."""
    response = web.Response(status=status, body=msgspec.json.encode(document), content_type=content_type)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.update(headers or {})
    return response
