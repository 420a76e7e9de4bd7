"""Signing in and out. The read token is kept in a cookie that scripts cannot read and other sites cannot send.

Forms on other sites cannot sign anyone in or out: browsers send the origin of a form, and only this site's is accepted.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from aiohttp import web

from tracker.api.auth import MAX_TOKEN_BYTES
from tracker.api.route import ApiContext
from tracker.api.health import SESSION_COOKIE
from tracker.api.problems import method_not_allowed, problem_response
from tracker.dashboard.form import FormRefused, read_form
from tracker.dashboard.page_route import authenticate
from tracker.dashboard.rendering import render_page
from tracker.errors import TokenInvalid

MAX_COOKIE_BYTES = 3_900
"""Browsers drop longer cookies silently."""


class SignIn:
    """The routes for signing in and out."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context

    def add_routes(self, app: web.Application) -> None:
        """Add `/sign-in` and `/sign-out`."""
        app.router.add_route("*", "/sign-in", self._sign_in)
        app.router.add_route("*", "/sign-out", self._sign_out)

    async def _sign_in(self, request: web.Request) -> web.Response:
        if request.method in {"GET", "HEAD"}:
            return self._form(request, safe_return_path(request.query.get("next")))
        if request.method != "POST":
            return method_not_allowed("GET, HEAD, POST")
        if not is_same_site(request):
            return self._form(request, "/", message="This form was sent by another site: sign in here.", status=403)
        try:
            form = await read_form(request)
        except FormRefused as refusal:
            return problem_response(refusal.status, refusal.kind, refusal.title, refusal.detail)
        next_path = safe_return_path(form.get("next"))
        token = form.get("token", "").strip().removeprefix("Bearer ").strip()
        if len(token) > MAX_COOKIE_BYTES:
            problem = f"the token is longer than a cookie may be ({MAX_COOKIE_BYTES} bytes): mint one for fewer sources"
            return self._form(request, next_path, message=problem, status=400)
        try:
            self._context.access.begin_session(token)
        except TokenInvalid as error:
            return self._form(request, next_path, message=str(error), status=401)
        response = _redirect(next_path)
        response.set_cookie(
            SESSION_COOKIE, token, httponly=True, samesite="Strict", path="/", secure=_uses_tls(request)
        )
        return response

    async def _sign_out(self, request: web.Request) -> web.Response:
        if request.method != "POST":
            return method_not_allowed("POST")
        if not is_same_site(request):
            return self._form(request, "/", message="This form was sent by another site: sign out here.", status=403)
        cookie = request.cookies.get(SESSION_COOKIE)
        if cookie is not None:
            self._context.access.end_session(cookie)
            if self._context.live is not None:
                self._context.live.end_streams_without_access()
        response = _redirect("/sign-in")
        response.del_cookie(SESSION_COOKIE, path="/", httponly=True, samesite="Strict")
        return response

    def _form(
        self, request: web.Request, next_path: str, *, message: str | None = None, status: int = 200
    ) -> web.Response:
        has_keys = self._context.access.has_keys
        return render_page(
            request,
            "sign_in.html",
            status=status,
            message=message,
            next_path=next_path,
            has_keys=has_keys,
            is_signed_in=self._is_signed_in(request),
        )

    def _is_signed_in(self, request: web.Request) -> bool:
        try:
            authenticate(self._context, request)
        except TokenInvalid:
            return False
        return True


def safe_return_path(next_path: str | None) -> str:
    """The path to continue to; `/` for anything that could lead to another site."""
    if not next_path or len(next_path) > MAX_TOKEN_BYTES or not next_path.isprintable() or "\\" in next_path:
        return "/"
    try:
        parts = urlsplit(next_path)
    except ValueError:
        return "/"
    leads_away = parts.scheme or parts.netloc or not next_path.startswith("/") or next_path.startswith("//")
    return "/" if leads_away or parts.path in {"/sign-in", "/sign-out", "/open"} else next_path


def is_same_site(request: web.Request) -> bool:
    """Whether a form comes from a page of this server, by the browser's headers. A client that sends none is not a browser."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in {"same-origin", "none"}
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.host


def _uses_tls(request: web.Request) -> bool:
    """Whether the browser uses TLS, to this server or to a proxy. A client that lies only affects its own cookie."""
    return request.secure or request.headers.get("X-Forwarded-Proto", "").lower() == "https"


def _redirect(path: str) -> web.Response:
    return web.Response(status=303, headers={"Location": path, "Cache-Control": "no-store"})
