"""OpenVidu sessions that nobody joins end without an event. The timeout uses the sender's clock, which may be wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.memory_log import MemoryLog
from tracker.projector.projector import Projector
from tracker.sources.contract import SourceSettings
from tracker.sources.openvidu.source import OpenviduSource
from tests.support.memory_views import MemoryViews

START = 1_790_000_000_000
MINUTE = 60_000
CREATED = (START, "sessionCreated", "empty")
TOOK = {"streamId": "str_CAM_a", "connectionId": "con_b", "connection": "INBOUND", "receivingFrom": "con_a"}


async def session_of(messages: list[tuple[int, str, str]], received_at: int, *, batch: int = 1) -> Any:
    """The row of session `empty` after projecting the messages (ms, event, session), all received at `received_at` (ms)."""
    source = OpenviduSource(SourceSettings(name="ov", vendor="openvidu", secrets=("s",)))
    log, views = MemoryLog(), MemoryViews()
    for at, event, session in messages:
        fields = {"sessionId": session, "timestamp": at, "event": event} | (TOOK if event.startswith("webrtc") else {})
        body = json.dumps(fields).encode()
        await log.append(source.verify_trusted(body, received_at=received_at * 1000, proof={}))
    await Projector(log, views, batch_size=batch).catch_up()
    await log.close()
    return views.sessions[f"ov:empty_{START}"].session


@pytest.mark.parametrize("backwards", [False, True])
async def test_a_session_nobody_joins_is_over_75_minutes_after_its_creation(backwards: bool) -> None:
    messages = [CREATED, (START + 76 * MINUTE, "sessionCreated", "later")]
    row = await session_of(messages[:: -1 if backwards else 1], START + 76 * MINUTE)
    assert (row.state, row.end.reason, row.end.provenance) == ("ended", "timeout", "inferred")
    assert row.duration_ms == 0
    assert row.end.not_after == (START + 75 * MINUTE) * 1000


@pytest.mark.parametrize("backwards", [False, True])
async def test_one_sender_whose_clock_is_years_ahead_ends_no_session(backwards: bool) -> None:
    messages = [CREATED, (9_999_999_999_999, "sessionCreated", "later")]
    row = await session_of(messages[:: -1 if backwards else 1], START + MINUTE)
    assert row.state == "open"


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("backwards", [False, True])
async def test_a_person_known_only_by_a_received_stream_was_in_the_session(backwards: bool, batch: int) -> None:
    messages = [(START + MINUTE, "webrtcConnectionCreated", "empty"), (START + 90 * MINUTE, "sessionCreated", "later")]
    row = await session_of([CREATED, *messages[:: -1 if backwards else 1]], START + 90 * MINUTE, batch=batch)
    assert (row.state, row.participants) == ("open", 1)
