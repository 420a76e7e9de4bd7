"""Turns one batch of records into changes of the views: rooms learn of runs, facts find their run, sessions are folded.

What is kept between batches is a cache (`BatchCache`), except for the list of deferred sessions: dropping the cache
costs time and changes nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet

import msgspec

from tracker.domain.rows import SessionRows
from tracker.domain.deliveries import Micros, Record
from tracker.domain.facts import RunRules
from tracker.projections.restarts import restart_moments
from tracker.projections.sourced_fact import SourcedFact, decode_session_ref, encode_session_ref
from tracker.projections.rendering import RenderContext, session_id, start_claim
from tracker.projections.runs import RoomState, Runs, decode_room, encode_room
from tracker.projections.state import SessionState, decode_state
from tracker.projector.set_aside import entry_or_stand_in, fold_or_mark, render_or_set_aside
from tracker.sources import registry
from tracker.views.contract import Changes, SavedEntry, SourceRow, ViewsWriter

CACHE_SIZE = 2_000
"""Sessions and rooms kept decoded between batches, at most."""

MAX_CLOCK_AHEAD = 86_400_000_000
"""µs (one day). A fact dated further after its reception does not move the source's latest moment."""

RoomKey = tuple[str, str]
"""(source, room)."""

LoadFacts = Callable[[Sequence[int]], Awaitable[Sequence[SourcedFact]]]
"""The facts of the records at these positions, in this order, read from the log."""


class SourceState(msgspec.Struct):
    """What is known of a whole source: the server runs seen (label → earliest moment), and the latest moment. All µs."""

    runs: dict[str, Micros] = {}
    latest: Micros = 0

    def restarts(self) -> tuple[Micros, ...]:
        """When the server runs after the first one began, as far as known, ascending."""
        return restart_moments(self.runs)


class BatchCache:
    """Decoded states and rooms of recent batches, least recently used first."""

    def __init__(self) -> None:
        self.states: OrderedDict[str, SessionState] = OrderedDict()
        self.rooms: OrderedDict[RoomKey, RoomState] = OrderedDict()
        self.runs: dict[RoomKey, Runs] = {}
        """The resolved runs of some of these rooms; dropped when a room learns something."""
        self.sources: dict[str, tuple[SourceRow, SourceState]] | None = None
        self.deferred: OrderedDict[str, None] = OrderedDict()
        """Sessions whose rows still have to be saved, least recently changed first. Not a cache: dropping it loses changes."""

    def trim(self) -> None:
        """Drop the least recently used; never a deferred session: those were used last."""
        while len(self.states) > CACHE_SIZE:
            self.states.popitem(last=False)
        while len(self.rooms) > CACHE_SIZE:
            self.runs.pop(self.rooms.popitem(last=False)[0], None)


class Batch:
    """Turns one batch of records into changes of the views. Make a new one for each batch."""

    def __init__(self, views: ViewsWriter, cache: BatchCache, load_facts: LoadFacts) -> None:
        self._views = views
        self._cache = cache
        self._load_facts = load_facts
        self._runs: dict[RoomKey, Runs] = {}
        self._rules: dict[str, RunRules] = {}
        self._new_rooms: set[RoomKey] = set()
        """Rooms that no earlier batch mentioned: none of their facts can have to move."""
        self._touched: dict[str, SessionState] = {}
        self._refolded: set[str] = set()
        self._saved: dict[tuple[int, int], SavedEntry] = {}

    async def changes(
        self, records: Sequence[Record], facts: Sequence[SourcedFact], *, deferred_sessions: int = 0
    ) -> Changes:
        """Everything these records change in the views, except the rows of the last `deferred_sessions` changed sessions.

        Deferred sessions stay in the cache and are rendered once other sessions have changed after them, or by
        `deferred_changes`.
        """
        assert deferred_sessions <= CACHE_SIZE  # noqa: S101 - a constant of the projector
        changed_sources = await self._learn_sources(records, facts)
        fact_rooms = [_room_of(item) for item in facts]
        rooms = await self._load_rooms({key for key in fact_rooms if key is not None})
        runs_before = {key: self._cached_runs(key, state) for key, state in rooms.items()}
        learned = self._learn_rooms(rooms, facts, fact_rooms)
        for key in learned:
            self._cache.runs[key] = self._resolve_runs(key, rooms[key])
        self._runs.update((key, self._cache.runs[key]) for key in rooms)
        reassigned = await self._reassigned_sessions(learned, runs_before)
        homes = [self._home(item, key) for item, key in zip(facts, fact_rooms, strict=True)]
        await self._load_states(self._affected_sessions(homes, reassigned, learned, runs_before), changed_sources)
        # A reassigned fact can enter a session outside `reassigned` only if that session is new.
        self._place(*await self._reassign(reassigned))
        self._place(facts, homes)
        gone = self._refolded - self._touched.keys()
        sessions = await self._render_sessions(self._due(gone, deferred_sessions))
        self._cache.trim()
        assert self._cache.sources is not None  # noqa: S101 - loaded above
        return Changes(
            position=records[-1].position,
            sessions=sessions,
            removed=sorted(gone),
            entries=[self._saved[key] for key in sorted(self._saved)],
            rooms=[(*key, encode_room(rooms[key])) for key in sorted(learned)],
            sources=[self._source_row(name) for name in sorted({record.source for record in records})],
        )

    async def deferred_changes(self, position: int) -> Changes:
        """The rows of every deferred session. `position` is that of the last record projected."""
        return Changes(position=position, sessions=await self._render_sessions(self._due((), 0)))

    # sources

    async def _learn_sources(self, records: Sequence[Record], facts: Sequence[SourcedFact]) -> dict[str, bool]:
        """Update the sources of the batch. Returns those that changed: name → whether a restart became known."""
        if self._cache.sources is None:
            rows = await self._views.sources()
            self._cache.sources = {
                row.source: (row, msgspec.msgpack.decode(row.state, type=SourceState)) for row in rows
            }
        known = self._cache.sources
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
        for item in facts:
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
        assert self._cache.sources is not None  # noqa: S101 - loaded above
        row, state = self._cache.sources[name]
        return msgspec.structs.replace(row, state=msgspec.msgpack.encode(state))

    # rooms

    async def _load_rooms(self, keys: AbstractSet[RoomKey]) -> dict[RoomKey, RoomState]:
        missing = [key for key in keys if key not in self._cache.rooms]
        if missing:
            for key, state in (await self._views.rooms(missing)).items():
                self._cache.rooms[key] = decode_room(state)
            self._new_rooms.update(key for key in missing if key not in self._cache.rooms)
        rooms: dict[RoomKey, RoomState] = {}
        for key in sorted(keys):
            rooms[key] = self._cache.rooms.setdefault(key, RoomState())
            self._cache.rooms.move_to_end(key)
        return rooms

    def _cached_runs(self, key: RoomKey, state: RoomState) -> Runs:
        """The runs of a room; resolved only if they are not in the cache."""
        runs = self._cache.runs.get(key)
        if runs is None:
            runs = self._cache.runs[key] = self._resolve_runs(key, state)
        return runs

    def _resolve_runs(self, key: RoomKey, state: RoomState) -> Runs:
        return Runs(key[1], state, self._rules[key[0]])

    def _learn_rooms(
        self, rooms: dict[RoomKey, RoomState], facts: Sequence[SourcedFact], fact_rooms: Sequence[RoomKey | None]
    ) -> set[RoomKey]:
        """Add what the facts say about runs to their rooms. Returns the rooms that changed."""
        learned: set[RoomKey] = set()
        for item, key in zip(facts, fact_rooms, strict=True):
            place = item.fact.place
            if (
                key is not None
                and place is not None
                and rooms[key].learn(place, is_sender_clock=item.fact.clock == "server")
            ):
                learned.add(key)
        return learned

    async def _reassigned_sessions(
        self, learned: set[RoomKey], runs_before: dict[RoomKey, Runs]
    ) -> dict[str, list[SourcedFact]]:
        """Sessions whose facts have to be assigned to runs again, with all their facts: those next to a changed start."""
        names: set[str] = set()
        for key in sorted(learned - self._new_rooms):
            names |= await self._find_reassigned(key, runs_before[key])
        return {session: await self._facts_of_session(session) for session in sorted(names)}

    async def _find_reassigned(self, key: RoomKey, before: Runs) -> set[str]:
        """Sessions of one room that facts leave or enter, compared with the runs in `before`."""
        source, room = key
        names: set[str] = set()
        window = self._window(before, self._runs[key], self._rules[source])
        if window is not None:
            for saved in await self._views.room_entries(source, room, *window):
                home = session_id(
                    source, self._runs[key].find_run(decode_session_ref(room, saved.placed_at, saved.session_ref))
                )
                if home != saved.row.session_id:
                    names.update({home, saved.row.session_id or home})
        return names

    async def _facts_of_session(self, session: str) -> list[SourcedFact]:
        """Every fact assigned to a session so far."""
        placed = {(saved.row.position, saved.row.n) for saved in await self._views.session_entries(session)}
        facts = await self._load_facts(sorted({position for position, _ in placed}))
        return [item for item in facts if (item.position, item.n) in placed]

    def _window(self, before: Runs, after: Runs, rules: RunRules) -> tuple[Micros | None, Micros | None] | None:
        """The moments (µs, None: unbounded) between which facts may have to move; None if no fact has to."""
        if rules.ends_only:
            same = (
                before.key_by_start == after.key_by_start
                and before.runs == after.runs
                and before.anchors == after.anchors
            )
            return None if same else (None, None)
        moments = [run.start for run in set(before.runs) ^ set(after.runs)]
        moments += [start for start, _ in set(before.key_by_start.items()) ^ set(after.key_by_start.items())]
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
        """The session a fact belongs to; None for a fact that names no session."""
        place = item.fact.place
        if place is None:
            return None
        if place.run is not None:
            return session_id(item.source, place.run)
        return None if room is None else session_id(item.source, self._runs[room].find_run(place))

    def _affected_sessions(
        self,
        homes: Iterable[str | None],
        reassigned: Iterable[str],
        learned: set[RoomKey],
        runs_before: dict[RoomKey, Runs],
    ) -> set[str]:
        """The sessions that get facts, lose facts, or whose next run changed."""
        names = {home for home in homes if home is not None}
        names.update(reassigned)
        for key in learned:
            changed = set(runs_before[key].runs) ^ set(self._runs[key].runs)
            both = runs_before[key].runs + self._runs[key].runs
            for start in {run.start for run in changed}:
                earlier = [run for run in both if run.start < start]
                if earlier:
                    names.add(session_id(key[0], max(earlier).key))
            names.update(session_id(key[0], run.key) for run in changed)
        return names

    async def _load_states(self, names: set[str], changed_sources: dict[str, bool]) -> None:
        """Load these sessions, and those whose end may depend on a changed source."""
        assert self._cache.sources is not None  # noqa: S101 - loaded before
        for source, has_restarted in changed_sources.items():
            state = self._cache.sources[source][1]
            limit = self._rules[source].never_joined_after
            if has_restarted and state.restarts():
                names.update(await self._views.unreported_sessions(source, begins_before=state.restarts()[-1]))
            if limit is not None:
                names.update(await self._views.never_joined_sessions(source, begins_before=state.latest - limit))
        missing = [name for name in sorted(names) if name not in self._cache.states]
        if missing:
            for name, encoded in (await self._views.states(missing)).items():
                self._cache.states[name] = decode_state(encoded)
        for name in names:
            session = self._cache.states.get(name)
            if session is not None:
                self._cache.states.move_to_end(name)
                self._touched[name] = session

    async def _reassign(self, sessions: dict[str, list[SourcedFact]]) -> tuple[list[SourcedFact], list[str | None]]:
        """Forget the folded states of these sessions. Returns all their facts, and the session each belongs to now."""
        for name in sessions:
            self._touched.pop(name, None)
            self._cache.states.pop(name, None)
            self._refolded.add(name)
        facts = [item for group in sessions.values() for item in group]
        fact_rooms = [_room_of(item) for item in facts]
        missing = {key for key in fact_rooms if key is not None} - self._runs.keys()
        for vendor, source in {(item.vendor, item.source) for item in facts}:
            self._rules.setdefault(source, registry.rules(vendor))
        if missing:
            loaded = await self._views.rooms(sorted(missing))
            for key in missing:
                self._runs[key] = self._resolve_runs(key, decode_room(loaded[key]) if key in loaded else RoomState())
        return facts, [self._home(item, key) for item, key in zip(facts, fact_rooms, strict=True)]

    def _place(self, facts: Sequence[SourcedFact], homes: Sequence[str | None]) -> None:
        """Fold facts into their sessions, and keep their entries to be saved."""
        saved = self._saved
        for item, home in zip(facts, homes, strict=True):
            place = item.fact.place
            if home is not None:
                fold_or_mark(self._state(home, item), item)
            row = entry_or_stand_in(item, home)
            if place is None or place.run is not None:
                saved[item.position, item.n] = SavedEntry(row, None, row.at if place is None else place.at)
            else:
                saved[item.position, item.n] = SavedEntry(row, place.room, place.at, encode_session_ref(place))

    def _state(self, home: str, item: SourcedFact) -> SessionState:
        state = self._touched.get(home)
        if state is None:
            state = self._cache.states.get(home)
        if state is None:
            state = SessionState(source=item.source, vendor=item.vendor, run=home[len(item.source) + 1 :])
            self._cache.states[home] = state
        self._touched[home] = state
        return state

    # rows

    def _due(self, gone: Iterable[str], deferred_sessions: int) -> list[SessionState]:
        """The sessions to render now: all changed ones except the last `deferred_sessions`."""
        deferred = self._cache.deferred
        for name in self._touched:
            deferred[name] = None
            deferred.move_to_end(name)
        for name in gone:
            deferred.pop(name, None)
        due = [deferred.popitem(last=False)[0] for _ in range(len(deferred) - deferred_sessions)]
        return [self._cache.states[name] for name in sorted(due)]

    async def _render_sessions(self, due: Sequence[SessionState]) -> list[SessionRows]:
        await self._load_rooms_of(due)
        return [self._render(state) for state in due]

    async def _load_rooms_of(self, due: Sequence[SessionState]) -> None:
        """Load the rooms of these sessions that the batch did not mention: the next run may end a session."""
        rooms: set[RoomKey] = set()
        for state in due:
            room = state.lifetime.value("room")
            if isinstance(room, str) and (state.source, room) not in self._runs:
                rooms.add((state.source, room))
            self._rules.setdefault(state.source, registry.rules(state.vendor))
        missing = [key for key in sorted(rooms) if key not in self._cache.rooms]
        if missing:
            for key, encoded in (await self._views.rooms(missing)).items():
                self._cache.rooms[key] = decode_room(encoded)
        for key in rooms:
            state = self._cache.rooms.get(key)
            self._runs[key] = self._resolve_runs(key, RoomState()) if state is None else self._cached_runs(key, state)

    def _render(self, state: SessionState) -> SessionRows:
        assert self._cache.sources is not None  # noqa: S101 - loaded before
        source = self._cache.sources[state.source][1]
        runs = self._runs.get((state.source, state.lifetime.value("room") or ""))
        start = start_claim(state)
        return render_or_set_aside(
            state,
            RenderContext(
                rules=self._rules[state.source],
                next_start=runs.next_start(state.run, start.at if start else state.first_at) if runs else None,
                restarts=source.restarts(),
                latest=source.latest,
            ),
        )


def _room_of(item: SourcedFact) -> RoomKey | None:
    """The room a fact names, or None."""
    place = item.fact.place
    return (item.source, place.room) if place is not None and place.room else None
