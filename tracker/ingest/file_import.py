"""Imports files: JSON Lines, and a vendor's own log files (CDR files). Importing the same file twice adds nothing.

    file ─► lines ─► the JSON of each line ─► source.verify_trusted ─► log.append_all (500 at a time)

A line may be a webhook body, the event of a CDR file, either of them behind a log or docker prefix, or an envelope
(`body_b64` / `body_text`) as Tracker exports it. The log gets the exact bytes of the JSON. A line that is not imported
is counted; unless it is a log line without JSON, the report also lists its number.

If we die here: each batch is durable or absent as a whole, and the next run adds what is missing.

LIMIT: `received_at` of an imported record is the time of the import. An event without a time of its own gets that time.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast, final

import msgspec

from tracker.domain.deliveries import Verified
from tracker.log.contract import Appender
from tracker.log.frames import max_frame_bytes
from tracker.sources import registry
from tracker.sources.contract import LogFiles, Source


BATCH_LINES = 500
BATCH_BYTES = 8 * 1024 * 1024
MAX_LINE_BYTES = 16 * 1024 * 1024
"""Longer lines are reported as unreadable, so that memory stays bounded."""
MAX_BATCH_LINES_READ = 20 * BATCH_LINES
"""A batch ends after this many lines even if few of them are imported, so that progress is reported."""

BOM = b"\xef\xbb\xbf"
LOG_LINE = re.compile(rb"^\S+\s+\| |\[(TRACE|DEBUG|INFO|WARN|ERROR|FATAL) *\]|^\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d")

IMPORTED_SUFFIXES = (".log", ".jsonl", ".log.gz", ".jsonl.gz")
"""The files of a folder that are imported."""

Progress = Callable[[str, int, int], None]
"""(file name, bytes read so far, size of the file in bytes): called after each batch and at the end of a file."""

BodyAndHints = tuple[bytes, dict[str, str]]
"""The exact bytes to record, and the hints to add to their proof."""


class FileReport(msgspec.Struct, kw_only=True):
    """The result for one file: `lines` = new + known + skipped + unreadable + partial; blank lines are not counted.

    `known` were in the log already; `skipped` are log lines without CDR JSON; `unreadable` are line numbers (from 1);
    `partial` is the number of a last line that is still being written (no newline, does not parse). It is not recorded:
    importing the finished file adds it. `error` says why the file could not be read (to its end).
    """

    file: str
    lines: int = 0
    new: int = 0
    known: int = 0
    skipped: int = 0
    unreadable: list[int] = []
    partial: int | None = None
    error: str | None = None


async def import_files(
    source: Source, log: Appender, files: Sequence[Path], *, now: Callable[[], int], progress: Progress | None = None
) -> list[FileReport]:
    """Import files; one report per file, in the order read: CDR files oldest run first, others as given.

    A folder stands for the `.log` and `.jsonl` files in it (also `.gz`). `now` gives µs since the epoch. A file that
    cannot be read has `error` set; the other files are imported all the same. Raises `LogError` when the log cannot
    take more; what was reported as recorded until then is durable, and importing again adds the rest.
    """
    reports: list[FileReport] = []
    for path in import_order(_expand_folders(files)):
        report = FileReport(file=str(path))
        reports.append(report)
        reader = _FileReader(path, report, source, now, log.max_batch_bytes)
        while (batch := await asyncio.to_thread(reader.next_batch)) is not None:
            for appended in await log.append_all(batch) if batch else []:
                if appended.duplicate:
                    report.known += 1
                else:
                    report.new += 1
            if progress is not None:
                progress(path.name, reader.bytes_read, reader.file_bytes)
    return reports


@final
class _FileReader:
    """Reads one file: returns batches, fills the report. Used by one thread at a time."""

    def __init__(
        self, path: Path, report: FileReport, source: Source, now: Callable[[], int], max_batch_bytes: int
    ) -> None:
        self._max_batch_bytes = max_batch_bytes
        self._carried_over: Verified | None = None
        self._path = path
        self._report = report
        self._source = source
        self._now = now
        self._is_log = False
        cdr = _match_log_file(path)
        # The suffix is the start time of the server process: the projector ends what an older run left open.
        self._run = {"run": cdr["run"]} if cdr else {}
        self._lines = self._numbered_lines()
        self.bytes_read = 0
        self.file_bytes = 0

    def next_batch(self) -> list[Verified] | None:
        """The next deliveries, at most 500; empty when all lines were skipped; None at the end of the file."""
        batch = [] if self._carried_over is None else [self._carried_over]
        size, lines_read = max_frame_bytes(batch), len(batch)
        self._carried_over = None
        try:
            for number, line, is_whole in self._lines:
                lines_read += 1
                found = self._body_of(number, line, is_whole)
                if found is not None:
                    body, hints = found
                    proof: dict[str, str | int] = {"scheme": "import", "file": self._path.name, "line": number}
                    proof |= self._run | hints
                    verified = self._source.verify_trusted(body, received_at=self._now(), proof=proof)
                    added = max_frame_bytes([verified])
                    if added > self._max_batch_bytes:
                        self._report.unreadable.append(number)
                        continue
                    if batch and size + added > min(BATCH_BYTES, self._max_batch_bytes):
                        self._carried_over = verified
                        return batch
                    batch.append(verified)
                    size += added
                if len(batch) >= BATCH_LINES or lines_read >= MAX_BATCH_LINES_READ:
                    return batch
        except IsADirectoryError:
            self._report.error = "a folder without .log or .jsonl files in it"
        except (OSError, EOFError, zlib.error) as error:
            # A damaged or truncated .gz: what was unpacked before the damage is good and is kept.
            self._report.error = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return batch if lines_read else None

    def _numbered_lines(self) -> Iterator[tuple[int, bytes | None, bool]]:
        """(number from 1, bytes without the line end or None when too long, whether the line ended in a newline)."""
        with self._path.open("rb") as raw:
            self.file_bytes = self._path.stat().st_size
            is_gzip = self._path.suffix == ".gz"
            stream: io.BufferedIOBase = gzip.GzipFile(fileobj=raw) if is_gzip else raw
            number = 0
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                is_long = len(line) > MAX_LINE_BYTES
                while is_long and not line.endswith(b"\n") and (rest := stream.readline(MAX_LINE_BYTES)):
                    line = rest
                self.bytes_read = raw.tell()
                is_whole = line.endswith(b"\n")
                text = line.removeprefix(BOM) if number == 1 else line
                yield number, None if is_long else text.strip(b" \t\r\n"), is_whole

    def _body_of(self, number: int, line: bytes | None, is_whole: bool) -> BodyAndHints | None:
        """The bytes to record and their hints, or None; then the line is counted in the report."""
        if line == b"":
            return None
        self._report.lines += 1
        found = None if line is None else _parse_line(line)
        if found is not None:
            return found
        self._is_log = self._is_log or (line is not None and LOG_LINE.search(line) is not None)
        if not is_whole and line is not None:
            self._report.partial = number
        elif line is not None and self._is_log and _holds_no_cdr(line):
            self._report.skipped += 1
        else:
            self._report.unreadable.append(number)
        return None


def read_line(line: bytes) -> bytes | None:
    """The exact bytes of the JSON object in a line (the inner body of an envelope), or None.

    If the line does not start with `{`, the object starts at its first `{`, or at the first one after ` - `: whichever
    begins JSON that reaches to the end of the line. Behind a log prefix the object has to look like a CDR event.
    """
    found = _parse_line(line)
    return None if found is None else found[0]


def _parse_line(line: bytes) -> BodyAndHints | None:
    """What `read_line` returns, and the hints of an envelope."""
    starts = [line.find(b"{")]
    if starts[0] != 0 and b" - " in line:
        starts.append(line.find(b"{", line.index(b" - ")))
    for start in starts:
        parsed = _json_object(line[start:]) if start >= 0 else None
        if parsed is not None:
            if start > 0 and LOG_LINE.search(line[:start]) and not _is_event(parsed):
                return None
            body = _inner_body(parsed, line[start:])
            return None if body is None else (body, _hints_of(parsed) if body != line[start:] else {})
    return None


def _json_object(text: bytes) -> dict[str, Any] | None:
    """The JSON object, or None. Also accepts a lone surrogate and ISO-8859-1."""
    try:
        parsed: object = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        try:
            parsed = json.loads(text.decode("latin-1"))
        except (ValueError, RecursionError):
            return None
    return cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else None


def _is_event(parsed: dict[str, Any]) -> bool:
    """Whether an object in a server's log is a CDR event, and not something else the server logged."""
    return "event" in parsed or (len(parsed) == 1 and isinstance(next(iter(parsed.values())), dict))


def _holds_no_cdr(line: bytes) -> bool:
    """Whether a line of a server's log, in which no event was found, was no damaged event either."""
    start = line.find(b"{")
    if start < 0:
        return True
    if start == 0 or any(files.logger.search(line[:start]) for files in _log_files()):
        return False
    # Another logger's complete JSON, or text with a brace in it, is no event; truncated JSON may have been one.
    return not line[:start].endswith(b" - ") or _json_object(line[start:]) is not None


def _inner_body(parsed: dict[str, Any], text: bytes) -> bytes | None:
    """The body inside an envelope; `text` itself if it is no envelope; None if the envelope is broken.

    An envelope has `body_b64` or `body_text`, and either no `event` or the keys only an envelope has.
    """
    is_envelope = "event" not in parsed or not {"source", "vendor", "headers"}.isdisjoint(parsed)
    encoded, plain = parsed.get("body_b64"), parsed.get("body_text")
    if is_envelope and isinstance(encoded, str):
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            return None
    if is_envelope and isinstance(plain, str):
        return plain.encode("utf-8", "surrogatepass")
    return text


def _hints_of(envelope: dict[str, Any]) -> dict[str, str]:
    """The correlation hints in the proof of an exported record."""
    proof = envelope.get("proof")
    fields = cast("dict[str, Any]", proof) if isinstance(proof, dict) else {}
    names = [name for vendor in registry.VENDORS.values() for name in vendor.import_hints]
    return {name: fields[name] for name in names if isinstance(fields.get(name), str)}


def _expand_folders(paths: Sequence[Path]) -> Iterator[Path]:
    """Replace folders by the importable files in them; keep an unreadable or empty folder, so that it is reported."""
    for path in paths:
        inside: list[Path] = []
        # A folder that may not be listed stays too: opening it gives the reason.
        if path.is_dir() and os.access(path, os.R_OK | os.X_OK):
            inside = sorted(each for each in path.iterdir() if each.name.endswith(IMPORTED_SUFFIXES) and each.is_file())
        yield from inside or [path]


def _log_files() -> list[LogFiles]:
    return [vendor.log_files for vendor in registry.VENDORS.values() if vendor.log_files is not None]


def _match_log_file(path: Path) -> re.Match[str] | None:
    """How the name matches a vendor's log files; None for other files."""
    return next((match for files in _log_files() if (match := files.name.match(path.name))), None)


def import_order(paths: Iterable[Path]) -> list[Path]:
    """Sort CDR files among themselves in the order their lines were written; other files keep their places.

    Within one day, a run that began on an earlier day comes before runs that began on this day, whatever their time.
    """
    listed = list(paths)
    cdr = [(match["date"], match["run"], path) for path in listed if (match := _match_log_file(path))]
    began: dict[str, str] = {}
    for date, run, _ in cdr:
        began[run] = min(date, began.get(run, date))
    ordered = iter(sorted(cdr, key=lambda each: (each[0], began[each[1]], each[1])))
    return [next(ordered)[2] if _match_log_file(path) else path for path in listed]
