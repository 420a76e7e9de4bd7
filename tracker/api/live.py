"""The live stream: `GET /v1/live`, server-sent events, one per timeline entry in log order, from the views.

    views ──one poll for all──► the hub keeps the last entries, encoded ──► each client takes what it has not had
      └───── pages ───────────────────────────────► clients that resume from farther back, a few at a time

The id of an event is that of its entry, `{position}-{n}`: positions never change, so a stream resumes after any of them,
over a restart, a rebuild, or on another server with the same log. Nobody waits for a client: ingest and projector know
of none, the hub waits for none, and a client that does not take what it is sent is cut off and may resume.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import re
import socket
from collections.abc import Mapping, Sequence
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
from tracker.domain.rows import EntryRow
from tracker.views.contract import ViewsReader

POLL_S = 0.15
HEARTBEAT_S = 15.0
SLOW_S = 10.0
"""A client that takes none of what it is sent for so long is cut off."""

MAX_BUFFERED_EVENTS = 10_000
MAX_BUFFERED_BYTES = 16 * 1024 * 1024
"""What the hub keeps at most for clients that follow it; one that falls farther behind reads from the views."""

PAGE_ENTRIES = 500
MAX_CATCHING_UP = 4
"""So many clients read older entries from the views at a time; the others wait for their turn."""

WRITE_BYTES = 64 * 1024
SOCKET_BYTES = 128 * 1024
"""What the kernel holds for one client: memory of 1,000 clients stays bounded there too."""

AFTER_ALL = 2**62
"""Greater than the `n` of any entry: `(position, END)` is after everything of that position."""

_log = structlog.get_logger("live")

EventKey = tuple[int, int]


class LiveEvent(NamedTuple):
    """One entry as it goes over the wire, and what filters look at."""

    key: EventKey
    source: str
    kind: str
    session_id: str | None
    wire: bytes


class LiveFilter(msgspec.Struct):
    """What one client gets. `session` is the id it has now, `asked_id` what it was asked by; None: all."""

    reader: Reader
    sources: tuple[str, ...] | None
    kinds: frozenset[str]
    session: str | None
    requested_id: str | None
    other_sessions: set[str] = msgspec.field(default_factory=set[str])
    """Session ids known not to be meant."""

    def accepts(self, event: LiveEvent) -> bool:
        """Whether the client gets this entry."""
        return (
            (self.sources is None or event.source in self.sources)
            and (not self.kinds or event.kind in self.kinds)
            and (self.session is None or event.session_id == self.session)
        )

    def session_may_have_moved(self, events: Sequence[LiveEvent]) -> bool:
        """Whether the session may be one of these under another id: only ids made of a room and a time are replaced."""
        if self.session is None or not _PROVISIONAL.fullmatch(self.session):
            return False
        source = self.session.partition(":")[0]
        new = {frame.session_id for frame in events if frame.source == source and frame.session_id is not None}
        new -= {self.session, *self.other_sessions}
        if len(self.other_sessions) < MAX_BUFFERED_EVENTS:
            self.other_sessions |= new
        return bool(new)


_PROVISIONAL = re.compile(r".+_[0-9]{1,15}")


class LiveStream:
    """The hub: `run` follows the views, `stream` answers one client, `stop` ends all of them at once."""

    def __init__(
        self,
        views: ViewsReader,
        *,
        poll_s: float = POLL_S,
        heartbeat_s: float = HEARTBEAT_S,
        slow_s: float = SLOW_S,
        max_buffered: int = MAX_BUFFERED_EVENTS,
    ) -> None:
        self._views = views
        self._poll_s = poll_s
        self._heartbeat_s = heartbeat_s
        self._slow_s = slow_s
        self._max_buffered = max_buffered
        self._events: list[LiveEvent] = []
        self._bytes = 0
        self._dropped = 0
        """How many frames were let go of: the number of `_frames[0]`."""
        self._floor: EventKey | None = None
        """Everything after this key, and up to the last frame, is in `_frames`. None: nothing was read yet."""
        self._last: EventKey = (0, 0)
        self._news = asyncio.Event()
        self._stopping = False
        self._clients: set[_Client] = set()
        self._turns = asyncio.Semaphore(MAX_CATCHING_UP)

    @property
    def clients(self) -> int:
        """How many follow now."""
        return len(self._clients)

    async def run(self) -> None:
        """Follow the views for ever; while they cannot be read, wait for them."""
        said = False
        while True:
            try:
                await self._follow()
                said = False
            except ViewsError as error:
                if not said:
                    _log.warning("live stream waits for the views", error=type(error).__name__)
                said = True
            except Exception as error:
                # A mistake here must not end the service: ingest goes on, and so does this at the next poll.
                _log.error("live stream stumbled", error=type(error).__name__)
            await asyncio.sleep(self._poll_s)

    def stop(self) -> None:
        """End every stream at once; their clients resume elsewhere or later."""
        self._stopping = True
        self._wake()
        for client in self._clients:
            client.disconnect_if_blocked()

    async def stream(
        self, request: web.Request, live_filter: LiveFilter, after: EventKey, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        """Answer one client until it goes, is too slow, or we stop. `after`: the entry it had last.

        Raises `ViewsError` before anything was answered when the views cannot be read; afterwards nothing.
        """
        if self._stopping:
            raise ViewsUnavailable("the server is stopping")
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        # The library's own bound (the kernel's too) comes second: ours is the one that says what happened.
        response = EventSourceResponse(headers=headers, ping_interval=self._heartbeat_s, send_timeout=2 * self._slow_s)
        response.headers["X-Content-Type-Options"] = "nosniff"
        _limit_socket_buffer(request)
        client = _Client(request, response, self._slow_s)
        self._clients.add(client)
        try:
            with contextlib.suppress(ConnectionError):
                await response.prepare(request)
                # Bytes at once: proxies and browsers call a stream open when the first have come.
                await client.write(b"retry: 1000\n\n")
                await self._feed(client, live_filter, after)
        except TimeoutError:
            _log.info("live client cut off: it did not take what it was sent", seconds=self._slow_s)
        except ViewsError as error:
            _log.warning("live client cut off: the views cannot be read", error=type(error).__name__)
        finally:
            self._clients.discard(client)
            if response.prepared:
                response.stop_streaming()
        return response

    async def _follow(self) -> None:
        """Take what came since the last time; where nobody listens, only note where the present is."""
        if self._floor is None or not self._clients:
            self._restart_after((await self._views.projected_position(), AFTER_ALL))
            return
        while rows := await self._views.entries_after(*self._last, limit=PAGE_ENTRIES):
            frames = [encode_event(row) for row in rows]
            self._events += frames
            self._bytes += sum(len(frame.wire) for frame in frames)
            self._last = frames[-1].key
            self._trim()
            self._wake()
            if len(rows) < PAGE_ENTRIES:
                return

    def _restart_after(self, floor: EventKey) -> None:
        """Begin anew after `floor`. Views being made again are behind where we were: never go back."""
        self._dropped += len(self._events)
        self._events.clear()
        self._bytes = 0
        self._floor = self._last = max(floor, self._last)

    def _trim(self) -> None:
        surplus = max(0, len(self._events) - self._max_buffered)
        left = self._bytes - sum(len(frame.wire) for frame in self._events[:surplus])
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
        while not self._stopping and client.is_connected:
            if number < self._dropped:
                # New, or fallen behind what the hub keeps: from the views until the hub has what follows.
                after = await self._catch_up(client, live_filter, after)
                number = self._dropped + bisect.bisect_right(self._events, after, key=_key)
            news = self._news
            frames = self._events[number - self._dropped :]
            number += len(frames)
            # What a client had before the hub read it.
            frames = frames[bisect.bisect_right(frames, after, key=_key) :]
            if frames:
                after = frames[-1].key
                await self._send(client, live_filter, frames)
                continue
            with contextlib.suppress(TimeoutError):
                # Now and then even without news: a client that went is noticed by its heartbeat.
                async with asyncio.timeout(self._heartbeat_s):
                    await news.wait()

    async def _catch_up(self, client: _Client, live_filter: LiveFilter, after: EventKey) -> EventKey:
        """Send what the hub does not hold; the last key before what it does."""
        while not self._stopping and client.is_connected:
            floor = self._floor
            if floor is not None and after >= floor:
                break
            async with self._turns:
                rows = await self._views.entries_after(*after, limit=PAGE_ENTRIES)
            if rows:
                frames = [encode_event(row) for row in rows]
                after = frames[-1].key
                await self._send(client, live_filter, frames)
            elif floor is not None and (await self._views.projected_position(), AFTER_ALL) >= floor:
                after = floor
            else:
                # The hub has not begun, or views are being made again and are not yet where we were.
                await asyncio.sleep(self._poll_s)
        return after

    async def _send(self, client: _Client, live_filter: LiveFilter, events: Sequence[LiveEvent]) -> None:
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
        waiting = bytearray()
        for frame in events:
            if live_filter.accepts(frame):
                waiting += frame.wire
                if len(waiting) >= WRITE_BYTES:
                    await client.write(bytes(waiting))
                    waiting.clear()
        if waiting:
            await client.write(bytes(waiting))


class _Client:
    """One connection that is written to."""

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
        """Raises `TimeoutError` (the connection is cut then) and `ConnectionError`."""
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
        """Close without waiting: what lies in buffers for a client that does not read would never go."""
        if self._request.transport is not None:
            self._request.transport.abort()

    def disconnect_if_blocked(self) -> None:
        if self._writing:
            self.disconnect()


def encode_event(row: EntryRow) -> LiveEvent:
    """An entry as one server-sent event."""
    data = msgspec.json.encode(present_entry(row))
    wire = b"id: %b\nevent: entry\ndata: %b\n\n" % (row.id.encode(), data)
    return LiveEvent((row.position, row.n), row.source, row.kind, row.session_id, wire)


def parse_event_id(text: str, name: str) -> EventKey:
    """`{position}-{n}` of the event a client had last. Raises `ParameterInvalid`."""
    found = re.fullmatch(r"([0-9]{1,18})-([0-9]{1,18})", text.strip(), re.ASCII)
    if found is None:
        raise ParameterInvalid(name, "is the id of an event of this stream, such as 42-0; leave it out to begin now")
    return int(found[1]), int(found[2])


async def follow_live(asked: ApiRequest) -> StreamAnswer:
    """`GET /v1/live`."""
    live, query = asked.context.live, asked.query
    if live is None:
        raise ViewsUnavailable("nothing follows the views here")
    asked_id: str | None = query["session"]
    session = None
    if asked_id is not None:
        of_session = ApiRequest(context=asked.context, reader=asked.reader, path={"id": asked_id}, query=query)
        session = (await requested_session(of_session)).id
    wanted = LiveFilter(asked.reader, asked.sources, frozenset(query["kind"]), session, asked_id)

    async def stream(request: web.Request, told: Mapping[str, str]) -> web.StreamResponse:
        # The header is newer: a browser that comes back sends it with the address it first came with.
        header = request.headers.get("Last-Event-ID")
        if header:
            after = parse_event_id(header, "Last-Event-ID")
        elif query["last_event_id"] is not None:
            after = parse_event_id(query["last_event_id"], "last_event_id")
        else:
            after = int(told["X-Log-Position"]), AFTER_ALL
        return await live.stream(request, wanted, after, told)

    return StreamAnswer(stream)


def _key(frame: LiveEvent) -> EventKey:
    return frame.key


def _limit_socket_buffer(request: web.Request) -> None:
    found: Any = None if request.transport is None else request.transport.get_extra_info("socket")
    if found is not None:
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)


_PARAMETERS = (
    text("session", "Only entries of this session, by our id or any id its vendor has for it."),
    SOURCE,
    KIND,
    text("last_event_id", "Begin after this event, as the header Last-Event-ID does (which wins). Without: now."),
)
_ABOUT = (
    "Live: server-sent events, one per timeline entry in log order. `id` is the entry's, `event` is `entry`, `data` the "
    "entry. `Last-Event-ID` resumes without a gap. A comment every 15 s says that the stream is alive; a client that "
    "takes nothing for 10 s is cut off and may resume."
)

ROUTES = (
    Route(path="/v1/live", name="followEntries", description=_ABOUT, scope="read:sessions", parameters=_PARAMETERS,
          answer=Entry, handler=follow_live, choices=Page[Session], can_be_missing=True, is_stream=True),
)  # fmt: skip
