"""Read the JSON object of a webhook's body, and make its values safe for facts. For all vendors.

`read_object` refuses bodies that can be read in more than one way (a repeated key, `NaN`, deep nesting);
`without_secrets` makes a value safe to show and to encode.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from tracker.domain.text_cache import text_cache
from tracker.domain.deliveries import Record
from tracker.domain.facts import EventCopy, Micros
from tracker.sources import plain_json


MAX_TIME: Micros = 253_402_300_800_000_000
"""The year 10000, in µs: neither views nor answers can hold a later time."""

MAX_DEPTH = 64
"""Bodies nested deeper are unreadable. The bound is fixed, so that the result never depends on the caller's stack."""

_LONGEST_NUMBER = 100
"""Digits; Python may refuse to print longer numbers."""

_LONGEST_NAME = 200
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DATE_AND_TIME = re.compile(r"[0-9W-]{8,10}[Tt ][0-9]{2}[\x00-\x7f]*\Z")
"""`fromisoformat` takes any character between date and time, and digits of any alphabet."""
_LONGEST_CACHED = 64

_SECRET_KEY = re.compile(
    r"passw|secret|token|authorization|credential|url$|uri$|^access$|(?:api|stream|private|encryption|e2ee)_?key|^sdp$",
    re.IGNORECASE,
)
# A link may grant access: its path, query, user and password are cut. In text that is JSON itself, slashes may be written `\/`.
_LINK = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30}):(?:\\?/){2}(?:[^/\s@\\]*@)?([^/\s?#\"'\\]*)[^\s\"']*")
_SECRET_PARAMETER = re.compile(
    r"([?&](?:[\w-]*(?:secret|token|password|signature|api_?key)))=[^&\s\"']*", re.IGNORECASE
)


class BodyUnreadable(ValueError):
    """The body is not a JSON object, or can be read in more than one way. The message says why and never quotes the body."""


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises `BodyUnreadable`."""
    value = plain_json.parse_unambiguous(body, max_depth=MAX_DEPTH)
    if isinstance(value, dict):
        return cast("dict[str, Any]", value)
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BodyUnreadable("not UTF-8") from None
    value = parse_carefully(text)
    if not isinstance(value, dict):
        raise BodyUnreadable("not a JSON object")
    return cast("dict[str, Any]", value)


def parse_strict(text: str) -> Any:
    """The JSON value of a text, with finite numbers, unique keys and bounded nesting. Raises `BodyUnreadable`."""
    value = plain_json.parse_unambiguous(text.encode("utf-8", "surrogatepass"), MAX_DEPTH)
    return parse_carefully(text) if value is None else value


def parse_carefully(text: str) -> Any:
    """`parse_strict` without its fast path, for a body that the fast path left open. Raises `BodyUnreadable`."""
    try:
        value = json.loads(
            text,
            parse_int=_parse_int, parse_float=_parse_float, parse_constant=_refuse_constant, object_pairs_hook=_unique_pairs,
        )  # fmt: skip
    except json.JSONDecodeError as error:
        raise BodyUnreadable(f"not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise BodyUnreadable("nested too deeply") from None
    if text.count("{") + text.count("[") > MAX_DEPTH:  # else no value can nest deeper
        _refuse_depth(value, MAX_DEPTH)
    return value


def replace_surrogates(text: str) -> str:
    """The text with lone surrogates replaced by U+FFFD: JSON escapes may hold them, UTF-8 may not."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def as_text(value: object) -> str | None:
    """A non-empty string without lone surrogates, or None."""
    return replace_surrogates(value) if isinstance(value, str) and value else None


def as_word(value: object) -> str | None:
    """A value of an enumeration: a text, or a whole number in digits; else None."""
    return str(value) if type(value) is int else as_text(value)


_NAME_KEYS = ("clientData", "name", "nickname", "userName", "username", "displayName", "nome")
"""Where applications put a person's name in an object; many send the object in place of the name."""
_LOOKS_LIKE_JSON = re.compile(r"""\{\s*(?:["'\\}]|[\w$]+\s*:|$)|\[\s*(?:["'\\{\[\]]|[\d.,\s-]*\]|object \w+\]|$)""")
_JSON_BEGINS = frozenset('{["')
_MAX_NESTED_NAMES = 12


def person_name(value: object) -> str | None:
    """The name in a text that should be a person's name; never JSON.

    An application may send an object with the name in it (`{"clientData": "Mike"}`), also as a text within a text, and may
    join the client's and the server's text by `%/%`. Broken JSON, and JSON without a name, is no name.
    """
    return _name_in(value, _MAX_NESTED_NAMES)


def _name_in(value: object, nested: int) -> str | None:
    if nested < 0:
        return None
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        for key in _NAME_KEYS:
            name = _name_in(fields.get(key), nested - 1)
            if name is not None:
                return name
        return None
    if not isinstance(value, str):
        return None
    text = replace_surrogates(value).lstrip("\ufeff").strip()
    if "%/%" in text:
        parts = (_name_in(part, nested - 1) for part in text.split("%/%"))
        return next((name for name in parts if name is not None), None)
    if text == "null":
        return None
    parsed = _json_in(text) if text[:1] in _JSON_BEGINS else None
    if parsed is not None:
        return _name_in(parsed, nested - 1)
    # Nicknames may stand in quotes, brackets or braces.
    return None if _LOOKS_LIKE_JSON.match(text) else text[:_LONGEST_NAME] or None


def _json_in(text: str) -> object:
    """The value of a JSON text, also of one whose quotes are escaped once more; None where it is broken."""
    for candidate in (text, f'"{text}"'):
        try:
            value = parse_strict(candidate)
        except BodyUnreadable:
            continue
        if value != text:
            return value
    return None


def event_name(value: object) -> str:
    """An event's name, cut to 200 characters; "" where it is not a text."""
    return (as_text(value) or "")[:_LONGEST_NAME]


def iso_moment(value: object) -> Micros | None:
    """ISO 8601 with a zone, as µs, finer digits cut off; None for anything else, and for times before 1970.

    Every form that `datetime.fromisoformat` reads: also basic, with a comma, without seconds, with a zone of hours.
    A time that was never set is Go's zero time, `0001-01-01T00:00:00Z`.
    """
    if not isinstance(value, str) or not _DATE_AND_TIME.match(value):
        return None
    try:
        moment = datetime.fromisoformat(value.upper())
        at = (moment - _EPOCH) // timedelta(microseconds=1) if moment.tzinfo is not None else 0
    except (ValueError, OverflowError):
        return None
    return at if 0 < at < MAX_TIME else None


def as_object(value: object) -> dict[str, Any]:
    """The value if it is an object, else an empty object."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def as_count(value: object) -> int | None:
    """A whole number from 0 to 2^63 - 1, or None."""
    return value if type(value) is int and 0 <= value < 2**63 else None


def without_secrets(value: Any) -> Any:
    """The value without secrets, the paths of links, lone surrogates, and integers wider than 64 bits."""
    if isinstance(value, str):
        # Most texts have neither character: searching for it is much cheaper than the regular expression.
        linked = _LINK.sub(r"\1://\2/…", replace_surrogates(value)) if ":" in value else replace_surrogates(value)
        return _SECRET_PARAMETER.sub(r"\1=…", linked) if "=" in linked else linked
    if isinstance(value, dict):
        inner = cast("dict[str, Any]", value)
        return {
            replace_surrogates(name): without_secrets(field) for name, field in inner.items() if not _secret_name(name)
        }
    if isinstance(value, list):
        return [without_secrets(item) for item in cast("list[Any]", value)]
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    return value


def _secret_name(name: str) -> bool:
    return _name_is_secret(name) if len(name) <= _LONGEST_CACHED else _SECRET_KEY.search(name) is not None


@text_cache(1024)
def _name_is_secret(name: str) -> bool:
    # Senders use the same few names.
    return _SECRET_KEY.search(name) is not None


_write_sorted = json.JSONEncoder(sort_keys=True, ensure_ascii=True, default=str).encode


def repeat_of(*values: Any, text: int = 0) -> EventCopy:
    """The content of an event without its sending time: equal for an event that is sent again.

    `text`: of the texts that `values` leave out. Of repeats with one time, the one with the smallest is shown.
    """
    return EventCopy(hashlib.sha256(_write_sorted(values).encode()).hexdigest(), text, None)


def given_id(text: str, word: str) -> str:
    """A vendor's id that no id equals which Tracker makes with `word` at its start. An ordinary id stays as it is."""
    return f"~{text}" if text.lstrip("~").startswith(word) else text


def pick_fields(body: dict[str, Any], *names: str) -> dict[str, Any]:
    """The named fields of `body` that are present, made safe for facts."""
    return {name: without_secrets(body[name]) for name in names if body.get(name) is not None}


def read_proof(record: Record) -> dict[str, Any]:
    """The recorded proof as an object; empty where it is not one."""
    value = plain_json.parse_fast(record.proof, max_depth=MAX_DEPTH)
    if value is not None:
        return as_object(value)
    try:
        return as_object(json.loads(record.proof))
    except (ValueError, RecursionError):
        return {}


def _parse_int(token: str) -> int:
    if len(token) > _LONGEST_NUMBER:
        raise BodyUnreadable("a number is too long")
    return int(token)


def _parse_float(token: str) -> float:
    number = float(token)
    if not math.isfinite(number):
        raise BodyUnreadable("a number is too large")
    return number


def _refuse_constant(token: str) -> Any:
    raise BodyUnreadable(f"{token} is no JSON number")


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BodyUnreadable("a key appears twice in one object")
    return found


def _refuse_depth(value: Any, left: int) -> None:
    if left < 0:
        raise BodyUnreadable("nested too deeply")
    if isinstance(value, dict):
        for field in cast("dict[str, Any]", value).values():
            _refuse_depth(field, left - 1)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            _refuse_depth(item, left - 1)
