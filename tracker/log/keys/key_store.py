"""The key store: one data key a record, wrapped by a master key, in a file apart from the log, so that it can be destroyed.

    encrypted body   AES-256-GCM(data key, framed proof and body, usually compressed), with the position as associated data,
                     or the dedupe hash where it was encrypted for a stream (`frame_keys.py`)
    wrapped          AES-256-GCM(master key, data key ‖ salt), with the position as associated data
    frames           in a cluster: entries of the key bucket, one a frame, so that records can be read offline

Nonces are random. The salt makes the leaf's commitment unguessable. Destroying a row destroys key and salt: SQLite overwrites
it (`secure_delete`), and the WAL is truncated.

Keys are durable before their record is. They are made ahead, for 1,024 positions at a time: one flush of this file for all of
them. If we die, some keys are unused; the next records of those positions use them. The other way round there would be a
record nobody can read.

LIMIT: copies of this file (backups, snapshots of a file system or a disk) keep destroyed keys until they are deleted too.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import os
import sqlite3
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import aiosqlite
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tracker.config.encryption import MasterKey
from tracker.errors import LogCorrupt, LogMissing, LogUnavailable
from tracker.log.keys.frame_keys import (
    EncryptedCopy,
    FrameKeys,
    decode,
    encode,
    group_by_frame,
    without_keys,
    wrapped_key_aad,
)
from tracker.log.merkle.leaf import framed
from tracker.log.record_compression import MAGIC
from tracker.log.shipped_dictionaries import ShippedDictionaries
from tracker.log.private_files import create_private, restrict_database
from tracker.log.schema_check import Schema, SchemaGuard, schema_made_by
from tracker.log.sqlite.bulk import run_in_thread
from tracker.log.sqlite.file import publish_file, unwritten_uri

APPLICATION_ID = 1414679371
"""`PRAGMA application_id` of every key store ("TRKK")."""

SCHEMA = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    """CREATE TABLE keys (
        position INTEGER PRIMARY KEY, master TEXT NOT NULL, wrapped BLOB NOT NULL
    ) STRICT""",
    "CREATE TABLE names (master TEXT PRIMARY KEY, wrapped BLOB NOT NULL) STRICT",  # the dedupe secret, wrapped
    "CREATE TABLE frames (id BLOB PRIMARY KEY, keys BLOB NOT NULL) STRICT",
    "CREATE TABLE swept (bucket TEXT PRIMARY KEY, sequence INTEGER NOT NULL) STRICT",
)
INSERT_KEY = "INSERT INTO keys (position, master, wrapped) VALUES (?, ?, ?)"
REPLACE_KEY = "INSERT OR REPLACE INTO keys (position, master, wrapped) VALUES (?, ?, ?)"
SELECT_KEYS = "SELECT position, master, wrapped FROM keys WHERE position > ? AND position <= ?"
SELECT_OUTDATED = (
    "SELECT position, master, wrapped FROM keys WHERE master <> ? AND position > ? ORDER BY position LIMIT ?"
)
COUNT_OUTDATED = "SELECT count(*) FROM keys WHERE master <> ?"
UPDATE_KEY = "UPDATE keys SET master = ?, wrapped = ? WHERE position = ?"
DELETE_KEY = "DELETE FROM keys WHERE position = ?"
SELECT_DEDUPE_SECRETS = "SELECT master, wrapped FROM names"
INSERT_DEDUPE_SECRET = "INSERT OR REPLACE INTO names (master, wrapped) VALUES (?, ?)"  # noqa: S105 - a statement
DELETE_DEDUPE_SECRETS = "DELETE FROM names WHERE master <> ?"
SELECT_SWEPT = "SELECT sequence FROM swept WHERE bucket = ?"
REPLACE_SWEPT = "INSERT OR REPLACE INTO swept (bucket, sequence) VALUES (?, ?)"
# Another process of this node may have stored the frame already, and have destroyed keys in it.
INSERT_FRAME = "INSERT OR IGNORE INTO frames (id, keys) VALUES (?, ?)"
REPLACE_FRAME = "UPDATE frames SET keys = ? WHERE id = ? AND keys = ?"
UPDATE_FRAME = "UPDATE frames SET keys = ? WHERE id = ?"
SELECT_ENTRIES = "SELECT id, keys FROM frames WHERE id IN ({})"
"""With one `?` put in for each frame."""
SELECT_FRAMES = "SELECT id FROM frames WHERE id > ? ORDER BY id LIMIT 200"

DEDUPE_SECRET_AAD = b"names"
KEY_BYTES = 32
NONCE_BYTES = 12
KEYS_AHEAD = 1_024
REWRAP_ROWS = 2_000
SELECT_ROWS = 500
CHECKPOINT_TRIES = 50
_POSITION = struct.Struct(">Q")
_PROOF_LENGTH = struct.Struct(">Q")


class DataKey(NamedTuple):
    """The key that decrypts one record, and the salt of its commitment."""

    key: bytes
    salt: bytes

    def __repr__(self) -> str:
        return "DataKey(…)"


class EncryptedBody(NamedTuple):
    """An encrypted record's body as it goes into the log, and its leaf's commitment to the plain bytes."""

    body: bytes
    commitment: bytes


class KeyStore:
    """One key store. Made by `create`, opened by `open`. `masters[0]` wraps new keys, the others only unwrap."""

    def __init__(
        self,
        path: Path,
        connection: aiosqlite.Connection,
        masters: Sequence[MasterKey],
        dedupe_secret: bytes,
        dictionaries: ShippedDictionaries,
    ) -> None:
        self.path = path
        self.dedupe_secret = dedupe_secret
        """Dedupe keys are hashed with it: the same on all nodes of a cluster."""
        self.current_master = masters[0].id
        """The id of the master key that wraps new keys."""
        self._connection = connection
        self._schema = _schema_guard(path)
        self._lock = asyncio.Lock()
        self._masters: Mapping[str, AESGCM] = {master.id: AESGCM(master.key) for master in masters}
        self._ahead: dict[int, DataKey] = {}
        self.dictionaries = dictionaries

    @staticmethod
    async def create(path: Path, masters: Sequence[MasterKey], dedupe_secret: bytes | None = None) -> None:
        """Make an empty key store. Raises `LogUnavailable` when there is something at `path` already.

        `dedupe_secret`: 32 bytes; None makes a new one.
        The file appears under its name only when it is complete, as a log does: an incomplete key store would look like one
        whose master key is lost.
        """
        if path.exists():
            raise LogUnavailable(f"{path} exists already; it was not changed")
        draft = path.with_name(f"{path.name}.{os.getpid()}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.unlink(missing_ok=True)
            create_private(draft)
            await _create_schema(draft, masters[0], dedupe_secret or os.urandom(KEY_BYTES))
            publish_file(draft, path)
        except (OSError, sqlite3.Error) as error:
            raise LogUnavailable(
                f"{path} cannot be created: {error}. Check the directory and its permissions"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)

    @classmethod
    async def open(
        cls,
        path: Path,
        masters: Sequence[MasterKey],
        dictionaries: ShippedDictionaries | None = None,
        *,
        writable: bool = True,
    ) -> Self:
        """Open a key store; `dictionaries` compress the records it encrypts. `writable`: False only decrypts.

        Raises `LogMissing`, `LogCorrupt` (not a key store, or its schema was changed) or `LogUnavailable` (no configured master key fits).
        """
        if not path.exists():
            raise LogMissing(f"there is no key store at {path}: restore it, or make one with `tracker init`")
        restrict_database(path)
        connection = await _connect(path)
        try:
            secret = await _read_dedupe_secret(connection, path, masters)
            await run_in_thread(connection, _schema_guard(path).check)
            if not writable:
                await connection.execute("PRAGMA query_only = ON")
            return cls(path, connection, masters, secret, dictionaries or ShippedDictionaries())
        except sqlite3.Error as error:
            await connection.close()
            raise LogCorrupt(f"{path} cannot be read: {error}") from error
        except BaseException:
            await connection.close()
            raise

    async def close(self) -> None:
        """Close the file. Idempotent."""
        async with self._lock:
            await self._connection.close()

    # Dedupe hashes

    def dedupe_hash(self, source: str, dedupe_key: str) -> str:
        """What an encrypted log stores instead of a dedupe key: a keyed hash, so that nobody can guess a body from it."""
        return keyed_dedupe_hash(self.dedupe_secret, source, dedupe_key)

    def wrapped_dedupe_secret(self) -> dict[str, bytes]:
        """The dedupe secret as the key bucket stores it: {master key: wrapped}."""
        return {self.current_master: wrap(self._masters[self.current_master], self.dedupe_secret, DEDUPE_SECRET_AAD)}

    def unwrap_dedupe_secret(self, wrapped: Mapping[str, bytes]) -> bytes:
        """The bucket's dedupe secret. Raises `LogUnavailable` where its master key is not configured."""
        return unwrap_dedupe_secret(wrapped, self._masters)

    # Encrypting and decrypting records

    def encrypt(
        self, position: int, vendor: str, proof: bytes, body: bytes, key: DataKey, *, aad: bytes | None = None
    ) -> EncryptedBody:
        """Encrypt a record, compressed where that is smaller, with a key of its own (`make_keys`).

        `aad`: associated data to use instead of the position (`record_aad`).
        """
        nonce = os.urandom(NONCE_BYTES)
        plain = framed(proof, body)
        compressed = self.dictionaries.pack(vendor, proof, body) or plain
        encrypted = nonce + AESGCM(key.key).encrypt(nonce, compressed, _POSITION.pack(position) if aad is None else aad)
        return EncryptedBody(encrypted, hmac.digest(key.salt, plain, "sha256"))

    def decrypt(
        self, position: int, encrypted: bytes, key: DataKey, *, aad: bytes | None = None
    ) -> tuple[bytes, bytes]:
        """(proof, body) of an encrypted record. `aad`: associated data that may stand instead of the position.

        Raises `LogCorrupt` when the key does not fit the bytes.
        """
        plain = _decrypt(encrypted, key, _POSITION.pack(position))
        if plain is None and aad is not None:
            plain = _decrypt(encrypted, key, aad)
        if plain is None:
            raise LogCorrupt(
                f"the record at position {position} does not decrypt with its key: one of them was changed"
            )
        # A zstd frame never begins like the length of a proof.
        if plain[:4] == MAGIC:
            try:
                return self.dictionaries.unpack(plain)
            except ValueError as error:
                raise LogCorrupt(f"the record at position {position} does not decompress: {error}") from None
        (length,) = _PROOF_LENGTH.unpack_from(plain)
        return plain[_PROOF_LENGTH.size : _PROOF_LENGTH.size + length], plain[_PROOF_LENGTH.size + length :]

    # Data keys by position

    async def make_keys(self, first: int, last: int) -> dict[int, DataKey]:
        """Data keys for new records at these positions, durable on return. Hold the log's write lock meanwhile.

        Raises `LogUnavailable`; then nothing may be encrypted.
        """
        if first not in self._ahead or last not in self._ahead:
            async with self._lock:
                # Another process may have made keys ahead: a position has only one key.
                held = {
                    position: self._unwrap_position(position, master, wrapped)
                    for position, master, wrapped in await self._fetch(SELECT_KEYS, (first - 1, last + KEYS_AHEAD))
                }
                made, rows = self._generate([n for n in range(first, last + KEYS_AHEAD + 1) if n not in held])
                await self._in_transaction(INSERT_KEY, rows, expect_all=True)
                self._ahead = held | made
        return {position: self._ahead.pop(position) for position in range(first, last + 1)}

    def _generate(self, positions: Sequence[int]) -> tuple[dict[int, DataKey], list[tuple[int, str, bytes]]]:
        """New data keys, and their rows. Random bytes are requested once for all: each call is a system call."""
        master, name = self._masters[self.current_master], self.current_master
        secrets, nonces = os.urandom(2 * KEY_BYTES * len(positions)), os.urandom(NONCE_BYTES * len(positions))
        made: dict[int, DataKey] = {}
        rows: list[tuple[int, str, bytes]] = []
        for n, position in enumerate(positions):
            secret = secrets[2 * KEY_BYTES * n : 2 * KEY_BYTES * (n + 1)]
            nonce = nonces[NONCE_BYTES * n : NONCE_BYTES * (n + 1)]
            made[position] = DataKey(secret[:KEY_BYTES], secret[KEY_BYTES:])
            rows.append((position, name, nonce + master.encrypt(nonce, secret, _POSITION.pack(position))))
        return made, rows

    async def store(self, keys: Mapping[int, DataKey]) -> None:
        """Store the data keys of records that another log encrypted, by position. Durable on return."""
        master = self._masters[self.current_master]
        rows = [
            (position, self.current_master, wrap(master, key.key + key.salt, _POSITION.pack(position)))
            for position, key in keys.items()
        ]
        async with self._lock:
            await self._in_transaction(REPLACE_KEY, rows, expect_all=True)

    async def keys(self, after: int, until: int) -> dict[int, DataKey]:
        """The data keys of positions `after` < p <= `until` that have not been destroyed."""
        async with self._lock:
            rows = await self._fetch(SELECT_KEYS, (after, until))
        return {position: self._unwrap_position(position, master, wrapped) for position, master, wrapped in rows}

    async def destroy(self, positions: Sequence[int]) -> None:
        """Destroy the keys of these positions, and what SQLite would leave behind of them. Durable on return.

        Raises `LogUnavailable` when another process holds the file; running it again completes it.
        """
        async with self._lock:
            await self._in_transaction(DELETE_KEY, [(position,) for position in positions])
            await self._truncate_wal()

    async def count_outdated(self) -> int:
        """How many data keys are not wrapped by the current master key."""
        async with self._lock:
            ((count,),) = await self._fetch(COUNT_OUTDATED, (self.current_master,))
        return count

    async def rewrap(self, after: int = 0) -> int | None:
        """Wrap the next 2,000 data keys of older master keys with the current one.

        Returns the last position done, None when none was left. Then the dedupe secret is rewrapped too, and the older
        master keys are of no use any more.
        """
        async with self._lock:
            found = await self._fetch(SELECT_OUTDATED, (self.current_master, after, REWRAP_ROWS))
            current = self._masters[self.current_master]
            rows = [
                (self.current_master, wrap(current, secret.key + secret.salt, _POSITION.pack(position)), position)
                for position, master, wrapped in found
                for secret in (self._unwrap_position(position, master, wrapped),)
            ]
            await self._in_transaction(UPDATE_KEY, rows)
            if rows:
                return rows[-1][2]
            await self._in_transaction(INSERT_DEDUPE_SECRET, list(self.wrapped_dedupe_secret().items()))
            await self._in_transaction(DELETE_DEDUPE_SECRETS, [(self.current_master,)])
            await self._fetch("PRAGMA wal_checkpoint(TRUNCATE)", ())
            return None

    def _unwrap_position(self, position: int, master: str, wrapped: bytes) -> DataKey:
        cipher = self._masters.get(master)
        if cipher is None:
            raise LogUnavailable(
                f"the record at position {position} needs the master key {master!r}: name it under [sealing] keys"
            )
        secret = unwrap(cipher, wrapped, _POSITION.pack(position), self.path)
        return DataKey(secret[:KEY_BYTES], secret[KEY_BYTES:])

    # Entries: the data keys of a frame

    def wrap_entry(self, frame: bytes, keys: Sequence[DataKey | None]) -> bytes:
        """The entry for the records of a frame; None for a record without a key."""
        master = self._masters[self.current_master]
        wrapped = [
            None if key is None else wrap(master, key.key + key.salt, wrapped_key_aad(frame, n))
            for n, key in enumerate(keys)
        ]
        return encode(FrameKeys(self.current_master, wrapped))

    def unwrap_entry(self, frame: bytes, entry: bytes, wanted: Iterable[int]) -> dict[int, DataKey]:
        """Those of the wanted keys that the entry has. Raises `LogUnavailable` where their master key is not configured."""
        keys = decode(entry)
        master = self._masters.get(keys.master)
        found: dict[int, DataKey] = {}
        for n in wanted:
            wrapped = keys.wrapped[n] if n < len(keys.wrapped) else None
            if wrapped is None:
                continue
            if master is None:
                raise LogUnavailable(f"records need the master key {keys.master!r}: name it under [sealing] keys")
            secret = unwrap(master, wrapped, wrapped_key_aad(frame, n), self.path)
            found[n] = DataKey(secret[:KEY_BYTES], secret[KEY_BYTES:])
        return found

    def rewrap_entry(self, frame: bytes, entry: bytes) -> bytes | None:
        """The entry wrapped by the current master key; None where it is already."""
        keys = decode(entry)
        if keys.master == self.current_master:
            return None
        data_keys = self.unwrap_entry(frame, entry, range(len(keys.wrapped)))
        return self.wrap_entry(frame, [data_keys.get(n) for n in range(len(keys.wrapped))])

    def is_valid_entry(self, frame: bytes, entry: bytes) -> bool:
        """Whether the entry's first key unwraps with the master key it names. True where that key is not configured here."""
        try:
            keys = decode(entry)
        except LogCorrupt:
            return False
        first = next((n for n, wrapped in enumerate(keys.wrapped) if wrapped is not None), None)
        if keys.master not in self._masters or first is None:
            return True
        try:
            return bool(self.unwrap_entry(frame, entry, [first]))
        except LogUnavailable:
            return False

    async def store_entries(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """Store entries of the bucket, (frame, entry), for frames without one. Durable on return."""
        async with self._lock:
            await self._in_transaction(INSERT_FRAME, entries)

    async def replace_entry(self, frame: bytes, before: bytes | None, entry: bytes) -> None:
        """Store an entry of the bucket in place of `before` (None: there was none), unless that has changed."""
        async with self._lock:
            if before is None:
                await self._in_transaction(INSERT_FRAME, [(frame, entry)])
            else:
                await self._in_transaction(REPLACE_FRAME, [(entry, frame, before)])

    async def entries(self, frames: Iterable[bytes]) -> dict[bytes, bytes]:
        """The stored entries of these frames."""
        async with self._lock:
            return await self._select_entries(frames)

    async def missing_frames(self, frames: Sequence[bytes]) -> list[bytes]:
        """Those frames that have no entry here."""
        held = await self.entries(frames)
        return [frame for frame in frames if frame not in held]

    async def keys_of_copies(self, copies: Iterable[EncryptedCopy]) -> dict[EncryptedCopy, DataKey]:
        """The data keys of these copies that have not been destroyed."""
        wanted = group_by_frame(copies)
        found: dict[EncryptedCopy, DataKey] = {}
        for frame, entry in (await self.entries(wanted)).items():
            found |= {EncryptedCopy(frame, n): key for n, key in self.unwrap_entry(frame, entry, wanted[frame]).items()}
        return found

    async def destroy_copies(self, copies: Iterable[EncryptedCopy]) -> None:
        """Destroy the keys of these copies here, and what SQLite would leave behind of them. Durable on return.

        Raises `LogUnavailable` when another process holds the file; running it again completes it.
        """
        destroyed = group_by_frame(copies)

        def remove(frame: bytes, entry: bytes) -> bytes | None:
            keys = without_keys(decode(entry), destroyed[frame])
            return None if keys is None else encode(keys)

        async with self._lock:
            await self._update_entries(destroyed, remove)
            await self._truncate_wal()

    async def rewrap_entries(self, after: bytes = b"") -> tuple[bytes | None, int]:
        """Wrap the keys of the next 200 frames with the current master key.

        Returns the last frame done, None when none was left; and how many keys were rewrapped.
        """
        count = 0

        def rewrap(frame: bytes, entry: bytes) -> bytes | None:
            nonlocal count
            rewrapped = self.rewrap_entry(frame, entry)
            if rewrapped is not None:
                count += sum(wrapped is not None for wrapped in decode(entry).wrapped)
            return rewrapped

        async with self._lock:
            frames: list[bytes] = [frame for (frame,) in await self._fetch(SELECT_FRAMES, (after,))]
            await self._update_entries(frames, rewrap)
            await self._truncate_wal()
        return (frames[-1] if frames else None), count

    async def sweep_progress(self, bucket: str) -> int:
        """The last message of a key bucket that was swept for orphans. `bucket`: when it was created."""
        async with self._lock:
            found = await self._fetch(SELECT_SWEPT, (bucket,))
        return found[0][0] if found else 0

    async def save_sweep_progress(self, bucket: str, sequence: int) -> None:
        """Store it."""
        async with self._lock:
            await self._in_transaction(REPLACE_SWEPT, [(bucket, sequence)])

    async def _update_entries(self, frames: Iterable[bytes], update: Callable[[bytes, bytes], bytes | None]) -> None:
        """Update entries, (frame, entry) → entry or None, in one transaction. The lock must be held."""
        await self._fetch("BEGIN IMMEDIATE", ())
        try:
            await run_in_thread(self._connection, self._schema.check)
            for frame, entry in (await self._select_entries(frames)).items():
                updated = update(frame, entry)
                if updated is not None:
                    await self._fetch(UPDATE_FRAME, (updated, frame))
            await self._fetch("COMMIT", ())
        except BaseException:
            await self._fetch("ROLLBACK", ())
            raise

    async def _select_entries(self, frames: Iterable[bytes]) -> dict[bytes, bytes]:
        """The lock must be held."""
        wanted, found = list(frames), dict[bytes, bytes]()
        for start in range(0, len(wanted), SELECT_ROWS):
            part = wanted[start : start + SELECT_ROWS]
            found.update(await self._fetch(SELECT_ENTRIES.format(", ".join("?" * len(part))), part))  # pyright: ignore[reportArgumentType]
        return found

    # The file

    async def _in_transaction(self, statement: str, rows: Sequence[Sequence[Any]], *, expect_all: bool = False) -> None:
        """Run a statement for each row, durably. `expect_all`: each adds or replaces exactly one row.

        Raises `LogUnavailable`, or `LogCorrupt` where the schema was changed: a key could be swallowed.
        """
        try:
            await self._connection.execute("BEGIN IMMEDIATE")
            try:
                await run_in_thread(self._connection, self._schema.check)
                done = await self._connection.executemany(statement, rows)
                if expect_all and rows and done.rowcount != len(rows):
                    raise LogCorrupt(f"{self.path}: {len(rows) - done.rowcount} of {len(rows)} keys did not arrive")
                await self._connection.execute("COMMIT")
            except BaseException:
                await self._connection.rollback()
                raise
        except sqlite3.Error as error:
            raise LogUnavailable(f"the key store {self.path} cannot be written now: {error}") from error

    async def _fetch(self, statement: str, bound: Sequence[Any]) -> list[tuple[Any, ...]]:
        try:
            return [tuple(row) for row in await self._connection.execute_fetchall(statement, bound)]
        except sqlite3.Error as error:
            raise LogUnavailable(f"the key store {self.path} cannot be read now: {error}") from error

    async def _truncate_wal(self) -> None:
        """Truncate the WAL: until then it holds what was overwritten. The lock must be held."""
        for _ in range(CHECKPOINT_TRIES):
            ((busy, _, _),) = await self._fetch("PRAGMA wal_checkpoint(TRUNCATE)", ())
            if not busy:
                return
            await asyncio.sleep(0.1)
        raise LogUnavailable(f"{self.path}: the keys are destroyed, but its -wal still holds them: run it again")


def wrap(master: AESGCM, secret: bytes, aad: bytes) -> bytes:
    """A secret, encrypted by a master key."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + master.encrypt(nonce, secret, aad)


def unwrap(master: AESGCM, wrapped: bytes, aad: bytes, path: Path) -> bytes:
    """The secret. Raises `LogUnavailable` where another master key of the same id wrapped it."""
    try:
        return master.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], aad)
    except (InvalidTag, ValueError):
        raise LogUnavailable(
            f"{path}: the master key under [sealing] keys is not the one that wrapped these keys: configure that one"
        ) from None


def wrap_dedupe_secret(master: MasterKey, secret: bytes) -> dict[str, bytes]:
    """The dedupe secret as the key bucket stores it for all nodes: {master key: wrapped}."""
    return {master.id: wrap(AESGCM(master.key), secret, DEDUPE_SECRET_AAD)}


def unwrap_dedupe_secret(wrapped: Mapping[str, bytes], masters: Mapping[str, AESGCM]) -> bytes:
    """The bucket's dedupe secret. Raises `LogUnavailable` where no master key fits."""
    for master, secret in wrapped.items():
        if master in masters:
            return unwrap(masters[master], secret, DEDUPE_SECRET_AAD, Path("the bucket of data keys"))
    raise LogUnavailable(
        f"the bucket is wrapped by the master key {', '.join(wrapped)}, which is not configured under [sealing] keys"
    )


@functools.cache
def _expected_schema() -> Schema:
    def make(connection: sqlite3.Connection) -> None:
        for statement in SCHEMA:
            connection.execute(statement)

    return schema_made_by(make)


def _schema_guard(path: Path) -> SchemaGuard:
    return SchemaGuard(path, "key store", _expected_schema())


async def _create_schema(draft: Path, master: MasterKey, dedupe_secret: bytes) -> None:
    connection = await _connect(draft)
    try:
        for statement in SCHEMA:
            await connection.execute(statement)
        ((name, wrapped),) = wrap_dedupe_secret(master, dedupe_secret).items()
        await connection.execute(INSERT_DEDUPE_SECRET, (name, wrapped))
    finally:
        await connection.close()


async def read_dedupe_secret_from(path: Path, masters: Sequence[MasterKey]) -> bytes:
    """The dedupe secret of the key store at `path`; nothing is written. Raises as `KeyStore.open` does."""
    if not path.exists():
        raise LogMissing(f"there is no key store at {path}: restore it, or make one with `tracker init`")
    try:
        async with aiosqlite.connect(unwritten_uri(path.resolve()), uri=True, isolation_level=None) as connection:
            return await _read_dedupe_secret(connection, path, masters)
    except sqlite3.OperationalError as error:
        raise LogUnavailable(f"{path} cannot be opened: {error}") from error
    except sqlite3.Error as error:
        raise LogCorrupt(f"{path} cannot be read: {error}") from error


async def _read_dedupe_secret(connection: aiosqlite.Connection, path: Path, masters: Sequence[MasterKey]) -> bytes:
    ((found,),) = await connection.execute_fetchall("PRAGMA application_id")
    if found != APPLICATION_ID:
        raise LogCorrupt(f"{path} is not a key store of Tracker: check sealing.path")
    known = {master.id: AESGCM(master.key) for master in masters}
    rows = [
        (str(master), bytes(wrapped)) for master, wrapped in await connection.execute_fetchall(SELECT_DEDUPE_SECRETS)
    ]
    for master, wrapped in rows:
        if master in known:
            return unwrap(known[master], wrapped, DEDUPE_SECRET_AAD, path)
    named = ", ".join(master for master, _ in rows)
    raise LogUnavailable(f"{path} is wrapped by the master key {named}, which is not configured under [sealing] keys")


def keyed_dedupe_hash(secret: bytes, source: str, dedupe_key: str) -> str:
    """See `KeyStore.dedupe_hash`."""
    return "hmac:" + hmac.digest(secret, f"{source}\0{dedupe_key}".encode(), "sha256").hex()


async def _connect(path: Path) -> aiosqlite.Connection:
    try:
        connection = await aiosqlite.connect(path, isolation_level=None, timeout=3.0)
    except sqlite3.Error as error:
        raise LogUnavailable(f"{path} cannot be opened: {error}") from error
    try:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
            await connection.execute(f"PRAGMA {pragma}")
    except BaseException as error:
        # Its thread would keep the process alive.
        await connection.close()
        if isinstance(error, sqlite3.OperationalError):
            raise LogUnavailable(f"{path} cannot be opened: {error}") from error
        if isinstance(error, sqlite3.Error):
            raise LogCorrupt(f"{path} cannot be read: {error}") from error
        raise
    return connection


def _decrypt(encrypted: bytes, key: DataKey, aad: bytes) -> bytes | None:
    try:
        return AESGCM(key.key).decrypt(encrypted[:NONCE_BYTES], encrypted[NONCE_BYTES:], aad)
    except (InvalidTag, ValueError):
        return None
