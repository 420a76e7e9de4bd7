"""The evidence bundle of a session: one zip that anyone can verify offline (`tracker/evidence/bundle/`).

The bundle is complete in a temporary file before the first byte is sent, so that a failure is a problem document and not
half a download. It is made from a snapshot of the views, so that a running session does not change meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from tempfile import TemporaryFile
from typing import IO

from aiohttp import web

from tracker.api.auth import Reader
from tracker.views.answers import Page, Session
from tracker.api.route import DEFAULT_STUCK_AFTER, ApiRequest, ApiContext, Route, StreamAnswer, ZipAnswer
from tracker.api.sessions import requested_session
from tracker.evidence.bundle.build import BundleRequest, write_bundle
from tracker.evidence.bundle.contents import bundle_contents
from tracker.errors import EvidenceError, LogUnavailable, NotFound
from tracker.domain.rows import SessionRow
from tracker.views.contract import ViewsReader

PAGE_POSITIONS = 1000
CHUNK_BYTES = 256 * 1024


async def make_bundle(context: ApiContext, reader: Reader, session_id: str, file: IO[bytes]) -> None:
    """Write the bundle of a session into an empty file.

    Raises `NotFound`, `ViewsError`, `LogError`, `EvidenceError`.
    """
    bundling = context.bundle_settings
    if bundling is None:
        raise NotFound("this server makes no evidence bundles")
    made_at = context.now()
    async with bundling.gate, bundling.open_snapshot() as views:
        row = await _session_row(views, session_id)
        # Whether the session is stuck is decided for `made_at`. The manifest names both, so a verifier can decide it again.
        stuck_after = context.stuck_after.get(row.source, DEFAULT_STUCK_AFTER)
        wanted = BundleRequest(
            contents=bundle_contents(views, row, stuck_before=made_at - stuck_after),
            positions=_positions(views, session_id),
            sees=reader.sees,
            made_at=made_at,
            stuck_after=stuck_after,
        )
        await write_bundle(file, context.log, bundling, wanted)


async def find_bundle(request: ApiRequest) -> StreamAnswer:
    """`GET /v1/sessions/{id}/evidence`."""
    session = await requested_session(request)

    async def stream(http_request: web.Request, headers: Mapping[str, str]) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        response.content_type = "application/zip"
        response.headers["Content-Disposition"] = f'attachment; filename="{bundle_file_name(session.id)}"'
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
        if http_request.method == "HEAD":
            await response.prepare(http_request)
            return response
        async with _temporary_file() as file:
            try:
                await make_bundle(request.context, request.reader, session.id, file)
            except EvidenceError as error:
                # The reason may name files: it is logged, and not sent.
                raise LogUnavailable(f"no evidence can be made: {error}") from error
            response.content_length = file.seek(0, 2)
            file.seek(0)
            await response.prepare(http_request)
            while piece := await asyncio.to_thread(file.read, CHUNK_BYTES):
                await response.write(piece)
            await response.write_eof()
        return response

    return StreamAnswer(stream)


def bundle_file_name(session_id: str) -> str:
    """A file name for the bundle of a session, valid on any file system."""
    return f"evidence-{re.sub(r'[^A-Za-z0-9._-]+', '_', session_id)[:120]}.zip"


@contextlib.asynccontextmanager
async def _temporary_file() -> AsyncGenerator[IO[bytes]]:
    """A temporary file. Raises `LogUnavailable` if it cannot be written (disk full)."""
    try:
        with TemporaryFile() as file:
            yield file
    except ConnectionError:
        raise
    except OSError as error:
        raise LogUnavailable(f"the bundle cannot be written to a temporary file: {error}") from error


async def _session_row(views: ViewsReader, session_id: str) -> SessionRow:
    row = await views.session(session_id)
    if row is None:
        raise NotFound(f"the session {session_id[:200]!r} no longer exists")
    return row


async def _positions(views: ViewsReader, session_id: str) -> AsyncIterator[Sequence[int]]:
    after = 0
    while found := await views.session_positions(session_id, limit=PAGE_POSITIONS, after=after):
        yield found
        after = found[-1]


ROUTES = (
    Route(path="/v1/sessions/{id}/evidence", name="findEvidence",
          description="The evidence bundle: one zip with the raw records, the timeline derived from them, and the proofs. Verify it offline with "
          "`tracker verify`. Needs the scope read:records: bodies contain personal data.",
          scope="read:records", parameters=(), answer=ZipAnswer, handler=find_bundle, choices=Page[Session], can_be_missing=True),
)  # fmt: skip
