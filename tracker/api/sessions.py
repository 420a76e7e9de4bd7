"""Sessions, and everything in one session. A session is found by Tracker's id (also an outdated one) or the vendor's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tracker.views.answers import Connection, Entry, Page, Participant, Recording, Session, Stream
from tracker.api.route import ApiRequest, Route, MultipleChoices
from tracker.api.parameters import PAGING, SOURCE, choice, choices, timestamp, text, integer
from tracker.errors import NotFound
from tracker.domain.facts import KINDS
from tracker.domain.rows import SessionRow
from tracker.views.contract import SessionFilter
from tracker.views.presenters import session_part

KIND = choices("kind", "Only these timeline kinds.", KINDS)
FILTERS = (
    SOURCE,
    text("room", "Only sessions of this room, by its id or name."),
    text("identity", "Only sessions this person was in, by identity or name."),
    choice("state", "`open`, `ended`, or `stuck`: open, without an event for longer than the source's `stuck_after`.",
           ("open", "ended", "stuck")),
    timestamp("from", "Only sessions that started at this time or later."),
    timestamp("to", "Only sessions that started before this time."),
    choices("has", "Only sessions with all of these.", ("recording", "supervisor", "anomaly")),
    text("parent_id", "Only the breakout rooms of this session."),
    integer("min_duration_ms", "Only sessions that lasted at least this long, in milliseconds."),
    text("q", "Only sessions with this text in an id, a room, an identity or a name, in any case."),
)  # fmt: skip


async def find_sessions(request: ApiRequest) -> Page[Session]:
    """`GET /v1/sessions`: newest first."""
    query, context = request.query, request.context
    stuck_before: dict[str, int] = {}
    if query["state"] == "stuck":
        stuck_before = {row.source: context.stuck_before(row.source) for row in await context.views.sources()}
    session_filter = SessionFilter(
        source=query["source"],
        sources=request.reader.sources,
        room=query["room"],
        identity=query["identity"],
        state=query["state"],
        from_at=query["from"],
        to_at=query["to"],
        has=query["has"],
        parent_id=query["parent_id"],
        min_duration_ms=query["min_duration_ms"],
        q=query["q"],
        stuck_before=stuck_before,
    )
    rows, after = await context.views.find_sessions(session_filter, **request.paging)
    return Page([context.present_session(row) for row in rows], after)


async def find_session(request: ApiRequest) -> Session:
    """`GET /v1/sessions/{id}`."""
    return request.context.present_session(await requested_session(request))


def _finder(name: str) -> Callable[[ApiRequest], Awaitable[Page[Any]]]:
    """The handler of `GET /v1/sessions/{id}/<name>`."""

    async def find_part(request: ApiRequest) -> Page[Any]:
        session = await requested_session(request)
        return Page(*await session_part(request.context.views, name, session.id, **request.paging))

    return find_part


async def find_timeline(request: ApiRequest) -> Page[Any]:
    """`GET /v1/sessions/{id}/timeline`: by time."""
    session, query = await requested_session(request), request.query
    filters = {"kinds": query["kind"], "subject": query["subject"]}
    return Page(*await session_part(request.context.views, "timeline", session.id, **request.paging, **filters))


async def requested_session(request: ApiRequest) -> SessionRow:
    """The session in the path. Raises `NotFound`, or `MultipleChoices` with the list."""
    return await session_by_id(request, request.path["id"])


async def session_by_id(request: ApiRequest, any_id: str) -> SessionRow:
    """The session with this id, Tracker's or the vendor's. Raises `NotFound`, or `MultipleChoices` with the list."""
    found = await request.context.views.lookup(any_id, request.reader.sources)
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotFound(f"no session has the id {any_id[:200]!r}; GET /v1/sessions?q= searches parts of ids and names")
    page: Page[Session] = Page([request.context.present_session(row) for row in found], None)
    message = f"{len(found)} sessions have the id {any_id[:200]!r}: ask for one of them by its own id"
    raise MultipleChoices(message, tuple(row.id for row in found), page)


_ONE = "{id} is Tracker's id of the session, or any id the vendor has for it or its parts."
_TIMELINE = (KIND, text("subject", "Only entries about the subject with this vendor id."), *PAGING)

ROUTES = (
    Route(path="/v1/sessions", name="findSessions", description="Sessions, newest first.", scope="read:sessions",
          parameters=(*FILTERS, *PAGING), answer=Page[Session], handler=find_sessions),
    Route(path="/v1/sessions/{id}", name="findSession", description=f"One session. {_ONE}", scope="read:sessions",
          parameters=(), answer=Session, handler=find_session, choices=Page[Session], can_be_missing=True),
    Route(path="/v1/sessions/{id}/timeline", name="findTimeline", description=f"The timeline: what happened, by time. {_ONE}",
          scope="read:sessions", parameters=_TIMELINE, answer=Page[Entry], handler=find_timeline,
          choices=Page[Session], can_be_missing=True),
    Route(path="/v1/sessions/{id}/participants", name="findSessionParticipants", description=f"The participants. {_ONE}",
          scope="read:sessions", parameters=PAGING, answer=Page[Participant], handler=_finder("participants"),
          choices=Page[Session], can_be_missing=True),
    Route(path="/v1/sessions/{id}/connections", name="findConnections", description=f"Connections: every join and its end. {_ONE}",
          scope="read:sessions", parameters=PAGING, answer=Page[Connection], handler=_finder("connections"),
          choices=Page[Session], can_be_missing=True),
    Route(path="/v1/sessions/{id}/streams", name="findStreams", description=f"Streams: media published and received. {_ONE}",
          scope="read:sessions", parameters=PAGING, answer=Page[Stream], handler=_finder("streams"),
          choices=Page[Session], can_be_missing=True),
    Route(path="/v1/sessions/{id}/recordings", name="findSessionRecordings", description=f"The recordings. {_ONE}",
          scope="read:sessions", parameters=PAGING, answer=Page[Recording], handler=_finder("recordings"),
          choices=Page[Session], can_be_missing=True),
)  # fmt: skip
