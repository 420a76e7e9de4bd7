"""Projects the records of a bundle again and compares the timeline with the one in the bundle.

The same projector and presenters make the timeline again, from temporary views: every difference was edited, or comes from
other records. Only two things may come from records outside the bundle:

    a session end that no event reports   the next session of its room, a restart of its server, a timeout
    the anomaly `overlap`                 the next session of its room

They are taken from the bundle and named; everything that follows from them is compared. Both timelines are compared in
pieces; only small ones are decoded, to name what differs.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import msgspec

from tracker.errors import BundleUnreadable
from tracker.evidence.bundle.build import timeline_json
from tracker.evidence.bundle.contents import bundle_contents
from tracker.evidence.bundle.findings import MAX_PROBLEMS
from tracker.evidence.bundle.manifest import PARTS, TIMELINE, Manifest, inferred_end
from tracker.evidence.bundle.unpacked_log import UnpackedLog
from tracker.evidence.bundle.zip_reader import SMALL_JSON, ContentComparison, OpenBundle, is_plausible
from tracker.domain.record_json import parse_micros
from tracker.projections.rendering import RenderContext, render
from tracker.domain.rows import SessionRow
from tracker.projections.state import decode_state
from tracker.projector.projector import Projector
from tracker.sources import registry
from tracker.views.contract import Changes, ViewsReader, ViewsWriter

FAR_FUTURE = 2**60
"""µs: later than every event; negated, earlier."""
OVERLAP = "overlap"


class TemporaryViews(ViewsWriter, ViewsReader, Protocol):
    """Views that are written and read in one process."""


NewViews = Callable[[Path], AbstractAsyncContextManager[TemporaryViews]]
"""Creates empty views in a new file."""


class TimelineComparison(NamedTuple):
    """`differences` in words, and what was taken `from_outside` the records."""

    differences: list[str]
    from_outside: list[str]


async def compare_timeline(
    log: UnpackedLog, manifest: Manifest, bundle: OpenBundle, new_views: NewViews, path: Path
) -> TimelineComparison:
    """Derive the timeline from the records in `log` and compare it with timeline.json.

    `new_views` creates temporary views at `path`. Raises `TrackerError`, where facts of erased records are withheld, and
    `BundleUnreadable`.
    """
    async with new_views(path) as views:
        return await _Comparison(log, views, manifest, bundle).run()


class _Comparison:
    def __init__(self, log: UnpackedLog, views: TemporaryViews, manifest: Manifest, bundle: OpenBundle) -> None:
        self._log = log
        self._views = views
        self._manifest = manifest
        self._bundle = bundle
        self._made_at = parse_micros(manifest.made_at)
        self._entries = 0

    async def run(self) -> TimelineComparison:
        session, reading = self._manifest.session, self._manifest.reading
        hidden = {session.source: frozenset(reading.hidden)}
        projector = Projector(self._log, self._views, hidden=hidden)
        for _ in self._log.slices():
            await projector.catch_up()
        row = await self._views.session(session.id)
        if row is None:
            return TimelineComparison([f"the records have no session {session.id[:200]}"], [])
        differences = await self._unrelated_records()
        from_outside: list[str] = []
        if not await self._equals_actual(row):
            context, from_outside = self._context_from_outside(row)
            if context is not None:
                row = await self._render_again(context)
            if not await self._equals_actual(row):
                differences += await self._differences(row)
        if inferred_end(row) != reading.inferred_end:
            differences.append("the manifest has a different inferred end of the session than the timeline")
        if self._entries != self._manifest.entries:
            differences.append(
                f"the manifest counts {self._manifest.entries} entries, the records give {self._entries}"
            )
        return TimelineComparison(differences[:MAX_PROBLEMS], from_outside)

    async def _equals_actual(self, row: SessionRow) -> bool:
        """Whether timeline.json is, byte for byte, the timeline of the derived session."""
        actual = ContentComparison(self._bundle.chunks(TIMELINE))
        async for piece in self._timeline_json(row):
            if not actual.continues_with(piece):
                return False
        return actual.is_at_end()

    async def _differences(self, row: SessionRow) -> list[str]:
        """Where timeline.json differs from the timeline of the derived session, in words."""
        expected = bytearray()
        async for piece in self._timeline_json(row):
            if len(expected) <= SMALL_JSON:
                expected += piece
        if max(len(expected), self._bundle.sizes[TIMELINE]) > SMALL_JSON:
            return [await self._first_different_line(row)]
        return _differences(self._bundle.content(TIMELINE), expected)

    async def _first_different_line(self, row: SessionRow) -> str:
        """Reads the derived timeline to its end: its entries are counted on the way."""
        actual, number, rest = self._bundle.lines(TIMELINE), 0, b""
        different: str | None = None
        async for piece in self._timeline_json(row):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                number += 1
                if different is None and (found := next(actual, b"").removesuffix(b"\n")) != line:
                    different = f"line {number} of {TIMELINE} has {_where_they_differ(found, line)}"
        return different or f"{TIMELINE} goes on after the last of what follows from the records"

    async def _unrelated_records(self) -> list[str]:
        """Records that do not belong to the session."""
        found: list[str] = []
        own = self._own_positions()
        expected = await anext(own, None)
        for position in self._log.positions:
            if position == expected:
                expected = await anext(own, None)
            elif len(found) < MAX_PROBLEMS:
                found.append(f"the record at position {position} does not belong to this session")
        return found

    async def _own_positions(self) -> AsyncIterator[int]:
        """The positions of the session's records, ascending."""
        after = 0
        while found := await self._views.session_positions(self._manifest.session.id, limit=1000, after=after):
            for position in found:
                yield position
            after = found[-1]

    async def _timeline_json(self, row: SessionRow) -> AsyncIterator[bytes]:
        stuck_before = self._made_at - self._manifest.reading.stuck_after_ms * 1000
        contents = bundle_contents(self._views, row, stuck_before=stuck_before)
        self._entries = 0
        async for piece in timeline_json(contents, self._count):
            yield piece

    def _count(self, entries: Sequence[msgspec.Struct]) -> None:
        self._entries += len(entries)

    def _context_from_outside(self, row: SessionRow) -> tuple[RenderContext | None, list[str]]:
        """What records outside the bundle may have added, according to the bundle; None if nothing."""
        rules = registry.rules(row.vendor)
        end = self._manifest.reading.inferred_end
        if end is not None:
            at, what = parse_micros(end.not_after or end.at), f"the end of the session at {end.at} ({end.reason})"
            match end.reason:
                case "superseded":
                    return RenderContext(rules=rules, next_start=at), [what]
                case "server_shutdown":
                    return RenderContext(rules=rules, restarts=(at,)), [what]
                case "timeout":
                    return RenderContext(rules=rules, latest=FAR_FUTURE), [what]
                case _:
                    return None, []
        if OVERLAP in self._stated_anomalies():
            what = "that the next session of this room began before this one ended"
            return RenderContext(rules=rules, next_start=-FAR_FUTURE), [what]
        return None, []

    def _stated_anomalies(self) -> set[str]:
        """The kinds of anomalies of the session in timeline.json; empty where its first line is not Tracker's."""
        with contextlib.suppress(BundleUnreadable):
            return _anomalies(next(self._bundle.lines(TIMELINE), b""))
        return set()

    async def _render_again(self, context: RenderContext) -> SessionRow:
        """Render the session with this context and save it to the views."""
        name = self._manifest.session.id
        state = decode_state((await self._views.states([name]))[name])
        rows = render(state, context)
        position = await self._views.projected_position()
        await self._views.save(Changes(position=position, sessions=[rows]))
        return rows.session


def _anomalies(first_line: bytes) -> set[str]:
    """The kinds of anomalies in the first line of a timeline.json, which holds the session; empty if it is malformed."""
    session = _fields(_fields(_json(first_line.removesuffix(b",\n") + b"}")).get("session"))
    listed = session.get("anomalies")
    found = cast("list[Any]", listed) if isinstance(listed, list) else []
    return {str(_fields(each).get("kind")) for each in found}


def _differences(actual: bytes | bytearray, expected: bytes | bytearray) -> list[str]:
    """Where two timelines differ, in words."""
    left, right = _json(actual), _json(expected)
    if left == right:
        return ["timeline.json has the right content, but not in Tracker's encoding: it was edited"]
    if not isinstance(left, dict):
        return ["timeline.json is no JSON object"]
    here, derived = _fields(left), _fields(right)
    found = [f"timeline.json has {name!r}, which no timeline has" for name in here if name not in derived]
    found += _fields_that_differ("session", here.get("session"), derived.get("session"))
    for part in PARTS:
        if len(found) >= MAX_PROBLEMS:
            break
        found += _items_that_differ(part, here.get(part), derived.get(part))
    return found or ["timeline.json does not follow from the records"]


def _items_that_differ(part: str, actual: Any, expected: Any) -> list[str]:
    here, derived = _by_id(actual), _by_id(expected)
    found = [f"{part} {name}: is in timeline.json, but follows from no record" for name in here if name not in derived]
    found += [
        f"{part} {name}: follows from the records, but is not in timeline.json" for name in derived if name not in here
    ]
    for name in here.keys() & derived.keys():
        found += _fields_that_differ(f"{part} {name}", here[name], derived[name])
    if not found and actual != expected:
        found.append(f"{part}: not in the order of the records")
    return sorted(found)[:MAX_PROBLEMS]


def _fields_that_differ(what: str, actual: Any, expected: Any) -> list[str]:
    here, derived = _fields(actual), _fields(expected)
    return [
        f"{what}: {name} is {_short(here.get(name))}, the records give {_short(derived.get(name))}"
        for name in sorted(here.keys() | derived.keys())
        if here.get(name) != derived.get(name)
    ]


def _by_id(rows: Any) -> dict[str, Any]:
    listed = cast("list[Any]", rows) if isinstance(rows, list) else []
    return {str(_fields(row).get("id")): row for row in listed}


def _fields(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _json(text: bytes | bytearray) -> Any:
    try:
        return msgspec.json.decode(text) if is_plausible(text) else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _short(value: Any) -> str:
    return _cut(msgspec.json.encode(value))


def _where_they_differ(actual: bytes, expected: bytes) -> str:
    same = next((n for n, (a, b) in enumerate(zip(actual, expected, strict=False)) if a != b), 0)
    here, derived = (_cut(text[max(0, same - 40) :]) for text in (actual, expected))
    return f"…{here} where the records give …{derived}"


def _cut(text: bytes) -> str:
    return text[:120].decode("utf-8", "replace") + ("…" if len(text) > 120 else "")
