"""The log of many nodes: NATS JetStream decides order and durability, and every node applies it to a SQLite file of its own.

    append ── group commit ── frame ── publish, acknowledged by a majority ──► STREAM ── replicator ──► replica
                                └────────── answered when it is applied here ◄─────────────────────────────┘
    all reads ── replica (`log/jetstream/replica_log.py`)

A node has one frame in flight at a time. A frame that is not acknowledged is sent again for 15 s, the same bytes under the same
id: the servers store it once, and its answers are those of its first application. After that the append fails. The frame may
still appear in the stream; when the sender repeats its delivery, it is found to be a duplicate. Deliveries that the replica
knows already are answered without a frame.

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

from tracker.config.jetstream import JetstreamConfig
from tracker.domain.deliveries import Appended, Verified
from tracker.errors import LogCorrupt, LogError, LogUnavailable, NodeBehind, NodeDiverged, NodeOutdated
from tracker.log.contract import Lag
from tracker.log.frames import FRAME_BYTES, Frame, FrameRow, encode, frame_row, max_frame_bytes
from tracker.log.group_commit import GroupCommit, LogObserver
from tracker.log.jetstream.validation import check_stream, check_config
from tracker.log.jetstream.replicator import Replicator
from tracker.log.jetstream.encryption import FrameEncryption, copied_frame_id, open_frame_encryption
from tracker.log.jetstream.stream import WRONG_LAST, PublishRefused, Stream, StreamState
from tracker.log.jetstream.replica_log import ReplicaLog
from tracker.log.sqlite.trust import TrustedKeys
from tracker.log.sqlite.replica import Replica
from tracker.log.keys.key_store import DataKey, KeyStore

RETRY_SECONDS = 15.0
ATTEMPT_SECONDS = 2.0
QUEUED_SECONDS = 1.0
BACK_OFF = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
FAILURE_SECONDS = 30.0
CANCEL_SECONDS = 0.5
CLOSING_SECONDS = 2.0
"""How long accepted appends are still tried when the log is closed: nobody waits for them any more."""
STATE_SECONDS, SILENT_SECONDS = 1.0, 5.0
OBSERVATIONS = 3_600
"""How many observations of the stream's end are kept until they are applied; a node that is further behind overstates it."""

Result = TypeVar("Result")


class JetstreamLog(ReplicaLog):
    """The contract of `ClusteredLog` on a stream and a replica. Made by `open`, never by its constructor."""

    def __init__(
        self, stream: Stream, replica: Replica, state: StreamState, sequence: int, *, queue_bound: int,
        observe: LogObserver | None, checkpoint_key: str = "", encryption: FrameEncryption | None = None,
    ) -> None:  # fmt: skip
        super().__init__(replica, stream, Replicator(stream, replica, sequence, self._on_applied), checkpoint_key)
        self._encryption = encryption
        self.erasure_applied = asyncio.Event()
        if encryption is not None:
            replica.fetch_keys, replica.on_erased = encryption.fetch_keys, encryption.schedule_destruction
            encryption.on_erasure = self.erasure_applied.set
        self.state = state
        self._waiting: dict[bytes, asyncio.Future[list[Appended]]] = {}
        self._config_error: str | None = None
        self._diverged: Callable[[], object | None] = lambda: None
        self._caught_up = asyncio.Event()
        self._caught_up_at = 0.0
        self._observed: deque[tuple[float, int]] = deque(maxlen=OBSERVATIONS)
        """(when, last message of the stream then), not applied here yet."""
        self._observed_at = asyncio.get_running_loop().time()
        self._failed: tuple[float, str] | None = None
        self._ends_at = float("inf")
        self._timeout: asyncio.Timeout | None = None
        self._group_commit = GroupCommit(
            self._commit,
            queue_bound=queue_bound,
            observe=observe,
            batch_bytes=self.max_batch_bytes,
            measure=max_frame_bytes,
        )
        self._observe_state(state)
        key_tasks = (
            ()
            if encryption is None
            else encryption.background_tasks(self._replicator.reached, lambda: self.stop_reason() is None)
        )
        # These tasks belong to the log and not to the server: accepted appends are still answered while the server stops.
        self._tasks = [
            asyncio.create_task(each, name="log-stream")
            for each in (self._replicator.run(), self._watch_state(), *key_tasks)
        ]

    @classmethod
    async def open(
        cls,
        path: str | Path,
        config: JetstreamConfig,
        *,
        queue_bound: int = 10_000,
        observe: LogObserver | None = None,
        busy_timeout: float = 3.0,
        body_bytes: int = 0,
        key_store: KeyStore | None = None,
        trusted_keys: TrustedKeys | None = None,
        checkpoint_key: str = "",
    ) -> Self:
        """Open this node's replica and continue to apply the stream to it. It may be behind (`wait_until_caught_up`).

        `body_bytes`: the largest body that has to fit into a message. `key_store` is closed with the log, or when this raises.
        `trusted_keys`: whose messages about the tree are stored; None: everybody's. `checkpoint_key`: the verifier key of
        this node's checkpoints, "" where it signs none.
        Raises `LogMissing` (no replica, no stream), `LogCorrupt`, `LogUnavailable` (NATS cannot be reached, or the stream
        is not the one that this replica follows).
        """
        async with contextlib.AsyncExitStack() as undo:
            replica = await Replica.open(path, queue_bound=queue_bound, busy_timeout=busy_timeout, key_store=key_store)
            undo.push_async_callback(replica.close)
            cursor = await replica.cursor()
            await replica.set_trusted_keys(trusted_keys)
            stream = await Stream.open(config)
            undo.push_async_callback(stream.close)
            state = await check_stream(stream, cursor, body_bytes=body_bytes)
            encryption = await open_frame_encryption(stream, replica, key_store, signs=bool(checkpoint_key))
            log = cls(
                stream,
                replica,
                state,
                cursor.sequence,
                queue_bound=queue_bound,
                observe=observe,
                checkpoint_key=checkpoint_key,
                encryption=encryption,
            )
            undo.pop_all()
        return log

    @property
    def max_batch_bytes(self) -> int:
        """What fits into a frame even if it does not compress."""
        return self._stream.max_message_bytes - FRAME_BYTES

    async def append(self, verified: Verified) -> Appended:
        """Append one. After `LogUnavailable` it may still appear."""
        return (await self._group_commit.append([verified]))[0]

    def append_for(self, answer: asyncio.Future[Appended], verified: Verified) -> None:
        self._group_commit.append_for(answer, verified)

    async def append_all(self, batch: Sequence[Verified]) -> list[Appended]:
        """Append many in one frame. Raises `LogUnavailable` where it does not fit into a message."""
        return await self._group_commit.append(batch) if batch else []

    async def append_erasure(self, verified: Verified, positions: Sequence[int]) -> Appended:
        """See `Appender.append_erasure`. The record and what it erases travel in one frame."""

        async def erase() -> Appended:
            return (await self._commit([verified], erasing=positions))[0]

        return await self._group_commit.run_exclusive(erase)

    async def append_raw(
        self, rows: Sequence[FrameRow], erases: Sequence[int], keys: Sequence[DataKey | None]
    ) -> list[int]:
        """Append records as another log stores them, in one frame; returns their positions. `erases`: what its only record erases.

        `keys`: of each record; None for one that is not encrypted or is erased. Raises `LogUnavailable`, also where another
        process has appended to the stream since this node applied it.
        """

        async def append() -> list[Appended]:
            self._expect_appendable()
            frame = Frame(copied_frame_id(rows), self._stream.config.node, list(rows), list(erases))
            entry = None
            if any(row[8] is not None for row in rows):
                if self._encryption is None:
                    raise LogUnavailable(
                        "these records are encrypted: to copy them, name a master key under [sealing] keys"
                    )
                entry = self._encryption.wrap_entry(frame.id, keys)
            return await self._send(frame, entry, after=self._replicator.sequence)

        positions = [answer.position for answer in await self._group_commit.run_exclusive(append)]
        if erases and self._encryption is not None:
            await self._encryption.destroy_keys(erases)
        return positions

    async def destroy_keys(self, positions: Sequence[int]) -> None:
        """Destroy keys in the bucket and on this node. Other nodes destroy theirs as they apply the erasure."""
        if self._encryption is None:
            raise LogUnavailable("records are not encrypted: without [sealing] keys nothing can be erased")
        if isinstance(self.stop_reason(), NodeDiverged):  # these positions may hold other records here
            self._expect_not_stopped()
        await self._encryption.destroy_keys(positions)

    async def wait_until_caught_up(self, timeout: float | None = None) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._caught_up.wait()
        return self._caught_up.is_set()

    def lag(self) -> Lag:
        messages = max(0, self.state.last - self._replicator.sequence)
        if not self._caught_up.is_set():
            return Lag(messages, float("inf"))
        # Only our own monotonic clock counts: the time of this machine or of a server may be an hour off.
        self._update_caught_up()
        return Lag(messages, max(0.0, asyncio.get_running_loop().time() - self._caught_up_at))

    def stop_reason(self) -> NodeDiverged | NodeOutdated | None:
        diverged, trouble = self._diverged(), self._replicator.trouble
        if diverged is not None:
            return NodeDiverged(str(diverged))
        return NodeOutdated(*trouble.args) if isinstance(trouble, NodeOutdated) else None

    def set_divergence_check(self, diverged: Callable[[], object | None]) -> None:
        self._diverged = diverged

    def skipped_messages(self) -> int:
        return self._replicator.skipped

    def progress(self) -> tuple[int, int]:
        return self._replicator.sequence, max(self.state.last, self._replicator.sequence)

    def servers(self) -> tuple[str, ...]:
        return self.state.servers

    async def check_writable(self) -> None:
        now = asyncio.get_running_loop().time()
        self._expect_not_stopped()
        if not self._stream.is_connected:
            raise LogUnavailable("there is no connection to NATS: deliveries are refused until a server answers")
        if self._replicator.trouble is not None:
            raise LogUnavailable(f"the stream cannot be applied: {self._replicator.trouble}")
        self._expect_appendable()
        if self._encryption is not None and self._encryption.trouble is not None:
            raise LogUnavailable(self._encryption.trouble)
        if now - self._observed_at > SILENT_SECONDS:
            raise LogUnavailable(
                f"the stream has not answered for {now - self._observed_at:.0f} s: check that it has a leader"
            )
        if self._failed is not None and now - self._failed[0] < FAILURE_SECONDS:
            raise LogUnavailable(f"the last append failed, none has succeeded since: {self._failed[1]}")
        await self.replica.check_writable()

    def _expect_not_stopped(self) -> None:
        """Raise the `stop_reason`, where there is one."""
        reason = self.stop_reason()
        if reason is not None:
            raise reason

    def _expect_appendable(self) -> None:
        """Raise where this node must not append to the stream now."""
        self._expect_not_stopped()
        if not self._caught_up.is_set():
            raise NodeBehind(f"this node is catching up: it is {self.lag().messages} messages behind the stream")
        reason = self._replicator.trouble if isinstance(self._replicator.trouble, LogCorrupt) else self._config_error
        reason = reason or (self._encryption and self._encryption.config_error)
        if reason is not None:
            raise LogUnavailable(f"nothing is appended to the stream: {reason}")
        if self._encryption is None and self.replica.has_encrypted:
            raise LogUnavailable("other nodes encrypt their records: name the master key under [sealing] keys")

    async def _commit(self, batch: Sequence[Verified], *, erasing: Sequence[int] = ()) -> list[Appended]:
        self._expect_appendable()
        named = [(each, self.replica.dedupe_hashes(each)) for each in batch]
        known = await self.replica.positions_of_keys([(each.source, name) for each, names in named for name in names])
        firsts = [
            next((known[each.source, name] for name in names if (each.source, name) in known), None)
            for each, names in named
        ]
        new = [(each, names[0]) for (each, names), first in zip(named, firsts, strict=True) if first is None]
        appended = iter(await self._send(*self._make_frame(new, erasing)) if new else ())
        return [next(appended) if first is None else Appended(first, duplicate=True) for first in firsts]

    def _make_frame(self, new: Sequence[tuple[Verified, str]], erasing: Sequence[int]) -> tuple[Frame, bytes | None]:
        """The frame of (delivery, dedupe key to store); and the entry with its keys where it is encrypted."""
        frame_id = secrets.token_bytes(16)
        if self._encryption is None:
            rows, entry = [frame_row(each) for each, _ in new], None
        else:
            rows, entry = self._encryption.encrypt(frame_id, new)
        return Frame(frame_id, self._stream.config.node, rows, list(erasing)), entry

    async def _send(self, frame: Frame, entry: bytes | None, *, after: int | None = None) -> list[Appended]:
        """Publish a frame; returns the answers to its records once it is acknowledged and applied here.

        `entry`: its keys, to be in the bucket before it. `after`: only as the next message after that one.
        """
        data = encode(frame)
        if len(data) > self._stream.max_message_bytes:
            raise LogUnavailable(
                f"{len(frame.records)} records together do not fit into a NATS message ({len(data)} of "
                f"{self._stream.max_message_bytes} bytes): raise max_payload in nats-server.conf"
            )
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now >= self._ends_at:
            raise LogUnavailable("the server is stopping, and NATS did not answer: send it again")
        # Appends queued behind a failed one have waited already: they do not wait 15 s more each.
        is_behind_failure = self._failed is not None and now - self._failed[0] < QUEUED_SECONDS
        deadline = now + (ATTEMPT_SECONDS if is_behind_failure else RETRY_SECONDS)
        answer = self._waiting[frame.id] = loop.create_future()
        try:
            sequence = await self._retry(lambda left: self._attempt(frame.id, entry, data, after, left), deadline)
            try:
                async with asyncio.timeout_at(min(deadline, self._ends_at)) as self._timeout:
                    await self._replicator.reached(sequence)
            except TimeoutError:
                raise LogUnavailable(
                    "the stream has it, but this node could not apply it in time: send it again"
                ) from None
        except LogError as error:
            self._failed = (loop.time(), str(error))
            raise
        finally:
            del self._waiting[frame.id]
            if self._encryption is not None:
                self._encryption.forget(frame.id)
        self._failed = None
        if answer.done():
            return answer.result()
        try:
            return await self.replica.answers_to(frame.records)
        except KeyError:  # its sequence belonged to another message before
            raise LogUnavailable(
                "the stream has lost messages that this node has applied: nothing is appended to it"
            ) from None

    async def _attempt(self, frame: bytes, entry: bytes | None, data: bytes, after: int | None, left: float) -> int:
        """Publish once, after its keys are in the bucket. Each attempt checks them again: they may have been swept."""
        if entry is not None and self._encryption is not None:
            await self._encryption.put(frame, entry, overwrite=after is not None)
        return await self._stream.publish(data, frame.hex(), left, after)

    async def _retry(self, attempt: Callable[[float], Awaitable[Result]], deadline: float) -> Result:
        """Retry until a majority acknowledges, or until the deadline; returns the attempt's result."""
        loop = asyncio.get_running_loop()
        attempts = 0
        while True:
            left = min(deadline, self._ends_at) - loop.time()
            try:
                return await attempt(min(ATTEMPT_SECONDS, max(left, 0.1)))
            except LogUnavailable as error:
                # Not our own message: the servers recognise that by its id before they compare sequences.
                if isinstance(error, PublishRefused) and error.code == WRONG_LAST:
                    raise LogUnavailable(
                        "another process appends to the stream at the same time: stop it first"
                    ) from None
                pause = BACK_OFF[min(attempts, len(BACK_OFF) - 1)]
                if loop.time() + pause >= min(deadline, self._ends_at):
                    raise LogUnavailable(f"{error}: it may appear later, send it again") from error
                attempts += 1
                await asyncio.sleep(pause)

    def _on_applied(self, frame: Frame, answers: list[Appended] | None) -> None:
        waiting = self._waiting.get(frame.id)
        # Only the first application counts, where a frame is in the stream twice.
        if waiting is not None and answers is not None and not waiting.done():
            waiting.set_result(answers)

    async def _watch_state(self) -> None:
        """Ask the stream's leader for its last message, for ever."""
        while True:
            if self._caught_up.is_set():
                await asyncio.sleep(STATE_SECONDS)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(STATE_SECONDS):
                        await self._replicator.reached(self.state.last)
            # On no answer, there is no connection or no leader now: `check_writable` reports for how long.
            with contextlib.suppress(LogError):
                requested_at = asyncio.get_running_loop().time()
                self._observe_state(await self._stream.state(timeout=ATTEMPT_SECONDS), requested_at)

    def _observe_state(self, state: StreamState, requested_at: float | None = None) -> None:
        self.state = state
        self._observed_at = asyncio.get_running_loop().time()
        try:
            check_config(state, self._stream.config)
            self._config_error = None
        except LogUnavailable as error:  # the settings were changed while we run
            self._config_error = str(error)
        self._observed.append((self._observed_at if requested_at is None else requested_at, state.last))
        self._update_caught_up()
        if not self._observed:
            self._caught_up.set()

    def _update_caught_up(self) -> None:
        """Note when this node was last level with the stream: at the newest observation whose last message is applied."""
        while self._observed and self._replicator.sequence >= self._observed[0][1]:
            self._caught_up_at = self._observed.popleft()[0]

    def limit_shutdown(self, seconds: float) -> None:
        self._ends_at = min(self._ends_at, asyncio.get_running_loop().time() + seconds)
        until = None if self._timeout is None else self._timeout.when()
        if self._timeout is not None and until is not None and until > self._ends_at:
            with contextlib.suppress(RuntimeError):  # it is over
                self._timeout.reschedule(self._ends_at)

    async def close(self) -> None:
        self.limit_shutdown(CLOSING_SECONDS)
        try:
            await self._group_commit.close()
            # Repeatedly: a TaskGroup forgets its cancellation when one of its tasks fails at the same moment.
            while not all(task.done() for task in self._tasks):
                for task in self._tasks:
                    task.cancel()
                await asyncio.wait(self._tasks, timeout=CANCEL_SECONDS)
            await self._stream.close()
        finally:
            # In any case: SQLite's threads would keep the process from ending.
            await self.replica.close()
