"""The bodies that BigBlueButton sends, and the events in them.

    bbb-webhooks          a form: event=[{…}]&domain=…&timestamp=…; `event` is the JSON text of one or several events
    analytics callback    JSON about a whole meeting
    recording ready       a form: signed_parameters=<JWT>

An imported line may also be the JSON of an event, or of a list of events.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import parse_qsl

import msgspec

from tracker.sources.json_reading import (
    BodyUnreadable,
    as_object,
    as_text,
    event_name,
    parse_strict,
    replace_surrogates,
)

MAX_FIELDS = 20
MAX_EVENTS = 1_000
ANALYTICS, RECORDING_READY = "analytics-callback", "recording-ready"
"""Names for the two callbacks, which have none."""

HASHES = {"HS256": "sha256", "HS512": "sha512"}
"""The algorithms of BigBlueButton's tokens."""


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """What a body holds. `text`: the JSON text of `events`. `token`: of a recording that is ready."""

    events: tuple[dict[str, Any], ...] = ()
    text: str = ""
    analytics: dict[str, Any] | None = None
    token: str = ""


def read(body: bytes) -> Content:
    """The content of a body. Raises `BodyUnreadable`."""
    try:
        text = body.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise BodyUnreadable("not UTF-8") from None
    if text[:1] in {"{", "["}:
        return _read_json(text)
    fields = form(body)
    if "event" in fields:
        return _read_json(fields["event"])
    if "signed_parameters" in fields:
        return Content(token=fields["signed_parameters"])
    raise BodyUnreadable("neither JSON nor a form with the field event or signed_parameters")


def form(body: bytes) -> dict[str, str]:
    """The fields of a form, the first of each name. Empty where the body is none."""
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except (ValueError, UnicodeDecodeError):
        return {}
    fields: dict[str, str] = {}
    for name, value in pairs:
        fields.setdefault(name, value)
    return fields


def _read_json(text: str) -> Content:
    value = parse_strict(text)
    if isinstance(value, dict) and "internal_meeting_id" in value:
        return Content(analytics=cast("dict[str, Any]", value))
    if isinstance(value, dict):
        return Content(events=(cast("dict[str, Any]", value),), text=f"[{text}]")
    if not isinstance(value, list) or not value:
        raise BodyUnreadable("not a JSON object, nor a list of them")
    items = cast("list[Any]", value)
    if len(items) > MAX_EVENTS or not all(isinstance(item, dict) for item in items):
        raise BodyUnreadable("not a list of JSON objects")
    return Content(events=tuple(items), text=text)


def name_of(event: Mapping[str, Any]) -> str:
    """The name of an event: of a mapped one `data.id`, of a raw one `envelope.name`; "" where there is none."""
    return event_name(as_object(event.get("data")).get("id")) or event_name(
        as_object(event.get("envelope")).get("name")
    )


def identify(body: bytes) -> tuple[str, str]:
    """(event name, dedupe key). Of several events, the name of the first. Never raises.

    A hook's retries, and other hooks, send the same text of events; domain and timestamp are not part of it.
    """
    try:
        content = read(body)
    except BodyUnreadable:
        return "", hashlib.sha256(body).hexdigest()
    if content.events:
        key = hashlib.sha256(replace_surrogates(content.text).encode()).hexdigest()
        return name_of(content.events[0]), key
    return ANALYTICS if content.analytics is not None else RECORDING_READY, hashlib.sha256(body).hexdigest()


def signed_claims(token: str, secrets: Sequence[str], algorithm: str) -> tuple[int, dict[str, Any]] | None:
    """(index of the secret, claims) of a JWT that one of `secrets` signed; None where none did, or where it is no JWT."""
    parts = token.split(".")
    if len(parts) != 3 or not token.isascii():
        return None
    header, claims = _object(parts[0]), _object(parts[1])
    if header is None or claims is None or header.get("alg") != algorithm or "crit" in header:
        return None
    signed = f"{parts[0]}.{parts[1]}".encode()
    offered = parts[2].encode()
    found: int | None = None
    # Every secret is tried, so that the time does not reveal which one matched.
    for index, secret in enumerate(secrets):
        digest = hmac.digest(secret.encode("utf-8", "surrogatepass"), signed, HASHES[algorithm])
        same = hmac.compare_digest(base64.urlsafe_b64encode(digest).rstrip(b"="), offered)
        if same and secret and found is None:
            found = index
    return None if found is None else (found, claims)


def unverified_claims(token: str) -> dict[str, Any]:
    """The claims of a token that was verified when it arrived."""
    parts = token.split(".")
    return (_object(parts[1]) or {}) if len(parts) == 3 else {}


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def stringified(fields: Mapping[str, str]) -> str | None:
    """The text that bbb-webhooks 2.x signs: JavaScript's `JSON.stringify({event, timestamp, domain})`; None without them."""
    event, timestamp, domain = (fields.get(name) for name in ("event", "timestamp", "domain"))
    if event is None or domain is None or timestamp is None or not timestamp.isascii() or not timestamp.isdigit():
        return None
    quote = json.JSONEncoder(ensure_ascii=False).encode
    return f'{{"event":{quote(event)},"timestamp":{timestamp},"domain":{quote(domain)}}}'


def external_id(user: Mapping[str, Any]) -> str | None:
    """The id that the application gave a person; it may be empty."""
    return as_text(user.get("external-user-id"))
