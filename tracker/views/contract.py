"""The seam of the views: rows in from the projector, answers out to the ways out.

The projector is the only writer; `save` is one transaction with the checkpoint in it, so after a crash the views are
exactly those of some log position. Readers never see half a save. Views can be deleted and made again, identical.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from tracker.domain.facts import Micros
from tracker.domain.rows import EntryRow, SessionRow, SessionRows, SupervisorSessionRow

VIEWS_VERSION = 1
"""Which reading of the log these rows are. Count it up whenever the same log would give other rows than before
(an `interpret` or a merge rule changed): views stamped with another number are outdated and are rebuilt."""


class SavedEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry row with what the projector needs to see where else it may belong; the fact itself stays in the log."""

    row: EntryRow
    room: str | None
    """Only for facts without a run key: those a new start may move. Without it the rest is not kept."""
    placed_at: Micros
    session_ref: bytes = b""
    """What else the fact says of its run, opaque to the views."""


class SourceRow(msgspec.Struct, frozen=True, kw_only=True):
    """What the projector knows of one source: its high-water mark and an opaque state."""

    source: str
    vendor: str
    last_received_at: Micros
    records: int
    state: bytes


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one batch of records changed. `position` is the checkpoint after it."""

    position: int
    sessions: Sequence[SessionRows] = ()
    removed: Sequence[str] = ()
    """Session ids that no longer exist (their facts moved); their entries are in `entries` again."""
    entries: Sequence[SavedEntry] = ()
    """New entries, and old ones whose session changed (same id: replaced)."""
    rooms: Sequence[tuple[str, str, bytes]] = ()
    """(source, room, opaque state)"""
    sources: Sequence[SourceRow] = ()


class SharedRoom(NamedTuple):
    """A room that two halves of a log both told of, with what each knew of it (opaque)."""

    source: str
    room: str
    base: bytes
    part: bytes


class MergeResult(msgspec.Struct, frozen=True, kw_only=True):
    """What views took in from those of the records that follow. `position`: where those ended."""

    position: int
    sources: Sequence[tuple[SourceRow | None, SourceRow]]
    """Of each source of theirs: ours, if it was known, and theirs. Neither was saved."""
    shared_sessions: Sequence[str]
    """Ids of sessions that both knew: rows and state are still ours, the entries are those of both."""


class SessionFilter(msgspec.Struct, frozen=True, kw_only=True):
    """The filters of `GET /v1/sessions`. `q` matches ids, rooms, identities and names by substring, in any case.

    `stuck_before` maps source → the latest `last_event_at` (µs) at which an open session counts as stuck now.
    """

    source: str | None = None
    sources: tuple[str, ...] | None = None
    """Narrowing from the reader's token; None: all."""
    room: str | None = None
    identity: str | None = None
    state: str | None = None
    from_at: Micros | None = None
    to_at: Micros | None = None
    has: tuple[str, ...] = ()
    min_duration_ms: int | None = None
    q: str | None = None
    stuck_before: dict[str, Micros] = {}


class ViewsWriter(Protocol):
    """What the projector needs."""

    async def projected_position(self) -> int:
        """The position the views are at; 0 when new."""
        ...

    async def states(self, session_ids: Sequence[str]) -> dict[str, bytes]:
        """The folded states of those sessions that exist."""
        ...

    async def rooms(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], bytes]:
        """The opaque states of (source, room) that exist."""
        ...

    async def sources(self) -> list[SourceRow]:
        """All sources seen."""
        ...

    async def room_entries(
        self, source: str, room: str, from_at: Micros | None, to_at: Micros | None
    ) -> list[SavedEntry]:
        """Entries that named this room with `from_at <= placed_at < to_at` (None: unbounded), in position order."""
        ...

    async def session_entries(self, session_id: str) -> list[SavedEntry]:
        """Every entry of a session, in position order."""
        ...

    async def unreported_sessions(self, source: str, *, begins_before: Micros) -> list[str]:
        """Ids of sessions of a source with a smaller `begins_at` that are open or whose end is inferred."""
        ...

    async def never_joined_sessions(self, source: str, *, begins_before: Micros) -> list[str]:
        """Ids of open sessions of a source with a smaller `begins_at` and neither connections nor streams."""
        ...

    async def save(self, changes: Changes, *, commit: bool = True) -> None:
        """All of it in one transaction; `more`: of the next save, too.

        Until that is over only the writer's own questions about sessions and rooms see it, no reader and no checkpoint.
        On raise nothing was saved, and nothing of the saves before it that it would have completed.
        """
        ...

    async def rollback(self) -> None:
        """Take back saves with `more` that none without has completed."""
        ...

    async def refresh(self) -> bool:
        """Whether other views were swapped in since the last call.

        Then forget what was read and start again at `checkpoint()`. Ask before each batch; what is saved after a swap and before this call goes with the old views.
        """
        ...

    async def close(self) -> None:
        """Let go of the store. Idempotent."""
        ...


class MergeableViews(ViewsWriter, Protocol):
    """Views being built that can take in those of the records that follow theirs."""

    async def merge(self, part: Path, join_rooms: Callable[[bytes, bytes], bytes]) -> MergeResult:
        """Take in everything of views that were put by; a room in both gets the state that `join_rooms` makes of its two."""
        ...

    async def shared_rooms(self, after: tuple[str, str], *, limit: int) -> list[SharedRoom]:
        """After `absorb`: rooms that both knew, as they were, by (source, room), from after that one."""
        ...

    async def part_states(self, session_ids: Sequence[str]) -> dict[str, bytes]:
        """After `absorb`: the folded states that the other views had of sessions that both knew."""
        ...


Page = tuple[list[Any], str | None]
"""Rows and the cursor of the next page (None: the end)."""


class RoomSummary(NamedTuple):
    """One room of one source, as `find_rooms` gives it; unpacks in this order."""

    source: str
    room_id: str
    room_name: str | None
    sessions: int
    open: int
    first_begins_at: Micros
    last_begins_at: Micros


class ViewsReader(Protocol):
    """What the ways out need. Cursors are opaque strings; a bad one raises `ParameterInvalid("cursor", …)`."""

    async def projected_position(self) -> int:
        """The position the views are at."""
        ...

    async def find_sessions(self, filter: SessionFilter, *, limit: int, cursor: str | None) -> Page:
        """Newest first by (`begins_at`, `id`)."""
        ...

    async def session(self, session_id: str) -> SessionRow | None:
        """By our id."""
        ...

    async def lookup(self, any_id: str, sources: tuple[str, ...] | None) -> list[SessionRow]:
        """Every session this vendor id (or outdated id of ours) may mean, newest first, at most 100."""
        ...

    async def timeline(
        self, session_id: str | None, *, kinds: Sequence[str], subject: str | None, limit: int, cursor: str | None
    ) -> Page:
        """Entries by `at`, within a moment in causal order (`projections.ranking`), never as they came; hidden ones left out. `session_id` None: entries of no session."""
        ...

    async def entries_after(self, position: int, n: int, *, limit: int) -> list[EntryRow]:
        """Entries of all sessions in log order after (position, n): what a live stream resumes from."""
        ...

    async def session_positions(self, session_id: str, *, limit: int, after: int) -> list[int]:
        """Distinct positions of the records behind a session, ascending."""
        ...

    async def record_sessions(self, position: int) -> list[str]:
        """Sessions a record contributed to."""
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
        """`(source, room_id, room_name, sessions, open, first_begins_at, last_begins_at)` by source, room_id."""
        ...

    async def stats(self, *, from_at: Micros, to_at: Micros, sources: tuple[str, ...] | None) -> dict[str, Any]:
        """`{"open": n, "days": [...], "sources": [...], "peak": {...}}` from the rows, without reading the log."""
        ...

    async def sources(self) -> list[SourceRow]: ...

    def dump(self, *, positions: bool) -> AsyncGenerator[tuple[str, bytes]]:
        """Every row as (key, canonical JSON), keys ascending, of one moment: equal views give equal dumps.

        Opaque states are left out. With `positions=False` so is everything that depends on the order of arrival:
        positions, entry ids, received_at.
        """
        ...

    async def close(self) -> None: ...
