"""Erase: destroy the keys of what tells of a person, and keep in the log that it was done and what is left.

    plan       which records, and how many people, sessions, bytes: nothing is changed
    append     erasure records, 500 erased ones each, with the skeletons: from here on they are read as erased
    destroy    their data keys; after that their bytes are noise
    rebuild    views without them (`desk_erasing`)

If we die after an append, the keys of what it names are destroyed by the next `finish` (each `serve` and each erasure
begins with it). Proofs and checkpoints made before still verify: leaves cover sealed bytes and a salted commitment.

LIMIT: records kept in clear cannot be erased, and are refused. Copies made elsewhere (backups, exports, bundles) are
not reached from here.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import msgspec

from tracker.deliveries import Micros, Record
from tracker.erasures import EVENT, MOST, OURS, Erased, Erasure, erasure_record
from tracker.errors import ParameterInvalid
from tracker.facts import ConnectionFact, Fact
from tracker.log.contract import Log
from tracker.projections.redacting import everybody, somebody
from tracker.sources import registry

Progress = Callable[[int, int], None]
ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|([\"\\/]))")
SHORTEST = 3
"""A shorter identity would be found inside everything."""


class Plan(msgspec.Struct, kw_only=True):
    """What an erasure would touch. `in_clear`: records among them that cannot be erased."""

    why: str
    positions: list[int] = []
    people: int = 0
    sources: dict[str, int] = {}
    bytes: int = 0
    already_erased: int = 0
    in_clear: list[int] = []


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """What to erase: one person (`needles`: all that identifies them), one session, or everything before a moment.

    `positions` None: the whole log is looked through. `before` in µs of `received_at`; `sources` None: all.
    """

    why: str
    needles: tuple[str, ...] = ()
    positions: tuple[int, ...] | None = None
    before: Micros | None = None
    sources: tuple[str, ...] | None = None


class Eraser:
    """Plans and carries out one selection on one log."""

    def __init__(self, log: Log, selection: Selection, *, now: Callable[[], Micros]) -> None:
        if any(len(needle) < SHORTEST for needle in selection.needles):
            raise ParameterInvalid("identity", f"has to have at least {SHORTEST} characters")
        self._log = log
        self._selection = selection
        self._now = now
        self._secret = secrets.token_bytes(32)
        # Longest first: an identity may be a part of a connection's id. Each its own: two joins have to stay two.
        needles = sorted(selection.needles, key=len, reverse=True)
        self._pseudonyms = {needle: self._pseudonym(needle) for needle in needles}

    async def plan(self, progress: Progress | None = None) -> Plan:
        """What would be touched. Changes nothing. Raises `LogError`."""
        plan = Plan(why=self._selection.why)
        people: set[str] = set()
        async for record, facts in self._touched(progress):
            if record.erased_by is not None:
                plan.already_erased += 1
                continue
            kept = await self._log.leaf(record.position)
            if kept is None or kept.commitment is None:
                plan.in_clear.append(record.position)
                continue
            plan.positions.append(record.position)
            plan.sources[record.source] = plan.sources.get(record.source, 0) + 1
            plan.bytes += len(record.body)
            people |= {fact.identity for fact in facts if isinstance(fact, ConnectionFact) and fact.identity}
        plan.people = min(1, len(plan.positions)) if self._selection.needles else len(people)
        return plan

    async def erase(self, plan: Plan, progress: Progress | None = None) -> int:
        """Carry a plan out; how many records were erased. Raises `LogError`: then running it again does the rest."""
        done = 0
        for start in range(0, len(plan.positions), MOST):
            positions = plan.positions[start : start + MOST]
            erased = [await self._skeleton(position) for position in positions]
            erasure = Erasure(why=plan.why, at=self._now(), erased=[each for each in erased if each is not None])
            gone = [each.position for each in erasure.erased]
            if gone:
                await self._log.append_erasure(erasure_record(erasure), gone)
                await self._log.destroy_keys(gone)
            done += len(gone)
            if progress is not None:
                progress(start + len(positions), len(plan.positions))
        return done

    async def _skeleton(self, position: int) -> Erased | None:
        record = await self._log.record(position)
        if record is None or record.erased_by is not None:
            return None
        rules = registry.rules(record.vendor)
        facts: list[dict[str, Any]] = []
        for fact in registry.interpret(record):
            if self._selection.needles:
                left = somebody(fact, self._pseudonyms)
            else:
                left = everybody(fact, self._pseudonym, room_is_person=rules.room_is_person)
            facts.append(msgspec.to_builtins(left))
        return Erased(position, facts)

    async def _touched(self, progress: Progress | None) -> AsyncIterator[tuple[Record, tuple[Fact, ...]]]:
        head = await self._log.head()
        async for record in self._candidates():
            if progress is not None and record.position % MOST == 0:
                progress(record.position, head)
            if record.vendor == OURS:
                continue
            facts = () if record.erased_by is not None else registry.interpret(record)
            if self._matches(record):
                yield record, facts

    async def _candidates(self) -> AsyncIterator[Record]:
        if self._selection.positions is not None:
            for position in self._selection.positions:
                record = await self._log.record(position)
                if record is not None:
                    yield record
            return
        async for chunk in self._log.read(0):
            for record in chunk:
                yield record

    def _matches(self, record: Record) -> bool:
        selection = self._selection
        if selection.sources is not None and record.source not in selection.sources:
            return False
        if selection.before is not None and record.received_at >= selection.before:
            return False
        return not selection.needles or mentions(record, selection.needles)

    def _pseudonym(self, text: str) -> str:
        """The same for the same text within one erasure, and for nobody to guess: its secret is not kept."""
        return "erased-" + hmac.digest(self._secret, text.encode("utf-8", "surrogatepass"), "sha256").hex()[:12]


def mentions(record: Record, needles: Iterable[str]) -> bool:
    """Whether a record's bytes hold one of these texts, as they are or as JSON may spell them."""
    held = record.proof + b"\n" + record.body
    spelled = _spelled(held)
    return any(needle.encode("utf-8", "surrogatepass") in held or needle in spelled for needle in needles)


def _spelled(held: bytes) -> str:
    r"""The bytes as text with JSON's escapes undone (`\u0061` for a): an identity may be written either way.

    Twice: metadata is often JSON inside a JSON string.
    """
    text = held.decode("utf-8", "replace")
    for _ in range(2):
        if "\\" in text:
            text = ESCAPE.sub(_unescaped, text)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _unescaped(found: re.Match[str]) -> str:
    code: str | None = found[1]
    return chr(int(code, 16)) if code else found[2]


async def finish(log: Log) -> None:
    """Destroy what a died erasure left: it destroys after each record it appends, so only the last one can be unfinished."""
    record = await log.record(await log.last_of(OURS))
    if record is not None and record.event == EVENT:
        await log.destroy_keys([each.position for each in msgspec.json.decode(record.body, type=Erasure).erased])
