"""Without read keys only this machine is served, and `Host` has to name it: a web page elsewhere could name us otherwise.

A page of another site may point its own name at 127.0.0.1 (DNS rebinding), and the browser then takes this server for that
site. Hooks are not checked: their senders prove themselves, and a tunnel for a first try passes its own name on.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable

from aiohttp import web

from tracker.api.problems import problem_response

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::\d{1,5})?", re.IGNORECASE | re.ASCII)


def is_local(host: str) -> bool:
    """Whether a `Host` names this machine: localhost, 127.0.0.0/8 or ::1, with any port."""
    found = _HOST.fullmatch(host.strip())
    if found is None:
        return False
    name = found[1].strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@web.middleware
async def expect_local_host(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 421 where `Host` names another machine. A request without one comes from no browser."""
    if request.path.startswith("/hooks/") or all(map(is_local, request.headers.getall("Host", ()))):
        return await handler(request)
    detail = (
        "without read keys this server answers only as localhost or 127.0.0.1: open it under such an address, "
        "or configure [access] keys"
    )
    return problem_response(421, "host-not-local", "Not the name of this server", detail)
