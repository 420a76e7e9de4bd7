"""Routes without a token: health and metrics on every server; the API's documentation and the one-time link on those that answer readers."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from aiohttp import web

from tracker.views.answers import Alive, Readiness
from tracker.api.problems import json_response, method_not_allowed, error_response
from tracker.errors import TokenInvalid

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tracker.api.auth import Access

    Answer = Callable[[web.Request], Awaitable[web.Response]]

SESSION_COOKIE = "tracker_session"
READ_METHODS = ("GET", "HEAD")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of /docs. The viewer needs inline styles; scripts and connections are limited to this server."""

DOCS_FILES = {
    "/docs": ("docs.html", "text/html"),
    "/docs/docs.css": ("docs.css", "text/css"),
    "/docs/rapidoc-min.js": ("rapidoc-min.js", "text/javascript"),
    "/docs/rapidoc-min.js.LICENSE.txt": ("rapidoc-min.js.LICENSE.txt", "text/plain"),
    "/docs/LICENSE.rapidoc.txt": ("LICENSE.rapidoc.txt", "text/plain"),
}


class Health:
    """`/healthz`, `/readyz` and `/metrics`.

    `unready_reasons` says why this server should get no traffic; `render_metrics` gives a body and its content type.
    """

    def __init__(
        self, unready_reasons: Callable[[], Awaitable[list[str]]], render_metrics: Callable[[], tuple[bytes, str]]
    ) -> None:
        self._unready_reasons = unready_reasons
        self._render_metrics = render_metrics

    def add_routes(self, app: web.Application) -> None:
        """Add the routes. Methods other than GET and HEAD get 405."""
        _answer_all(app, {"/healthz": self._alive, "/readyz": self._ready, "/metrics": self._metrics})

    async def _alive(self, _request: web.Request) -> web.Response:
        return json_response(200, Alive(alive=True))

    async def _ready(self, _request: web.Request) -> web.Response:
        reasons = await self._unready_reasons()
        return json_response(503 if reasons else 200, Readiness(ready=not reasons, reasons=reasons))

    async def _metrics(self, _request: web.Request) -> web.Response:
        body, content_type = self._render_metrics()
        return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})


class ApiDocs:
    """`/openapi.json`, its viewer under `/docs`, and the one-time link `/open`. `document` is the encoded openapi.json."""

    def __init__(self, access: Access, document: bytes) -> None:
        self._access = access
        self._document = document

    def add_routes(self, app: web.Application) -> None:
        """Add the routes. Methods other than GET and HEAD get 405."""
        _answer_all(
            app, {"/openapi.json": self._openapi, "/open": self._open} | dict.fromkeys(DOCS_FILES, self._static)
        )

    async def _openapi(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._document, content_type="application/json", headers={"Cache-Control": "no-cache"})

    async def _static(self, request: web.Request) -> web.Response:
        name, content_type = DOCS_FILES[request.path]
        body = (resources.files("tracker.api") / "static" / name).read_bytes()
        headers = {
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        }
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)

    async def _open(self, request: web.Request) -> web.Response:
        if request.method == "HEAD":
            # A link preview must not use up the link.
            return web.Response(headers={"Cache-Control": "no-store"})
        try:
            opened = self._access.redeem_code(request.query.get("code", ""))
        except TokenInvalid as error:
            if self._is_signed_in(request):
                return web.Response(status=303, headers={"Location": "/", "Cache-Control": "no-store"})
            return error_response(error)
        response = web.Response(status=303, headers={"Location": "/", "Cache-Control": "no-store"})
        response.set_cookie(SESSION_COOKIE, opened, httponly=True, samesite="Strict", path="/")
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    def _is_signed_in(self, request: web.Request) -> bool:
        """Whether this browser is signed in: then a used link still redirects to the dashboard."""
        try:
            self._access.authorize(None, request.cookies.get(SESSION_COOKIE))
        except TokenInvalid:
            return False
        return True


def _answer_all(app: web.Application, answers: Mapping[str, Answer]) -> None:
    for path, answer in answers.items():
        app.router.add_route("*", path, _read_only(answer))


def _read_only(answer: Answer) -> Answer:
    async def handle(request: web.Request) -> web.Response:
        return await answer(request) if request.method in READ_METHODS else method_not_allowed("GET, HEAD")

    return handle
