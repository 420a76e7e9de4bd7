"""The replicator: reads the stream from the replica's cursor and applies it, in order, for as long as the log is open.

    a consumer of its own on the servers ── pull ── decode ── queue ── several frames a transaction ── replica

On any doubt (a silent consumer, a gap in the sequence, a broken connection) it starts again from the cursor with a new
consumer. When the stream itself has lost messages, nothing can replace them: it stops applying, reports it, and tries again
from time to time.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from typing import NamedTuple

import structlog
from nats.aio.msg import Msg

from tracker.domain.deliveries import Appended
from tracker.errors import LogCorrupt, LogError, LogUnavailable, NodeOutdated
from tracker.log.cluster import messages
from tracker.log.frames import Frame, decode
from tracker.log.jetstream.validation import check_stream
from tracker.log.jetstream.stream import Inbox, Stream
from tracker.log.sqlite.replica import Cursor, StreamEntry, Replica

BATCH_MESSAGES = 256
BATCH_BYTES = 32 * 1024 * 1024
EXPIRES_SECONDS = 20
HEARTBEAT_MS = 500
SILENCE_SECONDS = 2.0
IDLE_SECONDS = 30
APPLY_RECORDS = 4_000
APPLY_BYTES = 8 * 1024 * 1024
QUEUE_MESSAGES = 1_024
QUEUE_BYTES = 8 * 1024 * 1024
"""Bound of the received messages that wait to be applied; one more is always accepted."""
BACK_OFF = (0.05, 0.2, 0.5)
REQUEST_SECONDS = 1.0
"""A request while there is no leader is never answered: trying again is faster than waiting."""

_log = structlog.get_logger("replicator")


class ReceivedFrame(NamedTuple):
    """A received and decoded message. `frame` None: it is not a frame. `flaw`: why every node skips it."""

    entry: StreamEntry
    frame: Frame | None
    size: int
    flaw: str | None = None


class _Restart(Exception):
    """Start again from the cursor."""


Applied = Callable[[Frame, list[Appended] | None], None]
"""Called for each applied frame with its answers; None where another process of this node had applied it."""


class Replicator:
    """Applies one stream to one replica. `sequence`: the last message applied. `trouble`: why it makes no progress."""

    def __init__(self, stream: Stream, replica: Replica, sequence: int, applied: Applied) -> None:
        self._stream = stream
        self._replica = replica
        self._applied = applied
        self._moved = asyncio.Event()
        self._drained = asyncio.Event()
        self._queued_bytes = 0
        self.sequence = sequence
        self.trouble: LogError | None = None
        self.skipped = 0
        """Messages skipped since this was opened: no node can have sent them."""

    async def reached(self, sequence: int) -> None:
        """Return when everything up to a message is applied."""
        while self.sequence < sequence:
            await self._moved.wait()

    async def run(self) -> None:
        """Apply the stream, for ever."""
        failures = 0
        while True:
            before = self.sequence
            try:
                await self._follow()
            except* _Restart as restarts:
                _log.info("reading the stream again", after=self.sequence, reason=str(restarts.exceptions[0]))
            except* LogError as errors:
                first = errors.exceptions[0]  # one TaskGroup raises no nested groups
                if isinstance(first, LogError):
                    self._report(first)
            except* Exception as errors:
                first = errors.exceptions[0]
                self.trouble = LogUnavailable(f"the replicator failed: {type(first).__name__}")
                _log.error("the replicator failed", error=type(first).__name__, reason=str(first))
            failures = 0 if self.sequence > before else failures + 1
            await asyncio.sleep(BACK_OFF[min(failures, len(BACK_OFF) - 1)])

    def _report(self, error: LogError) -> None:
        if self.trouble is None or error.args != self.trouble.args:
            _log.warning("the stream cannot be applied", after=self.sequence, reason=str(error))
        self.trouble = error

    async def _follow(self) -> None:
        queue: asyncio.Queue[ReceivedFrame] = asyncio.Queue(QUEUE_MESSAGES)
        cursor = await self._replica.cursor()
        self._queued_bytes = 0
        self._move(cursor.sequence)  # another process may have applied more
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read(cursor, queue))
            group.create_task(self._watch())
            group.create_task(self._apply(queue))

    async def _watch(self) -> None:
        await self._stream.broken()
        raise _Restart("the connection broke")

    async def _read(self, cursor: Cursor, queue: asyncio.Queue[ReceivedFrame]) -> None:
        await check_stream(
            self._stream, cursor, body_bytes=0, timeout=REQUEST_SECONDS
        )  # it may have lost its end meanwhile
        consumer = f"tracker-{secrets.token_hex(8)}"
        inbox = await self._stream.inbox()
        try:
            await self._stream.create_consumer(consumer, cursor.sequence, idle_seconds=IDLE_SECONDS)
            await self._read_from(consumer, inbox, cursor.sequence, queue)
        finally:
            await inbox.close()
            await self._stream.delete_consumer(consumer)

    async def _read_from(self, consumer: str, inbox: Inbox, after: int, queue: asyncio.Queue[ReceivedFrame]) -> None:
        request = {
            "batch": BATCH_MESSAGES, "max_bytes": max(BATCH_BYTES, 2 * self._stream.max_message_bytes),
            "expires": EXPIRES_SECONDS * 10**9, "idle_heartbeat": HEARTBEAT_MS * 10**6,
        }  # fmt: skip
        left = pulls = 0
        while True:
            # Pull again while half is still to come: the servers never wait for us.
            if left <= BATCH_MESSAGES // 2:
                await self._stream.pull(consumer, f"{inbox.address}.{pulls}", request)
                pulls, left = pulls + 1, left + BATCH_MESSAGES
            message = await self._next(inbox)
            if (status := (message.headers or {}).get("Status")) is not None:
                left -= _undelivered(message, status, after)
                if self.sequence >= after:
                    self.trouble = None  # the servers confirm that there is nothing to apply
                continue
            left -= 1
            received = await self._decode(message, after)
            if received.entry.sequence != after + 1:
                await self._expect_message(after + 1)
                raise _Restart(f"message {received.entry.sequence} arrived after {after}")
            after += 1
            await self._wait_for_space()
            self._queued_bytes += received.size
            await queue.put(received)

    async def _next(self, inbox: Inbox) -> Msg:
        if not inbox.arrived.empty():
            return inbox.arrived.get_nowait()
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                return await inbox.arrived.get()
        except TimeoutError:
            self._stream.expect_pull_allowed()
            raise _Restart(f"the consumer sent nothing for {SILENCE_SECONDS:.0f} s") from None

    async def _decode(self, message: Msg, after: int) -> ReceivedFrame:
        try:
            received = _read_message(message, self._stream.name)
        except NodeOutdated:
            # Apply everything before it: how far this node gets must not depend on how much was read at once.
            await self.reached(after)
            raise
        if received.flaw is not None:
            self.skipped += 1
            _log.error("a message is skipped, as on every node", sequence=received.entry.sequence, why=received.flaw)
        return received

    async def _wait_for_space(self) -> None:
        while self._queued_bytes > QUEUE_BYTES:
            self._drained.clear()
            await self._drained.wait()

    async def _expect_message(self, sequence: int) -> None:
        """Raise `LogCorrupt` where the stream has lost a message."""
        if await self._stream.message(sequence) is None:
            raise LogCorrupt(
                f"the stream {self._stream.name} has lost message {sequence}: it can never be applied here; "
                "copy the replica of a node that has applied it"
            )

    async def _apply(self, queue: asyncio.Queue[ReceivedFrame]) -> None:
        while True:
            batch = [await queue.get()]
            records, size = len(batch[0].entry.rows), batch[0].size
            while not queue.empty() and records < APPLY_RECORDS and size < APPLY_BYTES:
                batch.append(queue.get_nowait())
                records, size = records + len(batch[-1].entry.rows), size + batch[-1].size
            self._queued_bytes -= size
            self._drained.set()
            answers = await self._replica.apply([each.entry for each in batch])
            self.trouble = None
            for each, given in zip(batch, answers, strict=True):
                if each.frame is not None:
                    self._applied(each.frame, given)
            self._move(batch[-1].entry.sequence)

    def _move(self, sequence: int) -> None:
        self.sequence = max(self.sequence, sequence)
        self._moved.set()
        self._moved = asyncio.Event()


def _undelivered(message: Msg, status: str, after: int) -> int:
    """How many of the pulled messages will not arrive: a status ends its pull, or is a heartbeat. Raises `_Restart`."""
    headers = message.headers or {}
    if status == "100":
        # Perhaps the servers sent it to our old connection: without this we would not notice before the next message.
        if int(headers.get("Nats-Last-Stream", "0")) > after:
            raise _Restart(f"message {after + 1} was sent but did not arrive")
        return 0
    if status in {"404", "408"} or any(
        each in headers.get("Description", "") for each in ("MaxBytes", "Batch Completed")
    ):
        return int(headers.get("Nats-Pending-Messages", "0"))
    raise _Restart(f"the consumer ended: {status} {headers.get('Description', '')}")


def _read_message(message: Msg, stream: str) -> ReceivedFrame:
    """Decode a message of the stream. One on another subject than `<stream>.frames` has no rows."""
    # $JS.ACK.<stream>.<consumer>.<times>.<sequence>.<…>.<ns since 1970>.<left>, or with domain and account behind ACK
    words = message.reply.split(".")
    sequence = words[5] if len(words) == 9 else words[7]
    found = decode(message.data, int(sequence)) if message.subject == f"{stream}.frames" else None
    frame, flaw = (found, None) if isinstance(found, Frame) else (None, found)
    tree_message = messages.decode(message.data) if message.subject == f"{stream}.checkpoints" else None
    if message.subject == f"{stream}.checkpoints" and tree_message is None:
        flaw = "it is not a message about the tree"
    digest = hashlib.sha256(message.data).digest()
    rows, erases, frame_id = (frame.records, frame.erases, frame.id) if frame is not None else ((), (), b"")
    entry = StreamEntry(int(sequence), digest, rows, erases, frame_id, tree_message)
    return ReceivedFrame(entry, frame, len(message.data), flaw)
