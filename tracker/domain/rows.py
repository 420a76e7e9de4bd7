"""The rows of the read model: what the facts of one session add up to.

Times are µs UTC or None; durations are integer milliseconds. The order of fields is the order in answers.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from tracker.domain.facts import Clock, EndReason, EventCopy, Micros, Provenance

Completeness = Literal["complete", "repaired", "open"]


class End(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Why something ended, and how we know. `not_after` (µs): of an inferred end, when it was certainly over."""

    reason: EndReason
    vendor_reason: str | None
    provenance: Provenance
    not_after: Micros | None = None


class Anomaly(msgspec.Struct, frozen=True, kw_only=True, order=True, gc=False):
    """Something odd or missing. `position` is the record that shows it (None: no record).

    `kind`: see *anomaly* in docs/explanation/glossary.md.
    """

    kind: str
    position: int | None
    detail: str


class SessionRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One run of one room."""

    id: str
    source: str
    vendor: str
    room_id: str | None
    room_name: str | None
    vendor_ids: dict[str, list[str]]
    state: Literal["open", "ended"]
    created_at: Micros | None
    started_at: Micros | None
    ended_at: Micros | None
    duration_ms: int | None
    start_provenance: Provenance | None
    end: End | None
    participants: int
    peak_participants: int
    participant_ms: int
    recordings: int
    supervisors: int
    completeness: Completeness
    anomalies: list[Anomaly]
    first_position: int
    last_position: int
    last_event_at: Micros
    parent_id: str | None = None
    """Of a breakout room: the session it belongs to."""
    begins_at: Micros
    """The time that lists are ordered by: started_at, else created_at, else the earliest fact."""


class ParticipantRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A person in one session. `id` is unique in the session. `presence_ms`: duration of the union of the connections."""

    session_id: str
    id: str
    identity: str | None
    name: str | None
    kind: str
    connections: int
    first_joined_at: Micros | None
    last_left_at: Micros | None
    presence_ms: int


class ConnectionRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One join of one participant. `aborted`: it never became active."""

    session_id: str
    id: str
    participant: str
    joined_at: Micros | None
    left_at: Micros | None
    duration_ms: int | None
    join_provenance: Provenance | None
    leave: End | None
    aborted: bool
    platform: str | None
    location: str | None
    ip: str | None


class StreamRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Published media (`direction` "published"), or one participant receiving it ("received")."""

    session_id: str
    id: str
    direction: Literal["published", "received"]
    stream: str
    participant: str | None
    connection: str | None
    publisher: str | None
    media: str | None
    label: str | None
    started_at: Micros | None
    ended_at: Micros | None
    duration_ms: int | None
    start_provenance: Provenance | None
    end: End | None
    detail: dict[str, Any]


class RecordingRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One recording. `id` is unique within its session: `vendor_id`, with a number if another recording there has it, too."""

    id: str
    session_id: str
    vendor_id: str
    mode: str | None
    status: str
    upload_status: str | None
    upload_http_status: int | None
    started_at: Micros | None
    first_frame_at: Micros | None
    first_peerframe_at: Micros | None
    stopped_at: Micros | None
    duration_ms: int | None
    size_bytes: int | None
    url: str | None
    stop_reason: str | None
    start_provenance: Provenance | None
    stop_provenance: Provenance | None
    history: list[dict[str, Any]]
    """`{status, at (µs), position}` in order; each status once."""


class SupervisorSessionRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A supervisor listening to an agent's session."""

    id: str
    supervisor_client: str | None
    agent_session: str | None
    agent_client: str | None
    session_id: str
    started_at: Micros | None
    ended_at: Micros | None
    duration_ms: int | None
    start_provenance: Provenance | None
    provenance: Provenance | None
    """Of the end; of the start while it is open."""


class EntryRow(msgspec.Struct, frozen=True, gc=False):
    """A timeline entry. `id` is "{position}-{n}"; `session_id` is None for facts about the deployment."""

    id: str
    session_id: str | None
    position: int
    n: int
    at: Micros
    received_at: Micros | None
    """None for entries that no event reported (`provenance` derived or inferred)."""
    kind: str
    subject_type: str
    subject_id: str | None
    actor: str | None
    detail: dict[str, Any]
    source: str
    provenance: Provenance
    clock: Clock
    dedupe_key: str
    """Of the record, or what all copies of one event have in common."""
    hidden: bool
    """A legacy duplicate of another entry: stored, but not shown."""
    copy: EventCopy | None = None
    """Of the entries with equal keys only the one with the least damage is shown; None where there are no copies, and in rows
    that were read from the views."""


class SessionRows(msgspec.Struct, frozen=True, kw_only=True):
    """All rows of one session. Saving them replaces everything the views hold for `session.id` except its entries."""

    session: SessionRow
    lookups: tuple[str, ...]
    """The vendor ids that find this session: sessionId, uniqueSessionId, sid, room name, rec_id, client_id, egress id …"""
    participants: tuple[ParticipantRow, ...]
    connections: tuple[ConnectionRow, ...]
    streams: tuple[StreamRow, ...]
    recordings: tuple[RecordingRow, ...]
    supervisor_sessions: tuple[SupervisorSessionRow, ...]
    gaps: tuple[EntryRow, ...]
    """Timeline entries that no event reported. They come and go with the session; no live stream sends them."""
    state: bytes
    """The folded state, opaque to the views."""
    next_run_after: Micros = 0
    """These rows depend on when the first other run of the room began after this moment."""
