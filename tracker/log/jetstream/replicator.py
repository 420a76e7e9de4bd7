"""The replicator: reads the stream from the replica's cursor on and applies it, in order, for as long as the log is open.

    a reader of its own on the servers ── pull ── decode ── queue ── several frames a transaction ── replica

On any doubt (a reader that fell silent, a message that is not the next one, a connection that broke) it begins again from
the cursor with a new reader. Messages that the stream itself does not have any more cannot be made up for: then it stops
applying, says so, and looks again from time to time.
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
"""Of messages as they travel, decoded and waiting to be applied; one more is always taken."""
BACK_OFF = (0.05, 0.2, 0.5)
ASK_SECONDS = 1.0
"""A question while there is no leader is never answered: a new one is sooner."""

_log = structlog.get_logger("replicator")


class ReceivedFrame(NamedTuple):
    """A message read and decoded; `frame` None: no frame.

    `flaw`: why what was sent as a frame is none.
    """

    entry: StreamEntry
    frame: Frame | None
    size: int
    flaw: str | None = None


class _Lost(Exception):
    """Begin again from the cursor."""


Applied = Callable[[Frame, list[Appended] | None], None]
"""A frame was applied: its answers, None where another process of this node had applied it."""


class Replicator:
    """Follows one stream into one replica. `sequence`: the last message applied. `trouble`: why it does not get on."""

    def __init__(self, stream: Stream, replica: Replica, sequence: int, applied: Applied) -> None:
        self._stream = stream
        self._replica = replica
        self._applied = applied
        self._moved = asyncio.Event()
        self._room = asyncio.Event()
        self._held = 0
        self.sequence = sequence
        self.trouble: LogError | None = None
        self.skipped = 0
        """Messages passed over since this was opened: no node can have sent them as frames."""

    async def reached(self, sequence: int) -> None:
        """Return when everything up to a message is applied."""
        while self.sequence < sequence:
            await self._moved.wait()

    async def run(self) -> None:
        """For ever."""
        failures = 0
        while True:
            before = self.sequence
            try:
                await self._follow()
            except* _Lost as lost:
                _log.info("reading the stream anew", after=self.sequence, reason=str(lost.exceptions[0]))
            except* LogError as errors:
                first = errors.exceptions[0]  # of one TaskGroup: no groups in it
                if isinstance(first, LogError):
                    self._stumble(first)
            except* Exception as errors:
                first = errors.exceptions[0]
                self.trouble = LogUnavailable(f"the replicator failed: {type(first).__name__}")
                _log.error("the replicator failed", error=type(first).__name__, reason=str(first))
            failures = 0 if self.sequence > before else failures + 1
            await asyncio.sleep(BACK_OFF[min(failures, len(BACK_OFF) - 1)])

    def _stumble(self, error: LogError) -> None:
        if str(error) != str(self.trouble):
            _log.warning("the stream is not applied", after=self.sequence, reason=str(error))
        self.trouble = error

    async def _follow(self) -> None:
        queue: asyncio.Queue[ReceivedFrame] = asyncio.Queue(QUEUE_MESSAGES)
        cursor = await self._replica.cursor()
        self._held = 0
        self._move(cursor.sequence)  # another process may have been quicker
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read(cursor, queue))
            group.create_task(self._watch())
            group.create_task(self._apply(queue))

    async def _watch(self) -> None:
        await self._stream.broken()
        raise _Lost("the connection broke")

    async def _read(self, cursor: Cursor, queue: asyncio.Queue[ReceivedFrame]) -> None:
        await check_stream(
            self._stream, cursor, body_bytes=0, timeout=ASK_SECONDS
        )  # it may have lost its end meanwhile
        reader = f"tracker-{secrets.token_hex(8)}"
        inbox = await self._stream.inbox()
        try:
            await self._stream.create_consumer(reader, cursor.sequence, idle_seconds=IDLE_SECONDS)
            await self._read_from(reader, inbox, cursor.sequence, queue)
        finally:
            await inbox.close()
            await self._stream.delete_consumer(reader)

    async def _read_from(self, reader: str, inbox: Inbox, after: int, queue: asyncio.Queue[ReceivedFrame]) -> None:
        asked = {
            "batch": BATCH_MESSAGES, "max_bytes": max(BATCH_BYTES, 2 * self._stream.max_message_bytes),
            "expires": EXPIRES_SECONDS * 10**9, "idle_heartbeat": HEARTBEAT_MS * 10**6,
        }  # fmt: skip
        left = asks = 0
        while True:
            # Half of what was asked for is still to come: the servers never wait for us.
            if left <= BATCH_MESSAGES // 2:
                await self._stream.pull(reader, f"{inbox.address}.{asks}", asked)
                asks, left = asks + 1, left + BATCH_MESSAGES
            message = await self._next(inbox)
            if (status := (message.headers or {}).get("Status")) is not None:
                left -= _unserved(message, status, after)
                if self.sequence >= after:
                    self._is_well()  # there is nothing to apply, and somebody says so
                continue
            left -= 1
            arrived = await self._arrived(message, after)
            if arrived.entry.sequence != after + 1:
                await self._expect_there(after + 1)
                raise _Lost(f"message {arrived.entry.sequence} came after {after}")
            after += 1
            await self._wait_for_room()
            self._held += arrived.size
            await queue.put(arrived)

    async def _next(self, inbox: Inbox) -> Msg:
        if not inbox.arrived.empty():
            return inbox.arrived.get_nowait()
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                return await inbox.arrived.get()
        except TimeoutError:
            self._stream.expect_pulling()
            raise _Lost(f"the reader said nothing for {SILENCE_SECONDS:.0f} s") from None

    async def _arrived(self, message: Msg, after: int) -> ReceivedFrame:
        try:
            arrived = _arrived(message, self._stream.name)
        except NodeOutdated:
            # What can be applied is: how far this node got does not depend on how much was read at once.
            await self.reached(after)
            raise
        if arrived.flaw is not None:
            self.skipped += 1
            _log.error("a message is passed over, as on every node", sequence=arrived.entry.sequence, why=arrived.flaw)
        return arrived

    async def _wait_for_room(self) -> None:
        while self._held > QUEUE_BYTES:
            self._room.clear()
            await self._room.wait()

    async def _expect_there(self, sequence: int) -> None:
        """Raise `LogCorrupt` where the stream does not have a message any more."""
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
            self._held -= size
            self._room.set()
            answers = await self._replica.apply([each.entry for each in batch])
            self._is_well()
            for each, given in zip(batch, answers, strict=True):
                if each.frame is not None:
                    self._applied(each.frame, given)
            self._move(batch[-1].entry.sequence)

    def _is_well(self) -> None:
        self.trouble = None

    def _move(self, sequence: int) -> None:
        self.sequence = max(self.sequence, sequence)
        self._moved.set()
        self._moved = asyncio.Event()


def _unserved(message: Msg, status: str, after: int) -> int:
    """How much of what was asked for will not come: a status ends its request, or is a heartbeat. Raises `_Lost`."""
    headers = message.headers or {}
    if status == "100":
        # Sent to where we were before the connection broke, perhaps: nothing else would tell before the next message.
        if int(headers.get("Nats-Last-Stream", "0")) > after:
            raise _Lost(f"message {after + 1} was sent and has not arrived")
        return 0
    if status in {"404", "408"} or any(
        each in headers.get("Description", "") for each in ("MaxBytes", "Batch Completed")
    ):
        return int(headers.get("Nats-Pending-Messages", "0"))
    raise _Lost(f"the reader ended: {status} {headers.get('Description', '')}")


def _arrived(message: Msg, stream: str) -> ReceivedFrame:
    """The message of a stream. What was sent elsewhere than to its frames has no rows."""
    # $JS.ACK.<stream>.<reader>.<times>.<sequence>.<…>.<ns since 1970>.<left>, or with domain and account behind ACK
    words = message.reply.split(".")
    sequence = words[5] if len(words) == 9 else words[7]
    found = decode(message.data, int(sequence)) if message.subject == f"{stream}.frames" else None
    frame, flaw = (found, None) if isinstance(found, Frame) else (None, found)
    said = messages.decode(message.data) if message.subject == f"{stream}.checkpoints" else None
    if message.subject == f"{stream}.checkpoints" and said is None:
        flaw = "it says nothing about the tree"
    digest = hashlib.sha256(message.data).digest()
    rows, erases, named = (frame.records, frame.erases, frame.id) if frame is not None else ((), (), b"")
    entry = StreamEntry(int(sequence), digest, rows, erases, named, said=said)
    return ReceivedFrame(entry, frame, len(message.data), flaw)
