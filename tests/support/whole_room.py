"""The runs of a room from all its marks at once: slow, and easy to check. The oracle of `projections/runs`."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort

import msgspec

from tracker.domain.facts import Micros, RunRules, SessionRef
from tracker.projections.ids import provisional_run
from tracker.projections.runs import Run


class RoomState(msgspec.Struct, array_like=True):
    """What the facts state about the starts and ends of one room's runs. Bounded by the number of runs."""

    keyed: dict[str, Micros] = {}
    """Run key → earliest stated start."""
    loose: dict[str, tuple[Micros, Micros]] = {}
    """Run key → time of its earliest and its latest fact, for runs whose start no fact has stated yet."""
    starts: list[Micros] = []
    """Stated starts without a key, ascending, distinct."""
    ends: list[Micros] = []
    """Stated ends, ascending, distinct."""
    spans: list[tuple[Micros, Micros]] = []
    """(start, end) stated together without a key (vendors with `ends_only`)."""
    anchors: dict[str, Micros] = {}
    """Recording id → its earliest time by the sender's clock."""
    first: Micros | None = None
    """The earliest time of a fact without a key."""

    def learn(self, place: SessionRef, *, is_sender_clock: bool) -> bool:
        """Add what a session reference states. Returns whether anything changed that decides runs."""
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


class Runs:
    """The runs of one room in order. They follow from the state at this moment and do not change with it."""

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
            self.runs.insert(0, Run(state.first, provisional_run(room, state.first)))
        self._moments = [run.start for run in self.runs]

    def _resolve_unkeyed(self, room: str, state: RoomState, runs: dict[str, Micros]) -> None:
        keyed = sorted((start, key) for key, start in runs.items())
        cluster: Micros | None = None
        for start in state.starts:
            key = self._nearby_key(start, keyed, state)
            if key is not None:
                cluster = None
                runs[key] = min(runs.get(key, start), start)
            elif cluster is not None and start - cluster <= self._rules.tolerance and not self._ended(cluster, start):
                key = provisional_run(room, cluster)
            else:
                cluster = start
                key = provisional_run(room, start)
                runs.setdefault(key, start)
            self.key_by_start[start] = key

    def _nearby_key(self, start: Micros, keyed: list[tuple[Micros, str]], state: RoomState) -> str | None:
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
        """The key of the run that a session reference belongs to."""
        if place.run is not None:
            return place.run
        if place.starts_at is not None and place.starts_at in self.key_by_start:
            return self.key_by_start[place.starts_at]
        at = place.at if place.anchor is None else self.anchors.get(place.anchor, place.at)
        index = bisect_right(self._moments, at) - 1
        following = index + 1
        reach = self._rules.noticed_within if place.is_late else self._rules.tolerance
        is_end = place.ends_at is not None or place.is_late
        if is_end and index >= 0 and at - self._moments[index] <= reach:
            previous = bisect_left(self._moments, self._moments[index]) - 1
            if previous >= 0 and not self._ended(self._moments[previous], at):
                return self.runs[previous].key
        if following < len(self.runs) and not is_end and self._moments[following] - at <= self._rules.tolerance:
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
