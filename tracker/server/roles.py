"""What a node of a cluster is for: all of it, only taking deliveries, or only answering readers.

all      hooks · views · api · dashboard
ingest   hooks, and nothing to read: no views file, no projector; the log is applied, for the answers carry positions
read     views · api · dashboard; a delivery is told to go to another node, and nothing is lost by asking here
"""

from __future__ import annotations

from typing import Literal

from aiohttp import web

from tracker.api.problems import problem_response
from tracker.config.load import Config
from tracker.errors import ConfigInvalid

Role = Literal["all", "ingest", "read"]

ELSEWHERE = {"Retry-After": "1"}


def expect_role(config: Config, role: Role) -> None:
    """Raise `ConfigInvalid` where one process has to be both: a log in one file is served by one server."""
    if role != "all" and config.log.engine != "jetstream":
        raise ConfigInvalid(
            f"--role {role}: a log in one SQLite file is served by one server, which takes and answers: leave --role out, or "
            'share the log between nodes with log.engine = "jetstream"'
        )


def add_refusing_hooks(app: web.Application) -> None:
    """Where nothing is taken: 503, so that a sender or what stands in front of it tries another node."""
    for path in ("/hooks", "/hooks/{rest:.*}"):
        app.router.add_route("*", path, _take_it_elsewhere)


def add_refusing_reads(app: web.Application) -> None:
    """Where nothing is read."""
    app.router.add_route("*", "/{rest:.*}", _ask_elsewhere)


async def _take_it_elsewhere(_request: web.Request) -> web.Response:
    detail = (
        "this node only answers readers (--role read); nothing was recorded: send it to a node that takes deliveries"
    )
    return problem_response(503, "role-read", "Not recorded", detail, headers=ELSEWHERE)


async def _ask_elsewhere(_request: web.Request) -> web.Response:
    detail = "this node only takes deliveries (--role ingest): ask a node that answers readers"
    return problem_response(404, "role-ingest", "Nothing to read here", detail)
