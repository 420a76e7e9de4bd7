"""The role of a cluster node: everything, only deliveries, or only readers.

all      hooks · views · api · dashboard
ingest   hooks; no views file and no projector. It applies the log, because answers carry positions
read     views · api · dashboard; a delivery gets 503, so that its sender tries another node
"""

from __future__ import annotations

import asyncio
from typing import Literal

from aiohttp import web

from tracker.api.problems import problem_response
from tracker.config.load import Config
from tracker.domain.text_cache import drop_text_caches
from tracker.errors import ConfigInvalid

Role = Literal["all", "ingest", "read"]

RETRY = {"Retry-After": "1"}


async def drop_text_caches_regularly(seconds: float = 60.0) -> None:
    """Run for ever, on a node without views: nothing tells it that somebody was erased."""
    while True:
        await asyncio.sleep(seconds)
        drop_text_caches()


def expect_role(config: Config, role: Role) -> None:
    """Raise `ConfigInvalid` for a role outside of a cluster: one server serves a log in one file."""
    if role != "all" and config.log.engine != "jetstream":
        raise ConfigInvalid(
            f"--role {role}: one server takes all deliveries and answers all readers of a SQLite log: leave --role out, or "
            'share the log between nodes with log.engine = "jetstream"'
        )


def add_refusing_hooks(app: web.Application) -> None:
    """Answer every hook with 503, so that the sender or its load balancer tries another node."""
    for path in ("/hooks", "/hooks/{rest:.*}"):
        app.router.add_route("*", path, _refuse_delivery)


def add_refusing_reads(app: web.Application) -> None:
    """Answer every read with 404."""
    app.router.add_route("*", "/{rest:.*}", _refuse_read)


async def _refuse_delivery(_request: web.Request) -> web.Response:
    detail = (
        "this node only answers readers (--role read); nothing was recorded: send it to a node that takes deliveries"
    )
    return problem_response(503, "role-read", "Not recorded", detail, headers=RETRY)


async def _refuse_read(_request: web.Request) -> web.Response:
    detail = "this node only takes deliveries (--role ingest): ask a node that answers readers"
    return problem_response(404, "role-ingest", "Nothing to read here", detail)
