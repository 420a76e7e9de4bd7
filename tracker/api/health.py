"""Routes without a token: health and metrics on every server; the API's documentation and the one-time link on those that answer readers.

`/readyz` gives an error's own message only to readers with a token: it may name files and servers. The log has it, too.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Literal, Protocol

import structlog
from aiohttp import web

from tracker.views.answers import Alive, Readiness
from tracker.api.parameters import choice, read_query
from tracker.api.problems import describe_error, json_response, method_not_allowed, error_response
from tracker.errors import ParameterInvalid, TokenInvalid, TrackerError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

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


Purpose = Literal["hooks", "reads"]
FOR = choice("for", "Only for this traffic: deliveries, or readers. Default: both.", ("hooks", "reads"))

_log = structlog.get_logger("health")


class UnreadyReasons(Protocol):
    """Why a server should get no traffic now; empty when it is ready."""

    def __call__(self, purpose: Purpose | None = None, /) -> Awaitable[Sequence[str | TrackerError]]:
        """`purpose`: only what concerns that traffic."""
        ...


class Health:
    """`/healthz`, `/readyz` and `/metrics`. `render_metrics` gives a body and its content type."""

    def __init__(
        self, unready_reasons: UnreadyReasons, render_metrics: Callable[[], tuple[bytes, str]], access: Access
    ) -> None:
        self._unready_reasons = unready_reasons
        self._render_metrics = render_metrics
        self._access = access
        self._logged: dict[Purpose | None, list[str]] = {}

    def add_routes(self, app: web.Application) -> None:
        """Add the routes. Methods other than GET and HEAD get 405."""
        _answer_all(app, {"/healthz": self._alive, "/readyz": self._ready, "/metrics": self._metrics})

    async def _alive(self, _request: web.Request) -> web.Response:
        return json_response(200, Alive(alive=True))

    async def _ready(self, request: web.Request) -> web.Response:
        try:
            given = [(name, value) for name, value in request.query.items() if name == FOR.name]
            purpose: Purpose | None = read_query(given, (FOR,))["for"]
        except ParameterInvalid as error:
            return error_response(error)
        reasons = await (self._unready_reasons() if purpose is None else self._unready_reasons(purpose))
        self._log_changes(purpose, [str(each) for each in reasons])
        is_reader = is_signed_in(self._access, request)
        shown = [
            describe_error(each).detail if isinstance(each, TrackerError) and not is_reader else str(each)
            for each in reasons
        ]
        return json_response(503 if reasons else 200, Readiness(ready=not reasons, reasons=shown))

    def _log_changes(self, purpose: Purpose | None, reasons: list[str]) -> None:
        """Log reasons once: probes come every few seconds."""
        if bool(reasons) != bool(self._logged.get(purpose)):
            _log.warning(
                "not ready" if reasons else "ready again", purpose=purpose or "hooks and reads", reasons=reasons
            )
            self._logged[purpose] = reasons

    async def _metrics(self, _request: web.Request) -> web.Response:
        body, content_type = self._render_metrics()
        return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})


class ApiDocs:
    """`/openapi.json`, its viewer under `/docs`, and the one-time link `/open`. `document` is the encoded openapi.json."""

    def __init__(self, access: Access, document: bytes) -> None:
        self._access = access
        self._document = document
        # Read once: all answers share the bytes, also those that nobody reads.
        folder = resources.files("tracker.api") / "static"
        self._files = {path: (folder / name).read_bytes() for path, (name, _) in DOCS_FILES.items()}

    def add_routes(self, app: web.Application) -> None:
        """Add the routes. Methods other than GET and HEAD get 405."""
        _answer_all(
            app, {"/openapi.json": self._openapi, "/open": self._open} | dict.fromkeys(DOCS_FILES, self._static)
        )

    async def _openapi(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._document, content_type="application/json", headers={"Cache-Control": "no-cache"})

    async def _static(self, request: web.Request) -> web.Response:
        _, content_type = DOCS_FILES[request.path]
        headers = {
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        }
        body = self._files[request.path]
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)

    async def _open(self, request: web.Request) -> web.Response:
        if request.method == "HEAD":
            # A link preview must not use up the link.
            return web.Response(headers={"Cache-Control": "no-store"})
        try:
            opened = self._access.redeem_code(request.query.get("code", ""))
        except TokenInvalid as error:
            if is_signed_in(self._access, request):
                # A used link still redirects this browser to the dashboard.
                return web.Response(status=303, headers={"Location": "/", "Cache-Control": "no-store"})
            return error_response(error)
        response = web.Response(status=303, headers={"Location": "/", "Cache-Control": "no-store"})
        response.set_cookie(SESSION_COOKIE, opened, httponly=True, samesite="Strict", path="/")
        response.headers["Referrer-Policy"] = "no-referrer"
        return response


def is_signed_in(access: Access, request: web.Request) -> bool:
    """Whether the request has a valid token or session."""
    try:
        access.authorize(request.headers.get("Authorization"), request.cookies.get(SESSION_COOKIE))
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
