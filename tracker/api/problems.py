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

RETRY = {"Retry-After": "2"}

STATUSES: dict[type[TrackerError], tuple[int, str, Mapping[str, str]]] = {
    ParameterInvalid: (400, "A parameter cannot be used", {}),
    TokenInvalid: (401, "No token that opens this door", {"WWW-Authenticate": 'Bearer realm="tracker"'}),
    ScopeMissing: (
        403,
        "The token is not good for this",
        {"WWW-Authenticate": 'Bearer realm="tracker", error="insufficient_scope"'},
    ),
    NotFound: (404, "Nothing has that id", {}),
    Erased: (410, "These bytes were erased", {}),
    ViewsBehind: (504, "The views have not got there yet", RETRY),
    ViewsMissing: (503, "There are no views yet", RETRY),
    ViewsOutdated: (503, "The views are of another version", RETRY),
    ViewsUnavailable: (503, "The views cannot answer now", RETRY),
    LogMissing: (503, "There is no log", RETRY),
    LogUnavailable: (503, "The log cannot answer now", RETRY),
    LogBusy: (503, "The log is busy", RETRY),
    LogCorrupt: (503, "The log cannot be read", RETRY),
    NodeBehind: (503, "This node is catching up", RETRY),
    NodeOutdated: (503, "This node has to be upgraded", RETRY),
    NodeDiverged: (503, "This node is not to be believed", RETRY),
}
"""This door's status table: status, title, headers."""

OPERATORS = (
    "the stores behind this door cannot answer now: try again shortly. The operator finds why in the server's output."
)


PLAIN = (ViewsBehind, NodeBehind, NodeOutdated, NodeDiverged)
"""Said to readers as they are: another node answers them."""


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why there is no answer (RFC 9457). `parameter` names the parameter to change, where it was one."""

    type: str
    title: str
    status: int
    detail: str
    parameter: str | None = None


def problem_of(error: TrackerError) -> web.Response:
    """The problem a reader is told; what names files and disks stays in our own log."""
    status, title, headers = STATUSES.get(type(error), (503, "No answer now", RETRY))
    silent = isinstance(error, LogError | ViewsError) and not isinstance(error, PLAIN)
    detail = OPERATORS if silent else str(error)
    parameter = error.parameter if isinstance(error, ParameterInvalid) else None
    return problem(status, kind_of(error), title, detail, headers=headers, parameter=parameter)


def kind_of(error: Exception) -> str:
    """The last part of the problem's type: the error's name in kebab-case."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", type(error).__name__).lower()


def no_such_route(path: str) -> web.Response:
    """For paths under /v1 that are none."""
    detail = f"there is no {path[:200]!r} here; /openapi.json lists every route"
    return problem(404, "route-unknown", "No such route", detail)


def only(allow: str) -> web.Response:
    """For other methods than those of the route."""
    return problem(
        405, "method-not-allowed", "This door only reads", f"send {allow.partition(',')[0]}", headers={"Allow": allow}
    )


def failed() -> web.Response:
    """A mistake of ours: said as such, and nothing about it leaks."""
    detail = "there is no answer because of a mistake in Tracker; its log says where: please report it"
    return problem(500, "failed", "Tracker made a mistake", detail)


def problem(
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
    return encoded(status, document, content_type="application/problem+json", headers=headers)


def encoded(
    status: int, document: Any, *, content_type: str = "application/json", headers: Mapping[str, str] | None = None
) -> web.Response:
    """A JSON answer that no cache keeps."""
    response = web.Response(status=status, body=msgspec.json.encode(document), content_type=content_type)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.update(headers or {})
    return response
