"""Paths of a declaration: where in an event a value is.

    payload.object.id        a field of an object; ["a-b"] for names with other characters, [0] for an element of a list
    @arrival                 when Tracker received the delivery
    @header.webhook-id       a header that the recorded proof holds
    =camera                  this text
    ["user_id", "name"]      the first of several that is there and not empty
    { join = ["a", "b"], with = "/" }

A path is data: finding a value takes as many steps as the path has parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

import msgspec

from tracker.domain.facts import Micros
from tracker.sources.json_reading import as_text

Part = str | int

_PART = re.compile(r"""([A-Za-z_$][A-Za-z0-9_$-]*)|\[(?:([0-9]{1,4})|"([^"\]]{1,200})")\]""")
_LONGEST = 400
HEADER = "@header."
ARRIVAL = "@arrival"


class PathWrong(ValueError):
    """A path cannot be read; the message says what is wrong with it."""


class Event(msgspec.Struct, frozen=True):
    """One event to read: its JSON value, the headers in the recorded proof, and when the delivery arrived (µs)."""

    value: Any
    headers: Mapping[str, str]
    received_at: Micros


class Path(msgspec.Struct, frozen=True):
    """One path. `parts` lead into the event's value; else it is a `header`, the `literal` text, or the arrival."""

    text: str
    parts: tuple[Part, ...] = ()
    literal: str | None = None
    header: str | None = None

    @property
    def is_arrival(self) -> bool:
        """Whether it stands for the moment of arrival."""
        return self.text == ARRIVAL

    def find(self, event: Event) -> Any:
        """The value in an event; None where there is none."""
        if self.literal is not None:
            return self.literal
        if self.header is not None:
            return event.headers.get(self.header)
        if self.is_arrival:
            return event.received_at
        return step(event.value, self.parts)


class Join(msgspec.Struct, frozen=True):
    """Several values with a text between them; None unless all are there."""

    paths: tuple[Path, ...]
    between: str

    def find(self, event: Event) -> Any:
        """The joined text."""
        found = [word(path.find(event)) for path in self.paths]
        return None if None in found else self.between.join(cast("list[str]", found))


class First(msgspec.Struct, frozen=True):
    """The first of several that is there and not empty."""

    options: tuple[Path | Join, ...]

    def find(self, event: Event) -> Any:
        """Its value."""
        for option in self.options:
            value = option.find(event)
            if value is not None and value != "":
                return value
        return None

    @property
    def paths(self) -> Iterator[Path]:
        """All paths in it."""
        for option in self.options:
            yield from option.paths if isinstance(option, Join) else (option,)


def step(value: Any, parts: tuple[Part, ...]) -> Any:
    """The value that these parts lead to; None where there is none."""
    for part in parts:
        if isinstance(part, str):
            value = cast("dict[str, Any]", value).get(part) if isinstance(value, dict) else None
        else:
            items = cast("list[Any]", value) if isinstance(value, list) else []
            value = items[part] if part < len(items) else None
    return value


def word(value: Any) -> str | None:
    """A text, or a whole number in digits; None for anything else and for the empty text."""
    if type(value) is int:
        return str(value) if -(2**63) <= value < 2**64 else None
    return as_text(value)


def parse_path(text: str) -> Path:
    """Read one path. Raises `PathWrong`."""
    if len(text) > _LONGEST:
        raise PathWrong("the path is too long")
    if text.startswith("="):
        return Path(text, literal=text[1:])
    if text == ARRIVAL:
        return Path(text)
    if text.startswith(HEADER) and len(text) > len(HEADER):
        return Path(text, header=text.removeprefix(HEADER).lower())
    if text.startswith("@"):
        raise PathWrong(f"{text} is unknown: write {ARRIVAL}, {HEADER}NAME, a field of the body, or =TEXT")
    parts: list[Part] = []
    at = 0
    while at < len(text):
        if text[at] == "." and parts and at + 1 < len(text):
            at += 1
        found = _PART.match(text, at)
        if found is None or (found[1] and at and text[at - 1] != "."):
            raise PathWrong(f'{text!r} is no path, at character {at + 1}: write it like payload.items[0]["odd name"]')
        parts.append(int(found[2]) if found[2] else found[1] or found[3])
        at = found.end()
    if not parts:
        raise PathWrong("the path is empty")
    return Path(text, tuple(parts))
