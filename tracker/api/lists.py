"""Lists across sessions: rooms, people, recordings, supervisor sessions; and statistics."""

from __future__ import annotations

from tracker.views.answers import Appearance, DayStats, Page, Peak, Recording, Room, RoomSummary, Session, SourceStats, Stats, SupervisorSession, time_of  # fmt: skip
from tracker.api.route import ApiRequest, Route, MultipleChoices
from tracker.api.parameters import MAX_INTEGER, PAGING, SOURCE, timestamp, text
from tracker.api.sessions import session_by_id
from tracker.errors import NotFound
from tracker.views.presenters import present, present_recording, present_supervisor_session


async def find_rooms(request: ApiRequest) -> Page[RoomSummary]:
    """`GET /v1/rooms`: by source and room."""
    rows, after = await request.context.views.find_rooms(source=None, sources=request.sources, **request.paging)
    rooms = [
        present(
            RoomSummary,
            row,
            room=Room(row.room_id, row.room_name),
            first_session_at=time_of(row.first_begins_at),
            last_session_at=time_of(row.last_begins_at),
        )
        for row in rows
    ]
    return Page(rooms, after)


async def find_appearances(request: ApiRequest) -> Page[Appearance]:
    """`GET /v1/participants`: newest first."""
    rows, after = await request.context.views.participants(
        session_id=None, identity=request.query["identity"], sources=request.sources, **request.paging
    )
    return Page([present(Appearance, row) for row in rows], after)


async def find_recordings(request: ApiRequest) -> Page[Recording]:
    """`GET /v1/recordings`: newest first."""
    rows, after = await request.context.views.recordings(
        session_id=None, status=request.query["status"], sources=request.sources, **request.paging
    )
    return Page([present_recording(row) for row in rows], after)


async def find_supervisor_sessions(request: ApiRequest) -> Page[SupervisorSession]:
    """`GET /v1/supervisor-sessions`: newest first."""
    session = None if request.query["session"] is None else await session_by_id(request, request.query["session"])
    rows, after = await request.context.views.supervisor_sessions(
        session_id=None if session is None else session.id,
        client=request.query["client"],
        sources=request.sources,
        **request.paging,
    )
    return Page([present_supervisor_session(row) for row in rows], after)


async def find_supervisor_session(request: ApiRequest) -> SupervisorSession:
    """`GET /v1/supervisor-sessions/{id}`: by Tracker's id or the vendor's."""
    any_id = request.path["id"]
    rows = await request.context.views.supervisor_session(any_id)
    # A session's id starts with its source and a colon; names of sources contain no colon.
    found = [present_supervisor_session(row) for row in rows if request.reader.sees(row.session_id.partition(":")[0])]
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotFound(f"no supervisor session has the id {any_id[:200]!r}")
    message = f"{len(found)} supervisor sessions have the id {any_id[:200]!r}: ask for one of them by its own id"
    page: Page[SupervisorSession] = Page(found, None)
    raise MultipleChoices(message, tuple(row.id for row in found), page)


async def find_stats(request: ApiRequest) -> Stats:
    """`GET /v1/stats`: from the views, without reading the log."""
    start, end = request.query["from"], request.query["to"]
    found = await request.context.views.stats(
        from_at=-MAX_INTEGER if start is None else start,
        to_at=MAX_INTEGER if end is None else end,
        sources=request.reader.sources,
    )
    sources = {
        row["source"]: SourceStats(**(row | {"last_received_at": time_of(row["last_received_at"])}))
        for row in found["sources"]
    }
    for name, vendor in request.context.vendors.items():
        # List sources that never sent anything, too: they may need attention.
        if name not in sources and request.reader.sees(name):
            sources[name] = SourceStats(source=name, vendor=vendor, sessions=0, open=0, last_received_at=None)
    return Stats(
        open=found["open"],
        sessions=found["sessions"],
        days=[DayStats(**day) for day in found["days"]],
        peak=Peak(found["peak"]["sessions"], time_of(found["peak"]["at"])),
        sources=[sources[name] for name in sorted(sources)],
    )


_IDENTITY = text("identity", "Only people with this identity or name.")
_STATUS = text("status", "Only recordings with this status.")
_CLIENT = text("client", "Only supervisor sessions of this supervisor or agent, by client id.")
_SESSION = text("session", "Only supervisor sessions of this agent's session, by Tracker's id or any id of the vendor.")
_TIMES = (
    timestamp("from", "Count sessions that started at this time or later. Default: all."),
    timestamp("to", "Count sessions that started before this time. Default: all."),
)

ROUTES = (
    Route(path="/v1/rooms", name="findRooms", description="Rooms and their number of sessions.", scope="read:sessions",
          parameters=(SOURCE, *PAGING), answer=Page[RoomSummary], handler=find_rooms),
    Route(path="/v1/participants", name="findParticipants", description="People across sessions, newest first.",
          scope="read:sessions", parameters=(_IDENTITY, SOURCE, *PAGING), answer=Page[Appearance],
          handler=find_appearances),
    Route(path="/v1/recordings", name="findRecordings", description="Recordings across sessions, newest first.",
          scope="read:sessions", parameters=(_STATUS, SOURCE, *PAGING), answer=Page[Recording], handler=find_recordings),
    Route(path="/v1/supervisor-sessions", name="findSupervisorSessions",
          description="Supervisors listening to agents, newest first.", scope="read:sessions",
          parameters=(_CLIENT, _SESSION, SOURCE, *PAGING), answer=Page[SupervisorSession],
          handler=find_supervisor_sessions, choices=Page[Session], can_be_missing=True),
    Route(path="/v1/supervisor-sessions/{id}", name="findSupervisorSession",
          description="One supervisor session, by Tracker's id or the vendor's.", scope="read:sessions", parameters=(),
          answer=SupervisorSession, handler=find_supervisor_session, choices=Page[SupervisorSession], can_be_missing=True),
    Route(path="/v1/stats", name="findStats", description="Statistics of sessions: open now, per day, peak concurrency, per source.",
          scope="read:sessions", parameters=_TIMES, answer=Stats, handler=find_stats),
)  # fmt: skip
