"""A fact as one line of a timeline."""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from tracker.domain import facts as f
from tracker.projections.sourced_fact import SourcedFact
from tracker.domain.rows import EntryRow

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


def render_entry(evidence: SourcedFact, session_id: str | None) -> EntryRow:
    """The timeline entry of a fact."""
    fact = evidence.fact
    shape = _shape(type(fact))
    detail: dict[str, Any] = {}
    for name in shape.shown:
        value = getattr(fact, name)
        if value is not None:
            detail[name] = value
    if fact.detail:
        detail.update(fact.detail)
    subject_id: str | None = None if shape.subject_id is None else getattr(fact, shape.subject_id)
    if isinstance(fact, f.ConnectionFact):
        subject_id = fact.identity or subject_id
        if fact.connection != fact.identity:
            detail["connection"] = fact.connection
    # By place: for so many fields it takes a fifth of the time, and there is one a fact.
    return EntryRow(
        f"{evidence.position}-{evidence.n}",
        session_id,
        evidence.position,
        evidence.n,
        fact.at,
        evidence.received_at,
        shape.kind,
        shape.subject or (fact.subject_type if isinstance(fact, f.NoteFact) else "session"),
        subject_id,
        _actor(fact, shape),
        detail,
        evidence.source,
        "reported",
        fact.clock,
        evidence.key,
        isinstance(fact, f.RecordingFact) and fact.legacy,
    )
