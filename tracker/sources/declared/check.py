"""What a declaration makes of one body, in words: for `tracker sources check`."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from tracker.domain.deliveries import Record
from tracker.domain.facts import Fact
from tracker.domain.record_json import format_micros
from tracker.sources.declared.bodies import events_in
from tracker.sources.declared.declaration import Declaration
from tracker.sources.declared.events import interpret
from tracker.sources.declared.paths import Part
from tracker.sources.declared.source import names_of
from tracker.sources.json_reading import BodyUnreadable

_ABOUT = (
    "connection",
    "identity",
    "name",
    "person",
    "stream",
    "recording",
    "activity",
    "reason",
    "duration_ms",
    "subject_id",
)
_ARRIVAL = 1
"""A time of arrival that nobody takes for a real one, µs."""


class CheckedFact(msgspec.Struct, frozen=True):
    """One fact: its kind, when it happened, its session (room and run), what it is about, and what is wrong."""

    kind: str
    at: str
    session: str
    about: str
    problems: list[str]


class Checked(msgspec.Struct, frozen=True):
    """What one body means. `unused`: paths of fields that the declaration does not read; they are shown as detail."""

    event: str
    dedupe_key: str
    facts: list[CheckedFact]
    unused: list[str]


def describe_proof(declaration: Declaration) -> str:
    """What the proof shows, in words."""
    proof = declaration.proof
    if proof.kind == "header":
        return f"the sender knows the secret in the header {proof.header}; the body itself is not signed"
    if proof.kind == "url":
        return "the sender knows the secret in the address; the body itself is not signed"
    if proof.kind == "standard":
        return f"the sender signed id, time and body (Standard Webhooks, headers {proof.header_prefix}-…)"
    how = "RSA" if proof.kind == "rsa" else "a JWT" if proof.kind == "jwt" else proof.kind.upper()
    what = f"{how} with {proof.hash} in the header {proof.header}"
    return f"the sender signed the body: {what}" if proof.binds_body else f"{what}; the body itself is not signed"


def check_body(declaration: Declaration, body: bytes) -> Checked:
    """What a body means by a declaration. Never raises."""
    event, dedupe_key = names_of(declaration, body, {}, _ARRIVAL)
    record = Record(
        position=1, source="", vendor="declared", event=event, dedupe_key=dedupe_key, received_at=_ARRIVAL, origin="import",
        proof=b"{}", body=body,
    )  # fmt: skip
    facts = [_checked(fact) for fact in interpret(record, declaration)]
    return Checked(event, dedupe_key, facts, _unused(declaration, body))


def _checked(fact: Fact) -> CheckedFact:
    fields = cast("dict[str, Any]", msgspec.to_builtins(fact))
    place = fact.place
    session = "none" if place is None else f"room {place.room}, run {place.run or 'open'}"
    about = ", ".join(f"{name} {fields[name]}" for name in _ABOUT if fields.get(name) not in {None, "standard"})
    problems = [f"{kind}: {what}" for kind, what in fact.anomalies]
    at = "arrival" if fact.clock == "receiver" else format_micros(fact.at)
    return CheckedFact(str(fields["kind"]), at, session, "; ".join([about, *problems]).strip("; "), problems)


def _unused(declaration: Declaration, body: bytes) -> list[str]:
    try:
        events = events_in(declaration, body)
    except BodyUnreadable:
        return []
    used = declaration.used | frozenset(declaration.redact)
    found = {path: None for event in events for path in _leaves(event, ()) if not _is_used(path, used)}
    return [_written(path) for path in found]


def _is_used(path: tuple[Part, ...], used: frozenset[tuple[Part, ...]]) -> bool:
    return any(path[: len(each)] == each for each in used)


def _leaves(value: Any, path: tuple[Part, ...]) -> list[tuple[Part, ...]]:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return [leaf for name, inner in fields.items() for leaf in _leaves(inner, (*path, name))]
    return [path]


def _written(path: tuple[Part, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
