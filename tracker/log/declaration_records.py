"""Declaration records: which declaration a source has, from which position on.

    {"event": "declaration", "source": "zoom", "at": …, "digest": "…", "declaration": "title = …"}

A record of Tracker, appended once a change, before the first delivery that is proved by it. Proof, event name and dedupe key
of a delivery are those of the declaration in force at its position; the newest one interprets all records of its source.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from tracker.domain.deliveries import TRACKER, Micros, Record, Verified
from tracker.log.contract import Log

EVENT = "declaration"


class DeclarationBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a declaration record. `declaration` is the whole text, `digest` its SHA-256 in hex; `at` in µs."""

    event: str = EVENT
    source: str
    at: Micros
    digest: str
    declaration: str


class Declared(NamedTuple):
    """A declaration in the log, in force after its `position`."""

    position: int
    text: str


class DeclarationHistory:
    """The declarations of each source, in the order of the log."""

    def __init__(self, found: Mapping[str, Sequence[Declared]] = {}) -> None:
        self.of_source: dict[str, tuple[Declared, ...]] = {source: tuple(each) for source, each in found.items()}

    def newest(self, source: str) -> Declared | None:
        """The declaration that interprets the records of a source."""
        found = self.of_source.get(source)
        return found[-1] if found else None

    def at(self, source: str, position: int) -> Declared | None:
        """The declaration in force for the record at a position: the last before it."""
        before = [each for each in self.of_source.get(source, ()) if each.position < position]
        return before[-1] if before else None

    @property
    def digest(self) -> str:
        """It changes whenever the meaning of records changes: a hash of the newest declarations; "" without any."""
        if not self.of_source:
            return ""
        newest = sorted((source, found[-1].text) for source, found in self.of_source.items())
        return hashlib.sha256(json.dumps(newest).encode()).hexdigest()[:16]


def make_declaration_record(source: str, text: str, at: Micros, known: int) -> Verified:
    """The record to append for a new declaration of a source that has `known` declarations in the log.

    Several nodes of a cluster may append the same change: all but one are duplicates.
    """
    digest = hashlib.sha256(text.encode()).hexdigest()
    body = msgspec.json.encode(DeclarationBody(source=source, at=at, digest=digest, declaration=text))
    return Verified(
        source=TRACKER,
        vendor=TRACKER,
        event=EVENT,
        dedupe_key=hashlib.sha256(json.dumps([EVENT, source, digest, known]).encode()).hexdigest(),
        received_at=at,
        origin="import",
        proof=json.dumps({"scheme": "operator"}, separators=(",", ":")).encode(),
        body=body,
    )


def read_declaration_record(record: Record) -> DeclarationBody | None:
    """The body of a declaration record; None for other records, and for one that cannot be decoded.

    A stranger who can publish to the stream could write one, so that it must not stop a reader.
    """
    if (record.source, record.event) != (TRACKER, EVENT) or record.erased_by is not None:
        return None
    try:
        return msgspec.json.decode(record.body, type=DeclarationBody)
    except (msgspec.DecodeError, RecursionError):
        return None


async def declaration_history(log: Log) -> DeclarationHistory:
    """All declarations in a log. Raises `LogError`."""
    found: dict[str, list[Declared]] = {}
    for position in await log.positions_from_source(TRACKER, event=EVENT):
        record = await log.record(position)
        body = None if record is None else read_declaration_record(record)
        if body is not None:
            found.setdefault(body.source, []).append(Declared(position, body.declaration))
    return DeclarationHistory(found)
