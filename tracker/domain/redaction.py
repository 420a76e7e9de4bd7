"""What remains of a fact when a person is erased, and which fields of facts are hidden. Pure.

    pseudonymize_…   kind, times, clock, Tracker's own reasons and numbers stay; names become pseudonyms; free text is removed
    hide_fields      removes the fields that an operator does not want in the views

An erasure stores the pseudonymized facts of what it erased (`log/erasure_records.py`), so that timelines keep their shape.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec

from tracker.domain.facts import AnyFact, Fact

Rename = Callable[[str], str]
"""Returns the pseudonym for a name."""

PERSON_FIELDS = frozenset({
    "identity", "connection", "name", "actor", "stream", "publisher", "supervisor_client", "agent_client",
})  # fmt: skip
"""Fields that identify a person. A stream id is one because it may be derived from its publisher's name."""

REMOVED = frozenset({"detail", "ip", "location", "platform", "url", "vendor_reason", "status", "mode"})
"""Fields that an erasure removes: places, and the vendor's own words, which may be any text."""
WORDS = {
    "media": frozenset({"audio", "video", "audio+video", "data"}),
    "label": frozenset({"camera", "microphone", "screen", "screen_audio"}),
}
"""Fields that an erasure removes unless they hold one of these words."""
PERSONS = frozenset({
    "standard", "sip", "connector", "ingress", "egress", "agent", "bridge", "hidden", "recorder", "ipcam",
})  # fmt: skip
"""The kinds of participant that an erasure keeps; any other becomes `erased`, which is no person either."""
NUMBERED_PERSON = re.compile(r"kind_[0-9]{1,10}")
DEPLOYMENT = frozenset({"node", "cluster"})
"""What an event may be about whose name an erasure keeps."""
OPTIONAL = frozenset({"ip", "location", "platform", "url", "name", "label"})
"""Fields that an operator may hide. Every fact can do without them."""

VOCABULARY = frozenset({
    "kind", "clock", "precision", "reason", "subject_type", "person", "status", "mode", "media", "anomalies", "detail",
})  # fmt: skip
"""Fields that only hold Tracker's own words. They are never replaced: someone may be called `participant`."""

_NOT_OF_EVENT = frozenset({"name", "detail", "anomalies", "server_run"})
"""Fields in which two copies of one event may differ."""

ERASED = {"erased": True}
PSEUDONYM = re.compile(r"erased-[0-9a-f]{12}")


def pseudonymize_everyone(fact: Fact, rename: Rename, *, room_is_person: bool) -> Fact:
    """Rename everyone in a fact: for erasing a whole session, or everything before a date."""
    fields = _without_details(fact)
    place = fields.get("place")
    # Speech to text is named after the person, and a message without a recording's id after the room and the time.
    if fields["kind"].startswith("transcription.") or fields.get("activity") == fields.get("identity"):
        _rename(fields, "activity", rename)
    if fields.get("nameless"):
        _rename(fields, "recording", rename)
    names_of_session = () if place is None else (place.get("run"), None if room_is_person else place.get("room"))
    if fields.get("subject_type") not in DEPLOYMENT and fields.get("subject_id") not in names_of_session:
        _rename(fields, "subject_id", rename)
    for name in PERSON_FIELDS & fields.keys():
        _rename(fields, name, rename)
    if place is not None:
        place.pop("room_name", None)
        if room_is_person and place.get("room"):
            place["ids"] = [[name, rename(value) if value == place["room"] else value] for name, value in place["ids"]]
            place["room"] = rename(place["room"])
    return _to_fact(_with_copy(fields))


def pseudonymize_person(fact: Fact, pseudonyms: Mapping[str, str]) -> Fact:
    """Replace the texts that identify one person, also where they are part of a longer text.

    `pseudonyms` maps identity and connection ids to their pseudonyms, longest first.
    """
    fields = _without_details(fact)
    is_theirs = any(fields.get(name) in pseudonyms for name in ("identity", "connection"))
    if is_theirs and fields.get("name"):
        fields["name"] = pseudonyms.get(fields.get("identity") or "", "erased")
    for name in fields.keys() - VOCABULARY:
        fields[name] = _replace(fields[name], pseudonyms)
    return _to_fact(_with_copy(fields))


def hide_fields(fact: Fact, hidden: frozenset[str]) -> Fact:
    """Remove the fields with these names: optional fields of the fact, and any field of its detail at any depth."""
    if not hidden:
        return fact
    changed: dict[str, Any] = {name: None for name in hidden & OPTIONAL if getattr(fact, name, None) is not None}
    if fact.detail and (shown := _without(fact.detail, hidden)) != fact.detail:
        changed["detail"] = shown
    return msgspec.structs.replace(fact, **changed) if changed else fact


def is_pseudonym(text: str) -> bool:
    """Whether a name is a pseudonym made by an erasure."""
    return PSEUDONYM.fullmatch(text) is not None


def decode_facts(stored: list[Any]) -> tuple[Fact, ...]:
    """The facts that an erasure record stores as JSON values. Raises `msgspec.ValidationError`."""
    return tuple(_to_fact(each) for each in stored)


def _without_details(fact: Fact) -> dict[str, Any]:
    """A fact as JSON values, without free text and without the places a person was at."""
    fields: dict[str, Any] = msgspec.to_builtins(fact)
    for name in REMOVED & fields.keys():
        del fields[name]
    for name, words in WORDS.items():
        if fields.get(name) not in words:
            fields.pop(name, None)
    person = fields.get("person", "standard")
    if person not in PERSONS and NUMBERED_PERSON.fullmatch(person) is None:
        fields["person"] = "erased"
    fields["detail"] = ERASED
    if "anomalies" in fields:
        fields["anomalies"] = [[kind, "erased"] for kind, _ in fields["anomalies"]]
    if "place" in fields:
        fields["place"].setdefault("ids", [])
    return fields


def _with_copy(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a pseudonymized fact, with `copy` made from them: its hashes were of texts that could be guessed.

    What remains of two copies of an event is equal but for names. Repeats with other times are entries of their own from then on.
    """
    copy = fields.pop("copy", None)
    if copy is not None:
        left = {name: each for name, each in fields.items() if name not in _NOT_OF_EVENT}
        fields["copy"] = [hashlib.sha256(msgspec.json.encode(left, order="sorted")).hexdigest(), None, copy[2]]
    return fields


def _rename(fields: dict[str, Any], name: str, rename: Rename) -> None:
    if fields.get(name):
        fields[name] = rename(fields[name])


def _to_fact(fields: Any) -> Fact:
    return msgspec.convert(fields, AnyFact)


def _replace(value: Any, pseudonyms: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for text, pseudonym in pseudonyms.items():
            if text in value:
                value = value.replace(text, pseudonym)
        return value
    if isinstance(value, dict):
        fields = {name: _replace(each, pseudonyms) for name, each in cast("dict[str, Any]", value).items()}
        if "ids" in fields:  # pairs of an id's type (Tracker's own word) and the id
            fields["ids"] = [[word, _replace(each, pseudonyms)] for word, each in cast("Any", value)["ids"]]
        return fields
    if isinstance(value, list | tuple):
        return [_replace(each, pseudonyms) for each in cast("list[Any]", value)]
    return value


def _without(value: Any, hidden: frozenset[str]) -> Any:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {name: _without(each, hidden) for name, each in fields.items() if name not in hidden}
    if isinstance(value, list):
        return [_without(each, hidden) for each in cast("list[Any]", value)]
    return value
