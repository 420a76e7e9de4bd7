"""OpenVidu 2's wire format: the named event in a body, and the dedupe key that a repeat of it has.

Two shapes carry the same event (OpenVidu's `webhookTest` asserts it):

    webhook    {"sessionId": …, "timestamp": …, "event": "sessionCreated"}      HttpWebhookSender.java
    CDR line   {"sessionCreated": {"sessionId": …, "timestamp": …}}             CDREvent.java

Pro's logger for Elasticsearch writes the webhook's shape with fields of its own, which are no part of the event.

An unreadable body never raises: it becomes an `Event` that says why.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, cast

import msgspec

from tracker.domain.deliveries import Record
from tracker.domain.facts import EventCopy
from tracker.sources import plain_json
from tracker.sources.json_reading import MAX_DEPTH, parse_carefully, parse_strict, replace_surrogates

_LONGEST_NAME = 200

_LOGGER_FIELDS = frozenset({"elastic_type", "cluster_id", "master_node_id", "@timestamp", "@version"})
"""Fields that only a logger adds: CDRLoggerElasticSearch, Logstash."""

_OF_A_CLUSTER = frozenset({"nodeCrashed", "nodeRecovered", "mediaNodeStatusChanged", "autoscaling"})
"""Events with a `clusterId` of their own. The logger for Elasticsearch adds one to all others."""

_MAYBE_DAMAGED = re.compile(rb"[?\x80-\xff]+")
"""What an encoding may have changed: letters beyond ASCII, and what stands for them."""
_LOST = re.compile(r"[?\ufffd\x80-\x9f]")
"""What stands for a letter that was lost. Some of it may have been there from the beginning."""
_HASH = re.compile(r"[0-9a-f]{64}")
_LETTERS = re.compile(r"[^\x00-\x7f]+")

_FRACTION = b"\xcb"
"""How MessagePack marks a float. A match inside a text is a false alarm, which only costs time."""

_PLAIN_TYPES = frozenset({str, int, bool, type(None)})
_PLAIN_OR_FRACTION = _PLAIN_TYPES | {float}

_pack = msgspec.msgpack.Encoder().encode
_write_sorted = msgspec.json.Encoder(order="sorted").encode


class Event(msgspec.Struct, frozen=True):
    """The event in a body: its `name` ("" where it has none) and its `fields`, the same in both shapes.

    `fields` are without those that only a logger adds. `unreadable` says why the body cannot be read. `is_json`: the body is
    JSON; `value` is its value without the name, as it came.
    `is_plain`: no field is an object or a list, no text has lone surrogates, and no integer is wider than 64 bits.
    `lossy`: the bytes are not UTF-8 and were read as ISO-8859-1 (OpenVidu ≤ 2.17 sends that).
    """

    name: str = ""
    fields: dict[str, Any] = {}
    unreadable: str | None = None
    is_json: bool = False
    value: Any = None
    lossy: bool = False
    is_plain: bool = False

    @property
    def canonical(self) -> bytes | None:
        """The text that the dedupe key hashes; None where the body is not JSON. Ingest uses it, a rebuild seldom does."""
        return (
            _canonical(self.name, self.fields if isinstance(self.value, dict) else self.value) if self.is_json else None
        )


def read_event(body: bytes) -> Event:
    """The event in a webhook body or a CDR line. Never raises."""
    value = plain_json.parse_unambiguous(body, MAX_DEPTH)
    if isinstance(value, dict):
        return _named(cast("dict[str, Any]", value), is_stored=True)
    try:
        text, lossy = body.decode("utf-8-sig"), False
    except UnicodeDecodeError:
        # ≤ 2.17 posts ISO-8859-1 without declaring it. Every byte is valid in it, so this cannot fail.
        text, lossy = body.decode("iso-8859-1"), True
    try:
        value = _whole(parse_carefully(text))
    except ValueError as why:
        return Event(unreadable=str(why), lossy=lossy)
    if not isinstance(value, dict):
        return Event(unreadable="not a JSON object", is_json=True, value=value, lossy=lossy)
    return _named(cast("dict[str, Any]", value), lossy=lossy)


def _named(value: dict[str, Any], *, lossy: bool = False, is_stored: bool = False) -> Event:
    name, inner = split_event(value)
    types = set(map(type, inner.values()))
    if not types <= _PLAIN_TYPES:
        is_stored = is_stored and types <= _PLAIN_OR_FRACTION
        inner = {field: _whole(each) for field, each in inner.items()}
    fields = (
        inner if _LOGGER_FIELDS.isdisjoint(inner) and "clusterId" not in inner else _without_logger_fields(name, inner)
    )
    return Event(name, fields, None if name else "no event name", True, inner, lossy, is_stored)


def _whole(value: Any) -> Any:
    """The value with integral floats as ints, so that `0.0` and `0` are one value."""
    if type(value) is float:
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if type(value) is dict:
        return {name: _whole(inner) for name, inner in cast("dict[str, Any]", value).items()}
    return [_whole(item) for item in cast("list[Any]", value)] if type(value) is list else value


def _without_logger_fields(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    added = _LOGGER_FIELDS if name in _OF_A_CLUSTER else _LOGGER_FIELDS | {"clusterId"}
    return fields if added.isdisjoint(fields) else {key: each for key, each in fields.items() if key not in added}


def dedupe_key(body: bytes, event: Event) -> str:
    """The dedupe key, SHA-256 in hex; `event` is `read_event(body)`.

    It hashes the canonical JSON of [name, fields], so that a webhook and its CDR line have one key, or the raw bytes where
    the body is not JSON. Raw bytes that are not JSON never equal canonical JSON, so the two cannot collide.
    """
    canonical = event.canonical
    return hashlib.sha256(body if canonical is None else canonical).hexdigest()


def event_copy(event: Event, record: Record) -> EventCopy | None:
    """Which event a record is a copy of; None where its body is not JSON.

    Copies differ by what an encoding made of their letters: webhooks up to 2.17 are ISO-8859-1 and have `?` for all
    others, the CDR file of the same call is UTF-8.
    """
    body = record.body
    is_plain = b"?" not in body and b"\\u" not in body and body.isascii() and event.fields is event.value
    if is_plain and _HASH.fullmatch(record.dedupe_key):
        # The usual case: the dedupe key is that of the canonical text, so nothing is hashed again.
        return EventCopy(record.dedupe_key, int(record.dedupe_key[:8], 16), 0)
    canonical = event.canonical
    if canonical is None:
        return None
    key = hashlib.sha256(canonical).hexdigest()
    text = int(key[:8], 16)
    if canonical.isascii() and b"?" not in canonical:
        return EventCopy(key, text, 0)
    key = hashlib.sha256(_MAYBE_DAMAGED.sub(b"?", canonical)).hexdigest()
    return EventCopy(key, text, _damage(canonical.decode("utf-8", "surrogatepass")))


def repeat_copy(copy: EventCopy, *identity: str | int | None) -> EventCopy:
    """The copy of an event that `identity` names, also where it is reported again at another time.

    Of the reports with one time, the least damaged is shown.
    """
    key = hashlib.sha256(_MAYBE_DAMAGED.sub(b"?", _write_canonical("", identity))).hexdigest()
    return EventCopy(key, (copy.damage or 0) << 32 | (copy.text or 0), None)


def _damage(text: str) -> int:
    """How many characters of a text an encoding may have cost."""
    misread = sum(len(run) for run in _LETTERS.findall(text) if _is_misread(run))
    return misread + len(_LOST.findall(text))


def _is_misread(letters: str) -> bool:
    """Whether these letters are UTF-8 that was read as a Western encoding."""
    for encoding in ("iso-8859-1", "cp1252"):
        try:
            letters.encode(encoding).decode("utf-8")
        except ValueError:
            continue
        return True
    return False


def former_keys(body: bytes) -> tuple[str, ...]:
    """The dedupe key that earlier versions of Tracker gave to a body. They hashed the fields that a logger adds, too."""
    event = read_event(body)
    if not event.is_json:
        return ()
    fields = event.value
    if event.name == "recordingStatusChanged":
        fields = _recording_identity(fields, with_name=False)
    return (hashlib.sha256(_write_canonical(event.name, fields)).hexdigest(),)


def shown_name(event: Event) -> str:
    """The event's name without lone surrogates, cut to 200 characters."""
    return replace_surrogates(event.name)[:_LONGEST_NAME]


def parse_json(text: str) -> Any:
    """The JSON value of a text, with finite numbers, unique keys and bounded nesting.

    Integral floats become ints. Raises ValueError; the message never quotes the text.
    """
    return _whole(parse_strict(text))


def split_event(value: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """(name, fields) of the event in a body, in either shape; ("", body) where it has no name. Takes the name out of `value`."""
    name = value.get("event")
    if isinstance(name, str):
        del value["event"]
        return name, value
    if len(value) == 1:
        ((name, inner),) = value.items()
        if isinstance(inner, dict):
            return name, cast("dict[str, Any]", inner)
    return "", value


def _canonical(name: str, fields: Any) -> bytes:
    if name == "recordingStatusChanged" and isinstance(fields, dict):
        fields = _recording_identity(cast("dict[str, Any]", fields), with_name=True)
    return _write_canonical(name, fields)


def _write_canonical(name: str, fields: Any) -> bytes:
    named = [name, fields]
    try:
        # The fast encoder writes the same bytes as `json`, except for numbers with a fraction.
        if _FRACTION not in _pack(named):
            return _write_sorted(named)
    except (ValueError, OverflowError, RecursionError):  # lone surrogates, wide numbers
        pass
    text = json.dumps(named, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "surrogatepass")


def _recording_identity(inner: dict[str, Any], *, with_name: bool) -> dict[str, Any]:
    # The sender prints the webhook later than the CDR line, from an object that has changed in between: size and
    # duration of one event differ between the two. These four never do (HttpWebhookSender.java, observed).
    identity = {key: inner.get(key) for key in ("id", "startTime", "status", "timestamp")}
    if None in identity.values():
        return inner
    # A name that an encoding may have damaged: the copy with the readable one has to be recorded as well.
    name = inner.get("name") if with_name else None
    return identity | {"name": name} if isinstance(name, str) and (not name.isascii() or "?" in name) else identity
