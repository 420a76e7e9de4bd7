"""Erase: destroy the keys of what tells of a person, and keep in the log that it was done and what is left.

    plan       which records, and how many people, sessions, bytes: nothing is changed
    append     erasure records, 500 erased ones each, with the skeletons: from here on they are read as erased.
               An earlier erasure whose skeletons tell of them too is erased with the rest, and told again without them
    destroy    their data keys; after that their bytes are noise
    rebuild    views without them (`cli/erase`)

If we die after an append, the keys of what it names are destroyed by the next `finish` (each `serve` and each erasure
begins with it). Proofs and checkpoints made before still verify: leaves cover sealed bytes and a salted commitment.

LIMIT: records kept in clear cannot be erased, and are refused. Copies made elsewhere (backups, exports, bundles) are
not reached from here.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

import msgspec

from tracker.domain.deliveries import KEY_LOST, TRACKER, Micros, Record
from tracker.log.erasure_records import EVENT, MAX_ERASED, ErasedRecord, ErasureBody, make_erasure_record, read_erasure
from tracker.errors import ParameterInvalid
from tracker.domain.facts import ConnectionFact, Fact
from tracker.log.contract import ClusteredLog, Log
from tracker.domain.redaction import pseudonymize_everyone, is_pseudonym, decode_facts, pseudonymize_person
from tracker.sources import registry

Progress = Callable[[int, int], None]
ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|([\"\\/]))")
DEEPEST = 5
SECRET_BYTES = 32
LATEST = 10
SHORTEST = 3
"""A shorter identity would be found inside everything."""


class Plan(msgspec.Struct, kw_only=True):
    """What an erasure would touch. `in_clear`: records among them that cannot be erased.

    `erasures`: earlier ones that still tell of them, in skeletons of records about pseudonymize_person else too.
    """

    why: str
    positions: list[int] = []
    people: int = 0
    sources: dict[str, int] = {}
    bytes: int = 0
    already_erased: int = 0
    in_clear: list[int] = []
    erasures: list[int] = []


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
    """Plans and carries out one selection on one log. `secret`: what pseudonyms are made with; its own without one."""

    def __init__(
        self, log: Log, selection: Selection, *, now: Callable[[], Micros], secret: bytes | None = None
    ) -> None:
        if any(is_too_short(needle) for needle in selection.needles):
            raise ParameterInvalid("identity", f"has to have at least {SHORTEST} bytes: shorter ones are in everything")
        self._log = log
        self._selection = selection
        self._now = now
        self.secret = secret or secrets.token_bytes(SECRET_BYTES)
        self._touched_before: dict[int, set[int]] = {}
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
        await self._plan_erasures(plan)
        plan.people = min(1, len(plan.positions)) if self._selection.needles else len(people)
        return plan

    async def erase(self, plan: Plan, progress: Progress | None = None) -> int:
        """Carry a plan of ours out; how many records were erased. Raises `LogError`: then running it again does the rest."""
        done = 0
        for start in range(0, len(plan.positions), MAX_ERASED):
            positions = plan.positions[start : start + MAX_ERASED]
            erased = [each for position in positions if (each := await self._skeleton(position)) is not None]
            await self._carry_out(plan.why, erased, [each.position for each in erased])
            done += len(erased)
            if progress is not None:
                progress(start + len(positions), len(plan.positions))
        # Each on its own, or erasures of erasures would grow and grow.
        for position in plan.erasures:
            told = await self._told_again(position)
            if told is not None:
                await self._carry_out(plan.why, [ErasedRecord(position, []), *told], [position])
        return done

    async def _carry_out(self, why: str, erased: list[ErasedRecord], gone: Sequence[int]) -> None:
        if gone:
            await self._log.append_erasure(
                make_erasure_record(ErasureBody(why=why, at=self._now(), erased=erased)), gone
            )
            await self._log.destroy_keys(gone)

    async def _plan_erasures(self, plan: Plan) -> None:
        for position in sorted(self._touched_before):
            if position == KEY_LOST or await self._told_again(position) is None:
                continue
            kept = await self._log.leaf(position)
            sealed = kept is not None and kept.commitment is not None
            (plan.erasures if sealed else plan.in_clear).append(position)

    async def _told_again(self, position: int) -> list[ErasedRecord] | None:
        """What an earlier erasure tells, without whom this one is about; None when it does not tell of them."""
        record = await self._log.record(position)
        if record is None or record.erased_by is not None or record.event != EVENT:
            return None
        is_changed, told = False, read_erasure(record)
        for n, each in enumerate(told):
            if self._selection.needles or each.position in self._touched_before.get(position, ()):
                about = await self._log.record(each.position)
                before = decode_facts(each.facts)
                after = tuple(self._left(fact, about.vendor if about else "") for fact in before)
                if after != before:
                    is_changed, told[n] = (
                        True,
                        ErasedRecord(each.position, [msgspec.to_builtins(fact) for fact in after]),
                    )
        return told if is_changed else None

    async def _skeleton(self, position: int) -> ErasedRecord | None:
        record = await self._log.record(position)
        if record is None or record.erased_by is not None:
            return None
        facts = [msgspec.to_builtins(self._left(fact, record.vendor)) for fact in registry.interpret(record)]
        return ErasedRecord(position, facts)

    def _left(self, fact: Fact, vendor: str) -> Fact:
        if self._selection.needles:
            return pseudonymize_person(fact, self._pseudonyms)
        return pseudonymize_everyone(fact, self._pseudonym, room_is_person=registry.rules(vendor).room_is_person)

    async def _touched(self, progress: Progress | None) -> AsyncIterator[tuple[Record, tuple[Fact, ...]]]:
        head = await self._log.head()
        async for record in self._candidates():
            if progress is not None and record.position % MAX_ERASED == 0:
                progress(record.position, head)
            if record.vendor == TRACKER:
                if self._selection.needles and record.erased_by is None:
                    self._touched_before[record.position] = set()
            elif self._matches(record):
                if record.erased_by is not None:
                    self._touched_before.setdefault(record.erased_by, set()).add(record.position)
                yield record, () if record.erased_by is not None else registry.interpret(record)

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
        if is_pseudonym(text):
            return text
        return "erased-" + hmac.digest(self.secret, text.encode("utf-8", "surrogatepass"), "sha256").hex()[:12]


def is_too_short(needle: str) -> bool:
    """Whether a text would be found all over; in UTF-8, where two Chinese characters are a whole name."""
    return len(needle.encode("utf-8", "surrogatepass")) < SHORTEST


def mentions(record: Record, needles: Iterable[str]) -> bool:
    """Whether a record's bytes hold one of these texts, as they are or as JSON may spell them."""
    held = record.proof + b"\n" + record.body
    spelled = _spelled(held)
    return any(needle.encode("utf-8", "surrogatepass") in held or needle in spelled for needle in needles)


def _spelled(held: bytes) -> str:
    r"""The bytes as text with JSON's escapes undone (`\u0061` for a): an identity may be written either way.

    Once, twice and so on, each for itself: metadata is often JSON inside a JSON string.
    """
    text = held.decode("utf-8", "replace")
    found = [text]
    while "\\" in text and len(found) < DEEPEST:
        text = ESCAPE.sub(_unescaped, text)
        found.append(text)
    return "\n".join(found).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _unescaped(found: re.Match[str]) -> str:
    code: str | None = found[1]
    return chr(int(code, 16)) if code else found[2]


async def finish(log: Log) -> None:
    """Destroy what a died erasure left: it destroys after each record it appends, so only its last one can be unfinished.

    Of a log that many nodes share, the last few: each may have died with one.
    """
    last = (
        [await log.last_from_source(TRACKER)]
        if not isinstance(log, ClusteredLog)
        else (await log.positions_from_source(TRACKER))[-LATEST:]
    )
    for position in last:
        record = await log.record(position)
        if record is not None and record.event == EVENT and record.erased_by is None:
            await log.destroy_keys([each.position for each in read_erasure(record)])
