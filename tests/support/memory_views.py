"""Views in memory: the writing half of the contract, for property tests.

LIMIT: they have no queries. To read views, use the SQLite engine with a temporary file.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence

from tracker.domain.rows import SessionRows
from tracker.domain.set_aside import find_set_aside
from tracker.domain.facts import Micros
from tracker.domain.room_marks import KINDS, Mark
from tracker.errors import ViewsDamaged
from tracker.domain.known_marks import KnownMarks
from tracker.views.contract import Changes, Result, RoomReader, SavedEntry, SourceRow


class MemoryViews:
    """`ViewsWriter` in dictionaries."""

    def __init__(self) -> None:
        self.sessions: dict[str, SessionRows] = {}
        self.entries: dict[tuple[int, int], SavedEntry] = {}
        self._by_session: dict[str | None, set[tuple[int, int]]] = {}
        self._rooms: dict[tuple[str, str], KnownMarks] = {}
        self._sources: dict[str, SourceRow] = {}
        self._position = 0
        self._before: MemoryViews | None = None
        """The state to which `rollback` returns; None if everything is committed."""

    async def refresh(self) -> bool:
        """These views are never replaced."""
        return False

    async def projected_position(self) -> int:
        """See the contract."""
        return self._position if self._before is None else await self._before.projected_position()

    async def states(self, session_ids: Sequence[str]) -> dict[str, bytes]:
        """See the contract."""
        return {name: self.sessions[name].state for name in session_ids if name in self.sessions}

    def state_undecodable(self, error: Exception) -> ViewsDamaged:
        """See the contract."""
        return ViewsDamaged(str(error))

    async def read_rooms(self, read: Callable[[RoomReader], Result]) -> Result:
        """See the contract."""
        return read(self)

    def marks(self, source: str, room: str) -> KnownMarks | None:
        """See the contract."""
        return self._rooms.get((source, room))

    def room_marks(self) -> dict[tuple[str, str], list[list[Mark]]]:
        """The marks of each room, by kind."""
        return {key: [list(marks.select(kind)) for kind in KINDS] for key, marks in self._rooms.items()}

    def _entries_of(self, source: str, room: str) -> list[SavedEntry]:
        """The entries of a room in order of position."""
        return [saved for _, saved in sorted(self.entries.items()) if saved.row.source == source and saved.room == room]

    def room_entries(
        self, source: str, room: str, windows: Sequence[tuple[Micros, Micros]], anchors: Iterable[str]
    ) -> list[SavedEntry]:
        """See the contract."""
        asked = set(anchors)
        return [
            saved
            for saved in self._entries_of(source, room)
            if saved.anchor in asked or any(low <= saved.placed_at < high for low, high in windows)
        ]

    def sessions_without_next_run(self, source: str, room: str, windows: Sequence[tuple[Micros, Micros]]) -> list[str]:
        """See the contract."""
        return [
            name
            for name, rows in self.sessions.items()
            if (rows.session.source, rows.session.room_id) == (source, room)
            and any(low <= rows.next_run_after < high for low, high in windows)
        ]

    async def sources(self) -> list[SourceRow]:
        """See the contract."""
        return [self._sources[name] for name in sorted(self._sources)]

    async def session_entries(self, session_id: str) -> list[SavedEntry]:
        """See the contract."""
        return [self.entries[key] for key in sorted(self._by_session.get(session_id, ()))]

    async def unreported_sessions(self, source: str, *, silent_since: Sequence[tuple[Micros, Micros]]) -> list[str]:
        """See the contract."""
        return [
            name
            for name, rows in sorted(self.sessions.items())
            if rows.session.source == source
            and any(
                low <= rows.session.last_event_at < high and rows.session.begins_at < high for low, high in silent_since
            )
            and (rows.session.end is None or rows.session.end.provenance == "inferred")
        ]

    async def never_joined_sessions(self, source: str, *, begins_before: Micros) -> list[str]:
        """See the contract."""
        return [
            name
            for name, rows in sorted(self.sessions.items())
            if rows.session.source == source
            and rows.session.begins_at < begins_before
            and rows.session.end is None
            and not rows.connections
            and not rows.streams
        ]

    async def save(self, changes: Changes, *, commit: bool = True) -> None:
        """See the contract."""
        self._before = None if commit else (self._before or self._copy())
        for name in changes.removed:
            self.sessions.pop(name, None)
        for rows in changes.sessions:
            self.sessions[rows.session.id] = rows
        for saved in changes.entries:
            key = (saved.row.position, saved.row.n)
            held = self.entries.get(key)
            if held is not None:
                self._by_session[held.row.session_id].discard(key)
            self.entries[key] = saved
            self._by_session.setdefault(saved.row.session_id, set()).add(key)
        for source, room, changed in changes.rooms:
            marks = self._rooms.setdefault((source, room), KnownMarks())
            for change in changed:
                marks.apply(change)
        for row in changes.sources:
            self._sources[row.source] = row
        self._position = changes.position

    def _copy(self) -> MemoryViews:
        """These views as they are: rows do not change, what holds them does."""
        held = copy.copy(self)
        held.__dict__ |= {
            "sessions": dict(self.sessions), "entries": dict(self.entries), "_sources": dict(self._sources),
            "_by_session": {name: set(keys) for name, keys in self._by_session.items()},
            "_rooms": copy.deepcopy(self._rooms),
        }  # fmt: skip
        return held

    async def count_set_aside(self) -> int:
        """See the contract."""
        return sum(find_set_aside(rows.session) is not None for rows in self.sessions.values())

    async def rollback(self) -> None:
        """See the contract."""
        if self._before is not None:
            self.__dict__ = self._before.__dict__

    async def close(self) -> None:
        """Nothing to close."""
