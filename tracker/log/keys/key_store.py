"""The key store: one data key a record, wrapped by a master key, apart from the log, so that it can be destroyed.

    sealed body   AES-256-GCM(data key, framed proof and body, mostly packed; the position is authenticated with it,
                  or what the log knows the record by, where it was sealed for a stream: `frame_keys.py`)
    wrapped       AES-256-GCM(master key, data key ‖ salt; the position is authenticated with it)

Nonces are random. The salt makes the leaf's commitment unguessable. Destroying a row destroys both; SQLite overwrites it
(`secure_delete`), and the WAL is truncated.

Keys are durable before the record is, and made ahead, 1,024 positions at a time: one flush of this file for so many
records. If we die there are keys nobody used; the next records of those positions use them. The other way round there
would be a record nobody can read.

LIMIT: copies of this file (backups, snapshots of a file system or a disk) keep destroyed keys until they are gone too.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import sqlite3
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import aiosqlite
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tracker.errors import LogCorrupt, LogMissing, LogUnavailable
from tracker.log.merkle.leaf import framed
from tracker.log.record_compression import MAGIC
from tracker.log.shipped_dictionaries import ShippedDictionaries
from tracker.log.sqlite.file import publish_file
from tracker.log.keys.frame_store import (
    CREATE_FRAMES,
    CREATE_SWEPT,
    KEY_BYTES,
    NONCE_BYTES,
    DataKey,
    FrameStore,
    unwrap,
    wrap,
)

APPLICATION_ID = 1414679371
"""`PRAGMA application_id` of every key store of ours ("TRKK")."""

SCHEMA = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    """CREATE TABLE keys (
        position INTEGER PRIMARY KEY, master TEXT NOT NULL, wrapped BLOB NOT NULL
    ) STRICT""",
    "CREATE TABLE names (master TEXT PRIMARY KEY, wrapped BLOB NOT NULL) STRICT",
)
INSERT_KEY = "INSERT INTO keys (position, master, wrapped) VALUES (?, ?, ?)"
REPLACE_KEY = "INSERT OR REPLACE INTO keys (position, master, wrapped) VALUES (?, ?, ?)"
SELECT_KEYS = "SELECT position, master, wrapped FROM keys WHERE position > ? AND position <= ?"
SELECT_OTHERS = (
    "SELECT position, master, wrapped FROM keys WHERE master <> ? AND position > ? ORDER BY position LIMIT ?"
)
COUNT_OTHERS = "SELECT count(*) FROM keys WHERE master <> ?"
UPDATE_KEY = "UPDATE keys SET master = ?, wrapped = ? WHERE position = ?"
DELETE_KEY = "DELETE FROM keys WHERE position = ?"
SELECT_NAMES = "SELECT master, wrapped FROM names"
INSERT_NAMES = "INSERT OR REPLACE INTO names (master, wrapped) VALUES (?, ?)"
DELETE_NAMES = "DELETE FROM names WHERE master <> ?"

NAMES_AAD = b"names"
AHEAD = 1_024
_POSITION = struct.Struct(">Q")
_FRAME = struct.Struct(">Q")
REWRAP = 2_000


class MasterKey(NamedTuple):
    """A master key: `id` names it in the store, `key` are 32 bytes."""

    id: str
    key: bytes

    def __repr__(self) -> str:
        return f"Master({self.id!r}, …)"


class EncryptedBody(NamedTuple):
    """A record sealed, as it goes into the log, and what its leaf says about the plain bytes."""

    body: bytes
    commitment: bytes


class KeyStore(FrameStore):
    """One key store. Made by `create`, opened by `open`; `masters[0]` wraps, the others only open."""

    def __init__(
        self,
        path: Path,
        connection: aiosqlite.Connection,
        masters: Sequence[MasterKey],
        names: bytes,
        dictionaries: ShippedDictionaries,
    ) -> None:
        self.path = path
        self._connection = connection
        self._lock = asyncio.Lock()
        self._current = masters[0].id
        self._masters: Mapping[str, AESGCM] = {master.id: AESGCM(master.key) for master in masters}
        self._names = names
        self._ahead: dict[int, DataKey] = {}
        self._shipped = dictionaries

    @staticmethod
    async def create(path: Path, masters: Sequence[MasterKey], names: bytes | None = None) -> None:
        """Make an empty key store. Raises `LogUnavailable` when there is something at `path` already.

        `names`: what dedupe keys are hashed with where it is not a new one, 32 bytes.
        It appears under its name only when it is complete, as a log does: half a key store would look like one whose
        master key is lost.
        """
        if path.exists():
            raise LogUnavailable(f"{path} exists already: it is left as it is")
        draft = path.with_name(f"{path.name}.{os.getpid()}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.unlink(missing_ok=True)
            os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            await _fill(draft, masters[0], names or os.urandom(KEY_BYTES))
            publish_file(draft, path)
        except (OSError, sqlite3.Error) as error:
            raise LogUnavailable(f"{path} cannot be made: {error}") from error
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)

    @classmethod
    async def open(
        cls, path: Path, masters: Sequence[MasterKey], dictionaries: ShippedDictionaries | None = None
    ) -> Self:
        """Open a key store; `dictionaries` compress the records it encrypts. Raises `LogMissing`, `LogCorrupt` (none of ours), `LogUnavailable` (no master key fits)."""
        if not path.exists():
            raise LogMissing(f"there is no key store at {path}: bring it back, or make one with `tracker init`")
        connection = await _connect(path)
        try:
            ((found,),) = await connection.execute_fetchall("PRAGMA application_id")
            if found != APPLICATION_ID:
                raise LogCorrupt(f"{path} is not a key store of Tracker: check sealing.path")
            await connection.execute(CREATE_FRAMES)
            await connection.execute(CREATE_SWEPT)
            rows = [
                (str(master), bytes(wrapped)) for master, wrapped in await connection.execute_fetchall(SELECT_NAMES)
            ]
            known = {master.id: AESGCM(master.key) for master in masters}
            for master, wrapped in rows:
                if master in known:
                    names = unwrap(known[master], wrapped, NAMES_AAD, path)
                    return cls(path, connection, masters, names, dictionaries or ShippedDictionaries())
            named = ", ".join(master for master, _ in rows)
            raise LogUnavailable(
                f"{path} is wrapped by the master key {named}, which is not configured under [sealing]"
            )
        except sqlite3.Error as error:
            await connection.close()
            raise LogCorrupt(f"{path} cannot be read: {error}") from error
        except BaseException:
            await connection.close()
            raise

    def dedupe_hash(self, source: str, dedupe_key: str) -> str:
        """What a sealed log knows a delivery by: keyed, so that nobody can guess a body from it."""
        return "hmac:" + hmac.digest(self._names, f"{source}\0{dedupe_key}".encode(), "sha256").hex()

    async def make_keys(self, first: int, last: int) -> dict[int, DataKey]:
        """Data keys of the positions about to be sealed, durable on return. Hold the log's write lock meanwhile.

        Raises `LogUnavailable`; then nothing may be sealed.
        """
        if first not in self._ahead or last not in self._ahead:
            async with self._lock:
                # Another process may have made keys ahead: a position has one key only.
                held = {
                    position: self._opened(position, master, wrapped)
                    for position, master, wrapped in await self._fetch(SELECT_KEYS, (first - 1, last + AHEAD))
                }
                made, rows = self._made([n for n in range(first, last + AHEAD + 1) if n not in held])
                await self._in_transaction(INSERT_KEY, rows)
                self._ahead = held | made
        return {position: self._ahead.pop(position) for position in range(first, last + 1)}

    async def store(self, keys: Mapping[int, DataKey]) -> None:
        """Keep the data keys of records that were sealed elsewhere, by position. Durable on return."""
        master = self._masters[self._current]
        rows = [
            (position, self._current, wrap(master, key.key + key.salt, _POSITION.pack(position)))
            for position, key in keys.items()
        ]
        async with self._lock:
            await self._in_transaction(REPLACE_KEY, rows)

    def _made(self, positions: Sequence[int]) -> tuple[dict[int, DataKey], list[tuple[int, str, bytes]]]:
        """New data keys, and their rows. Random bytes are asked for once: each call goes to the kernel."""
        master, name = self._masters[self._current], self._current
        secrets, nonces = os.urandom(2 * KEY_BYTES * len(positions)), os.urandom(NONCE_BYTES * len(positions))
        made: dict[int, DataKey] = {}
        rows: list[tuple[int, str, bytes]] = []
        for n, position in enumerate(positions):
            secret = secrets[2 * KEY_BYTES * n : 2 * KEY_BYTES * (n + 1)]
            nonce = nonces[NONCE_BYTES * n : NONCE_BYTES * (n + 1)]
            made[position] = DataKey(secret[:KEY_BYTES], secret[KEY_BYTES:])
            rows.append((position, name, nonce + master.encrypt(nonce, secret, _POSITION.pack(position))))
        return made, rows

    @property
    def dedupe_secret(self) -> bytes:
        """What dedupe keys are hashed with: one for all nodes of a cluster."""
        return self._names

    @property
    def current_master(self) -> str:
        """The id of the master key that wraps."""
        return self._current

    def wrapped_dedupe_secret(self) -> dict[str, bytes]:
        """What dedupe keys are hashed with, as a bucket says it."""
        return {self._current: wrap(self._masters[self._current], self._names, NAMES_AAD)}

    def unwrap_dedupe_secret(self, wrapped: Mapping[str, bytes]) -> bytes:
        """What a bucket says. Raises `LogUnavailable` where its master key is not configured."""
        return unwrap_dedupe_secret(wrapped, self._masters)

    def encrypt(
        self, position: int, vendor: str, proof: bytes, body: bytes, key: DataKey, *, about: bytes | None = None
    ) -> EncryptedBody:
        """Seal the record of a position, packed where that is smaller, with a key of its own (`keys_for`).

        `about`: what is authenticated with it instead of the position (`about_record`).
        """
        nonce = os.urandom(NONCE_BYTES)
        plain = framed(proof, body)
        inside = self._shipped.pack(vendor, proof, body) or plain
        sealed = nonce + AESGCM(key.key).encrypt(nonce, inside, _POSITION.pack(position) if about is None else about)
        return EncryptedBody(sealed, hmac.digest(key.salt, plain, "sha256"))

    def decrypt(self, position: int, sealed: bytes, key: DataKey, *, about: bytes | None = None) -> tuple[bytes, bytes]:
        """(proof, body) of a sealed record; `about`: what else may have been authenticated with it than the position.

        Raises `LogCorrupt` when the key does not fit the bytes.
        """
        plain = _opened(sealed, key, _POSITION.pack(position))
        if plain is None and about is not None:
            plain = _opened(sealed, key, about)
        if plain is None:
            raise LogCorrupt(f"the record at position {position} does not open with its key: one was changed")
        # A frame of zstd does not begin as a length does.
        if plain[:4] == MAGIC:
            try:
                return self._shipped.unpack(plain)
            except ValueError as error:
                raise LogCorrupt(f"the record at position {position} does not unpack: {error}") from None
        (length,) = _FRAME.unpack_from(plain)
        return plain[_FRAME.size : _FRAME.size + length], plain[_FRAME.size + length :]

    async def keys(self, after: int, until: int) -> dict[int, DataKey]:
        """The data keys of positions `after` < p <= `until` that are still there."""
        async with self._lock:
            rows = await self._fetch(SELECT_KEYS, (after, until))
        return {position: self._opened(position, master, wrapped) for position, master, wrapped in rows}

    async def destroy(self, positions: Sequence[int]) -> None:
        """Destroy the keys of these positions, and what SQLite would leave behind of them. Durable on return.

        Raises `LogUnavailable` when somebody else holds the file; running it again goes on.
        """
        async with self._lock:
            await self._in_transaction(DELETE_KEY, [(position,) for position in positions])
            await self._forget()

    async def count_outdated(self) -> int:
        """How many data keys are not wrapped by the current master key."""
        async with self._lock:
            ((count,),) = await self._fetch(COUNT_OTHERS, (self._current,))
        return count

    async def rewrap(self, after: int = 0) -> int | None:
        """Wrap the next 2,000 data keys of older master keys anew; the last position done, None when none was left.

        With the last of them the older masters' names go too: after that the old master key is of no use.
        """
        async with self._lock:
            found = await self._fetch(SELECT_OTHERS, (self._current, after, REWRAP))
            current = self._masters[self._current]
            rows = [
                (self._current, wrap(current, secret.key + secret.salt, _POSITION.pack(position)), position)
                for position, master, wrapped in found
                for secret in (self._opened(position, master, wrapped),)
            ]
            await self._in_transaction(UPDATE_KEY, rows)
            if rows:
                return rows[-1][2]
            await self._in_transaction(INSERT_NAMES, [(self._current, wrap(current, self._names, NAMES_AAD))])
            await self._in_transaction(DELETE_NAMES, [(self._current,)])
            await self._fetch("PRAGMA wal_checkpoint(TRUNCATE)", ())
            return None

    async def close(self) -> None:
        """Let go of the store. Idempotent."""
        async with self._lock:
            await self._connection.close()

    def _opened(self, position: int, master: str, wrapped: bytes) -> DataKey:
        cipher = self._masters.get(master)
        if cipher is None:
            raise LogUnavailable(
                f"the record at position {position} needs the master key {master!r}: name it under [sealing] keys"
            )
        secret = unwrap(cipher, wrapped, _POSITION.pack(position), self.path)
        return DataKey(secret[:KEY_BYTES], secret[KEY_BYTES:])

    async def _in_transaction(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        try:
            await self._connection.execute("BEGIN IMMEDIATE")
            try:
                await self._connection.executemany(statement, rows)
                await self._connection.execute("COMMIT")
            except BaseException:
                await self._connection.rollback()
                raise
        except sqlite3.Error as error:
            raise LogUnavailable(f"the key store {self.path} cannot take keys now: {error}") from error

    async def _fetch(self, statement: str, bound: Sequence[Any]) -> list[tuple[Any, ...]]:
        try:
            return [tuple(row) for row in await self._connection.execute_fetchall(statement, bound)]
        except sqlite3.Error as error:
            raise LogUnavailable(f"the key store {self.path} cannot be read now: {error}") from error


def wrap_dedupe_secret(master: MasterKey, names: bytes) -> dict[str, bytes]:
    """What dedupe keys are hashed with, by the master key that wraps it: what a bucket says to all nodes."""
    return {master.id: wrap(AESGCM(master.key), names, NAMES_AAD)}


def unwrap_dedupe_secret(wrapped: Mapping[str, bytes], masters: Mapping[str, AESGCM]) -> bytes:
    """What dedupe keys are hashed with, as a bucket says it. Raises `LogUnavailable` where no master key fits."""
    for master, secret in wrapped.items():
        if master in masters:
            return unwrap(masters[master], secret, NAMES_AAD, Path("the bucket of data keys"))
    raise LogUnavailable(
        f"the bucket is wrapped by the master key {', '.join(wrapped)}, which is not configured under [sealing]"
    )


async def _fill(draft: Path, master: MasterKey, names: bytes) -> None:
    connection = await _connect(draft)
    try:
        for statement in (*SCHEMA, CREATE_FRAMES, CREATE_SWEPT):
            await connection.execute(statement)
        wrapped = wrap(AESGCM(master.key), names, NAMES_AAD)
        await connection.execute(INSERT_NAMES, (master.id, wrapped))
    finally:
        await connection.close()


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


def _opened(sealed: bytes, key: DataKey, about: bytes) -> bytes | None:
    try:
        return AESGCM(key.key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], about)
    except (InvalidTag, ValueError):
        return None
