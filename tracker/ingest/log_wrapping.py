r"""Undoes what containers and log collectors wrap around a line of a log.

    Docker json-file    {"log":"…\n","stream":"stdout","time":…}     a line over 16 KiB is split: only its last piece ends in \n
    journald            {"MESSAGE":"…", …}                           or an array of bytes; CONTAINER_PARTIAL_MESSAGE marks pieces
    CRI (Kubernetes)    2024-05-01T03:00:04.1Z stdout F …            P in place of F: the line goes on
    docker compose      name-1  | …
    kubectl --prefix    [pod/name/container] …
    collectors          {"message":"…"}, {"textPayload":"…"}         without pieces

Wrappings may be nested. A timestamp or a syslog header before the line needs nothing: the JSON is found behind it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import msgspec

MAX_NESTED = 4
MAX_STREAMS = 64
"""Streams with an unfinished line that are held at once. The oldest is given up first."""

_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_COMPOSE = re.compile(rb"[\w./-]+\s+\| ?")
_KUBECTL = re.compile(rb"\[[\w.-]+(?:/[\w.-]+)+\] ")
_CRI = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d) (stdout|stderr) ([FP])(?::\S*)? ")
_TIMES = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d) (?=\S)")
"""`docker logs -t` and `docker compose logs -t` put a time before each line."""
_PLAIN_FIELDS = ("message", "textPayload", "msg", "line")


class Line(NamedTuple):
    """One line of the log inside: `number` is that of its first piece in the file."""

    number: int
    text: bytes
    is_wrapped: bool
    is_whole: bool
    """False where the file ends before the last piece."""


class _Piece(NamedTuple):
    text: bytes
    stream: bytes
    is_wrapped: bool
    goes_on: bool


class LineJoiner:
    """Gives the lines inside a file's lines; pieces of one line are joined. `is_kept` says that an object is no wrapping."""

    def __init__(self, is_kept: Callable[[Mapping[str, Any]], bool], max_bytes: int) -> None:
        self._is_kept = is_kept
        self._max_bytes = max_bytes
        self._open: dict[bytes, tuple[int, list[bytes], int]] = {}
        """Of each stream with an unfinished line: the number of its first piece, its pieces, their bytes."""

    def feed(self, number: int, line: bytes) -> Iterator[Line]:
        """The lines that are complete with this one. `line` has no line end."""
        piece = self._unwrap(line)
        first, pieces, size = self._open.pop(piece.stream, (number, [], 0)) if self._open else (number, [], 0)
        size += len(piece.text)
        if size > self._max_bytes:
            # Its beginning is lost: what is left is reported as no event.
            pieces, size = [], len(piece.text)
        if piece.goes_on:
            self._open[piece.stream] = (first, [*pieces, piece.text], size)
            if len(self._open) > MAX_STREAMS:
                yield self._given_up(next(iter(self._open)))
            return
        # A collector may put several lines into one object.
        for text in b"".join([*pieces, piece.text]).split(b"\n"):
            yield Line(first, text, piece.is_wrapped, is_whole=True)

    def finish(self) -> Iterator[Line]:
        """The unfinished lines at the end of the file."""
        for stream in list(self._open):
            yield self._given_up(stream)

    def _given_up(self, stream: bytes) -> Line:
        first, pieces, _ = self._open.pop(stream)
        return Line(first, b"".join(pieces), is_wrapped=True, is_whole=False)

    def _unwrap(self, line: bytes) -> _Piece:
        text = _ESCAPES.sub(b"", line) if b"\x1b" in line else line
        stream: list[bytes] = []
        wrapped = goes_on = False
        for _ in range(MAX_NESTED):
            if found := _CRI.match(text):
                stream.append(found[1])
                goes_on = goes_on or found[2] == b"P"
                text, wrapped = text[found.end() :], True
            elif found := _COMPOSE.match(text) or _KUBECTL.match(text):
                stream.append(found[0])
                text, wrapped = text[found.end() :], True
            elif found := _TIMES.match(text):
                text, wrapped = text[found.end() :], True
            elif text.lstrip().startswith(b"{") and (inner := self._inner(text.strip())):
                stream.append(inner.stream)
                goes_on = goes_on or inner.goes_on
                text, wrapped = inner.text, True
            else:
                break
        return _Piece(text, b"\0".join(stream), wrapped, goes_on)

    def _inner(self, text: bytes) -> _Piece | None:
        """What a collector's object holds; None for other objects."""
        # Cheaper than parsing every event: each wrapping has one of these names.
        if not any(b'"%s"' % name.encode() in text for name in ("log", "MESSAGE", *_PLAIN_FIELDS)):
            return None
        fields = parse_object(text)
        if fields is None or self._is_kept(fields):
            return None
        log = fields.get("log")
        if isinstance(log, str):
            parts = fields.get("stream") is not None and "time" in fields  # the json-file driver
            goes_on = not log.endswith("\n") if parts else _is_marked(fields, "partial_message", "partial_last")
            return _Piece(_bytes(log.removesuffix("\n")), _bytes(str(fields.get("stream"))), True, goes_on)
        message = fields.get("MESSAGE")
        if isinstance(message, list):
            message = _text_of(cast("list[object]", message))
        if isinstance(message, str):
            goes_on = _is_marked(fields, "CONTAINER_PARTIAL_MESSAGE", "CONTAINER_PARTIAL_LAST")
            owner = fields.get("CONTAINER_PARTIAL_ID") or fields.get("CONTAINER_ID_FULL") or fields.get("CONTAINER_ID")
            return _Piece(_bytes(message), _bytes(str(owner)), True, goes_on)
        for name in _PLAIN_FIELDS:
            value = fields.get(name)
            if isinstance(value, str):
                return _Piece(_bytes(value), b"", True, False)
        return None


def _is_marked(fields: Mapping[str, Any], partial: str, last: str) -> bool:
    return str(fields.get(partial)).lower() == "true" and str(fields.get(last)).lower() != "true"


def _text_of(octets: list[object]) -> str | None:
    """The text of a message that is no plain text: journald writes it as an array of its bytes."""
    try:
        return bytes(cast("list[int]", octets)).decode("utf-8", "surrogateescape")
    except (TypeError, ValueError):
        return None


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


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
