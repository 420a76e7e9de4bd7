"""Erasure records: which records were erased, and the pseudonymized facts that remain of them.

    {"event": "erasure", "why": …, "at": …, "erased": [{"position": p, "facts": […]}, …]}     at most 500 per record

It holds pseudonyms, times and kinds, and no data of the erased person, but may hold data of people who met them. Therefore it
is encrypted, and is erased itself when one of those people is; the later erasure record repeats the remaining facts.
Readers of the log get the facts of erased records here (`RemainingFacts`); they are the same before and after a rebuild.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tracker.domain.deliveries import KEY_LOST, TRACKER, Micros, Record, Verified
from tracker.errors import LogCorrupt
from tracker.domain.facts import Fact, Unknown
from tracker.log.contract import RecordReader
from tracker.domain.redaction import decode_facts

EVENT = "erasure"
MAX_ERASED = 500
REMEMBERED = 64


class ErasedRecord(msgspec.Struct, frozen=True):
    """The position of one erased record, and the facts that remain of it."""

    position: int
    facts: list[dict[str, Any]]


class ErasureBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of an erasure record. `at` in µs; `why` names a rule, never a person."""

    event: str = EVENT
    why: str
    at: Micros
    erased: list[ErasedRecord]


def make_erasure_record(erasure: ErasureBody) -> Verified:
    """The record to append for one erasure."""
    body = msgspec.json.encode(erasure)
    return Verified(
        source=TRACKER,
        vendor=TRACKER,
        event=EVENT,
        dedupe_key=hashlib.sha256(body).hexdigest(),
        received_at=erasure.at,
        origin="import",
        proof=json.dumps({"scheme": "operator"}, separators=(",", ":")).encode(),
        body=body,
    )


def read_erasure(record: Record) -> list[ErasedRecord]:
    """The erased records that an erasure record lists; [] if it cannot be decoded.

    A stranger who can publish to the stream could write such a record, so it must not stop a reader. Which records are read
    as erased does not depend on it.
    """
    try:
        return msgspec.json.decode(record.body, type=ErasureBody).erased
    except (msgspec.DecodeError, RecursionError):
        return []


class RemainingFacts:
    """The facts of erased records, read from erasure records. Caches the last few erasure records."""

    def __init__(self, log: RecordReader) -> None:
        self._log = log
        self._known: dict[int, Mapping[int, tuple[Fact, ...]]] = {}

    async def facts_of(self, records: Sequence[Record]) -> dict[int, tuple[Fact, ...]]:
        """Position → facts, for each of the records that is erased. Raises `LogError`."""
        found: dict[int, tuple[Fact, ...]] = {}
        for record in records:
            if record.erased_by == KEY_LOST:
                why = (("unreadable", "the key of this record is gone, and no record says that it was erased"),)
                found[record.position] = (
                    Unknown(at=record.received_at, clock="receiver", precision="us", anomalies=why),
                )
            elif record.erased_by is not None:
                found[record.position] = (await self._facts_from(record.erased_by)).get(record.position, ())
        return found

    async def _facts_from(self, position: int) -> Mapping[int, tuple[Fact, ...]]:
        known = self._known.get(position)
        if known is None:
            record = await self._log.record(position)
            if record is None:
                raise LogCorrupt(f"the erasure at position {position} is not in the log: restore the log from a copy")
            if record.erased_by == KEY_LOST:
                return {}
            try:
                known = {each.position: decode_facts(each.facts) for each in read_erasure(record)}
            except (msgspec.DecodeError, RecursionError):  # as below
                known = {}
            if len(self._known) >= REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[position] = known
        return known
