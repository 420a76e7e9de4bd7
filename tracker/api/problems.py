"""Errors as HTTP answers: one table of statuses, problem+json (RFC 9457).

    400 parameter-invalid · 401 token-invalid · 403 scope-missing · 404 not-found · 405 method-not-allowed · 410 erased
    503 views-* log-* node-* with Retry-After · 504 views-behind · 500 failed

An id that several sessions have (300) is an answer with a list, not a problem. `docs/reference/errors.md` says what to do
about each problem.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from tracker.domain.problem import CONTENT_TYPE, INTERNAL_ERROR, encode_problem, problem_kind
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
    ViewsDamaged,
    ViewsError,
    ViewsMissing,
    ViewsOutdated,
    ViewsPathWrong,
    ViewsUnavailable,
)  # fmt: skip

SERVER_NAME = "tracker"
"""The header `Server` of every answer: versions would tell which faults to try."""
RETRY_SOON = {"Retry-After": "2"}

ERROR_STATUSES: dict[type[TrackerError], tuple[int, str, Mapping[str, str]]] = {
    ParameterInvalid: (400, "Invalid parameter", {}),
    TokenInvalid: (401, "Missing or invalid token", {"WWW-Authenticate": 'Bearer realm="tracker"'}),
    ScopeMissing: (
        403,
        "The token lacks the required scope",
        {"WWW-Authenticate": 'Bearer realm="tracker", error="insufficient_scope"'},
    ),
    NotFound: (404, "Not found", {}),
    Erased: (410, "These bytes were erased", {}),
    ViewsBehind: (504, "The views have not reached this position yet", RETRY_SOON),
    ViewsMissing: (503, "There are no views yet", RETRY_SOON),
    ViewsOutdated: (503, "The views were written by another version of Tracker", RETRY_SOON),
    ViewsDamaged: (503, "The views are damaged and are made again", RETRY_SOON),
    ViewsPathWrong: (503, "views.path names another file of Tracker", {}),
    ViewsUnavailable: (503, "The views are not available now", RETRY_SOON),
    LogMissing: (503, "There is no log", RETRY_SOON),
    LogUnavailable: (503, "The log is not available now", RETRY_SOON),
    LogBusy: (503, "The log is busy", RETRY_SOON),
    LogCorrupt: (503, "The log cannot be read", RETRY_SOON),
    NodeBehind: (503, "This node is catching up", RETRY_SOON),
    NodeOutdated: (503, "This node must be upgraded", RETRY_SOON),
    NodeDiverged: (503, "This node's records are not those that were signed", RETRY_SOON),
}
"""Error → status, title, headers."""

STORES_UNAVAILABLE = "the log or the views are not available now: try again shortly. The operator finds the reason in the server's output."

SHOWN_TO_READERS = (ViewsBehind, NodeBehind, NodeOutdated, NodeDiverged)
"""Store errors whose message readers get to see. Messages of the others may name files and disks."""


class ErrorDescription(NamedTuple):
    """An error as readers see it."""

    status: int
    title: str
    detail: str
    headers: Mapping[str, str]


def describe_error(error: TrackerError) -> ErrorDescription:
    """The status, title, detail and headers for an error."""
    status, title, headers = ERROR_STATUSES.get(type(error), (503, "Not available now", RETRY_SOON))
    is_hidden = isinstance(error, LogError | ViewsError) and not isinstance(error, SHOWN_TO_READERS)
    return ErrorDescription(status, title, STORES_UNAVAILABLE if is_hidden else str(error), headers)


def error_response(error: TrackerError) -> web.Response:
    """The problem document for an error."""
    status, title, detail, headers = describe_error(error)
    parameter = error.parameter if isinstance(error, ParameterInvalid) else None
    return problem_response(status, problem_kind(error), title, detail, headers=headers, parameter=parameter)


def unknown_route(path: str) -> web.Response:
    """404 for a path that is no route."""
    detail = f"there is no {path[:200]!r} here; /openapi.json lists every route"
    return problem_response(404, "route-unknown", "No such route", detail)


def method_not_allowed(allow: str) -> web.Response:
    """405 with the header `Allow`."""
    return problem_response(
        405, "method-not-allowed", "Method not allowed", f"send {allow.partition(',')[0]}", headers={"Allow": allow}
    )


def internal_error() -> web.Response:
    """500 for an unexpected error. It says nothing about the error: the server's output says where it was raised."""
    kind, title = INTERNAL_ERROR
    detail = "there is no answer because of a bug in Tracker: please report it. The server's output says where it is."
    return problem_response(500, kind, title, detail)


def problem_response(
    status: int,
    kind: str,
    title: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    parameter: str | None = None,
) -> web.Response:
    """One problem document as an answer. `kind` is in kebab-case."""
    body = encode_problem(status, kind, title, detail, parameter=parameter)
    return _uncached(status, body, CONTENT_TYPE, headers)


def json_response(status: int, document: Any, *, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer that is not to be cached."""
    return _uncached(status, msgspec.json.encode(document), "application/json", headers)


def _uncached(status: int, body: bytes, content_type: str, headers: Mapping[str, str] | None) -> web.Response:
    response = web.Response(status=status, body=body, content_type=content_type)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Server"] = SERVER_NAME
    response.headers.update(headers or {})
    return response
