"""Fold facts into a session's state: one small function a family of facts, found by type.

Each function only takes claims in; nothing here looks at what was there before, which is what keeps order out of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from tracker.domain import facts as f
from tracker.projections.claims import Claim, is_final
from tracker.projections.sourced_fact import SourcedFact
from tracker.projections.state import MAX_IDS, SessionState

RECORDING_MARKS: dict[type[f.Fact], str] = {
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
ACTIVITIES: dict[type[f.Fact], tuple[str, bool]] = {
    f.BroadcastStarted: ("broadcast", True),
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


def fold(state: SessionState, evidence: SourcedFact) -> None:
    """Take one fact into the state of the session it was placed in."""
    fact = evidence.fact
    _fold_header(state, evidence)
    into = _into(type(fact))
    if into is not None:
        into(state, fact, evidence)


def _claim(
    evidence: SourcedFact,
    at: f.Micros,
    provenance: f.Provenance,
    *,
    reason: f.EndReason | None = None,
    vendor_reason: str | None = None,
) -> Claim:
    # What an event states about another moment (its start) is the sender's clock even when its own time is ours.
    clock = evidence.fact.clock if at == evidence.fact.at else "server"
    return Claim(at, provenance, clock, evidence.key, evidence.n, evidence.position, reason, vendor_reason)


def _fold_header(state: SessionState, evidence: SourcedFact) -> None:
    fact = evidence.fact
    place, position, at = fact.place, evidence.position, fact.at
    state.last_position = max(state.last_position, position)
    if not state.first_position or position < state.first_position:
        state.first_position = position
    if fact.clock != "client":
        state.last_at = max(state.last_at, at)
        if not state.first_at or at < state.first_at:
            state.first_at = at
    for kind, detail in fact.anomalies:
        state.add_anomaly(kind, detail, evidence.key, position)
    if place is None:
        return
    state.lifetime.set_values(at, evidence.key, room=place.room, room_name=place.room_name)
    for name, value in place.ids:
        held = state.ids.get(name)
        if held is None:
            state.ids[name] = {value}
        elif value not in held:
            held.add(value)
            if len(held) > MAX_IDS:
                held.remove(max(held))
    if place.starts_at is not None and not (state.lifetime.start is not None and is_final(state.lifetime.start)):
        state.lifetime.claim_start(_claim(evidence, place.starts_at, "derived"))


def _session(state: SessionState, fact: f.SessionFact, evidence: SourcedFact) -> None:
    if isinstance(fact, f.SessionCreated):
        claim = _claim(evidence, fact.started_at or fact.at, "reported")
        held = state.created
        if held is None or (claim.at, claim.key, claim.n) < (held.at, held.key, held.n):
            state.created = claim
    elif isinstance(fact, f.SessionStarted):
        state.lifetime.claim_start(_claim(evidence, fact.started_at or fact.at, "reported"))
    elif isinstance(fact, f.SessionEnded):
        if fact.started_at is not None:
            state.lifetime.claim_start(_claim(evidence, fact.started_at, "derived"))
        state.lifetime.claim_end(
            _claim(evidence, fact.at, "reported", reason=fact.reason or "unknown", vendor_reason=fact.vendor_reason)
        )
    elif fact.started_at is not None:
        state.lifetime.claim_start(_claim(evidence, fact.started_at, "derived"))
    _sign_of_life(state, fact, evidence)


def _sign_of_life(state: SessionState, fact: f.Fact, evidence: SourcedFact) -> None:
    if isinstance(fact, f.SessionFact) or fact.clock != "server":
        return
    held = state.last_activity
    # The latest one; of one moment that with the smaller key.
    if held is None or fact.at > held.at or (fact.at == held.at and evidence.key < held.key):
        state.last_activity = _claim(evidence, fact.at, "reported")


def _connection(state: SessionState, fact: f.ConnectionFact, evidence: SourcedFact) -> None:
    key = f"{fact.connection}@{fact.joined_at or ''}" if fact.keyed_by_join else fact.connection
    interval = state.interval("connection", key)

    interval.set_values(
        fact.at,
        evidence.key,
        id=fact.connection,
        identity=fact.identity,
        name=fact.name,
        person=fact.person if fact.person != "standard" or isinstance(fact, f.ParticipantJoined) else None,
        platform=fact.platform,
        location=fact.location,
        ip=fact.ip,
    )
    if isinstance(fact, f.ParticipantJoined):
        interval.claim_start(_claim(evidence, fact.joined_at or fact.at, "reported"))
    else:
        if fact.joined_at is not None:
            interval.claim_start(_claim(evidence, fact.joined_at, "derived"))
        interval.claim_end(
            _claim(evidence, fact.at, "reported", reason=fact.reason or "unknown", vendor_reason=fact.vendor_reason)
        )
        if isinstance(fact, f.ParticipantConnectionAborted):
            interval.set_value("aborted", True, fact.at, evidence.key)
    _sign_of_life(state, fact, evidence)


def _stream(state: SessionState, fact: f.StreamFact, evidence: SourcedFact) -> None:
    started = fact.started_at or (fact.at if isinstance(fact, f.StreamPublished) else None)
    interval = state.interval("stream", f"{fact.stream}@{started or ''}" if fact.keyed_by_start else fact.stream)
    interval.set_values(
        fact.at, evidence.key, stream=fact.stream, connection=fact.connection, identity=fact.identity, media=fact.media,
        label=fact.label, detail=fact.detail or None,
    )  # fmt: skip
    if isinstance(fact, f.StreamPublished):
        interval.claim_start(_claim(evidence, fact.started_at or fact.at, "reported"))
    else:
        if fact.started_at is not None:
            interval.claim_start(_claim(evidence, fact.started_at, "derived"))
        interval.claim_end(
            _claim(evidence, fact.at, "reported", reason=fact.reason or "unknown", vendor_reason=fact.vendor_reason)
        )
    _sign_of_life(state, fact, evidence)


def _subscription(state: SessionState, fact: f.SubscriptionFact, evidence: SourcedFact) -> None:
    begins = isinstance(fact, f.SubscriptionStarted)
    started = fact.started_at or (fact.at if begins else None)
    interval = state.interval("subscription", f"{fact.connection}<{fact.stream}@{started or ''}")
    interval.set_values(fact.at, evidence.key, stream=fact.stream, connection=fact.connection, publisher=fact.publisher)
    if begins:
        interval.claim_start(_claim(evidence, fact.started_at or fact.at, "reported"))
    else:
        if fact.started_at is not None:
            interval.claim_start(_claim(evidence, fact.started_at, "derived"))
        interval.claim_end(
            _claim(evidence, fact.at, "reported", reason=fact.reason or "unknown", vendor_reason=fact.vendor_reason)
        )
    _sign_of_life(state, fact, evidence)


def _recording(state: SessionState, fact: f.RecordingFact, evidence: SourcedFact) -> None:
    key = f"{fact.recording}@{fact.started_at}" if fact.keyed_by_start and fact.started_at else fact.recording
    interval = state.interval("recording", key)
    interval.set_values(
        fact.at, evidence.key, id=fact.recording, mode=fact.mode, url=fact.url, http_status=fact.http_status,
        first_frame_at=fact.first_frame_at, first_peerframe_at=fact.first_peerframe_at, duration_ms=fact.duration_ms,
        size_bytes=fact.size_bytes, vendor_reason=fact.vendor_reason, current=None if fact.legacy else True,
        alias=fact.alias, nameless=fact.nameless or None,
    )  # fmt: skip
    mark = RECORDING_MARKS[type(fact)]
    interval.set_status(mark, _claim(evidence, fact.at, "reported"))
    if mark == "started":
        interval.claim_start(_claim(evidence, fact.started_at or fact.at, "reported"))
    elif fact.started_at is not None:
        interval.claim_start(_claim(evidence, fact.started_at, "derived"))
    if mark == "stopped":
        interval.claim_end(
            _claim(
                evidence, fact.stopped_at or fact.at, "reported", reason=fact.reason, vendor_reason=fact.vendor_reason
            )
        )
    elif fact.stopped_at is not None or mark in {"ready", "failed", "aborted", "limit_reached", "uploaded"}:
        interval.claim_end(
            _claim(
                evidence, fact.stopped_at or fact.at, "derived", reason=fact.reason, vendor_reason=fact.vendor_reason
            )
        )


def _activity(state: SessionState, fact: f.ActivityFact, evidence: SourcedFact) -> None:
    kind, begins = ACTIVITIES[type(fact)]
    interval = state.interval(kind, fact.activity)
    interval.set_values(fact.at, evidence.key, id=fact.activity, identity=fact.identity)
    if isinstance(fact, f.SupervisorFact):
        interval.set_values(
            fact.at, evidence.key, supervisor_client=fact.supervisor_client, agent_client=fact.agent_client,
            agent_session=fact.agent_session,
        )  # fmt: skip
    if begins:
        interval.claim_start(_claim(evidence, fact.started_at or fact.at, "reported"))
        return
    if fact.started_at is not None:
        interval.claim_start(_claim(evidence, fact.started_at, "derived"))
    interval.claim_end(
        _claim(evidence, fact.at, "reported", reason=fact.reason or "unknown", vendor_reason=fact.vendor_reason)
    )


def _note(state: SessionState, fact: f.NoteFact, evidence: SourcedFact) -> None:
    if isinstance(fact, f.NodeCrashed):
        state.lifetime.claim_end(
            _claim(evidence, fact.at, "inferred", reason="server_failure", vendor_reason="nodeCrashed")
        )
    elif isinstance(fact, f.AnalyticsReady):
        # Analytics are made when a run is over: no later than this, if nothing better is known.
        state.lifetime.claim_end(_claim(evidence, fact.at, "inferred", reason="inferred"))


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
def _into(of: type[f.Fact]) -> Callable[[SessionState, f.Fact, SourcedFact], None] | None:
    return next((into for family, into in FAMILIES if issubclass(of, family)), None)
