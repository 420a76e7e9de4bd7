"""Merges views that were built from two consecutive parts of a log, and corrects what neither part could know alone.

    merge      all rows of the second part are added; rooms and sources known to both are joined
    rooms      facts whose run begins or ends in the other part move; sessions that the next run ended are rendered again
    sessions   the folded states of sessions known to both are joined
    sources    sessions that a restart or the latest moment of their whole source ends are rendered again

A later batch does the same to earlier ones (`projector/batch`). Usually little changes: the sessions that were open at
the boundary. Each step is bounded, so that memory stays flat.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from tracker.projector.batch import Batch, BatchCache, LoadFacts, SourceState
from tracker.projections.sourced_fact import SourcedFact
from tracker.projections.rendering import session_id
from tracker.projections.runs import Runs, decode_room, encode_room, merge_rooms
from tracker.projections.state import decode_state
from tracker.sources import registry
from tracker.views.contract import MergeResult, Changes, MergeableViews, SharedRoom, SourceRow

ROOMS_PER_STEP = 200
SESSIONS_PER_STEP = 500

_decode_state = msgspec.msgpack.Decoder(SourceState).decode
_encode_state = msgspec.msgpack.Encoder().encode


async def merge_parts(views: MergeableViews, part: Path, load_facts: LoadFacts) -> int:
    """Merge the views at `part` into `views` and correct what changes. Returns the position of the views then.

    `views` hold the records before those of `part`; both are as the projector left them. `load_facts` reads the log.
    """
    merged = await views.merge(part, _join_rooms)
    position = merged.position
    await views.save(
        Changes(position=position, sources=[_join_sources(ours, theirs) for ours, theirs in merged.sources])
    )
    shared_sessions = set(merged.shared_sessions)
    after = ("", "")
    while shared := await views.shared_rooms(after, limit=ROOMS_PER_STEP):
        merger = PartMerger(views, BatchCache(), load_facts)
        await views.save(await merger.merge_rooms(shared, position))
        shared_sessions -= merger.refolded
        after = (shared[-1].source, shared[-1].room)
    for names in _chunks(sorted(shared_sessions), SESSIONS_PER_STEP):
        theirs = await views.part_states(names)
        await views.save(await PartMerger(views, BatchCache(), load_facts).merge_sessions(theirs, position))
    for names in _chunks(await _sessions_ended_by_source(views, merged), SESSIONS_PER_STEP):
        await views.save(await PartMerger(views, BatchCache(), load_facts).render_sessions(names, position))
    return position


class PartMerger(Batch):
    """One step of the merge. Use once, with a cache of its own."""

    async def merge_rooms(self, shared: Sequence[SharedRoom], position: int) -> Changes:
        """Everything that changes because of these rooms, which both parts know."""
        await self._load_sources()
        to_reassign: set[str] = set()
        to_render: set[str] = set()
        for source, room, ours, theirs in shared:
            key = (source, room)
            parts = decode_room(ours), decode_room(theirs)
            merged = self._cache.rooms[key] = merge_rooms(*parts)
            after = self._runs[key] = self._cache.runs[key] = self._resolve_runs(key, merged)
            for part in parts:
                before = self._resolve_runs(key, part)
                to_reassign |= await self._find_reassigned(key, before)
                to_render.update(session_id(source, run) for run in _runs_with_changed_ends(before, after))
        reassigned = {session: await self._facts_of_session(session) for session in sorted(to_reassign)}
        return await self._corrected(reassigned, to_render, position)

    async def merge_sessions(self, theirs: Mapping[str, bytes], position: int) -> Changes:
        """Join these sessions with the states that the second part folded."""
        await self._load_sources()
        await self._load_states(set(theirs), {})
        for name, state in theirs.items():
            self._cache.states[name].merge(decode_state(state))
        return await self._corrected({}, set(theirs), position)

    async def render_sessions(self, names: Sequence[str], position: int) -> Changes:
        """Render these sessions again."""
        await self._load_sources()
        return await self._corrected({}, set(names), position)

    @property
    def refolded(self) -> set[str]:
        """Sessions that were folded again from all their facts."""
        return self._refolded

    async def _load_sources(self) -> None:
        await self._learn_sources((), ())
        assert self._cache.sources is not None  # noqa: S101 - loaded by `_learn_sources`
        for source, (row, _) in self._cache.sources.items():
            self._rules[source] = registry.rules(row.vendor)

    async def _corrected(self, reassigned: dict[str, list[SourcedFact]], to_render: set[str], position: int) -> Changes:
        facts, homes = await self._reassign(reassigned)
        # Other sessions may get facts they have already: folding a fact again changes nothing.
        others = (to_render | {home for home in homes if home is not None}) - reassigned.keys()
        await self._load_states(others, {})
        self._place(facts, homes)
        gone = self._refolded - self._touched.keys()
        return Changes(
            position=position,
            sessions=await self._render_sessions(self._due(gone, 0)),
            removed=sorted(gone),
            entries=[self._saved[key] for key in sorted(self._saved)],
        )


def _runs_with_changed_ends(before: Runs, after: Runs) -> Iterator[str]:
    """The runs in `before` that changed, and those that a changed run follows."""
    starts = [run.start for run in before.runs]
    for changed in {*before.runs} ^ {*after.runs}:
        earlier = bisect_left(starts, changed.start)
        if earlier:
            yield before.runs[earlier - 1].key
    yield from (run.key for run in {*before.runs} - {*after.runs})


async def _sessions_ended_by_source(views: MergeableViews, merged: MergeResult) -> list[str]:
    """Sessions whose end depends on a restart or the latest moment of their source, which both parts know together."""
    names: set[str] = set()
    for ours, theirs in merged.sources:
        if ours is None:
            continue
        whole = _decode_state(_join_sources(ours, theirs).state)
        limit = registry.rules(theirs.vendor).never_joined_after
        known = (_decode_state(ours.state).restarts(), _decode_state(theirs.state).restarts())
        if whole.restarts() and any(restarts != whole.restarts() for restarts in known):
            names.update(await views.unreported_sessions(theirs.source, begins_before=whole.restarts()[-1]))
        if limit is not None:
            names.update(await views.never_joined_sessions(theirs.source, begins_before=whole.latest - limit))
    return sorted(names)


def _join_sources(ours: SourceRow | None, theirs: SourceRow) -> SourceRow:
    if ours is None:
        return theirs
    first, second = _decode_state(ours.state), _decode_state(theirs.state)
    runs = {
        label: min(at for state in (first, second) if (at := state.runs.get(label)) is not None)
        for label in first.runs | second.runs
    }
    return SourceRow(
        source=theirs.source,
        vendor=theirs.vendor,
        last_received_at=max(ours.last_received_at, theirs.last_received_at),
        records=ours.records + theirs.records,
        state=_encode_state(SourceState(runs, max(first.latest, second.latest))),
    )


def _join_rooms(ours: bytes, theirs: bytes) -> bytes:
    return encode_room(merge_rooms(decode_room(ours), decode_room(theirs)))


def _chunks(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for first in range(0, len(names), size):
        yield names[first : first + size]
