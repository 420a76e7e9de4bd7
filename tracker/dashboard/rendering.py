"""From a template to an answer: one Jinja environment that escapes everything, and the headers each page carries.

Whatever a vendor said is text: nothing is marked safe but what this file itself puts together. No page runs a script
that is not one of our files, and none may be put into somebody else's frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

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

PAGES = (
    ("/", "Calls"),
    ("/rooms", "Rooms"),
    ("/people", "People"),
    ("/recordings", "Recordings"),
    ("/supervisors", "Supervisors"),
    ("/statistics", "Statistics"),
    ("/sources", "Sources"),
    ("/log", "Log"),
)
"""What the navigation offers, in order."""

READER = "reader"
"""Where a request keeps its `Reader` once it is signed in."""


def page(request: web.Request, template: str, /, *, status: int = 200, **values: Any) -> web.Response:
    """The page made of `template`, with the headers of every page.

    Templates also get `reader` (None on pages without sign-in), `current` (the path), `pages` (the navigation).
    """
    text = environment().get_template(template).render(
        reader=request.get(READER), current=request.path, pages=PAGES, request_query=request.query, **values
    )  # fmt: skip
    return web.Response(status=status, text=text, content_type="text/html", charset="utf-8", headers=HEADERS)


@cache
def environment() -> Environment:
    """The environment of all templates: everything is escaped, and a name that is missing is an error."""
    made = Environment(
        loader=PackageLoader("tracker.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "time": time_shown,
        "duration": duration,
        "size": size,
        "part": path_part,
        "query": query,
    }
    return made


def time_shown(value: str | None, missing: str = "–") -> Markup:
    """A time of the API as `<time>`: UTC to read as it is, in the reader's zone where scripts run."""
    if value is None:
        return Markup("<span class=faint>{}</span>").format(missing)
    return Markup('<time datetime="{}">{} UTC</time>').format(value, value[:19].replace("T", " "))


def duration(milliseconds: int | None, missing: str = "–") -> str:
    """Milliseconds as somebody would say them: `3 min 07 s`."""
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


def size(count: int | None, missing: str = "–") -> str:
    """Bytes in the unit somebody would choose."""
    if count is None:
        return missing
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1_000 and len(units) > 1:
        value, units = value / 1_000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def path_part(value: str) -> str:
    """An id as one part of a path: whatever is in it cannot leave the part."""
    return quote(value, safe="")


def query(values: Mapping[str, Any]) -> str:
    """What goes behind the `?`; None and empty values are left out, tuples are repeated."""
    return urlencode({name: value for name, value in values.items() if value not in (None, "", ())}, doseq=True)
