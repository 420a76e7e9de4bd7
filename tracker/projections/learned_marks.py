"""What the facts of one batch state about the runs of a room, over the marks that are saved."""

from __future__ import annotations

from collections.abc import Sequence

from tracker.domain.facts import Micros, SessionRef
from tracker.domain.known_marks import KnownMarks
from tracker.domain.room_marks import ANCHOR, EARLIEST, END, FIRST, KEYED, LATEST, LOOSE, SPAN, START, Mark, MarkChange, Marks  # fmt: skip


class LearnedMarks:
    """The marks of `saved`, and what the facts of one batch state besides. It reads as both together."""

    def __init__(self, saved: Marks) -> None:
        self.saved = saved
        self._new = KnownMarks()
        self._named: dict[tuple[int, str], Mark | None] = {}
        """Of each name that was learned or looked up: its mark now."""
        self._before: dict[tuple[int, str], Mark | None] = {}
        """Of each name that changed: its saved mark."""
        self._seen: set[tuple[int, Mark]] = set()
        """Nameless marks that are known, saved or new."""
        self._added: list[MarkChange] = []

    @property
    def changes(self) -> list[MarkChange]:
        """What changed, in comparison with the saved marks."""
        named = [
            MarkChange(kind, before, self._named[kind, name])
            for (kind, name), before in self._before.items()
            if before != self._named[kind, name]
        ]
        return named + self._added

    def select(
        self,
        kind: int,
        low: Micros = EARLIEST,
        high: Micros = LATEST,
        *,
        limit: int = -1,
        backwards: bool = False,
        until_from: Micros = EARLIEST,
        until_to: Micros = LATEST,
    ) -> Sequence[Mark]:
        new = self._new.select(
            kind, low, high, limit=limit, backwards=backwards, until_from=until_from, until_to=until_to
        )
        size = limit
        while True:
            saved = self.saved.select(
                kind, low, high, limit=size, backwards=backwards, until_from=until_from, until_to=until_to
            )
            shown = [mark for mark in saved if (kind, mark.name) not in self._before] if kind < START else saved
            if limit < 0 or len(shown) >= limit or len(saved) < size:
                break
            size *= 4
        if not new:
            return shown if limit < 0 else shown[:limit]
        found = sorted([*shown, *new], reverse=backwards)
        return found if limit < 0 else found[:limit]

    def named(self, kind: int, name: str) -> Mark | None:
        key = (kind, name)
        if key not in self._named:
            self._named[key] = self.saved.named(kind, name)
        return self._named[key]

    def learn(self, place: SessionRef, *, is_sender_clock: bool) -> None:
        """Add what a session reference states."""
        if place.run is not None:
            self._learn_keyed(place, place.run)
        else:
            first = self.named(FIRST, "")
            if first is None or place.at < first.at:
                self._set(FIRST, "", Mark(place.at))
            if place.starts_at is not None:
                self._add(START, Mark(place.starts_at))
                if place.ends_at is not None:
                    self._add(SPAN, Mark(place.starts_at, place.ends_at))
        if place.ends_at is not None:
            self._add(END, Mark(place.ends_at))
        if place.anchor is not None and is_sender_clock:
            held = self.named(ANCHOR, place.anchor)
            if held is None or place.at < held.at:
                self._set(ANCHOR, place.anchor, Mark(place.at, 0, place.anchor))

    def _learn_keyed(self, place: SessionRef, run: str) -> None:
        held = self.named(KEYED, run)
        if place.starts_at is not None:
            if held is None or place.starts_at < held.at:
                self._set(KEYED, run, Mark(place.starts_at, 0, run))
            if held is None and self.named(LOOSE, run) is not None:
                self._set(LOOSE, run, None)
        elif held is None:
            loose = self.named(LOOSE, run) or Mark(place.at, place.at, run)
            extent = Mark(min(loose.at, place.at), max(loose.until, place.at), run)
            if extent != self.named(LOOSE, run):
                self._set(LOOSE, run, extent)

    def _set(self, kind: int, name: str, mark: Mark | None) -> None:
        before = self.named(kind, name)
        self._before.setdefault((kind, name), before)
        self._named[kind, name] = mark
        self._new.apply(MarkChange(kind, before, mark))

    def _add(self, kind: int, mark: Mark) -> None:
        if (kind, mark) in self._seen:
            return
        self._seen.add((kind, mark))
        if not self.saved.select(kind, mark.at, mark.at, limit=1, until_from=mark.until, until_to=mark.until):
            self._added.append(MarkChange(kind, None, mark))
            self._new.apply(self._added[-1])
