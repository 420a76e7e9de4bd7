"""The only writer of views: reads the log in batches, places facts in runs, folds, renders, saves with the checkpoint.

    records → facts → rooms learn → runs found (facts of re-cut runs move) → states folded → rows rendered → one save

Live and rebuild are the same code on different files. Batches that wait together are saved in one transaction. If we die
anywhere here, the views are those of the last one: the next start reads on from their checkpoint. Nobody calls the projector; it
watches the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Protocol

import structlog

from tracker.domain.deliveries import Micros, Record
from tracker.log.erasure_records import RemainingFacts
from tracker.errors import LogCorrupt, TrackerError
from tracker.domain.facts import Fact
from tracker.log.contract import Log
from tracker.projections.sourced_fact import SourcedFact
from tracker.domain.redaction import redacted
from tracker.projector.batch import Batch, BatchCache
from tracker.sources import registry
from tracker.views.contract import ViewsWriter

BATCH = 2_000
REBUILD_BATCH = 3_000
"""A batch asks the views and saves its rooms once; of a larger one more is out of the processor's cache when it is folded."""
TOGETHER = 20_000
"""Records that go into the live views in one transaction, at most, where so many wait: with ten thousand calls under way each
record of a batch changes pages of its own, and most of them are changed again by the batches that follow."""
TOGETHER_SECONDS = 3.0
"""So long after it began a transaction takes no other batch in: who reads, or is told live, sees how it goes on. A server that is
killed again and again gets on all the same."""
HOLD = 1_500
"""Changed sessions that are not rendered before the end of such a transaction, at most: nobody sees them earlier."""
REBUILD_HOLD = 1_500
"""Nobody waits for the views of a rebuild: a session is rendered and saved when this many others have changed after it."""

NOTHING: frozenset[str] = frozenset()
WAIT = 1.0
RESTS = 4.0
LONGEST_REST = 0.2
"""Seconds. What comes while the projector rests, so many times as long as it worked, shares a save with what came before it. A
batch of 16 costs twice as much an event as one of 250, and nobody sees the fifth of a second; what comes alone is looked at at once."""
BACK_OFF = (0.2, 1.0, 5.0)

log_line = structlog.get_logger("projector")


class Watcher(Protocol):
    """What the projector tells about itself (metrics)."""

    def projected(self, position: int, head: int, lag_seconds: float) -> None:
        """After each batch: where the views are, where the log is, and how old the oldest unprojected record was."""
        ...

    def unreadable(self, source: str, kind: str) -> None:
        """A fact carried the anomaly `unreadable` or `unknown_event`."""
        ...


class LiveViews(ViewsWriter, Protocol):
    """Views that can be replaced under us by an offline rebuild."""

    async def refresh(self) -> bool:
        """Whether the file was replaced (and reopened)."""
        ...


Progress = Callable[[int, int], None]
"""(position, head) after each batch."""


class Projector:
    """Follows one log into one set of views."""

    def __init__(
        self,
        log: Log,
        views: LiveViews,
        *,
        now: Callable[[], Micros],
        watcher: Watcher | None = None,
        batch: int = BATCH,
        hidden: Mapping[str, frozenset[str]] = {},
        hold: int = 0,
    ) -> None:
        """`hold`: how many changed sessions need not be in the views until `catch_up` returns: only where nobody reads them."""
        self._log = log
        self._views = views
        self._now = now
        self._watcher = watcher
        self._batch = batch
        self._hidden = hidden
        self._hold = hold
        self._skeletons = RemainingFacts(log)
        self._memory = BatchCache()
        self.position = 0
        """Of the last record that readers of the views see."""
        self._reached = 0
        """Of the last record in the views, which is further where a save is to be completed by the next."""
        self._oldest: Micros | None = None
        """When the first record after `position` was received, if it has been read."""
        self._began = 0.0
        """When it was read (the loop's seconds)."""

    async def run(self) -> None:
        """Project for ever. A failure is logged and tried again with back-off: ingest must not notice (law 3)."""
        failures = 0
        clock = asyncio.get_running_loop().time
        while True:
            try:
                begun = clock()
                await self.catch_up()
                await asyncio.sleep(min(LONGEST_REST, RESTS * (clock() - begun)))
                await self._log.wait(self.position, WAIT)
                failures = 0
            except TrackerError as error:
                self._memory = BatchCache()
                log_line.error("projection stopped, trying again", reason=str(error), failures=failures + 1)
                await asyncio.sleep(BACK_OFF[min(failures, len(BACK_OFF) - 1)])
                failures += 1

    async def catch_up(self, progress: Progress | None = None, *, until: int | None = None) -> int:
        """Project everything up to the present head, or up to position `until`; returns the position reached."""
        await self._settle()
        head = await self._log.head() if until is None else until
        if self._watcher is not None and head <= self.position:
            self._watcher.projected(self.position, head, 0.0)
        limit = None if until is None else max(0, until - self.position)
        async with aclosing(self._gathered(limit)) as batches:
            async for records in batches:
                evidence = await self._evidence(records)
                await self._project(records, evidence, head)
                if progress is not None:
                    progress(self._reached, max(head, self._reached))
                if await self._views.refresh():
                    # An offline rebuild swapped its file in: go on from its checkpoint, with nothing remembered.
                    self._memory = BatchCache()
                    break
            else:
                await self._complete()
                return self.position
        return await self.catch_up(progress, until=until)

    async def _gathered(self, limit: int | None) -> AsyncGenerator[list[Record]]:
        """The records after our position, in batches as large as they may be."""
        waiting: list[Record] = []
        async for records in self._log.read(self.position, limit=limit):
            waiting += records
            while len(waiting) >= self._batch:
                yield waiting[: self._batch]
                waiting = waiting[self._batch :]
        if waiting:
            yield waiting

    async def _settle(self) -> None:
        if await self._views.refresh() or self.position == 0 or self._reached != self.position:
            self._memory = BatchCache()
        await self._views.rollback()
        checkpoint = await self._views.projected_position()
        if checkpoint != self.position:
            self._memory = BatchCache()
        self.position = self._reached = checkpoint
        self._oldest = None

    async def _project(self, records: list[Record], evidence: list[SourcedFact], head: int) -> None:
        last = records[-1].position
        # Readers wait anyway for what is behind. If we die before the last save of the transaction, all of it is read again.
        clock = asyncio.get_running_loop().time
        if self._oldest is None:
            self._oldest, self._began = records[0].received_at, clock()
        more = last < head and last - self.position < TOGETHER and clock() - self._began < TOGETHER_SECONDS
        hold = self._hold or (HOLD if more else 0)
        try:
            changes = await Batch(self._views, self._memory, self.load_facts).changes(records, evidence, hold=hold)
            await self._views.save(changes, more=more)
        except BaseException:
            # What was folded in memory may not have been saved.
            self._memory = BatchCache()
            raise
        self._reached = last
        if not more:
            self.position = last
        if self._watcher is not None:
            self._tell(evidence, self._watcher, head)
        if not more:
            self._oldest = None

    async def _complete(self) -> None:
        """Save what is held, and with it what waits for another save."""
        if self._memory.held or self._reached != self.position:
            await self._views.save(await Batch(self._views, self._memory, self.load_facts).rest(self._reached))
            self.position = self._reached

    async def load_facts(self, positions: Sequence[int]) -> list[SourcedFact]:
        """The facts of records projected before. Raises `LogCorrupt` where one is missing."""
        records: list[Record] = []
        for position in positions:
            record = await self._log.record(position)
            if record is None:
                raise LogCorrupt(
                    f"position {position} was projected and is not in the log: restore the log from a copy"
                )
            records.append(record)
        return await self._evidence(records)

    async def _evidence(self, records: Sequence[Record]) -> list[SourcedFact]:
        """What these records say, or what is left of them, without what is not shown."""
        erased = await self._skeletons.of(records)
        return [
            item
            for record in records
            for item in sourced_facts(record, erased, self._hidden.get(record.source, NOTHING))
        ]

    def _tell(self, evidence: list[SourcedFact], watcher: Watcher, head: int) -> None:
        lag = max(0, self._now() - (self._oldest or 0)) / 1_000_000
        watcher.projected(self.position, max(head, self.position), lag)
        for item in evidence:
            for kind, _ in item.fact.anomalies:
                if kind in {"unreadable", "unknown_event"}:
                    watcher.unreadable(item.source, kind)


def sourced_facts(
    record: Record, erased: Mapping[int, tuple[Fact, ...]] = {}, hidden: frozenset[str] = frozenset()
) -> list[SourcedFact]:
    """The facts of a record, each with the record's identity.

    `erased`: what is left of erased records, by position. `hidden`: fields of details that are not shown.
    """
    facts = erased[record.position] if record.position in erased else registry.interpret(record)
    return identified(record, [redacted(fact, hidden) for fact in facts] if hidden else facts)


def identified(record: Record, facts: Iterable[Fact]) -> list[SourcedFact]:
    """The facts of a record, in their order, each with the record's identity."""
    return [
        SourcedFact(fact, record.position, n, record.source, record.vendor, record.dedupe_key, record.received_at)
        for n, fact in enumerate(facts)
    ]


class Dumped(Protocol):
    """Views that can be compared."""

    def dump(self, *, positions: bool) -> AsyncGenerator[tuple[str, bytes]]:
        """Rows as (key, canonical JSON), keys ascending."""
        ...


async def differences(held: Dumped, fresh: Dumped, *, limit: int = 20) -> list[str]:
    """The first rows in which two views of the same log differ, in words; empty when they are identical."""
    found: list[str] = []
    async with aclosing(held.dump(positions=True)) as left, aclosing(fresh.dump(positions=True)) as right:
        a, b = await anext(left, None), await anext(right, None)
        while (a is not None or b is not None) and len(found) < limit:
            if b is None or (a is not None and a[0] < b[0]):
                found.append(f"{a[0] if a else ''}: only in the views, not in the rebuild")
                a = await anext(left, None)
            elif a is None or b[0] < a[0]:
                found.append(f"{b[0]}: missing in the views")
                b = await anext(right, None)
            else:
                if a[1] != b[1]:
                    found.append(f"{a[0]}: {a[1].decode()} but the log says {b[1].decode()}")
                a, b = await anext(left, None), await anext(right, None)
    return found
