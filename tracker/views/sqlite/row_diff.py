"""The difference between a session's rows and those saved before: a live session is saved again for every event.

`SavedRows` caches the rows of recently saved sessions. The projector is the only writer, so the file holds exactly these rows as
long as its projected position is the one saved with them. Dropping the cache at any moment costs only speed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from tracker.domain.facts import Micros
from tracker.domain.rows import SessionRow, SessionRows
from tracker.views.contract import Changes

MAX_SESSIONS = 1_000
"""Sessions whose rows are cached."""
MAX_ROWS = 2_000
"""A session with more connections and streams than this is not cached."""

CHILDREN: Mapping[str, Any] = {
    "participants": attrgetter("first_joined_at", "last_left_at"),
    "connections": attrgetter("joined_at", "left_at"),
    "streams": attrgetter("started_at", "ended_at"),
    "recordings": attrgetter("started_at", "stopped_at"),
    "supervisor_sessions": attrgetter("started_at", "ended_at"),
}
"""The tables keyed by (session, begins_at, id), and the times of their rows: the first known one is `begins_at`."""

_columns = attrgetter(
    "source", "vendor", "room_id", "room_name", "state", "begins_at", "duration_ms", "recordings", "supervisors",
)  # fmt: skip


class RowDiff(msgspec.Struct, frozen=True):
    """What changed of a session since it was saved."""

    rows: SessionRows
    """All rows."""
    added: SessionRows
    """The same, with only the new or changed child rows and lookups."""
    removed: dict[str, list[tuple[Micros, str]]]
    """Table → (begins_at, id) of its removed or changed rows."""
    lookups_removed: tuple[str, ...]
    gaps_changed: bool
    index_changed: bool
    """Whether a column of an index changed."""
    joined_changed: bool
    next_run_changed: bool


class SavedRows:
    """The rows written by recent saves, by session id."""

    def __init__(self) -> None:
        self._rows: OrderedDict[str, SessionRows] = OrderedDict()
        self._position = -1

    def find(self, changes: Changes, position: int) -> dict[str, SessionRows]:
        """The rows that the file holds for the sessions of these changes, if cached. `position`: its projected position."""
        if position != self._position:
            self._rows.clear()
        names = (*changes.removed, *(rows.session.id for rows in changes.sessions))
        return {name: self._rows[name] for name in names if name in self._rows}

    def remember(self, changes: Changes) -> None:
        """Remember changes that were saved."""
        for name in changes.removed:
            self._rows.pop(name, None)
        for rows in changes.sessions:
            name = rows.session.id
            self._rows.pop(name, None)
            if len(rows.connections) + len(rows.streams) <= MAX_ROWS:
                # The state is not compared, because it nearly always differs.
                self._rows[name] = msgspec.structs.replace(rows, state=b"")
        while len(self._rows) > MAX_SESSIONS:
            self._rows.popitem(last=False)
        self._position = changes.position


def row_diff(before: SessionRows, rows: SessionRows) -> RowDiff:
    """What to write so that the rows of `before` become `rows`."""
    added: dict[str, Any] = {}
    removed: dict[str, list[tuple[Micros, str]]] = {}
    moved = before.session.begins_at != rows.session.begins_at
    for table, times in CHILDREN.items():
        was, now = getattr(before, table), getattr(rows, table)
        if was == now and not moved:
            added[table] = ()
            continue
        old, new = dict(_by_key(was, times, before)), dict(_by_key(now, times, rows))
        if len(new) != len(now):
            raise ValueError(f"two rows of {table} have one id")
        removed[table] = [key for key, row in old.items() if new.get(key) != row]
        added[table] = tuple(row for key, row in new.items() if old.get(key) != row)
    lookups_removed: tuple[str, ...] = ()
    added["lookups"] = ()
    if before.lookups != rows.lookups:
        old_lookups, new_lookups = set(before.lookups), set(rows.lookups)
        lookups_removed = tuple(sorted(old_lookups - new_lookups))
        added["lookups"] = tuple(sorted(new_lookups - old_lookups))
    gaps_changed = before.gaps != rows.gaps
    return RowDiff(
        rows=rows,
        added=msgspec.structs.replace(rows, **added, gaps=rows.gaps if gaps_changed else ()),
        removed=removed,
        lookups_removed=lookups_removed,
        gaps_changed=gaps_changed,
        index_changed=_index_columns(before) != _index_columns(rows),
        joined_changed=_joined(before) != _joined(rows),
        next_run_changed=before.next_run_after != rows.next_run_after,
    )


def has_same_words(before: SessionRows, rows: SessionRows) -> bool:
    """Whether both have the same search words and begin at the same time."""
    was, now = before.session, rows.session
    return (
        before.lookups == rows.lookups
        and (was.begins_at, was.room_id, was.room_name) == (now.begins_at, now.room_id, now.room_name)
        and len(before.participants) == len(rows.participants)
        and all(
            old is new or (old.identity == new.identity and old.name == new.name)
            for old, new in zip(before.participants, rows.participants, strict=True)
        )
    )


def _by_key(rows: Iterable[Any], times: Any, of: SessionRows) -> Iterator[tuple[tuple[Micros, str], Any]]:
    for row in rows:
        yield (first_known(*times(row), of.session.begins_at), row.id), row


def _index_columns(rows: SessionRows) -> Sequence[Any]:
    session = rows.session
    provenance = None if session.end is None else session.end.provenance
    return *_columns(session), session_over_at(session), len(session.anomalies), provenance, session.parent_id


def _joined(rows: SessionRows) -> int:
    return len(rows.connections) + len(rows.streams)


def session_over_at(row: SessionRow) -> Micros | None:
    """When a session ended, or its last event if the end is unknown; None while it is open."""
    return None if row.state == "open" else row.ended_at if row.ended_at is not None else row.last_event_at


def first_known(*times: Micros | None) -> Micros:
    """The first time that is not None. The last argument must not be None."""
    return next(time for time in times if time is not None)
