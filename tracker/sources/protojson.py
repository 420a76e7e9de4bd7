"""Read protojson tolerantly: the JSON of protobuf messages.

protojson writes 64-bit integers as strings, leaves zero values out, and writes enums by name or, where the sender does not
know the name, by number. Go's encoder spells fields in camelCase or in snake_case, by its options; protobuf's JSON mapping
obliges every reader to accept both: see `either`. The readers of values (`text`, `whole`, …) take whatever JSON there is. A
value of a wrong type reads as absent: nothing here raises.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Literal, cast

import msgspec

from tracker.domain.text_cache import text_cache
from tracker.domain.facts import Micros
from tracker.sources import plain_json
from tracker.sources.json_reading import replace_surrogates


Unit = Literal["s", "ms", "us", "ns"]

_DEEPEST = 50
_LONGEST_TEXT = 8192
_LONGEST_CACHED = 64
_MOST_DIGITS = 19
_NEGATIVE = re.compile(r"-[0-9]{1,19}", re.ASCII)
_OPENING = ("{", "[")
_LAST = 253_402_300_800_000_000
"""The year 10000, in µs: neither views nor answers can hold a later time."""

_SECRET_NAME = re.compile(
    r"passw|secret|credential|authorization|(?:stream|encryption|e2ee|shared|signing|private|access|api)[_-]?key"
    r"|token$|^jwt$|pwd|(?:^|[_.-])(?:pin|pw)$"
    r"|(?-i:[a-z](?:Pin|PW)$)",
    re.IGNORECASE,
)
# An RTMP address ends in its stream key, an object's address may end in a signature: only the host is shown.
# In text that is JSON itself, slashes may be written `\/`.
_ADDRESS = re.compile(
    r"([a-z][a-z0-9+.-]{0,30}):(?:\\?/){2}(?:[^\s/@\"'\\]*@)?([^\s/?#\"'\\]*)[^\s\"']*", re.IGNORECASE
)
_USER = re.compile(r"^([a-z][a-z0-9+.-]*://)[^/@]*@", re.IGNORECASE)
_TOKEN = re.compile(r"eyJ[\w-]{10,}(?:\.[\w-]*)*", re.ASCII)
_MICROS = {"s": 1_000_000, "ms": 1000, "us": 1}
_NOTHING: dict[str, Any] = {}


def read_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object in a body; None where there is none."""
    value = parse_nested(body)
    return cast("dict[str, Any]", value) if type(value) is dict else None


def parse_nested(text: str | bytes) -> Any:
    """The value of a JSON text; None where the text is not JSON. Of a repeated field, the last one counts."""
    opening = (b"{", b"[") if isinstance(text, bytes) else ("{", "[")
    try:
        try:
            value = plain_json.decode(text)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            value = json.loads(text.decode("utf-8-sig", "replace") if isinstance(text, bytes) else text)
        else:
            # A value has at least as many opening brackets as levels.
            if text.count(opening[0]) + text.count(opening[1]) <= _DEEPEST:  # pyright: ignore[reportArgumentType]
                return value
        return _storable(value, 0)
    except (ValueError, RecursionError):
        return None


def either(fields: Mapping[str, Any], name: str, camel_name: str) -> Any:
    """The value of a field under either spelling; None when absent (or null, which means the same)."""
    value = fields.get(name)
    return fields.get(camel_name) if value is None else value


def text(value: Any) -> str | None:
    """A string; None where it is empty or not a string."""
    return value if type(value) is str and value else None


def whole(value: Any) -> int | None:
    """A 64-bit integer, written as a number or as a string of digits."""
    if type(value) is str:
        if not ((value.isdigit() and value.isascii() and len(value) <= _MOST_DIGITS) or _NEGATIVE.fullmatch(value)):
            return None
        value = int(value)
    elif type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def number(value: Any) -> float | None:
    """A finite number of any kind."""
    if type(value) is not int and type(value) is not float:
        return whole(value)
    return float(value) if abs(value) < 2**63 else None


def moment(value: Any, unit: Unit) -> Micros | None:
    """A time since the epoch, in µs; None where it is absent, zero, or not between 1970 and the year 10000."""
    if not value or (since := whole(value)) is None or since <= 0:
        return None
    at = since // 1000 if unit == "ns" else since * _MICROS[unit]
    return at if 0 < at < _LAST else None


def enum_table(*names: str) -> dict[str | int, str]:
    """For `enum`: an enum's names in order of their numbers, "" for a number without a name."""
    return {key: name for n, name in enumerate(names) if name for key in (name, n)}


def enum(value: Any, table: Mapping[str | int, str]) -> str | None:
    """An enum's name; None when absent.

    A sender writes the number where it does not know the name itself: the number, or its digits as a text, is looked up, else
    kept as digits.
    """
    if value is None:
        return None
    if type(value) is str and value in table:
        return value
    number = whole(value)
    return text(value) if number is None else table.get(number) or str(number)


def as_object(value: Any) -> dict[str, Any]:
    """An object; an empty one where there is none."""
    return cast("dict[str, Any]", value) if type(value) is dict else _NOTHING


def as_objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; other items are left out."""
    return [item for item in cast("list[Any]", value) if type(item) is dict] if type(value) is list else []


def camel(name: str) -> str:
    """The camelCase spelling of a snake_case field (`joined_at_ms` → `joinedAtMs`)."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def shorten(value: Any) -> Any:
    """The value without fields whose names suggest a secret, long texts cut."""
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {name: shorten(field) for name, field in fields.items() if not may_name_secret(name)}
    if isinstance(value, list):
        return [shorten(item) for item in cast("list[Any]", value)]
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        return value[:_LONGEST_TEXT] + "…"
    return value


def may_name_secret(name: str) -> bool:
    """Whether a field of this name may hold a secret."""
    return _name_is_secret(name) if len(name) <= _LONGEST_CACHED else _SECRET_NAME.search(name) is not None


@text_cache(1024)
def _name_is_secret(name: str) -> bool:
    # Senders use the same few names.
    return _SECRET_NAME.search(name) is not None


def clean_text(text: str | None, nested: int = 3) -> str | None:
    """An application's text, safe to show: addresses cut to the host and, where the text is JSON, secret fields removed.

    `nested`: how many levels of JSON texts within JSON texts are cleaned.
    """
    if text is None:
        return None
    # Only an object or a list has names.
    inner = parse_nested(text) if nested and text.lstrip()[:1] in _OPENING else None
    if isinstance(inner, dict | list) and (cleaned := clean_value(inner, nested - 1)) != inner:
        text = json.dumps(cleaned, ensure_ascii=False, separators=(",", ":"))
    return mask_addresses(text)


def clean_value(value: Any, nested: int = 3) -> Any:
    """An unknown value, safe to show: without secret fields and full addresses, also in nested JSON texts."""
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {name: clean_value(field, nested) for name, field in fields.items() if not may_name_secret(name)}
    if isinstance(value, list):
        return [clean_value(item, nested) for item in cast("list[Any]", value)]
    if isinstance(value, str):
        return clean_text(value, nested)
    # Stores hold no wider integers.
    return str(value) if type(value) is int and not -(2**63) <= value < 2**63 else value


def mask_addresses(text: str | None) -> str | None:
    """The text without tokens, and with every address cut to its host: the rest may be a stream key or a signature."""
    if text is None:
        return None
    shortened: str = shorten(text)
    # Most texts have neither: searching for it is much cheaper than the regular expression.
    if ":" in shortened and "/" in shortened:
        shortened = _ADDRESS.sub(r"\1://\2/…", shortened)
    return _TOKEN.sub("…", shortened) if "eyJ" in shortened else shortened


def strip_query(address: str | None) -> str | None:
    """An address without user, query and fragment: the query may be a signature that grants access."""
    if address is None:
        return None
    bare = address.partition("?")[0].partition("#")[0]
    return shorten(_USER.sub(r"\1", bare) if "@" in bare else bare)


def spellings(*names: str) -> frozenset[str]:
    """The snake_case names in both spellings."""
    return frozenset(spelling for name in names for spelling in (name, camel(name)))


def unknown_fields(fields: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """The fields that the vendor's code does not read, safe to show. `known`: the `spellings` that it reads."""
    if known.issuperset(fields):
        return {}
    return {
        name: clean_value(value)
        for name, value in fields.items()
        if name not in known and value is not None and not may_name_secret(name)
    }


def drop_empty(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that are not None and not empty."""
    return {name: value for name, value in fields.items() if value or value == 0}


def _storable(value: Any, depth: int) -> Any:
    """The value without lone surrogates and non-finite numbers, which views cannot hold. Raises ValueError."""
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {replace_surrogates(name): _storable(field, depth + 1) for name, field in fields.items()}
    if isinstance(value, list):
        return [_storable(item, depth + 1) for item in cast("list[Any]", value)]
    if isinstance(value, str):
        return replace_surrogates(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if type(value) is int and not -(2**63) <= value < 2**63:
        return str(value)
    return value
