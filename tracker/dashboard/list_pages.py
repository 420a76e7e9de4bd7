"""Pages across sessions: rooms, people, recordings and supervisors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from tracker.views.answers import Appearance, Recording, Room, SupervisorSession, time_of
from tracker.api.route import ApiRequest
from tracker.api.parameters import PAGING, parse_micros
from tracker.views.presenters import present_recording
from tracker.dashboard.page_route import API_ROUTES, PageRoute, query_api
from tracker.dashboard.rendering import render_page
from tracker.dashboard.sessions_page import form_values, session_lines
from tracker.errors import NotFound

MAX_COUNTED = 20_000
"""Sessions of one person that are added up, at most."""

MAX_PRESENT = 200
"""Sessions a person is in now whose presence so far is added, at most."""

STATUSES = ("started", "stopped", "processing", "ready", "failed", "aborted", "limit_reached")
"""Suggestions in the form; other values can be typed."""


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """One person over all their sessions. `is_capped`: there are more than `MAX_COUNTED`."""

    sessions: int
    presence_ms: int
    first_joined_at: str | None
    last_left_at: str | None
    names: list[str]
    is_capped: bool


class PersonLine(msgspec.Struct, frozen=True, kw_only=True):
    """One person in one session. `since` is set while they are in it; `present_ms` then includes the time so far."""

    person: Appearance
    room: Room | None
    since: str | None
    present_ms: int


class SupervisionLine(msgspec.Struct, frozen=True, kw_only=True):
    """One supervisor session and the recordings that contain parts of it."""

    session: SupervisorSession
    room: Room | None
    overlaps: list[tuple[Recording, int]]
    """(recording, milliseconds of the supervisor session that it contains)"""


async def show_rooms(request: web.Request, api_request: ApiRequest) -> web.StreamResponse:
    """`GET /rooms`."""
    found: Any = await API_ROUTES["findRooms"].handler(api_request)
    sources = await visible_sources(api_request)
    return render_page(
        request, "rooms.html", rooms=found.items, next=found.next, given=form_values(api_request), sources=sources
    )


async def show_room(request: web.Request, api_request: ApiRequest) -> web.StreamResponse:
    """`GET /rooms/{source}/{id}`: its sessions."""
    source, room_id = api_request.path["source"], api_request.path["id"]
    limit, cursor = str(api_request.query["limit"]), api_request.query["cursor"]
    found: Any = await query_api(api_request, "findSessions", source=source, room=room_id, limit=limit, cursor=cursor)
    if not api_request.reader.sees(source) or (not found.items and cursor is None):
        raise NotFound(f"the source {source[:64]!r} has no room {room_id[:200]!r} with sessions you may see")
    return render_page(
        request,
        "room.html",
        now=time_of(api_request.context.now()),
        source=source,
        room_id=room_id,
        name=next((each.room.name for each in found.items if each.room.name), None),
        lines=await session_lines(api_request, found.items),
        next=found.next,
        given=form_values(api_request),
    )


async def show_people(request: web.Request, api_request: ApiRequest) -> web.StreamResponse:
    """`GET /people`: the sessions of one person (`?identity=`), or the newest of everyone."""
    found: Any = await API_ROUTES["findParticipants"].handler(api_request)
    identity: str | None = api_request.query["identity"]
    return render_page(
        request,
        "people.html",
        identity=identity,
        presence=None if identity is None else await total_presence(api_request, identity),
        appeared=await _person_lines(api_request, found.items),
        now=time_of(api_request.context.now()),
        next=found.next,
        given=form_values(api_request),
        sources=await visible_sources(api_request),
    )


async def show_recordings(request: web.Request, api_request: ApiRequest) -> web.StreamResponse:
    """`GET /recordings`."""
    found: Any = await API_ROUTES["findRecordings"].handler(api_request)
    return render_page(
        request,
        "recordings.html",
        recordings=found.items,
        rooms=await rooms_by_session(api_request, [each.session_id for each in found.items]),
        statuses=STATUSES,
        next=found.next,
        given=form_values(api_request),
        sources=await visible_sources(api_request),
    )


async def show_supervisors(request: web.Request, api_request: ApiRequest) -> web.StreamResponse:
    """`GET /supervisors`."""
    found: Any = await API_ROUTES["findSupervisorSessions"].handler(api_request)
    rooms = await rooms_by_session(api_request, [each.session_id for each in found.items])
    return render_page(
        request,
        "supervisors.html",
        now=time_of(api_request.context.now()),
        lines=await _supervision_lines(api_request, found.items, rooms),
        next=found.next,
        given=form_values(api_request),
        sources=await visible_sources(api_request),
    )


async def visible_sources(api_request: ApiRequest) -> list[str]:
    """Names of the sources this reader sees: configured ones, and those found in the log."""
    names = {row.source for row in await api_request.context.views.sources()} | set(api_request.context.vendors)
    return sorted(name for name in names if api_request.reader.sees(name))


async def rooms_by_session(api_request: ApiRequest, session_ids: Sequence[str]) -> dict[str, Room]:
    """The rooms of these sessions. The caller has checked that the reader may see them."""
    found: dict[str, Room] = {}
    for session_id in dict.fromkeys(session_ids):
        row = await api_request.context.views.session(session_id)
        if row is not None:
            found[session_id] = Room(row.room_id, row.room_name)
    return found


async def total_presence(api_request: ApiRequest, identity: str) -> Presence:
    """The presence of one person over all sessions."""
    people: list[Appearance] = []
    cursor: str | None = None
    while len(people) < MAX_COUNTED:
        source = api_request.query["source"]
        found: Any = await query_api(
            api_request, "findParticipants", identity=identity, source=source, limit="1000", cursor=cursor
        )
        people += found.items
        cursor = found.next
        if cursor is None:
            break
    here = [each for each in people if each.last_left_at is None][:MAX_PRESENT]
    so_far = sum(each.present_ms - each.person.presence_ms for each in await _person_lines(api_request, here))
    return Presence(
        sessions=len({each.session_id for each in people}),
        presence_ms=sum(each.presence_ms for each in people) + so_far,
        first_joined_at=min((each.first_joined_at for each in people if each.first_joined_at), default=None),
        last_left_at=max((each.last_left_at for each in people if each.last_left_at), default=None),
        names=sorted({name for each in people for name in (each.name, each.identity) if name})[:10],
        is_capped=cursor is not None,
    )


async def _person_lines(api_request: ApiRequest, people: Sequence[Appearance]) -> list[PersonLine]:
    found: list[PersonLine] = []
    for each in people:
        row = await api_request.context.views.session(each.session_id)
        room = None if row is None else Room(row.room_id, row.room_name)
        is_here = (
            row is not None and row.state == "open" and row.last_event_at > api_request.context.stuck_before(row.source)
        )
        # With several joins only the API's sum is exact. With one that is still open, its start is enough.
        since = each.first_joined_at if is_here and each.last_left_at is None and each.connections == 1 else None
        so_far = 0 if since is None else max(0, (api_request.context.now() - parse_micros(since)) // 1_000)
        found.append(PersonLine(person=each, room=room, since=since, present_ms=max(each.presence_ms, so_far)))
    return found


async def _supervision_lines(
    api_request: ApiRequest, sessions: Sequence[SupervisorSession], rooms: dict[str, Room]
) -> list[SupervisionLine]:
    recordings: dict[str, list[Recording]] = {}
    for session_id in rooms:
        rows, _ = await api_request.context.views.recordings(
            session_id=session_id, status=None, sources=api_request.reader.sources, limit=1_000, cursor=None
        )
        recordings[session_id] = [present_recording(row) for row in rows]
    now = time_of(api_request.context.now())
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
    """Overlap of two intervals of RFC 3339 times, in milliseconds; 0 if an end is unknown."""
    starts, ends = (one[0], other[0]), (one[1], other[1])
    if None in starts or None in ends:
        return 0
    begin = max(parse_micros(each) for each in starts if each is not None)
    end = min(parse_micros(each) for each in ends if each is not None)
    return max(0, (end - begin) // 1_000)


PAGES = (
    PageRoute(path="/rooms", parameters=API_ROUTES["findRooms"].parameters, handler=show_rooms),
    PageRoute(path="/rooms/{source}/{id}", parameters=PAGING, handler=show_room),
    PageRoute(path="/people", parameters=API_ROUTES["findParticipants"].parameters, handler=show_people),
    PageRoute(path="/recordings", parameters=API_ROUTES["findRecordings"].parameters, handler=show_recordings),
    PageRoute(
        path="/supervisors", parameters=API_ROUTES["findSupervisorSessions"].parameters, handler=show_supervisors
    ),
)
