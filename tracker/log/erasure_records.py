"""Records of ours that say other records were erased, and carry what is left of them.

    {"event": "erasure", "why": …, "at": …, "erased": [{"position": p, "facts": […]}, …]}     at most 500 a record

It holds pseudonyms, times and kinds, and nothing of the person; but of others who met them. So it is sealed like any other,
and erased like any other when one of those is: the later one then tells what is left of all that the earlier one told.
What reads the log asks here for the facts of erased records; before and after every rebuild they are the same.
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
    """What is left of one record."""

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
    """What an erasure record says is erased; [] where it cannot be read: no Tracker wrote it, a stranger to a cluster did.

    It must stop nobody. What is read as erased does not depend on it.
    """
    try:
        return msgspec.json.decode(record.body, type=ErasureBody).erased
    except (msgspec.DecodeError, RecursionError):
        return []


class RemainingFacts:
    """The facts of erased records, read from the records that say so; the last few erasures are remembered."""

    def __init__(self, log: RecordReader) -> None:
        self._log = log
        self._known: dict[int, Mapping[int, tuple[Fact, ...]]] = {}

    async def facts_of(self, records: Sequence[Record]) -> dict[int, tuple[Fact, ...]]:
        """Position → facts, of those records that were erased. Raises `LogError`."""
        found: dict[int, tuple[Fact, ...]] = {}
        for record in records:
            if record.erased_by == KEY_LOST:
                why = (("unreadable", "the key of this record is gone, and no record says that it was erased"),)
                found[record.position] = (
                    Unknown(at=record.received_at, clock="receiver", precision="us", anomalies=why),
                )
            elif record.erased_by is not None:
                found[record.position] = (await self._told_by(record.erased_by)).get(record.position, ())
        return found

    async def _told_by(self, position: int) -> Mapping[int, tuple[Fact, ...]]:
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
