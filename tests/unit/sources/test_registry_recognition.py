"""What an import takes for an event, and what only looks like one."""

from __future__ import annotations

from typing import Any

import pytest

from tracker.sources import registry

EVENTS: dict[str, dict[str, Any]] = {
    "openvidu": {"event": "sessionCreated", "sessionId": "s", "timestamp": 1_714_770_057_250},
    "livekit": {"event": "room_started", "id": "EV_a", "createdAt": "1714770057", "room": {"sid": "RM_a", "name": "r"}},
    "plugnmeet": {"event": "room_started", "id": "a", "createdAt": "1714770057", "room": {"sid": "s", "name": "r"}},
    "streamrec": {"status": "upload_failed", "client_id": "c", "rec_id": "r"},
}


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("field", ["level", "severity", "logger", "thread"])
def test_the_log_line_of_an_application_about_an_event_is_no_event(name: str, field: str) -> None:
    why = registry.VENDORS[name].why_no_event
    assert why(EVENTS[name], "lines") is None
    assert why(EVENTS[name] | {field: "error"}, "lines") == "the log line of an application"


@pytest.mark.parametrize(("timestamp", "is_event"), [(1_714_770_057_250, True), (1_714_770_057, False), (0, False)])
def test_an_openvidu_event_has_a_timestamp_in_milliseconds(timestamp: int, is_event: bool) -> None:
    why = registry.VENDORS["openvidu"].why_no_event
    assert (why(EVENTS["openvidu"] | {"timestamp": timestamp}, "lines") is None) is is_event
