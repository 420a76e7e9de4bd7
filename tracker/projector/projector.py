"""The only writer of the views: reads the log in batches, folds facts into sessions, saves rows and position together.

    records ─► facts ─► rooms learn of runs ─► facts assigned to runs ─► sessions folded ─► rows rendered ─► one save

Live projection and rebuild are the same code on different files. Batches that are waiting together share one
transaction. If we die anywhere here, the views are those of the last complete transaction, and the next start continues
from their projected position. Nothing calls the projector; it watches the log (law 3).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Protocol

import msgspec
import structlog

from tracker.domain.deliveries import Record
from tracker.domain.facts import Fact
from tracker.domain.redaction import hide_fields
from tracker.domain.text_cache import drop_text_caches
from tracker.errors import DeclarationsChanged, LogCorrupt, TrackerError
from tracker.log.contract import RecordReader
from tracker.log.erasure_records import RemainingFacts
from tracker.projections.ids import distinct_run
from tracker.projections.sourced_fact import SourcedFact
from tracker.projector.batch import Batch, BatchCache
from tracker.projector.declarations import adopt, digest
from tracker.sources import registry
from tracker.views.contract import ViewsWriter

BATCH_RECORDS = 2_000
REBUILD_BATCH_RECORDS = 3_000
"""Each batch reads states from the views and saves its rooms once. Larger batches no longer fit the CPU cache."""
TRANSACTION_RECORDS = 20_000
"""The live views take at most this many records in one transaction. With ten thousand calls in progress each record of a
batch changes different database pages, and the following batches change most of them again: one commit writes them once."""
TRANSACTION_SECONDS = 3.0
"""A transaction takes no more batches after this time, so that readers and live streams see progress, and a server that is
killed again and again still gets ahead."""
DEFERRED_SESSIONS = 1_500
"""Within such a transaction, at most this many changed sessions are rendered only at its end: nobody sees them before."""
REBUILD_DEFERRED_SESSIONS = 1_500
"""A rebuild renders and saves a session once this many others have changed after it: nobody reads these views yet."""

WAIT_SECONDS = 1.0
REST_FACTOR = 4.0
MAX_REST_SECONDS = 0.2
"""After each pass, sleep four times as long as it took, at most 0.2 s, so that new records share one transaction: an event
costs twice as much in a batch of 16 as in one of 250. A single new record is projected at once."""
RETRY_SECONDS = (0.2, 1.0, 5.0)

_log = structlog.get_logger("projector")


class ProjectorObserver(Protocol):
    """What the projector reports while it runs (`server/projection`)."""

    def projected(self, position: int, head: int) -> None:
        """After each batch: the projected position, and the log's head."""
        ...

    def set_aside(self, sessions: int) -> None:
        """After each pass: how many sessions are set aside (`domain/set_aside`)."""
        ...

    def unreadable(self, source: str, kind: str) -> None:
        """A fact has the anomaly `unreadable` or `unknown_event`."""
        ...


Progress = Callable[[int, int], None]
"""(position, head) after each batch."""


class Projector:
    """Follows one log into one set of views."""

    def __init__(
        self,
        log: RecordReader,
        views: ViewsWriter,
        *,
        observer: ProjectorObserver | None = None,
        batch_size: int = BATCH_RECORDS,
        hidden: Mapping[str, frozenset[str]] = {},
        deferred_sessions: int = 0,
    ) -> None:
        """`hidden`: source → fields of details that are not shown.

        `deferred_sessions`: this many changed sessions may be missing in the views until `catch_up` returns. Only for
        views that nobody reads yet.
        """
        self._log = log
        self._views = views
        self._observer = observer
        self._batch_size = batch_size
        self._hidden = hidden
        self._deferred_sessions = deferred_sessions
        self._remaining_facts = RemainingFacts(log)
        self._cache = BatchCache()
        self._set_aside = 0
        self.position = 0
        """The last record that readers of the views see."""
        self._saved_position = 0
        """The last record in the views. Higher than `position` while a transaction is open."""
        self._transaction_began: float | None = None
        """When the first record of the open transaction was read (event loop seconds)."""

    async def run(self) -> None:
        """Project for ever. A failure is logged and retried with back-off; ingest does not notice it (law 3)."""
        failures = 0
        clock = asyncio.get_running_loop().time
        while True:
            try:
                began = clock()
                await self.catch_up()
                await asyncio.sleep(min(MAX_REST_SECONDS, REST_FACTOR * (clock() - began)))
                await self._log.wait(self.position, WAIT_SECONDS)
                failures = 0
            except DeclarationsChanged:
                raise
            except TrackerError as error:
                self._cache = BatchCache()
                _log.error("projection stopped, trying again", reason=str(error), failures=failures + 1)
                await asyncio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
                failures += 1

    async def catch_up(self, progress: Progress | None = None, *, until: int | None = None) -> int:
        """Project up to the present head, or up to position `until`. Returns the position reached."""
        await self._start()
        head = await self._log.head() if until is None else until
        if self._observer is not None and head <= self.position:
            self._observer.projected(self.position, head)
        limit = None if until is None else max(0, until - self.position)
        async with aclosing(self._batches(limit)) as batches:
            async for records in batches:
                await self._project(records, await self._facts_of(records), head)
                if progress is not None:
                    progress(self._saved_position, max(head, self._saved_position))
                if await self._views.refresh():
                    # A rebuild swapped its file in: continue from its position.
                    self._forget()
                    break
            else:
                await self._save_deferred()
                await self._report_set_aside()
                return self.position
        return await self.catch_up(progress, until=until)

    async def _batches(self, limit: int | None) -> AsyncGenerator[list[Record]]:
        """The records after the projected position, at most `limit`, in full batches and a last smaller one."""
        pending: list[Record] = []
        async for records in self._log.read(self.position, limit=limit):
            pending += records
            while len(pending) >= self._batch_size:
                yield pending[: self._batch_size]
                pending = pending[self._batch_size :]
        if pending:
            yield pending

    async def _start(self) -> None:
        """Drop what was not committed and continue from the position of the views."""
        if await self._views.refresh():
            self._forget()
        elif self.position == 0 or self._saved_position != self.position:
            self._cache = BatchCache()
        await self._views.rollback()
        position = await self._views.projected_position()
        if position != self.position:
            self._cache = BatchCache()
        self.position = self._saved_position = position
        self._transaction_began = None

    def _forget(self) -> None:
        """Drop every cache: other views may show less, because somebody was erased (`domain/text_cache`)."""
        self._cache = BatchCache()
        self._remaining_facts = RemainingFacts(self._log)
        drop_text_caches()

    async def _project(self, records: list[Record], facts: list[SourcedFact], head: int) -> None:
        last = records[-1].position
        clock = asyncio.get_running_loop().time
        if self._transaction_began is None:
            self._transaction_began = clock()
        # If we die before the transaction is committed, all its records are read again.
        stays_open = (
            last < head
            and last - self.position < TRANSACTION_RECORDS
            and clock() - self._transaction_began < TRANSACTION_SECONDS
        )
        deferred = self._deferred_sessions or (DEFERRED_SESSIONS if stays_open else 0)
        try:
            changes = await self._batch().changes(records, facts, deferred_sessions=deferred)
            await self._views.save(msgspec.structs.replace(changes, declarations=digest()), commit=not stays_open)
        except BaseException:
            # The cache may hold states that were not saved.
            self._cache = BatchCache()
            raise
        self._saved_position = last
        if not stays_open:
            self.position, self._transaction_began = last, None
        if self._observer is not None:
            self._report(facts, self._observer, head)

    def _batch(self) -> Batch:
        return Batch(self._views, self._cache, self.load_facts)

    async def _save_deferred(self) -> None:
        """Save the deferred sessions, and commit the open transaction."""
        if self._cache.deferred or self._saved_position != self.position:
            await self._views.save(await self._batch().deferred_changes(self._saved_position))
            self.position = self._saved_position

    async def load_facts(self, positions: Sequence[int]) -> list[SourcedFact]:
        """The facts of records that were projected before. Raises `LogCorrupt` where a record is missing."""
        records: list[Record] = []
        for position in positions:
            record = await self._log.record(position)
            if record is None:
                raise LogCorrupt(
                    f"the log has no record at position {position}, which was projected: restore the log from a copy"
                )
            records.append(record)
        return await self._facts_of(records)

    async def _facts_of(self, records: Sequence[Record]) -> list[SourcedFact]:
        """The facts of these records; of an erased record, those that remain. Hidden fields are removed."""
        adopt(records)
        remaining = await self._remaining_facts.facts_of(records)
        return [
            fact
            for record in records
            for fact in sourced_facts(record, remaining, self._hidden.get(record.source, frozenset()))
        ]

    async def _report_set_aside(self) -> None:
        if self._observer is not None:
            count = await self._views.count_set_aside()
            if count > self._set_aside:
                _log.error(
                    "sessions are set aside, everything else goes on; list them with `tracker rebuild`", count=count
                )
            self._set_aside = count
            self._observer.set_aside(count)

    def _report(self, facts: list[SourcedFact], observer: ProjectorObserver, head: int) -> None:
        observer.projected(self.position, max(head, self.position))
        for item in facts:
            for kind, _ in item.fact.anomalies:
                if kind in {"unreadable", "unknown_event"}:
                    observer.unreadable(item.source, kind)


def sourced_facts(
    record: Record, remaining: Mapping[int, tuple[Fact, ...]] = {}, hidden: frozenset[str] = frozenset()
) -> list[SourcedFact]:
    """The facts of a record, each with the record's identity.

    `remaining`: position of an erased record → the facts that remain of it. `hidden`: fields of details to remove.
    """
    facts = remaining[record.position] if record.position in remaining else registry.interpret(record)
    rules = registry.rules(record.vendor)
    found: list[SourcedFact] = []
    for n, fact in enumerate(facts):
        if hidden:
            fact = hide_fields(fact, hidden)  # noqa: PLW2901 - the fact that is shown
        fact = distinct_run(fact, rules)  # noqa: PLW2901
        found.append(
            SourcedFact(fact, record.position, n, record.source, record.vendor, record.dedupe_key, record.received_at)
        )
    return found


class DumpableViews(Protocol):
    """Views that can be compared."""

    def dump(self, *, positions: bool) -> AsyncGenerator[tuple[str, bytes]]:
        """Rows as (key, canonical JSON), keys ascending."""
        ...


async def compare_views(current: DumpableViews, rebuilt: DumpableViews, *, limit: int = 20) -> list[str]:
    """The first rows in which two views of the same log differ, in words; empty when they are equal."""
    found: list[str] = []
    async with aclosing(current.dump(positions=True)) as left, aclosing(rebuilt.dump(positions=True)) as right:
        a, b = await anext(left, None), await anext(right, None)
        while (a is not None or b is not None) and len(found) < limit:
            if b is None or (a is not None and a[0] < b[0]):
                found.append(f"{a[0] if a else ''}: is in the views, but does not follow from the log")
                a = await anext(left, None)
            elif a is None or b[0] < a[0]:
                found.append(f"{b[0]}: follows from the log, but is missing in the views")
                b = await anext(right, None)
            else:
                if a[1] != b[1]:
                    found.append(f"{a[0]}: the views have {a[1].decode()}, the log gives {b[1].decode()}")
                a, b = await anext(left, None), await anext(right, None)
    return found
