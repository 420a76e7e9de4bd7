"""The fields of OpenVidu 2's events: times, places, reasons, names, and what of them may be shown.

Everything an event says about itself comes through `Told`; a reader in `sources/openvidu/events.py` adds what its kind means.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any, cast

import msgspec

from tracker.domain.deliveries import Record
from tracker.domain.facts import EndReason, Micros, SessionRef
from tracker.sources.json_reading import whole_text
from tracker.sources.openvidu.wire import Event, parse_json


_JSON_BEGINS = frozenset(' \t\n\r{["-0123456789tfnNI')
"""What nearly no name begins with: others are not even tried."""

_LAST_MS = 253_402_300_800_000
"""The year 10000, in ms: no store or answer can hold a later time."""

_LONGEST_NAME = 200

_NAME_KEYS = ("clientData", "name", "nickname", "userName", "nome")
"""Where applications put a person's name in clientData; `clientData` is openvidu-call's and the tutorials'."""

# S/core/EndReason.java, all 16 values, and broadcastStoppedByServer (≥ 2.26).
_REASONS: dict[str, EndReason] = {
    "lastParticipantLeft": "normal",
    "sessionClosedByServer": "closed_by_server",
    "mediaServerDisconnect": "server_failure",
    "mediaServerReconnect": "server_failure",
    "nodeCrashed": "server_failure",
    "openviduServerStopped": "server_shutdown",
    "automaticStop": "timeout",
    "disconnect": "left",
    "forceDisconnectByUser": "removed",
    "forceDisconnectByServer": "removed",
    "networkDisconnect": "network_lost",
    "unsubscribe": "normal",
    "unpublish": "normal",
    "forceUnpublishByUser": "removed",
    "forceUnpublishByServer": "removed",
    "recordingStoppedByServer": "normal",
    "broadcastStoppedByServer": "normal",
}

_SECRET_KEY = re.compile(r"passw|secret|token|authorization|credential", re.IGNORECASE)
# Greedy up to the last @: a password may itself hold @ or /, and losing a path is better than showing a password.
_URI_USER = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://).*@", re.DOTALL)
# Cameras also take credentials in the query or, some makes, in the path.
_URI_CREDENTIAL = re.compile(r"((?:user(?:name)?|usr|pass(?:word|wd)?|pwd|auth|key)=)[^&/;?]*", re.IGNORECASE)


class FieldMissing(Exception):
    """An event lacks the field that says what it is about; the message names the field. Stays in this vendor."""


class EventContext(msgspec.Struct, frozen=True, kw_only=True):
    """What any event says, whatever its kind.

    `inner` are its fields, made safe to keep (see `_kept`). `at` is when it happened, `own` the event's own timestamp
    (None: missing or absurd, then `at` is when we received it), `start` its `startTime`. All in µs.
    `room` is the sessionId, `run` the uniqueSessionId.
    """

    inner: dict[str, Any]
    at: Micros
    own: Micros | None
    start: Micros | None
    room: str | None
    run: str | None
    anomalies: tuple[tuple[str, str], ...]
    server_run: str | None

    def fact(self, *mapped: str) -> dict[str, Any]:
        """The arguments every fact takes; `mapped` are the fields the fact holds by itself, kept out of detail."""
        left_out = _left_out(mapped)
        return {
            "at": self.at,
            "clock": "receiver" if self.own is None else "server",
            "precision": "us" if self.own is None else "ms",
            "detail": {key: value for key, value in self.inner.items() if key not in left_out},
            "anomalies": self.anomalies,
            "server_run": self.server_run,
        }

    def ending(self) -> dict[str, Any]:
        """The arguments an end takes: why, in our words and in theirs."""
        vendor_reason = text(self.inner.get("reason"))
        return {"reason": end_reason(vendor_reason), "vendor_reason": vendor_reason}

    def place(
        self, *, starts: Micros | None = None, ends: Micros | None = None, recording: str | None = None
    ) -> SessionRef:
        """Where this belongs; `starts` / `ends`: this event itself states when its run began / is over (µs).

        `uniqueSessionId` is `sessionId + "_" + start in ms` (Session.java), so a stated start makes the run key of
        every version, and the key gives the start to every event that carries it. Raises `FieldMissing` when the
        event names no session.
        """
        if self.room is None and self.run is None:
            raise FieldMissing("sessionId is missing")
        run = self.run
        if run is None and self.room is not None and starts is not None:
            run = f"{self.room}_{starts // 1000}"
        ids = (("sessionId", self.room), ("uniqueSessionId", run), ("recordingId", recording))
        return SessionRef(
            at=self.at if self.start is None else self.start,
            run=run,
            room=self.room,
            starts_at=start_in_key(self.run) if starts is None else starts,
            ends_at=ends,
            ids=tuple((name, value) for name, value in ids if value is not None),
        )

    def moment(self, key: str) -> Micros | None:
        """A field in epoch milliseconds as µs; None when it is missing or no time anyone can mean."""
        return micros(self.inner.get(key))


@functools.cache
def _left_out(mapped: tuple[str, ...]) -> frozenset[str]:
    # Asked only with the constants of a reading.
    return frozenset({"sessionId", "uniqueSessionId", "timestamp", "startTime", "endTime", *mapped})


def event_context(event: Event, record: Record, *anomalies: tuple[str, str]) -> EventContext:
    """What `event` says, with `anomalies` seen so far. Never raises."""
    inner = _kept_fields(event.inner)
    own = micros(inner.get("timestamp"))
    own = micros(inner.get("endTime")) if own is None else own  # ≤ 2.4 states the end twice
    seen = list(anomalies)
    if event.lossy and event.is_json:
        seen.append(("lossy_encoding", "the body is not UTF-8 and was read as ISO-8859-1"))
    if own is None and not any(kind == "unreadable" for kind, _ in anomalies):
        seen.append(_why_no_time("timestamp", inner))
    start = micros(inner.get("startTime"))
    if start is None and "startTime" in inner:
        seen.append(_why_no_time("startTime", inner))
    run = text(inner.get("uniqueSessionId"))
    room = text(inner.get("sessionId"))
    if room is None and run is not None and start_in_key(run) is not None:
        room = run.rpartition("_")[0]
    return EventContext(
        inner=inner,
        at=record.received_at if own is None else own,
        own=own,
        start=start,
        room=room,
        run=run,
        anomalies=tuple(seen),
        server_run=_server_run(record.proof),
    )


def end_reason(vendor_reason: str | None) -> EndReason:
    """Our word for theirs; "unknown" where they give none (evicted ghosts) or one we do not know."""
    return _REASONS.get(vendor_reason or "", "unknown")


def micros(value: object) -> Micros | None:
    """Epoch milliseconds as µs; None for anything that is no time between 1970 and the year 10000."""
    return value * 1000 if type(value) is int and 0 < value < _LAST_MS else None


def start_in_key(run: str | None) -> Micros | None:
    """The start (µs) a uniqueSessionId ends with; None where what follows the last `_` is no full timestamp."""
    digits = run.rpartition("_")[2] if run else ""
    return micros(int(digits)) if 12 <= len(digits) <= 15 and digits.isascii() and digits.isdigit() else None


def text(value: object) -> str | None:
    """A non-empty string, or None."""
    return value if isinstance(value, str) and value else None


def needed(inner: dict[str, Any], key: str) -> str:
    """The field as text. Raises `FieldMissing`."""
    value = text(inner.get(key))
    if value is None:
        raise FieldMissing(f"{key} is missing")
    return value


def readable_name(client_data: object) -> str | None:
    """The name in a clientData: a plain text is one, a JSON object may hold one (`{"clientData": "Mike"}` → Mike)."""
    if not isinstance(client_data, str):
        return None
    try:
        value = parse_json(client_data) if client_data[:1] in _JSON_BEGINS else client_data
    except ValueError:
        value = client_data
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        value = next((fields[key] for key in _NAME_KEYS if text(fields.get(key))), None)
    elif isinstance(value, int | float):
        value = client_data
    name = whole_text(value).strip() if isinstance(value, str) else ""
    return name[:_LONGEST_NAME] or None


def dimensions(value: object) -> object:
    """VideoDimensions as {"width", "height"}: it is a *string of JSON*, against the documentation; else as it came."""
    if not isinstance(value, str):
        return value
    try:
        parsed = parse_json(value)
    except ValueError:
        return value
    return _kept("videoDimensions", parsed) if isinstance(parsed, dict) else value


def _kept_fields(fields: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in fields.items():
        name, hidden, address = _told_by(key) if len(key) <= _LONGEST_NAME else _told_by.__wrapped__(key)
        if not hidden:
            plain = value.isascii() and not address if type(value) is str else value is None or type(value) is bool
            kept[name] = value if plain else _kept(key, value)
    return kept


@functools.lru_cache(maxsize=1024)
def _told_by(key: str) -> tuple[str, bool, bool]:
    """(its name, may hold a secret, holds an address), by its name; OpenVidu uses the same few for ever."""
    return whole_text(key), _SECRET_KEY.search(key) is not None, key.lower().endswith(("uri", "url"))


def _kept(key: str, value: Any) -> Any:
    """The value without secrets, lone surrogates and numbers no JSON encoder of ours takes."""
    if isinstance(value, str):
        return _without_credentials(whole_text(value)) if key.lower().endswith(("uri", "url")) else whole_text(value)
    if isinstance(value, dict):
        return _kept_fields(cast("dict[str, Any]", value))
    if isinstance(value, list):
        return [_kept(key, item) for item in cast("list[Any]", value)]
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    return value


def _without_credentials(uri: str) -> str:
    return _URI_CREDENTIAL.sub(r"\1…", _URI_USER.sub(r"\1", uri))


def _why_no_time(key: str, inner: dict[str, Any]) -> tuple[str, str]:
    if inner.get(key) is None:
        return ("unreadable", f"{key} is missing")
    return ("clock_skew", f"{key} is no time in epoch milliseconds")


def _server_run(proof: bytes) -> str | None:
    """The run of the server an imported CDR line was written in (its file's suffix), which the importer noted."""
    if b'"run"' not in proof and b"\\" not in proof and proof.isascii():
        # Written plainly, and nothing in it is called so.
        return None
    try:
        noted = json.loads(proof)
    except (ValueError, RecursionError):
        return None
    run = cast("dict[str, Any]", noted).get("run") if isinstance(noted, dict) else None
    return run if isinstance(run, str) and run else None
