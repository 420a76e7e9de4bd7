"""Erases records: destroys their data keys and appends a record of what was erased.

    plan       which records are affected, and how many people, sources and bytes; changes nothing
    append     erasure records, each for up to 500 records, with the pseudonymized facts of those. From here on the
               records read as erased. If an earlier erasure record mentions the same person, it is erased too, and
               replaced by one without them
    destroy    the data keys; the encrypted bytes can no longer be read
    rebuild    the views (`cli/erase`)

If the process dies after an append, the next `finish` destroys the remaining keys (each `serve` and each erasure begins
with it). Proofs and checkpoints made before still verify: leaves are computed from encrypted bytes and a salted commitment.

LIMIT: unencrypted records cannot be erased, and are refused. Copies made elsewhere (backups, exports, bundles) are not
reached from here.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

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
"""Bytes. A shorter identity would be found in almost every record."""


class Plan(msgspec.Struct, kw_only=True):
    """What an erasure would change. `in_clear`: positions of unencrypted records, which cannot be erased.

    `erasures`: positions of earlier erasure records that mention the same person in the facts of other people's records.
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

    `positions` None: the whole log is searched. `before` in µs of `received_at`; `sources` None: all.
    """

    why: str
    needles: tuple[str, ...] = ()
    positions: tuple[int, ...] | None = None
    before: Micros | None = None
    sources: tuple[str, ...] | None = None


class Eraser:
    """Plans and carries out one erasure on one log. `secret`: the key of the pseudonyms; None: a random one."""

    def __init__(
        self, log: Log, selection: Selection, *, now: Callable[[], Micros], secret: bytes | None = None
    ) -> None:
        if any(is_too_short(needle) for needle in selection.needles):
            raise ParameterInvalid("identity", f"has to have at least {SHORTEST} bytes: shorter ones are in everything")
        self._log = log
        self._selection = selection
        self._now = now
        self.secret = secret or secrets.token_bytes(SECRET_BYTES)
        self._erased_by_earlier: dict[int, set[int]] = {}
        # Longest first: an identity may be a part of a connection's id. One pseudonym per text: two joins must stay two.
        needles = sorted(selection.needles, key=len, reverse=True)
        self._pseudonyms = {needle: self._pseudonym(needle) for needle in needles}

    async def plan(self, progress: Progress | None = None) -> Plan:
        """What would be erased. Changes nothing. Raises `LogError`."""
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
        """Carry out a plan. Returns the number of erased records. If it raises `LogError`, run it again to finish."""
        done = 0
        for start in range(0, len(plan.positions), MAX_ERASED):
            positions = plan.positions[start : start + MAX_ERASED]
            erased = [each for position in positions if (each := await self._remaining_facts(position)) is not None]
            await self._carry_out(plan.why, erased, [each.position for each in erased])
            done += len(erased)
            if progress is not None:
                progress(start + len(positions), len(plan.positions))
        # One at a time: a record that replaces several would grow with every further erasure.
        for position in plan.erasures:
            remaining = await self._without_person(position)
            if remaining is not None:
                await self._carry_out(plan.why, [ErasedRecord(position, []), *remaining], [position])
        return done

    async def _carry_out(self, why: str, erased: list[ErasedRecord], gone: Sequence[int]) -> None:
        if gone:
            await self._log.append_erasure(
                make_erasure_record(ErasureBody(why=why, at=self._now(), erased=erased)), gone
            )
            await self._log.destroy_keys(gone)

    async def _plan_erasures(self, plan: Plan) -> None:
        for position in sorted(self._erased_by_earlier):
            if position == KEY_LOST or await self._without_person(position) is None:
                continue
            kept = await self._log.leaf(position)
            is_encrypted = kept is not None and kept.commitment is not None
            (plan.erasures if is_encrypted else plan.in_clear).append(position)

    async def _without_person(self, position: int) -> list[ErasedRecord] | None:
        """The facts of an earlier erasure record without this person; None if it does not mention them."""
        record = await self._log.record(position)
        if record is None or record.erased_by is not None or record.event != EVENT:
            return None
        is_changed, remaining = False, read_erasure(record)
        for n, each in enumerate(remaining):
            if self._selection.needles or each.position in self._erased_by_earlier.get(position, ()):
                about = await self._log.record(each.position)
                before = decode_facts(each.facts)
                after = tuple(self._pseudonymized(fact, about.vendor if about else "") for fact in before)
                if after != before:
                    is_changed = True
                    remaining[n] = ErasedRecord(each.position, [msgspec.to_builtins(fact) for fact in after])
        return remaining if is_changed else None

    async def _remaining_facts(self, position: int) -> ErasedRecord | None:
        record = await self._log.record(position)
        if record is None or record.erased_by is not None:
            return None
        facts = [self._storable(fact, record) for fact in registry.interpret(record)]
        return ErasedRecord(position, [fact for fact in facts if fact is not None])

    def _storable(self, fact: Fact, record: Record) -> dict[str, Any] | None:
        """What remains of a fact, as JSON values; None where nothing can: the record is erased all the same."""
        try:
            remaining = msgspec.json.encode(self._pseudonymized(fact, record.vendor))
            decode_facts([found := msgspec.json.decode(remaining)])
        except Exception:  # a fact that cannot be stored or read back: its session is set aside already
            return None
        return found

    def _pseudonymized(self, fact: Fact, vendor: str) -> Fact:
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
                    self._erased_by_earlier[record.position] = set()
            elif self._matches(record):
                if record.erased_by is not None:
                    self._erased_by_earlier.setdefault(record.erased_by, set()).add(record.position)
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
        """The same for the same text within one erasure. Nobody can compute it later: the secret is not kept."""
        if is_pseudonym(text):
            return text
        return "erased-" + hmac.digest(self.secret, text.encode("utf-8", "surrogatepass"), "sha256").hex()[:12]


def is_too_short(needle: str) -> bool:
    """Whether almost every record would hold this text. Counts bytes of UTF-8: two Chinese characters are a whole name."""
    return len(needle.encode("utf-8", "surrogatepass")) < SHORTEST


def mentions(record: Record, needles: Iterable[str]) -> bool:
    """Whether a record's bytes contain one of these texts, as it is or as JSON may escape it."""
    held = record.proof + b"\n" + record.body
    spelled = _spelled(held)
    return any(needle.encode("utf-8", "surrogatepass") in held or needle in spelled for needle in needles)


def _spelled(held: bytes) -> str:
    r"""The bytes as text, and the same text with JSON's escapes undone (`\u0061` is a) once, twice and so on.

    An identity may be escaped or not, and metadata is often JSON inside a JSON string.
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
    """Destroy the keys that an interrupted erasure left. It destroys after each append, so only its last one is unfinished.

    In a cluster, the last few erasure records are finished: each node may have died during one.
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
