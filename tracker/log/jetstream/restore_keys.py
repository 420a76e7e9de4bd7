"""Put the bucket of data keys back from what this node has: after somebody deleted it, or the servers lost it.

    replica   which records each frame has, which of them are erased (also as the stream says, as far as it is not applied)
    keys.db   what opens them ─► what the bucket lacks of a frame's keys, wrapped anew by the current master key
    erased    taken out of the bucket and of keys.db, whoever has put them there; never put

What this node lacks and the bucket has, it takes. What is there stays, so that it can be run again after it died, and on several nodes, also at once: each adds what it has.
An erasure that comes meanwhile is looked for at the end, since its eraser may have found nothing to destroy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import TypeVar

import msgspec

from tracker.errors import LogCorrupt, LogUnavailable
from tracker.log.keys.frame_keys import EncryptedCopy, group_by_frame, decode, encode, without_keys
from tracker.log.frames import Frame
from tracker.log.frames import decode as frame_of
from tracker.log.jetstream.validation import check_stream
from tracker.log.jetstream.key_bucket import TRIES, KeyBucket
from tracker.log.jetstream.encryption import AT_ONCE, agree_on_dedupe_secret
from tracker.log.jetstream.stream import Stream, StreamSettings
from tracker.log.sqlite.replica import Replica
from tracker.log.sqlite.required_keys import RequiredKeys, RequiredKeysReader, open_required_keys
from tracker.log.keys.key_store import KeyStore
from tracker.log.keys.frame_store import DataKey

LEADER_SECONDS = 15.0

Progress = Callable[[int, int], None]
Done = TypeVar("Done")


class RestoreResult(msgspec.Struct, frozen=True):
    """`entries` were put back or completed, of `frames`; keys of `missing` records are neither there nor here.

    `first`: the position of the first of them. `ahead`: so many records more, in messages that this node has not applied.
    """

    frames: int
    entries: int
    missing: int
    first: int | None
    ahead: int


async def restore_keys(
    settings: StreamSettings, path: Path, vault: KeyStore, *, partly: bool = False, progress: Progress | None = None
) -> RestoreResult:
    """Put back what is missing in the bucket. A server may run meanwhile, here and elsewhere.

    Makes the bucket where there is none, and refuses that where this node cannot make it whole, unless `partly`. Raises
    `LogError`: nothing is worse than before then, run it again.
    """
    replica = await Replica.open(path, sealed_stay=True)
    try:
        stream = await Stream.open(settings)
        try:
            cursor = await replica.cursor()
            await check_stream(stream, cursor, body_bytes=0)
            ahead = await _ahead(stream, cursor.sequence)
            async with open_required_keys(path, ahead.erased) as needed:
                bucket = await _bucket(stream, vault, needed, ahead, partly=partly)
                one = _Restoring(bucket, vault)
                frames = await one.all(needed, progress)
            newer = await _ahead(stream, ahead.last)
            erased = await replica.copies_of(newer.erased)
            for frame, gone in group_by_frame(erased).items():
                await bucket.destroy_keys(frame, gone)
            if erased:
                await vault.destroy_copies(erased)
            return RestoreResult(
                frames, one.entries, len(one.missing), min(one.missing, default=None),
                await _without_keys(bucket, ahead, await replica.applied_among(ahead.sealed.keys())),
            )  # fmt: skip
        finally:
            await stream.close()
    finally:
        await replica.close()


class _Ahead(msgspec.Struct):
    """What the stream has that is not applied: up to its `last` message, what is erased, sealed records by frame."""

    last: int
    erased: list[int] = []
    sealed: dict[bytes, int] = {}


async def _ahead(stream: Stream, after: int) -> _Ahead:
    found = _Ahead((await stream.state()).last)
    for start in range(after + 1, found.last + 1, AT_ONCE):
        sequences = range(start, min(start + AT_ONCE, found.last + 1))
        for sequence, data in zip(sequences, await asyncio.gather(*map(stream.message, sequences)), strict=True):
            if data is None:
                raise LogCorrupt(f"the stream {stream.name} has lost message {sequence}")
            frame = frame_of(data, sequence)
            if isinstance(frame, Frame):
                found.erased += frame.erases
                sealed = sum(row[8] is not None for row in frame.records)
                if sealed:
                    found.sealed[frame.id] = sealed
    return found


async def _bucket(
    stream: Stream, vault: KeyStore, needed: RequiredKeysReader, ahead: _Ahead, *, partly: bool
) -> KeyBucket:
    """The bucket, made where there is none. Raises `LogUnavailable` where it is not ours, or cannot be whole."""
    bucket = KeyBucket(stream)

    async def has_names() -> bool:
        # One without was made by hand, or by a run that died.
        return await bucket.exists() and await bucket.dedupe_secret() is not None

    async def make() -> None:
        await bucket.create()
        # Before nodes find the names, and begin to look for keys.
        await bucket.mark_restored(ahead.last)

    if not await _patiently(has_names):
        if not partly:
            await _expect_whole(bucket, vault, needed, ahead)
        await _patiently(make)
    if (
        vault.unwrap_dedupe_secret(await agree_on_dedupe_secret(bucket, vault.wrapped_dedupe_secret()))
        != vault.dedupe_secret
    ):
        raise LogUnavailable(
            f"{vault.path} is not the key store of the bucket {bucket.name}: its dedupe keys would be other ones. Nothing "
            "was put into it"
        )
    return bucket


async def _patiently(attempt: Callable[[], Awaitable[Done]]) -> Done:
    """What it brings. A bucket that was made just now, perhaps by another node, has no leader yet."""
    deadline = asyncio.get_running_loop().time() + LEADER_SECONDS
    while True:
        try:
            return await attempt()
        except LogUnavailable:
            if asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(0.2)


async def _expect_whole(bucket: KeyBucket, vault: KeyStore, needed: RequiredKeysReader, ahead: _Ahead) -> None:
    missing: list[int] = []
    async for page in needed.pages():
        ours = await vault.entries([each.frame for each in page])
        for each in page:
            opened = _opened(vault, each.frame, ours.get(each.frame), each.wanted)
            missing += [position for n, position in each.wanted.items() if n not in opened]
    unapplied = sum(ahead.sealed.values())
    if missing or unapplied:
        said = f"{len(missing)} records (the first at position {min(missing)})" if missing else "none of its records"
        raise LogUnavailable(
            f"this node cannot make the bucket {bucket.name} whole: it lacks the keys of {said}, and has not applied "
            f"{unapplied} sealed records of the stream. Nothing was made: try a node that has more; where none has all, "
            "`tracker restore-keys --partly` on each"
        )


async def _without_keys(bucket: KeyBucket, ahead: _Ahead, applied: Collection[bytes]) -> int:
    count = 0
    for frame, records in ahead.sealed.items():
        if frame not in applied:
            held = await bucket.find(frame)
            count += records if held is None or not decode(held[1]).wrapped else 0
    return count


class _Restoring:
    """One run: `entries` put, positions whose keys are `missing`."""

    def __init__(self, bucket: KeyBucket, vault: KeyStore) -> None:
        self._bucket = bucket
        self._vault = vault
        self.entries = 0
        self.missing: set[int] = set()

    async def all(self, needed: RequiredKeysReader, progress: Progress | None) -> int:
        """How many frames there are."""
        done = 0
        async for page in needed.pages():
            ours = await self._vault.entries([each.frame for each in page])
            for start in range(0, len(page), AT_ONCE):
                part = page[start : start + AT_ONCE]
                await asyncio.gather(*(self._restore(each, ours.get(each.frame)) for each in part))
            # A key store that comes from a backup.
            left = [EncryptedCopy(each.frame, n) for each in page for n in each.gone & _places(ours.get(each.frame))]
            if left:
                await self._vault.destroy_copies(left)
            done += len(page)
            if progress is not None:
                progress(done, max(done, needed.count))
        return done

    async def _restore(self, needed: RequiredKeys, ours: bytes | None) -> None:
        for _ in range(TRIES):
            latest, entry = await self._bucket.find(needed.frame) or (0, None)
            has = _places(entry)
            given = _opened(self._vault, needed.frame, ours, needed.wanted.keys() - has)
            missing = {position for n, position in needed.wanted.items() if n not in has and n not in given}
            if given or not (latest or missing):
                kept = {} if entry is None else self._vault.unwrap_entry(needed.frame, entry, has - needed.gone)
                size = max([0, *(n + 1 for n in (*needed.wanted, *needed.gone, *has))])
                anew = self._vault.wrap_entry(needed.frame, [(kept | given).get(n) for n in range(size)])
                if not await self._bucket.replace(needed.frame, latest, anew):
                    continue
                self.entries += 1
                entry = anew
            elif needed.gone:
                # Also where nothing of them is there: who put the entry may have died before older ones were overwritten.
                await self._bucket.destroy_keys(needed.frame, needed.gone)
            if entry is not None and needed.wanted.keys() & has - _places(ours):
                # This node came by when the entry was half put back.
                left = without_keys(decode(entry), needed.gone)
                await self._vault.replace_entry(needed.frame, ours, entry if left is None else encode(left))
            self.missing |= missing
            return
        raise LogUnavailable(
            f"the keys of frame {needed.frame.hex()} are changed by others again and again: run it again"
        )


def _places(entry: bytes | None) -> set[int]:
    """Of which records of a frame there is a key."""
    return set() if entry is None else {n for n, each in enumerate(decode(entry).wrapped) if each is not None}


def _opened(vault: KeyStore, frame: bytes, entry: bytes | None, wanted: Collection[int]) -> dict[int, DataKey]:
    """Those of the wanted keys that open; what does not (damaged, another master key) is as good as lost."""
    try:
        return {} if entry is None else vault.unwrap_entry(frame, entry, wanted)
    except (LogUnavailable, LogCorrupt):
        return {}
