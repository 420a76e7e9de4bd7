"""What is left of facts when a person is erased, and what of them is never shown. Pure.

    skeleton   kind, times, clock, reasons and numbers stay; names become pseudonyms, free detail goes
    redacted   fields of `detail` that an operator does not want in views

An erasure keeps the skeletons of what it erased (`log/erasure_records.py`), so that a timeline keeps its shape for ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec

from tracker.domain.facts import AnyFact, Fact

Rename = Callable[[str], str]

PERSON_FIELDS = frozenset({
    "identity", "connection", "name", "actor", "stream", "publisher", "supervisor_client", "agent_client",
})  # fmt: skip
"""Fields that say who; a stream's id may be made from its publisher's."""

DROPPED = frozenset({"detail", "ip", "location", "platform", "url"})
OPTIONAL = frozenset({"ip", "location", "platform", "url", "name", "label"})
"""Fields of facts that an operator may hide; all of them may be missing anyway."""

VOCABULARY = frozenset({
    "kind", "clock", "precision", "reason", "subject_type", "person", "status", "mode", "media", "anomalies", "detail",
})  # fmt: skip
"""Fields that hold our words only: somebody may be called `participant`, and a fact has to stay one."""

ERASED = {"erased": True}
PSEUDONYM = re.compile(r"erased-[0-9a-f]{12}")


def everybody(fact: Fact, rename: Rename, *, room_is_person: bool) -> Fact:
    """A fact with everyone in it renamed: for a whole session, or everything before a day."""
    told = _bare(fact)
    for name in PERSON_FIELDS & told.keys():
        told[name] = rename(told[name])
    if told.get("subject_type") == "participant" and told.get("subject_id"):
        told["subject_id"] = rename(told["subject_id"])
    place = told.get("place")
    if place is not None:
        place.pop("room_name", None)
        if room_is_person and place.get("room"):
            place["ids"] = [[name, rename(value) if value == place["room"] else value] for name, value in place["ids"]]
            place["room"] = rename(place["room"])
    return _fact(told)


def somebody(fact: Fact, pseudonyms: Mapping[str, str]) -> Fact:
    """A fact with some texts replaced wherever they stand, also inside longer ones: for one person.

    `pseudonyms`: what identifies them (identity, connection ids) → what stands there instead, longest first.
    """
    told = _bare(fact)
    is_theirs = any(told.get(name) in pseudonyms for name in ("identity", "connection"))
    if is_theirs and told.get("name"):
        told["name"] = pseudonyms.get(told.get("identity") or "", "erased")
    for name in told.keys() - VOCABULARY:
        told[name] = _replaced(told[name], pseudonyms)
    return _fact(told)


def redacted(fact: Fact, hidden: frozenset[str]) -> Fact:
    """A fact without the fields of these names: its own where they may be missing, and at any depth of its detail."""
    if not hidden:
        return fact
    changed: dict[str, Any] = {name: None for name in hidden & OPTIONAL if getattr(fact, name, None) is not None}
    if fact.detail and (kept := _without(fact.detail, hidden)) != fact.detail:
        changed["detail"] = kept
    return msgspec.structs.replace(fact, **changed) if changed else fact


def is_pseudonym(text: str) -> bool:
    """Whether a name is one that an erasure put in a person's place."""
    return PSEUDONYM.fullmatch(text) is not None


def kept_facts(told: list[Any]) -> tuple[Fact, ...]:
    """Facts as an erasure keeps them (JSON values), as facts again. Raises `msgspec.ValidationError`."""
    return tuple(_fact(each) for each in told)


def _bare(fact: Fact) -> dict[str, Any]:
    """A fact as JSON values, without what is free text or where somebody was."""
    told: dict[str, Any] = msgspec.to_builtins(fact)
    for name in DROPPED & told.keys():
        del told[name]
    told["detail"] = ERASED
    if "anomalies" in told:
        told["anomalies"] = [[kind, "erased"] for kind, _ in told["anomalies"]]
    if "place" in told:
        told["place"].setdefault("ids", [])
    return told


def _fact(told: Any) -> Fact:
    return msgspec.convert(told, AnyFact)


def _replaced(value: Any, pseudonyms: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for text, pseudonym in pseudonyms.items():
            if text in value:
                value = value.replace(text, pseudonym)
        return value
    if isinstance(value, dict):
        fields = {name: _replaced(each, pseudonyms) for name, each in cast("dict[str, Any]", value).items()}
        if "ids" in fields:  # pairs of our word for an id, and the id
            fields["ids"] = [[word, _replaced(each, pseudonyms)] for word, each in cast("Any", value)["ids"]]
        return fields
    if isinstance(value, list | tuple):
        return [_replaced(each, pseudonyms) for each in cast("list[Any]", value)]
    return value


def _without(value: Any, hidden: frozenset[str]) -> Any:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {name: _without(each, hidden) for name, each in fields.items() if name not in hidden}
    if isinstance(value, list):
        return [_without(each, hidden) for each in cast("list[Any]", value)]
    return value
