"""The page of one session, the JSON for its script, and its exports.

    /sessions/{id}                 the page; complete without scripts (a static SVG, a paged list)
    /sessions/{id}/lanes.json      every bar, as columns
    /sessions/{id}/events.json     the events in large pages, or those after a position of the log
    /sessions/{id}/timeline.csv    /timeline.jsonl   /attendance.csv

`{id}` is any id the read API accepts for a session: Tracker's or the vendor's. Several sessions → 300, none → 404.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence

import msgspec
from aiohttp import web

from tracker.views.answers import Connection, Participant, Session, time_of
from tracker.api.route import ApiRequest
from tracker.api.parameters import CURSOR, choice, parse_micros, integer
from tracker.api.problems import json_response
from tracker.api.sessions import requested_session
from tracker.views.contract import SessionFilter
from tracker.views.presenters import present, present_recording
from tracker.dashboard.page_route import PageRoute
from tracker.dashboard.lanes import build_lanes, presence_ms, count_unsure_ends
from tracker.dashboard.lanes_json import lanes_to_json as compact_lanes
from tracker.dashboard.lanes_svg import draw_lanes
from tracker.dashboard.rendering import HEADERS, render_page
from tracker.dashboard.session_events import (
    TIMELINE_COLUMNS,
    attendance_csv,
    entry_to_json as compact_event,
    write_csv,
    all_entries,
    json_lines,
    event_lines,
    display_names,
    timeline_csv,
)  # fmt: skip
from tracker.dashboard.session_rows import STILL_LIMITS, FULL_LIMITS, read_session_parts, summarise_proofs
from tracker.domain.facts import Micros
from tracker.projections.people import merge_spans
from tracker.domain.rows import ConnectionRow, SessionRow

PAGE_EVENTS = 100
"""Events on one page of the list."""
SCRIPT_PAGE_EVENTS = 2_000
"""Events in one page of events.json."""
MAX_PEOPLE = 200
MAX_BREAKOUTS = 50
"""Most people in the table of the page; the CSV has all of them."""
EVIDENCE_PATH = "/v1/sessions/{id}/evidence"


async def show_session(request: web.Request, api_request: ApiRequest) -> web.StreamResponse:
    """`GET /sessions/{id}`. `?part=summary` leaves out the SVG and the list, for the script, which has both."""
    row = await requested_session(api_request)
    is_whole = api_request.query["part"] is None
    parts = await read_session_parts(api_request, row, STILL_LIMITS)
    session = api_request.context.present_session(row)
    names = display_names(parts)
    now = api_request.context.now()
    # In a thread, so that a session with thousands of people does not delay deliveries.
    lanes = await asyncio.to_thread(build_lanes, parts, now=now, is_stuck=session.stuck)
    unsure, ends = count_unsure_ends(lanes)
    still, lines, after = None, [], None
    if is_whole:
        still = await asyncio.to_thread(draw_lanes, lanes, row.room_name or row.room_id or row.id)
        rows, after = await api_request.context.views.timeline(
            row.id, kinds=(), subject=None, limit=PAGE_EVENTS, cursor=api_request.query["cursor"]
        )
        lines = event_lines(rows, names)
    joins: dict[str, list[ConnectionRow]] = {}
    for connection in parts.connections:
        joins.setdefault(connection.participant, []).append(connection)

    def so_far(since: str | None) -> int | None:
        return None if since is None else (now - parse_micros(since)) // 1_000

    shown = render_page(
        request,
        "session.html",
        session=session,
        start_provenance=row.start_provenance,
        presence_ms=presence_ms(lanes) if lanes.is_running else session.participant_ms,
        unsure=unsure,
        ends=ends,
        now=time_of(now),
        so_far=so_far,
        projected=await api_request.context.views.projected_position(),
        people=[
            (
                present(Participant, person),
                [present(Connection, each) for each in joins.get(person.id, [])],
                time_of(present_since(joins.get(person.id, []), now)) if lanes.is_running else None,
            )
            for person in parts.participants[:MAX_PEOPLE]
        ],
        people_left_out=max(0, max(session.participants, len(parts.participants)) - MAX_PEOPLE),
        recordings=[present_recording(each) for each in parts.recordings],
        supervisors=[
            (each, time_of(each.started_at), time_of(each.ended_at)) for each in parts.supervisors
        ],
        names=names,
        proved=await summarise_proofs(api_request, row),
        parent_name=await _parent_name(api_request, row),
        breakouts=await _breakouts(api_request, row),
        still=still,
        cut=parts.truncated,
        lines=lines,
        after=after,
        is_first=api_request.query["cursor"] is None,
        may_read_records=api_request.reader.has_scope("read:records"),
        has_evidence=any(resource.canonical == EVIDENCE_PATH for resource in request.app.router.resources()),
    )  # fmt: skip
    return _compress(shown)


async def _parent_name(api_request: ApiRequest, row: SessionRow) -> str | None:
    """What the main room of a breakout room is called."""
    if row.parent_id is None:
        return None
    parent = await api_request.context.views.session(row.parent_id)
    return row.parent_id if parent is None else parent.room_name or parent.room_id or parent.id


async def _breakouts(api_request: ApiRequest, row: SessionRow) -> list[Session]:
    """The breakout rooms of a session, the first ones first."""
    wanted = SessionFilter(source=row.source, parent_id=row.id)
    rows, _ = await api_request.context.views.find_sessions(wanted, limit=MAX_BREAKOUTS, cursor=None)
    return [api_request.context.present_session(each) for each in reversed(rows)]


def present_since(connections: Sequence[ConnectionRow], now: Micros) -> Micros | None:
    """`now` minus the presence so far (µs), for a person who is still present; None for others.

    A clock that counts from this moment shows their presence.
    """
    spans = merge_spans(
        [(row.joined_at, row.left_at) for row in connections if row.joined_at is not None and not row.aborted]
    )
    if not spans or spans[-1][1] is not None:
        return None
    return now - sum((now if end is None else end) - start for start, end in spans)


async def show_lanes(_request: web.Request, api_request: ApiRequest) -> web.StreamResponse:
    """`GET /sessions/{id}/lanes.json`: see `lanes_json`."""
    row = await requested_session(api_request)
    position, now = await api_request.context.views.projected_position(), api_request.context.now()
    stuck = api_request.context.present_session(row).stuck
    parts = await read_session_parts(api_request, row, FULL_LIMITS)
    known = {"id": row.id, "position": position, "now": now, "state": row.state, "last_position": row.last_position}

    def encode() -> bytes:
        return msgspec.json.encode(known | compact_lanes(build_lanes(parts, now=now, is_stuck=stuck)))

    return _compress(json_response(200, msgspec.Raw(await asyncio.to_thread(encode)), headers=HEADERS))


async def show_events(_request: web.Request, api_request: ApiRequest) -> web.StreamResponse:
    """`GET /sessions/{id}/events.json`: by time; with `?after=`, those of later records, in log order."""
    row = await requested_session(api_request)
    after, views = api_request.query["after"], api_request.context.views
    if after is None:
        rows, following = await views.timeline(
            row.id, kinds=(), subject=None, limit=SCRIPT_PAGE_EVENTS, cursor=api_request.query["cursor"]
        )
    else:
        found = await views.entries_after(after, 2**31, limit=SCRIPT_PAGE_EVENTS)
        rows, following = [entry for entry in found if entry.session_id == row.id], None
        after = found[-1].position if found else after
    answer = {"items": [compact_event(entry) for entry in rows], "next": following, "after": after}
    return _compress(json_response(200, answer, headers=HEADERS))


async def export_timeline_csv(request: web.Request, api_request: ApiRequest) -> web.StreamResponse:
    """`GET /sessions/{id}/timeline.csv`."""
    row = await requested_session(api_request)

    async def chunks() -> AsyncIterator[bytes]:
        yield write_csv([TIMELINE_COLUMNS])
        async for rows in all_entries(api_request, row):
            yield timeline_csv(rows)

    return await _send_file(request, row, "timeline.csv", "text/csv", chunks())


async def export_timeline_json_lines(request: web.Request, api_request: ApiRequest) -> web.StreamResponse:
    """`GET /sessions/{id}/timeline.jsonl`: the items of `/v1/sessions/{id}/timeline`."""
    row = await requested_session(api_request)

    async def chunks() -> AsyncIterator[bytes]:
        async for rows in all_entries(api_request, row):
            yield json_lines(rows)

    return await _send_file(request, row, "timeline.jsonl", "application/jsonl", chunks())


async def export_attendance(request: web.Request, api_request: ApiRequest) -> web.StreamResponse:
    """`GET /sessions/{id}/attendance.csv`: one line per connection."""
    row = await requested_session(api_request)
    parts = await read_session_parts(api_request, row, FULL_LIMITS)

    async def chunks() -> AsyncIterator[bytes]:
        yield attendance_csv(row.id, parts.participants, parts.connections)

    return await _send_file(request, row, "attendance.csv", "text/csv", chunks())


async def _send_file(
    request: web.Request, row: SessionRow, name: str, kind: str, chunks: AsyncIterator[bytes]
) -> web.StreamResponse:
    """Stream a file for download."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", row.id)[:100]
    response = web.StreamResponse(headers=HEADERS)
    response.headers["Content-Type"] = f"{kind}; charset=utf-8"
    response.headers["Content-Disposition"] = f'attachment; filename="{safe}-{name}"'
    await response.prepare(request)
    if request.method != "HEAD":
        async for chunk in chunks:
            await response.write(chunk)
    await response.write_eof()
    return response


def _compress(response: web.Response) -> web.Response:
    response.enable_compression()
    return response


_AFTER = integer("after", "Only entries of records after this position of the log, in log order.")
_PART = choice("part", "Leave out the SVG and the list.", ("summary",))

PAGES = (
    PageRoute(path="/sessions/{id}", parameters=(CURSOR, _PART), handler=show_session),
    PageRoute(path="/sessions/{id}/lanes.json", parameters=(), handler=show_lanes),
    PageRoute(path="/sessions/{id}/events.json", parameters=(CURSOR, _AFTER), handler=show_events),
    PageRoute(path="/sessions/{id}/timeline.csv", parameters=(), handler=export_timeline_csv),
    PageRoute(path="/sessions/{id}/timeline.jsonl", parameters=(), handler=export_timeline_json_lines),
    PageRoute(path="/sessions/{id}/attendance.csv", parameters=(), handler=export_attendance),
)
