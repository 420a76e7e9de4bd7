"""One session and everything in it; sessions are found by our id, a vendor's, or an outdated one of ours."""

from __future__ import annotations

from tracker.views.answers import Connection, Entry, Page, Participant, Recording, RecordingStatus, Room, Session, Stream, Subject, Upload, time_of  # fmt: skip
from tracker.api.route import ApiRequest, ApiContext, Route, SeveralFound
from tracker.api.parameters import PAGED, SOURCE, choice, choices, moment, text, whole
from tracker.errors import NotFound
from tracker.domain.facts import KINDS
from tracker.domain.rows import ConnectionRow, EntryRow, ParticipantRow, RecordingRow, SessionRow, StreamRow  # fmt: skip
from tracker.views.contract import SessionFilter

KIND = choices("kind", "Only these timeline kinds.", KINDS)
FILTERS = (
    SOURCE,
    text("room", "Only sessions of this room, by its id or name."),
    text("identity", "Only sessions this person was in, by identity or name."),
    choice("state", "open, ended, or stuck: open and silent for longer than the source's `stuck_after`.",
           ("open", "ended", "stuck")),
    moment("from", "Only sessions that began at this moment or later."),
    moment("to", "Only sessions that began before this moment."),
    choices("has", "Only sessions with all of these.", ("recording", "supervisor", "anomaly")),
    whole("min_duration_ms", "Only sessions that lasted at least this long, in milliseconds."),
    text("q", "Only sessions with this text in an id, a room, an identity or a name."),
)  # fmt: skip


async def find_sessions(asked: ApiRequest) -> Page[Session]:
    """`GET /v1/sessions`: newest first."""
    query, door = asked.query, asked.context
    stuck_before: dict[str, int] = {}
    if query["state"] == "stuck":
        stuck_before = {row.source: door.stuck_before(row.source) for row in await door.views.sources()}
    wanted = SessionFilter(
        source=query["source"],
        sources=asked.reader.sources,
        room=query["room"],
        identity=query["identity"],
        state=query["state"],
        from_at=query["from"],
        to_at=query["to"],
        has=query["has"],
        min_duration_ms=query["min_duration_ms"],
        q=query["q"],
        stuck_before=stuck_before,
    )
    rows, after = await door.views.find_sessions(wanted, **asked.paging)
    return Page([session_of(door, row) for row in rows], after)


async def find_session(asked: ApiRequest) -> Session:
    """`GET /v1/sessions/{id}`."""
    return session_of(asked.context, await the_session(asked))


async def find_timeline(asked: ApiRequest) -> Page[Entry]:
    """`GET /v1/sessions/{id}/timeline`: by time."""
    session = await the_session(asked)
    rows, after = await asked.context.views.timeline(
        session.id, kinds=asked.query["kind"], subject=asked.query["subject"], **asked.paging
    )
    return Page([entry_of(row) for row in rows], after)


async def find_participants(asked: ApiRequest) -> Page[Participant]:
    """`GET /v1/sessions/{id}/participants`: by their first join."""
    session = await the_session(asked)
    rows, after = await asked.context.views.participants(
        session_id=session.id, identity=None, sources=None, **asked.paging
    )
    return Page([participant_of(row) for row in rows], after)


async def find_connections(asked: ApiRequest) -> Page[Connection]:
    """`GET /v1/sessions/{id}/connections`: by their join."""
    session = await the_session(asked)
    rows, after = await asked.context.views.connections(session.id, **asked.paging)
    return Page([connection_of(row) for row in rows], after)


async def find_streams(asked: ApiRequest) -> Page[Stream]:
    """`GET /v1/sessions/{id}/streams`: by their start."""
    session = await the_session(asked)
    rows, after = await asked.context.views.streams(session.id, **asked.paging)
    return Page([stream_of(row) for row in rows], after)


async def find_recordings(asked: ApiRequest) -> Page[Recording]:
    """`GET /v1/sessions/{id}/recordings`: by their start."""
    session = await the_session(asked)
    rows, after = await asked.context.views.recordings(session_id=session.id, status=None, sources=None, **asked.paging)
    return Page([recording_of(row) for row in rows], after)


async def the_session(asked: ApiRequest) -> SessionRow:
    """The one session the path means. Raises `NotFound`, or `SeveralFound` with the list."""
    return await session_called(asked, asked.path["id"])


async def session_called(asked: ApiRequest, any_id: str) -> SessionRow:
    """The one session with this id, ours or its vendor's. Raises `NotFound`, or `SeveralFound` with the list."""
    found = await asked.context.views.lookup(any_id, asked.reader.sources)
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotFound(f"no session has the id {any_id[:200]!r}; GET /v1/sessions?q= searches parts of ids and names")
    page: Page[Session] = Page([session_of(asked.context, row) for row in found], None)
    message = f"{len(found)} sessions have the id {any_id[:200]!r}: ask for one of them by its own id"
    raise SeveralFound(message, tuple(row.id for row in found), page)


def session_of(door: ApiContext, row: SessionRow) -> Session:
    """A session as it is answered; whether it is stuck is decided now."""
    return Session(
        id=row.id,
        source=row.source,
        vendor=row.vendor,
        room=Room(row.room_id, row.room_name),
        vendor_ids=row.vendor_ids,
        state=row.state,
        stuck=row.state == "open" and row.last_event_at <= door.stuck_before(row.source),
        created_at=time_of(row.created_at),
        started_at=time_of(row.started_at),
        ended_at=time_of(row.ended_at),
        duration_ms=row.duration_ms,
        end=row.end,
        participants=row.participants,
        peak_participants=row.peak_participants,
        participant_ms=row.participant_ms,
        recordings=row.recordings,
        supervisors=row.supervisors,
        completeness=row.completeness,
        anomalies=row.anomalies,
        first_position=row.first_position,
        last_position=row.last_position,
        last_event_at=time_of(row.last_event_at),
    )


def entry_of(row: EntryRow) -> Entry:
    """A line of a timeline as it is answered."""
    return Entry(
        id=row.id,
        session_id=row.session_id,
        position=row.position,
        at=time_of(row.at),
        received_at=time_of(row.received_at),
        kind=row.kind,
        subject=Subject(row.subject_type, row.subject_id),
        actor=row.actor,
        detail=row.detail,
        source=row.source,
        provenance=row.provenance,
        clock=row.clock,
    )


def participant_of(row: ParticipantRow) -> Participant:
    """A participant as they are answered."""
    return Participant(
        id=row.id,
        identity=row.identity,
        name=row.name,
        kind=row.kind,
        connections=row.connections,
        first_joined_at=time_of(row.first_joined_at),
        last_left_at=time_of(row.last_left_at),
        presence_ms=row.presence_ms,
    )


def connection_of(row: ConnectionRow) -> Connection:
    """A connection as it is answered."""
    return Connection(
        id=row.id,
        participant=row.participant,
        joined_at=time_of(row.joined_at),
        left_at=time_of(row.left_at),
        duration_ms=row.duration_ms,
        join_provenance=row.join_provenance,
        leave=row.leave,
        aborted=row.aborted,
        platform=row.platform,
        location=row.location,
        ip=row.ip,
    )


def stream_of(row: StreamRow) -> Stream:
    """A stream or a subscription as it is answered."""
    return Stream(
        id=row.id,
        direction=row.direction,
        stream=row.stream,
        participant=row.participant,
        connection=row.connection,
        publisher=row.publisher,
        media=row.media,
        label=row.label,
        started_at=time_of(row.started_at),
        ended_at=time_of(row.ended_at),
        duration_ms=row.duration_ms,
        start_provenance=row.start_provenance,
        end=row.end,
        detail=row.detail,
    )


def recording_of(row: RecordingRow) -> Recording:
    """A recording as it is answered."""
    return Recording(
        id=row.id,
        session_id=row.session_id,
        vendor_id=row.vendor_id,
        mode=row.mode,
        status=row.status,
        upload=Upload(row.upload_status, row.upload_http_status),
        started_at=time_of(row.started_at),
        first_frame_at=time_of(row.first_frame_at),
        first_peerframe_at=time_of(row.first_peerframe_at),
        stopped_at=time_of(row.stopped_at),
        duration_ms=row.duration_ms,
        size_bytes=row.size_bytes,
        url=row.url,
        stop_reason=row.stop_reason,
        start_provenance=row.start_provenance,
        stop_provenance=row.stop_provenance,
        history=[RecordingStatus(was["status"], time_of(was.get("at")), was.get("position")) for was in row.history],
    )


_ONE = "{id} is our id of the session, or any id its vendor has for it or its parts."
_TIMELINE = (
    KIND,
    text("subject", "Only what is about the one with this vendor id."),
    *PAGED,
)

ROUTES = (
    Route(path="/v1/sessions", name="findSessions", about="Sessions, newest first.", scope="read:sessions",
          parameters=(*FILTERS, *PAGED), answer=Page[Session], handler=find_sessions),
    Route(path="/v1/sessions/{id}", name="findSession", about=f"One session. {_ONE}", scope="read:sessions",
          parameters=(), answer=Session, handler=find_session, several=Page[Session], missing=True),
    Route(path="/v1/sessions/{id}/timeline", name="findTimeline", about=f"What happened, by time. {_ONE}",
          scope="read:sessions", parameters=_TIMELINE, answer=Page[Entry], handler=find_timeline,
          several=Page[Session], missing=True),
    Route(path="/v1/sessions/{id}/participants", name="findSessionParticipants", about=f"Who was there. {_ONE}",
          scope="read:sessions", parameters=PAGED, answer=Page[Participant], handler=find_participants,
          several=Page[Session], missing=True),
    Route(path="/v1/sessions/{id}/connections", name="findConnections", about=f"Every join and its end. {_ONE}",
          scope="read:sessions", parameters=PAGED, answer=Page[Connection], handler=find_connections,
          several=Page[Session], missing=True),
    Route(path="/v1/sessions/{id}/streams", name="findStreams", about=f"Media published and received. {_ONE}",
          scope="read:sessions", parameters=PAGED, answer=Page[Stream], handler=find_streams,
          several=Page[Session], missing=True),
    Route(path="/v1/sessions/{id}/recordings", name="findSessionRecordings", about=f"Its recordings. {_ONE}",
          scope="read:sessions", parameters=PAGED, answer=Page[Recording], handler=find_recordings,
          several=Page[Session], missing=True),
)  # fmt: skip
