"""The way in for files: CDR files and JSON Lines, read once or ten times with the same outcome.

    file ─► lines ─► the JSON of each line ─► source.admit ─► log.append_all (500 at a time)

A line may be a webhook body, an OpenVidu CDR object, either of them behind a log or docker prefix, or an envelope
(`body_b64` / `body_text`) as our own export writes it. What goes into the log is the exact bytes of the JSON.
Whatever is not read is counted and, unless it is a log line that holds no JSON, listed with its line number.

If we die here: every batch is durable or absent as a whole, and dedupe makes the next run take only what is missing.

LIMIT: `received_at` of an imported record is the time of the import. A vendor's event that states no time of its own
(StreamRec `upload_failed`) is dated by that.
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast, final

import msgspec

from tracker.domain.deliveries import Verified
from tracker.log.contract import Log
from tracker.log.frames import weight
from tracker.sources.contract import Source


BATCH_LINES = 500
BATCH_BYTES = 8 * 1024 * 1024
LINE_BYTES = 16 * 1024 * 1024
"""A longer line is unreadable: memory stays bounded whatever the file is."""

BOM = b"\xef\xbb\xbf"
CDR_NAME = re.compile(r"^CDR\.(?P<date>\d{4}-\d{2}-\d{2})_(?P<run>\d{2}-\d{2}-\d{2})\.log(\.gz)?$")
LOG_LINE = re.compile(rb"^\S+\s+\| |\[(TRACE|DEBUG|INFO|WARN|ERROR|FATAL) *\]|^\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d")
CDR_LOGGER = re.compile(rb"CDRLogger|CallDetailRecord")
HINTS = ("sid", "rid", "run")
"""What an envelope's proof may say about where its body belongs: StreamRec's hints, and the run of a CDR file."""

READ_IN_FOLDERS = (".log", ".jsonl", ".log.gz", ".jsonl.gz")

Progress = Callable[[str, int, int], None]
"""(file name, bytes of the file read so far, bytes of the file): called after each batch and at the end of a file."""


Found = tuple[bytes, dict[str, str]]
"""The exact bytes to record, and the hints that go into their proof."""


class FileReport(msgspec.Struct, kw_only=True):
    """What became of one file: `lines` = new + known + skipped + unreadable + partial; blank lines are not counted.

    `known` were in the log before; `skipped` are log lines that hold no CDR JSON; `unreadable` are line numbers (from
    1); `partial` is the number of a last line still being written (no newline, does not parse): it is not recorded, so
    that importing the grown file takes it. `error` says why the file could not be read (to its end).
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
    source: Source,
    log: Log,
    files: Sequence[Path],
    *,
    now: Callable[[], int],
    progress: Progress | None = None,
) -> list[FileReport]:
    """One report a file, in the order they were read: CDR files oldest run first, others as given.

    A folder stands for the `.log` and `.jsonl` files in it (also `.gz`). `now` gives µs since the epoch. A file that
    cannot be read has `error` set and stops nobody. Raises `LogError` when the log cannot take more; what was
    reported as recorded until then is durable, and running the import again adds the rest.
    """
    reports: list[FileReport] = []
    for path in _in_order(_opened_up(files)):
        report = FileReport(file=str(path))
        reports.append(report)
        reading = _Reading(path, report, source, now, log.most_bytes)
        while (batch := await asyncio.to_thread(reading.next_batch)) is not None:
            for appended in await log.append_all(batch) if batch else []:
                if appended.duplicate:
                    report.known += 1
                else:
                    report.new += 1
            if progress is not None:
                progress(path.name, reading.bytes_read, reading.bytes_all)
    return reports


@final
class _Reading:
    """One file being read: hands out batches, fills the report. Used by one thread at a time."""

    def __init__(self, path: Path, report: FileReport, source: Source, now: Callable[[], int], most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._next: Verified | None = None
        self._path = path
        self._report = report
        self._source = source
        self._now = now
        self._is_log = False
        cdr = CDR_NAME.match(path.name)
        # The suffix is when the server process started: the projector ends what an older run left open.
        self._run = {"run": cdr["run"]} if cdr else {}
        self._lines = self._numbered_lines()
        self.bytes_read = 0
        self.bytes_all = 0

    def next_batch(self) -> list[Verified] | None:
        """Up to 500 admitted lines (none, if all of them were skipped at the end); None when the file is done."""
        batch = [] if self._next is None else [self._next]
        size, seen = weight(batch), len(batch)
        self._next = None
        try:
            for number, line, is_whole in self._lines:
                seen += 1
                found = self._found_in(number, line, is_whole)
                if found is not None:
                    body, hints = found
                    proof: dict[str, str | int] = {"scheme": "import", "file": self._path.name, "line": number}
                    proof |= self._run | hints
                    admitted = self._source.verify_trusted(body, received_at=self._now(), proof=proof)
                    more = weight([admitted])
                    if more > self._most_bytes:
                        self._report.unreadable.append(number)
                        continue
                    if batch and size + more > min(BATCH_BYTES, self._most_bytes):
                        self._next = admitted
                        return batch
                    batch.append(admitted)
                    size += more
                if len(batch) >= BATCH_LINES or seen >= 20 * BATCH_LINES:
                    return batch
        except IsADirectoryError:
            self._report.error = "a folder without .log or .jsonl files in it"
        except (OSError, EOFError, zlib.error) as problem:
            # A damaged or truncated .gz: what was unpacked before the damage is good and is kept.
            self._report.error = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
        return batch if seen else None

    def _numbered_lines(self) -> Iterator[tuple[int, bytes | None, bool]]:
        """(number from 1, bytes without the line end or None when too long, whether it ended in a newline)."""
        with self._path.open("rb") as raw:
            self.bytes_all = self._path.stat().st_size
            packed = self._path.suffix == ".gz"
            stream: io.BufferedIOBase = gzip.GzipFile(fileobj=raw) if packed else raw
            number = 0
            while line := stream.readline(LINE_BYTES + 1):
                number += 1
                is_long = len(line) > LINE_BYTES
                while is_long and not line.endswith(b"\n") and (more := stream.readline(LINE_BYTES)):
                    line = more
                self.bytes_read = raw.tell()
                is_whole = line.endswith(b"\n")
                text = line.removeprefix(BOM) if number == 1 else line
                yield number, None if is_long else text.strip(b" \t\r\n"), is_whole

    def _found_in(self, number: int, line: bytes | None, is_whole: bool) -> Found | None:
        """The bytes to record and their hints, or None; then the report says why."""
        if line == b"":
            return None
        self._report.lines += 1
        found = None if line is None else _read(line)
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
    """The exact bytes of the JSON object a line holds (the inner body of an envelope), or None.

    A line that does not start with `{` is read from its first `{`, or from the first one after ` - `, whichever
    begins a JSON object that reaches to the end; behind a log prefix that object has to look like a CDR event.
    """
    found = _read(line)
    return None if found is None else found[0]


def _read(line: bytes) -> Found | None:
    """What `read_line` gives, and the hints of an envelope."""
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
    """The object, also where strict readers stop: a lone surrogate (OpenVidu Meet), ISO-8859-1 (OpenVidu ≤ 2.17)."""
    try:
        parsed: object = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        try:
            parsed = json.loads(text.decode("latin-1"))
        except (ValueError, RecursionError):
            return None
    return cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else None


def _is_event(parsed: dict[str, Any]) -> bool:
    """Whether an object found in a server's log is a CDR event, and not something else the server printed."""
    return "event" in parsed or (len(parsed) == 1 and isinstance(next(iter(parsed.values())), dict))


def _holds_no_cdr(line: bytes) -> bool:
    """Whether a line of a server's log that gave no event was never meant to hold one."""
    start = line.find(b"{")
    if start < 0:
        return True
    if start == 0 or CDR_LOGGER.search(line[:start]):
        return False
    # Another logger's whole JSON, or text with a brace somewhere, was no event; JSON that breaks off might have been.
    return not line[:start].endswith(b" - ") or _json_object(line[start:]) is not None


def _inner_body(parsed: dict[str, Any], text: bytes) -> bytes | None:
    """The body an envelope carries; `text` itself where it is none; None where the envelope is broken.

    An envelope has `body_b64` or `body_text`, and either no `event` or the keys only an envelope has.
    """
    is_envelope = "event" not in parsed or not {"source", "vendor", "headers"}.isdisjoint(parsed)
    packed, plain = parsed.get("body_b64"), parsed.get("body_text")
    if is_envelope and isinstance(packed, str):
        try:
            return base64.b64decode(packed, validate=True)
        except (binascii.Error, ValueError):
            return None
    if is_envelope and isinstance(plain, str):
        return plain.encode("utf-8", "surrogatepass")
    return text


def _hints_of(envelope: dict[str, Any]) -> dict[str, str]:
    """What the proof of an exported record says about where it belongs."""
    proof = envelope.get("proof")
    said = cast("dict[str, Any]", proof) if isinstance(proof, dict) else {}
    return {name: said[name] for name in HINTS if isinstance(said.get(name), str)}


def _opened_up(files: Sequence[Path]) -> Iterator[Path]:
    """Folders replaced by what is read in them; an unreadable or empty one stays, to be reported."""
    for path in files:
        inside: list[Path] = []
        # A folder we may not list stays too: opening it says why.
        if path.is_dir() and os.access(path, os.R_OK | os.X_OK):
            inside = sorted(each for each in path.iterdir() if each.name.endswith(READ_IN_FOLDERS) and each.is_file())
        yield from inside or [path]


def _in_order(files: Iterator[Path]) -> list[Path]:
    """CDR files in the order their lines were written, in the places CDR files had; other files stay where they were.

    On one day a run that began on an earlier day comes before those that began later, whatever their time of day.
    """
    paths = list(files)
    cdr = [(match["date"], match["run"], path) for path in paths if (match := CDR_NAME.match(path.name))]
    began: dict[str, str] = {}
    for date, run, _ in cdr:
        began[run] = min(date, began.get(run, date))
    ordered = iter(sorted(cdr, key=lambda each: (each[0], began[each[1]], each[1])))
    return [next(ordered)[2] if CDR_NAME.match(path.name) else path for path in paths]
