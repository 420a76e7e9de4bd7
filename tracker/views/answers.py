"""The structs that encode every JSON answer; openapi.json is generated from them.

Times are RFC 3339 in UTC with milliseconds and `Z`, null when unknown; durations are whole milliseconds. Field
names never change.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec

from tracker.domain.facts import Clock, EndReason, Micros, Provenance
from tracker.domain.rows import Anomaly, Completeness

Item = TypeVar("Item")

Time = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time", "examples": ["2026-03-01T09:30:00.000Z"]})]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Page(msgspec.Struct, Generic[Item], frozen=True):
    """One page of a list. `next` is the `cursor` of the following page, null at the end."""

    items: list[Item]
    next: str | None


class Room(msgspec.Struct, frozen=True):
    """A reusable name."""

    id: str | None
    name: str | None


class End(msgspec.Struct, frozen=True, kw_only=True):
    """Why something ended, and how we know. Only an inferred end has `not_after`: it was over by then, null if unknown."""

    reason: EndReason
    vendor_reason: str | None
    provenance: Provenance
    not_after: Time | msgspec.UnsetType | None = msgspec.UNSET


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one room."""

    id: str
    source: str
    vendor: str
    room: Room
    vendor_ids: dict[str, list[str]]
    state: Literal["open", "ended"]
    stuck: bool
    created_at: Time | None
    started_at: Time | None
    ended_at: Time | None
    duration_ms: int | None
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
    last_event_at: Time | None
    parent_id: str | None


class Subject(msgspec.Struct, frozen=True):
    """What an entry is about: a participant, a stream, a recording, … and the vendor's id of it."""

    type: str
    id: str | None


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a timeline."""

    id: str
    session_id: str | None
    position: int
    at: Time | None
    received_at: Time | None
    kind: str
    subject: Subject
    actor: str | None
    detail: dict[str, Any]
    source: str
    provenance: Provenance
    clock: Clock


class Participant(msgspec.Struct, frozen=True, kw_only=True):
    """A person in one session; `presence_ms` is the union of the connections."""

    id: str
    identity: str | None
    name: str | None
    kind: str
    connections: int
    first_joined_at: Time | None
    last_left_at: Time | None
    presence_ms: int


class Appearance(msgspec.Struct, frozen=True, kw_only=True):
    """A participant and the session they were in."""

    session_id: str
    id: str
    identity: str | None
    name: str | None
    kind: str
    connections: int
    first_joined_at: Time | None
    last_left_at: Time | None
    presence_ms: int


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """One join of one participant. `aborted`: it never became active and counts in no head count."""

    id: str
    participant: str
    joined_at: Time | None
    left_at: Time | None
    duration_ms: int | None
    join_provenance: Provenance | None
    leave: End | None
    aborted: bool
    platform: str | None
    location: str | None
    ip: str | None


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """Published media, or one participant receiving it (`direction` "received")."""

    id: str
    direction: Literal["published", "received"]
    stream: str
    participant: str | None
    connection: str | None
    publisher: str | None
    media: str | None
    label: str | None
    started_at: Time | None
    ended_at: Time | None
    duration_ms: int | None
    start_provenance: Provenance | None
    end: End | None
    detail: dict[str, Any]


class Upload(msgspec.Struct, frozen=True):
    """How the upload of a recording went."""

    status: str | None
    http_status: int | None


class RecordingStatus(msgspec.Struct, frozen=True):
    """A status of a recording, since when, and the position of the record that reported it."""

    status: str
    at: Time | None
    position: int | None


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """One recording. `first_peerframe_at` is the client's clock and orders nothing."""

    id: str
    session_id: str
    vendor_id: str
    mode: str | None
    status: str
    upload: Upload
    started_at: Time | None
    first_frame_at: Time | None
    first_peerframe_at: Time | None
    stopped_at: Time | None
    duration_ms: int | None
    size_bytes: int | None
    url: str | None
    stop_reason: str | None
    start_provenance: Provenance | None
    stop_provenance: Provenance | None
    history: list[RecordingStatus]


class Supervisor(msgspec.Struct, frozen=True):
    """The supervisor who listens."""

    client_id: str | None


class Agent(msgspec.Struct, frozen=True):
    """The agent who is listened to, and their session."""

    session_id: str | None
    client_id: str | None


class SupervisorSession(msgspec.Struct, frozen=True, kw_only=True):
    """A supervisor listening to an agent's session. `provenance` is that of the end; while it runs, of the start."""

    id: str
    supervisor: Supervisor
    agent: Agent
    session_id: str
    started_at: Time | None
    ended_at: Time | None
    duration_ms: int | None
    provenance: Provenance | None


class RoomSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One room of one source, and its sessions."""

    source: str
    room: Room
    sessions: int
    open: int
    first_session_at: Time | None
    last_session_at: Time | None


class RawRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the log holds at one position.

    `body` is its text, null where it is not UTF-8 or (in lists) long: `body_url` has the exact bytes.
    """

    position: int
    source: str
    vendor: str
    event: str
    dedupe_key: str
    received_at: Time | None
    origin: Literal["webhook", "import", "observation"]
    proof: Any
    size_bytes: int
    sessions: list[str]
    body_url: str
    body: str | None
    erased_by: int | None


class DayStats(msgspec.Struct, frozen=True, kw_only=True):
    """The sessions that started on one day (UTC)."""

    day: Annotated[str, msgspec.Meta(extra_json_schema={"format": "date"})]
    sessions: int
    participants: int
    participant_ms: int
    recordings: int


class SourceStats(msgspec.Struct, frozen=True, kw_only=True):
    """One source: sessions that started in the period, and those open now."""

    source: str
    vendor: str
    sessions: int
    open: int
    last_received_at: Time | None


class Peak(msgspec.Struct, frozen=True):
    """The most concurrent sessions, and since when."""

    sessions: int
    at: Time | None


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """`open` is now; everything else counts the sessions that started in the period."""

    open: int
    sessions: int
    days: list[DayStats]
    peak: Peak
    sources: list[SourceStats]


class Alive(msgspec.Struct, frozen=True):
    """The process is running."""

    alive: bool


class Readiness(msgspec.Struct, frozen=True):
    """Whether this server should get traffic, and why not."""

    ready: bool
    reasons: list[str]


def time_of(micros: Micros | None) -> str | None:
    """µs since the epoch as RFC 3339 with milliseconds; None if out of the calendar's range."""
    if micros is None:
        return None
    try:
        return (_EPOCH + dt.timedelta(microseconds=micros)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except OverflowError:
        return None
