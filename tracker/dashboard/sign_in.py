"""Signing in and out: a read token goes in once and lives in a cookie no script can see and no other site can send.

A form on another site cannot sign anybody in or out: browsers say where a form comes from, and only ours is taken.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from aiohttp import web

from tracker.api.auth import MAX_TOKEN_BYTES
from tracker.api.route import ApiContext
from tracker.api.health import SESSION_COOKIE
from tracker.api.problems import method_not_allowed
from tracker.dashboard.page_route import reader_of
from tracker.dashboard.rendering import page
from tracker.errors import TokenInvalid

MOST_COOKIE_BYTES = 3_900
"""Browsers drop longer cookies without a word."""


class SignIn:
    """The pages in front of the others."""

    def __init__(self, door: ApiContext) -> None:
        self._door = door

    def add_routes(self, app: web.Application) -> None:
        """Answer `/sign-in` and `/sign-out`."""
        app.router.add_route("*", "/sign-in", self._sign_in)
        app.router.add_route("*", "/sign-out", self._sign_out)

    async def _sign_in(self, request: web.Request) -> web.Response:
        if request.method in {"GET", "HEAD"}:
            return self._form(request, safe_next(request.query.get("next")))
        if request.method != "POST":
            return method_not_allowed("GET, HEAD, POST")
        if not is_ours(request):
            return self._form(request, "/", said="This form was sent by another site: sign in here.", status=403)
        given = await request.post()
        wanted = safe_next(_text(given.get("next")))
        token = _text(given.get("token")).strip().removeprefix("Bearer ").strip()
        if len(token) > MOST_COOKIE_BYTES:
            problem = (
                f"the token is longer than a cookie may be ({MOST_COOKIE_BYTES} bytes): narrow it to fewer sources"
            )
            return self._form(request, wanted, said=problem, status=400)
        try:
            self._door.access.authorize(f"Bearer {token}")
        except TokenInvalid as error:
            return self._form(request, wanted, said=str(error), status=401)
        response = _gone_to(wanted)
        response.set_cookie(
            SESSION_COOKIE, token, httponly=True, samesite="Strict", path="/", secure=_is_encrypted(request)
        )
        return response

    async def _sign_out(self, request: web.Request) -> web.Response:
        if request.method != "POST":
            return method_not_allowed("POST")
        if not is_ours(request):
            return self._form(request, "/", said="This form was sent by another site: sign out here.", status=403)
        cookie = request.cookies.get(SESSION_COOKIE)
        if cookie is not None:
            self._door.access.end_session(cookie)
        response = _gone_to("/sign-in")
        response.del_cookie(SESSION_COOKIE, path="/", httponly=True, samesite="Strict")
        return response

    def _form(self, request: web.Request, wanted: str, *, said: str | None = None, status: int = 200) -> web.Response:
        has_keys = self._door.access.has_keys
        return page(
            request,
            "sign_in.html",
            status=status,
            said=said,
            wanted=wanted,
            has_keys=has_keys,
            is_in=self._is_in(request),
        )

    def _is_in(self, request: web.Request) -> bool:
        try:
            reader_of(self._door, request)
        except TokenInvalid:
            return False
        return True


def safe_next(wanted: str | None) -> str:
    """A path of ours to go on to; `/` for whatever might lead away."""
    if not wanted or len(wanted) > MAX_TOKEN_BYTES or not wanted.isprintable() or "\\" in wanted:
        return "/"
    try:
        parts = urlsplit(wanted)
    except ValueError:
        return "/"
    leads_away = parts.scheme or parts.netloc or not wanted.startswith("/") or wanted.startswith("//")
    return "/" if leads_away or parts.path in {"/sign-in", "/sign-out", "/open"} else wanted


def is_ours(request: web.Request) -> bool:
    """Whether a form comes from a page of this server, as far as the browser says; what says nothing is no browser."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in {"same-origin", "none"}
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.host


def _is_encrypted(request: web.Request) -> bool:
    """Whether the browser speaks TLS, to us or to the proxy before us. Lying about it only hurts the liar's cookie."""
    return request.secure or request.headers.get("X-Forwarded-Proto", "").lower() == "https"


def _gone_to(path: str) -> web.Response:
    return web.Response(status=303, headers={"Location": path, "Cache-Control": "no-store"})


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
