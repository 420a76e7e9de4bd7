"""Says which deliveries a log has already, and writes nothing at all: what a dry run of an import appends to."""

from __future__ import annotations

import contextlib
import hmac
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import final

import aiosqlite

from tracker.domain.deliveries import Appended, Verified
from tracker.errors import LogMissing, LogUnavailable
from tracker.log.group_commit import QUEUE_BYTES, storable_texts
from tracker.log.keys.key_store import keyed_dedupe_hash
from tracker.log.sqlite.dedupe import known_positions
from tracker.log.sqlite.file import recognise, unwritten_uri


@final
class KnownDeliveries:
    """`append_all` answers as the log would, without appending. Made by `open_known_deliveries`."""

    def __init__(self, connection: aiosqlite.Connection, dedupe_secret: bytes | None) -> None:
        self._connection = connection
        self._dedupe_secret = dedupe_secret
        self._added: dict[bytes, int] = {}
        """What this run would have appended: a digest of source and key → its position."""
        self._head: int | None = None

    @property
    def max_batch_bytes(self) -> int:
        """See `Appender.max_batch_bytes`."""
        return QUEUE_BYTES

    async def append_all(self, batch: Sequence[Verified]) -> list[Appended]:
        """What the log would answer. Raises `LogUnavailable` where it cannot be read."""
        named = [self._keys(storable_texts(each)) for each in batch]
        try:
            head, positions = await known_positions(self._connection, [key for keys in named for key in keys])
        except sqlite3.Error as error:
            raise LogUnavailable(f"the log cannot be read now: {error}") from error
        self._head = head if self._head is None else self._head
        answers: list[Appended] = []
        for keys in named:
            digest = hmac.digest(b"", "\0".join(keys[-1]).encode(), "sha256")[:16]
            known = next((positions[key] for key in keys if key in positions), self._added.get(digest))
            if known is None:
                self._head += 1
                self._added[digest] = self._head
            answers.append(Appended(self._head if known is None else known, duplicate=known is not None))
        return answers

    def _keys(self, verified: Verified) -> list[tuple[str, str]]:
        """The keys under which the log may have a delivery; the plain one last."""
        source, plain = verified.source, verified.dedupe_key
        keyed = [] if self._dedupe_secret is None else [keyed_dedupe_hash(self._dedupe_secret, source, plain)]
        return [(source, key) for key in (*keyed, plain)]


@contextlib.asynccontextmanager
async def open_known_deliveries(path: Path, dedupe_secret: bytes | None) -> AsyncGenerator[KnownDeliveries]:
    """Look into the log at `path`. `dedupe_secret`: what its keys are hashed with, where it is encrypted.

    Raises `LogMissing`, `LogCorrupt` (not a log of Tracker) or `LogUnavailable`.
    """
    if not path.exists():
        raise LogMissing(f"there is no log at {path}: check log.path, or create one with `tracker init`")
    try:
        connection = await aiosqlite.connect(unwritten_uri(path.resolve()), uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise LogUnavailable(f"{path} cannot be opened: {error}") from error
    try:
        await recognise(connection, path)
        yield KnownDeliveries(connection, dedupe_secret)
    finally:
        await connection.close()
