"""One batch of facts on its way into the views: rooms learn, facts find their run, sessions are folded and rendered.

Everything kept between batches is a cache (`Memory`): dropping it at any moment changes nothing but speed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet

import msgspec

from tracker.domain.deliveries import Micros, Record
from tracker.domain.facts import RunRules
from tracker.projections import timeline_entries
from tracker.projections.sourced_fact import SourcedFact, decode_session_ref, encode_session_ref
from tracker.projections.folding import fold
from tracker.projections.rendering import RenderContext, render, session_id, start_claim
from tracker.projections.runs import RoomState, Runs, decode_room, encode_room
from tracker.projections.state import SessionState, decode_state, encode_state
from tracker.sources import registry
from tracker.views.contract import Changes, SavedEntry, SessionRows, SourceRow, ViewsWriter

CACHE_SIZE = 2_000
"""Sessions and rooms kept decoded between batches."""

MAX_CLOCK_AHEAD = 86_400_000_000
"""How far (µs) a sender may be ahead of the moment we received it and still tell what time it is there: a day."""

RoomKey = tuple[str, str]

LoadFacts = Callable[[Sequence[int]], Awaitable[Sequence[SourcedFact]]]
"""The facts of the records at these positions, in their order: from the log, where they stand for good."""


class SourceState(msgspec.Struct):
    """What is known of a source as a whole: the server runs seen (label → earliest moment) and the latest moment."""

    runs: dict[str, Micros] = {}
    latest: Micros = 0

    def restarts(self) -> tuple[Micros, ...]:
        """When a server run other than the first is known to have begun, ascending."""
        return tuple(sorted(self.runs.values())[1:])


class BatchCache:
    """Decoded states and rooms of recent batches."""

    def __init__(self) -> None:
        self.states: OrderedDict[str, SessionState] = OrderedDict()
        self.rooms: OrderedDict[RoomKey, RoomState] = OrderedDict()
        self.runs: dict[RoomKey, Runs] = {}
        """Of some of these rooms: their runs, as long as nothing else is learned of them."""
        self.sources: dict[str, tuple[SourceRow, SourceState]] | None = None
        self.deferred: OrderedDict[str, None] = OrderedDict()
        """Sessions that changed since their rows were saved, the least recently changed first: no cache, but what is to be done."""

    def trim(self) -> None:
        """Forget the least recently used; never a session that is held, as those were used last."""
        while len(self.states) > CACHE_SIZE:
            self.states.popitem(last=False)
        while len(self.rooms) > CACHE_SIZE:
            self.runs.pop(self.rooms.popitem(last=False)[0], None)


class Batch:
    """One batch. Use once."""

    def __init__(self, views: ViewsWriter, cache: BatchCache, load_facts: LoadFacts) -> None:
        self._views = views
        self._recall = load_facts
        self._memory = cache
        self._runs: dict[RoomKey, Runs] = {}
        self._rules: dict[str, RunRules] = {}
        self._new_rooms: set[RoomKey] = set()
        """Rooms that nothing was told of before: no fact of an earlier batch can have to move in them."""
        self._touched: dict[str, SessionState] = {}
        self._emptied: set[str] = set()
        self._saved: dict[tuple[int, int], SavedEntry] = {}

    async def changes(
        self, records: Sequence[Record], facts: Sequence[SourcedFact], *, deferred_sessions: int = 0
    ) -> Changes:
        """Everything these records change in the views, except the rows of the `hold` sessions that changed last.

        Those are held in memory, to be rendered once they have not changed for a while, or by `rest`.
        """
        assert deferred_sessions <= CACHE_SIZE  # noqa: S101 - a constant of the projector's
        rechecked = await self._learn_sources(records, facts)
        named = [_room_of(item) for item in facts]
        rooms = await self._load_rooms({key for key in named if key is not None})
        before = {key: self._known_runs(key, state) for key, state in rooms.items()}
        learned = self._learn_rooms(rooms, facts, named)
        for key in learned:
            self._memory.runs[key] = self._resolve(key, rooms[key])
        self._runs.update((key, self._memory.runs[key]) for key in rooms)
        moving = await self._moving(learned, before)
        homes = [self._home(item, key) for item, key in zip(facts, named, strict=True)]
        await self._load_states(self._wanted(homes, moving, learned, before), rechecked)
        await self._refold(moving)
        self._place(facts, homes)
        gone = self._emptied - self._touched.keys()
        sessions = await self._rendered(self._due(gone, deferred_sessions))
        self._memory.trim()
        assert self._memory.sources is not None  # noqa: S101 - loaded above
        touched_sources = {record.source for record in records}
        return Changes(
            position=records[-1].position,
            sessions=sessions,
            gone=sorted(gone),
            entries=[self._saved[key] for key in sorted(self._saved)],
            rooms=[(*key, encode_room(rooms[key])) for key in sorted(learned)],
            sources=[self._source_row(name) for name in sorted(touched_sources)],
        )

    async def deferred_changes(self, position: int) -> Changes:
        """The rows of every session that is still held; `position`: of the last record projected."""
        return Changes(position=position, sessions=await self._rendered(self._due((), 0)))

    # sources

    async def _learn_sources(self, records: Sequence[Record], evidence: Sequence[SourcedFact]) -> dict[str, bool]:
        """Take in what the batch says of its sources. Returns those with newly known restarts, by name."""
        if self._memory.sources is None:
            rows = await self._views.sources()
            self._memory.sources = {
                row.source: (row, msgspec.msgpack.decode(row.state, type=SourceState)) for row in rows
            }
        known = self._memory.sources
        latest: dict[str, Record] = {}
        counts: dict[str, int] = {}
        received: dict[str, Micros] = {}
        for record in records:
            source = record.source
            latest[source] = record
            counts[source] = counts.get(source, 0) + 1
            if record.received_at > received.get(source, 0):
                received[source] = record.received_at
            if source not in self._rules:
                self._rules[source] = registry.rules(record.vendor)
        for source, record in latest.items():
            new = SourceRow(source=source, vendor=record.vendor, last_received_at=0, records=0, state=b"")
            row, state = known.get(source) or (new, SourceState())
            row = msgspec.structs.replace(
                row,
                vendor=record.vendor,
                records=row.records + counts[source],
                last_received_at=max(row.last_received_at, received.get(source, 0)),
            )
            known[source] = (row, state)
        changed: dict[str, bool] = {}
        for item in evidence:
            fact, state = item.fact, known[item.source][1]
            at = fact.at
            if at > state.latest and fact.clock == "server" and at <= item.received_at + MAX_CLOCK_AHEAD:
                state.latest = at
                changed.setdefault(item.source, False)
            run = fact.server_run
            if run is not None and at < state.runs.get(run, at + 1):
                state.runs[run] = at
                changed[item.source] = True
        return changed

    def _source_row(self, name: str) -> SourceRow:
        assert self._memory.sources is not None  # noqa: S101 - loaded above
        row, state = self._memory.sources[name]
        return msgspec.structs.replace(row, state=msgspec.msgpack.encode(state))

    # rooms

    async def _load_rooms(self, keys: AbstractSet[RoomKey]) -> dict[RoomKey, RoomState]:
        missing = [key for key in keys if key not in self._memory.rooms]
        if missing:
            for key, state in (await self._views.rooms(missing)).items():
                self._memory.rooms[key] = decode_room(state)
            self._new_rooms.update(key for key in missing if key not in self._memory.rooms)
        rooms: dict[RoomKey, RoomState] = {}
        for key in sorted(keys):
            rooms[key] = self._memory.rooms.setdefault(key, RoomState())
            self._memory.rooms.move_to_end(key)
        return rooms

    def _known_runs(self, key: RoomKey, state: RoomState) -> Runs:
        """The runs of a room in memory: resolved again only after something was learned."""
        runs = self._memory.runs.get(key)
        if runs is None:
            runs = self._memory.runs[key] = self._resolve(key, state)
        return runs

    def _resolve(self, key: RoomKey, state: RoomState) -> Runs:
        return Runs(key[1], state, self._rules[key[0]])

    def _learn_rooms(
        self, rooms: dict[RoomKey, RoomState], evidence: Sequence[SourcedFact], named: Sequence[RoomKey | None]
    ) -> set[RoomKey]:
        learned: set[RoomKey] = set()
        for item, key in zip(evidence, named, strict=True):
            place = item.fact.place
            if key is not None and place is not None and rooms[key].learn(place, timed=item.fact.clock == "server"):
                learned.add(key)
        return learned

    async def _moving(self, learned: set[RoomKey], before: dict[RoomKey, Runs]) -> dict[str, list[SourcedFact]]:
        """Sessions whose facts must be dealt out anew, with all their facts: those next to a new or vanished start."""
        recut: set[str] = set()
        for key in sorted(learned - self._new_rooms):
            recut |= await self._recut(key, before[key])
        return {session: await self._told_in(session) for session in sorted(recut)}

    async def _recut(self, key: RoomKey, before: Runs) -> set[str]:
        """Sessions of one room that facts have to leave or to enter, where they were placed by its runs of `before`."""
        source, room = key
        recut: set[str] = set()
        window = self._window(before, self._runs[key], self._rules[source])
        if window is not None:
            for saved in await self._views.room_entries(source, room, *window):
                home = session_id(
                    source, self._runs[key].find_run(decode_session_ref(room, saved.placed_at, saved.place))
                )
                if home != saved.row.session_id:
                    recut.update({home, saved.row.session_id or home})
        return recut

    async def _told_in(self, session: str) -> list[SourcedFact]:
        """Every fact placed in a session so far."""
        placed = {(saved.row.position, saved.row.n) for saved in await self._views.session_entries(session)}
        told = await self._recall(sorted({position for position, _ in placed}))
        return [item for item in told if (item.position, item.n) in placed]

    def _window(self, before: Runs, after: Runs, rules: RunRules) -> tuple[Micros | None, Micros | None] | None:
        """Between which moments facts may have to move; None: nowhere."""
        if rules.ends_only:
            same = before.starts_of == after.starts_of and before.runs == after.runs and before.anchors == after.anchors
            return None if same else (None, None)
        moments = [run.start for run in set(before.runs) ^ set(after.runs)]
        moments += [start for start, _ in set(before.starts_of.items()) ^ set(after.starts_of.items())]
        for end in set(after.ends) - set(before.ends):
            moments += [run.start for run in after.runs if run.start > end][:1]
        anchored = [at for anchor, at in after.anchors.items() if before.anchors.get(anchor) != at]
        moments += anchored
        if not moments:
            return None
        low = [run.start for run in before.runs + after.runs if run.start < min(moments)]
        high = [run.start for run in before.runs + after.runs if run.start > max(moments)]
        return (
            max(low) - rules.tolerance if low else None,
            min(high) + rules.tolerance if high and not anchored else None,
        )

    # sessions

    def _home(self, item: SourcedFact, room: RoomKey | None) -> str | None:
        place = item.fact.place
        if place is None:
            return None
        if place.run is not None:
            return session_id(item.source, place.run)
        return None if room is None else session_id(item.source, self._runs[room].find_run(place))

    def _wanted(
        self, homes: Iterable[str | None], moving: Iterable[str], learned: set[RoomKey], before: dict[RoomKey, Runs]
    ) -> set[str]:
        wanted = {home for home in homes if home is not None}
        wanted.update(moving)
        for key in learned:
            runs = set(before[key].runs) ^ set(self._runs[key].runs)
            starts = {run.start for run in runs}
            both = before[key].runs + self._runs[key].runs
            for start in starts:
                earlier = [run for run in both if run.start < start]
                if earlier:
                    wanted.add(session_id(key[0], max(earlier).key))
            wanted.update(session_id(key[0], run.key) for run in runs)
        return wanted

    async def _load_states(self, wanted: set[str], rechecked: dict[str, bool]) -> None:
        assert self._memory.sources is not None  # noqa: S101 - loaded before
        for source, restarted in rechecked.items():
            state = self._memory.sources[source][1]
            limit = self._rules[source].never_joined_after
            if restarted and state.restarts():
                wanted.update(await self._views.unreported_sessions(source, begins_before=state.restarts()[-1]))
            if limit is not None:
                wanted.update(await self._views.never_joined_sessions(source, begins_before=state.latest - limit))
        missing = [name for name in sorted(wanted) if name not in self._memory.states]
        if missing:
            for name, state in (await self._views.states(missing)).items():
                self._memory.states[name] = decode_state(state)
        for name in wanted:
            held = self._memory.states.get(name)
            if held is not None:
                self._memory.states.move_to_end(name)
                self._touched[name] = held

    async def _refold(self, moving: dict[str, list[SourcedFact]]) -> None:
        """Fold sessions whose facts were dealt out anew from nothing."""
        # A fact may move into a session that is not among those refolded only if that session is new: see `_moving`.
        self._place(*await self._dealt_out(moving))

    async def _dealt_out(self, moving: dict[str, list[SourcedFact]]) -> tuple[list[SourcedFact], list[str | None]]:
        """Forget these sessions; all their facts, and the session each of them belongs to."""
        for name in moving:
            self._touched.pop(name, None)
            self._memory.states.pop(name, None)
            self._emptied.add(name)
        evidence = [item for group in moving.values() for item in group]
        named = [_room_of(item) for item in evidence]
        rooms = {key for key in named if key is not None} - self._runs.keys()
        for vendor, source in {(i.vendor, i.source) for i in evidence}:
            self._rules.setdefault(source, registry.rules(vendor))
        if rooms:
            loaded = await self._views.rooms(sorted(rooms))
            for key in rooms:
                self._runs[key] = self._resolve(key, decode_room(loaded[key]) if key in loaded else RoomState())
        return evidence, [self._home(item, key) for item, key in zip(evidence, named, strict=True)]

    def _place(self, evidence: Sequence[SourcedFact], homes: Sequence[str | None]) -> None:
        saved = self._saved
        for item, home in zip(evidence, homes, strict=True):
            place = item.fact.place
            if home is not None:
                fold(self._state(home, item), item)
            row = timeline_entries.entry(item, home)
            if place is None or place.run is not None:
                saved[item.position, item.n] = SavedEntry(row, None, row.at if place is None else place.at)
            else:
                saved[item.position, item.n] = SavedEntry(row, place.room, place.at, encode_session_ref(place))

    def _state(self, home: str, item: SourcedFact) -> SessionState:
        state = self._touched.get(home)
        if state is None:
            state = self._memory.states.get(home)
        if state is None:
            state = SessionState(source=item.source, vendor=item.vendor, run=home[len(item.source) + 1 :])
            self._memory.states[home] = state
        self._touched[home] = state
        return state

    # rows

    def _due(self, gone: Iterable[str], hold: int) -> list[SessionState]:
        """The sessions to render now: all that changed but the last `hold` of them."""
        held = self._memory.deferred
        for name in self._touched:
            held[name] = None
            held.move_to_end(name)
        for name in gone:
            held.pop(name, None)
        due = [held.popitem(last=False)[0] for _ in range(len(held) - hold)]
        return [self._memory.states[name] for name in sorted(due)]

    async def _rendered(self, due: Sequence[SessionState]) -> list[SessionRows]:
        await self._load_neighbours(due)
        return [self._render(state) for state in due]

    async def _load_neighbours(self, due: Sequence[SessionState]) -> None:
        """Load the rooms of these sessions that this batch did not name, so that their ends can be inferred."""
        wanted: set[RoomKey] = set()
        for state in due:
            room = state.room.value("room")
            if isinstance(room, str) and (state.source, room) not in self._runs:
                wanted.add((state.source, room))
            self._rules.setdefault(state.source, registry.rules(state.vendor))
        missing = [key for key in sorted(wanted) if key not in self._memory.rooms]
        if missing:
            for key, room_state in (await self._views.rooms(missing)).items():
                self._memory.rooms[key] = decode_room(room_state)
        for key in wanted:
            state = self._memory.rooms.get(key)
            self._runs[key] = self._resolve(key, RoomState()) if state is None else self._known_runs(key, state)

    def _render(self, state: SessionState) -> SessionRows:
        assert self._memory.sources is not None  # noqa: S101 - loaded before
        source = self._memory.sources[state.source][1]
        runs = self._runs.get((state.source, state.room.value("room") or ""))
        start = start_claim(state)
        rows = render(
            state,
            RenderContext(
                rules=self._rules[state.source],
                next_start=runs.next_start(state.run, start.at if start else state.first_at) if runs else None,
                restarts=source.restarts(),
                latest=source.latest,
            ),
        )
        return SessionRows(
            session=rows.session,
            lookups=rows.lookups,
            participants=rows.participants,
            connections=rows.connections,
            streams=rows.streams,
            recordings=rows.recordings,
            supervisor_sessions=rows.supervisor_sessions,
            gaps=rows.gaps,
            state=encode_state(state),
        )


def _room_of(item: SourcedFact) -> RoomKey | None:
    """The room a fact names."""
    place = item.fact.place
    return (item.source, place.room) if place is not None and place.room else None
