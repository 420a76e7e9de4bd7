"""Views of a log that were made in two halves at the same time, put together: what neither half could know alone is mended.

    absorbed   everything of the second half goes in as it is; rooms and sources in both are joined
    rooms      facts whose run begins or ends in the other half move; sessions that the next run ended are rendered anew
    sessions   of those told of in both halves, what was folded is joined
    sources    sessions that only the latest moment or a restart of their whole source ends are rendered anew

All of it is what a later batch does to earlier ones (`projection_batch`), and mostly there is little: the sessions that were
open in the middle. A step is bounded, so that memory stays flat.
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
"""Looked at in one step."""

_state = msgspec.msgpack.Decoder(SourceState).decode
_packed = msgspec.msgpack.Encoder().encode


async def merge_parts(views: MergeableViews, part: Path, load_facts: LoadFacts) -> int:
    """Take the second half in and mend what it changes; the position the views are at then.

    `views` are of the records up to those of `part`, both just as the projector left them. `recall`: facts from the log.
    """
    absorbed = await views.merge(part, _rooms_joined)
    position = absorbed.position
    await views.save(
        Changes(position=position, sources=[_source_joined(ours, theirs) for ours, theirs in absorbed.sources])
    )
    told_twice = set(absorbed.sessions)
    after = ("", "")
    while shared := await views.shared_rooms(after, limit=ROOMS_PER_STEP):
        seam = PartMerger(views, BatchCache(), load_facts)
        await views.save(await seam.merge_rooms(shared, position))
        told_twice -= seam.refolded
        after = (shared[-1].source, shared[-1].room)
    for names in _parts(sorted(told_twice), SESSIONS_PER_STEP):
        theirs = await views.their_states(names)
        await views.save(await PartMerger(views, BatchCache(), load_facts).merge_sessions(theirs, position))
    for names in _parts(await _waiting(views, absorbed), SESSIONS_PER_STEP):
        await views.save(await PartMerger(views, BatchCache(), load_facts).render_sessions(names, position))
    return position


class PartMerger(Batch):
    """One step along the seam of the two halves. Use once, with a memory of its own."""

    async def merge_rooms(self, shared: Sequence[SharedRoom], position: int) -> Changes:
        """Everything that these rooms, told of in both halves, change."""
        await self._learn_sources((), ())
        self._learn_rules()
        recut: set[str] = set()
        beside: set[str] = set()
        for source, room, ours, theirs in shared:
            key = (source, room)
            halves = decode_room(ours), decode_room(theirs)
            whole = self._memory.rooms[key] = merge_rooms(*halves)
            after = self._runs[key] = self._memory.runs[key] = self._resolve(key, whole)
            for half in halves:
                before = self._resolve(key, half)
                recut |= await self._recut(key, before)
                beside.update(session_id(source, run) for run in _beside_changes(before, after))
        moving = {session: await self._told_in(session) for session in sorted(recut)}
        return await self._mended(moving, beside, position)

    async def merge_sessions(self, theirs: Mapping[str, bytes], position: int) -> Changes:
        """These sessions, with what the other half folded of them."""
        await self._learn_sources((), ())
        self._learn_rules()
        await self._load_states(set(theirs), {})
        for name, state in theirs.items():
            self._memory.states[name].join(decode_state(state))
        return await self._mended({}, set(theirs), position)

    async def render_sessions(self, names: Sequence[str], position: int) -> Changes:
        """These sessions as they are now."""
        await self._learn_sources((), ())
        self._learn_rules()
        return await self._mended({}, set(names), position)

    @property
    def refolded(self) -> set[str]:
        """Sessions that were folded from all their facts."""
        return self._emptied

    def _learn_rules(self) -> None:
        assert self._memory.sources is not None  # noqa: S101 - loaded before
        for source, (row, _) in self._memory.sources.items():
            self._rules[source] = registry.rules(row.vendor)

    async def _mended(self, moving: dict[str, list[SourcedFact]], beside: set[str], position: int) -> Changes:
        evidence, homes = await self._dealt_out(moving)
        # Of a session that takes facts in again and is not folded from nothing, nothing changes: a fact told twice is told.
        await self._load_states((beside | {home for home in homes if home is not None}) - moving.keys(), {})
        self._place(evidence, homes)
        gone = self._emptied - self._touched.keys()
        return Changes(
            position=position,
            sessions=await self._rendered(self._due(gone, 0)),
            gone=sorted(gone),
            entries=[self._saved[key] for key in sorted(self._saved)],
        )


def _beside_changes(before: Runs, after: Runs) -> Iterator[str]:
    """The runs of `before` that another run follows now, and those that are no longer as they were."""
    starts = [run.start for run in before.runs]
    for changed in {*before.runs} ^ {*after.runs}:
        earlier = bisect_left(starts, changed.start)
        if earlier:
            yield before.runs[earlier - 1].key
    yield from (run.key for run in {*before.runs} - {*after.runs})


async def _waiting(views: MergeableViews, absorbed: MergeResult) -> list[str]:
    """Sessions that end, or end otherwise, by what their whole source tells."""
    names: set[str] = set()
    for ours, theirs in absorbed.sources:
        if ours is None:
            continue
        whole = _state(_source_joined(ours, theirs).state)
        limit = registry.rules(theirs.vendor).never_joined_after
        known = (_state(ours.state).restarts(), _state(theirs.state).restarts())
        if whole.restarts() and any(restarts != whole.restarts() for restarts in known):
            names.update(await views.unreported_sessions(theirs.source, begins_before=whole.restarts()[-1]))
        if limit is not None:
            names.update(await views.never_joined_sessions(theirs.source, begins_before=whole.latest - limit))
    return sorted(names)


def _source_joined(ours: SourceRow | None, theirs: SourceRow) -> SourceRow:
    if ours is None:
        return theirs
    first, second = _state(ours.state), _state(theirs.state)
    runs = {
        label: min(at for state in (first, second) if (at := state.runs.get(label)) is not None)
        for label in first.runs | second.runs
    }
    return SourceRow(
        source=theirs.source,
        vendor=theirs.vendor,
        last_received_at=max(ours.last_received_at, theirs.last_received_at),
        records=ours.records + theirs.records,
        state=_packed(SourceState(runs, max(first.latest, second.latest))),
    )


def _rooms_joined(ours: bytes, theirs: bytes) -> bytes:
    return encode_room(merge_rooms(decode_room(ours), decode_room(theirs)))


def _parts(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for first in range(0, len(names), size):
        yield names[first : first + size]
