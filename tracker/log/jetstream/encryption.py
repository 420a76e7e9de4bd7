"""Encryption in a cluster: bodies are encrypted before they go into the stream, and their keys are in the bucket before that.

    encrypt ─► keys into the bucket, acknowledged ─► frame into the stream ─► applied: keys into this node's key store, then rows
    erase ─► the erasure record, applied by every node, which destroys its own copies of the keys
          └► the bucket's entries without these keys, older revisions overwritten: by the eraser, and by any node that finds some left

The stream holds no plain body, proof or dedupe key. What it holds encrypted, it holds for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence

import msgspec
import structlog
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tracker.config.jetstream import JetstreamConfig
from tracker.config.encryption import MasterKey
from tracker.domain.deliveries import Verified
from tracker.errors import LogError, LogMissing, LogUnavailable
from tracker.log.keys.frame_keys import EMPTY_ENTRY, record_aad, group_by_frame
from tracker.log.frames import FrameRow
from tracker.log.jetstream.key_bucket import KeyBucket, BucketUnfit
from tracker.log.jetstream.stream import Stream
from tracker.log.jetstream.orphan_keys import EVERY_SECONDS, Reached, sweep_orphan_keys
from tracker.log.sqlite.replica import Replica
from tracker.log.keys.key_store import KEY_BYTES, DataKey, KeyStore, unwrap_dedupe_secret, wrap_dedupe_secret

LEADER_SECONDS, DESTROY_SECONDS, WATCH_SECONDS = 5.0, 1.0, 2.0
DESTRUCTION_DELAY_SECONDS = 30.0
KEYLESS_SECONDS = 15.0
FRAME_ID_BYTES = 16
PARALLEL_REQUESTS = 32

_log = structlog.get_logger("keys")


def copied_frame_id(rows: Sequence[FrameRow]) -> bytes:
    """The id of a frame of records copied from another log: the same for the same first record.

    A copy that died between entry and frame replaces its entry when it runs again, even if there are more records by then:
    no second entry with these keys remains. Where the frame did arrive, the copy continues behind it, under another id.
    """
    return hashlib.sha256(b"copied" + msgspec.msgpack.encode(rows[0])).digest()[:FRAME_ID_BYTES]


class FrameEncryption:
    """Encrypts one node's frames and keeps their keys in bucket and key store. `signs`: whether this node signs checkpoints."""

    def __init__(self, stream: Stream, replica: Replica, key_store: KeyStore, *, signs: bool) -> None:
        self._stream = stream
        self._bucket = KeyBucket(stream)
        self._replica = replica
        self._key_store = key_store
        self._signs = signs
        self._pending: dict[bytes, bytes] = {}
        """Entries of this node's frames that are not applied yet."""
        self._keyless_since: dict[bytes, float] = {}
        """When a frame was first found to have no keys, or invalid ones."""
        self._scheduled: list[tuple[float, list[int]]] = []
        """(when, positions): check then that no keys of these are left in the bucket."""
        self.on_erasure: Callable[[], None] = lambda: None
        self.trouble: str | None = None
        """What is wrong with the bucket now."""
        self.config_error: str | None = None
        """Which settings of the bucket would lose keys, or keep destroyed ones."""

    def encrypt(self, frame: bytes, batch: Sequence[tuple[Verified, str]]) -> tuple[list[FrameRow], bytes]:
        """The encrypted rows of (delivery, dedupe hash), and the entry with their keys."""
        random = os.urandom(2 * KEY_BYTES * len(batch))
        keys: list[DataKey | None] = []
        rows: list[FrameRow] = []
        for n, (each, name) in enumerate(batch):
            secret = random[2 * KEY_BYTES * n : 2 * KEY_BYTES * (n + 1)]
            key = DataKey(secret[:KEY_BYTES], secret[KEY_BYTES:])
            aad = record_aad(each.source, name)
            one = self._key_store.encrypt(0, each.vendor, each.proof, each.body, key, aad=aad)
            keys.append(key)
            rows.append((
                each.source, each.vendor, each.event, name, each.received_at, each.origin, b"", one.body, one.commitment,
            ))  # fmt: skip
        return rows, self._key_store.wrap_entry(frame, keys)

    def wrap_entry(self, frame: bytes, keys: Sequence[DataKey | None]) -> bytes:
        """The entry of a frame whose records were encrypted before."""
        return self._key_store.wrap_entry(frame, keys)

    async def put(self, frame: bytes, entry: bytes, *, overwrite: bool = False) -> None:
        """Put the keys of a frame into the bucket before it is published. Raises `LogUnavailable`; repeating it is harmless.

        `overwrite`: also where a copy that died has left an entry for the same records.
        """
        await self._bucket.put(frame, entry, overwrite=overwrite)
        self._pending[frame] = entry

    def forget(self, frame: bytes) -> None:
        """The frame is applied, or its publishing was given up."""
        self._pending.pop(frame, None)

    async def fetch_keys(self, frames: Sequence[bytes]) -> None:
        """Bring the keys of these frames into this node's key store, before their rows are applied. Raises `LogError`."""
        missing = await self._key_store.missing_frames(list(dict.fromkeys(frames)))
        for start in range(0, len(missing), PARALLEL_REQUESTS):
            part = missing[start : start + PARALLEL_REQUESTS]
            entries = await asyncio.gather(*map(self._entry, part))
            await self._key_store.store_entries(list(zip(part, entries, strict=True)))

    async def _entry(self, frame: bytes) -> bytes:
        pending = self._pending.get(frame)
        if pending is not None:
            return pending
        found = await self._bucket.find(frame)
        if found is None:
            return await self._missing_entry(frame)
        if self._key_store.is_valid_entry(frame, found[1]):
            self._keyless_since.pop(frame, None)
            return found[1]
        if frame not in self._keyless_since:
            _log.critical("the bucket has no valid keys for a frame: its records are read as lost", frame=frame.hex())
        self._keyless_since[frame] = 0.0
        return EMPTY_ENTRY

    async def _missing_entry(self, frame: bytes) -> bytes:
        """Wait some time for a missing entry, then give up: no node publishes a frame before its keys are acknowledged.

        All nodes agree, as only one entry can be the first. Raises `LogCorrupt` while it waits.
        """
        now = asyncio.get_running_loop().time()
        if now - self._keyless_since.setdefault(frame, now) < KEYLESS_SECONDS:
            return await self._bucket.get(frame)  # raises with the reason
        if (await self._replica.cursor()).sequence < await self._bucket.restored_until():
            return await self._bucket.get(frame)  # another node may still restore it
        if not await self._bucket.replace(frame, 0, EMPTY_ENTRY):
            return await self._bucket.get(frame)
        _log.critical("a frame has no keys in the bucket: its records are read as lost", frame=frame.hex())
        del self._keyless_since[frame]
        return EMPTY_ENTRY

    async def destroy_keys(self, positions: Sequence[int]) -> None:
        """Destroy the keys of all copies of these records, in the bucket and here. Raises `LogUnavailable`: then run it again."""
        copies = await self._replica.copies_of(positions)
        destroyed = group_by_frame(copies)
        frames = list(destroyed)
        for start in range(0, len(frames), PARALLEL_REQUESTS):
            part = frames[start : start + PARALLEL_REQUESTS]
            await asyncio.gather(*(self._bucket.destroy_keys(frame, destroyed[frame]) for frame in part))
        await self._key_store.destroy_copies(copies)

    def schedule_destruction(self, positions: list[int]) -> None:
        """An erasure of these was applied: some time later, check that no keys of them are left in the bucket."""
        self._scheduled.append((asyncio.get_running_loop().time() + DESTRUCTION_DELAY_SECONDS, positions))
        self.on_erasure()

    def background_tasks(
        self, reached: Reached, may_destroy: Callable[[], bool]
    ) -> Sequence[Coroutine[None, None, None]]:
        """Tasks to run for ever. They pause unless `may_destroy`: on a diverged node, positions may hold other records."""
        return self._destroy_scheduled(may_destroy), self._sweep(reached, may_destroy), self._watch_bucket()

    async def _destroy_scheduled(self, may_destroy: Callable[[], bool]) -> None:
        """Destroy keys again: the eraser may have died before it did."""
        while True:
            await asyncio.sleep(DESTROY_SECONDS)
            if self._scheduled and self._scheduled[0][0] <= asyncio.get_running_loop().time() and may_destroy():
                _, positions = self._scheduled.pop(0)
                try:
                    await self.destroy_keys(positions)
                except LogError:  # no server answers now
                    self.schedule_destruction(positions)

    async def _sweep(self, reached: Reached, may_destroy: Callable[[], bool]) -> None:
        """Only on the node that signs checkpoints: one is enough. A failed sweep is tried again."""
        while self._signs:
            await asyncio.sleep(EVERY_SECONDS)
            with contextlib.suppress(LogError):
                if may_destroy():
                    await sweep_orphan_keys(self._stream, self._replica, self._key_store, reached)

    async def _watch_bucket(self) -> None:
        """Check the bucket all the time: a problem would otherwise show only with the next delivery."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            with contextlib.suppress(LogError):
                try:
                    self.trouble = None if await self._bucket.exists() else self._bucket.missing_message()
                    self.config_error = None
                except BucketUnfit as error:  # its settings were changed while we run
                    self.trouble = self.config_error = str(error)


async def join_key_bucket(
    config: JetstreamConfig,
    masters: Sequence[MasterKey],
    dedupe_secret: bytes | None = None,
    *,
    is_new_node: bool = False,
) -> bytes:
    """The dedupe secret that all nodes share, from the bucket; creates the bucket where there is none.

    `dedupe_secret`: the secret of a new bucket; None makes a new one. `is_new_node`: it cannot know whether there was a bucket.

    Raises `LogUnavailable` where the bucket cannot be created, no master key fits, or the bucket may have been lost.
    """
    ciphers = {master.id: AESGCM(master.key) for master in masters}
    stream = await Stream.open(config)
    try:
        bucket = KeyBucket(stream)
        if is_new_node and (not await bucket.exists() or await bucket.dedupe_secret() is None):
            await _expect_empty(stream, bucket)
        await bucket.create()
        new = wrap_dedupe_secret(masters[0], dedupe_secret or os.urandom(KEY_BYTES))
        return unwrap_dedupe_secret(await agree_on_dedupe_secret(bucket, new), ciphers)
    finally:
        await stream.close()


async def agree_on_dedupe_secret(bucket: KeyBucket, new: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """The bucket's wrapped dedupe secret: `new`, unless another node published one first. Raises `LogUnavailable`."""
    deadline = asyncio.get_running_loop().time() + LEADER_SECONDS
    while True:
        try:
            await bucket.publish_dedupe_secret(new)
            return await bucket.dedupe_secret() or {}
        except LogUnavailable:
            # A new bucket has no leader yet.
            if asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(0.2)


async def _expect_empty(stream: Stream, bucket: KeyBucket) -> None:
    """Refuse a new bucket in place of a lost one: its new dedupe secret would lock out every node that encrypts."""
    with contextlib.suppress(LogMissing):
        if (await stream.state()).last:
            raise LogUnavailable(
                f"the stream {stream.name!r} holds records, but there is no bucket {bucket.name} of data keys. If it was lost, "
                "run `tracker restore-keys` on a node that has the records. To switch encryption on, run `tracker init` "
                "on such a node first"
            )


async def rewrap_bucket(config: JetstreamConfig, key_store: KeyStore) -> int:
    """Wrap all entries of the bucket with the current master key; returns how many were rewrapped. Raises `LogError`."""
    stream = await Stream.open(config)
    try:
        bucket, after, count = KeyBucket(stream), 0, 0
        while (found := await bucket.next_revision(after)) is not None:
            after, frame, entry, _ = found
            rewrapped = key_store.rewrap_entry(frame, entry)
            if rewrapped is not None:
                await bucket.rewrap(frame, entry, rewrapped)
                count += 1
        await bucket.rewrap_dedupe_secret(key_store.wrapped_dedupe_secret(), key_store.current_master)
        return count
    finally:
        await stream.close()


async def open_frame_encryption(
    stream: Stream, replica: Replica, key_store: KeyStore | None, *, signs: bool
) -> FrameEncryption | None:
    """The encryption of a node; None where records are not encrypted.

    Raises `LogUnavailable` where other nodes encrypt and this one has no master key, or the wrong key store; `LogMissing`
    where this node encrypts and there is no bucket yet.
    """
    bucket = KeyBucket(stream)
    if key_store is None:
        # A node without permission to ask for the bucket finds out when an encrypted record arrives.
        with contextlib.suppress(LogUnavailable):
            if await bucket.exists():
                raise LogMissing(
                    "other nodes encrypt their records: name their master key under [sealing] keys, then run `tracker init`"
                )
        return None
    names = await bucket.dedupe_secret() if await bucket.exists() else None
    if names is None:
        raise LogMissing(bucket.missing_message())
    if key_store.unwrap_dedupe_secret(names) != key_store.dedupe_secret:
        raise LogUnavailable(
            f"{key_store.path} is not the key store of this stream: it hashes dedupe keys differently. Keep it, as it may hold the "
            "only keys to some records; without one, `tracker init` makes the right one"
        )
    return FrameEncryption(stream, replica, key_store, signs=signs)
