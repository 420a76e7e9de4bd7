"""Sealing in a cluster: bodies are sealed before they go into the stream, and their keys stand in the bucket before that.

    seal ─► keys into the bucket, acknowledged ─► frame into the stream ─► applied: keys into this node's key store, then rows
    erase ─► the record that says so, applied by every node, which destroys its own copies of the keys
          └► the bucket's entries without them, older revisions overwritten: by the eraser, and by whoever finds some left

The stream holds no body, proof or dedupe key in clear; what it holds sealed it holds for ever.
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

from tracker.domain.deliveries import Verified
from tracker.errors import LogError, LogMissing, LogUnavailable
from tracker.log.keys.frame_keys import EMPTY_ENTRY, record_aad, group_by_frame
from tracker.log.frames import FrameRow
from tracker.log.jetstream.key_bucket import KeyBucket, BucketUnfit
from tracker.log.jetstream.stream import Stream, StreamSettings
from tracker.log.jetstream.orphan_keys import EVERY_SECONDS, Reached, sweep_orphan_keys
from tracker.log.sqlite.replica import Replica
from tracker.log.keys.key_store import MasterKey, KeyStore, unwrap_dedupe_secret, wrap_dedupe_secret
from tracker.log.keys.frame_store import KEY_BYTES, DataKey

LEADER_SECONDS, LOOK_SECONDS, WATCH_SECONDS = 5.0, 1.0, 2.0
WITHDRAW_SECONDS = 30.0
KEYLESS_SECONDS = 15.0
FRAME_ID_BYTES = 16
AT_ONCE = 32
"""So many entries are asked for at the same time."""

_log = structlog.get_logger("keys")


def copied_frame_id(rows: Sequence[FrameRow]) -> bytes:
    """The id of a frame of records as another log keeps them: the same for the same first one.

    A copy that died between entry and frame puts its entry again when it is run again, and no second one with these keys;
    also when there are more records by then. Where the frame did arrive, the copy goes on behind it, under another id.
    """
    return hashlib.sha256(b"copied" + msgspec.msgpack.encode(rows[0])).digest()[:FRAME_ID_BYTES]


class FrameEncryption:
    """What one node does with bodies and keys."""

    def __init__(self, stream: Stream, replica: Replica, vault: KeyStore) -> None:
        self._stream = stream
        self._bucket = KeyBucket(stream)
        self._replica = replica
        self._vault = vault
        self._ours: dict[bytes, bytes] = {}
        self._since: dict[bytes, float] = {}
        """When frames without keys, or with what are none, were first found to be so."""
        self._gone: list[tuple[float, list[int]]] = []
        self.on_erasure: Callable[[], None] = lambda: None
        self.trouble: str | None = None
        """What is wrong with the bucket now."""
        self.unfit: str | None = None
        """Why keys that are put into it would not stay, or not go."""

    def encrypt(self, frame: bytes, batch: Sequence[tuple[Verified, str]]) -> tuple[list[FrameRow], bytes]:
        """The rows of (delivery, name it is known by), and the entry with their keys."""
        random = os.urandom(2 * KEY_BYTES * len(batch))
        keys: list[DataKey | None] = []
        rows: list[FrameRow] = []
        for n, (each, name) in enumerate(batch):
            secret = random[2 * KEY_BYTES * n : 2 * KEY_BYTES * (n + 1)]
            key = DataKey(secret[:KEY_BYTES], secret[KEY_BYTES:])
            about = record_aad(each.source, name)
            one = self._vault.encrypt(0, each.vendor, each.proof, each.body, key, about=about)
            keys.append(key)
            rows.append((
                each.source, each.vendor, each.event, name, each.received_at, each.origin, b"", one.body, one.commitment,
            ))  # fmt: skip
        return rows, self._vault.wrap_entry(frame, keys)

    def entry_of(self, frame: bytes, keys: Sequence[DataKey | None]) -> bytes:
        """The entry of a frame whose records were sealed before."""
        return self._vault.wrap_entry(frame, keys)

    async def put(self, frame: bytes, entry: bytes, *, anew: bool = False) -> None:
        """Keep the keys of a frame that is about to be published. Raises `LogUnavailable`; again is harmless.

        `anew`: of a copy, also where one that died has left an entry for the same records.
        """
        await self._bucket.put(frame, entry, anew=anew)
        self._ours[frame] = entry

    def forget(self, frame: bytes) -> None:
        """The frame is applied, or given up."""
        self._ours.pop(frame, None)

    async def fetch_keys(self, frames: Sequence[bytes]) -> None:
        """Have the keys of these frames in this node's key store, before their rows are applied. Raises `LogError`."""
        missing = await self._vault.missing_frames(list(dict.fromkeys(frames)))
        for start in range(0, len(missing), AT_ONCE):
            part = missing[start : start + AT_ONCE]
            entries = await asyncio.gather(*map(self._entry, part))
            await self._vault.store_entries(list(zip(part, entries, strict=True)))

    async def _entry(self, frame: bytes) -> bytes:
        held = self._ours.get(frame)
        if held is not None:
            return held
        found = await self._bucket.find(frame)
        if found is None:
            return await self._without(frame)
        if self._vault.is_valid_entry(frame, found[1]):
            self._since.pop(frame, None)
            return found[1]
        if frame not in self._since:
            _log.critical("what the bucket has of a frame are no keys: its records are read as lost", frame=frame.hex())
        self._since[frame] = 0.0
        return EMPTY_ENTRY

    async def _without(self, frame: bytes) -> bytes:
        """No node sends a frame before its keys are acknowledged: after some time nothing more is waited for.

        All nodes find the same, as only one entry can be the first. Raises `LogCorrupt` until then.
        """
        now = asyncio.get_running_loop().time()
        if now - self._since.setdefault(frame, now) < KEYLESS_SECONDS:
            return await self._bucket.get(frame)  # says what is missing
        if (await self._replica.cursor()).sequence < await self._bucket.restored_until():
            return await self._bucket.get(frame)  # another node may put it back yet
        if not await self._bucket.replace(frame, 0, EMPTY_ENTRY):
            return await self._bucket.get(frame)
        _log.critical("a frame has no keys in the bucket: its records are read as lost", frame=frame.hex())
        del self._since[frame]
        return EMPTY_ENTRY

    async def destroy_keys(self, positions: Sequence[int]) -> None:
        """Destroy the keys of all copies of these records, in the bucket and here. Raises `LogUnavailable`: do it again."""
        copies = await self._replica.copies_of(positions)
        gone = group_by_frame(copies)
        frames = list(gone)
        for start in range(0, len(frames), AT_ONCE):
            part = frames[start : start + AT_ONCE]
            await asyncio.gather(*(self._bucket.destroy_keys(frame, gone[frame]) for frame in part))
        await self._vault.destroy_copies(copies)

    def schedule_destruction(self, positions: list[int]) -> None:
        """An erasure of these was applied: some time later, see that nothing is left of their keys."""
        self._gone.append((asyncio.get_running_loop().time() + WITHDRAW_SECONDS, positions))
        self.on_erasure()

    def background_tasks(self, reached: Reached, is_well: Callable[[], bool]) -> Sequence[Coroutine[None, None, None]]:
        """What runs for ever beside the log, while `is_well`: on a node that has diverged positions may be other people's."""
        return self._keep_withdrawing(is_well), self._keep_sweeping(reached, is_well), self._watch()

    async def _keep_withdrawing(self, is_well: Callable[[], bool]) -> None:
        """Whoever erased may have died before the keys went."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._gone and self._gone[0][0] <= asyncio.get_running_loop().time() and is_well():
                _, positions = self._gone.pop(0)
                try:
                    await self.destroy_keys(positions)
                except LogError:  # nobody answers now
                    self.schedule_destruction(positions)

    async def _keep_sweeping(self, reached: Reached, is_well: Callable[[], bool]) -> None:
        """On the node that signs: one is enough. A failure is tried again."""
        while self._stream.settings.key:
            await asyncio.sleep(EVERY_SECONDS)
            with contextlib.suppress(LogError):
                if is_well():
                    await sweep_orphan_keys(self._stream, self._replica, self._vault, reached)

    async def _watch(self) -> None:
        """Whether the bucket is there: nobody else would say so before the next delivery."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            with contextlib.suppress(LogError):
                try:
                    self.trouble = None if await self._bucket.exists() else self._bucket.missing_message()
                    self.unfit = None
                except BucketUnfit as error:  # somebody edited it while we run
                    self.trouble = self.unfit = str(error)


async def join_key_bucket(
    settings: StreamSettings, masters: Sequence[MasterKey], names: bytes | None = None, *, is_new_node: bool = False
) -> bytes:
    """What all nodes hash dedupe keys with: as the bucket says, which is made where there is none.

    `names`: what it says then; without, something new. `is_new_node`: it cannot know whether there was a bucket.

    Raises `LogUnavailable` where the bucket cannot be made, or none of the master keys fits, or it may have been lost.
    """
    ciphers = {master.id: AESGCM(master.key) for master in masters}
    stream = await Stream.open(settings)
    try:
        bucket = KeyBucket(stream)
        if is_new_node and (not await bucket.exists() or await bucket.dedupe_secret() is None):
            await _expect_empty(stream, bucket)
        await bucket.create()
        new = wrap_dedupe_secret(masters[0], names or os.urandom(KEY_BYTES))
        return unwrap_dedupe_secret(await agree_on_dedupe_secret(bucket, new), ciphers)
    finally:
        await stream.close()


async def agree_on_dedupe_secret(bucket: KeyBucket, new: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """What the bucket says dedupe keys are hashed with: `new`, unless somebody was quicker. Raises `LogUnavailable`."""
    deadline = asyncio.get_running_loop().time() + LEADER_SECONDS
    while True:
        try:
            await bucket.publish_dedupe_secret(new)
            return await bucket.dedupe_secret() or {}
        except LogUnavailable:
            # A bucket that was made just now has no leader yet.
            if asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(0.2)


async def _expect_empty(stream: Stream, bucket: KeyBucket) -> None:
    """Another bucket in the place of a lost one would hash with something new: no node that seals could serve again."""
    with contextlib.suppress(LogMissing):
        if (await stream.state()).last:
            raise LogUnavailable(
                f"the stream {stream.name!r} holds records, and there is no bucket {bucket.name} of data keys: it was lost, and "
                "comes back by `tracker restore-keys` on a node that has the records; or sealing is to be switched on, first "
                "by `tracker init` on such a node"
            )


async def rewrap_bucket(settings: StreamSettings, vault: KeyStore) -> int:
    """Wrap all entries of the bucket by the vault's current master key; how many were wrapped anew. Raises `LogError`."""
    stream = await Stream.open(settings)
    try:
        bucket, after, count = KeyBucket(stream), 0, 0
        while (found := await bucket.next_revision(after)) is not None:
            after, frame, entry, _ = found
            anew = vault.rewrap_entry(frame, entry)
            if anew is not None:
                await bucket.rewrap(frame, entry, anew)
                count += 1
        await bucket.rewrap_dedupe_secret(vault.wrapped_dedupe_secret(), vault.current_master)
        return count
    finally:
        await stream.close()


async def open_frame_encryption(stream: Stream, replica: Replica, vault: KeyStore | None) -> FrameEncryption | None:
    """What a node seals with; None where bodies are kept in clear.

    Raises `LogUnavailable` where other nodes seal and this one has no master key, or a key store that is not theirs;
    `LogMissing` where this one seals and there is no bucket yet.
    """
    bucket = KeyBucket(stream)
    if vault is None:
        # Whoever may not even ask for the bucket finds out when a sealed record arrives.
        with contextlib.suppress(LogUnavailable):
            if await bucket.exists():
                raise LogMissing(
                    "other nodes seal what they record: name their master key under [sealing] keys, then `tracker init`"
                )
        return None
    names = await bucket.dedupe_secret() if await bucket.exists() else None
    if names is None:
        raise LogMissing(bucket.missing_message())
    if vault.unwrap_dedupe_secret(names) != vault.dedupe_secret:
        raise LogUnavailable(
            f"{vault.path} is not the key store of this stream: its dedupe keys would be other ones. Keep it, records may "
            "open with nothing else; a node that has none gets one with `tracker init`"
        )
    return FrameEncryption(stream, replica, vault)
