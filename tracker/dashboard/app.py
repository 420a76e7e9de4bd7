"""The dashboard's routes: every page, its static files, signing in and out."""

from __future__ import annotations

import hashlib
from importlib import resources

from aiohttp import web

from tracker.api.route import ApiContext
from tracker.api.health import READ_METHODS
from tracker.api.problems import method_not_allowed
from tracker.dashboard import list_pages, log_page, session_page, sessions_page, sources_page, statistics_page
from tracker.dashboard.form import BODY_READER
from tracker.dashboard.ingest_stats import INGEST_STATS, NO_INGEST, IngestStats
from tracker.dashboard.page_route import PageRoute, page_handler
from tracker.dashboard.cluster_status import CLUSTER_KEY, ClusterMembers
from tracker.dashboard.summary import HEAD_COUNTER, HeadCounter
from tracker.dashboard.rendering import HEADERS
from tracker.dashboard.sign_in import SignIn
from tracker.ingest.request_body import BodyReader

__all__ = ["PAGES", "add_routes"]

PAGES: tuple[PageRoute, ...] = (
    *sessions_page.PAGES,
    *session_page.PAGES,
    *list_pages.PAGES,
    *statistics_page.PAGES,
    *sources_page.PAGES,
    *log_page.PAGES,
)

CONTENT_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".txt": "text/plain"}
ICON = "tracker.svg"


def add_routes(
    app: web.Application,
    context: ApiContext,
    ingest_stats: IngestStats = NO_INGEST,
    cluster: ClusterMembers | None = None,
) -> None:
    """Add every page and static file. `ingest_stats`: what the hooks have counted, for the pages that show it."""
    app[INGEST_STATS] = ingest_stats
    app[CLUSTER_KEY] = cluster
    app[HEAD_COUNTER] = HeadCounter()
    app.setdefault(BODY_READER, BodyReader())
    SignIn(context).add_routes(app)
    for route in PAGES:
        app.router.add_route("*", route.path, page_handler(context, route))
    files = StaticFiles()
    app.router.add_route("*", "/static/{name}", files.answer)
    # Browsers request this by themselves for answers that are not HTML pages.
    app.router.add_route("*", "/favicon.ico", files.icon)


class StaticFiles:
    """The static files, read once at start. No other file can be requested."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[bytes, str, str]] = {}
        for file in (resources.files("tracker.dashboard") / "static").iterdir():
            kind = CONTENT_TYPES.get(file.name[file.name.rfind(".") :])
            if kind is not None:
                body = file.read_bytes()
                self._files[file.name] = (body, kind, f'"{hashlib.sha256(body).hexdigest()[:32]}"')

    async def answer(self, request: web.Request) -> web.Response:
        """One file, or 304 if the browser has it already."""
        if request.method not in READ_METHODS:
            return method_not_allowed("GET, HEAD")
        return self._answer(request, request.match_info["name"])

    async def icon(self, request: web.Request) -> web.Response:
        """The icon of the browser tab."""
        return self._answer(request, ICON) if request.method in READ_METHODS else method_not_allowed("GET, HEAD")

    def _answer(self, request: web.Request, name: str) -> web.Response:
        found = self._files.get(name)
        if found is None:
            return web.Response(status=404, text="no such file", headers=HEADERS)
        body, kind, tag = found
        headers = dict(HEADERS) | {"Cache-Control": "no-cache", "ETag": tag}
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)
