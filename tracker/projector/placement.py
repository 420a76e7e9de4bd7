"""Finds the sessions of a batch's facts, and what the batch changes for facts and sessions that are saved already.

Everything here reads saved marks and entries: run it by `ViewsWriter.read_rooms`. `learn` comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tracker.domain.facts import Micros, RunRules
from tracker.domain.room_marks import ANCHOR, FIRST, MarkChange, Marks
from tracker.domain.known_marks import KnownMarks
from tracker.projections.learned_marks import LearnedMarks
from tracker.projections.rendering import session_id
from tracker.projections.runs import Room, room_changes
from tracker.projections.sourced_fact import SourcedFact, decode_session_ref
from tracker.sources import registry
from tracker.views.contract import RoomReader, RoomUpdate

RoomKey = tuple[str, str]
"""(source, room)."""


class Effects(NamedTuple):
    """What newly learned marks change for saved sessions, by session id.

    `left`: sessions that facts leave. `ended`: sessions whose rows depend on a run that begins otherwise now.
    """

    left: set[str]
    ended: set[str]


class AskedRun(NamedTuple):
    """A run, and the moment (µs) after which the next one is asked for."""

    source: str
    vendor: str
    room: str | None
    key: str
    after: Micros


class NextRun(NamedTuple):
    """The first start of another run of a room after a moment (µs), or None."""

    after: Micros
    start: Micros | None


class Placement:
    """The rooms of one batch. `rules`: of each source, those of every vendor that it had.

    A source whose name was given to another vendor keeps its rooms: each fact finds its run by the rules of its own vendor.
    """

    def __init__(self, rules: Mapping[str, Sequence[RunRules]]) -> None:
        self._rules = rules
        self._learned: dict[RoomKey, LearnedMarks] = {}
        self._rooms: dict[tuple[RoomKey, RunRules], Room] = {}

    @property
    def updates(self) -> list[RoomUpdate]:
        """The marks that changed, to be saved."""
        return [RoomUpdate(*key, changes) for key, marks in sorted(self._learned.items()) if (changes := marks.changes)]

    def learn(self, reader: RoomReader, facts: Iterable[SourcedFact]) -> Effects:
        """Add what the facts state about runs to their rooms."""
        saved: dict[RoomKey, Marks] = {}
        for item in facts:
            key, place = room_of(item), item.fact.place
            if key is None or place is None:
                continue
            learned = self._learned.get(key)
            if learned is None:
                marks = reader.marks(*key)
                if marks is not None:
                    saved[key] = marks
                learned = self._learned[key] = LearnedMarks(KnownMarks() if marks is None else marks)
            learned.learn(place, is_sender_clock=item.fact.clock == "server")
        effects = Effects(set(), set())
        for key, marks in sorted(saved.items()):
            self._add_effects(effects, reader, key, marks)
        return effects

    def _add_effects(self, effects: Effects, reader: RoomReader, key: RoomKey, saved: Marks) -> None:
        learned = self._learned[key]
        changes = learned.changes
        if not changes:
            return
        for rules in self._rules[key[0]]:
            self._add_effects_by(rules, effects, reader, key, saved, changes)

    def _add_effects_by(
        self, rules: RunRules, effects: Effects, reader: RoomReader, key: RoomKey, saved: Marks,
        changes: Sequence[MarkChange],
    ) -> None:  # fmt: skip
        source, name = key
        before, after = Room(name, saved, rules), self._room(reader, key, rules)
        changed = room_changes(before, after, changes, rules)
        effects.ended.update(session_id(source, run) for run in changed.runs)
        if changed.followed:
            effects.ended.update(reader.sessions_without_next_run(source, name, changed.followed))
        if saved.named(FIRST, "") is None or not (changed.windows or changed.anchors):
            # All saved facts have a run key.
            return
        anchors = set(changed.anchors)
        for low, high in changed.windows:
            anchors.update(mark.name for mark in after.marks.select(ANCHOR, low, high - 1))
        for entry in reader.room_entries(source, name, changed.windows, sorted(anchors)):
            place = decode_session_ref(name, entry.placed_at, entry.session_ref, entry.anchor)
            held = entry.row.session_id
            if held is not None and session_id(source, after.find_run(place)) != held:
                effects.left.add(held)

    def homes(self, reader: RoomReader, facts: Iterable[SourcedFact]) -> list[str | None]:
        """The session of each fact; None for a fact that names no session."""
        return [self._home(reader, item) for item in facts]

    def _home(self, reader: RoomReader, item: SourcedFact) -> str | None:
        place = item.fact.place
        if place is None:
            return None
        if place.run is not None:
            return session_id(item.source, place.run)
        key = room_of(item)
        if key is None:
            return None
        return session_id(item.source, self._room(reader, key, registry.rules(item.vendor)).find_run(place))

    def next_runs(self, reader: RoomReader, sessions: Sequence[AskedRun]) -> list[NextRun]:
        """When the next run began for each session."""
        found: list[NextRun] = []
        for source, vendor, name, run, after in sessions:
            if name is None:
                found.append(NextRun(after, None))
            else:
                room = self._room(reader, (source, name), registry.rules(vendor))
                found.append(NextRun(*room.next_start(run, after)))
        return found

    def _room(self, reader: RoomReader, key: RoomKey, rules: RunRules) -> Room:
        room = self._rooms.get((key, rules))
        if room is None:
            marks: Marks | None = self._learned.get(key)
            if marks is None:
                marks = reader.marks(*key)
            room = self._rooms[key, rules] = Room(key[1], KnownMarks() if marks is None else marks, rules)
        return room


def room_of(item: SourcedFact) -> RoomKey | None:
    """The room a fact names, or None."""
    place = item.fact.place
    return (item.source, place.room) if place is not None and place.room else None
