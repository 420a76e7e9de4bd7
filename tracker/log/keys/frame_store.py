"""What of a key store belongs to a stream: the data keys of its frames, as the bucket has them, so that they open offline."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tracker.errors import LogCorrupt, LogUnavailable
from tracker.log.keys.frame_keys import (
    EncryptedCopy,
    FrameKeys,
    wrapped_key_aad,
    group_by_frame,
    decode,
    encode,
    without_keys,
)

CREATE_FRAMES = "CREATE TABLE IF NOT EXISTS frames (id BLOB PRIMARY KEY, keys BLOB NOT NULL) STRICT"
CREATE_SWEPT = "CREATE TABLE IF NOT EXISTS swept (bucket TEXT PRIMARY KEY, sequence INTEGER NOT NULL) STRICT"
SELECT_SWEPT = "SELECT sequence FROM swept WHERE bucket = ?"
KEEP_SWEPT = "INSERT OR REPLACE INTO swept (bucket, sequence) VALUES (?, ?)"
# Another process of this node may have it, and have destroyed keys in it.
INSERT_FRAME = "INSERT OR IGNORE INTO frames (id, keys) VALUES (?, ?)"
COMPLETE_FRAME = "UPDATE frames SET keys = ? WHERE id = ? AND keys = ?"
UPDATE_FRAME = "UPDATE frames SET keys = ? WHERE id = ?"
SELECT_THESE = "SELECT id, keys FROM frames WHERE id IN ({})"
"""With as many `?` put in as there are frames."""
AT_ONCE = 500
SELECT_FRAMES = "SELECT id FROM frames WHERE id > ? ORDER BY id LIMIT 200"

KEY_BYTES = 32
NONCE_BYTES = 12
CHECKPOINT_TRIES = 50


class DataKey(NamedTuple):
    """What opens one record, and the salt of its commitment."""

    key: bytes
    salt: bytes

    def __repr__(self) -> str:
        return "DataKey(…)"


class FrameStore(ABC):
    """The half of a `Vault` that a clustered log needs."""

    path: Path
    _lock: asyncio.Lock
    _current: str
    _masters: Mapping[str, AESGCM]

    @abstractmethod
    async def _fetch(self, statement: str, bound: Sequence[Any]) -> list[tuple[Any, ...]]: ...

    @abstractmethod
    async def _in_transaction(self, statement: str, rows: Sequence[Sequence[Any]]) -> None: ...

    def wrap_entry(self, frame: bytes, keys: Sequence[DataKey | None]) -> bytes:
        """The entry for the records of a frame; None for one that has no key."""
        master = self._masters[self._current]
        found = [
            None if key is None else wrap(master, key.key + key.salt, wrapped_key_aad(frame, n))
            for n, key in enumerate(keys)
        ]
        return encode(FrameKeys(self._current, found))

    def unwrap_entry(self, frame: bytes, entry: bytes, wanted: Iterable[int]) -> dict[int, DataKey]:
        """Those of the wanted keys that are still there. Raises `LogUnavailable` where their master key is not configured."""
        keys = decode(entry)
        master = self._masters.get(keys.master)
        found: dict[int, DataKey] = {}
        for n in wanted:
            one = keys.wrapped[n] if n < len(keys.wrapped) else None
            if one is None:
                continue
            if master is None:
                raise LogUnavailable(f"records need the master key {keys.master!r}: name it under [sealing] keys")
            secret = unwrap(master, one, wrapped_key_aad(frame, n), self.path)
            found[n] = DataKey(secret[:KEY_BYTES], secret[KEY_BYTES:])
        return found

    def is_valid_entry(self, frame: bytes, entry: bytes) -> bool:
        """Whether whoever made an entry had the master key that it names; True where that is none of ours."""
        try:
            keys = decode(entry)
        except LogCorrupt:
            return False
        master = self._masters.get(keys.master)
        first = next((n for n, one in enumerate(keys.wrapped) if one is not None), None)
        if master is None or first is None:
            return True
        try:
            return bool(self.unwrap_entry(frame, entry, [first]))
        except LogUnavailable:
            return False

    async def store_entries(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """Keep entries of the bucket, (frame, entry), of frames that nothing is kept of. Durable on return."""
        async with self._lock:
            await self._in_transaction(INSERT_FRAME, entries)

    async def missing_frames(self, frames: Sequence[bytes]) -> list[bytes]:
        """Those whose keys are not kept here."""
        async with self._lock:
            held = await self._entries(frames)
        return [frame for frame in frames if frame not in held]

    async def entries(self, frames: Iterable[bytes]) -> dict[bytes, bytes]:
        """What is kept of these frames."""
        async with self._lock:
            return await self._entries(frames)

    async def replace_entry(self, frame: bytes, before: bytes | None, entry: bytes) -> None:
        """Keep an entry of the bucket in the place of what was kept of that frame `before`, unless that has changed."""
        async with self._lock:
            if before is None:
                await self._in_transaction(INSERT_FRAME, [(frame, entry)])
            else:
                await self._in_transaction(COMPLETE_FRAME, [(entry, frame, before)])

    async def sweep_progress(self, bucket: str) -> int:
        """Up to which message the bucket that was made then is swept."""
        async with self._lock:
            found = await self._fetch(SELECT_SWEPT, (bucket,))
        return found[0][0] if found else 0

    async def save_sweep_progress(self, bucket: str, sequence: int) -> None:
        """Say so."""
        async with self._lock:
            await self._in_transaction(KEEP_SWEPT, [(bucket, sequence)])

    async def keys_of_copies(self, copies: Iterable[EncryptedCopy]) -> dict[EncryptedCopy, DataKey]:
        """The data keys of these that are still there."""
        wanted = group_by_frame(copies)
        found: dict[EncryptedCopy, DataKey] = {}
        async with self._lock:
            entries = await self._entries(wanted)
        for frame, entry in entries.items():
            found |= {EncryptedCopy(frame, n): key for n, key in self.unwrap_entry(frame, entry, wanted[frame]).items()}
        return found

    async def destroy_copies(self, copies: Iterable[EncryptedCopy]) -> None:
        """Destroy the keys of these here, and what SQLite would leave behind of them. Durable on return.

        Raises `LogUnavailable` when somebody else holds the file; running it again goes on.
        """
        gone = group_by_frame(copies)

        def left(frame: bytes, entry: bytes) -> bytes | None:
            keys = without_keys(decode(entry), gone[frame])
            return None if keys is None else encode(keys)

        async with self._lock:
            await self._change(gone, left)
            await self._forget()

    async def rewrap_entries(self, after: bytes = b"") -> tuple[bytes | None, int]:
        """Wrap the keys of the next 200 frames by the current master key.

        The last frame done, None when none was left; and how many keys were wrapped anew.
        """
        done: list[bytes] = []

        def anew(frame: bytes, entry: bytes) -> bytes | None:
            new = self.rewrap_entry(frame, entry)
            done.extend([] if new is None else [each for each in decode(entry).wrapped if each is not None])
            return new

        async with self._lock:
            found: list[bytes] = [frame for (frame,) in await self._fetch(SELECT_FRAMES, (after,))]
            await self._change(found, anew)
            await self._forget()
        return (found[-1] if found else None), len(done)

    def rewrap_entry(self, frame: bytes, entry: bytes) -> bytes | None:
        """An entry wrapped by the current master key; None where it is already."""
        keys = decode(entry)
        if keys.master == self._current:
            return None
        opened = self.unwrap_entry(frame, entry, range(len(keys.wrapped)))
        return self.wrap_entry(frame, [opened.get(n) for n in range(len(keys.wrapped))])

    async def _change(self, frames: Iterable[bytes], change: Callable[[bytes, bytes], bytes | None]) -> None:
        """Change what is kept of frames, (frame, entry) → entry or None, under the file's own lock. Hold ours."""
        await self._fetch("BEGIN IMMEDIATE", ())
        try:
            for frame, entry in (await self._entries(frames)).items():
                new = change(frame, entry)
                if new is not None:
                    await self._fetch(UPDATE_FRAME, (new, frame))
            await self._fetch("COMMIT", ())
        except BaseException:
            await self._fetch("ROLLBACK", ())
            raise

    async def _entries(self, frames: Iterable[bytes]) -> dict[bytes, bytes]:
        """What is kept of these. Hold the lock."""
        wanted, found = list(frames), dict[bytes, bytes]()
        for start in range(0, len(wanted), AT_ONCE):
            part = wanted[start : start + AT_ONCE]
            found.update(await self._fetch(SELECT_THESE.format(", ".join("?" * len(part))), part))  # pyright: ignore[reportArgumentType]
        return found

    async def _forget(self) -> None:
        """Truncate the WAL: until then it holds what was overwritten. Hold the lock."""
        for _ in range(CHECKPOINT_TRIES):
            ((busy, _, _),) = await self._fetch("PRAGMA wal_checkpoint(TRUNCATE)", ())
            if not busy:
                return
            await asyncio.sleep(0.1)
        raise LogUnavailable(f"{self.path}: the keys are destroyed, but its -wal still holds them: run it again")


def wrap(master: AESGCM, secret: bytes, about: bytes) -> bytes:
    """A secret, sealed by a master key."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + master.encrypt(nonce, secret, about)


def unwrap(master: AESGCM, wrapped: bytes, about: bytes, path: Path) -> bytes:
    """The secret again. Raises `LogUnavailable` where it was another master key, of the same name."""
    try:
        return master.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], about)
    except (InvalidTag, ValueError):
        raise LogUnavailable(
            f"{path}: the master key under [sealing] is another one than keys were wrapped with"
        ) from None
