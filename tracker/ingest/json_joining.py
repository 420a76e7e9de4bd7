r"""Finds the JSON objects of a text that were not written one a line: objects over several lines, and arrays of objects.

    {                       an object over several lines, also behind the beginning of a log line ("received: {")
      "event": "x"
    }
    [{…}, {…}]              an array on one line
    {…} {…}                 objects one after another on one line
    [                       an array over several lines; its brackets and commas are no lines
      {…},
    ]

Lines are joined only if they become one JSON object. If they do not (the file was cut, or the line was no JSON), every line
among them that is an object by itself is given by itself: a damaged object never takes a good one with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

import msgspec

MAX_LINES = 20_000
"""Of one object. More lines are no object that a webhook sent."""

_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["{}]', re.DOTALL)
_ARRAY = re.compile(rb'\s*\[\s*\{\s*["}]')
_SEVERAL = re.compile(rb'\}\s*,?\s*\{\s*["}]')
_INSIDE = re.compile(rb'\s*(?:"|[{}\]]|\[\s*(?:$|["{\[\]\dtfn-])|(?:-?[\d.eE+-]+|true|false|null)\s*,?\s*$)')
"""How a line inside an object begins."""
_STRUCTURE = b"[], \t\r\n\x1e"
"""Brackets and commas of an array, and the mark before each object of a JSON text sequence (RFC 7464)."""
_SIGNS = {b"{": 1, b"}": -1}


def parse_object(text: bytes) -> dict[str, Any] | None:
    """The JSON object in a text, or None. Also accepts a lone surrogate and ISO-8859-1."""
    try:
        parsed: object = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        try:
            parsed = json.loads(text.decode("latin-1"))
        except (ValueError, RecursionError):
            return None
    return cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else None


def begins_array(text: bytes) -> bool:
    """Whether a line begins an array of objects."""
    return _ARRAY.match(text) is not None


def elements(pieces: Iterable[bytes], max_bytes: int) -> Iterator[bytes | None]:
    """The objects of an array of objects that comes in pieces; None for one that is too long.

    At last what follows the last whole object, if it is the beginning of one.
    """
    held = b""
    at = start = depth = 0
    is_long = False
    for piece in pieces:
        held += piece
        for token in _TOKENS.finditer(held, at):
            if token[0] == b'"':  # a string that goes on in the next piece
                break
            at = token.end()
            if token[0] == b"{":
                start = start if depth else token.start()
                depth += 1
            elif token[0] == b"}" and depth:
                depth -= 1
                if not depth:
                    yield None if is_long or at - start > max_bytes else held[start:at]
                    is_long = False
        if depth and len(held) - start > max_bytes:
            is_long, start = True, at
        kept = start if depth else at
        held, at, start = held[kept:], at - kept, 0
    if depth:
        yield None if is_long else held


class JsonText(NamedTuple):
    """A line, or an object of several lines or of an array: `number` is that of its first line."""

    number: int
    text: bytes
    is_whole: bool


class ObjectJoiner:
    """Gives the lines of one text; objects over several lines are joined, arrays of objects are taken apart."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: list[JsonText] = []
        """The lines of an object that is not finished."""
        self._depth = self._bytes = self._start = self._indent = 0

    @property
    def is_open(self) -> bool:
        """Whether an object is not finished."""
        return bool(self._held)

    def feed(self, line: JsonText) -> Iterator[JsonText]:
        """What is complete with this line, which has no line end."""
        if self._held:
            if self._is_inside(line.text):
                self._held.append(line)
                self._bytes += len(line.text)
                self._depth += sum(_SIGNS.get(token[0], 0) for token in _TOKENS.finditer(line.text))
                if self._depth <= 0:
                    yield from self._complete()
                return
            yield from self.finish()
        # Objects one after another, except within an object.
        is_several = _SEVERAL.search(line.text) and line.text.lstrip().startswith(b"{") and not parse_object(line.text)
        if is_several or begins_array(line.text):
            for each in elements([line.text], self._max_bytes):
                if each is not None:
                    yield from self._begin(line._replace(text=each))
        else:
            yield from self._begin(line)

    def finish(self) -> Iterator[JsonText]:
        """The lines of an object that was not finished: those with an object of their own, and the rest as one damaged line."""
        held, self._held = self._held, []
        if held:
            rest = [each.text for each in held if each is held[0] or not _has_object(each.text)]
            yield JsonText(held[0].number, b"\n".join(rest), held[-1].is_whole)
        for each in held[1:]:
            if _has_object(each.text):
                yield each._replace(text=_object_in(each.text) or each.text)

    def _is_inside(self, text: bytes) -> bool:
        """Whether a line may belong to the object that is not finished."""
        if self._bytes + len(text) > self._max_bytes or len(self._held) >= MAX_LINES or not _INSIDE.match(text):
            return False
        return not (text.lstrip().startswith(b"{") and _indent(text) <= self._indent)

    def _begin(self, line: JsonText) -> Iterator[JsonText]:
        text = line.text.rstrip()
        if text.endswith((b"{", b"[", b",", b":")):
            open_at: list[int] = []
            for token in _TOKENS.finditer(text):
                if token[0] == b"{":
                    open_at.append(token.start())
                elif token[0] == b"}" and open_at:
                    open_at.pop()
            if open_at:
                self._held = [line]
                self._start, self._depth, self._bytes, self._indent = open_at[0], len(open_at), len(text), _indent(text)
                return
        if text.lstrip(_STRUCTURE):
            yield line._replace(text=_object_in(text) or line.text)

    def _complete(self) -> Iterator[JsonText]:
        text = b"\n".join(each.text for each in self._held).rstrip(_STRUCTURE)
        if parse_object(text[self._start :]) is None:
            yield from self.finish()
        else:
            yield JsonText(self._held[0].number, text, is_whole=True)
            self._held = []


def _indent(text: bytes) -> int:
    return len(text) - len(text.lstrip())


def _has_object(line: bytes) -> bool:
    return b"{" in line and line.rstrip(_STRUCTURE).endswith(b"}")


def _object_in(line: bytes) -> bytes:
    """The object of a line with nothing else but the brackets and commas of an array; empty if there is none."""
    text = line.strip(_STRUCTURE)
    return text if text.startswith(b"{") and text.endswith(b"}") and (text == line or parse_object(text)) else b""
