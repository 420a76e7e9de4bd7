"""Renders templates: one Jinja environment that escapes everything, its filters, and the headers of every page.

All values are escaped; only markup built in this file and in the SVG modules is marked safe. Pages run scripts from
Tracker's own files only, and cannot be framed by other sites.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tracker.views.answers import time_of

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

NAVIGATION = (
    ("/", "Sessions"),
    ("/rooms", "Rooms"),
    ("/people", "People"),
    ("/recordings", "Recordings"),
    ("/supervisors", "Supervisors"),
    ("/statistics", "Statistics"),
    ("/sources", "Sources"),
    ("/log", "Log"),
)
"""(path, label) of the navigation, in order."""

READER_KEY = "reader"
"""The key of a request's `Reader`, once it is authenticated."""


def render_page(request: web.Request, template: str, /, *, status: int = 200, **values: Any) -> web.Response:
    """Render `template`, with the headers of every page.

    Templates also get `reader` (None if not signed in), `current` (the path), `pages` (the navigation), `request_query`.
    """
    text = environment().get_template(template).render(
        reader=request.get(READER_KEY), current=request.path, pages=NAVIGATION, request_query=request.query, **values
    )  # fmt: skip
    return web.Response(status=status, text=text, content_type="text/html", charset="utf-8", headers=HEADERS)


@cache
def environment() -> Environment:
    """The Jinja environment. It escapes everything; a missing name is an error."""
    made = Environment(
        loader=PackageLoader("tracker.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "time": format_time,
        "moment": format_moment,
        "duration": format_duration,
        "size": format_size,
        "part": quote_path_part,
        "query": encode_query,
    }
    return made


def format_time(value: str | None, missing: str = "–") -> Markup:
    """A time of the API as `<time>`, in UTC. The script replaces it with the reader's time zone."""
    if value is None:
        return Markup("<span class=faint>{}</span>").format(missing)
    return Markup('<time datetime="{}">{} UTC</time>').format(value, value[:19].replace("T", " "))


def format_moment(at: Any) -> Markup:
    """A moment in µs, as `format_time` shows it."""
    return format_time(time_of(at))


def format_duration(milliseconds: int | None, missing: str = "–") -> str:
    """Milliseconds in readable form: `3 min 07 s`."""
    if milliseconds is None:
        return missing
    if 0 < milliseconds < 1_000:
        return f"{milliseconds} ms"
    seconds = max(0, milliseconds) // 1_000
    hours, minutes = seconds // 3_600, seconds % 3_600 // 60
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds % 60:02} s" if minutes else f"{seconds} s"


def format_size(count: int | None, missing: str = "–") -> str:
    """Bytes in a readable unit: `4.2 MB`."""
    if count is None:
        return missing
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1_000 and len(units) > 1:
        value, units = value / 1_000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def quote_path_part(value: str) -> str:
    """Percent-encode an id as one segment of a path."""
    return quote(value, safe="")


def encode_query(values: Mapping[str, Any]) -> str:
    """A query string. None and empty values are left out; tuples are repeated."""
    return urlencode({name: value for name, value in values.items() if value not in (None, "", ())}, doseq=True)
