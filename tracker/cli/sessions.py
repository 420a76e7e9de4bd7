"""`tracker sessions` and `tracker timeline`: the API's own queries on the files, without a server."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from tracker.api.auth import SCOPES, Access, Reader
from tracker.api.parameters import read_query
from tracker.api.route import ApiContext, ApiRequest, Route
from tracker.api.sessions import ROUTES
from tracker.cli.arguments import Subparsers, add_command, limit, position
from tracker.cli.output import print_error, print_json, print_table
from tracker.config.load import Config
from tracker.domain import clock
from tracker.domain.rows import SessionRow
from tracker.errors import Ambiguous, NotFound
from tracker.server import stores
from tracker.views.contract import ViewsReader

READER = Reader("command line", frozenset(SCOPES))
PAGE = "1000"
BY_PATH = {route.path: route for route in ROUTES}
SESSION_COLUMNS = (
    "session", "state", "started", "lasted", "people", "recordings", "end", "completeness", "anomalies",
)  # fmt: skip
ENTRY_COLUMNS = ("at", "what", "about", "who", "how we know", "record")
SECONDS, MILLISECONDS = 19, 23
"""Characters of an RFC 3339 time up to its seconds, and up to its milliseconds."""


def add_to(subparsers: Subparsers) -> None:
    """Declare the commands."""
    sessions = add_command(subparsers, "sessions", run_sessions, "List sessions, newest first.", as_json=True)
    for name in ("source", "room", "identity", "q"):
        sessions.add_argument(f"--{name}")
    sessions.add_argument("--state", choices=("open", "ended", "stuck"))
    sessions.add_argument("--has", action="append", default=[], choices=("recording", "supervisor", "anomaly"))
    sessions.add_argument("--from", dest="from_", metavar="TIME", help="RFC 3339, like 2026-11-21T08:00:00Z")
    sessions.add_argument("--to", metavar="TIME")
    sessions.add_argument("--min-duration-ms", type=position, metavar="MS")
    sessions.add_argument("--limit", type=limit, default=50, help="at most 1000; default 50")
    summary = "Show what happened in one session, in order."
    timeline = add_command(subparsers, "timeline", run_timeline, summary, as_json=True)
    timeline.add_argument("id", metavar="ID", help="the id of a session, or any id its vendor gave it")
    timeline.add_argument("--kind", action="append", default=[], help="only this kind (may be repeated)")
    timeline.add_argument("--subject", help="only entries about this id")


def run_sessions(arguments: argparse.Namespace) -> int:
    """Print a table of sessions."""
    found = asyncio.run(find_sessions(arguments.config, _query(arguments)))
    if arguments.json:
        print_json(found)
        return 0
    print_table("Sessions", SESSION_COLUMNS, [_session_row(each) for each in found["items"]])
    if found["next"] is not None:
        print_error(f"there are more than {arguments.limit}: raise --limit or narrow with --from and --to")
    return 0


def run_timeline(arguments: argparse.Namespace) -> int:
    """Print all entries of one session."""
    entries = asyncio.run(timeline(arguments.config, arguments.id, kinds=arguments.kind, subject=arguments.subject))
    if arguments.json:
        print_json({"items": entries, "next": None})
    else:
        print_table(f"Timeline of {arguments.id}", ENTRY_COLUMNS, [_entry_row(entry) for entry in entries])
    return 0


async def find_sessions(config: Config, query: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The answer of `GET /v1/sessions?…`. Raises `ParameterInvalid`, `LogError`, `ViewsError`."""
    async with api_context(config) as context:
        return await _answer(context, BY_PATH["/v1/sessions"], {}, query)


async def timeline(config: Config, any_id: str, *, kinds: Sequence[str], subject: str | None) -> list[dict[str, Any]]:
    """All items of `GET /v1/sessions/{id}/timeline`. Raises `NotFound`, `Ambiguous` naming the choices, `ViewsError`."""
    route = BY_PATH["/v1/sessions/{id}/timeline"]
    query = [("limit", PAGE), *(("kind", kind) for kind in kinds)]
    if subject is not None:
        query.append(("subject", subject))
    entries: list[dict[str, Any]] = []
    async with api_context(config) as context:
        session = await find_session(context.views, any_id)
        cursor: str | None = None
        while True:
            page = await _answer(
                context, route, {"id": session.id}, [*query, *([("cursor", cursor)] if cursor else [])]
            )
            entries += page["items"]
            cursor = page["next"]
            if cursor is None:
                return entries


async def find_session(views: ViewsReader, any_id: str) -> SessionRow:
    """The one session that has this id. Raises `NotFound`, `Ambiguous` naming the choices."""
    found = await views.lookup(any_id, None)
    if not found:
        raise NotFound(f"no session has the id {any_id!r}; `tracker sessions --q` searches parts of ids and names")
    if len(found) > 1:
        names = tuple(row.id for row in found)
        raise Ambiguous(f"{len(found)} sessions have the id {any_id!r}, name one of {', '.join(names)}", names)
    return found[0]


@asynccontextmanager
async def api_context(config: Config) -> AsyncGenerator[ApiContext]:
    """The context of the API's routes, on the files. Raises `LogError`, `ViewsError`."""
    async with stores.reading_log(config) as log, stores.reading_views(config) as views:
        yield ApiContext(
            log=log,
            views=views,
            access=Access((), now=clock.now),
            now=clock.now,
            stuck_after={each.name: each.stuck_after for each in config.sources},
            vendors={each.name: each.vendor for each in config.sources},
            unready_reasons=_always_ready,
            render_metrics=lambda: (b"", ""),
        )


async def _always_ready(_purpose: object = None) -> list[str]:
    return []


async def _answer(
    context: ApiContext, route: Route, path: dict[str, str], query: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    request = ApiRequest(context, READER, path, read_query(query, route.parameters))
    return msgspec.json.decode(msgspec.json.encode(await route.handler(request)))


def _query(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """The options as the query parameters of `GET /v1/sessions`, so that both mean the same."""
    single: dict[str, Any] = {
        "source": arguments.source, "room": arguments.room, "identity": arguments.identity, "q": arguments.q,
        "state": arguments.state, "from": arguments.from_, "to": arguments.to, "min_duration_ms": arguments.min_duration_ms,
        "limit": arguments.limit,
    }  # fmt: skip
    if arguments.has:
        single["has"] = ",".join(arguments.has)
    return [(name, str(value)) for name, value in single.items() if value is not None]


def _session_row(each: dict[str, Any]) -> Sequence[Any]:
    lasted = each["duration_ms"]
    return (
        each["id"],
        "stuck" if each["stuck"] else each["state"],
        _moment(each["started_at"] or each["created_at"], SECONDS),
        None if lasted is None else f"{lasted / 1000:.1f} s",
        each["participants"],
        each["recordings"],
        each["end"]["provenance"] if each["end"] else None,
        each["completeness"],
        ", ".join(sorted({anomaly["kind"] for anomaly in each["anomalies"]})),
    )


def _entry_row(entry: dict[str, Any]) -> Sequence[Any]:
    about = f"{entry['subject']['type']} {entry['subject']['id'] or ''}".strip()
    at = _moment(entry["at"], MILLISECONDS)
    return (at, entry["kind"], about, entry["actor"], entry["provenance"], entry["position"])


def _moment(at: str | None, characters: int) -> str | None:
    return None if at is None else at[:characters].replace("T", " ")
