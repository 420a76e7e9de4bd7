"""The lines of a file in UTF-8, whatever its encoding, its line ends and its packing.

    gzip                 unpacked; recognised by its first bytes
    UTF-16, UTF-32       with a byte order mark, or recognised by the NUL bytes of its first characters
    line ends            LF, CRLF, and CR alone
    NUL bytes at ends    removed: a file that was cut while it was open for writing begins with them
    one long array       a line with a JSON array of objects gives its objects, however long the line is

Bytes that are neither UTF-16 nor UTF-32 stay as they are.
"""

from __future__ import annotations

import codecs
import gzip
import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, cast

from tracker.ingest.json_joining import begins_array, elements

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER_FORMATS = (
    (b"\x28\xb5\x2f\xfd", "packed with zstd: unpack it, or pack it as .gz"),
    (b"BZh", "packed with bzip2: unpack it, or pack it as .gz"),
    (b"\xfd7zXZ", "packed with xz: unpack it, or pack it as .gz"),
    (b"PK\x03\x04", "a zip archive: unpack it"),
    (b"LPKSHHRH", "a journal of systemd: write it out with `journalctl --file FILE -o json`"),
)
_BLANK = "\0 \t\r\n"


class UnknownFormat(Exception):
    """The file is in a format that is not read; the text says what to do."""


class FileLine(NamedTuple):
    """A line, or an object of an array on that line. `text` is None if it is too long. `is_whole`: a line end follows it."""

    number: int
    text: bytes | None
    is_whole: bool


def file_lines(path: Path, max_bytes: int, position: Callable[[int, int], None]) -> Iterator[FileLine]:
    """The lines that are not blank. `position`: called with the bytes read so far and the size of the file.

    Raises `UnknownFormat`, and `OSError`, `EOFError` or `zlib.error` where the file cannot be read on; the whole lines
    before that place have been given then.
    """
    with path.open("rb") as raw:
        size = path.stat().st_size
        head = raw.read(16)
        raw.seek(0)
        for magic, what in _OTHER_FORMATS:
            if head.startswith(magic):
                raise UnknownFormat(what)
        stream: io.BufferedIOBase = raw
        if head.startswith(b"\x1f\x8b") or path.suffix == ".gz":
            stream = unpacked = gzip.GzipFile(fileobj=raw)
            head = unpacked.peek(16)[:16]
        encoding = _encoding(head)
        # ISO-8859-1 maps every byte to a character and back: only the line ends are looked at. Damaged UTF-16 is replaced,
        # so that the lines after it are read.
        text = io.TextIOWrapper(cast("IO[bytes]", stream), encoding or "latin-1", "replace", newline=None)
        to_bytes = _utf_8 if encoding else _latin_1
        number = 0
        while line := text.readline(max_bytes + 1):
            number += 1
            while len(line) > max_bytes and line.startswith("\0"):
                line = line.lstrip("\0")
                line += text.readline(max_bytes + 1 - len(line))
            position(raw.tell(), size)
            first = to_bytes(line).removeprefix(codecs.BOM_UTF8) if number == 1 else to_bytes(line)
            is_long = len(line) > max_bytes and not line.endswith("\n")
            if is_long and begins_array(first):
                rest = map(to_bytes, _rest_of_line(text, max_bytes))
                for element in elements(itertools.chain([first], rest), max_bytes):
                    yield FileLine(number, element, is_whole=True)
            elif len(first) > max_bytes:
                for _ in _rest_of_line(text, max_bytes) if is_long else ():
                    pass
                yield FileLine(number, None, is_whole=True)
            elif line.strip(_BLANK):
                yield FileLine(number, first.strip(b"\0").rstrip(b"\0\r\n"), is_whole=line.endswith("\n"))


def _rest_of_line(text: io.TextIOWrapper, max_bytes: int) -> Iterator[str]:
    while line := text.readline(max_bytes):
        yield line
        if line.endswith("\n"):
            return


def _encoding(head: bytes) -> str | None:
    """The encoding of a text that is in UTF-16 or UTF-32; None for all others."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    odd, even = head[1:8:2], head[0:8:2]
    if len(head) >= 8 and any(odd) != any(even):  # ASCII has every second byte 0
        if all(even):
            return "utf-16-le"
        if all(odd):
            return "utf-16-be"
    return None


def _latin_1(text: str) -> bytes:
    return text.encode("latin-1")


def _utf_8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
