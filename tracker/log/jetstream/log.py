"""The log of many nodes: NATS JetStream decides order and durability, every node applies it to a SQLite file of its own.

    append ── group commit ── frame ── publish, acknowledged by a majority ──► STREAM ── replicator ──► replica
                                └────────── answered when it is applied here ◄─────────────────────────────┘
    everything that reads ── replica (`log/jetstream/replica_log.py`)

One frame of a node is in flight at a time. One that is not acknowledged is sent again, the same bytes under the same id, for
15 s: the servers keep it once, and its answers are those of its first application. After that nothing is promised: it may
still appear, and the sender's repeat is then found to be one. What the replica knows already is answered from it.

If we die between acknowledgement and answer, the record is in the stream, and the sender's repeat is a duplicate.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Self, TypeVar

from tracker.domain.deliveries import Appended, Verified
from tracker.errors import LogCorrupt, LogError, LogUnavailable, NodeBehind, NodeDiverged, NodeOutdated
from tracker.log.contract import Lag
from tracker.log.frames import FRAME_BYTES, Frame, FrameRow, encode, frame_row, max_frame_bytes
from tracker.log.group_commit import GroupCommit, LogObserver
from tracker.log.jetstream.validation import check_stream, check_config
from tracker.log.jetstream.replicator import Replicator
from tracker.log.jetstream.encryption import FrameEncryption, copied_frame_id, open_frame_encryption
from tracker.log.jetstream.stream import WRONG_LAST, PublishRefused, Stream, StreamSettings, StreamState
from tracker.log.jetstream.tree_messages import ClusterReplica
from tracker.log.sqlite.trust import TrustedKeys
from tracker.log.sqlite.replica import Replica
from tracker.log.keys.key_store import KeyStore
from tracker.log.keys.frame_store import DataKey

RETRY_SECONDS = 15.0
ATTEMPT_SECONDS = 2.0
QUEUED_SECONDS = 1.0
BACK_OFF = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
FAILURE_SECONDS = 30.0
CANCEL_SECONDS = 0.5
CLOSING_SECONDS = 2.0
"""Nobody waits any more for what is accepted when the log is closed: it is tried for so long."""
LOOK_SECONDS, SILENT_SECONDS = 1.0, 5.0
LOOKS = 3_600
"""So many are remembered until what they saw is applied; a node that is further behind seems to be even further."""

Done = TypeVar("Done")


class JetstreamLog(ClusterReplica):
    """The contract of `Log` on a stream and a replica. Opened by `open`, never by its constructor."""

    def __init__(
        self, stream: Stream, replica: Replica, state: StreamState, sequence: int, *, queue_bound: int,
        observe: LogObserver | None, sealing: FrameEncryption | None = None,
    ) -> None:  # fmt: skip
        super().__init__(replica)
        self._sealing = sealing
        self.erasure_applied = asyncio.Event()
        if sealing is not None:
            replica.fetch_keys, replica.on_erased = sealing.fetch_keys, sealing.schedule_destruction
            sealing.on_erasure = self.erasure_applied.set
        self.state = state
        self._stream = stream
        self._waiting: dict[bytes, asyncio.Future[list[Appended]]] = {}
        self._replicator = Replicator(stream, replica, sequence, self._applied)
        self._unfit: str | None = None
        self._diverged: Callable[[], object | None] = lambda: None
        self._level = asyncio.Event()
        self._level_at = 0.0
        self._looks: deque[tuple[float, int]] = deque(maxlen=LOOKS)
        self._looked_at = asyncio.get_running_loop().time()
        self._failed: tuple[float, str] | None = None
        self._ends = float("inf")
        self._limit: asyncio.Timeout | None = None
        self._group_commit = GroupCommit(
            self._commit,
            queue_bound=queue_bound,
            observe=observe,
            batch_bytes=self.max_batch_bytes,
            weigh=max_frame_bytes,
        )
        self._saw(state)
        upkeep = (
            ()
            if sealing is None
            else sealing.background_tasks(self._replicator.reached, lambda: self.stop_reason() is None)
        )
        # Owned here and not by the service: what was accepted is still answered while the service ends.
        self._tasks = [
            asyncio.create_task(each, name="log-stream") for each in (self._replicator.run(), self._look(), *upkeep)
        ]

    @classmethod
    async def open(
        cls,
        path: str | Path,
        settings: StreamSettings,
        *,
        queue_bound: int = 10_000,
        observe: LogObserver | None = None,
        busy_timeout: float = 3.0,
        body_bytes: int = 0,
        vault: KeyStore | None = None,
        known: TrustedKeys | None = None,
    ) -> Self:
        """Open this node's replica and go on applying the stream to it. It may be behind (`caught_up`).

        `body_bytes`: the largest body that has to fit into a message. `vault` is closed with the log, or when this raises.
        `known`: whose word about the tree is kept, None: everybody's. Raises `LogMissing` (no replica, no stream),
        `LogCorrupt`, `LogUnavailable` (NATS cannot be reached, or the stream is not the one that this replica follows).
        """
        async with contextlib.AsyncExitStack() as undo:
            replica = await Replica.open(path, queue_bound=queue_bound, busy_timeout=busy_timeout, vault=vault)
            undo.push_async_callback(replica.close)
            cursor = await replica.cursor()
            await replica.set_trusted_keys(known)
            stream = await Stream.open(settings)
            undo.push_async_callback(stream.close)
            state = await check_stream(stream, cursor, body_bytes=body_bytes)
            sealing = await open_frame_encryption(stream, replica, vault)
            log = cls(
                stream, replica, state, cursor.sequence, queue_bound=queue_bound, observe=observe, sealing=sealing
            )
            undo.pop_all()
        return log

    @property
    def max_batch_bytes(self) -> int:
        """See `Log.most_bytes`: so much fits into a frame whether it packs well or not."""
        return self._stream.max_message_bytes - FRAME_BYTES

    async def append(self, verified: Verified) -> Appended:
        """See `Log.append`. After `LogUnavailable` it may still appear."""
        return (await self._group_commit.append([verified]))[0]

    def append_for(self, answer: asyncio.Future[Appended], verified: Verified) -> None:
        """See `Log.append_for`."""
        self._group_commit.append_for(answer, verified)

    async def append_all(self, batch: Sequence[Verified]) -> list[Appended]:
        """See `Log.append_all`: one frame. Raises `LogUnavailable` where it does not fit into a message."""
        return await self._group_commit.append(batch) if batch else []

    async def append_erasure(self, verified: Verified, positions: Sequence[int]) -> Appended:
        """See `Log.append_erasure`. The record and what it erases travel in one frame."""

        async def erase() -> Appended:
            return (await self._commit([verified], erasing=positions))[0]

        return await self._group_commit.run_exclusive(erase)

    async def append_raw(
        self, rows: Sequence[FrameRow], erases: Sequence[int], keys: Sequence[DataKey | None]
    ) -> list[int]:
        """Append records as another log keeps them, in one frame; their positions. `erases`: what the only one erases.

        `keys`: of each record, None for one in clear and for one that is erased. Raises `LogUnavailable`, also where anybody else has appended to the stream since this node applied it.
        """

        async def taken() -> list[Appended]:
            self._expect_taking()
            frame = Frame(copied_frame_id(rows), self._stream.settings.node, list(rows), list(erases))
            entry = None
            if any(row[8] is not None for row in rows):
                if self._sealing is None:
                    raise LogUnavailable("sealed records are to be copied: name a master key under [sealing] keys")
                entry = self._sealing.entry_of(frame.id, keys)
            return await self._sent(frame, entry, after=self._replicator.sequence)

        positions = [answer.position for answer in await self._group_commit.run_exclusive(taken)]
        if erases and self._sealing is not None:
            await self._sealing.destroy_keys(erases)
        return positions

    async def destroy_keys(self, positions: Sequence[int]) -> None:
        """See `Log.destroy_keys`. On return they are gone from the bucket and from this node; other nodes follow the stream."""
        if self._sealing is None:
            raise LogUnavailable("records are kept in clear: without [sealing] keys nothing can be erased")
        if isinstance(self.stop_reason(), NodeDiverged):  # these positions may be other people's
            self._expect_ours()
        await self._sealing.destroy_keys(positions)

    async def wait_until_caught_up(self, timeout: float | None = None) -> bool:
        """See `ClusteredLog.caught_up`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._level.wait()
        return self._level.is_set()

    def lag(self) -> Lag:
        """See `ClusteredLog.behind`."""
        messages = max(0, self.state.last - self._replicator.sequence)
        if not self._level.is_set():
            return Lag(messages, float("inf"))
        # By no clock but our own steady one: that of this machine, or of a server, may be an hour off.
        self._compare()
        return Lag(messages, max(0.0, asyncio.get_running_loop().time() - self._level_at))

    def stop_reason(self) -> NodeDiverged | NodeOutdated | None:
        """See `ClusteredLog.stopped`."""
        found, trouble = self._diverged(), self._replicator.trouble
        if found is not None:
            return NodeDiverged(str(found))
        return NodeOutdated(str(trouble)) if isinstance(trouble, NodeOutdated) else None

    def set_divergence_check(self, diverged: Callable[[], object | None]) -> None:
        """See `ClusteredLog.stop_where`."""
        self._diverged = diverged

    def skipped_messages(self) -> int:
        """See `ClusteredLog.refused`."""
        return self._replicator.skipped

    def progress(self) -> tuple[int, int]:
        """See `ClusteredLog.progress`."""
        return self._replicator.sequence, max(self.state.last, self._replicator.sequence)

    def servers(self) -> tuple[str, ...]:
        """See `ClusteredLog.servers`."""
        return self.state.servers

    async def check_writable(self) -> None:
        """Whether records could be taken now. Raises as `append` does."""
        now = asyncio.get_running_loop().time()
        self._expect_ours()
        if not self._stream.is_connected:
            raise LogUnavailable("there is no connection to NATS: records are refused until one of its servers answers")
        if self._replicator.trouble is not None:
            raise LogUnavailable(f"the stream is not applied: {self._replicator.trouble}")
        self._expect_taking()
        if self._sealing is not None and self._sealing.trouble is not None:
            raise LogUnavailable(self._sealing.trouble)
        if now - self._looked_at > SILENT_SECONDS:
            raise LogUnavailable(f"the stream has said nothing for {now - self._looked_at:.0f} s: has it a leader?")
        if self._failed is not None and now - self._failed[0] < FAILURE_SECONDS:
            raise LogUnavailable(f"the last append failed, none has succeeded since: {self._failed[1]}")
        await self.replica.check_writable()

    def _expect_ours(self) -> None:
        """Raise where this node must not vouch for anything."""
        stopped = self.stop_reason()
        if stopped is not None:
            raise stopped

    def _expect_taking(self) -> None:
        """Raise where nothing may be added by this node now, in whichever way."""
        self._expect_ours()
        if not self._level.is_set():
            raise NodeBehind(f"this node is catching up: it is {self.lag().messages} messages behind the stream")
        unfit = self._replicator.trouble if isinstance(self._replicator.trouble, LogCorrupt) else self._unfit
        unfit = unfit or (self._sealing and self._sealing.unfit)
        if unfit is not None:
            raise LogUnavailable(f"nothing is added to the stream: {unfit}")
        if self._sealing is None and self.replica.has_encrypted:
            raise LogUnavailable("other nodes seal what they record: name the master key under [sealing] keys")

    async def _commit(self, batch: Sequence[Verified], *, erasing: Sequence[int] = ()) -> list[Appended]:
        self._expect_taking()
        named = [(each, self.replica.dedupe_hashes(each)) for each in batch]
        known = await self.replica.positions_of_keys([(each.source, name) for each, names in named for name in names])
        firsts = [
            next((known[each.source, name] for name in names if (each.source, name) in known), None)
            for each, names in named
        ]
        fresh = [(each, names[0]) for (each, names), first in zip(named, firsts, strict=True) if first is None]
        given = iter(await self._sent(*self._framed(fresh, erasing)) if fresh else ())
        return [next(given) if first is None else Appended(first, duplicate=True) for first in firsts]

    def _framed(self, fresh: Sequence[tuple[Verified, str]], erasing: Sequence[int]) -> tuple[Frame, bytes | None]:
        """The frame of deliveries and the names they are known by; where they are sealed, its keys."""
        frame_id = secrets.token_bytes(16)
        if self._sealing is None:
            rows, keys = [frame_row(each) for each, _ in fresh], None
        else:
            rows, keys = self._sealing.encrypt(frame_id, fresh)
        return Frame(frame_id, self._stream.settings.node, rows, list(erasing)), keys

    async def _sent(self, frame: Frame, keys: bytes | None, *, after: int | None = None) -> list[Appended]:
        """The answers to the records of one frame, once it is acknowledged and applied here.

        `keys`: what the bucket has to have before. `after`: only as the next message after that one.
        """
        data = encode(frame)
        if len(data) > self._stream.max_message_bytes:
            raise LogUnavailable(
                f"{len(frame.records)} records in one do not fit into a message of NATS ({len(data)} of "
                f"{self._stream.max_message_bytes} bytes): raise max_payload in nats-server.conf"
            )
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now >= self._ends:
            raise LogUnavailable("the server is stopping, and NATS did not answer: send it again")
        # What waited behind a failure has waited long enough: it does not wait for another 15 s each.
        is_behind_failure = self._failed is not None and now - self._failed[0] < QUEUED_SECONDS
        deadline = now + (ATTEMPT_SECONDS if is_behind_failure else RETRY_SECONDS)
        answer = self._waiting[frame.id] = loop.create_future()
        try:
            sequence = await self._insisted(lambda left: self._tried(frame.id, keys, data, after, left), deadline)
            try:
                async with asyncio.timeout_at(min(deadline, self._ends)) as self._limit:
                    await self._replicator.reached(sequence)
            except TimeoutError:
                raise LogUnavailable(
                    "the stream has it, but this node does not get to applying it: send it again"
                ) from None
        except LogError as error:
            self._failed = (loop.time(), str(error))
            raise
        finally:
            del self._waiting[frame.id]
            if self._sealing is not None:
                self._sealing.forget(frame.id)
        self._failed = None
        if answer.done():
            return answer.result()
        try:
            return await self.replica.answers_to(frame.records)
        except KeyError:  # it has a place that something else had before
            raise LogUnavailable("the stream has lost what this node has applied: nothing is added to it") from None

    async def _tried(self, frame: bytes, keys: bytes | None, data: bytes, after: int | None, left: float) -> int:
        """One attempt to get a frame into the stream, its keys before it: at the next one they may have been swept."""
        if keys is not None and self._sealing is not None:
            await self._sealing.put(frame, keys, anew=after is not None)
        return await self._stream.publish(data, frame.hex(), left, after)

    async def _insisted(self, attempt: Callable[[float], Awaitable[Done]], deadline: float) -> Done:
        """What an attempt brings that a majority acknowledges. The same bytes again and again until the deadline."""
        loop = asyncio.get_running_loop()
        attempts = 0
        while True:
            left = min(deadline, self._ends) - loop.time()
            try:
                return await attempt(min(ATTEMPT_SECONDS, max(left, 0.1)))
            except LogUnavailable as error:
                # The servers know a message that they have by its id before they look at its place.
                if isinstance(error, PublishRefused) and error.code == WRONG_LAST:
                    raise LogUnavailable("somebody else writes into the stream meanwhile: stop it first") from None
                pause = BACK_OFF[min(attempts, len(BACK_OFF) - 1)]
                if loop.time() + pause >= min(deadline, self._ends):
                    raise LogUnavailable(f"{error}: it may appear later, send it again") from error
                attempts += 1
                await asyncio.sleep(pause)

    def _applied(self, frame: Frame, answers: list[Appended] | None) -> None:
        waiting = self._waiting.get(frame.id)
        # Only the first application counts: a frame that is there twice is answered by its first.
        if waiting is not None and answers is not None and not waiting.done():
            waiting.set_result(answers)

    async def _look(self) -> None:
        """Ask the stream's leader how far the stream is, for ever."""
        while True:
            if self._level.is_set():
                await asyncio.sleep(LOOK_SECONDS)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._replicator.reached(self.state.last)
            # Not answered: there is no connection or no leader now; `probe` says for how long.
            with contextlib.suppress(LogError):
                asked_at = asyncio.get_running_loop().time()
                self._saw(await self._stream.state(timeout=ATTEMPT_SECONDS), asked_at)

    def _saw(self, state: StreamState, asked_at: float | None = None) -> None:
        self.state = state
        self._looked_at = asyncio.get_running_loop().time()
        try:
            check_config(state, self._stream.settings)
            self._unfit = None
        except LogUnavailable as error:  # somebody edited the stream while we run
            self._unfit = str(error)
        self._looks.append((self._looked_at if asked_at is None else asked_at, state.last))
        self._compare()
        if not self._looks:
            self._level.set()

    def _compare(self) -> None:
        """When everything was in the stream that is applied here: at the newest look whose last message is."""
        while self._looks and self._replicator.sequence >= self._looks[0][1]:
            self._level_at = self._looks.popleft()[0]

    def limit_shutdown(self, seconds: float) -> None:
        """See `ClusteredLog.end_within`."""
        self._ends = min(self._ends, asyncio.get_running_loop().time() + seconds)
        until = None if self._limit is None else self._limit.when()
        if self._limit is not None and until is not None and until > self._ends:
            with contextlib.suppress(RuntimeError):  # it is over
                self._limit.reschedule(self._ends)

    async def close(self) -> None:
        """See `Log.close`."""
        self.limit_shutdown(CLOSING_SECONDS)
        try:
            await self._group_commit.close()
            # Again and again: a TaskGroup one of whose tasks fails in the moment it is cancelled forgets that it was.
            while not all(task.done() for task in self._tasks):
                for task in self._tasks:
                    task.cancel()
                await asyncio.wait(self._tasks, timeout=CANCEL_SECONDS)
            await self._stream.close()
        finally:
            # Whatever went wrong before: SQLite's threads would keep the process from ending.
            await self.replica.close()
