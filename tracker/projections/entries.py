"""A fact as one line of a timeline."""

from __future__ import annotations

from typing import Any

from tracker import facts as f
from tracker.projections.evidence import Evidence
from tracker.projections.rows import EntryRow

SHOWN = ("reason", "vendor_reason", "status", "mode", "duration_ms", "size_bytes", "url", "http_status", "label", "media",
           "platform", "location", "ip", "name", "publisher", "supervisor_client", "agent_client", "agent_session")  # fmt: skip


def kind_of(fact: f.Fact) -> str:
    """The timeline kind: the fact's tag."""
    return str(type(fact).__struct_config__.tag)


def subject_of(fact: f.Fact) -> tuple[str, str | None]:
    """What the entry is about: (type, vendor id)."""
    match fact:
        case f.ConnectionFact():
            return "participant", fact.identity or fact.connection
        case f.StreamFact():
            return "stream", fact.stream
        case f.SubscriptionFact():
            return "subscription", fact.stream
        case f.RecordingFact():
            return "recording", fact.recording
        case f.ActivityFact():
            return kind_of(fact).split(".")[0], fact.activity
        case f.NoteFact():
            return fact.subject_type, fact.subject_id
        case _:
            return "session", None


def actor_of(fact: f.Fact) -> str | None:
    """Who did it, where the vendor tells."""
    if fact.actor is not None:
        return fact.actor
    if isinstance(fact, f.ConnectionFact | f.StreamFact | f.ActivityFact):
        return fact.identity or (fact.connection if isinstance(fact, f.StreamFact) else None)
    return fact.connection if isinstance(fact, f.SubscriptionFact) else None


def entry(evidence: Evidence, session_id: str | None) -> EntryRow:
    """The timeline entry of a fact."""
    fact = evidence.fact
    detail: dict[str, Any] = {
        name: value for name in SHOWN if (value := getattr(fact, name, None)) is not None
    } | fact.detail  # fmt: skip
    subject_type, subject_id = subject_of(fact)
    if isinstance(fact, f.ConnectionFact) and fact.connection != fact.identity:
        detail["connection"] = fact.connection
    return EntryRow(
        id=f"{evidence.position}-{evidence.n}",
        session_id=session_id,
        position=evidence.position,
        n=evidence.n,
        at=fact.at,
        received_at=evidence.received_at,
        kind=kind_of(fact),
        subject_type=subject_type,
        subject_id=subject_id,
        actor=actor_of(fact),
        detail=detail,
        source=evidence.source,
        provenance="reported",
        clock=fact.clock,
        dedupe_key=evidence.key,
        hidden=isinstance(fact, f.RecordingFact) and fact.legacy,
    )
