"""The live stream: `GET /v1/live`, server-sent events, one per timeline entry in log order, read from the views.

    views ──one look for all──► hub: buffer of the last entries, encoded ──► clients that are up to date
      └───── pages ────────────────────────────────────────────────────────► clients that resume from farther back

The id of an event is that of its entry, `{position}-{n}`. Positions never change, so a client can resume after any event:
after a restart, a rebuild, or on another server with the same log. No client slows anything down: ingest and the projector
do not know of clients, and the hub waits for none. A client that does not read is disconnected and may resume.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import math
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import structlog
from aiohttp import web
from aiohttp_sse import EventSourceResponse

from tracker.api.auth import Reader
from tracker.views.answers import Entry, Page, Session
from tracker.api.route import ApiRequest, Route, StreamAnswer
from tracker.api.parameters import SOURCE, text
from tracker.views.presenters import present_entry
from tracker.api.sessions import KIND, requested_session
from tracker.errors import ParameterInvalid, ViewsError, ViewsUnavailable
from tracker.domain.polling import IDLE_LOOK_SECONDS, LOOK_SECONDS
from tracker.domain.rows import EntryRow
from tracker.views.contract import ViewsReader

HEARTBEAT_S = 15.0
SLOW_S = 10.0
"""A client that reads nothing for this long is disconnected."""

MAX_BUFFERED_EVENTS = 10_000
MAX_BUFFERED_BYTES = 16 * 1024 * 1024
"""Limits of the hub's buffer. A client that falls farther behind is served from the views."""

PAGE_ENTRIES = 500
MAX_CATCHING_UP = 4
"""Clients that read older entries from the views at the same time. Others wait."""

WRITE_BYTES = 64 * 1024
SOCKET_BYTES = 128 * 1024
"""Send buffer of one client's socket, so that 1,000 clients use bounded kernel memory."""

AFTER_ALL = 2**62
"""Greater than `n` of any entry: `(position, AFTER_ALL)` is after every entry of that position."""

_log = structlog.get_logger("live")

EventKey = tuple[int, int]


class LiveEvent(NamedTuple):
    """One encoded entry, and the fields that filters need."""

    key: EventKey
    source: str
    kind: str
    session_id: str | None
    wire: bytes


class LiveFilter(msgspec.Struct):
    """Which entries one client gets. `session`: the session's current id; `requested_id`: the id in the request. None: all."""

    reader: Reader
    sources: tuple[str, ...] | None
    kinds: frozenset[str]
    session: str | None
    requested_id: str | None
    other_sessions: set[str] = msgspec.field(default_factory=set[str])
    """Ids of sessions known to be different ones."""

    def accepts(self, event: LiveEvent) -> bool:
        """Whether the client gets this event."""
        return (
            (self.sources is None or event.source in self.sources)
            and (not self.kinds or event.kind in self.kinds)
            and (self.session is None or event.session_id == self.session)
        )

    def session_may_have_moved(self, events: Sequence[LiveEvent]) -> bool:
        """Whether the session may have got a new id in these events. Only ids made of a room and a time can change."""
        if self.session is None or not _PROVISIONAL.fullmatch(self.session):
            return False
        source = self.session.partition(":")[0]
        new = {event.session_id for event in events if event.source == source and event.session_id is not None}
        new -= {self.session, *self.other_sessions}
        if len(self.other_sessions) < MAX_BUFFERED_EVENTS:
            self.other_sessions |= new
        return bool(new)


_PROVISIONAL = re.compile(r".+_[0-9]{1,15}")


class LiveStream:
    """The hub. `run` follows the views, `stream` serves one client, `stop` ends all streams."""

    def __init__(
        self,
        views: ViewsReader,
        *,
        heartbeat_s: float = HEARTBEAT_S,
        slow_s: float = SLOW_S,
        max_buffered: int = MAX_BUFFERED_EVENTS,
        seconds_left: Callable[[Reader], float] = lambda _: math.inf,
    ) -> None:
        """`seconds_left`: how long a reader may go on reading."""
        self._views = views
        self._generation: object = None
        """Which views the buffer is from."""
        self._seconds_left = seconds_left
        self._heartbeat_s = heartbeat_s
        self._slow_s = slow_s
        self._max_buffered = max_buffered
        self._events: list[LiveEvent] = []
        self._bytes = 0
        self._dropped = 0
        """Events dropped from the buffer so far: the number of `_events[0]`."""
        self._floor: EventKey | None = None
        """`_events` holds every event after this key. None: nothing was read yet."""
        self._last: EventKey = (0, 0)
        self._news = asyncio.Event()
        self._stopping = False
        self._clients: set[_Client] = set()
        self._turns = asyncio.Semaphore(MAX_CATCHING_UP)

    @property
    def clients(self) -> int:
        """Number of connected clients."""
        return len(self._clients)

    async def run(self) -> None:
        """Follow the views, forever. While they cannot be read, wait for them."""
        is_reported, followed = False, object()
        while True:
            pause = IDLE_LOOK_SECONDS
            try:
                look = await self._views.look()
                if look.version != followed:
                    await self._follow(look.position)
                    followed = look.version
                is_reported, pause = False, look.pause
            except ViewsError as error:
                if not is_reported:
                    _log.warning("live stream waits for the views", error=type(error).__name__)
                is_reported = True
            except Exception as error:
                # A bug here must not stop the server: log it and continue with the next look.
                _log.error("live stream failed, continuing", error=type(error).__name__)
            await asyncio.sleep(pause)

    def stop(self) -> None:
        """End every stream at once. Clients resume later or at another server."""
        self._stopping = True
        self._wake()
        for client in self._clients:
            client.disconnect_if_blocked()

    def end_streams_without_access(self) -> None:
        """End the streams of readers who may not go on reading: somebody signed out."""
        self._wake()

    async def stream(
        self, request: web.Request, live_filter: LiveFilter, after: EventKey, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        """Serve one client until it disconnects, is too slow, may not go on reading, or the server stops.

        `after`: the last entry it has.

        Raises `ViewsUnavailable` if the server is stopping. Once the stream has started, nothing is raised.
        """
        if self._stopping:
            raise ViewsUnavailable("the server is stopping")
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        # The library's own timeout is longer than ours, which logs what happened.
        response = EventSourceResponse(headers=headers, ping_interval=self._heartbeat_s, send_timeout=2 * self._slow_s)
        response.headers["X-Content-Type-Options"] = "nosniff"
        _limit_socket_buffer(request)
        client = _Client(request, response, self._slow_s)
        self._clients.add(client)
        try:
            with contextlib.suppress(ConnectionError):
                await response.prepare(request)
                # Send something at once: proxies and browsers consider a stream open when the first bytes arrive.
                await client.write(b"retry: 1000\n\n")
                await self._feed(client, live_filter, after)
                if not self._may_read(live_filter):
                    await client.write(b": ended: the token expired or the session was signed out\n\n")
        except TimeoutError:
            _log.info("live client disconnected: it did not read", seconds=self._slow_s)
        except ViewsError as error:
            _log.warning("live client disconnected: the views cannot be read", error=type(error).__name__)
        finally:
            self._clients.discard(client)
            if response.prepared:
                response.stop_streaming()
        return response

    async def _follow(self, position: int) -> None:
        """Read what is new. Without clients, only remember the current `position`."""
        self._drop_replaced()
        if self._floor is None or not self._clients:
            self._restart_after((position, AFTER_ALL))
            return
        while rows := await self._views.entries_after(*self._last, limit=PAGE_ENTRIES):
            if self._drop_replaced():
                # The rows may be from the views before.
                return
            events = [encode_event(row) for row in rows]
            self._events += events
            self._bytes += sum(len(event.wire) for event in events)
            self._last = events[-1].key
            self._trim()
            self._wake()
            if len(rows) < PAGE_ENTRIES:
                return

    def _restart_after(self, floor: EventKey) -> None:
        """Empty the buffer and continue after `floor`. Never go back: views that are being rebuilt are behind."""
        self._dropped += len(self._events)
        self._events.clear()
        self._bytes = 0
        self._floor = self._last = max(floor, self._last)

    def _drop_replaced(self) -> bool:
        """Empty the buffer if other views were swapped in: they may show less, because somebody was erased."""
        generation = self._views.generation()
        if generation == self._generation:
            return False
        self._generation = generation
        if self._floor is not None:
            self._restart_after(self._last)
        return True

    def _may_read(self, live_filter: LiveFilter) -> bool:
        return self._seconds_left(live_filter.reader) > 0

    def _trim(self) -> None:
        surplus = max(0, len(self._events) - self._max_buffered)
        left = self._bytes - sum(len(event.wire) for event in self._events[:surplus])
        while left > MAX_BUFFERED_BYTES and surplus < len(self._events) - 1:
            left -= len(self._events[surplus].wire)
            surplus += 1
        if surplus:
            self._floor = self._events[surplus - 1].key
            del self._events[:surplus]
            self._dropped += surplus
            self._bytes = left

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _feed(self, client: _Client, live_filter: LiveFilter, after: EventKey) -> None:
        number = -1
        while not self._stopping and client.is_connected and self._may_read(live_filter):
            self._drop_replaced()
            if number < self._dropped:
                # New, or behind the buffer: read from the views until the buffer has what follows.
                after = await self._catch_up(client, live_filter, after)
                number = self._dropped + bisect.bisect_right(self._events, after, key=_key)
            news = self._news
            events = self._events[number - self._dropped :]
            number += len(events)
            # Skip what the client already has.
            events = events[bisect.bisect_right(events, after, key=_key) :]
            if events:
                after, is_whole = await self._send(client, live_filter, events, after)
                number = number if is_whole else -1
                continue
            with contextlib.suppress(TimeoutError):
                # Wake up without news, too: the heartbeat detects clients that are gone, and a token expires.
                async with asyncio.timeout(min(self._heartbeat_s, self._seconds_left(live_filter.reader))):
                    await news.wait()

    async def _catch_up(self, client: _Client, live_filter: LiveFilter, after: EventKey) -> EventKey:
        """Send what is no longer in the buffer. Returns the last key sent."""
        while not self._stopping and client.is_connected and self._may_read(live_filter):
            floor, generation = self._floor, self._views.generation()
            if floor is not None and after >= floor:
                break
            async with self._turns:
                rows = await self._views.entries_after(*after, limit=PAGE_ENTRIES)
            if self._views.generation() != generation:
                continue
            if rows:
                after, _ = await self._send(client, live_filter, [encode_event(row) for row in rows], after)
            elif floor is not None and (await self._views.projected_position(), AFTER_ALL) >= floor:
                after = floor
            else:
                # The hub has not started, or the views are being rebuilt and are behind.
                await asyncio.sleep(LOOK_SECONDS)
        return after

    async def _send(
        self, client: _Client, live_filter: LiveFilter, events: Sequence[LiveEvent], after: EventKey
    ) -> tuple[EventKey, bool]:
        """Send events that follow `after`. Returns the last key sent, and whether that is all.

        A client may take long to read. If other views are swapped in meanwhile, or it may not go on, the rest is not sent.
        """
        generation = self._views.generation()
        if (
            live_filter.session_may_have_moved(events)
            and live_filter.session is not None
            and live_filter.requested_id is not None
        ):
            with contextlib.suppress(ViewsError):
                if await self._views.session(live_filter.session) is None:
                    found = await self._views.lookup(live_filter.requested_id, live_filter.reader.sources)
                    live_filter.session = found[0].id if len(found) == 1 else live_filter.session
                    live_filter.other_sessions.discard(live_filter.session)
        pending = bytearray()
        for event in events:
            if live_filter.accepts(event):
                pending += event.wire
            if len(pending) >= WRITE_BYTES or (pending and event is events[-1]):
                if self._views.generation() != generation or not self._may_read(live_filter):
                    return after, False
                await client.write(bytes(pending))
                pending.clear()
                after = event.key
        return events[-1].key, True


class _Client:
    """One connected client."""

    def __init__(self, request: web.Request, response: EventSourceResponse, slow_s: float) -> None:
        self._request = request
        self._response = response
        self._slow_s = slow_s
        self._writing = False

    @property
    def is_connected(self) -> bool:
        transport = self._request.transport
        return transport is not None and not transport.is_closing() and self._response.is_connected()

    async def write(self, wire: bytes) -> None:
        """Send bytes. Raises `TimeoutError` (after closing the connection) and `ConnectionError`."""
        self._writing = True
        try:
            async with asyncio.timeout(self._slow_s):
                await self._response.write(wire)
        except TimeoutError:
            self.disconnect()
            raise
        finally:
            self._writing = False

    def disconnect(self) -> None:
        """Close without flushing: a client that does not read would keep the buffers forever."""
        if self._request.transport is not None:
            self._request.transport.abort()

    def disconnect_if_blocked(self) -> None:
        if self._writing:
            self.disconnect()


def encode_event(row: EntryRow) -> LiveEvent:
    """Encode an entry as one server-sent event."""
    data = msgspec.json.encode(present_entry(row))
    wire = b"id: %b\nevent: entry\ndata: %b\n\n" % (row.id.encode(), data)
    return LiveEvent((row.position, row.n), row.source, row.kind, row.session_id, wire)


def parse_event_id(text: str, name: str) -> EventKey:
    """Parse `{position}-{n}`, the id of the last event a client has. Raises `ParameterInvalid`."""
    found = re.fullmatch(r"([0-9]{1,18})-([0-9]{1,18})", text.strip(), re.ASCII)
    if found is None:
        raise ParameterInvalid(
            name, "must be the id of an event of this stream, such as 42-0; leave it out to start now"
        )
    return int(found[1]), int(found[2])


async def follow_live(request: ApiRequest) -> StreamAnswer:
    """`GET /v1/live`."""
    live, query = request.context.live, request.query
    if live is None:
        raise ViewsUnavailable("this server has no live stream")
    requested_id: str | None = query["session"]
    session = None
    if requested_id is not None:
        session_request = ApiRequest(
            context=request.context, reader=request.reader, path={"id": requested_id}, query=query
        )
        session = (await requested_session(session_request)).id
    live_filter = LiveFilter(request.reader, request.sources, frozenset(query["kind"]), session, requested_id)

    async def stream(http_request: web.Request, headers: Mapping[str, str]) -> web.StreamResponse:
        # The header is newer: a reconnecting browser sends it with the URL it first opened.
        header = http_request.headers.get("Last-Event-ID")
        if header:
            after = parse_event_id(header, "Last-Event-ID")
        elif query["last_event_id"] is not None:
            after = parse_event_id(query["last_event_id"], "last_event_id")
        else:
            after = int(headers["X-Log-Position"]), AFTER_ALL
        return await live.stream(http_request, live_filter, after, headers)

    return StreamAnswer(stream)


def _key(event: LiveEvent) -> EventKey:
    return event.key


def _limit_socket_buffer(request: web.Request) -> None:
    sock: Any = None if request.transport is None else request.transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)


_PARAMETERS = (
    text("session", "Only entries of this session, by Tracker's id or any id of the vendor."),
    SOURCE,
    KIND,
    text(
        "last_event_id",
        "Start after this event. The header Last-Event-ID does the same and takes precedence. Default: start now.",
    ),
)
_DESCRIPTION = (
    "Live: server-sent events, one per timeline entry in log order. `id` is the entry's id, `event` is `entry`, `data` is "
    "the entry. `Last-Event-ID` resumes without a gap. A comment every 15 s keeps the stream alive. A client that reads "
    "nothing for 10 s is disconnected and may resume. The stream ends, after a comment, when the token expires or its session "
    "is signed out."
)

ROUTES = (
    Route(path="/v1/live", name="followEntries", description=_DESCRIPTION, scope="read:sessions", parameters=_PARAMETERS,
          answer=Entry, handler=follow_live, choices=Page[Session], can_be_missing=True, is_stream=True),
)  # fmt: skip
