"""What an import recognises as an event of OpenVidu 2, among whatever else a log or a file holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracker.sources.contract import LOG_FIELDS, Where
from tracker.sources.openvidu.events import KNOWN_EVENTS, as_text, micros
from tracker.sources.openvidu.wire import split_event

_NODE_EVENTS = frozenset({
    "nodeCrashed", "nodeRecovered", "mediaNodeStatusChanged", "autoscaling", "HANodeRegistered", "HANodeDeregistered",
    "HANodeTerminated",
})  # fmt: skip
"""They belong to no session."""

_LOG_FIELDS = LOG_FIELDS | {"msg", "message"}
_EARLIEST = 10**14
"""µs (1973). An earlier timestamp is not in milliseconds."""


def why_no_event(value: Mapping[str, Any], where: Where) -> str | None:
    """See `contract.WhyNoEvent`. Every event has a name and `timestamp`, and a session's event names its session."""
    if value.get("elastic_type", "cdr") != "cdr":
        return "statistics for Elasticsearch"
    name, fields = split_event(dict(value))
    if not name:
        return "it names no event"
    # Up to 2.4 an end is stated twice.
    if all((at := micros(fields.get(field))) is None or at < _EARLIEST for field in ("timestamp", "endTime")):
        return "it has no timestamp in epoch milliseconds"
    if where == "own log":
        return None
    if not _LOG_FIELDS.isdisjoint(fields):
        return "the log line of an application"
    has_session = as_text(fields.get("sessionId")) is not None or as_text(fields.get("uniqueSessionId")) is not None
    if name in KNOWN_EVENTS:
        return None if has_session or name in _NODE_EVENTS else "it names no session"
    return None if has_session and where == "lines" else "an unknown event outside of a CDR file"
