"""Query parameters: how each is parsed, and how OpenAPI describes it.

A parameter that is unknown, empty, wrongly repeated or has a bad value raises `ParameterInvalid` with its name: a
misspelt filter that is ignored would give an answer to a different question.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from tracker.errors import ParameterInvalid
from tracker.domain.facts import Micros
from tracker.domain.texts import is_utf8, storable

Schema = dict[str, Any]

MAX_INTEGER = 2**62
DEFAULT_LIMIT = 50
MAX_LIMIT = 1_000
MAX_TEXT_CHARS = 1_024
"""Longest text of a parameter, in characters."""

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_MOMENT = re.compile(r"(\d{4}-\d{2}-\d{2})[Tt](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?([Zz]|[+\- ]\d{2}:\d{2})", re.ASCII)


class Parameter(msgspec.Struct, frozen=True):
    """One query parameter. `parse` turns its text into a value, or raises ValueError saying what is expected.

    `is_repeatable`: it may be repeated, and values may be separated by commas; the result is a tuple.
    """

    name: str
    description: str
    schema: Schema
    parse: Callable[[str], Any]
    is_repeatable: bool = False
    default: Any = None
    is_required: bool = False


def text(name: str, about: str) -> Parameter:
    """A text that is not empty."""
    return Parameter(name, about, {"type": "string", "minLength": 1, "maxLength": MAX_TEXT_CHARS}, str)


def integer(
    name: str, about: str, *, minimum: int = 0, maximum: int = MAX_INTEGER, default: int | None = None
) -> Parameter:
    """A whole number within bounds."""

    def parse(value: str) -> int:
        if not re.fullmatch(r"\d{1,19}", value, re.ASCII) or not minimum <= int(value) <= maximum:
            raise ValueError(f"must be a whole number from {minimum} to {maximum}")
        return int(value)

    schema: Schema = {"type": "integer", "minimum": minimum, "maximum": maximum}
    return Parameter(name, about, schema if default is None else schema | {"default": default}, parse, default=default)


def timestamp(name: str, about: str) -> Parameter:
    """A time, parsed to µs since the epoch: RFC 3339 with an offset, or a day, which means its midnight in UTC."""
    example = "2026-03-01T09:30:00Z"
    return Parameter(name, about, {"type": "string", "examples": [example, "2026-03-01"]}, parse_micros)


def choice(name: str, about: str, options: Sequence[str]) -> Parameter:
    """One of the `options`."""
    return Parameter(name, about, {"type": "string", "enum": list(options)}, _parse_choice(options))


def choices(name: str, about: str, options: Sequence[str]) -> Parameter:
    """Any of the `options`: repeated, or separated by commas."""
    schema = {"type": "array", "items": {"type": "string", "enum": list(options)}}
    return Parameter(name, about, schema, _parse_choice(options), is_repeatable=True, default=())


AT_LEAST = integer("at_least", "Wait until the views have reached this position of the log: up to 5 s, then 504.")
LIMIT = integer("limit", "Maximum number of items in one page.", minimum=1, maximum=MAX_LIMIT, default=DEFAULT_LIMIT)
CURSOR = text("cursor", "`next` of the previous page, unchanged.")
SOURCE = text("source", "Only from this source, by its name in config.toml.")
PAGING = (LIMIT, CURSOR)


def read_query(query: Iterable[tuple[str, str]], parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Parse a query: the value of every parameter by its name, defaults included. Raises `ParameterInvalid`.

    `query` gives names and values in the order of the URL, repeats included.
    """
    given: dict[str, list[str]] = {parameter.name: [] for parameter in parameters}
    for name, value in query:
        if name not in given:
            raise ParameterInvalid(
                storable(name[:64]), f"is not a parameter of this route; known are {', '.join(given)}"
            )
        given[name].append(value)
    return {parameter.name: _value(parameter, given[parameter.name]) for parameter in parameters}


def parse_micros(value: str) -> Micros:
    """A time in µs since the epoch, truncated to the microsecond. Raises ValueError saying what is expected."""
    expected = "must be a time such as 2026-03-01T09:30:00Z (RFC 3339, with an offset) or a day such as 2026-03-01"
    try:
        if _DAY.fullmatch(value):
            return (dt.datetime.fromisoformat(value).replace(tzinfo=dt.UTC) - _EPOCH) // dt.timedelta(microseconds=1)
        if found := _MOMENT.fullmatch(value):
            day, time, fraction, offset = found.groups()
            # A `+` that was not percent-encoded arrives as a space.
            offset = "+00:00" if offset in {"Z", "z"} else offset.replace(" ", "+")
            seconds = (dt.datetime.fromisoformat(f"{day}T{time}{offset}") - _EPOCH) // dt.timedelta(seconds=1)
            return seconds * 1_000_000 + int((fraction or "")[:6].ljust(6, "0"))
    except (ValueError, OverflowError):
        pass
    raise ValueError(expected)


def _parse_choice(options: Sequence[str]) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in options:
            raise ValueError(f"must be one of {', '.join(options)}")
        return value

    return parse


def _value(parameter: Parameter, given: list[str]) -> Any:
    if not given:
        if parameter.is_required:
            raise ParameterInvalid(parameter.name, "is required; add it")
        return parameter.default
    if len(given) > 1 and not parameter.is_repeatable:
        raise ParameterInvalid(parameter.name, "is given more than once; give it once")
    parts = [part for value in given for part in value.split(",")] if parameter.is_repeatable else given
    if not all(parts):
        raise ParameterInvalid(parameter.name, "is empty; give it a value or leave it out")
    if not all(map(is_utf8, parts)):
        raise ParameterInvalid(parameter.name, "is not Unicode text")
    if any(len(part) > MAX_TEXT_CHARS for part in parts) or len(parts) > MAX_LIMIT:
        raise ParameterInvalid(parameter.name, f"is longer than {MAX_TEXT_CHARS} characters")
    try:
        found = [parameter.parse(part) for part in parts]
    except ValueError as error:
        raise ParameterInvalid(parameter.name, str(error)) from None
    return tuple(dict.fromkeys(found)) if parameter.is_repeatable else found[0]
