"""The timeline of a bundle made again from its raw records, and compared with the one it came with.

The records go through the same projector into views of their own, and come out through the same answers: what differs
was changed, or was read from something else. Two things may come from outside of the bundle, and only these:

    the end of a session that no event told   the next session of its room, a restart of its server, a timeout
    the anomaly `overlap`                     the next session of its room

They are taken from the bundle, everything that follows from them is compared, and they are named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import msgspec

from tracker.evidence.bundle.contents import bundle_contents
from tracker.evidence.bundle.manifest import PARTS, Manifest, InferredEnd
from tracker.evidence.bundle.build import timeline_json
from tracker.evidence.bundle.zip_reader import is_plausible
from tracker.evidence.bundle.unpacked_log import UnpackedLog
from tracker.domain.deliveries import Micros
from tracker.domain.record_json import exact_micros, exact_time
from tracker.projections.rendering import RenderContext, render
from tracker.domain.rows import SessionRow
from tracker.projections.state import decode_state, encode_state
from tracker.projector.projector import Projector
from tracker.sources import registry
from tracker.views.contract import Changes, SessionRows, ViewsReader, ViewsWriter

MAX_DIFFERENCES = 20
FAR_FUTURE = 2**60
"""µs: later than everything; and, negated, earlier."""
OVERLAP = "overlap"


class TemporaryViews(ViewsWriter, ViewsReader, Protocol):
    """Views that are written and read in one process."""


NewViews = Callable[[Path], AbstractAsyncContextManager[TemporaryViews]]
"""Creates empty views in a new file."""


class TimelineComparison(NamedTuple):
    """What came out: `differences` in words, and what had to be taken `from_outside` to get there."""

    differences: list[str]
    from_outside: list[str]


async def compare_timeline(
    log: UnpackedLog, manifest: Manifest, given: bytes, new_views: NewViews, path: Path
) -> TimelineComparison:
    """Make the timeline again and compare it with the bytes `given`. `new_views` creates temporary views at `path`.

    Raises `TrackerError`, where what erased records said is not in the bundle.
    """
    async with new_views(path) as views:
        return await _Comparison(log, views, manifest, given).run()


class _Comparison:
    def __init__(self, log: UnpackedLog, views: TemporaryViews, manifest: Manifest, given: bytes) -> None:
        self._log = log
        self._views = views
        self._manifest = manifest
        self._given = given
        self._made_at = exact_micros(manifest.made_at)
        self._entries = 0

    async def run(self) -> TimelineComparison:
        session, reading = self._manifest.session, self._manifest.reading
        hidden = {session.source: frozenset(reading.hidden)}
        await Projector(self._log, self._views, now=self._now, hidden=hidden).catch_up()
        row = await self._views.session(session.id)
        if row is None:
            return TimelineComparison([f"the records do not tell of a session {session.id}"], [])
        differences = await self._unrelated()
        made = await self._made(row)
        outside: list[str] = []
        if made != self._given:
            around, outside = self._surroundings(row)
            if around is not None:
                row = await self._render_again(around)
                made = await self._made(row)
        if made != self._given:
            differences += _differences(self._given, made)
        if _inferred(row) != reading.inferred_end:
            differences.append("the manifest names another inferred end of the session than the timeline has")
        if self._entries != self._manifest.entries:
            differences.append(
                f"the manifest counts {self._manifest.entries} entries, the records give {self._entries}"
            )
        return TimelineComparison(differences[:MAX_DIFFERENCES], outside)

    def _now(self) -> Micros:
        return self._made_at

    async def _unrelated(self) -> list[str]:
        """Records that have nothing to do with the session."""
        behind, after = set[int](), 0
        while found := await self._views.session_positions(self._manifest.session.id, limit=1000, after=after):
            behind.update(found)
            after = found[-1]
        return [
            f"the record at position {position} has nothing to do with this session"
            for position in self._log.positions
            if position not in behind
        ]

    async def _made(self, row: SessionRow) -> bytes:
        stuck_before = self._made_at - self._manifest.reading.stuck_after_ms * 1000
        contents = bundle_contents(self._views, row, stuck_before=stuck_before)
        self._entries = 0
        return b"".join([piece async for piece in timeline_json(contents, self._count)])

    def _count(self, entries: Sequence[msgspec.Struct]) -> None:
        self._entries += len(entries)

    def _surroundings(self, row: SessionRow) -> tuple[RenderContext | None, list[str]]:
        """What may have been known from outside, as the bundle has it; None where there was nothing to know."""
        rules = registry.rules(row.vendor)
        end = self._manifest.reading.inferred_end
        if end is not None:
            at, told = exact_micros(end.at), f"the end of the session at {end.at} ({end.reason})"
            match end.reason:
                case "superseded":
                    return RenderContext(rules=rules, next_start=at), [told]
                case "server_shutdown":
                    return RenderContext(rules=rules, restarts=(at,)), [told]
                case "timeout":
                    return RenderContext(rules=rules, latest=FAR_FUTURE), [told]
                case _:
                    return None, []
        if OVERLAP in _anomalies(self._given):
            told = "that the next session of this room began before this one ended"
            return RenderContext(rules=rules, next_start=-FAR_FUTURE), [told]
        return None, []

    async def _render_again(self, around: RenderContext) -> SessionRow:
        """Render the session with these surroundings, into the views."""
        name = self._manifest.session.id
        state = decode_state((await self._views.states([name]))[name])
        rows = render(state, around)
        fields: dict[str, Any] = {field: getattr(rows, field) for field in rows.__struct_fields__}
        position = await self._views.projected_position()
        changed = SessionRows(state=encode_state(state), **fields)
        await self._views.save(Changes(position=position, sessions=[changed]))
        return rows.session


def _inferred(row: SessionRow) -> InferredEnd | None:
    if row.end is None or row.end.provenance != "inferred" or row.ended_at is None:
        return None
    return InferredEnd(at=exact_time(row.ended_at), reason=row.end.reason)


def _anomalies(given: bytes) -> set[str]:
    """The kinds of anomalies a timeline.json names; whatever it is, nothing is raised."""
    session = _fields(_fields(_json(given)).get("session"))
    listed = session.get("anomalies")
    found = cast("list[Any]", listed) if isinstance(listed, list) else []
    return {str(_fields(each).get("kind")) for each in found}


def _differences(given: bytes, made: bytes) -> list[str]:
    """Where two timelines differ, in words."""
    left, right = _json(given), _json(made)
    if left == right:
        return ["timeline.json says what the records say, and is not written as Tracker writes it: it was edited"]
    if not isinstance(left, dict):
        return ["timeline.json is no JSON object"]
    told, derived = _fields(left), _fields(right)
    found = [f"timeline.json has {name!r}, which no timeline has" for name in told if name not in derived]
    found += _fields_that_differ("session", told.get("session"), derived.get("session"))
    for part in PARTS:
        if len(found) >= MAX_DIFFERENCES:
            break
        found += _items_that_differ(part, told.get(part), derived.get(part))
    return found or ["timeline.json is not what the records say"]


def _items_that_differ(part: str, told: Any, derived: Any) -> list[str]:
    here, there = _by_id(told), _by_id(derived)
    found = [f"{part} {name}: is in timeline.json, and no record says so" for name in here if name not in there]
    found += [f"{part} {name}: the records say it, and timeline.json does not" for name in there if name not in here]
    for name in here.keys() & there.keys():
        found += _fields_that_differ(f"{part} {name}", here[name], there[name])
    if not found and told != derived:
        found.append(f"{part}: not in the order the records give")
    return sorted(found)[:MAX_DIFFERENCES]


def _fields_that_differ(what: str, told: Any, derived: Any) -> list[str]:
    here, there = _fields(told), _fields(derived)
    return [
        f"{what}: {name} is {_short(here.get(name))}, the records say {_short(there.get(name))}"
        for name in sorted(here.keys() | there.keys())
        if here.get(name) != there.get(name)
    ]


def _by_id(rows: Any) -> dict[str, Any]:
    listed = cast("list[Any]", rows) if isinstance(rows, list) else []
    return {str(_fields(row).get("id")): row for row in listed}


def _fields(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _json(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text) if is_plausible(text) else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 120 else text[:120] + "…"
