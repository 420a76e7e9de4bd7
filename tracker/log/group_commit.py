"""Group commit: concurrent appends wait in a bounded, fair queue (`fair_queue.py`) and share transactions.

    append ─┐                     ┌─ each waiter gets its answer
    append ─┼─ queue ─ one commit ┤  only after the commit returned
    append ─┘  (bounded)          └─ or all of them get the same LogError

While one commit is on its way to the disk the next batch gathers, so the batch size follows the load by itself.
When a waiter goes away, its delivery is recorded all the same: it was authentic.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
import structlog

from tracker.domain.deliveries import Appended, Verified
from tracker.domain.texts import is_utf8, storable
from tracker.errors import LogError, LogUnavailable
from tracker.log.fair_queue import FairQueue

BATCH_RECORDS = 500
BATCH_BYTES = 16 * 1024 * 1024
QUEUE_BYTES = 256 * 1024 * 1024
SLOW_SECONDS = 1.0
"""A commit that takes longer is logged as a warning."""

_log = structlog.get_logger("log")

Result = TypeVar("Result")
Commit = Callable[[Sequence[Verified]], Awaitable[list[Appended]]]
Measure = Callable[[Sequence[Verified]], int]


class LogObserver(Protocol):
    """Is notified of the log's commits and queue."""

    def committed(self, records: int, seconds: float) -> None:
        """One transaction of `records` records (duplicates included) took `seconds` to become durable."""
        ...

    def depth(self, n: int) -> None:
        """`n` records are waiting now."""
        ...


class _Group:
    """The records of one append, never split over two transactions. `many`: they are answered with a list."""

    __slots__ = ("answer", "many", "records", "size")

    def __init__(self, records: list[Verified], answer: asyncio.Future[Any], measure: Measure, *, many: bool) -> None:
        self.records = records
        self.answer = answer
        self.size = measure(records)
        self.many = many

    def resolve(self, answers: list[Appended]) -> None:
        if not self.answer.done():  # its waiter may have gone
            self.answer.set_result(answers if self.many else answers[0])


def content_bytes(records: Sequence[Verified]) -> int:
    """The size of bodies and proofs, in bytes."""
    if len(records) == 1:  # the usual case, measured for each delivery
        return len(records[0].body) + len(records[0].proof)
    return sum(len(verified.body) + len(verified.proof) for verified in records)


class GroupCommit:
    """The queue and the one task that empties it.

    The task belongs to this object and not to the server's TaskGroup on purpose: `close()` must outlive whatever ended the
    server, or deliveries already accepted would be neither recorded nor refused. It is never cancelled.
    """

    def __init__(
        self,
        commit: Commit,
        *,
        queue_bound: int,
        observe: LogObserver | None,
        batch_bytes: int = BATCH_BYTES,
        measure: Measure = content_bytes,
    ) -> None:
        """`batch_bytes`: what one commit holds at most, by `measure`, unless one append alone is larger."""
        self._commit = commit
        self._batch_bytes = batch_bytes
        self._measure = measure
        self._observe = observe
        self._queue: FairQueue[_Group] = FairQueue(queue_bound, QUEUE_BYTES)
        self._exclusive: deque[tuple[Callable[[], Awaitable[Any]], asyncio.Future[Any]]] = deque()
        self._arrived = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._run(), name="log-commit")

    async def append(self, records: Sequence[Verified]) -> list[Appended]:
        """Wait until these are durable, all in one transaction. Raises `LogBusy` at once, or the commit's `LogError`."""
        answer: asyncio.Future[list[Appended]] = asyncio.get_running_loop().create_future()
        self._put(_Group([storable_texts(verified) for verified in records], answer, self._measure, many=True))
        return await answer

    def append_for(self, answer: asyncio.Future[Appended], verified: Verified) -> None:
        try:
            self._put(_Group([storable_texts(verified)], answer, self._measure, many=False))
        except LogError as error:
            if not answer.done():
                # Its traceback would hold this call, and so the future that holds it.
                answer.set_exception(error.with_traceback(None))

    def _put(self, group: _Group) -> None:
        if self._closing:
            raise LogUnavailable("the log is closed: the server is stopping")
        self._queue.put(group)
        self._report_depth()
        self._arrived.set()

    async def run_exclusive(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Run `work` between two commits, while nothing else is written; return its result or raise its error."""
        if self._closing:
            raise LogUnavailable("the log is closed: the server is stopping")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._exclusive.append((work, answer))
        self._arrived.set()
        return await answer

    async def _run_next_exclusive(self) -> None:
        work, answer = self._exclusive.popleft()
        try:
            result = await work()
        except Exception as error:
            if not answer.done():
                answer.set_exception(error)
        else:
            if not answer.done():
                answer.set_result(result)

    def _report_depth(self) -> None:
        if self._observe is not None:
            self._observe.depth(self._queue.records)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._queue or self._exclusive:
                if self._exclusive:
                    await self._run_next_exclusive()
                if self._queue:
                    await self._commit_groups(self._take())
            if self._closing:
                return

    def _take(self) -> list[_Group]:
        groups = self._queue.take(BATCH_RECORDS, self._batch_bytes)
        self._report_depth()
        return groups

    async def _commit_groups(self, groups: list[_Group]) -> None:
        records = [verified for group in groups for verified in group.records]
        began = time.perf_counter()
        try:
            answers = await self._commit(records)
        except Exception as error:
            refusal = (
                error if isinstance(error, LogError) else LogUnavailable(f"the log failed: {type(error).__name__}")
            )
            _drop_tracebacks(error)
            for group in groups:
                _refuse(group, refusal)
            return
        seconds = time.perf_counter() - began
        if seconds > SLOW_SECONDS:
            _log.warning(
                "the log is slow: check its disk; in a cluster, check the NATS servers and their disks",
                seconds=round(seconds, 1),
                records=len(records),
            )
        if self._observe is not None and records:
            self._observe.committed(len(records), seconds)
        start = 0
        for group in groups:
            end = start + len(group.records)
            group.resolve(answers[start:end])
            start = end

    async def close(self) -> None:
        """Commit what was accepted, then stop. Idempotent."""
        self._closing = True
        self._arrived.set()
        await asyncio.shield(self._task)


def _drop_tracebacks(error: BaseException) -> None:
    """Tracebacks hold frames, those hold the batch and its futures, and the futures hold the errors: break that circle."""
    for each in (error, error.__cause__, error.__context__):
        if each is not None:
            each.__traceback__ = None


def _refuse(group: _Group, refusal: LogError) -> None:
    if not group.answer.done():
        # A new one each: a shared exception would gather the tracebacks of all its waiters.
        error = type(refusal)(*refusal.args)
        error.__cause__ = refusal.__cause__
        group.answer.set_exception(error)


def storable_texts(verified: Verified) -> Verified:
    r"""The delivery with texts that every store can hold: a lone surrogate (legal in JSON's escapes) becomes `\udXXX`.

    One such text would otherwise fail the whole transaction it shares. The body keeps the bytes as they were received.
    """
    plain = verified.source.isascii() and verified.vendor.isascii() and verified.event.isascii()
    if plain and verified.dedupe_key.isascii():  # the usual case
        return verified
    texts = (verified.source, verified.vendor, verified.event, verified.dedupe_key)
    if all(map(is_utf8, texts)):
        return verified
    source, vendor, event, key = map(storable, texts)
    return msgspec.structs.replace(verified, source=source, vendor=vendor, event=event, dedupe_key=key)
