"""Group commit: concurrent appends wait in bounded lines (`lines.py`) and share transactions.

    append ─┐                     ┌─ each waiter gets its answer
    append ─┼─ lines ─ one commit ┤  only after the commit returned
    append ─┘  (bounded)          └─ or all of them get the same LogError

While one commit is on its way to the disk the next batch gathers, so the batch size follows the load by itself.
A waiter that goes away takes nothing with it: its delivery was authentic and is recorded all the same.
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
from tracker.errors import LogError, LogUnavailable
from tracker.log.fair_queue import FairQueue

BATCH_RECORDS = 500
BATCH_BYTES = 16 * 1024 * 1024
QUEUE_BYTES = 256 * 1024 * 1024
SLOW_SECONDS = 1.0
"""A transaction that takes longer is told."""

_log = structlog.get_logger("log")

Done = TypeVar("Done")
Commit = Callable[[Sequence[Verified]], Awaitable[list[Appended]]]
Weigh = Callable[[Sequence[Verified]], int]


class LogObserver(Protocol):
    """Who wants to know how the log is doing."""

    def committed(self, records: int, seconds: float) -> None:
        """One transaction of so many records (repeats included) became durable in so many seconds."""
        ...

    def depth(self, n: int) -> None:
        """So many records are waiting now."""
        ...


class _Group:
    """The records of one append: never split over two transactions. `many`: they are answered with a list."""

    __slots__ = ("answer", "many", "records", "size")

    def __init__(self, records: list[Verified], answer: asyncio.Future[Any], weigh: Weigh, *, many: bool) -> None:
        self.records = records
        self.answer = answer
        self.size = weigh(records)
        self.many = many

    def tell(self, answers: list[Appended]) -> None:
        if not self.answer.done():  # its waiter may have gone
            self.answer.set_result(answers if self.many else answers[0])


def content_bytes(records: Sequence[Verified]) -> int:
    """Bytes of bodies and proofs."""
    if len(records) == 1:  # nearly always, and asked for each delivery
        return len(records[0].body) + len(records[0].proof)
    return sum(len(verified.body) + len(verified.proof) for verified in records)


class GroupCommit:
    """The queue and the one task that empties it.

    The task is owned here and not by the service's TaskGroup on purpose: `close()` must outlive whatever ended the
    service, or deliveries already accepted would be neither recorded nor refused. It is never cancelled.
    """

    def __init__(
        self,
        commit: Commit,
        *,
        queue_bound: int,
        observe: LogObserver | None,
        batch_bytes: int = BATCH_BYTES,
        weigh: Weigh = content_bytes,
    ) -> None:
        """`batch_bytes`: what one commit holds at most, as `weigh` weighs it, unless one append alone is larger."""
        self._commit = commit
        self._batch_bytes = batch_bytes
        self._weigh = weigh
        self._observe = observe
        self._lines: FairQueue[_Group] = FairQueue(queue_bound, QUEUE_BYTES)
        self._solos: deque[tuple[Callable[[], Awaitable[Any]], asyncio.Future[Any]]] = deque()
        self._arrived = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._run(), name="log-commit")

    async def append(self, records: Sequence[Verified]) -> list[Appended]:
        """Wait until these are durable, all in one transaction. Raises `LogBusy` at once, or the commit's `LogError`."""
        answer: asyncio.Future[list[Appended]] = asyncio.get_running_loop().create_future()
        self._join(_Group([storable_texts(verified) for verified in records], answer, self._weigh, many=True))
        return await answer

    def append_for(self, answer: asyncio.Future[Appended], verified: Verified) -> None:
        """See `Log.append_for`."""
        try:
            self._join(_Group([storable_texts(verified)], answer, self._weigh, many=False))
        except LogError as error:
            if not answer.done():
                # Its traceback would hold this call, and so the future that holds it.
                answer.set_exception(error.with_traceback(None))

    def _join(self, group: _Group) -> None:
        if self._closing:
            raise LogUnavailable("the log is closed: the server is stopping")
        self._lines.join(group)
        self._depth()
        self._arrived.set()

    async def run_exclusive(self, work: Callable[[], Awaitable[Done]]) -> Done:
        """Run something between two commits, while nothing else is written; its result or its error."""
        if self._closing:
            raise LogUnavailable("the log is closed: the server is stopping")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._solos.append((work, answer))
        self._arrived.set()
        return await answer

    async def _run_alone(self) -> None:
        work, answer = self._solos.popleft()
        try:
            found = await work()
        except Exception as error:
            if not answer.done():
                answer.set_exception(error)
        else:
            if not answer.done():
                answer.set_result(found)

    def _depth(self) -> None:
        if self._observe is not None:
            self._observe.depth(self._lines.records)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._lines or self._solos:
                if self._solos:
                    await self._run_alone()
                if self._lines:
                    await self._commit_some(self._take())
            if self._closing:
                return

    def _take(self) -> list[_Group]:
        groups = self._lines.take(BATCH_RECORDS, self._batch_bytes)
        self._depth()
        return groups

    async def _commit_some(self, groups: list[_Group]) -> None:
        records = [verified for group in groups for verified in group.records]
        began = time.perf_counter()
        try:
            answers = await self._commit(records)
        except Exception as error:
            refusal = (
                error if isinstance(error, LogError) else LogUnavailable(f"the log failed: {type(error).__name__}")
            )
            _forget_calls(error)
            for group in groups:
                _refuse(group, refusal)
            return
        seconds = time.perf_counter() - began
        if seconds > SLOW_SECONDS:
            _log.warning(
                "the log is slow: look at its disk, in a cluster at the servers of NATS and theirs",
                seconds=round(seconds, 1),
                records=len(records),
            )
        if self._observe is not None and records:
            self._observe.committed(len(records), seconds)
        start = 0
        for group in groups:
            end = start + len(group.records)
            group.tell(answers[start:end])
            start = end

    async def close(self) -> None:
        """Commit what was accepted, then stop. Idempotent."""
        self._closing = True
        self._arrived.set()
        await asyncio.shield(self._task)


def _forget_calls(error: Exception) -> None:
    """Tracebacks hold calls, those the batch, and in a circle the futures that hold the errors; nobody reads them here."""
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
    r"""The same with texts every store can hold: lone surrogates (legal in JSON's escapes) become `\udXXX`, spelled out.

    One such text would otherwise fail the whole transaction it shares. The body keeps the bytes as they came.
    """
    plain = verified.source.isascii() and verified.vendor.isascii() and verified.event.isascii()
    if plain and verified.dedupe_key.isascii():  # as nearly all are
        return verified
    texts = (verified.source, verified.vendor, verified.event, verified.dedupe_key)
    if all(_encodes(text) for text in texts):
        return verified
    source, vendor, event, key = (text.encode("utf-8", "backslashreplace").decode() for text in texts)
    return msgspec.structs.replace(verified, source=source, vendor=vendor, event=event, dedupe_key=key)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
