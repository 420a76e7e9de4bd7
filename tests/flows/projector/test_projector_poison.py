"""No authentic delivery stops the projector: live, rebuilt in one process and rebuilt in parts."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.logs import opened
from tracker.log.sqlite.log import SqliteLog
from tracker.projector import rebuild
from tracker.projector.projector import Projector, compare_views
from tracker.projector.rebuild import RebuildContext, build_views
from tracker.server import stores
from tracker.sources import registry
from tracker.sources.contract import SourceSettings
from tracker.views.sqlite.views import SqliteViews

T = 1_790_000_000_000
"""ms"""

Sent = tuple[str, dict[str, Any]]
"""(vendor, body)"""


def upload(rec_id: str, client: str = "c1", **more: Any) -> Sent:
    return "streamrec", {
        "status": "upload_ready", "rec_id": rec_id, "client_id": client, "msg": rec_id,
        "recording_started_at": "2026-09-21T14:13:20Z", "recording_stopped_at": "2026-09-21T14:14:20Z", **more,
    }  # fmt: skip


def openvidu(event: str, who: str, at: int, **more: Any) -> Sent:
    return "openvidu", {"event": event, "sessionId": "S", "connectionId": who, "timestamp": T + at, **more}


POISONS: dict[str, list[Sent]] = {
    "recordings a@b and a_b": [upload("a@b"), upload("a_b")],
    "recordings r and r@…": [
        ("openvidu", {"event": "recordingStatusChanged", "sessionId": "S", "timestamp": T + 9, "status": "ready", "id": "r", "startTime": T}),
        ("openvidu", {"event": "recordingStatusChanged", "sessionId": "S", "timestamp": T + 9, "status": "ready", "id": f"r@{T}000"}),
        ("openvidu", {"event": "recordingStatusChanged", "sessionId": "S", "timestamp": T + 9, "status": "ready", "id": f"r_{T}000"}),
    ],
    "joins of con_A twice and con_A~2": [
        openvidu("participantJoined", "con_A", 0),
        openvidu("participantJoined", "con_A", 5),
        openvidu("participantJoined", "con_A~2", 5),
    ],
    "a connection without an id and one that is called unknown": [
        openvidu("participantJoined", "unknown", 0),
        ("openvidu", {"event": "participantJoined", "sessionId": "S", "timestamp": T}),
    ],
    "streams of a connection called a<b and one called a": [
        openvidu("webrtcConnectionCreated", "a<b", 0, connection="INBOUND", streamId="c", receivingFrom="x"),
        openvidu("webrtcConnectionCreated", "a", 0, connection="INBOUND", streamId="b<c", receivingFrom="x"),
        openvidu("webrtcConnectionCreated", "a", 0, connection="OUTBOUND", streamId="a<b<c", videoEnabled=True),
    ],
    "a run that is called like a provisional one": [
        ("streamrec", {"status": "session_finished", "client_id": "c1", "started_at": "2026-09-21T14:13:20Z", "stopped_at": "2026-09-21T14:14:20Z"}),
        ("streamrec", {"status": "session_finished", "client_id": "c2", "session_id": "c1_1790000000000", "started_at": "2026-09-21T15:00:00Z", "stopped_at": "2026-09-21T15:14:20Z"}),
    ],
}  # fmt: skip


async def log_of(path: Path, sent: list[Sent]) -> None:
    await SqliteLog.create(path)
    async with opened(path) as log:
        for n, (vendor, body) in enumerate(sent):
            keys = {"k": "x" * 40} if vendor in {"livekit", "plugnmeet"} else {}
            source = registry.build(
                SourceSettings(name=vendor, vendor=vendor, secrets=() if keys else ("x" * 40,), keys=keys)
            )
            at = (T + 100_000 + n) * 1_000
            await log.append(
                source.verify_trusted(json.dumps(body).encode(), received_at=at, proof={"scheme": "import"})
            )


@asynccontextmanager
async def views_everyhow(folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[SqliteViews]:
    """The views of a log, live in one batch; asserts that all other ways give the same."""
    monkeypatch.setattr(rebuild, "MIN_PART_RECORDS", 1)
    monkeypatch.setattr(rebuild, "HEAD_START_RECORDS", 0)
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(opened(path))
        found: list[SqliteViews] = []
        for name, batch in (("live", 2_000), ("each", 1)):
            await SqliteViews.create(folder / name)
            found.append(await SqliteViews.open(folder / name, writable=True))
            stack.push_async_callback(found[-1].close)
            await Projector(log, found[-1], batch_size=batch).catch_up()
        context = RebuildContext(functools.partial(opened, path), stores.new_views, {})
        for name, jobs in (("rebuilt", 1), ("parts", 3)):
            await build_views(log, folder / name, context, jobs=jobs)
            found.append(await SqliteViews.open(folder / name, writable=False))
            stack.push_async_callback(found[-1].close)
        for other in found[1:]:
            assert await compare_views(found[0], other) == []
        yield found[0]


@pytest.mark.parametrize("kind", POISONS)
async def test_texts_that_look_like_generated_ids_are_separate_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "log.db"
    await log_of(path, POISONS[kind])
    async with views_everyhow(tmp_path, path, monkeypatch) as views:
        assert await views.projected_position() == len(POISONS[kind])
        counts = [
            len({row[0] for row in await views.rows(f"SELECT id FROM {table}")})
            for table in ("recordings", "connections", "streams", "sessions")
        ]
    assert len(POISONS[kind]) in counts
