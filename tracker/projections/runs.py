"""Which run of a room a fact belongs to: a function of the set of facts, never of their order (design §6).

    RoomState        what is known of one room: stated starts, stated ends, anchors; grows by union only
    Runs             the same, resolved: the runs of the room in order, each with its key and start
    Runs.find        a fact's place → the key of its run

A start with a run key (`keyed`) is a run of its own. Starts without a key that lie closer together than the vendor's tolerance,
with no end between them, are one start told twice; one that lies as close to a keyed start *is* that run's. Facts before the
first start belong to a provisional run named after the earliest of them.
"""

from __future__ import annotations

from bisect import bisect_right, insort

import msgspec

from tracker.domain.facts import Micros, SessionRef, RunRules


class RoomState(msgspec.Struct, array_like=True):
    """Everything the facts say about when runs of one room begin and end. Bounded by the number of runs."""

    keyed: dict[str, Micros] = {}
    """Run key → earliest stated start."""
    loose: dict[str, tuple[Micros, Micros]] = {}
    """Run key → earliest and latest moment placed in it, for runs whose start nothing has stated yet."""
    starts: list[Micros] = []
    """Stated starts without a key, ascending, distinct."""
    ends: list[Micros] = []
    """Stated ends, ascending, distinct."""
    spans: list[tuple[Micros, Micros]] = []
    """(start, end) stated together without a key (`ends_only` vendors)."""
    anchors: dict[str, Micros] = {}
    """Recording id → the earliest moment the sender's clock gives for it."""
    first: Micros | None = None
    """The earliest moment of a fact without a key."""

    def learn(self, place: SessionRef, *, is_sender_clock: bool) -> bool:
        """Take a place in. Returns whether anything that decides runs changed. `timed`: `at` is the sender's clock."""
        changed = False
        if place.run is not None:
            changed = self._learn_keyed(place, place.run)
        else:
            if self.first is None or place.at < self.first:
                self.first = place.at
                changed = True
            if place.starts_at is not None and place.starts_at not in self.starts:
                insort(self.starts, place.starts_at)
                changed = True
            if (
                place.starts_at is not None
                and place.ends_at is not None
                and (place.starts_at, place.ends_at) not in self.spans
            ):
                insort(self.spans, (place.starts_at, place.ends_at))
                changed = True
        if place.ends_at is not None and place.ends_at not in self.ends:
            insort(self.ends, place.ends_at)
            changed = True
        if place.anchor is not None and is_sender_clock:
            held = self.anchors.get(place.anchor)
            if held is None or place.at < held:
                self.anchors[place.anchor] = place.at
                changed = True
        return changed

    def _learn_keyed(self, place: SessionRef, run: str) -> bool:
        held = self.keyed.get(run)
        if place.starts_at is not None:
            if held is not None and held <= place.starts_at:
                return False
            self.keyed[run] = place.starts_at
            self.loose.pop(run, None)
            return True
        if held is not None:
            return False
        low, high = self.loose.get(run, (place.at, place.at))
        extent = (min(low, place.at), max(high, place.at))
        if extent == self.loose.get(run):
            return False
        self.loose[run] = extent
        return True


class Run(msgspec.Struct, frozen=True, order=True):
    """One resolved run: `start` µs, and the vendor's key or `{room}_{start ms}`."""

    start: Micros
    key: str


class Runs:
    """The runs of one room in order, as known when made; later learning does not change it."""

    def __init__(self, room: str, state: RoomState, rules: RunRules) -> None:
        self._rules = rules
        self.ends = tuple(state.ends)
        self.anchors = dict(state.anchors)
        self.key_by_start: dict[Micros, str] = {}
        runs = dict(state.keyed)
        self._resolve_unkeyed(room, state, runs)
        for key, (low, _) in state.loose.items():
            runs.setdefault(key, low)
        self.runs = sorted(Run(start, key) for key, start in runs.items())
        if state.first is not None and (not self.runs or state.first < self.runs[0].start - rules.tolerance):
            self.runs.insert(0, Run(state.first, _provisional(room, state.first)))
        self._moments = [run.start for run in self.runs]

    def _resolve_unkeyed(self, room: str, state: RoomState, runs: dict[str, Micros]) -> None:
        keyed = sorted((start, key) for key, start in runs.items())
        cluster: Micros | None = None
        for start in state.starts:
            key = self._keyed_twin(start, keyed, state)
            if key is not None:
                cluster = None
                runs[key] = min(runs.get(key, start), start)
            elif cluster is not None and start - cluster <= self._rules.tolerance and not self._ended(cluster, start):
                key = _provisional(room, cluster)
            else:
                cluster = start
                key = _provisional(room, start)
                runs[key] = start
            self.key_by_start[start] = key

    def _keyed_twin(self, start: Micros, keyed: list[tuple[Micros, str]], state: RoomState) -> str | None:
        near = [
            (abs(other - start), key)
            for other, key in keyed[max(0, bisect_right(keyed, (start - self._rules.tolerance - 1, ""))) :]
            if abs(other - start) <= self._rules.tolerance
            and not self._ended(min(other, start), max(other, start))
        ] if self._rules.tolerance else []  # fmt: skip
        if near:
            return min(near)[1]
        if not self._rules.ends_only:
            return None
        for low, high in state.spans:
            if low != start:
                continue
            inside = sorted(
                (extent, key)
                for key, extent in state.loose.items()
                if low - self._rules.tolerance <= extent[0] and extent[1] <= high + self._rules.tolerance
            )
            if inside:
                return inside[0][1]
        return None

    def _ended(self, after: Micros, before: Micros) -> bool:
        ends = self.ends
        index = bisect_right(ends, after)
        return index < len(ends) and ends[index] < before

    def find_run(self, place: SessionRef) -> str:
        """The key of the run a place belongs to."""
        if place.run is not None:
            return place.run
        if place.starts_at is not None and place.starts_at in self.key_by_start:
            return self.key_by_start[place.starts_at]
        at = place.at if place.anchor is None else self.anchors.get(place.anchor, place.at)
        index = bisect_right(self._moments, at) - 1
        following = index + 1
        if (
            following < len(self.runs)
            and place.ends_at is None
            and self._moments[following] - at <= self._rules.tolerance
        ):
            held_until = self._end_between(self._moments[index], self._moments[following]) if index >= 0 else None
            if held_until is None or held_until < at:
                return self.runs[following].key
        return self.runs[max(index, 0)].key

    def _end_between(self, start: Micros, following: Micros) -> Micros | None:
        ends = self.ends
        index = bisect_right(ends, following) - 1
        return ends[index] if index >= 0 and ends[index] > start else None

    def next_start(self, key: str, start: Micros | None) -> Micros | None:
        """The start of the run after this one in its room, or None."""
        if start is None:
            return None
        index = bisect_right(self._moments, start)
        while index < len(self.runs) and self.runs[index].key == key:
            index += 1
        return self._moments[index] if index < len(self.runs) else None


def _provisional(room: str, start: Micros) -> str:
    return f"{room}_{start // 1000}"


encode_room = msgspec.msgpack.Encoder().encode
"""A room as the views keep it."""

decode_room = msgspec.msgpack.Decoder(RoomState).decode
"""The room the views kept."""


def merge_rooms(ours: RoomState, theirs: RoomState) -> RoomState:
    """What is known of one room by both."""
    keyed = {
        run: min(start for state in (ours, theirs) if (start := state.keyed.get(run)) is not None)
        for run in ours.keyed | theirs.keyed
    }
    loose: dict[str, tuple[Micros, Micros]] = {}
    for run in (ours.loose | theirs.loose).keys() - keyed.keys():
        extents = [extent for state in (ours, theirs) if (extent := state.loose.get(run)) is not None]
        loose[run] = (min(low for low, _ in extents), max(high for _, high in extents))
    return RoomState(
        keyed=keyed,
        loose=loose,
        starts=sorted({*ours.starts, *theirs.starts}),
        ends=sorted({*ours.ends, *theirs.ends}),
        spans=sorted({*ours.spans, *theirs.spans}),
        anchors={
            anchor: min(at for state in (ours, theirs) if (at := state.anchors.get(anchor)) is not None)
            for anchor in ours.anchors | theirs.anchors
        },
        first=min((first for first in (ours.first, theirs.first) if first is not None), default=None),
    )
