"""The page of one session, what its script draws from, and what can be taken away from it.

    /sessions/{id}                 the page: complete without scripts (a still picture, a paged list)
    /sessions/{id}/lanes.json      every bar, as columns
    /sessions/{id}/events.json     the events, in large pages, or those after a position of the log
    /sessions/{id}/timeline.csv    /timeline.jsonl   /attendance.csv

`{id}` is whatever the read API takes for a session: ours or a vendor's; several → 300, none → 404.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence

import msgspec
from aiohttp import web

from tracker.views.answers import time_of
from tracker.api.route import ApiRequest
from tracker.api.parameters import CURSOR, choice, parse_micros, integer
from tracker.api.problems import json_response
from tracker.api.sessions import requested_session
from tracker.views.presenters import present_connection, present_participant, present_recording
from tracker.dashboard.page_route import PageRoute
from tracker.dashboard.lanes import lanes_of, presence_ms, unsure_ends
from tracker.dashboard.lanes_json import compact as compact_lanes
from tracker.dashboard.lanes_svg import draw_lanes
from tracker.dashboard.rendering import HEADERS, page
from tracker.dashboard.session_events import (
    TIMELINE_COLUMNS,
    attendance_csv,
    compact as compact_event,
    csv_of,
    every_entry,
    json_lines,
    lines_of,
    names_of,
    timeline_csv,
)  # fmt: skip
from tracker.dashboard.session_rows import STILL_BOUNDS, FULL_BOUNDS, parts_of, proved_by
from tracker.domain.facts import Micros
from tracker.projections.people import merge_spans
from tracker.domain.rows import ConnectionRow, SessionRow

LISTED = 100
"""Events on one page of the list."""
PAGED_EVENTS = 2_000
"""Events in one answer to the script."""
ATTENDED = 200
"""People in the table of the page; the CSV has them all."""
EVIDENCE = "/v1/sessions/{id}/evidence"


async def show(request: web.Request, asked: ApiRequest) -> web.StreamResponse:
    """`GET /sessions/{id}`. `?part=summary` leaves out picture and list, for a script that has both."""
    row = await requested_session(asked)
    is_whole = asked.query["part"] is None
    parts = await parts_of(asked, row, STILL_BOUNDS)
    session = asked.context.present_session(row)
    names = names_of(parts)
    now = asked.context.now()
    # In a thread: a session of thousands of people must not keep a delivery waiting.
    lanes = await asyncio.to_thread(lanes_of, parts, now=now, is_stuck=session.stuck)
    unsure, ends = unsure_ends(lanes)
    still, lines, after = None, [], None
    if is_whole:
        still = await asyncio.to_thread(draw_lanes, lanes, row.room_name or row.room_id or row.id)
        rows, after = await asked.context.views.timeline(
            row.id, kinds=(), subject=None, limit=LISTED, cursor=asked.query["cursor"]
        )
        lines = lines_of(rows, names)
    joins: dict[str, list[ConnectionRow]] = {}
    for connection in parts.connections:
        joins.setdefault(connection.participant, []).append(connection)

    def so_far(since: str | None) -> int | None:
        return None if since is None else (now - parse_micros(since)) // 1_000

    shown = page(
        request,
        "session.html",
        session=session,
        start_provenance=row.start_provenance,
        presence_ms=presence_ms(lanes) if lanes.goes_on else session.participant_ms,
        unsure=unsure,
        ends=ends,
        now=time_of(now),
        so_far=so_far,
        projected=await asked.context.views.projected_position(),
        people=[
            (
                present_participant(person),
                [present_connection(each) for each in joins.get(person.id, [])],
                time_of(present_since(joins.get(person.id, []), now)) if lanes.goes_on else None,
            )
            for person in parts.participants[:ATTENDED]
        ],
        people_left_out=max(0, max(session.participants, len(parts.participants)) - ATTENDED),
        recordings=[present_recording(each) for each in parts.recordings],
        supervisors=[
            (each, time_of(each.started_at), time_of(each.ended_at)) for each in parts.supervisors
        ],
        names=names,
        proved=await proved_by(asked, row),
        still=still,
        cut=parts.left_out,
        lines=lines,
        after=after,
        is_first=asked.query["cursor"] is None,
        may_read_records=asked.reader.has_scope("read:records"),
        has_evidence=any(resource.canonical == EVIDENCE for resource in request.app.router.resources()),
    )  # fmt: skip
    return _compressed(shown)


def present_since(connections: Sequence[ConnectionRow], now: Micros) -> Micros | None:
    """For somebody who is still there: since when they would be, had they never been away (µs); else None."""
    spans = merge_spans(
        [(row.joined_at, row.left_at) for row in connections if row.joined_at is not None and not row.aborted]
    )
    if not spans or spans[-1][1] is not None:
        return None
    return now - sum((now if end is None else end) - start for start, end in spans)


async def show_lanes(_request: web.Request, asked: ApiRequest) -> web.StreamResponse:
    """`GET /sessions/{id}/lanes.json`: see `lanes_compact`."""
    row = await requested_session(asked)
    position, now = await asked.context.views.projected_position(), asked.context.now()
    stuck = asked.context.present_session(row).stuck
    parts = await parts_of(asked, row, FULL_BOUNDS)
    known = {"id": row.id, "position": position, "now": now, "state": row.state, "last_position": row.last_position}

    def encode() -> bytes:
        return msgspec.json.encode(known | compact_lanes(lanes_of(parts, now=now, is_stuck=stuck)))

    return _compressed(json_response(200, msgspec.Raw(await asyncio.to_thread(encode)), headers=HEADERS))


async def show_events(_request: web.Request, asked: ApiRequest) -> web.StreamResponse:
    """`GET /sessions/{id}/events.json`: by time; with `?after=` those of records behind a position, in log order."""
    row = await requested_session(asked)
    after, views = asked.query["after"], asked.context.views
    if after is None:
        rows, following = await views.timeline(
            row.id, kinds=(), subject=None, limit=PAGED_EVENTS, cursor=asked.query["cursor"]
        )
    else:
        found = await views.entries_after(after, 2**31, limit=PAGED_EVENTS)
        rows, following = [entry for entry in found if entry.session_id == row.id], None
        after = found[-1].position if found else after
    answer = {"items": [compact_event(entry) for entry in rows], "next": following, "after": after}
    return _compressed(json_response(200, answer, headers=HEADERS))


async def export_timeline_csv(request: web.Request, asked: ApiRequest) -> web.StreamResponse:
    """`GET /sessions/{id}/timeline.csv`."""
    row = await requested_session(asked)

    async def chunks() -> AsyncIterator[bytes]:
        yield csv_of([TIMELINE_COLUMNS])
        async for rows in every_entry(asked, row):
            yield timeline_csv(rows)

    return await _sent(request, row, "timeline.csv", "text/csv", chunks())


async def export_timeline_json_lines(request: web.Request, asked: ApiRequest) -> web.StreamResponse:
    """`GET /sessions/{id}/timeline.jsonl`: the entries exactly as `/v1/sessions/{id}/timeline` answers them."""
    row = await requested_session(asked)

    async def chunks() -> AsyncIterator[bytes]:
        async for rows in every_entry(asked, row):
            yield json_lines(rows)

    return await _sent(request, row, "timeline.jsonl", "application/jsonl", chunks())


async def export_attendance(request: web.Request, asked: ApiRequest) -> web.StreamResponse:
    """`GET /sessions/{id}/attendance.csv`: one line a connection."""
    row = await requested_session(asked)
    parts = await parts_of(asked, row, FULL_BOUNDS)

    async def chunks() -> AsyncIterator[bytes]:
        yield attendance_csv(row.id, parts.participants, parts.connections)

    return await _sent(request, row, "attendance.csv", "text/csv", chunks())


async def _sent(
    request: web.Request, row: SessionRow, name: str, kind: str, chunks: AsyncIterator[bytes]
) -> web.StreamResponse:
    """A file to save, sent as it is made."""
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


def _compressed(response: web.Response) -> web.Response:
    response.enable_compression()
    return response


_AFTER = integer("after", "Only what records behind this position of the log told, in log order.")
_PART = choice("part", "Leave out the picture and the list.", ("summary",))

PAGES = (
    PageRoute(path="/sessions/{id}", parameters=(CURSOR, _PART), show=show),
    PageRoute(path="/sessions/{id}/lanes.json", parameters=(), show=show_lanes),
    PageRoute(path="/sessions/{id}/events.json", parameters=(CURSOR, _AFTER), show=show_events),
    PageRoute(path="/sessions/{id}/timeline.csv", parameters=(), show=export_timeline_csv),
    PageRoute(path="/sessions/{id}/timeline.jsonl", parameters=(), show=export_timeline_json_lines),
    PageRoute(path="/sessions/{id}/attendance.csv", parameters=(), show=export_attendance),
)
