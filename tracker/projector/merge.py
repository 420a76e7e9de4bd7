"""Merges views that were built from two consecutive parts of a log, and corrects what neither part could know alone.

    merge      all rows of the second part are added; rooms and sources known to both are joined
    rooms      facts whose run begins or ends in the other part move; sessions that the next run ended are rendered again
    sessions   the folded states of sessions known to both are joined
    sources    sessions that a restart or the latest moment of their whole source ends are rendered again

A later batch does the same to earlier ones (`projector/batch`). Usually little changes: the sessions that were open at
the boundary. Each step is bounded, so that memory stays flat.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from tracker.domain.facts import RunRules
from tracker.domain.room_marks import ANCHOR, EARLIEST, KEYED, KINDS, LATEST, LOOSE, Marks
from tracker.domain.known_marks import KnownMarks
from tracker.projections.rendering import session_id
from tracker.projections.runs import Room, Window
from tracker.projections.sourced_fact import decode_session_ref
from tracker.projections.state import decode_state
from tracker.projections.restarts import changed_spans
from tracker.projector.batch import Batch, BatchCache, LoadFacts, SourceState
from tracker.projector.placement import Effects, RoomKey
from tracker.views.contract import Changes, MergeableViews, MergeResult, RoomParts, SourceRow

ROOMS_PER_STEP = 200
SESSIONS_PER_STEP = 500

_decode_state = msgspec.msgpack.Decoder(SourceState).decode
_encode_state = msgspec.msgpack.Encoder().encode


async def merge_parts(views: MergeableViews, part: Path, load_facts: LoadFacts) -> int:
    """Merge the views at `part` into `views` and correct what changes. Returns the position of the views then.

    `views` hold the records before those of `part`; both are as the projector left them. `load_facts` reads the log.
    """
    merged = await views.merge(part)
    position = merged.position
    await views.save(
        Changes(position=position, sources=[_join_sources(ours, theirs) for ours, theirs in merged.sources])
    )
    shared_sessions = set(merged.shared_sessions)
    after = ("", "")
    while shared := await views.shared_rooms(after, limit=ROOMS_PER_STEP):
        merger = PartMerger(views, load_facts)
        await views.save(await merger.merge_rooms(shared, position))
        shared_sessions -= merger.refolded
        after = shared[-1]
    for names in _chunks(sorted(shared_sessions), SESSIONS_PER_STEP):
        theirs = await views.part_states(names)
        await views.save(await PartMerger(views, load_facts).merge_sessions(theirs, position))
    for names in _chunks(await _sessions_ended_by_source(views, merged), SESSIONS_PER_STEP):
        await views.save(await PartMerger(views, load_facts).render_sessions(names, position))
    return position


class PartMerger(Batch):
    """One step of the merge. Use once, with a cache of its own."""

    def __init__(self, views: MergeableViews, load_facts: LoadFacts) -> None:
        super().__init__(views, BatchCache(), load_facts)
        self._views = views

    async def merge_rooms(self, shared: Sequence[RoomKey], position: int) -> Changes:
        """Everything that changes because of these rooms, which both parts know."""
        await self._load_sources()
        effects = await self._views.read_parts(lambda parts: merge_effects(parts, shared, self._rules))
        return await self._corrected(effects.left, effects.ended, position)

    async def merge_sessions(self, theirs: Mapping[str, bytes], position: int) -> Changes:
        """Join these sessions with the states that the second part folded."""
        await self._load_sources()
        await self._load_states(set(theirs), {})
        for name, state in theirs.items():
            self._cache.states[name].merge(decode_state(state))
        return await self._corrected(set(), set(theirs), position)

    async def render_sessions(self, names: Sequence[str], position: int) -> Changes:
        """Render these sessions again."""
        await self._load_sources()
        return await self._corrected(set(), set(names), position)

    @property
    def refolded(self) -> set[str]:
        """Sessions that were folded again from all their facts."""
        return self._refolded

    async def _load_sources(self) -> None:
        for source, known in (await self._sources()).items():
            self._rules[source] = known.state.rules()

    async def _corrected(self, left: set[str], to_render: set[str], position: int) -> Changes:
        facts, homes = await self._find_homes(await self._reassigned_facts(left))
        # Other sessions may get facts they have already: folding a fact again changes nothing.
        await self._load_states(to_render | {home for home in homes if home is not None}, {})
        self._forget(left)
        self._place(facts, homes)
        gone = self._refolded - self._touched.keys()
        return Changes(
            position=position,
            sessions=await self._render_sessions(self._due(gone, 0)),
            removed=sorted(gone),
            entries=[self._saved[key] for key in sorted(self._saved)],
        )


def merge_effects(parts: RoomParts, shared: Iterable[RoomKey], rules: Mapping[str, Sequence[RunRules]]) -> Effects:
    """What the marks of each part change for the facts and sessions of the other. `rules`: see `Placement`."""
    effects = Effects(set(), set())
    for source, name, rules_of_vendor in ((*key, each) for key in shared for each in rules[key[0]]):
        marks = [reader.marks(source, name) or KnownMarks() for reader in parts]
        base, part, whole = (Room(name, each, rules_of_vendor) for each in marks)
        for reader, own, other in ((parts.base, base, part), (parts.part, part, base)):
            window = _changed_window(own, other.marks, whole, rules_of_vendor)
            if window is None:
                continue
            moved = {
                mark.name
                for mark in other.marks.select(ANCHOR)
                if own.marks.named(ANCHOR, mark.name) != whole.marks.named(ANCHOR, mark.name)
            }
            moved.update(mark.name for mark in whole.marks.select(ANCHOR, window.low, window.high - 1))
            for entry in reader.room_entries(source, name, [window], sorted(moved)):
                place = decode_session_ref(name, entry.placed_at, entry.session_ref, entry.anchor)
                held = entry.row.session_id
                if held is not None and session_id(source, whole.find_run(place)) != held:
                    effects.left.add(held)
            previous = own.last_run(window.low - 1)
            since = EARLIEST if previous is None else previous.start
            effects.ended.update(reader.sessions_without_next_run(source, name, [Window(since, window.high)]))
    return effects


def _changed_window(own: Room, others: Marks, whole: Room, rules: RunRules) -> Window | None:
    """When runs may differ between one part and the whole: around and between the marks of the other part."""
    if rules.ends_only:
        return Window(EARLIEST, LATEST)
    kinds = [kind for kind in KINDS if kind != ANCHOR]
    first = [mark.at for kind in kinds for mark in others.select(kind, limit=1)]
    last = [mark.at for kind in kinds for mark in others.select(kind, limit=1, backwards=True)]
    if not first:
        return None
    # A run in both parts may begin earlier than this part knew, or at a stated start.
    moved = [
        held.at
        for kind in (KEYED, LOOSE)
        for mark in others.select(kind)
        for own_kind in (KEYED, LOOSE)
        if (held := own.marks.named(own_kind, mark.name)) is not None and held != whole.marks.named(own_kind, mark.name)
    ]
    first, last = first + moved, last + moved
    low = min(first) - 3 * rules.tolerance
    if own.last_run(low) is None:
        low = EARLIEST
    high = max(room.end_of_group(max(last) + 3 * rules.tolerance) for room in (own, whole))
    following = [room.next_run(high) for room in (own, whole)]
    # The run after the last one that changes begins with ends that may belong to it.
    return Window(low, max((LATEST if run is None else run.start + rules.late_end + 1) for run in following))


async def _sessions_ended_by_source(views: MergeableViews, merged: MergeResult) -> list[str]:
    """Sessions whose end depends on a restart or the latest moment of their source, which both parts know together."""
    names: set[str] = set()
    for ours, theirs in merged.sources:
        if ours is None:
            continue
        whole = _decode_state(_join_sources(ours, theirs).state)
        limit = whole.never_joined_after()
        known = (_decode_state(ours.state).restarts(), _decode_state(theirs.state).restarts())
        spans = [span for restarts in known for span in changed_spans(restarts, whole.restarts())]
        if spans:
            names.update(await views.unreported_sessions(theirs.source, silent_since=spans))
        if limit is not None:
            names.update(await views.never_joined_sessions(theirs.source, begins_before=whole.latest - limit))
    return sorted(names)


def _join_sources(ours: SourceRow | None, theirs: SourceRow) -> SourceRow:
    if ours is None:
        return theirs
    first, second = _decode_state(ours.state), _decode_state(theirs.state)
    joined = SourceState(
        dict(first.runs), max(first.latest, second.latest), first.vendors | second.vendors, dict(first.runs_until)
    )
    for moments in (second.runs, second.runs_until):
        for label, at in moments.items():
            joined.note_run(label, at)
    return SourceRow(
        source=theirs.source,
        vendor=theirs.vendor,
        last_received_at=max(ours.last_received_at, theirs.last_received_at),
        records=ours.records + theirs.records,
        state=_encode_state(joined),
    )


def _chunks(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for first in range(0, len(names), size):
        yield names[first : first + size]
