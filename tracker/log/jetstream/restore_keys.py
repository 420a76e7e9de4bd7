"""Restore the bucket of data keys from this node's key store, after the bucket was deleted or the servers lost it.

    replica   which records each frame has, and which are erased (also by messages of the stream that are not applied yet)
    keys.db   their data keys ─► those that the bucket lacks are wrapped by the current master key and stored there
    erased    keys of erased records are removed from bucket and keys.db, and never stored

This node also takes keys that it lacks from the bucket. Existing entries stay, so the command can be run again after it died,
and on several nodes, even at once: each adds what it has. Erasures that arrive meanwhile are handled at the end, since
their eraser may have found nothing to destroy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import TypeVar

import msgspec

from tracker.config.jetstream import JetstreamConfig
from tracker.errors import LogCorrupt, LogUnavailable
from tracker.log.keys.frame_keys import EncryptedCopy, group_by_frame, decode, encode, without_keys
from tracker.log.frames import Frame
from tracker.log.frames import decode as frame_of
from tracker.log.jetstream.validation import check_stream
from tracker.log.jetstream.key_bucket import TRIES, KeyBucket
from tracker.log.jetstream.encryption import PARALLEL_REQUESTS, agree_on_dedupe_secret
from tracker.log.jetstream.stream import Stream
from tracker.log.sqlite.replica import Replica
from tracker.log.sqlite.required_keys import RequiredKeys, RequiredKeysReader, open_required_keys
from tracker.log.keys.key_store import DataKey, KeyStore

LEADER_SECONDS = 15.0

Progress = Callable[[int, int], None]
Result = TypeVar("Result")


class RestoreResult(msgspec.Struct, frozen=True):
    """`entries` were restored or completed, of `frames`; the keys of `missing` records are neither in the bucket nor here.

    `first`: the position of the first of those. `ahead`: how many more records without keys are in messages that this node
    has not applied.
    """

    frames: int
    entries: int
    missing: int
    first: int | None
    ahead: int


async def restore_keys(
    config: JetstreamConfig, path: Path, key_store: KeyStore, *, partly: bool = False, progress: Progress | None = None
) -> RestoreResult:
    """Restore what is missing in the bucket. Servers may run meanwhile, here and on other nodes.

    Creates the bucket where there is none; refuses where this node cannot restore all of it, unless `partly`. Raises
    `LogError`: then nothing is worse than before, run it again.
    """
    replica = await Replica.open(path, encrypted_unread=True)
    try:
        stream = await Stream.open(config)
        try:
            cursor = await replica.cursor()
            await check_stream(stream, cursor, body_bytes=0)
            ahead = await _ahead(stream, cursor.sequence)
            async with open_required_keys(path, ahead.erased) as needed:
                bucket = await _bucket(stream, key_store, needed, ahead, partly=partly)
                run = _Restore(bucket, key_store)
                frames = await run.restore_all(needed, progress)
            newer = await _ahead(stream, ahead.last)
            erased = await replica.copies_of(newer.erased)
            for frame, gone in group_by_frame(erased).items():
                await bucket.destroy_keys(frame, gone)
            if erased:
                await key_store.destroy_copies(erased)
            return RestoreResult(
                frames, run.entries, len(run.missing), min(run.missing, default=None),
                await _count_without_keys(bucket, ahead, await replica.applied_among(ahead.encrypted.keys())),
            )  # fmt: skip
        finally:
            await stream.close()
    finally:
        await replica.close()


class _Ahead(msgspec.Struct):
    """Messages of the stream that are not applied: the `last` one, positions they erase, encrypted records by frame."""

    last: int
    erased: list[int] = []
    encrypted: dict[bytes, int] = {}


async def _ahead(stream: Stream, after: int) -> _Ahead:
    found = _Ahead((await stream.state()).last)
    for start in range(after + 1, found.last + 1, PARALLEL_REQUESTS):
        sequences = range(start, min(start + PARALLEL_REQUESTS, found.last + 1))
        for sequence, data in zip(sequences, await asyncio.gather(*map(stream.message, sequences)), strict=True):
            if data is None:
                raise LogCorrupt(f"the stream {stream.name} has lost message {sequence}")
            frame = frame_of(data, sequence)
            if isinstance(frame, Frame):
                found.erased += frame.erases
                encrypted = sum(row[8] is not None for row in frame.records)
                if encrypted:
                    found.encrypted[frame.id] = encrypted
    return found


async def _bucket(
    stream: Stream, key_store: KeyStore, needed: RequiredKeysReader, ahead: _Ahead, *, partly: bool
) -> KeyBucket:
    """The bucket; created if there is none.

    Raises `LogUnavailable` if it belongs to another key store, or if this node lacks keys that it needs.
    """
    bucket = KeyBucket(stream)

    async def has_names() -> bool:
        # One without was created by hand, or by a run that died.
        return await bucket.exists() and await bucket.dedupe_secret() is not None

    async def make() -> None:
        await bucket.create()
        # Before nodes find the dedupe secret, and begin to look for keys.
        await bucket.mark_restored(ahead.last)

    if not await _retry(has_names):
        if not partly:
            await _expect_complete(bucket, key_store, needed, ahead)
        await _retry(make)
    if (
        key_store.unwrap_dedupe_secret(await agree_on_dedupe_secret(bucket, key_store.wrapped_dedupe_secret()))
        != key_store.dedupe_secret
    ):
        raise LogUnavailable(
            f"{key_store.path} is not the key store of the bucket {bucket.name}: it hashes dedupe keys differently. Nothing "
            "was stored"
        )
    return bucket


async def _retry(attempt: Callable[[], Awaitable[Result]]) -> Result:
    """Retry for a while: a bucket that was just created, perhaps by another node, has no leader yet."""
    deadline = asyncio.get_running_loop().time() + LEADER_SECONDS
    while True:
        try:
            return await attempt()
        except LogUnavailable:
            if asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(0.2)


async def _expect_complete(bucket: KeyBucket, key_store: KeyStore, needed: RequiredKeysReader, ahead: _Ahead) -> None:
    missing: list[int] = []
    async for page in needed.pages():
        ours = await key_store.entries([each.frame for each in page])
        for each in page:
            opened = _unwrap(key_store, each.frame, ours.get(each.frame), each.wanted)
            missing += [position for n, position in each.wanted.items() if n not in opened]
    unapplied = sum(ahead.encrypted.values())
    if missing or unapplied:
        lacking = (
            f"lacks the keys of {len(missing)} records (the first at position {min(missing)})"
            if missing
            else "has all keys of its own records"
        )
        raise LogUnavailable(
            f"this node cannot restore the whole bucket {bucket.name}: it {lacking}, and has not applied "
            f"{unapplied} encrypted records of the stream. Nothing was created: try a node that has more; if none has all, "
            "run `tracker restore-keys --partly` on each"
        )


async def _count_without_keys(bucket: KeyBucket, ahead: _Ahead, applied: Collection[bytes]) -> int:
    count = 0
    for frame, records in ahead.encrypted.items():
        if frame not in applied:
            held = await bucket.find(frame)
            count += records if held is None or not decode(held[1]).wrapped else 0
    return count


class _Restore:
    """One run. `entries`: how many were stored. `missing`: positions without keys."""

    def __init__(self, bucket: KeyBucket, key_store: KeyStore) -> None:
        self._bucket = bucket
        self._key_store = key_store
        self.entries = 0
        self.missing: set[int] = set()

    async def restore_all(self, needed: RequiredKeysReader, progress: Progress | None) -> int:
        """Restore every frame; returns how many there are."""
        done = 0
        async for page in needed.pages():
            ours = await self._key_store.entries([each.frame for each in page])
            for start in range(0, len(page), PARALLEL_REQUESTS):
                part = page[start : start + PARALLEL_REQUESTS]
                await asyncio.gather(*(self._restore(each, ours.get(each.frame)) for each in part))
            # Left where the key store comes from a backup.
            left = [
                EncryptedCopy(each.frame, n) for each in page for n in each.erased & _key_numbers(ours.get(each.frame))
            ]
            if left:
                await self._key_store.destroy_copies(left)
            done += len(page)
            if progress is not None:
                progress(done, max(done, needed.count))
        return done

    async def _restore(self, needed: RequiredKeys, ours: bytes | None) -> None:
        for _ in range(TRIES):
            latest, entry = await self._bucket.find(needed.frame) or (0, None)
            has = _key_numbers(entry)
            own = _unwrap(self._key_store, needed.frame, ours, needed.wanted.keys() - has)
            missing = {position for n, position in needed.wanted.items() if n not in has and n not in own}
            if own or not (latest or missing):
                kept = {} if entry is None else self._key_store.unwrap_entry(needed.frame, entry, has - needed.erased)
                size = max([0, *(n + 1 for n in (*needed.wanted, *needed.erased, *has))])
                restored = self._key_store.wrap_entry(needed.frame, [(kept | own).get(n) for n in range(size)])
                if not await self._bucket.replace(needed.frame, latest, restored):
                    continue
                self.entries += 1
                entry = restored
            elif needed.erased:
                # Even if the entry lacks them: the node that stored it may have died before it deleted the older revisions.
                await self._bucket.destroy_keys(needed.frame, needed.erased)
            if entry is not None and needed.wanted.keys() & has - _key_numbers(ours):
                # This node has read the entry when it was only half restored.
                left = without_keys(decode(entry), needed.erased)
                await self._key_store.replace_entry(needed.frame, ours, entry if left is None else encode(left))
            self.missing |= missing
            return
        raise LogUnavailable(
            f"other nodes kept changing the keys of frame {needed.frame.hex()}: run `tracker restore-keys` again"
        )


def _key_numbers(entry: bytes | None) -> set[int]:
    """The numbers of the records in a frame that have a key in the entry."""
    return set() if entry is None else {n for n, each in enumerate(decode(entry).wrapped) if each is not None}


def _unwrap(key_store: KeyStore, frame: bytes, entry: bytes | None, wanted: Collection[int]) -> dict[int, DataKey]:
    """Those of the wanted keys that unwrap. Others (damaged, another master key) count as lost."""
    try:
        return {} if entry is None else key_store.unwrap_entry(frame, entry, wanted)
    except (LogUnavailable, LogCorrupt):
        return {}
