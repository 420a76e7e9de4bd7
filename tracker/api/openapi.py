"""openapi.json (OpenAPI 3.1), generated from the routes and from the structs that encode their answers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from tracker.views.answers import Alive, Readiness
from tracker.api.route import BytesAnswer, TextAnswer, Route, ZipAnswer
from tracker.api.health import FOR
from tracker.api.parameters import AT_LEAST, Parameter
from tracker.domain.problem import Problem

Json = dict[str, Any]

TEMPLATE = "#/components/schemas/{name}"
DESCRIPTION = """\
The flight recorder for video calls: what happened in them, derived from an append-only log of webhooks.

Times are RFC 3339 in UTC with milliseconds, null when unknown; durations are whole milliseconds. Lists have `items` and
`next`: send `next` as `cursor` for the following page, until it is null. Errors are problem+json. `X-Log-Position` is the
position of the log up to which an answer is complete; `at_least` waits for a position, for example one that a hook
answered with.
"""

PROBLEM_DESCRIPTIONS: dict[str, str] = {
    "400": "A parameter is unknown or has a bad value; `parameter` names it.",
    "401": "The token is missing or invalid.",
    "403": "The token lacks the scope of this route.",
    "404": "Nothing has that id, or the token may not see it.",
    "405": "Only GET and HEAD are allowed.",
    "500": "Internal error in Tracker.",
    "503": "The log or the views are not available now; try again after `Retry-After` seconds.",
    "504": "The views did not reach `at_least` within 5 s.",
}

PATH_PARAMETERS: dict[str, tuple[str, Json]] = {
    "id": ("Percent-encode `/` and `:`.", {"type": "string"}),
    "position": ("Position in the log: 1, 2, 3 …", {"type": "integer", "minimum": 1}),
}

POSITION: Json = {
    "description": "The position of the log up to which the answer is complete.",
    "schema": {"type": "integer"},
}


def document(routes: Iterable[Route]) -> bytes:
    """The whole document as JSON."""
    served = tuple(routes)
    found: set[Any] = {Alive, Readiness, Problem}
    found |= {
        kind
        for route in served
        for kind in (route.answer, route.choices)
        if kind not in {None, BytesAnswer, TextAnswer, ZipAnswer}
    }
    kinds = sorted(found, key=str)
    schemas, components = msgspec.json.schema_components(kinds, ref_template=TEMPLATE)
    references = dict(zip(kinds, schemas, strict=True))
    paths: Json = {route.path: {"get": _operation(route, references)} for route in served}
    whole: Json = {
        "openapi": "3.1.0",
        "info": {"title": "Tracker", "version": "1", "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "tags": [{"name": name} for name in dict.fromkeys([*map(_tag, served), "health"])],
        "paths": paths | _open_paths(references),
        "components": {
            "schemas": components,
            "responses": {status: _problem(status, references) for status in PROBLEM_DESCRIPTIONS},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "opened": {"type": "apiKey", "in": "cookie", "name": "tracker_session"},
            },
        },
    }
    return msgspec.json.encode(whole)


def _operation(route: Route, references: dict[Any, Json]) -> Json:
    parts: list[Json] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": PATH_PARAMETERS[name][0],
            "schema": PATH_PARAMETERS[name][1],
        }
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    responses: Json = {"200": _answer(route.answer, references, "The answer.", streams=route.is_stream)}
    if route.choices is not None:
        responses["300"] = _answer(
            route.choices, references, "Several sessions have that id; request one of these by its own id."
        )
    expected = [status for status in PROBLEM_DESCRIPTIONS if status != "404" or route.can_be_missing]
    responses |= {status: {"$ref": f"#/components/responses/{status}"} for status in expected}
    return {
        "operationId": route.name,
        "summary": route.description.split(".")[0].split(":")[0] + ".",
        "description": f"{route.description}\n\nScope: `{route.scope}`.",
        "tags": [_tag(route)],
        "security": [{"bearer": [route.scope]}, {"opened": []}],
        "parameters": [*parts, *map(_parameter, (*route.parameters, AT_LEAST))],
        "responses": dict(sorted(responses.items())),
    }


def _parameter(parameter: Parameter) -> Json:
    described: Json = {
        "name": parameter.name, "in": "query", "required": parameter.is_required, "description": parameter.description,
        "schema": parameter.schema,
    }  # fmt: skip
    # OpenAPI can describe repeated parameters; values separated by commas are accepted, too.
    return described | ({"style": "form", "explode": True} if parameter.is_repeatable else {})


def _answer(kind: Any, references: dict[Any, Json], about: str, *, streams: bool = False) -> Json:
    if streams:
        content: Json = {"text/event-stream": {"schema": references[kind]}}
    elif kind is TextAnswer:
        content = {"text/plain": {"schema": {"type": "string"}}}
    elif kind is ZipAnswer:
        content = {"application/zip": {"schema": {"type": "string", "format": "binary"}}}
    elif kind is BytesAnswer:
        content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    else:
        content = {"application/json": {"schema": references[kind]}}
    return {"description": about, "headers": {"X-Log-Position": POSITION}, "content": content}


def _problem(status: str, references: dict[Any, Json]) -> Json:
    described: Json = {
        "description": PROBLEM_DESCRIPTIONS[status],
        "content": {"application/problem+json": {"schema": references[Problem]}},
    }
    headers: Json = {}
    if status in {"503", "504"}:
        headers["Retry-After"] = {"description": "Seconds.", "schema": {"type": "integer"}}
    if status in {"401", "403"}:
        headers["WWW-Authenticate"] = {"schema": {"type": "string"}}
    if status == "405":
        headers["Allow"] = {"schema": {"type": "string"}}
    return described | ({"headers": headers} if headers else {})


def _open_paths(references: dict[Any, Json]) -> Json:
    """The routes that need no token."""

    def get(
        name: str,
        summary: str,
        content: Json | None,
        *,
        more: Json | None = None,
        query: str | None = None,
        parameters: Iterable[Parameter] = (),
    ) -> Json:
        answer: Json = {"description": summary} | ({} if content is None else {"content": content})
        code: Json = {"name": query, "in": "query", "required": True, "schema": {"type": "string"}}
        responses = more if content is None and more else {"200": answer} | (more or {})
        return {
            "get": {
                "operationId": name, "summary": summary, "tags": ["health"], "security": [],
                "parameters": [*map(_parameter, parameters), *([] if query is None else [code])],
                "responses": responses | {"405": {"$ref": "#/components/responses/405"}},
            }
        }  # fmt: skip

    def json(kind: Any) -> Json:
        return {"application/json": {"schema": references[kind]}}

    text: Json = {"schema": {"type": "string"}}
    not_ready: Json = {
        "400": {"$ref": "#/components/responses/400"},
        "503": {"description": "Not ready; `reasons` says why.", "content": json(Readiness)},
    }
    opened: Json = {
        "303": {"description": "Signed in; a cookie is set.", "headers": {"Location": text, "Set-Cookie": text}},
        "401": {"$ref": "#/components/responses/401"},
    }
    return {
        "/healthz": get("alive", "The process is running.", json(Alive)),
        "/readyz": get(
            "ready", "Whether this server should get traffic.", json(Readiness), more=not_ready, parameters=[FOR]
        ),
        "/metrics": get("metrics", "Metrics for Prometheus.", {"text/plain": text}),
        "/openapi.json": get("openapi", "This document.", {"application/json": {"schema": {"type": "object"}}}),
        "/docs": get("docs", "This document in a viewer.", {"text/html": text}),
        "/open": get("open", "Open the link printed at start; it works once.", None, more=opened, query="code"),
    }


def _tag(route: Route) -> str:
    return route.path.split("/")[2]
