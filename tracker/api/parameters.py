"""What may stand behind the `?`: each parameter once, with how it is read and how OpenAPI says it.

Whatever is unknown, empty, repeated where one is meant, or of a bad value is a `ParameterInvalid` naming the parameter:
a filter that was misspelt and ignored would answer another question than the one asked.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from tracker.errors import ParameterInvalid
from tracker.domain.facts import Micros

Schema = dict[str, Any]

MAX_INTEGER = 2**62
DEFAULT_LIMIT = 50
MAX_LIMIT = 1_000
MAX_TEXT_CHARS = 1_024
"""No text is longer than this, in characters."""

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_MOMENT = re.compile(r"(\d{4}-\d{2}-\d{2})[Tt](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?([Zz]|[+\- ]\d{2}:\d{2})", re.ASCII)


class Parameter(msgspec.Struct, frozen=True):
    """One query parameter. `read` turns its text into a value or raises ValueError saying what is wanted.

    `many`: it may be repeated and its values separated by commas; its value is then a tuple. `needed`: it has to be there.
    """

    name: str
    description: str
    schema: Schema
    parse: Callable[[str], Any]
    is_repeatable: bool = False
    default: Any = None
    is_required: bool = False


def text(name: str, about: str) -> Parameter:
    """Any text that is not empty."""
    return Parameter(name, about, {"type": "string", "minLength": 1, "maxLength": MAX_TEXT_CHARS}, str)


def integer(
    name: str, about: str, *, minimum: int = 0, maximum: int = MAX_INTEGER, default: int | None = None
) -> Parameter:
    """A whole number within bounds."""

    def read(value: str) -> int:
        if not re.fullmatch(r"\d{1,19}", value, re.ASCII) or not minimum <= int(value) <= maximum:
            raise ValueError(f"is a whole number from {minimum} to {maximum}")
        return int(value)

    schema: Schema = {"type": "integer", "minimum": minimum, "maximum": maximum}
    return Parameter(name, about, schema if default is None else schema | {"default": default}, read, default=default)


def timestamp(name: str, about: str) -> Parameter:
    """A moment, read as µs since the epoch: RFC 3339 with an offset, or a day, which is its midnight in UTC."""
    example = "2026-03-01T09:30:00Z"
    return Parameter(name, about, {"type": "string", "examples": [example, "2026-03-01"]}, parse_micros)


def choice(name: str, about: str, options: Sequence[str]) -> Parameter:
    """One of a few words."""
    return Parameter(name, about, {"type": "string", "enum": list(options)}, _parse_choice(options))


def choices(name: str, about: str, options: Sequence[str]) -> Parameter:
    """Some of a few words: repeated, or separated by commas."""
    schema = {"type": "array", "items": {"type": "string", "enum": list(options)}}
    return Parameter(name, about, schema, _parse_choice(options), is_repeatable=True, default=())


AT_LEAST = integer("at_least", "Wait (up to 5 s, then 504) until the views have reached this position of the log.")
LIMIT = integer("limit", "How many items one page has at most.", minimum=1, maximum=MAX_LIMIT, default=DEFAULT_LIMIT)
CURSOR = text("cursor", "`next` of the page before, as it was given.")
SOURCE = text("source", "Only what came from this source, by its name in config.toml.")
PAGING = (LIMIT, CURSOR)


def read_query(query: Iterable[tuple[str, str]], parameters: Sequence[Parameter]) -> dict[str, Any]:
    """The value of every parameter by its name, defaults included. Raises `ParameterInvalid`.

    `query` are the names and values in the order they came, repeats included.
    """
    given: dict[str, list[str]] = {parameter.name: [] for parameter in parameters}
    for name, value in query:
        if name not in given:
            raise ParameterInvalid(name[:64], f"is no parameter here; known are {', '.join(given)}")
        given[name].append(value)
    return {parameter.name: _value(parameter, given[parameter.name]) for parameter in parameters}


def parse_micros(value: str) -> Micros:
    """A moment in µs since the epoch, cut below the microsecond. Raises ValueError saying what is wanted."""
    wanted = "is a moment such as 2026-03-01T09:30:00Z (RFC 3339, with an offset) or a day such as 2026-03-01"
    try:
        if _DAY.fullmatch(value):
            return (dt.datetime.fromisoformat(value).replace(tzinfo=dt.UTC) - _EPOCH) // dt.timedelta(microseconds=1)
        if found := _MOMENT.fullmatch(value):
            day, time, fraction, offset = found.groups()
            # A `+` that was not encoded arrives as a blank; nothing else can stand there.
            offset = "+00:00" if offset in {"Z", "z"} else offset.replace(" ", "+")
            seconds = (dt.datetime.fromisoformat(f"{day}T{time}{offset}") - _EPOCH) // dt.timedelta(seconds=1)
            return seconds * 1_000_000 + int((fraction or "")[:6].ljust(6, "0"))
    except (ValueError, OverflowError):
        pass
    raise ValueError(wanted)


def _parse_choice(options: Sequence[str]) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value not in options:
            raise ValueError(f"is one of {', '.join(options)}")
        return value

    return read


def _value(parameter: Parameter, given: list[str]) -> Any:
    if not given:
        if parameter.is_required:
            raise ParameterInvalid(parameter.name, "is missing; it has to be there")
        return parameter.default
    if len(given) > 1 and not parameter.is_repeatable:
        raise ParameterInvalid(parameter.name, "is there more than once; give it once")
    parts = [part for value in given for part in value.split(",")] if parameter.is_repeatable else given
    if not all(parts):
        raise ParameterInvalid(parameter.name, "is empty; give it a value or leave it out")
    if any(len(part) > MAX_TEXT_CHARS for part in parts) or len(parts) > MAX_LIMIT:
        raise ParameterInvalid(parameter.name, f"is longer than {MAX_TEXT_CHARS} characters")
    try:
        found = [parameter.parse(part) for part in parts]
    except ValueError as error:
        raise ParameterInvalid(parameter.name, str(error)) from None
    return tuple(dict.fromkeys(found)) if parameter.is_repeatable else found[0]
