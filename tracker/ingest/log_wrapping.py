r"""Undoes what containers and log collectors wrap around a line of a log.

    Docker json-file    {"log":"…\n","stream":"stdout","time":…}     a line over 16 KiB is split: only its last piece ends in \n
    journald            {"MESSAGE":"…", …}                           or an array of bytes; CONTAINER_PARTIAL_MESSAGE marks pieces
    CRI (Kubernetes)    2024-05-01T03:00:04.1Z stdout F …            P in place of F: the line goes on
    docker compose      name-1  | …                                  and pm2: 0|name  | …
    kubectl --prefix    [pod/name/container] …
    syslog, journalctl  May  1 03:00:04 host name[812]: …            or with a time in ISO 8601
    server-sent events  data: {…}
    collectors          {"message":"…"}, {"textPayload":"…"}         without pieces

Wrappings may be nested. Objects over several lines are joined outside of the wrapping and inside it
(`ingest/json_joining`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

from tracker.ingest.json_joining import JsonText, ObjectJoiner, parse_object

MAX_NESTED = 4
MAX_STREAMS = 64
"""Streams with an unfinished line that are held at once. The oldest is given up first."""

_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_COMPOSE = re.compile(rb"[\w./|-]+\s+\| ?")
_KUBECTL = re.compile(rb"\[[\w.-]+(?:/[\w.-]+)+\] ")
_CRI = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d) (stdout|stderr) ([FP])(?::\S*)? ")
_TIMES = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d) ")
"""`docker logs -t` and `docker compose logs -t` put a time before each line."""
_SYSLOG = re.compile(
    rb"(?:<\d+>)?(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:\.\d+)? (\S+ [\w./()@-]+(?:\[\d+\])?): "
    rb"|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d) ((?:[\w.-]+ )?[\w./()@-]+\[[\w.]+\]): )"
)
_EVENT_STREAM = re.compile(rb"data: ?(?=\{)")
_PLAIN_FIELDS = ("message", "textPayload", "msg", "line")


class Line(NamedTuple):
    """One line of the log inside: `number` is that of its first piece in the file."""

    number: int
    text: bytes
    is_whole: bool
    """False where the file ends before the last piece."""
    is_wrapped: bool


class _Piece(NamedTuple):
    text: bytes
    stream: bytes
    is_wrapped: bool
    goes_on: bool


class LineJoiner:
    """Gives the lines inside a file's lines; pieces of one line, and lines of one object, are joined. `is_kept` says that an object is no wrapping."""

    def __init__(self, is_kept: Callable[[Mapping[str, Any]], bool], max_bytes: int) -> None:
        self._is_kept = is_kept
        self._max_bytes = max_bytes
        self._outside = ObjectJoiner(max_bytes)
        self._inside: dict[bytes, ObjectJoiner] = {}
        """Of each stream with an unfinished object over several lines."""
        self._open: dict[bytes, tuple[int, list[bytes], int]] = {}
        """Of each stream with an unfinished line: the number of its first piece, its pieces, their bytes."""

    def feed(self, number: int, text: bytes, *, is_whole: bool = True) -> Iterator[Line]:
        """The lines that are complete with this one. `text` has no line end; `is_whole` says that one followed it."""
        for line in self._outside.feed(JsonText(number, text, is_whole)):
            yield from self._feed(line)

    def finish(self) -> Iterator[Line]:
        """The unfinished lines at the end of the file."""
        for line in self._outside.finish():
            yield from self._feed(line)
        for stream in list(self._open):
            yield from self._given_up(stream)
        for joiner in self._inside.values():
            for line in joiner.finish():
                yield Line(*line, is_wrapped=True)

    def _feed(self, line: JsonText) -> Iterator[Line]:
        piece = self._unwrap(line.text)
        if not piece.is_wrapped:
            yield Line(*line, is_wrapped=False)
            return
        first, pieces, size = self._open.pop(piece.stream, (line.number, [], 0))
        size += len(piece.text)
        if size > self._max_bytes:
            # Its beginning is lost: what is left is reported as no event.
            pieces, size = [], len(piece.text)
        if piece.goes_on:
            self._open[piece.stream] = (first, [*pieces, piece.text], size)
            if len(self._open) > MAX_STREAMS:
                yield from self._given_up(next(iter(self._open)))
            return
        # A collector may put several lines into one object.
        for text in b"".join([*pieces, piece.text]).split(b"\n"):
            yield from self._joined(piece.stream, JsonText(first, text, line.is_whole))

    def _joined(self, stream: bytes, line: JsonText) -> Iterator[Line]:
        """What is complete with a line inside a wrapping."""
        joiner = self._inside.pop(stream, None) or ObjectJoiner(self._max_bytes)
        for each in joiner.feed(line):
            yield Line(*each, is_wrapped=True)
        if joiner.is_open:
            self._inside[stream] = joiner
            if len(self._inside) > MAX_STREAMS:
                for each in self._inside.pop(next(iter(self._inside))).finish():
                    yield Line(*each, is_wrapped=True)

    def _given_up(self, stream: bytes) -> Iterator[Line]:
        first, pieces, _ = self._open.pop(stream)
        yield Line(first, b"".join(pieces), is_whole=False, is_wrapped=True)

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
            elif found := _SYSLOG.match(text):
                stream.append(found[1] or found[2])
                text, wrapped = text[found.end() :], True
            elif found := _TIMES.match(text) or _EVENT_STREAM.match(text):
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
