"""openapi.json describes what the server does: every route, every parameter, every real answer."""

from __future__ import annotations

import json
import re
from typing import Any
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from tracker.api.auth import SCOPES, Access, AccessKey, mint_token
from tracker.api import openapi
from tracker.api.app import ROUTES, add_routes
from tracker.api.route import ApiContext
from tracker.demo.calls import whole_call
from tests.support.memory_log import MemoryLog
from tracker.projector.projector import Projector
from tracker.sources import registry
from tracker.sources.contract import SourceSettings
from tracker.views.sqlite.views import SqliteViews

NOW = 1_790_000_000_000_000
KEY = AccessKey("main", "HS256", "a-read-secret-of-at-least-thirty-two-bytes")
DOCUMENT: dict[str, Any] = json.loads(openapi.document(ROUTES))

UNDESCRIBED = re.compile(r"/docs/.+|/v1|/v1/\{rest.*|/\{rest.*")
"""Files of the API viewer, and answers without a body."""


def mistakes(value: Any, schema: dict[str, Any], at: str = "$") -> list[str]:
    """Where `value` does not match `schema`. Knows the part of JSON Schema that the document uses; refuses extra fields."""
    if "$ref" in schema:
        return mistakes(value, DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]], at)
    if "anyOf" in schema:
        tried = [mistakes(value, option, at) for option in schema["anyOf"]]
        return [] if [] in tried else tried[0]
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{at}: {value!r}"]
    kinds = {
        "null": type(None),
        "string": str,
        "integer": int,
        "number": float,
        "boolean": bool,
        "array": list,
        "object": dict,
    }
    if "type" in schema:
        if type(value) is not kinds[schema["type"]]:
            return [f"{at}: {value!r} is no {schema['type']}"]
    if isinstance(value, list):
        return [one for n, item in enumerate(value) for one in mistakes(item, schema.get("items", {}), f"{at}[{n}]")]
    if isinstance(value, dict) and "properties" in schema:
        known = schema["properties"]
        found = [f"{at}.{name} is not described" for name in value.keys() - known.keys()]
        found += [f"{at}.{name} is missing" for name in set(schema.get("required", [])) - value.keys()]
        return found + [
            one
            for name, inner in value.items()
            if name in known
            for one in mistakes(inner, known[name], f"{at}.{name}")
        ]
    if schema.get("format") == "date-time" and not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value):
        return [f"{at}: {value!r}"]
    return []


def test_every_registered_route_is_described_and_no_other() -> None:
    app = web.Application()
    views: Any = None
    add_routes(
        app,
        ApiContext(
            log=views,
            views=views,
            access=Access([KEY], now=lambda: NOW),
            now=lambda: NOW,
            stuck_after={},
            vendors={},
            unready_reasons=views,
            render_metrics=views,
        ),
    )
    registered = {resource.canonical for resource in app.router.resources()}
    described = {path for path in registered if not UNDESCRIBED.fullmatch(path)}
    assert described == set(DOCUMENT["paths"])


def test_every_reference_can_be_resolved() -> None:
    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            return (
                [value["$ref"]] if "$ref" in value else [one for inner in value.values() for one in references(inner)]
            )
        return [one for inner in value for one in references(inner)] if isinstance(value, list) else []

    found = references(DOCUMENT)
    assert found
    for reference in found:
        here: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            here = here[part]


def test_every_route_describes_its_parameters_and_errors() -> None:
    assert DOCUMENT["openapi"].startswith("3.1")
    names: list[str] = []
    for route in ROUTES:
        operation = DOCUMENT["paths"][route.path]["get"]
        names.append(operation["operationId"])
        documented = {(each["in"], each["name"]) for each in operation["parameters"]}
        assert {name for place, name in documented if place == "query"} == {each.name for each in route.parameters} | {
            "at_least"
        }
        assert {name for place, name in documented if place == "path"} == set(re.findall(r"\{(\w+)\}", route.path))
        assert {"200", "400", "401", "403", "405", "500", "503", "504"} <= set(operation["responses"])
        assert operation["security"][0]["bearer"] == [route.scope]
        if "{" in route.path:
            assert "404" in operation["responses"]
        if "/sessions/{id}" in route.path:
            assert "300" in operation["responses"]
    assert len(names) == len(set(names))


def test_the_design_s_routes_are_there() -> None:
    paths = {route.path for route in ROUTES}
    within = ("timeline", "participants", "connections", "streams", "recordings", "records")
    assert {"/v1/sessions", "/v1/sessions/{id}", *(f"/v1/sessions/{{id}}/{name}" for name in within)} <= paths
    assert {
        "/v1/records/{position}",
        "/v1/records/{position}/body",
        "/v1/rooms",
        "/v1/participants",
        "/v1/recordings",
    } <= paths
    assert {"/v1/supervisor-sessions", "/v1/supervisor-sessions/{id}", "/v1/stats"} <= paths
    filters = {each.name for route in ROUTES if route.name == "findSessions" for each in route.parameters}
    assert filters == {
        "source",
        "room",
        "identity",
        "state",
        "from",
        "to",
        "has",
        "parent_id",
        "min_duration_ms",
        "q",
        "limit",
        "cursor",
    }


@pytest.mark.parametrize("vendor", ["openvidu", "livekit", "streamrec", "openvidu_meet"])
async def test_real_answers_match_the_document(tmp_path: Path, vendor: str) -> None:
    log = MemoryLog()
    keyed = vendor in {"livekit", "plugnmeet"}
    source = registry.build(
        SourceSettings(
            name="s", vendor=vendor, secrets=() if keyed else ("x" * 32,), keys={"k": "x" * 32} if keyed else {}
        )
    )
    for n, sent in enumerate(whole_call(vendor, NOW - 10**9)):
        if n % 5 != 4:
            await log.append(source.verify_trusted(sent.body, received_at=sent.at, proof={"file": "x"}))
    await SqliteViews.create(tmp_path / "views.db")
    views = await SqliteViews.open(tmp_path / "views.db", writable=True)
    await Projector(log, views).catch_up()

    async def unready() -> list[str]:
        return []

    app = web.Application()
    add_routes(
        app,
        ApiContext(
            log=log,
            views=views,
            access=Access([KEY], now=lambda: NOW),
            now=lambda: NOW,
            stuck_after={},
            vendors={"s": vendor},
            unready_reasons=unready,
            render_metrics=lambda: (b"", "text/plain"),
        ),
    )
    headers = {"Authorization": "Bearer " + mint_token(KEY, scopes=SCOPES, sources=None, expires_s=60, now=NOW)}
    async with TestClient(TestServer(app)) as client:
        async with client.get("/v1/sessions", headers=headers) as response:
            session = (await response.json())["items"][0]["id"]
        for route in ROUTES:
            if route.is_stream:
                continue
            for any_id in (session, "none"):
                path = route.path.replace("{id}", any_id).replace("{position}", "1" if any_id == session else "none")
                needed = {each.name: "1" for each in route.parameters if each.is_required}
                async with client.get(path, headers=headers, params=needed) as response:
                    description = DOCUMENT["paths"][route.path]["get"]["responses"][str(response.status)]
                    if "$ref" in description:
                        description = DOCUMENT["components"]["responses"][description["$ref"].rpartition("/")[2]]
                    schema = description["content"][response.content_type]["schema"]
                    assert response.status in {200, 404}
                    if response.content_type not in {"application/octet-stream", "text/plain"}:
                        assert mistakes(msgspec.json.decode(await response.read()), schema) == [], path
    await views.close()
    await log.close()
