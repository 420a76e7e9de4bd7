"""Pages across calls: rooms and their runs, people, recordings, and who listened to whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from tracker.views.answers import Appearance, Recording, Room, SupervisorSession, time_of
from tracker.api.route import ApiRequest
from tracker.api.parameters import PAGING, parse_micros
from tracker.views.presenters import present_recording
from tracker.dashboard.page_route import API, PageRoute, ask
from tracker.dashboard.rendering import page
from tracker.dashboard.sessions_page import form_values, lines_of
from tracker.errors import NotFound

MOST_COUNTED = 20_000
"""Sessions of one person that are added up at most."""

MOST_HERE = 200
"""So many calls somebody is in now are looked at for how long."""

STATUSES = ("started", "stopped", "processing", "ready", "failed", "aborted", "limit_reached")
"""Offered to choose from; a vendor's own may be typed."""


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """One person over all their calls; `is_capped`: there were more calls than were counted."""

    calls: int
    presence_ms: int
    first_joined_at: str | None
    last_left_at: str | None
    names: list[str]
    is_capped: bool


class PersonLine(msgspec.Struct, frozen=True, kw_only=True):
    """One person in one call. `since` is set while they are in it, with the milliseconds they have been so far."""

    person: Appearance
    room: Room | None
    since: str | None
    present_ms: int


class SupervisionLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the supervisors' ledger, and how long of it was recorded by which recording."""

    session: SupervisorSession
    room: Room | None
    overlaps: list[tuple[Recording, int]]
    """(recording, milliseconds of the listening it holds)"""


async def show_rooms(request: web.Request, asked: ApiRequest) -> web.StreamResponse:
    """`GET /rooms`."""
    found: Any = await API["findRooms"].handler(asked)
    sources = await sources_of(asked)
    return page(request, "rooms.html", rooms=found.items, next=found.next, given=form_values(asked), sources=sources)


async def show_room(request: web.Request, asked: ApiRequest) -> web.StreamResponse:
    """`GET /rooms/{source}/{id}`: every run of it."""
    source, room_id = asked.path["source"], asked.path["id"]
    limit, cursor = str(asked.query["limit"]), asked.query["cursor"]
    found: Any = await ask(asked, "findSessions", source=source, room=room_id, limit=limit, cursor=cursor)
    if not asked.reader.sees(source) or (not found.items and cursor is None):
        raise NotFound(f"no call was in a room {room_id[:200]!r} of {source[:64]!r}")
    return page(
        request,
        "room.html",
        now=time_of(asked.context.now()),
        source=source,
        room_id=room_id,
        name=next((each.room.name for each in found.items if each.room.name), None),
        lines=await lines_of(asked, found.items),
        next=found.next,
        given=form_values(asked),
    )


async def show_people(request: web.Request, asked: ApiRequest) -> web.StreamResponse:
    """`GET /people`: one person's calls where `identity` is given, everybody's newest otherwise."""
    found: Any = await API["findParticipants"].handler(asked)
    identity: str | None = asked.query["identity"]
    return page(
        request,
        "people.html",
        identity=identity,
        presence=None if identity is None else await presence_of(asked, identity),
        appeared=await _appeared(asked, found.items),
        now=time_of(asked.context.now()),
        next=found.next,
        given=form_values(asked),
        sources=await sources_of(asked),
    )


async def show_recordings(request: web.Request, asked: ApiRequest) -> web.StreamResponse:
    """`GET /recordings`."""
    found: Any = await API["findRecordings"].handler(asked)
    return page(
        request,
        "recordings.html",
        recordings=found.items,
        rooms=await rooms_of(asked, [each.session_id for each in found.items]),
        statuses=STATUSES,
        next=found.next,
        given=form_values(asked),
        sources=await sources_of(asked),
    )


async def show_supervisors(request: web.Request, asked: ApiRequest) -> web.StreamResponse:
    """`GET /supervisors`: the ledger."""
    found: Any = await API["findSupervisorSessions"].handler(asked)
    rooms = await rooms_of(asked, [each.session_id for each in found.items])
    return page(
        request,
        "supervisors.html",
        now=time_of(asked.context.now()),
        ledger=await _ledger(asked, found.items, rooms),
        next=found.next,
        given=form_values(asked),
        sources=await sources_of(asked),
    )


async def sources_of(asked: ApiRequest) -> list[str]:
    """The names of the sources this reader sees, configured or only in the log."""
    names = {row.source for row in await asked.context.views.sources()} | set(asked.context.vendors)
    return sorted(name for name in names if asked.reader.sees(name))


async def rooms_of(asked: ApiRequest, session_ids: Sequence[str]) -> dict[str, Room]:
    """The rooms of sessions that the reader was shown already."""
    found: dict[str, Room] = {}
    for session_id in dict.fromkeys(session_ids):
        row = await asked.context.views.session(session_id)
        if row is not None:
            found[session_id] = Room(row.room_id, row.room_name)
    return found


async def presence_of(asked: ApiRequest, identity: str) -> Presence:
    """Everything of one person added up, page by page."""
    people: list[Appearance] = []
    cursor: str | None = None
    while len(people) < MOST_COUNTED:
        source = asked.query["source"]
        found: Any = await ask(asked, "findParticipants", identity=identity, source=source, limit="1000", cursor=cursor)
        people += found.items
        cursor = found.next
        if cursor is None:
            break
    here = [each for each in people if each.last_left_at is None][:MOST_HERE]
    so_far = sum(each.present_ms - each.person.presence_ms for each in await _appeared(asked, here))
    return Presence(
        calls=len({each.session_id for each in people}),
        presence_ms=sum(each.presence_ms for each in people) + so_far,
        first_joined_at=min((each.first_joined_at for each in people if each.first_joined_at), default=None),
        last_left_at=max((each.last_left_at for each in people if each.last_left_at), default=None),
        names=sorted({name for each in people for name in (each.name, each.identity) if name})[:10],
        is_capped=cursor is not None,
    )


async def _appeared(asked: ApiRequest, people: Sequence[Appearance]) -> list[PersonLine]:
    found: list[PersonLine] = []
    for each in people:
        row = await asked.context.views.session(each.session_id)
        room = None if row is None else Room(row.room_id, row.room_name)
        is_here = row is not None and row.state == "open" and row.last_event_at > asked.context.stuck_before(row.source)
        # Of several joins only the API's sum is sure; of one that goes on, its beginning says it all.
        since = each.first_joined_at if is_here and each.last_left_at is None and each.connections == 1 else None
        so_far = 0 if since is None else max(0, (asked.context.now() - parse_micros(since)) // 1_000)
        found.append(PersonLine(person=each, room=room, since=since, present_ms=max(each.presence_ms, so_far)))
    return found


async def _ledger(
    asked: ApiRequest, sessions: Sequence[SupervisorSession], rooms: dict[str, Room]
) -> list[SupervisionLine]:
    recordings: dict[str, list[Recording]] = {}
    for session_id in rooms:
        rows, _ = await asked.context.views.recordings(
            session_id=session_id, status=None, sources=asked.reader.sources, limit=1_000, cursor=None
        )
        recordings[session_id] = [present_recording(row) for row in rows]
    now = time_of(asked.context.now())
    lines: list[SupervisionLine] = []
    for each in sessions:
        during = (each.started_at, each.ended_at or now)
        shared = [
            (one, overlap_ms(during, (one.started_at, one.stopped_at or now)))
            for one in recordings.get(each.session_id, [])
        ]
        overlaps = [(recording, length) for recording, length in shared if length > 0]
        lines.append(SupervisionLine(session=each, room=rooms.get(each.session_id), overlaps=overlaps))
    return lines


def overlap_ms(one: tuple[str | None, str | None], other: tuple[str | None, str | None]) -> int:
    """How long two intervals of RFC 3339 times share, in milliseconds; 0 where an end is unknown."""
    starts, ends = (one[0], other[0]), (one[1], other[1])
    if None in starts or None in ends:
        return 0
    begin = max(parse_micros(each) for each in starts if each is not None)
    end = min(parse_micros(each) for each in ends if each is not None)
    return max(0, (end - begin) // 1_000)


PAGES = (
    PageRoute(path="/rooms", parameters=API["findRooms"].parameters, show=show_rooms),
    PageRoute(path="/rooms/{source}/{id}", parameters=PAGING, show=show_room),
    PageRoute(path="/people", parameters=API["findParticipants"].parameters, show=show_people),
    PageRoute(path="/recordings", parameters=API["findRecordings"].parameters, show=show_recordings),
    PageRoute(path="/supervisors", parameters=API["findSupervisorSessions"].parameters, show=show_supervisors),
)
