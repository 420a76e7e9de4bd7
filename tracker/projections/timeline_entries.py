"""Renders a fact as a timeline entry."""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from tracker.domain import facts as f
from tracker.projections.sourced_fact import SourcedFact
from tracker.domain.rows import EntryRow

DETAIL_FIELDS = ("reason", "vendor_reason", "status", "mode", "duration_ms", "size_bytes", "url", "http_status", "label", "media",
           "platform", "location", "ip", "name", "publisher", "supervisor_client", "agent_client", "agent_session")  # fmt: skip
"""The fields of facts that an entry shows as detail."""


class _Shape(msgspec.Struct, frozen=True):
    """What all facts of one type have in common. It is looked up once for each type, not for each fact."""

    kind: str
    subject: str | None
    """The subject's type; None if the fact states it (notes)."""
    subject_id: str | None
    """The field that holds the subject's id."""
    actors: tuple[str, ...]
    """The fields that may name the actor, the most reliable first."""
    shown: tuple[str, ...]


@functools.cache
def _shape(fact_type: type[f.Fact]) -> _Shape:
    kind = str(fact_type.__struct_config__.tag)
    subject, subject_id, actors = _about(fact_type, kind)
    names = {field.name for field in msgspec.structs.fields(fact_type)}
    return _Shape(
        kind=kind,
        subject=subject,
        subject_id=subject_id,
        actors=actors,
        shown=tuple(name for name in DETAIL_FIELDS if name in names),
    )


def _about(fact_type: type[f.Fact], kind: str) -> tuple[str | None, str | None, tuple[str, ...]]:
    if issubclass(fact_type, f.ConnectionFact):
        return "participant", "connection", ("identity",)
    if issubclass(fact_type, f.StreamFact):
        return "stream", "stream", ("identity", "connection")
    if issubclass(fact_type, f.SubscriptionFact):
        return "subscription", "stream", ("connection",)
    if issubclass(fact_type, f.RecordingFact):
        return "recording", "recording", ()
    if issubclass(fact_type, f.ActivityFact):
        return kind.split(".", maxsplit=1)[0], "activity", ("identity",)
    if issubclass(fact_type, f.NoteFact):
        return None, "subject_id", ()
    return "session", None, ()


def _actor(fact: f.Fact, shape: _Shape) -> str | None:
    """Who did it, if the vendor says so."""
    if fact.actor is not None:
        return fact.actor
    for name in shape.actors:
        actor: str | None = getattr(fact, name)
        if actor:
            return actor
    return None


def _is_hidden(fact: f.Fact) -> bool:
    """Whether only the rows of the session say what this fact was: see `gaps`."""
    if isinstance(fact, f.RecordingFact):
        return fact.legacy
    return isinstance(fact, f.ParticipantAttended) or (isinstance(fact, f.SessionResumed) and fact.may_be_first)


def render_entry(item: SourcedFact, session_id: str | None) -> EntryRow:
    """The timeline entry of a fact."""
    fact = item.fact
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
    # Positional arguments: for this many fields they take a fifth of the time, and every fact makes an entry.
    return EntryRow(
        f"{item.position}-{item.n}",
        session_id,
        item.position,
        item.n,
        fact.at,
        item.received_at,
        shape.kind,
        shape.subject or (fact.subject_type if isinstance(fact, f.NoteFact) else "session"),
        subject_id,
        _actor(fact, shape),
        detail,
        item.source,
        "reported",
        fact.clock,
        item.key if fact.copy is None else fact.copy.key,
        _is_hidden(fact),
        fact.copy,
    )
