"""A fact as one line of a timeline."""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from tracker import facts as f
from tracker.projections.evidence import Evidence
from tracker.projections.rows import EntryRow

SHOWN = ("reason", "vendor_reason", "status", "mode", "duration_ms", "size_bytes", "url", "http_status", "label", "media",
           "platform", "location", "ip", "name", "publisher", "supervisor_client", "agent_client", "agent_session")  # fmt: skip


class _Shape(msgspec.Struct, frozen=True):
    """What all facts of one type have in common: looked up once a type, not once a fact."""

    kind: str
    subject: str | None
    """The subject's type; None where the fact itself says (notes)."""
    subject_id: str | None
    """The field that holds the subject's id."""
    actors: tuple[str, ...]
    """The fields that may name who did it, the surest first."""
    shown: tuple[str, ...]


@functools.cache
def _shape(of: type[f.Fact]) -> _Shape:
    kind = str(of.__struct_config__.tag)
    subject, subject_id, actors = _about(of, kind)
    names = {field.name for field in msgspec.structs.fields(of)}
    return _Shape(
        kind=kind,
        subject=subject,
        subject_id=subject_id,
        actors=actors,
        shown=tuple(name for name in SHOWN if name in names),
    )


def _about(of: type[f.Fact], kind: str) -> tuple[str | None, str | None, tuple[str, ...]]:
    if issubclass(of, f.ConnectionFact):
        return "participant", "connection", ("identity",)
    if issubclass(of, f.StreamFact):
        return "stream", "stream", ("identity", "connection")
    if issubclass(of, f.SubscriptionFact):
        return "subscription", "stream", ("connection",)
    if issubclass(of, f.RecordingFact):
        return "recording", "recording", ()
    if issubclass(of, f.ActivityFact):
        return kind.split(".", maxsplit=1)[0], "activity", ("identity",)
    if issubclass(of, f.NoteFact):
        return None, "subject_id", ()
    return "session", None, ()


def _actor(fact: f.Fact, shape: _Shape) -> str | None:
    """Who did it, where the vendor tells."""
    if fact.actor is not None:
        return fact.actor
    for name in shape.actors:
        actor: str | None = getattr(fact, name)
        if actor:
            return actor
    return None


def entry(evidence: Evidence, session_id: str | None) -> EntryRow:
    """The timeline entry of a fact."""
    fact = evidence.fact
    shape = _shape(type(fact))
    detail: dict[str, Any] = {}
    for name in shape.shown:
        value = getattr(fact, name)
        if value is not None:
            detail[name] = value
    detail.update(fact.detail)
    subject_id: str | None = None if shape.subject_id is None else getattr(fact, shape.subject_id)
    if isinstance(fact, f.ConnectionFact):
        subject_id = fact.identity or subject_id
        if fact.connection != fact.identity:
            detail["connection"] = fact.connection
    return EntryRow(
        id=f"{evidence.position}-{evidence.n}",
        session_id=session_id,
        position=evidence.position,
        n=evidence.n,
        at=fact.at,
        received_at=evidence.received_at,
        kind=shape.kind,
        subject_type=fact.subject_type if isinstance(fact, f.NoteFact) else shape.subject or "session",
        subject_id=subject_id,
        actor=_actor(fact, shape),
        detail=detail,
        source=evidence.source,
        provenance="reported",
        clock=fact.clock,
        dedupe_key=evidence.key,
        hidden=isinstance(fact, f.RecordingFact) and fact.legacy,
    )
