"""JSON as senders write it: one object out of raw bytes, and what of it may be kept in a fact. Knows no vendor.

Two steps, because evidence and opinion differ: `read_object` refuses what cannot be read one way only (a key twice,
`NaN`, absurd nesting); `kept` makes what was read safe to show and to encode.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable
from typing import Any, cast

from tracker.domain.deliveries import Record
from tracker.domain.facts import Micros
from tracker.sources import plain_json


MAX_TIME: Micros = 253_402_300_800_000_000
"""The year 10000 in µs: no store or answer can hold a later time."""

MAX_DEPTH = 64
"""Bodies nested deeper are unreadable: a fixed bound, so that the answer never depends on the caller's stack."""

_LONGEST_NUMBER = 100
"""Digits; Python may refuse to print a longer one."""

_LONGEST_NAME = 200
_LONGEST_CACHED = 64

_SECRET_KEY = re.compile(
    r"passw|secret|token|authorization|credential|url$|uri$|^access$|(?:api|stream|private|encryption|e2ee)_?key|^sdp$",
    re.IGNORECASE,
)
# A link may be a door: what follows the host (path, query) and what stands before it (user, password) is left out.
# Inside text that is JSON itself, its slashes may be written `\/`.
_LINK = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30}):(?:\\?/){2}(?:[^/\s@\\]*@)?([^/\s?#\"'\\]*)[^\s\"']*")
_SECRET_PARAMETER = re.compile(
    r"([?&](?:[\w-]*(?:secret|token|password|signature|api_?key)))=[^&\s\"']*", re.IGNORECASE
)


class BodyUnreadable(ValueError):
    """The body is no JSON object that can be read in one way only; the message says why and never quotes it."""


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object a body holds. Raises `BodyUnreadable`."""
    value = plain_json.parse_unambiguous(body, deepest=MAX_DEPTH)
    if isinstance(value, dict):
        return cast("dict[str, Any]", value)
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BodyUnreadable("not UTF-8") from None
    value = parse_strict(text)
    if not isinstance(value, dict):
        raise BodyUnreadable("not a JSON object")
    return cast("dict[str, Any]", value)


def parse_strict(text: str, *, parse_float: Callable[[str], Any] | None = None) -> Any:
    """The JSON value of a text whose numbers are finite, whose keys are unique and whose nesting is bounded.

    `parse_float`: a reader's own way with numbers that are not whole. Raises `BodyUnreadable`.
    """
    try:
        value = json.loads(
            text,
            parse_int=_whole, parse_float=parse_float or _real, parse_constant=_no_number, object_pairs_hook=_unique,
        )  # fmt: skip
    except json.JSONDecodeError as error:
        raise BodyUnreadable(f"not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise BodyUnreadable("nested too deeply") from None
    _refuse_depth(value, MAX_DEPTH)
    return value


def replace_surrogates(text: str) -> str:
    """The text with lone surrogates (legal in JSON escapes, not in UTF-8) replaced by U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def as_text(value: object) -> str | None:
    """A non-empty string every store takes, or None."""
    return replace_surrogates(value) if isinstance(value, str) and value else None


def event_name(value: object) -> str:
    """An event's name as text of bounded length; "" for anything that is no text."""
    return (as_text(value) or "")[:_LONGEST_NAME]


def as_object(value: object) -> dict[str, Any]:
    """The value if it is an object, else an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def as_count(value: object) -> int | None:
    """A whole number from 0 to what a store holds, or None."""
    return value if type(value) is int and 0 <= value < 2**63 else None


def without_secrets(value: Any) -> Any:
    """The value without secrets, links' paths, lone surrogates and numbers no encoder takes; nesting as it came."""
    if isinstance(value, str):
        # Looking for what every match has is much cheaper than looking for a match.
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
    return _searched(name) if len(name) <= _LONGEST_CACHED else _SECRET_KEY.search(name) is not None


@functools.lru_cache(maxsize=1024)
def _searched(name: str) -> bool:
    # Senders use the same few names for ever.
    return _SECRET_KEY.search(name) is not None


def pick_fields(said: dict[str, Any], *names: str) -> dict[str, Any]:
    """Of `said`, the named fields that hold something, made safe to keep."""
    return {name: without_secrets(said[name]) for name in names if said.get(name) is not None}


def read_proof(record: Record) -> dict[str, Any]:
    """The proof kept with a record, as an object; empty where it is none."""
    value = plain_json.parse_fast(record.proof, deepest=MAX_DEPTH)
    if value is not None:
        return as_object(value)
    try:
        return as_object(json.loads(record.proof))
    except (ValueError, RecursionError):
        return {}


def _whole(token: str) -> int:
    if len(token) > _LONGEST_NUMBER:
        raise BodyUnreadable("a number is too long")
    return int(token)


def _real(token: str) -> float:
    number = float(token)
    if not math.isfinite(number):
        raise BodyUnreadable("a number is too large")
    return number


def _no_number(token: str) -> Any:
    raise BodyUnreadable(f"{token} is no JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
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
