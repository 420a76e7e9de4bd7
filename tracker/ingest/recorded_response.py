"""The HTTP answer to a recorded delivery, written to the connection in one piece.

Nearly every answer is this one. `web.Response` builds the same headers from objects each time, which costs 15 µs per
delivery. All other answers, and answers to HTTP/1.0 clients, are ordinary `web.Response` objects.
"""

from __future__ import annotations

import functools
from email.utils import formatdate

from aiohttp import web

from tracker.domain.deliveries import Appended
from tracker.domain.facts import Micros

_TEMPLATE = (
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nDate: %s\r\nServer: tracker\r\n%s\r\n%s"
)
_CLOSE_HEADER = "Connection: close\r\n"


class RecordedResponse(web.StreamResponse):
    """200 `{"position": n, "duplicate": false}`. `now` is the time for the `Date` header (µs since the epoch)."""

    def __init__(self, appended: Appended, now: Micros) -> None:
        super().__init__()
        duplicate = "true" if appended.duplicate else "false"
        self._body_text = f'{{"position":{appended.position},"duplicate":{duplicate}}}'
        self._date = _date(now // 1_000_000)
        self._must_close = False

    @property
    def keep_alive(self) -> bool:
        """Whether the connection stays open for another request."""
        return not self._must_close

    def force_close(self) -> None:
        self._must_close = True

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write the whole response. Raises `ConnectionResetError` when the connection is gone."""
        if not request.keep_alive:
            self._must_close = True
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the sender closed the connection before it was answered")
        close_header = _CLOSE_HEADER if self._must_close else ""
        transport.write((_TEMPLATE % (len(self._body_text), self._date, close_header, self._body_text)).encode())

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: `prepare` wrote everything."""


@functools.lru_cache(maxsize=4)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
