"""Turns one batch of records into changes of the views: rooms learn of runs, facts find their run, sessions are folded.

`projector/placement` finds the sessions; it reads the views in their own thread. The rest runs in the event loop, which is
the projector's own: it answers nobody.

What is kept between batches is a cache (`BatchCache`), except for the list of deferred sessions: dropping the cache
costs time and changes nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence

import msgspec

from tracker.domain.rows import SessionRows
from tracker.domain.deliveries import Micros, Record
from tracker.domain.facts import RunRules
from tracker.projections.restarts import Moments, changed_spans, restart_moments, restarts_of_session
from tracker.projections.sourced_fact import SourcedFact, encode_session_ref
from tracker.projections.rendering import RenderContext
from tracker.projections.state import SessionState, decode_state
from tracker.projector.placement import NextRun, Placement
from tracker.projector.set_aside import (
    Unplaceable,
    entry_or_stand_in,
    find_homes,
    find_next_runs,
    fold_or_mark,
    learn_rooms,
    render_or_set_aside,
)
from tracker.sources import registry
from tracker.views.contract import Changes, SavedEntry, SourceRow, ViewsWriter

CACHE_SIZE = 2_000
"""Sessions kept decoded between batches, at most."""

MAX_CLOCK_AHEAD = 86_400_000_000
"""µs (one day). A fact dated further after its reception does not move the source's latest moment."""

Spans = Sequence[tuple[Micros, Micros]]
"""Spans of time (µs), up to but not including the second."""

LoadFacts = Callable[[Sequence[int]], Awaitable[Sequence[SourcedFact]]]
"""The facts of the records at these positions, in this order, read from the log."""


class SourceState(msgspec.Struct):
    """What is known of a whole source: the server runs seen (label → earliest and latest moment), the latest moment, its vendors.

    All times in µs. A source usually has one vendor. Somebody may give its name to another one.
    """

    runs: dict[str, Micros] = {}
    latest: Micros = 0
    vendors: set[str] = set()
    runs_until: dict[str, Micros] = {}

    def rules(self) -> list[RunRules]:
        """How the runs of each vendor are distinguished that the source had."""
        return list(dict.fromkeys(registry.rules(vendor) for vendor in sorted(self.vendors)))

    def never_joined_after(self) -> Micros | None:
        """After how long (µs) the first of these rules ends a run that nobody joined."""
        return min((limit for rules in self.rules() if (limit := rules.never_joined_after) is not None), default=None)

    def restarts(self) -> dict[str, Moments]:
        """Server → when its runs after the first one began, as far as known, ascending."""
        return restart_moments(self.runs, self.runs_until)

    def note_run(self, label: str, at: Micros) -> bool:
        """An event of a server run; whether it changed what is known."""
        first, last = self.runs.get(label), self.runs_until.get(label)
        if first is None or at < first:
            self.runs[label] = at
        if last is None or at > last:
            self.runs_until[label] = at
        return first is None or at < first or last is None or at > last


class KnownSource(msgspec.Struct):
    """A source as the projector knows it between batches. `encoded`: the state as it is saved, or None after it changed."""

    row: SourceRow
    state: SourceState
    restarts: dict[str, Moments]
    encoded: bytes | None


class BatchCache:
    """Decoded states of recent batches, least recently used first."""

    def __init__(self) -> None:
        self.states: OrderedDict[str, SessionState] = OrderedDict()
        self.sources: dict[str, KnownSource] | None = None
        self.deferred: OrderedDict[str, None] = OrderedDict()
        """Sessions whose rows still have to be saved, least recently changed first. Not a cache: dropping it loses changes."""

    def trim(self) -> None:
        """Drop the least recently used; never a deferred session: those were used last."""
        while len(self.states) > CACHE_SIZE:
            self.states.popitem(last=False)


class Batch:
    """Turns one batch of records into changes of the views. Make a new one for each batch."""

    def __init__(self, views: ViewsWriter, cache: BatchCache, load_facts: LoadFacts) -> None:
        self._views = views
        self._cache = cache
        self._load_facts = load_facts
        self._rules: dict[str, Sequence[RunRules]] = {}
        """Of each source in the batch: the rules of every vendor that it had."""
        self._placement = Placement(self._rules)
        self._unplaceable = Unplaceable()
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
        usable = self._unplaceable.replace(facts)
        changed_sources = await self._learn_sources(records, usable)
        self._placement, effects, learned = await self._views.read_rooms(
            lambda rooms: learn_rooms(self._rules, rooms, usable, self._unplaceable)
        )
        reassigned, new_homes = await self._find_homes(await self._reassigned_facts(effects.left))
        facts, homes = await self._find_homes(learned)
        affected = {home for home in (*homes, *new_homes) if home is not None} | effects.ended
        await self._load_states(affected, changed_sources)
        self._forget(effects.left)
        self._place(reassigned, new_homes)
        self._place(facts, homes)
        gone = self._refolded - self._touched.keys()
        sessions = await self._render_sessions(self._due(gone, deferred_sessions))
        self._cache.trim()
        return Changes(
            position=records[-1].position,
            sessions=sessions,
            removed=sorted(gone),
            entries=[self._saved[key] for key in sorted(self._saved)],
            rooms=self._placement.updates,
            sources=[self._source_row(name) for name in sorted({record.source for record in records})],
        )

    async def deferred_changes(self, position: int) -> Changes:
        """The rows of every deferred session. `position` is that of the last record projected."""
        return Changes(position=position, sessions=await self._render_sessions(self._due((), 0)))

    # sources

    async def _learn_sources(self, records: Sequence[Record], facts: Sequence[SourcedFact]) -> dict[str, Spans]:
        """Update the sources of the batch. Returns those that changed.

        Name → spans with the last events of sessions that may end otherwise now, because restarts became known or turned out to
        be none.
        """
        known = await self._sources()
        latest: dict[str, Record] = {}
        counts: dict[str, int] = {}
        received: dict[str, Micros] = {}
        for record in records:
            source = record.source
            latest[source] = record
            counts[source] = counts.get(source, 0) + 1
            if record.received_at > received.get(source, 0):
                received[source] = record.received_at
        vendors = {(record.source, record.vendor) for record in records}
        for source, record in latest.items():
            new = SourceRow(source=source, vendor=record.vendor, last_received_at=0, records=0, state=b"")
            held = known.get(source)
            if held is None:
                held = known[source] = KnownSource(new, SourceState(), {}, None)
            row = held.row
            held.row = msgspec.structs.replace(
                row,
                vendor=record.vendor,
                records=row.records + counts[source],
                last_received_at=max(row.last_received_at, received.get(source, 0)),
            )
        for source, vendor in vendors:
            if vendor not in known[source].state.vendors:
                known[source].state.vendors.add(vendor)
                known[source].encoded = None
        for source in latest:
            self._rules[source] = known[source].state.rules()
        changed: dict[str, Spans] = {}
        labelled: set[str] = set()
        for item in facts:
            fact, state = item.fact, known[item.source].state
            at = fact.at
            if at > state.latest and fact.clock == "server" and at <= item.received_at + MAX_CLOCK_AHEAD:
                state.latest = at
                changed.setdefault(item.source, [])
            if fact.server_run is not None and fact.clock == "server" and state.note_run(fact.server_run, at):
                labelled.add(item.source)
                changed.setdefault(item.source, [])
        for source in labelled:
            before, after = known[source].restarts, known[source].state.restarts()
            if before != after:
                changed[source] = changed_spans(before, after)
                known[source].restarts = after
        for source in changed:
            known[source].encoded = None
        return changed

    async def _sources(self) -> dict[str, KnownSource]:
        """What is known of all sources."""
        if self._cache.sources is None:
            found: dict[str, KnownSource] = {}
            for row in await self._views.sources():
                try:
                    state = msgspec.msgpack.decode(row.state, type=SourceState)
                except Exception as error:
                    raise self._views.state_undecodable(error) from error
                found[row.source] = KnownSource(row, state, state.restarts(), row.state)
            self._cache.sources = found
        return self._cache.sources

    def _source_row(self, name: str) -> SourceRow:
        assert self._cache.sources is not None  # noqa: S101 - loaded above
        known = self._cache.sources[name]
        if known.encoded is None:
            known.encoded = msgspec.msgpack.encode(known.state)
        return msgspec.structs.replace(known.row, state=known.encoded)

    # sessions

    async def _reassigned_facts(self, sessions: Iterable[str]) -> list[SourcedFact]:
        """Every fact assigned to these sessions so far."""
        found: list[SourcedFact] = []
        for session in sorted(sessions):
            placed = {(saved.row.position, saved.row.n) for saved in await self._views.session_entries(session)}
            facts = await self._load_facts(sorted({position for position, _ in placed}))
            found += self._unplaceable.replace(item for item in facts if (item.position, item.n) in placed)
        return found

    async def _find_homes(self, facts: Sequence[SourcedFact]) -> tuple[list[SourcedFact], list[str | None]]:
        if not facts:
            return [], []
        return await self._views.read_rooms(lambda rooms: find_homes(self._placement, rooms, facts, self._unplaceable))

    def _forget(self, sessions: Iterable[str]) -> None:
        """Forget the folded states of these sessions: they are folded again from all their facts."""
        for name in sessions:
            self._touched.pop(name, None)
            self._cache.states.pop(name, None)
            self._refolded.add(name)

    async def _load_states(self, names: set[str], changed_sources: dict[str, Spans]) -> None:
        """Load these sessions, and those whose end may depend on a changed source."""
        assert self._cache.sources is not None  # noqa: S101 - loaded before
        for source, silent_since in changed_sources.items():
            known = self._cache.sources[source]
            limit = known.state.never_joined_after()
            if silent_since:
                names.update(await self._views.unreported_sessions(source, silent_since=silent_since))
            if limit is not None:
                latest = known.state.latest
                names.update(await self._views.never_joined_sessions(source, begins_before=latest - limit))
        missing = [name for name in sorted(names) if name not in self._cache.states]
        if missing:
            for name, encoded in (await self._views.states(missing)).items():
                try:
                    self._cache.states[name] = decode_state(encoded)
                except Exception as error:
                    raise self._views.state_undecodable(error) from error
        for name in names:
            session = self._cache.states.get(name)
            if session is not None:
                self._cache.states.move_to_end(name)
                self._touched[name] = session

    def _place(self, facts: Sequence[SourcedFact], homes: Sequence[str | None]) -> None:
        """Fold facts into their sessions, and keep their entries to be saved."""
        saved = self._saved
        for item, home in zip(facts, homes, strict=True):
            place = item.fact.place
            why = self._unplaceable.reason(item)
            if home is not None:
                fold_or_mark(self._state(home, item), item, why)
            row = entry_or_stand_in(item, home, why)
            if place is None or place.run is not None:
                saved[item.position, item.n] = SavedEntry(row, None, row.at if place is None else place.at)
            else:
                placed_at = place.at if place.starts_at is None else place.starts_at
                saved[item.position, item.n] = SavedEntry(
                    row, place.room, placed_at, encode_session_ref(place), place.anchor
                )

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
        next_runs = await self._views.read_rooms(lambda rooms: find_next_runs(self._placement, rooms, due))
        rows: list[SessionRows] = []
        for state, next_run in zip(due, next_runs, strict=True):
            rows.append(self._render(state, next_run))
        return rows

    def _render(self, state: SessionState, next_run: NextRun | Exception) -> SessionRows:
        if isinstance(next_run, Exception):
            return render_or_set_aside(state, next_run)
        assert self._cache.sources is not None  # noqa: S101 - loaded before
        source = self._cache.sources[state.source]
        return render_or_set_aside(
            state,
            RenderContext(
                rules=registry.rules(state.vendor),
                next_start=next_run.start,
                next_run_after=next_run.after,
                restarts=restarts_of_session(source.restarts, state.servers),
                latest=source.state.latest,
            ),
        )
