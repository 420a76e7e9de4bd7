"""What the command line reads without a server: the API's own questions, asked of the files, in the API's own answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from tracker.domain import clock
from tracker.server import stores
from tracker.api.auth import SCOPES, Access, Reader
from tracker.api.route import ApiRequest, ApiContext, Route
from tracker.api.parameters import read_query
from tracker.api.sessions import ROUTES
from tracker.config.load import Config
from tracker.errors import Ambiguous, NotFound
from tracker.domain.rows import SessionRow
from tracker.views.contract import ViewsReader

READER = Reader("command line", frozenset(SCOPES))
PAGE = "1000"
BY_PATH = {route.path: route for route in ROUTES}


async def find_sessions(config: Config, query: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The answer of `GET /v1/sessions?…`. Raises `ParameterInvalid`, `LogError`, `ViewsError`."""
    async with door_of(config) as door:
        return await _ask(door, BY_PATH["/v1/sessions"], {}, query)


async def timeline(config: Config, any_id: str, *, kinds: Sequence[str], subject: str | None) -> list[dict[str, Any]]:
    """All items of `GET /v1/sessions/{id}/timeline`. Raises `NotFound`, `Ambiguous` naming the choices, `ViewsError`."""
    route = BY_PATH["/v1/sessions/{id}/timeline"]
    query = [("limit", PAGE), *(("kind", kind) for kind in kinds)]
    if subject is not None:
        query.append(("subject", subject))
    entries: list[dict[str, Any]] = []
    async with door_of(config) as door:
        session = await only_session(door.views, any_id)
        cursor: str | None = None
        while True:
            page = await _ask(door, route, {"id": session.id}, [*query, *([("cursor", cursor)] if cursor else [])])
            entries += page["items"]
            cursor = page["next"]
            if cursor is None:
                return entries


async def only_session(views: ViewsReader, any_id: str) -> SessionRow:
    """The one session an id means. Raises `NotFound`, `Ambiguous` naming the choices."""
    found = await views.lookup(any_id, None)
    if not found:
        raise NotFound(f"no session has the id {any_id!r}; `tracker sessions --q` searches parts of ids and names")
    if len(found) > 1:
        names = tuple(row.id for row in found)
        raise Ambiguous(f"{len(found)} sessions have the id {any_id!r}, name one of {', '.join(names)}", names)
    return found[0]


async def _ask(
    door: ApiContext, route: Route, path: dict[str, str], query: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    asked = ApiRequest(door, READER, path, read_query(query, route.parameters))
    return msgspec.json.decode(msgspec.json.encode(await route.handler(asked)))


@asynccontextmanager
async def door_of(config: Config) -> AsyncGenerator[ApiContext]:
    """The read door on the files. Raises `LogError`, `ViewsError`."""
    async with stores.reading_log(config) as log, stores.reading_views(config) as views:
        yield ApiContext(
            log=log,
            views=views,
            access=Access((), now=clock.now),
            now=clock.now,
            stuck_after={each.name: each.stuck_after for each in config.sources},
            vendors={each.name: each.vendor for each in config.sources},
            unready_reasons=_never,
            render_metrics=_nothing,
        )


async def _never() -> list[str]:
    return []


def _nothing() -> tuple[bytes, str]:
    return b"", ""
