"""Which run of a room a fact belongs to: a function of the set of facts, never of their order.

    Marks                  what facts state about the starts and ends of one room's runs (`domain/room_marks`)
    Room.find_run          a fact's session reference → the key of its run
    Room.runs_between      the runs that begin in a span of time
    Room.next_start        the first start of another run after a moment
    changed_runs           what new marks change: runs that begin, end or get another key

A start with a run key is a run of its own. Starts without a key are one start reported twice if they are closer than the
vendor's tolerance and no end lies between them. A start that close to a keyed start belongs to that run. Facts before the
first start belong to a provisional run, named after the earliest of them. An end within the tolerance after a start belongs
to the run before that start, if that has no other end.

Nothing here reads all marks of a room. A mark decides only about starts within the tolerance, except in two cases:

    starts without a key   are grouped from the left, so the group of one is known only from the last gap before it on
    `ends_only`            a run key without a start is matched to the end event whose span contains it

LIMIT: without a gap or an end between them, starts closer than the tolerance are read back to the first of them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from tracker.domain.facts import Micros, RunRules, SessionRef
from tracker.domain.room_marks import ANCHOR, EARLIEST, END, FIRST, KEYED, LATEST, LOOSE, SPAN, START, Mark, MarkChange, Marks  # fmt: skip
from tracker.projections.ids import provisional_run

PAGE = 4
"""Starts that are read at once on the way back to a gap."""
_MAX_DIGITS = 15
"""Digits of a start (ms) in a key."""
BOUNDARIES = (KEYED, LOOSE, START)
"""The marks at which a run may begin."""


class Run(msgspec.Struct, frozen=True, order=True):
    """A run: its start (µs), and the vendor's key or `{room}_{start ms}`."""

    start: Micros
    key: str


class Window(NamedTuple):
    """A span of time (µs), from `low` up to but not including `high`."""

    low: Micros
    high: Micros


class Room:
    """The runs of one room. They follow from its marks at this moment; if the marks change, make a new one."""

    def __init__(self, name: str, marks: Marks, rules: RunRules) -> None:
        self.name = name
        self.marks = marks
        self._rules = rules
        self._keys: dict[Micros, str] = {}
        """Start without a key → the key of its run, as far as it was asked for."""
        self._segments: list[tuple[Micros, Micros, str]] = []
        """(low, high, run key): facts from `low` to `high` (not included) belong to this run."""
        self._provisional: tuple[Run | None] | None = None

    # facts

    def find_run(self, place: SessionRef) -> str:
        """The key of the run that a session reference belongs to. Its room must have learned it."""
        if place.run is not None:
            return place.run
        if place.starts_at is not None:
            return self.key_of_start(place.starts_at)
        anchor = None if place.anchor is None else self.marks.named(ANCHOR, place.anchor)
        at = place.at if anchor is None else anchor.at
        if place.ends_at is not None or place.is_late:
            reach = self._rules.noticed_within if place.is_late else self._rules.tolerance
            return self._find_ending(at, reach)
        index = bisect_right(self._segments, (at, LATEST, "")) - 1
        if index >= 0 and at < self._segments[index][1]:
            return self._segments[index][2]
        current = self.last_run(at)
        if current is None:
            return self._first_key(at)
        following = self.next_run(current.start)
        high = LATEST if following is None else following.start - self._rules.tolerance
        if at < high:
            insort(self._segments, (current.start, high, current.key))
            return current.key
        assert following is not None  # noqa: S101 - `high` has a value
        if self._last_end(current.start, following.start) < at:
            return following.key
        return current.key

    def _find_ending(self, at: Micros, reach: Micros) -> str:
        """The key of the run that an end at this moment belongs to."""
        current = self.last_run(at)
        if current is None:
            return self._first_key(at)
        if at - current.start <= reach:
            previous = self.last_run(current.start - 1)
            if previous is not None and not self._ended(previous.start, at):
                return previous.key
        return current.key

    def _first_key(self, at: Micros) -> str:
        """The key of the room's first run, which begins after `at`."""
        first = self.next_run(at)
        return provisional_run(self.name, at) if first is None else first.key

    def _last_end(self, start: Micros, until: Micros) -> Micros:
        found = self.marks.select(END, start + 1, until, limit=1, backwards=True)
        return found[0].at if found else EARLIEST

    # runs

    def last_run(self, at: Micros) -> Run | None:
        """The run with the latest start not after `at`."""
        bound = at
        while True:
            latest = [
                mark.at for kind in BOUNDARIES for mark in self.marks.select(kind, high=bound, limit=1, backwards=True)
            ]
            if not latest:
                provisional = self.provisional()
                return provisional if provisional is not None and provisional.start <= at else None
            low = max(latest) - self._rules.tolerance
            found = self._starting_between(low, at)
            if found:
                return found[-1]
            bound = low - 1

    def next_run(self, at: Micros) -> Run | None:
        """The run with the earliest start after `at`."""
        provisional = self.provisional()
        if provisional is not None and provisional.start > at:
            return provisional
        return self._next_stated_run(at)

    def _next_stated_run(self, at: Micros) -> Run | None:
        """The same without the provisional run."""
        low = at + 1
        while True:
            nearest = [mark.at for kind in BOUNDARIES for mark in self.marks.select(kind, low, limit=1)]
            if not nearest:
                return None
            high = min(nearest) + self._rules.tolerance
            found = self._starting_between(low, high)
            if found:
                return found[0]
            low = high + 1

    def next_start(self, key: str, at: Micros) -> tuple[Micros, Micros | None]:
        """The first start of another run than `key` after `at`, or None; and the moment since when none began.

        That moment is `at`, or the start of the run `key` itself if it is later.
        """
        own = self._start_after(key, at)
        if own is not None:
            at = own
        found = self.next_run(at)
        return at, None if found is None else found.start

    def _start_after(self, key: str, at: Micros) -> Micros | None:
        """The start of the run with this key, if it is after `at`."""
        keyed = self.marks.named(KEYED, key)
        if keyed is not None:
            low, high = keyed.at - self._rules.tolerance, keyed.at
        elif (loose := self.marks.named(LOOSE, key)) is not None:
            low = high = self.start_of_loose(loose)
        else:
            milliseconds = key.removeprefix(f"{self.name}_")
            if not milliseconds.isdecimal() or len(milliseconds) > _MAX_DIGITS:
                return None
            low = int(milliseconds) * 1_000
            high = low + 999
        if high <= at or (keyed is None and not self._has_boundary(at + 1, high)):
            return None
        return next((run.start for run in self.runs_between(low, high) if run.key == key and run.start > at), None)

    def _has_boundary(self, low: Micros, high: Micros) -> bool:
        first = self.marks.named(FIRST, "")
        return (first is not None and low <= first.at <= high) or any(
            self.marks.select(kind, low, high, limit=1) for kind in BOUNDARIES
        )

    def runs_between(self, low: Micros, high: Micros) -> list[Run]:
        """The runs with `low <= start <= high` in order."""
        found = self._starting_between(low, high)
        provisional = self.provisional()
        return [provisional, *found] if provisional is not None and low <= provisional.start <= high else found

    def provisional(self) -> Run | None:
        """The run of the facts before the first start, if there are any."""
        if self._provisional is None:
            first = self.marks.named(FIRST, "")
            run = None
            if first is not None:
                stated = self._next_stated_run(EARLIEST)
                if stated is None or first.at < stated.start - self._rules.tolerance:
                    run = Run(first.at, provisional_run(self.name, first.at))
            self._provisional = (run,)
        return self._provisional[0]

    def key_of_start(self, start: Micros) -> str:
        """The key of the run that a stated start without a key belongs to."""
        if start not in self._keys:
            self._starting_between(start, start)
        return self._keys[start]

    def _starting_between(self, low: Micros, high: Micros) -> list[Run]:
        """The runs with `low <= start <= high` that begin at a mark."""
        tolerance, marks = self._rules.tolerance, self.marks
        # A key is named after a millisecond.
        starts = self._starts_between(low - max(tolerance, 1_000), high)
        first = starts[0] if starts else low
        keyed = marks.select(KEYED, min(first, low) - tolerance, high + tolerance)
        runs = {mark.name: mark.at for mark in keyed}
        for run in self._loose_runs(low, high):
            runs[run.key] = run.start
        cluster: Micros | None = None
        for start in starts:
            key = self._nearest_key(start, keyed)
            if key is not None:
                runs[key] = min(runs[key], start)
                cluster = None
            elif (loose := self.contained_run(start)) is not None:
                key = loose.name
                runs[key] = self.start_of_loose(loose)
                cluster = None
            elif cluster is not None and start - cluster <= tolerance and not self._ended(cluster, start):
                key = provisional_run(self.name, cluster)
            else:
                cluster = start
                key = provisional_run(self.name, start)
                runs.setdefault(key, start)
            self._keys[start] = key
        return sorted(Run(start, key) for key, start in runs.items() if low <= start <= high)

    def _starts_between(self, low: Micros, high: Micros) -> list[Micros]:
        """The starts without a key, back to one before `low` that certainly begins a group. Empty if none is after `low`."""
        found: list[Micros] = []
        bound = high
        while True:
            page = self.marks.select(START, high=bound, limit=PAGE, backwards=True)
            for mark in page:
                if mark.at < low and (
                    not found or found[-1] - mark.at > self._rules.tolerance or self._ended(mark.at, found[-1])
                ):
                    return found[::-1]
                found.append(mark.at)
            if len(page) < PAGE:
                return found[::-1]
            bound = found[-1] - 1

    def end_of_group(self, at: Micros) -> Micros:
        """The latest start that may be grouped with a start at `at` or earlier; `at` if there is none."""
        while True:
            page = self.marks.select(START, at + 1, limit=PAGE)
            for mark in page:
                if mark.at - at > self._rules.tolerance or self._ended(at, mark.at):
                    return at
                at = mark.at
            if len(page) < PAGE:
                return at

    def _nearest_key(self, start: Micros, keyed: Sequence[Mark]) -> str | None:
        """The key of the nearest keyed start within the tolerance and without an end between."""
        tolerance = self._rules.tolerance
        if not tolerance or not keyed:
            return None
        low = bisect_right(keyed, (start - tolerance,))
        high = bisect_right(keyed, (start + tolerance, LATEST, "\U0010ffff"))
        near = [
            (abs(mark.at - start), mark.name)
            for mark in keyed[low:high]
            if not self._ended(min(mark.at, start), max(mark.at, start))
        ]
        return min(near)[1] if near else None

    def _ended(self, after: Micros, before: Micros) -> bool:
        return bool(self.marks.select(END, after + 1, before - 1, limit=1))

    # runs without a stated start

    def _loose_runs(self, low: Micros, high: Micros) -> Iterator[Run]:
        for loose in self.marks.select(LOOSE, low, high):
            yield Run(self.start_of_loose(loose), loose.name)

    def contained_run(self, start: Micros) -> Mark | None:
        """The loose run inside a span that begins at `start`."""
        if not self._rules.ends_only:
            return None
        for span in self.marks.select(SPAN, start, start):
            inside = self.marks.select(
                LOOSE, start - self._rules.tolerance, span.until + self._rules.tolerance, limit=1,
                until_to=span.until + self._rules.tolerance,
            )  # fmt: skip
            if inside:
                return inside[0]
        return None

    def containing_starts(self, loose: Mark) -> list[Micros]:
        """The starts of spans that may contain a loose run rather than an earlier one."""
        if not self._rules.ends_only:
            return []
        tolerance = self._rules.tolerance
        # A span that also contains an earlier loose run, which is over earlier, belongs to that one.
        earlier = [
            mark
            for mark in self.marks.select(LOOSE, high=loose.at, limit=2, backwards=True, until_to=loose.until)
            if mark < loose
        ]
        low = earlier[0].at + tolerance + 1 if earlier else EARLIEST
        spans = self.marks.select(SPAN, low, loose.at + tolerance, until_from=loose.until - tolerance)
        return list(dict.fromkeys(mark.at for mark in spans))

    def start_of_loose(self, loose: Mark) -> Micros:
        for start in self.containing_starts(loose):
            found = self.contained_run(start)
            if found == loose and self._nearest_key(start, self._keyed_near(start)) is None:
                return start
        return loose.at

    def _keyed_near(self, start: Micros) -> Sequence[Mark]:
        return self.marks.select(KEYED, start - self._rules.tolerance, start + self._rules.tolerance)


class RoomChanges(NamedTuple):
    """What new marks change in one room.

    `windows`: when the facts without a run key were placed that may belong to another run now.
    `anchors`: the recordings whose facts may.
    `followed`: a session may end otherwise if no other run began since a moment in one of these spans.
    `runs`: the keys of the runs that begin otherwise, or are new or gone.
    """

    windows: list[Window]
    anchors: set[str]
    followed: list[Window]
    runs: set[str]


def room_changes(before: Room, after: Room, changes: Iterable[MarkChange], rules: RunRules) -> RoomChanges:
    """What changes between the runs in `before` and in `after`, which differ by these changes of marks."""
    tolerance = rules.tolerance
    moments: set[Micros] = set()
    placed: list[Window] = []
    anchors: set[str] = set()
    for change in changes:
        marks = [mark for mark in (change.before, change.after) if mark is not None]
        if change.kind == ANCHOR:
            anchors.update(mark.name for mark in marks)
            continue
        moments.update(mark.at for mark in marks)
        if change.kind != FIRST:
            placed += [Window(mark.at - tolerance, mark.at + tolerance + 1) for mark in marks]
        if change.kind == END:
            # An end soon after the next start belongs to the run before, unless that has an end.
            following = {run.start for room in (before, after) for mark in marks if (run := room.next_run(mark.at - 1))}
            placed += [Window(start, start + rules.late_end + 1) for start in following]
        if rules.ends_only:
            starts = _matched_starts(before, after, change, tolerance)
            placed += [Window(start, start + 1) for start in starts]
            moments |= starts | _matched_moments(before, after, starts)
    moments |= {run.start for run in {before.provisional(), after.provisional()} if run is not None}
    windows: list[Window] = []
    followed: list[Window] = []
    keys: set[str] = set()
    for low, high in _zones(before, after, moments, 2 * tolerance):
        old, new = before.runs_between(low, high), after.runs_between(low, high)
        changed = {*old} ^ {*new}
        if not changed:
            continue
        keys.update(run.key for run in changed)
        previous = before.last_run(low - 1)
        follows = [following.start for room in (before, after) if (following := room.next_run(high)) is not None]
        bounds = [
            EARLIEST if previous is None else previous.start,
            *sorted({run.start for run in (*old, *new)}),
            min(follows, default=LATEST),
        ]
        for start in {run.start for run in changed}:
            index = bisect_left(bounds, start)
            # Facts with an anchor may be placed before the first start.
            begins = EARLIEST if bounds[index - 1] == EARLIEST else start - tolerance
            windows.append(Window(begins, min(bounds[index + 1] + rules.late_end + 1, LATEST)))
            followed.append(Window(bounds[index - 1], start))
    return RoomChanges(_joined(windows + placed), anchors, _joined(followed), keys)


def _matched_starts(before: Room, after: Room, change: MarkChange, tolerance: Micros) -> set[Micros]:
    """The starts that may be matched to another loose run."""
    if change.kind == LOOSE:
        found: set[Micros] = set()
        for room, loose in ((before, change.before), (after, change.after)):
            if loose is not None:
                found.update(room.containing_starts(loose))
        return found
    if change.kind == FIRST or change.after is None:
        return set()
    marks = [mark for mark in (change.before, change.after) if mark is not None]
    return {start.at for mark in marks for start in after.marks.select(START, mark.at - tolerance, mark.at + tolerance)}


def _matched_moments(before: Room, after: Room, starts: Iterable[Micros]) -> set[Micros]:
    """When the loose runs begin to which these starts are or were matched."""
    names = {loose.name for start in starts for room in (before, after) if (loose := room.contained_run(start))}
    return {
        moment
        for room in (before, after)
        for name in names
        if (loose := room.marks.named(LOOSE, name)) is not None
        for moment in (loose.at, room.start_of_loose(loose))
    }


def _zones(before: Room, after: Room, moments: Iterable[Micros], reach: Micros) -> Iterator[tuple[Micros, Micros]]:
    """The spans around these moments in which runs may differ. They do not overlap."""
    zone: tuple[Micros, Micros] | None = None
    for moment in sorted(moments):
        low = moment - reach
        high = max(room.end_of_group(moment + reach) for room in (before, after))
        if zone is None:
            zone = low, high
        elif low <= zone[1]:
            zone = zone[0], max(zone[1], high)
        else:
            yield zone
            zone = low, high
    if zone is not None:
        yield zone


def _joined(windows: Iterable[Window]) -> list[Window]:
    """The same spans of time without overlaps, ascending."""
    found: list[Window] = []
    for window in sorted(windows):
        if found and window.low <= found[-1].high:
            found[-1] = Window(found[-1].low, max(found[-1].high, window.high))
        else:
            found.append(window)
    return found
