"""Fold facts into the state of a session: one function for each family of facts.

Each function only adds claims and statements to the state. None decides by what arrived before, so order does not matter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from tracker.domain import facts as f
from tracker.projections.claims import Claim, is_final
from tracker.projections.ids import interval_key
from tracker.projections.restarts import server_of
from tracker.projections.sourced_fact import SourcedFact
from tracker.projections.state import MAX_IDS, Interval, SessionState

RECORDING_STATUSES: dict[type[f.Fact], str] = {
    f.RecordingStarted: "started",
    f.RecordingProcessing: "processing",
    f.RecordingStopped: "stopped",
    f.RecordingAborted: "aborted",
    f.RecordingLimitReached: "limit_reached",
    f.RecordingFailed: "failed",
    f.RecordingReady: "ready",
    f.RecordingUploaded: "uploaded",
    f.RecordingUploadFailed: "upload_failed",
}
"""The status a recording has after each fact."""
ACTIVITIES: dict[type[f.Fact], tuple[str, bool]] = {
    f.BroadcastStarted: ("broadcast", True),
    f.BroadcastUpdated: ("broadcast", False),
    f.BroadcastStopped: ("broadcast", False),
    f.IngressStarted: ("ingress", True),
    f.IngressEnded: ("ingress", False),
    f.TranscriptionStarted: ("transcription", True),
    f.TranscriptionEnded: ("transcription", False),
    f.AgentJobStarted: ("agent_job", True),
    f.AgentJobEnded: ("agent_job", False),
    f.SupervisorSessionStarted: ("supervisor_session", True),
    f.SupervisorSessionEnded: ("supervisor_session", False),
}
"""The kind of interval each fact belongs to, and whether the fact begins it."""
_NO_LIFE = (
    f.SessionEnded, f.ParticipantAttended, f.RecordingProcessing, f.RecordingReady, f.RecordingFailed, f.RecordingAborted, f.RecordingUploaded,
    f.RecordingUploadFailed, f.ArtifactCreated, f.AnalyticsReady, f.TranscriptionUsage, f.NodeCrashed, f.NodeRecovered,
    f.NodeStatus, f.Test, f.Unknown,
)  # fmt: skip
"""What also happens after a session is over."""


@functools.cache
def _is_life(fact: type[f.Fact]) -> bool:
    return not issubclass(fact, _NO_LIFE)


_NAMES_PERSON = (f.ParticipantJoined, f.ParticipantAttended)
"""Facts that say what kind of participant somebody is, also where that is the usual kind."""


def fold(state: SessionState, item: SourcedFact) -> None:
    """Fold a fact into the state of its session. Folding a fact again changes nothing."""
    _fold_common(state, item)
    folder = _folder(type(item.fact))
    if folder is not None:
        folder(state, item.fact, item)


def _claim(
    item: SourcedFact,
    at: f.Micros,
    provenance: f.Provenance,
    *,
    reason: f.EndReason | None = None,
    vendor_reason: str | None = None,
) -> Claim:
    # A moment that an event states (its start) is by the sender's clock, even if the event's own time is by the receiver's.
    clock = item.fact.clock if at == item.fact.at else "server"
    return Claim(at, provenance, clock, item.key, item.n, item.position, reason, vendor_reason)


def _stated_at(fact: f.Fact) -> f.Micros:
    """When a fact states its properties. Before all times where an encoding damaged its texts: readable ones win."""
    return fact.at if fact.copy is None or not fact.copy.damage else -fact.copy.damage


def _claim_begin(interval: Interval, item: SourcedFact, started_at: f.Micros | None) -> None:
    interval.claim_start(_claim(item, started_at or item.fact.at, "reported"))


def _claim_end(
    interval: Interval, item: SourcedFact, started_at: f.Micros | None, reason: f.EndReason | None, vendor: str | None
) -> None:
    """The end that an event reports, and the start that it states."""
    if started_at is not None:
        interval.claim_start(_claim(item, started_at, "derived"))
    interval.claim_end(_claim(item, item.fact.at, "reported", reason=reason or "unknown", vendor_reason=vendor))


def _claim_span(
    interval: Interval, item: SourcedFact, fact: f.StreamFact | f.SubscriptionFact | f.ActivityFact, *, begins: bool
) -> None:
    if begins:
        _claim_begin(interval, item, fact.started_at)
    else:
        _claim_end(interval, item, fact.started_at, fact.reason, fact.vendor_reason)


def _fold_common(state: SessionState, item: SourcedFact) -> None:
    """Fold what all facts have in common."""
    fact = item.fact
    place, position, at = fact.place, item.position, fact.at
    if position > state.last_position or (position == state.last_position and item.n < state.last_n):
        state.last_position, state.last_n = position, item.n
    if not state.first_position or position < state.first_position:
        state.first_position, state.vendor = position, item.vendor
    clock = fact.clock
    if clock != "client":
        state.last_at = max(state.last_at, at)
        if not state.first_at or at < state.first_at:
            state.first_at = at
    if clock == "server" and at > state.last_life and _is_life(type(fact)):
        state.last_life = at
    for kind, detail in fact.anomalies:
        state.add_anomaly(kind, detail, item.key, position)
    if fact.server_run is not None:
        state.servers.add(server_of(fact.server_run))
    if place is None:
        return
    state.lifetime.set_values(at, item.key, room=place.room, room_name=place.room_name, parent=place.parent)
    for name, value in place.ids:
        held = state.ids.get(name)
        if held is None:
            state.ids[name] = {value}
        elif value not in held:
            held.add(value)
            if len(held) > MAX_IDS:
                held.remove(max(held))
    if place.starts_at is not None and not (state.lifetime.start is not None and is_final(state.lifetime.start)):
        state.lifetime.claim_start(_claim(item, place.starts_at, "derived"))


def _session(state: SessionState, fact: f.SessionFact, item: SourcedFact) -> None:
    if isinstance(fact, f.SessionCreated):
        claim = _claim(item, fact.started_at or fact.at, "reported")
        held = state.created
        if held is None or (claim.at, claim.key, claim.n) < (held.at, held.key, held.n):
            state.created = claim
    elif isinstance(fact, f.SessionStarted):
        _claim_begin(state.lifetime, item, fact.started_at)
    elif isinstance(fact, f.SessionEnded):
        _claim_end(state.lifetime, item, fact.started_at, fact.reason, fact.vendor_reason)
        if fact.clock == "server":
            state.first_end = fact.at if state.first_end is None else min(state.first_end, fact.at)
    else:
        if fact.started_at is not None:
            state.lifetime.claim_start(_claim(item, fact.started_at, "derived"))
        announcement = state.interval("announcement", f"{item.key}#{item.n}")
        announcement.claim_start(_claim(item, fact.at, "reported"))
        if isinstance(fact, f.SessionResumed) and fact.may_be_first:
            announcement.set_values(fact.at, item.key, hidden=True)


def _note_activity(state: SessionState, fact: f.Fact, item: SourcedFact) -> None:
    if fact.clock != "server":
        return
    held = state.last_activity
    # The latest one; of those at the same moment, the one with the smaller key.
    if held is None or fact.at > held.at or (fact.at == held.at and item.key < held.key):
        state.last_activity = _claim(item, fact.at, "reported")


def _visit(state: SessionState, fact: f.ConnectionFact, item: SourcedFact) -> None:
    """A join or a leave of a connection whose id may be used again: each is an interval, paired when the session is rendered."""
    is_summary = isinstance(fact, f.ParticipantAttended)
    provenance: f.Provenance = "derived" if is_summary else "reported"
    joined = fact.joined_at if is_summary else fact.at if isinstance(fact, f.ParticipantJoined) else None
    left = fact.left_at if isinstance(fact, f.ParticipantAttended) else None if joined is not None else fact.at
    for what, at in (("join", joined), ("leave", left)):
        if at is None:
            continue
        piece = state.interval("visit", interval_key(fact.connection or "", fact.identity or "", what, at, provenance))
        piece.set_values(
            _stated_at(fact), item.key, id=fact.connection or None, identity=fact.identity, name=fact.name, person=fact.person,
            platform=fact.platform, location=fact.location, ip=fact.ip,
        )  # fmt: skip
        if what == "join":
            piece.claim_start(_claim(item, at, provenance))
        else:
            reason = fact.reason or "unknown"
            piece.claim_end(_claim(item, at, provenance, reason=reason, vendor_reason=fact.vendor_reason))
    if not is_summary:
        _note_activity(state, fact, item)


def _connection(state: SessionState, fact: f.ConnectionFact, item: SourcedFact) -> None:
    if fact.reuses_id:
        _visit(state, fact, item)
        return
    by_join = (fact.joined_at or "",) if fact.keyed_by_join else ()
    # A vendor that keys by join names the person in every event, except where the event has no id: then the id is made up.
    made_up = ("",) if fact.keyed_by_join and fact.identity is None else ()
    interval = state.interval("connection", interval_key(fact.connection, *by_join, *made_up))
    interval.set_values(
        _stated_at(fact),
        item.key,
        id=fact.connection,
        identity=fact.identity,
        name=fact.name,
        person=fact.person if fact.person != "standard" or isinstance(fact, _NAMES_PERSON) else None,
        platform=fact.platform,
        location=fact.location,
        ip=fact.ip,
    )
    if isinstance(fact, f.ParticipantAttended):
        if fact.joined_at is not None:
            interval.claim_start(_claim(item, fact.joined_at, "derived"))
        if fact.left_at is not None:
            end = _claim(
                item, fact.left_at, "derived", reason=fact.reason or "unknown", vendor_reason=fact.vendor_reason
            )
            interval.claim_end(end)
        return
    if isinstance(fact, f.ParticipantJoined):
        _claim_begin(interval, item, fact.joined_at)
    else:
        _claim_end(interval, item, fact.joined_at, fact.reason, fact.vendor_reason)
        if isinstance(fact, f.ParticipantConnectionAborted):
            interval.set_values(fact.at, item.key, aborted=True)
    _note_activity(state, fact, item)


def _stream(state: SessionState, fact: f.StreamFact, item: SourcedFact) -> None:
    begins = isinstance(fact, f.StreamPublished)
    started = fact.started_at or (fact.at if begins else None)
    by_start = (fact.connection or "", started or "") if fact.keyed_by_start else ()
    interval = state.interval("stream", interval_key(fact.stream, *by_start))
    interval.set_values(
        fact.at, item.key, stream=fact.stream, connection=fact.connection, identity=fact.identity, media=fact.media,
        label=fact.label, detail=fact.detail or None,
    )  # fmt: skip
    _claim_span(interval, item, fact, begins=begins)
    _note_activity(state, fact, item)


def _subscription(state: SessionState, fact: f.SubscriptionFact, item: SourcedFact) -> None:
    begins = isinstance(fact, f.SubscriptionStarted)
    started = fact.started_at or (fact.at if begins else None)
    interval = state.interval("subscription", interval_key(fact.connection, fact.stream, started or ""))
    interval.set_values(fact.at, item.key, stream=fact.stream, connection=fact.connection, publisher=fact.publisher)
    _claim_span(interval, item, fact, begins=begins)
    _note_activity(state, fact, item)


def _recording(state: SessionState, fact: f.RecordingFact, item: SourcedFact) -> None:
    by_start = ("nameless",) if fact.nameless else (fact.started_at or "",) if fact.keyed_by_start else ()
    interval = state.interval("recording", interval_key(fact.recording, *by_start))
    interval.set_values(
        fact.at, item.key, id=fact.recording, mode=fact.mode, url=fact.url, http_status=fact.http_status,
        first_frame_at=fact.first_frame_at, first_peerframe_at=fact.first_peerframe_at, duration_ms=fact.duration_ms,
        size_bytes=fact.size_bytes, vendor_reason=fact.vendor_reason, current=None if fact.legacy else True,
        alias=fact.alias, nameless=fact.nameless or None,
    )  # fmt: skip
    status = RECORDING_STATUSES[type(fact)]
    interval.set_status(status, _claim(item, fact.at, "reported"))
    if status == "started":
        _claim_begin(interval, item, fact.started_at)
    elif fact.started_at is not None:
        interval.claim_start(_claim(item, fact.started_at, "derived"))
    is_over = fact.stopped_at is not None or status in {"ready", "failed", "aborted", "limit_reached", "uploaded"}
    if status == "stopped" or is_over:
        provenance: f.Provenance = "reported" if status == "stopped" else "derived"
        at = fact.stopped_at or fact.at
        interval.claim_end(_claim(item, at, provenance, reason=fact.reason, vendor_reason=fact.vendor_reason))


def _activity(state: SessionState, fact: f.ActivityFact, item: SourcedFact) -> None:
    kind, begins = ACTIVITIES[type(fact)]
    interval = state.interval(kind, fact.activity)
    interval.set_values(fact.at, item.key, id=fact.activity, identity=fact.identity)
    if isinstance(fact, f.SupervisorFact):
        interval.set_values(
            fact.at, item.key, supervisor_client=fact.supervisor_client, agent_client=fact.agent_client,
            agent_session=fact.agent_session,
        )  # fmt: skip
    if not isinstance(fact, f.BroadcastUpdated):
        _claim_span(interval, item, fact, begins=begins)
        return
    if fact.started_at is not None:
        interval.claim_start(_claim(item, fact.started_at, "derived"))
    if fact.ending:
        interval.claim_end(_claim(item, fact.at, "derived", reason="unknown"))


def _note(state: SessionState, fact: f.NoteFact, item: SourcedFact) -> None:
    if isinstance(fact, f.NodeCrashed):
        end = _claim(item, fact.at, "inferred", reason="server_failure", vendor_reason="nodeCrashed")
        state.lifetime.claim_end(end)
    elif isinstance(fact, f.AnalyticsReady) and fact.ended_at is not None:
        state.lifetime.claim_end(_claim(item, fact.ended_at, "derived", reason="unknown"))
    elif isinstance(fact, f.AnalyticsReady):
        # Analytics are made after a run is over, so it ended no later than this.
        state.lifetime.claim_end(_claim(item, fact.at, "inferred", reason="inferred"))


FAMILIES: tuple[tuple[type[f.Fact], Callable[[SessionState, f.Fact, SourcedFact], None]], ...] = (
    (f.ConnectionFact, _connection),
    (f.StreamFact, _stream),
    (f.SubscriptionFact, _subscription),
    (f.RecordingFact, _recording),
    (f.ActivityFact, _activity),
    (f.SessionFact, _session),
    (f.NoteFact, _note),
)  # pyright: ignore[reportAssignmentType] - each function is only called with its family


@functools.cache
def _folder(fact: type[f.Fact]) -> Callable[[SessionState, f.Fact, SourcedFact], None] | None:
    return next((folder for family, folder in FAMILIES if issubclass(fact, family)), None)
