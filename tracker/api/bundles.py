"""The evidence bundle of a session: one zip that can be checked offline, by anybody (`tracker/bundle/`).

It is made whole before the first byte is sent, in a file without a name: what fails is a problem, not half a download. The
views are held at one moment meanwhile, so that a session that goes on is not torn.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from tempfile import TemporaryFile
from typing import IO, Any

import msgspec
from aiohttp import web

from tracker.api.auth import Reader
from tracker.api.lists import supervisor_session_of
from tracker.views.answers import Page, Session
from tracker.api.route import STUCK_AFTER, ApiRequest, ApiContext, Route, StreamAnswer, ZipAnswer
from tracker.api.sessions import (
    connection_of, entry_of, participant_of, recording_of, session_of, stream_of, the_session,
)  # fmt: skip
from tracker.evidence.bundle.build import BundleContents, BundleRequest, write_bundle
from tracker.errors import EvidenceError, LogUnavailable, NotFound
from tracker.domain.rows import SessionRow
from tracker.views.contract import ViewsReader

PAGE = 1000
SENT_AT_ONCE = 256 * 1024

_Ask = Callable[[int, str | None], Awaitable[tuple[list[Any], str | None]]]


def bundle_contents(door: ApiContext, row: SessionRow) -> BundleContents:
    """A session with everything in it, as the routes below `/v1/sessions/{id}` answer it."""
    views, name = door.views, row.id

    def of_session(ask: Any, **more: Any) -> _Ask:
        return lambda limit, cursor: ask(session_id=name, limit=limit, cursor=cursor, **more)

    questions: dict[str, tuple[_Ask, Callable[[Any], msgspec.Struct]]] = {
        "participants": (of_session(views.participants, identity=None, sources=None), participant_of),
        "connections": (of_session(views.connections), connection_of),
        "streams": (of_session(views.streams), stream_of),
        "recordings": (of_session(views.recordings, status=None, sources=None), recording_of),
        "supervisor_sessions": (
            of_session(views.supervisor_sessions, client=None, sources=None),
            supervisor_session_of,
        ),
        "timeline": (of_session(views.timeline, kinds=(), subject=None), entry_of),
    }
    return BundleContents(row, session_of(door, row), {part: _pages(*how) for part, how in questions.items()})


async def make(door: ApiContext, reader: Reader, session_id: str, file: IO[bytes]) -> None:
    """Write the bundle of a session into an empty file.

    Raises `NotFound`, `ViewsError`, `LogError`, `EvidenceError`.
    """
    bundling = door.bundling
    if bundling is None:
        raise NotFound("this server makes no evidence bundles")
    made_at = door.now()
    async with bundling.gate, bundling.open_snapshot() as views:
        # Everything is of one moment: also whether it is stuck, which can be decided again for the moment the manifest names.
        still = msgspec.structs.replace(door, views=views, now=lambda: made_at)
        row = await _row(views, session_id)
        wanted = BundleRequest(
            told=bundle_contents(still, row),
            positions=_positions(views, session_id),
            sees=reader.sees,
            made_at=made_at,
            stuck_after=door.stuck_after.get(row.source, STUCK_AFTER),
        )
        await write_bundle(file, door.log, bundling, wanted)


async def find_bundle(asked: ApiRequest) -> StreamAnswer:
    """`GET /v1/sessions/{id}/evidence`."""
    session = await the_session(asked)

    async def stream(request: web.Request, told: Mapping[str, str]) -> web.StreamResponse:
        response = web.StreamResponse(headers=told)
        response.content_type = "application/zip"
        response.headers["Content-Disposition"] = f'attachment; filename="{file_name(session.id)}"'
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
        if request.method == "HEAD":
            await response.prepare(request)
            return response
        async with _unnamed() as file:
            try:
                await make(asked.context, asked.reader, session.id, file)
            except EvidenceError as error:
                # The operator reads why in the server's output; it may name files.
                raise LogUnavailable(f"no evidence can be made: {error}") from error
            response.content_length = file.seek(0, 2)
            file.seek(0)
            await response.prepare(request)
            while piece := await asyncio.to_thread(file.read, SENT_AT_ONCE):
                await response.write(piece)
            await response.write_eof()
        return response

    return StreamAnswer(stream)


def file_name(session_id: str) -> str:
    """What the bundle of a session may be called on any disk."""
    return f"evidence-{re.sub(r'[^A-Za-z0-9._-]+', '_', session_id)[:120]}.zip"


@contextlib.asynccontextmanager
async def _unnamed() -> AsyncGenerator[IO[bytes]]:
    """A temporary file. Raises `LogUnavailable` where the disk is full."""
    try:
        with TemporaryFile() as file:
            yield file
    except ConnectionError:
        raise
    except OSError as error:
        raise LogUnavailable(f"the bundle cannot be written to a temporary file: {error}") from error


async def _row(views: ViewsReader, session_id: str) -> SessionRow:
    row = await views.session(session_id)
    if row is None:
        raise NotFound(f"no session has the id {session_id[:200]!r} any more")
    return row


async def _positions(views: ViewsReader, session_id: str) -> AsyncIterator[Sequence[int]]:
    after = 0
    while found := await views.session_positions(session_id, limit=PAGE, after=after):
        yield found
        after = found[-1]


async def _pages(ask: _Ask, shape: Callable[[Any], msgspec.Struct]) -> AsyncIterator[Sequence[msgspec.Struct]]:
    cursor: str | None = None
    while True:
        rows, cursor = await ask(PAGE, cursor)
        yield [shape(row) for row in rows]
        if cursor is None:
            return


ROUTES = (
    Route(path="/v1/sessions/{id}/evidence", name="findEvidence",
          about="The evidence bundle: one zip with the raw records, what Tracker reads from them, and the proofs. It is checked offline with "
          "`tracker verify`. Needs the scope read:records: bodies hold personal data.",
          scope="read:records", parameters=(), answer=ZipAnswer, handler=find_bundle, several=Page[Session], missing=True),
)  # fmt: skip
