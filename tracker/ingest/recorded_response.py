"""The answer to a delivery that is in the log, written in one piece: nearly all answers are this one.

aiohttp builds an answer from objects (headers, their order, their encoding) that say the same each time: 15 µs of what a delivery
costs. Everything else is answered by a `web.Response` as usual, and so is who speaks HTTP/1.0.
"""

from __future__ import annotations

import functools
from email.utils import formatdate

from aiohttp import web
from aiohttp.http import SERVER_SOFTWARE

from tracker.domain.deliveries import Appended
from tracker.domain.facts import Micros

_HEAD = (
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nDate: %s\r\n"
    f"Server: {SERVER_SOFTWARE}\r\n%s\r\n%s"
)
_CLOSES = "Connection: close\r\n"


class RecordedResponse(web.StreamResponse):
    """200 `{"position": n, "duplicate": false}`; `moment` is our clock (µs)."""

    def __init__(self, appended: Appended, moment: Micros) -> None:
        super().__init__()
        self._text = '{"position":%d,"duplicate":%s}' % (appended.position, "true" if appended.duplicate else "false")  # noqa: UP031 - the faster one
        self._date = _date(moment // 1_000_000)
        self._closes = False

    @property
    def keep_alive(self) -> bool:
        """Whether the connection stays for another request."""
        return not self._closes

    def force_close(self) -> None:
        """See `web.StreamResponse.force_close`."""
        self._closes = True

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write all of it. Raises `ConnectionResetError` when there is nobody left to write to."""
        if not request.keep_alive:
            self._closes = True
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the sender went away before its answer")
        closes = _CLOSES if self._closes else ""
        transport.write((_HEAD % (len(self._text), self._date, closes, self._text)).encode())

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


@functools.lru_cache(maxsize=4)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
