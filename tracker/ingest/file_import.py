"""Imports files: JSON Lines, and a vendor's own log files (CDR files). Importing the same file twice adds nothing.

    file ─► lines ─► what is wrapped around each line is undone ─► its JSON ─► is it an event? ─► source.verify_trusted
         ─► log.append_all (500 at a time)

A line may be a webhook body, the event of a CDR file, either of them behind a log prefix or in what a container or a log
collector wraps around it (`ingest/log_wrapping`), or an envelope (`body_b64` / `body_text`) as Tracker exports it. The log
gets the exact bytes of the JSON. The log is for ever, so a line is recorded only if its vendor recognises an event in it
(`Vendor.why_no_event`). Every other line is counted under the reason why it was not; unless it is a line of a log, the
report also lists its number.

If we die here: each batch is durable or absent as a whole, and the next run adds what is missing.

LIMIT: `received_at` of an imported record is the time of the import. An event without a time of its own gets that time.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, cast, final

import msgspec

from tracker.domain.deliveries import Appended, Verified
from tracker.ingest.file_lines import UnknownFormat, file_lines
from tracker.ingest.import_paths import match_log_file, paths_to_import
from tracker.ingest.json_joining import elements, parse_object
from tracker.ingest.log_wrapping import Line, LineJoiner
from tracker.log.frames import max_frame_bytes
from tracker.sources import registry
from tracker.sources.declared.source import DeclaredSource
from tracker.sources.contract import Source, Vendor, Where
from tracker.sources.json_reading import without_secrets


BATCH_LINES = 500
BATCH_BYTES = 8 * 1024 * 1024
MAX_LINE_BYTES = 16 * 1024 * 1024
"""Longer lines are reported as unreadable, so that memory stays bounded."""
MAX_BATCH_LINES_READ = 20 * BATCH_LINES
"""A batch ends after this many lines even if few of them are imported, so that progress is reported."""
MAX_JSON_STARTS = 8
"""How many `{` of a line are tried as the beginning of its JSON."""
MAX_EXAMPLES = 3
MAX_EXAMPLE_TEXT = 160

LOG_LINE = re.compile(
    rb"""
    ^\S+\s+\|\ |                                                    # docker compose
    \[(?:TRACE|DEBUG|INFO|WARN|ERROR|FATAL)\ *\]|
    ^\[?(?:\d{4}[-/]\d\d[-/]\d\d[ T])?\d\d:\d\d:\d\d|              # a date and a time, or a time
    ^[IWEF]\d{4}\ \d\d:\d\d:\d\d|                                   # klog
    ^(?:time|ts|level)=|                                            # logfmt
    ^[A-Z_][A-Z0-9_]*=                                              # journalctl -o export
    """,
    re.VERBOSE,
)

Progress = Callable[[str, int, int], None]
"""(file name, bytes read so far, size of the file in bytes): called after each batch and at the end of a file."""

Outcome = Literal["new", "known", "skipped", "unreadable"]


class ImportTarget(Protocol):
    """Where imported records go: the log, or for a dry run what only looks into it."""

    @property
    def max_batch_bytes(self) -> int:
        """See `Appender.max_batch_bytes`."""
        ...

    async def append_all(self, batch: Sequence[Verified]) -> list[Appended]:
        """See `Appender.append_all`."""
        ...


class Example(msgspec.Struct, frozen=True):
    """A line of a dry run: `text` is its beginning, without the paths of links; `why` it is not imported."""

    line: int
    outcome: Outcome
    text: str
    why: str | None = None


class FileReport(msgspec.Struct, kw_only=True):
    """The result for one file: `lines` = new + known + skipped + unreadable + partial; blank lines are not counted.

    `known` were in the log already; `skipped` are lines of a log without an event; `unreadable` are line numbers (from 1);
    `partial` is the number of a last line that is still being written (no line end, does not parse). It is not recorded:
    importing the finished file adds it. `reasons` counts the lines that were not imported by the reason. `error` says why
    the file could not be read (to its end). `not_read` says why a file of an imported folder was left alone. `examples`:
    in a dry run, three lines of each outcome; the counts then say what an import would do.
    """

    file: str
    lines: int = 0
    new: int = 0
    known: int = 0
    skipped: int = 0
    unreadable: list[int] = []
    partial: int | None = None
    reasons: dict[str, int] = {}
    error: str | None = None
    not_read: str | None = None
    examples: list[Example] = []

    def add_example(self, line: int, outcome: Outcome, text: bytes, why: str | None = None) -> None:
        """Keep a line as an example, unless there are three of this outcome."""
        if sum(each.outcome == outcome for each in self.examples) < MAX_EXAMPLES:
            shown = without_secrets(text[: 4 * MAX_EXAMPLE_TEXT].decode("utf-8", "replace"))
            cut = f"{shown[:MAX_EXAMPLE_TEXT]}…" if len(shown) > MAX_EXAMPLE_TEXT else shown
            self.examples.append(Example(line, outcome, cut, why))


async def import_files(
    source: Source,
    log: ImportTarget,
    files: Sequence[Path],
    *,
    now: Callable[[], int],
    progress: Progress | None = None,
    examples: bool = False,
) -> list[FileReport]:
    """Import files; one report per file, in the order read: CDR files oldest run first, others as given.

    A folder stands for the log files and JSON Lines in it, also rotated and `.gz`; what else it holds is listed with
    `not_read`. `now` gives µs since the epoch. A file that cannot be read has `error` set; the other files are imported
    all the same. `examples`: fill `FileReport.examples`. Raises `LogError` when the log cannot take more; what was
    reported as recorded until then is durable, and importing again adds the rest.
    """
    vendor = registry.VENDORS[source.vendor]
    if isinstance(source, DeclaredSource):
        vendor = source.described(vendor)
    paths, left_out = paths_to_import(files, vendor.log_files)
    reports: list[FileReport] = []
    for path in paths:
        report = FileReport(file=str(path))
        reports.append(report)
        reader = _FileReader(path, report, source, vendor, now, log.max_batch_bytes, examples=examples)
        while (batch := await asyncio.to_thread(reader.next_batch)) is not None:
            appended = await log.append_all([each.verified for each in batch]) if batch else []
            for one, each in zip(appended, batch, strict=True):
                if one.duplicate:
                    report.known += 1
                else:
                    report.new += 1
                if examples:
                    report.add_example(each.line, "known" if one.duplicate else "new", each.verified.body)
            if progress is not None:
                progress(path.name, reader.bytes_read, reader.file_bytes)
    return reports + [FileReport(file=str(path), not_read=why) for path, why in left_out]


class Event(NamedTuple):
    """An event in a line: the exact bytes to record, and the hints to add to their proof."""

    body: bytes
    hints: dict[str, str]


class NoEvent(NamedTuple):
    """Why a line is not imported. `is_log`: it is an ordinary line of a log, so its number is not worth listing."""

    why: str
    is_log: bool


class _Numbered(NamedTuple):
    line: int
    verified: Verified


@final
class _FileReader:
    """Reads one file: returns batches, fills the report. Used by one thread at a time."""

    def __init__(
        self,
        path: Path,
        report: FileReport,
        source: Source,
        vendor: Vendor,
        now: Callable[[], int],
        max_batch_bytes: int,
        *,
        examples: bool,
    ) -> None:
        self._max_batch_bytes = max_batch_bytes
        self._carried_over: _Numbered | None = None
        self._path = path
        self._report = report
        self._source = source
        self._vendor = vendor
        self._now = now
        self._examples = examples
        self._is_log = False
        self._damaged: list[int] = []
        """The unreadable lines that stay unreadable if the file turns out to be a log."""
        cdr = match_log_file(path, vendor.log_files)
        self._is_own_log = cdr is not None
        # When the server process started, and the folder, which tells servers apart: the projector ends what an older
        # process left open.
        self._run = {"run": f"{cdr['date']}_{cdr['run']}", "folder": path.resolve().parent.name} if cdr else {}
        self._lines = self._numbered_lines()
        self.bytes_read = 0
        self.file_bytes = 0

    def next_batch(self) -> list[_Numbered] | None:
        """The next deliveries, at most 500; empty when all lines were skipped; None at the end of the file."""
        batch = [] if self._carried_over is None else [self._carried_over]
        size, lines_read = max_frame_bytes([each.verified for each in batch]), len(batch)
        self._carried_over = None
        try:
            for line in self._lines:
                lines_read += 1
                found = self._event_in(line)
                if found is not None:
                    proof: dict[str, str | int] = {"scheme": "import", "file": self._path.name, "line": line.number}
                    proof |= self._run | found.hints
                    verified = self._source.verify_trusted(found.body, received_at=self._now(), proof=proof)
                    added = max_frame_bytes([verified])
                    if added > self._max_batch_bytes:
                        self._leave_out(line, NoEvent("it is too large for the log", is_log=False))
                        continue
                    if batch and size + added > min(BATCH_BYTES, self._max_batch_bytes):
                        self._carried_over = _Numbered(line.number, verified)
                        return batch
                    batch.append(_Numbered(line.number, verified))
                    size += added
                if len(batch) >= BATCH_LINES or lines_read >= MAX_BATCH_LINES_READ:
                    return batch
        except IsADirectoryError:
            self._report.error = "a folder without log files or JSON Lines in it"
        except (OSError, EOFError, zlib.error, UnknownFormat) as error:
            # A damaged or truncated .gz: what was unpacked before the damage is good and is kept.
            self._report.error = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return batch if lines_read else None

    def _numbered_lines(self) -> Iterator[Line]:
        """The lines inside the file's lines. Lines that are too long are counted here."""
        joiner = LineJoiner(self._is_kept, MAX_LINE_BYTES)
        for line in file_lines(self._path, MAX_LINE_BYTES, self._set_position):
            if line.text is None:
                self._report.lines += 1
                too_long = Line(line.number, b"", is_whole=True, is_wrapped=False)
                self._leave_out(too_long, NoEvent("it is too long", is_log=False))
                continue
            for each in joiner.feed(line.number, line.text, is_whole=line.is_whole):
                yield each._replace(text=each.text.strip())
        for each in joiner.finish():
            yield each._replace(text=each.text.strip())

    def _set_position(self, bytes_read: int, file_bytes: int) -> None:
        self.bytes_read, self.file_bytes = bytes_read, file_bytes

    def _is_kept(self, fields: Mapping[str, Any]) -> bool:
        """Whether an object is an event or an envelope, so that nothing in it is to be unwrapped."""
        return _is_envelope(fields) or self._vendor.why_no_event(fields, self._where(b"", is_wrapped=False)) is None

    def _where(self, before: bytes, *, is_wrapped: bool) -> Where:
        """Where a JSON text stands that has this text before it on its line."""
        files = self._vendor.log_files
        if files is not None and files.logger.search(before):
            return "own log"
        if before or is_wrapped:
            return "log"
        return "own log" if self._is_own_log else "lines"

    def _event_in(self, line: Line) -> Event | None:
        """The event in a line, or None; then the line is counted in the report."""
        if not line.text:
            return None
        self._report.lines += 1
        if not self._is_log and (line.is_wrapped or LOG_LINE.search(line.text.partition(b"{")[0]) is not None):
            # The lines before, like a banner, were lines of a log too.
            self._is_log = True
            self._report.skipped += len(self._report.unreadable) - len(self._damaged)
            self._report.unreadable = self._damaged
        found = find_event(line.text, self._vendor, lambda before: self._where(before, is_wrapped=line.is_wrapped))
        if isinstance(found, Event):
            return found
        if not line.is_whole and not found.is_log:
            self._report.partial = line.number
        else:
            self._leave_out(line, found)
        return None

    def _leave_out(self, line: Line, found: NoEvent) -> None:
        is_skipped = found.is_log and self._is_log
        if is_skipped:
            self._report.skipped += 1
        else:
            self._report.unreadable.append(line.number)
            if not found.is_log and self._report.unreadable is not self._damaged:
                self._damaged.append(line.number)
        self._report.reasons[found.why] = self._report.reasons.get(found.why, 0) + 1
        if self._examples:
            self._report.add_example(line.number, "skipped" if is_skipped else "unreadable", line.text, found.why)


def find_event(line: bytes, vendor: Vendor, where: Callable[[bytes], Where]) -> Event | NoEvent:
    """The event in a line, after what was wrapped around the line. `where`: where a JSON text stands, by the text before it.

    If the line does not start with `{`, the JSON starts at its first `{`, or at a later one: the first that begins an
    object which reaches to the end of the line, else the first that begins a known event.
    """
    starts = _starts(line)
    for start in starts if line.endswith(b"}") else ():
        parsed = None if b'{"' in line[:start] else parse_object(line[start:])
        if parsed is not None:
            return _event_of(line[start:], parsed, vendor, where(line[:start]))
    # JSON before it, or text after it. What is no known event may be a part of damaged JSON.
    for start in starts:
        text = next(elements([line[start:]], len(line)), None)
        parsed = parse_object(text) if text else None
        if text and parsed is not None and vendor.why_no_event(parsed, "log") is None:
            return Event(text, {})
    return _without_object(line, vendor)


def _event_of(text: bytes, parsed: Mapping[str, Any], vendor: Vendor, place: Where) -> Event | NoEvent:
    if _is_envelope(parsed):
        body = _inner_body(parsed)
        why = "its envelope is damaged" if body is None else _why_not_exported(parsed, body, vendor, place)
        if body is not None and why is None:
            return Event(body, _hints_of(parsed))
    else:
        why = vendor.why_no_event(parsed, place)
        if why is None:
            return Event(text, {})
    return NoEvent(f"no event of {vendor.title}: {why}", is_log=True)


def _starts(line: bytes) -> list[int]:
    """Where the JSON of a line may begin."""
    start = line.find(b"{")
    starts = {start}
    if start != 0 and b" - " in line:
        starts.add(line.find(b"{", line.index(b" - ")))
    while start > 0 and len(starts) < MAX_JSON_STARTS and (start := line.find(b"{", start + 1)) > 0:
        starts.add(start)
    return sorted(starts - {-1})


def _without_object(line: bytes, vendor: Vendor) -> Event | NoEvent:
    """Why a line has no JSON object. In a log that is usual, unless the line was written by the logger of events."""
    event = vendor.form_event(line)
    if event is not None and vendor.why_no_event(event, "lines") is None:
        return Event(line, {})
    start = line.find(b"{")
    if start < 0:
        return NoEvent("it holds no JSON", is_log=True)
    is_event_log = vendor.log_files is not None and vendor.log_files.logger.search(line[:start]) is not None
    # Text with a brace in it is no event; truncated JSON may have been one.
    is_damaged = start == 0 or is_event_log or line[:start].endswith(b" - ")
    return NoEvent("its JSON is damaged" if is_damaged else "it holds no JSON", is_log=not is_damaged)


def _is_envelope(parsed: Mapping[str, Any]) -> bool:
    """An envelope has `body_b64` or `body_text`, and either no `event` or the keys only an envelope has."""
    has_keys = "event" not in parsed or not {"source", "vendor", "headers"}.isdisjoint(parsed)
    return has_keys and (isinstance(parsed.get("body_b64"), str) or isinstance(parsed.get("body_text"), str))


def _inner_body(envelope: Mapping[str, Any]) -> bytes | None:
    """The body inside an envelope; None if it is broken."""
    encoded = envelope.get("body_b64")
    if isinstance(encoded, str):
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            return None
    return cast("str", envelope["body_text"]).encode("utf-8", "surrogatepass")


def _why_not_exported(envelope: Mapping[str, Any], body: bytes, vendor: Vendor, place: Where) -> str | None:
    """Why the body of an envelope is no event. A record that Tracker exported was authentic, whatever it holds."""
    other = envelope.get("vendor")
    if isinstance(other, str) and other != vendor.name:
        return f"it is a record of the vendor {other!r}"
    if other == vendor.name and isinstance(envelope.get("dedupe_key"), str):
        return None
    parsed = parse_object(body) or vendor.form_event(body)
    return "the body in its envelope is no JSON object" if parsed is None else vendor.why_no_event(parsed, place)


def _hints_of(envelope: Mapping[str, Any]) -> dict[str, str]:
    """The correlation hints in the proof of an exported record."""
    proof = envelope.get("proof")
    fields = cast("dict[str, Any]", proof) if isinstance(proof, dict) else {}
    names = [name for vendor in registry.VENDORS.values() for name in vendor.import_hints]
    return {name: fields[name] for name in names if isinstance(fields.get(name), str)}
