"""The interfaces of the views: the projector writes rows, the API and the dashboard read them.

The projector is the only writer. `save` is one transaction that includes the projected position, so after a crash the views are
exactly those of some log position. Readers never see half a save. Views can be deleted and rebuilt, identical.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from tracker.errors import ViewsDamaged
from tracker.domain.facts import Micros
from tracker.domain.room_marks import MarkChange, Marks
from tracker.domain.set_aside import SetAside
from tracker.domain.rows import EntryRow, SessionRow, SessionRows, SupervisorSessionRow

VIEWS_VERSION = 3
"""The version of the rows. Increase it whenever the same log gives other rows than before (an `interpret` or a merge rule
changed): views with another version are outdated and must be rebuilt."""


class SavedEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry row, and what the projector needs to move it to another session. The fact itself stays in the log."""

    row: EntryRow
    room: str | None
    """Set only for facts without a run key: a new start may move them. If None, the fields below are not stored."""
    placed_at: Micros
    """The start of the run, if the fact states it; else the time that finds the run."""
    session_ref: bytes = b""
    """What else the fact states about its run, opaque to the views."""
    anchor: str | None = None
    """A recording id whose other facts may know a better time."""


class SourceRow(msgspec.Struct, frozen=True, kw_only=True):
    """What the projector knows about one source: its latest arrival, its number of records and an opaque state."""

    source: str
    vendor: str
    last_received_at: Micros
    records: int
    state: bytes


class RoomUpdate(NamedTuple):
    """The marks of one room that changed."""

    source: str
    room: str
    changes: Sequence[MarkChange]


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a batch of records changes. `position` is the projected position after it."""

    position: int
    sessions: Sequence[SessionRows] = ()
    removed: Sequence[str] = ()
    """Session ids that no longer exist, because their facts moved. `entries` holds their entries again."""
    entries: Sequence[SavedEntry] = ()
    """New entries, and existing entries whose session changed (the same id replaces)."""
    rooms: Sequence[RoomUpdate] = ()
    sources: Sequence[SourceRow] = ()
    declarations: str | None = None
    """A digest of the declarations by which the records were interpreted, or None where it did not change."""


class MergeResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of merging a part. `position` is the last position of the part."""

    position: int
    sources: Sequence[tuple[SourceRow | None, SourceRow]]
    """Each source of the part: its row in the base views, if any, and in the part. The part's row is not saved yet."""
    shared_sessions: Sequence[str]
    """Ids of sessions in both. Their rows and state are still those of the base views; their entries are those of both."""


class SessionFilter(msgspec.Struct, frozen=True, kw_only=True):
    """The filters of `GET /v1/sessions`. `q` matches substrings of ids, rooms, identities and names; case is ignored.

    `stuck_before` maps each source to a time (µs): an open session is stuck if its `last_event_at` is not later.
    """

    source: str | None = None
    sources: tuple[str, ...] | None = None
    """The sources that the reader's token allows; None: all."""
    room: str | None = None
    identity: str | None = None
    state: str | None = None
    from_at: Micros | None = None
    to_at: Micros | None = None
    has: tuple[str, ...] = ()
    parent_id: str | None = None
    min_duration_ms: int | None = None
    q: str | None = None
    stuck_before: dict[str, Micros] = {}


class RoomReader(Protocol):
    """What the views hold about rooms. Its methods block: it is only for `ViewsWriter.read_rooms`."""

    def marks(self, source: str, room: str) -> Marks | None:
        """The marks of a room, or None if it has none."""
        ...

    def room_entries(
        self, source: str, room: str, windows: Sequence[tuple[Micros, Micros]], anchors: Iterable[str]
    ) -> list[SavedEntry]:
        """Entries of a room with `low <= placed_at < high` for one of the windows, or one of the anchors."""
        ...

    def sessions_without_next_run(self, source: str, room: str, windows: Sequence[tuple[Micros, Micros]]) -> list[str]:
        """Ids of sessions of a room with `low <= next_run_after < high` for one of the windows."""
        ...


class RoomParts(NamedTuple):
    """The rooms of two parts of a merge, and of both together. Entries and sessions of a part are those it brought."""

    base: RoomReader
    part: RoomReader
    whole: RoomReader


Result = TypeVar("Result")


class ViewsWriter(Protocol):
    """Views to write to: what the projector needs."""

    async def projected_position(self) -> int:
        """The projected position; 0 in new views."""
        ...

    async def states(self, session_ids: Sequence[str]) -> dict[str, bytes]:
        """The folded states of the sessions that exist."""
        ...

    def state_undecodable(self, error: Exception) -> ViewsDamaged:
        """Note that a folded state, of a session or a source, cannot be decoded. Returns the error to raise."""
        ...

    async def read_rooms(self, read: Callable[[RoomReader], Result]) -> Result:
        """What `read` returns. It may compute for long: it runs outside the event loop, where the views are read."""
        ...

    async def sources(self) -> list[SourceRow]:
        """All known sources."""
        ...

    async def session_entries(self, session_id: str) -> list[SavedEntry]:
        """All entries of a session, in order of position."""
        ...

    async def unreported_sessions(self, source: str, *, silent_since: Sequence[tuple[Micros, Micros]]) -> list[str]:
        """Ids of sessions of a source that are open or have an inferred end, with `low <= last_event_at < high` for one span.

        Only those with `begins_at < high`.
        """
        ...

    async def never_joined_sessions(self, source: str, *, begins_before: Micros) -> list[str]:
        """Ids of open sessions of a source with a smaller `begins_at`, no connections and no streams."""
        ...

    async def save(self, changes: Changes, *, commit: bool = True) -> None:
        """Apply all changes in one transaction; with `commit=False`, leave it open for the next save.

        Sessions and entries that the views cannot store are set aside (`domain/set_aside`); the others are saved.
        Until the commit only the writer's own queries about sessions and rooms see the changes; readers and
        `projected_position` do not. If it raises, nothing of the open transaction was saved.
        """
        ...

    async def count_set_aside(self) -> int:
        """How many sessions are set aside (`domain/set_aside`)."""
        ...

    async def rollback(self) -> None:
        """Undo the saves that are not committed yet."""
        ...

    async def refresh(self) -> bool:
        """Whether other views were swapped in since the last call. Call it before each batch.

        If so, forget what was read and continue from `projected_position()`. Anything saved between the swap and this call
        is lost with the old views.
        """
        ...

    async def close(self) -> None:
        """Close the views. Idempotent."""
        ...


class MergeableViews(ViewsWriter, Protocol):
    """Views that are being built, and into which the views of the following records can be merged."""

    async def merge(self, part: Path) -> MergeResult:
        """Merge the views at `part`."""
        ...

    async def shared_rooms(self, after: tuple[str, str], *, limit: int) -> list[tuple[str, str]]:
        """After `merge`: (source, room) of the rooms that are in both, in order, after `after`."""
        ...

    async def read_parts(self, read: Callable[[RoomParts], Result]) -> Result:
        """After `merge`: like `read_rooms`, for rooms that are in both."""
        ...

    async def part_states(self, session_ids: Sequence[str]) -> dict[str, bytes]:
        """After `merge`: the folded states that the part had of the sessions in both."""
        ...


Page = tuple[list[Any], str | None]
"""Rows, and the cursor of the next page (None: no more)."""


class RoomSummary(NamedTuple):
    """One room of one source, as `find_rooms` returns it."""

    source: str
    room_id: str
    room_name: str | None
    sessions: int
    open: int
    first_begins_at: Micros
    last_begins_at: Micros


class Look(NamedTuple):
    """What a look at the views found. `version`: another value after each save, and when other views are swapped in.

    `position` is the projected position. `pause`: how many seconds until the next look is due.
    """

    version: object
    position: int
    pause: float


class ViewsReader(Protocol):
    """Views to read: what the API and the dashboard need. An invalid cursor raises `ParameterInvalid("cursor", …)`."""

    async def projected_position(self) -> int:
        """The projected position."""
        ...

    async def look(self) -> Look:
        """Whether the views changed. Call it again and again: of calls close together, one reads the file for all."""
        ...

    def generation(self) -> object:
        """Another value as soon as other views are swapped in. Does not block."""
        ...

    async def find_sessions(self, filter: SessionFilter, *, limit: int, cursor: str | None) -> Page:
        """Sessions, newest first by (`begins_at`, `id`)."""
        ...

    async def session(self, session_id: str) -> SessionRow | None:
        """The session with this id."""
        ...

    async def set_aside(self, *, limit: int) -> list[SetAside]:
        """The sessions that are set aside, at most `limit`, by id."""
        ...

    async def lookup(self, any_id: str, sources: tuple[str, ...] | None) -> list[SessionRow]:
        """The sessions that this id may mean: a session id, an outdated one, or a vendor's id. Newest first, at most 100."""
        ...

    async def timeline(
        self, session_id: str | None, *, kinds: Sequence[str], subject: str | None, limit: int, cursor: str | None
    ) -> Page:
        """Entries by `at`; those of one moment in causal order (`domain.ordering`), never in order of arrival.

        Hidden entries are left out. `session_id` None: the entries that belong to no session.
        """
        ...

    async def entries_after(self, position: int, n: int, *, limit: int) -> list[EntryRow]:
        """Entries of all sessions after (position, n), in log order: what a live stream continues with."""
        ...

    async def session_positions(self, session_id: str, *, limit: int, after: int) -> list[int]:
        """The distinct positions of a session's records, ascending."""
        ...

    async def record_sessions(self, position: int) -> list[str]:
        """The ids of the sessions that a record contributed to."""
        ...

    async def participants(
        self,
        *,
        session_id: str | None,
        identity: str | None,
        sources: tuple[str, ...] | None,
        limit: int,
        cursor: str | None,
    ) -> Page: ...

    async def connections(self, session_id: str, *, limit: int, cursor: str | None) -> Page: ...

    async def streams(self, session_id: str, *, limit: int, cursor: str | None) -> Page: ...

    async def recordings(
        self,
        *,
        session_id: str | None,
        status: str | None,
        sources: tuple[str, ...] | None,
        limit: int,
        cursor: str | None,
    ) -> Page: ...

    async def supervisor_sessions(
        self,
        *,
        session_id: str | None,
        client: str | None,
        sources: tuple[str, ...] | None,
        limit: int,
        cursor: str | None,
    ) -> Page: ...

    async def supervisor_session(self, any_id: str) -> list[SupervisorSessionRow]: ...

    async def find_rooms(
        self, *, source: str | None, sources: tuple[str, ...] | None, limit: int, cursor: str | None
    ) -> Page:
        """`RoomSummary` rows by source, room_id."""
        ...

    async def stats(self, *, from_at: Micros, to_at: Micros, sources: tuple[str, ...] | None) -> dict[str, Any]:
        """`{"open", "sessions", "days", "peak", "sources"}`, from the rows alone."""
        ...

    async def sources(self) -> list[SourceRow]: ...

    def dump(self, *, positions: bool) -> AsyncGenerator[tuple[str, bytes]]:
        """All rows at one moment as (key, canonical JSON), in ascending order of keys. Equal views give equal dumps.

        Opaque states are left out. With `positions=False` so is what depends on the order of arrival:
        positions, entry ids, received_at.
        """
        ...

    async def close(self) -> None: ...
