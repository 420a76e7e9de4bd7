"""Read protojson tolerantly: the JSON of protobuf messages.

protojson writes 64-bit integers as strings, leaves zero values out, and writes enums by name or, where the sender does not
know the name, by number. Go's encoder spells fields in camelCase or in snake_case, by its options; protobuf's JSON mapping
obliges every reader to accept both, so `Message` does. A value of a wrong type reads as absent: nothing here raises.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Literal, cast

from tracker.domain.text_cache import text_cache
from tracker.domain.facts import Micros
from tracker.sources import plain_json
from tracker.sources.json_reading import replace_surrogates


Unit = Literal["s", "ms", "us", "ns"]

_DEEPEST = 50
_LONGEST_TEXT = 8192
_LONGEST_CACHED = 64
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
_TOKEN = re.compile(r"eyJ[\w-]{10,}(?:\.[\w-]*)*", re.ASCII)
_DIGITS = re.compile(r"-?[0-9]{1,19}", re.ASCII)


class Message:
    """One protojson object. Methods take a field's snake_case name and find the field under either spelling."""

    __slots__ = ("fields",)

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = fields

    def value(self, name: str) -> Any:
        """The raw value; None when absent (or null, which means the same)."""
        fields = self.fields
        if not fields:
            return None
        found = fields.get(name)
        return fields.get(_CAMEL[name]) if found is None else found

    # Called some thirty times for each body, so these two do not call `value`.

    def text(self, name: str) -> str | None:
        """A string; None where it is absent, empty or not a string."""
        value = self.fields.get(name)
        if value is None:
            value = self.fields.get(_CAMEL[name])
        return value if isinstance(value, str) and value else None

    def whole(self, name: str) -> int | None:
        """A 64-bit integer, written as a number or as a string of digits."""
        value = self.fields.get(name)
        if value is None:
            value = self.fields.get(_CAMEL[name])
            if value is None:
                return None
        if isinstance(value, str):
            value = int(value) if _DIGITS.fullmatch(value) else None
        elif isinstance(value, float) and value.is_integer():
            value = int(value)
        return value if type(value) is int and -(2**63) <= value < 2**63 else None

    def number(self, name: str) -> float | None:
        """A finite number of any kind."""
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return self.whole(name)
        return float(value) if abs(value) < 2**63 else None

    def moment(self, name: str, unit: Unit) -> Micros | None:
        """A time since the epoch, in µs; None where it is absent, zero, or not between 1970 and the year 10000."""
        value = self.whole(name)
        if value is None or value <= 0:
            return None
        found = value // 1000 if unit == "ns" else value * {"s": 1_000_000, "ms": 1000, "us": 1}[unit]
        return found if 0 < found < _LAST else None

    def flag(self, name: str) -> bool:
        """Whether a bool is present and true."""
        return self.value(name) is True

    def enum(self, name: str, *known: str) -> str | None:
        """An enum's name; None when absent.

        `known` are the names in order of their numbers, "" for a number without a name. A sender writes the number where it
        does not know the name itself: the number, or its digits as a text, is looked up, else kept as digits.
        """
        number = self.whole(name)
        if number is None:
            return self.text(name)
        return (known[number] if 0 <= number < len(known) else "") or str(number)

    def object(self, name: str) -> Message:
        """An object; an empty one where it is absent."""
        value = self.value(name)
        return Message(cast("dict[str, Any]", value)) if isinstance(value, dict) else _EMPTY

    def objects(self, name: str) -> list[Message]:
        """The objects of a list; other items are left out."""
        value = self.value(name)
        items = cast("list[Any]", value) if isinstance(value, list) else []
        return [Message(cast("dict[str, Any]", item)) for item in items if isinstance(item, dict)]

    def __bool__(self) -> bool:
        return bool(self.fields)


_EMPTY = Message({})


def read_message(body: bytes) -> Message | None:
    """The body as a message; None where it is not a readable JSON object."""
    value = plain_json.parse_fast(body, max_depth=_DEEPEST)
    if value is None:
        try:
            value = _storable(json.loads(body.decode("utf-8-sig", "replace")), 0)
        except (ValueError, RecursionError):
            return None
    return Message(cast("dict[str, Any]", value)) if isinstance(value, dict) else None


def camel(name: str) -> str:
    """The camelCase spelling of a snake_case field (`joined_at_ms` → `joinedAtMs`)."""
    return _CAMEL[name]


class _Spellings(dict[str, str]):
    def __missing__(self, name: str) -> str:
        # Only called with constant names.
        head, *rest = name.split("_")
        spelling = self[name] = head + "".join(part.capitalize() for part in rest)
        return spelling


_CAMEL = _Spellings()


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
    return clean_text(value, nested) if isinstance(value, str) else value


def parse_nested(text: str | None) -> Any:
    """The value of a JSON text; None where the text is not JSON."""
    if not text:
        return None
    value = plain_json.parse_fast(text, max_depth=_DEEPEST)
    if value is not None:
        return value
    try:
        return _storable(json.loads(text), 0)
    except (ValueError, RecursionError):
        return None


def mask_addresses(text: str | None) -> str | None:
    """The text without tokens, and with every address cut to its host: the rest may be a stream key or a signature."""
    if text is None:
        return None
    shortened: str = shorten(text)
    # Most texts have neither: searching for it is much cheaper than the regular expression.
    if ":" in shortened:
        shortened = _ADDRESS.sub(r"\1://\2/…", shortened)
    return _TOKEN.sub("…", shortened) if "eyJ" in shortened else shortened


def strip_query(address: str | None) -> str | None:
    """An address without user, query and fragment: the query may be a signature that grants access."""
    if address is None:
        return None
    return shorten(
        re.sub(r"^([a-z][a-z0-9+.-]*://)[^/@]*@", r"\1", re.split(r"[?#]", address, maxsplit=1)[0], flags=re.IGNORECASE)
    )


def spellings(*names: str) -> frozenset[str]:
    """The snake_case names in both spellings."""
    return frozenset(spelling for name in names for spelling in (name, camel(name)))


def unknown_fields(message: Message, known: frozenset[str]) -> dict[str, Any]:
    """The fields that the vendor's code does not read, safe to show. `known`: the `spellings` that it reads."""
    if known.issuperset(message.fields):
        return {}
    return {
        name: clean_value(value)
        for name, value in message.fields.items()
        if name not in known and value is not None and not may_name_secret(name)
    }


def drop_empty(**fields: Any) -> dict[str, Any]:
    """The fields that are not None and not empty."""
    return {name: value for name, value in fields.items() if value or value not in (None, "", {}, [])}


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
