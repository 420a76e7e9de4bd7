"""An import of a declared source records the events that its declaration describes, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.memory_log import MemoryLog
from tracker.config.declarations import shipped_declaration
from tracker.ingest.file_import import import_files
from tracker.sources.contract import SourceSettings
from tracker.sources.declared.source import DeclaredSource

KNOWN: dict[str, Any] = {"event": "meeting.started", "event_ts": 1, "payload": {"object": {"uuid": "u", "id": "7"}}}
FORM = b"RoomSid=RM1&RoomName=daily&StatusCallbackEvent=room-created&Timestamp=2026-09-21T12%3A00%3A00Z"


@pytest.mark.parametrize(
    ("name", "line", "is_event"),
    [
        ("zoom", json.dumps(KNOWN).encode(), True),
        ("zoom", json.dumps(KNOWN | {"event": "meeting.new_in_2030", "event_ts": 1_790_000_000_000}).encode(), True),
        ("zoom", json.dumps(KNOWN | {"event": "meeting.new_in_2030", "event_ts": None}).encode(), False),
        ("zoom", b'{"level": "info", "message": "meeting.started"}', False),
        ("zoom", b'{"event": 7}', False),
        ("zoom", b'{"event_ts": 1790000000000}', False),
        ("zoom", FORM, False),
        ("twilio-video", FORM, True),
        ("twilio-video", b"RoomSid=RM1&StatusCallbackEvent=", False),
        ("twilio-video", b"no form at all", False),
        ("standard-webhooks", b'{"type": "participant.joined", "data": {}}', True),
        ("standard-webhooks", b'{"type": "invoice.paid", "data": {}}', False),
    ],
)
async def test_a_line_is_an_event_if_the_declaration_says_so(
    tmp_path: Path, name: str, line: bytes, is_event: bool
) -> None:
    source = DeclaredSource(SourceSettings(name="x", vendor="declared", declaration=shipped_declaration(name)))
    file, log = tmp_path / "events.jsonl", MemoryLog()
    file.write_bytes(line + b"\n")
    (report,) = await import_files(source, log, [file], now=lambda: 1_790_000_000_000_000)
    assert (report.new, await log.head()) == (int(is_event), int(is_event)), report
