"""A node's replica of a stream: a SQLite log with the same file, schema, tree and proofs; only appending differs.

    messages in stream order ── apply ── one transaction:  duplicates · positions · rows, leaves, tiles, erasures · cursor

The stream keeps what was acknowledged, so synchronous=NORMAL is enough here: after a power cut the file is as it was after
some transaction, cursor included, and missing messages are applied again, to the same positions. Several processes of a
node may apply into one file: the cursor is read under the write lock, and messages before it are skipped.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import aiosqlite
import structlog

from tracker.domain.deliveries import Appended, Verified
from tracker.errors import LogCorrupt, LogUnavailable
from tracker.log.merkle.leaf import record_leaf_hash
from tracker.log.keys.frame_keys import EncryptedCopy
from tracker.log.frames import FrameRow
from tracker.log.sqlite.log import SELECT_HEAD, Change, SqliteLog
from tracker.log.sqlite.trust import COUNT_QUARANTINED, TrustedKeys, TrustPolicy, describe, store_statements
from tracker.log.sqlite.file import create_file
from tracker.log.sqlite.dedupe import known_positions, place_rows
from tracker.log.cluster.messages import TreeMessage
from tracker.log.sqlite.bulk import Rows
from tracker.log.sqlite.tree import SELECT_COPIES
from tracker.log.keys.key_store import KeyStore

INSERT_CURSOR = "INSERT INTO stream (one, log_id, name, sequence, digest) VALUES (1, ?, ?, 0, x'')"
SELECT_CURSOR = "SELECT log_id, name, sequence, digest FROM stream"
UPDATE_CURSOR = "UPDATE stream SET sequence = ?, digest = ?"
FRAMES = "frames (sequence, id)"
SELECT_FRAMES_BACK = "SELECT sequence, id FROM frames WHERE sequence < ? ORDER BY sequence DESC LIMIT 2000"
COPIES = "copies (position, sequence, n)"
SELECT_IS_ERASED = "SELECT 1 FROM erasures WHERE position = ?"
SELECT_LEAF_HASH = "SELECT hash FROM leaves WHERE position = ?"
# Two nodes may erase the same record, and every frame must be applicable.
INSERT_ERASURE_ONCE = """
INSERT INTO erasures (position, erased_by) SELECT ?1, ?2
WHERE ?1 BETWEEN 1 AND ?2 - 1 AND NOT EXISTS (SELECT 1 FROM erasures WHERE position = ?1)
"""

_log = structlog.get_logger("replica")


class Cursor(NamedTuple):
    """How far a replica has applied which stream: the last message and its SHA-256 (b"" before the first)."""

    log_id: str
    stream: str
    sequence: int
    digest: bytes


class StreamEntry(NamedTuple):
    """A message of the stream to apply. One that is not a frame has no rows."""

    sequence: int
    digest: bytes
    rows: Sequence[FrameRow] = ()
    erases: Sequence[int] = ()
    frame: bytes = b""
    tree_message: TreeMessage | None = None

    @property
    def has_encrypted(self) -> bool:
        """Whether some of its records are encrypted."""
        return any(row[8] is not None for row in self.rows)


class Replica(SqliteLog):
    """A log that only `apply` appends to.

    With a key store, `fetch_keys` stores the keys of encrypted frames before their records are applied, or they would be
    read as lost. `on_erased` is called with the positions whose keys must be destroyed everywhere.
    """

    fetch_keys: Callable[[list[bytes]], Awaitable[None]] | None = None
    on_erased: Callable[[list[int]], None] | None = None
    trusted_keys: TrustedKeys | None = None
    """Whose messages about the tree are stored (`set_trusted_keys`). None: everybody's."""
    has_encrypted = False
    """Whether an encrypted record was applied since this was opened."""

    synchronous: ClassVar[str] = "NORMAL"

    @classmethod
    async def init(cls, path: str | Path, *, log_id: str, stream: str) -> None:
        """Create an empty replica, and its directory. Raises `LogUnavailable` when there is something at `path` already."""

        async def finish(connection: aiosqlite.Connection) -> None:
            await connection.execute(INSERT_CURSOR, (log_id, stream))

        await create_file(Path(path), finish)

    async def cursor(self) -> Cursor:
        """How far it has applied the stream. Raises `LogCorrupt` where the file is not a replica."""
        rows = await self._fetch(SELECT_CURSOR)
        if not rows:
            raise LogCorrupt(
                f"{self.path} is a log of its own, not a replica of a stream: name another path for the replica"
            )
        return Cursor(*rows[0])

    async def apply(self, entries: Sequence[StreamEntry]) -> list[list[Appended] | None]:
        """Apply consecutive messages in one transaction; returns the answers to the records of each.

        None for a message that was applied before. Raises `LogCorrupt` where messages are missing between the cursor and
        these, `LogUnavailable` when the file cannot be written now; then nothing was applied.
        """
        encrypted = [entry.frame for entry in entries if entry.has_encrypted]
        if encrypted:
            self.has_encrypted = True
            if self.fetch_keys is not None:
                await self.fetch_keys(encrypted)
        answers = await self._apply_entries(entries)
        if self._encryption.key_store is not None:
            await self._destroy_erased(self._encryption.key_store, entries, answers)
        return answers

    async def _apply_entries(self, entries: Sequence[StreamEntry]) -> list[list[Appended] | None]:
        async def write(connection: aiosqlite.Connection) -> Change[list[list[Appended] | None]]:
            ((sequence,),) = await connection.execute_fetchall("SELECT sequence FROM stream")
            fresh = [entry for entry in entries if entry.sequence > sequence]
            if not fresh:
                return Change([None] * len(entries))
            if [entry.sequence for entry in fresh] != list(range(sequence + 1, sequence + 1 + len(fresh))):
                raise LogCorrupt(f"{self.path}: messages of the stream are missing after {sequence}")
            change = await self._apply(connection, fresh)
            cursor = (UPDATE_CURSOR, (fresh[-1].sequence, fresh[-1].digest))
            quarantined.extend(await self._store_tree_messages(connection, fresh, change.answer))
            answers = [None] * (len(entries) - len(fresh)) + change.answer
            return Change(answers, change.frontier, change.inserted, [*change.statements, cursor])

        quarantined: list[tuple[int, str, str]] = []
        answers = await self._group_commit.run_exclusive(lambda: self._in_transaction(write, remember=True))
        for sequence, what, why in quarantined:
            _log.error("a message about the tree is quarantined", sequence=sequence, what=what, why=why)
        return answers

    async def _store_tree_messages(
        self, connection: aiosqlite.Connection, fresh: Sequence[StreamEntry], answers: Sequence[list[Appended] | None]
    ) -> list[tuple[int, str, str]]:
        """Store their messages about the tree, before their records; returns (sequence, what, why) of the quarantined ones."""
        quarantined: list[tuple[int, str, str]] = []
        if all(entry.tree_message is None for entry in fresh):
            return quarantined
        ((head,),) = await connection.execute_fetchall(SELECT_HEAD)
        for entry, given in zip(fresh, answers, strict=True):
            head = max([head, *(one.position for one in given or ())])
            if entry.tree_message is None:
                continue
            if self.trusted_keys is None:
                for statement in store_statements(entry.tree_message):
                    await connection.execute(*statement)
                continue
            policy = TrustPolicy(connection, self.trusted_keys)
            why = await policy.store(entry.tree_message, head)
            if why is not None:
                await policy.quarantine(entry.sequence, entry.tree_message, why)
                quarantined.append((entry.sequence, describe(entry.tree_message), why))
        return quarantined

    async def set_trusted_keys(self, trusted_keys: TrustedKeys | None) -> None:
        """From now on store only messages that a known key signed; checks the quarantine again, if the file is writable."""
        self.trusted_keys = trusted_keys

        async def write(connection: aiosqlite.Connection) -> Change[None]:
            if trusted_keys is not None:
                await TrustPolicy(connection, trusted_keys).recheck_quarantine()
            return Change(None)

        try:
            if await self.quarantined_count():
                await self._group_commit.run_exclusive(lambda: self._in_transaction(write, remember=False))
        except LogUnavailable as error:  # the next start tries again
            _log.warning("the quarantine cannot be checked again now", reason=str(error))

    async def quarantined_count(self) -> int:
        """How many messages about the tree no known key signed."""
        ((count,),) = await self._fetch(COUNT_QUARANTINED)
        return count

    async def _apply(
        self, connection: aiosqlite.Connection, fresh: Sequence[StreamEntry]
    ) -> Change[list[list[Appended] | None]]:
        head, positions = await known_positions(connection, [(row[0], row[3]) for entry in fresh for row in entry.rows])
        rows: list[tuple[Any, ...]] = []
        commitments: list[bytes | None] = []
        answers: list[list[Appended] | None] = []
        erasures: list[tuple[int, int]] = []
        frames: list[tuple[int, bytes]] = []
        copies: list[tuple[int, int, int]] = []
        for entry in fresh:
            given, kept = place_rows(head, positions, entry.rows)
            answers.append(given)
            if entry.frame and entry.has_encrypted:
                frames.append((entry.sequence, entry.frame))
                copies += [
                    (one.position, entry.sequence, n)
                    for n, (one, row) in enumerate(zip(given, entry.rows, strict=True))
                    if row[8] is not None
                ]
            if kept:
                head = kept[-1][0]
                erasures += [(position, kept[0][0]) for position in entry.erases]
                rows += kept
                commitments += [row[8] for row, one in zip(entry.rows, given, strict=True) if not one.duplicate]
        copied = [Rows(FRAMES, frames), Rows(COPIES, copies)]
        if not rows:
            return Change(answers, None, copied)
        frontier, inserted = await self._grow(connection, rows, commitments)
        return Change(answers, frontier, [*inserted, *copied], [(INSERT_ERASURE_ONCE, each) for each in erasures])

    async def _destroy_erased(
        self, key_store: KeyStore, entries: Sequence[StreamEntry], answers: Sequence[list[Appended] | None]
    ) -> None:
        """Destroy the keys here of records that these erase, and of new copies of erased records."""
        positions = [position for entry in entries for position in entry.erases]
        for entry, given in zip(entries, answers, strict=True):
            if given is not None and entry.has_encrypted:
                duplicates = [one.position for one in given if one.duplicate]
                positions += [each for each in duplicates if await self._fetch(SELECT_IS_ERASED, (each,))]
        if positions:
            await key_store.destroy_copies(await self.copies_of(positions))
            if self.on_erased is not None:
                self.on_erased(positions)

    async def copies_of(self, positions: Sequence[int]) -> list[EncryptedCopy]:
        """All encrypted copies that the stream holds of these records."""
        found: list[EncryptedCopy] = []
        for position in positions:
            found += [
                EncryptedCopy(frame, n) for _, frame, n in await self._fetch(SELECT_COPIES, (position - 1, position))
            ]
        return found

    async def applied_among(self, frames: Collection[bytes]) -> set[bytes]:
        """Those of these frames that it has applied. It searches from the newest back: old ones cost the most."""
        wanted, found, before = set(frames), set[bytes](), 2**63 - 1
        while wanted:
            page = await self._fetch(SELECT_FRAMES_BACK, (before,))
            if not page:
                break
            found |= {frame for _, frame in page if frame in wanted}
            wanted -= found
            before = page[-1][0]
        return found

    def dedupe_hashes(self, verified: Verified) -> tuple[str, ...]:
        """The dedupe key that a delivery gets here, and those that it may have from before."""
        return self._encryption.dedupe_hashes(verified)

    async def positions_of_keys(self, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """The positions of those (source, dedupe key) that this replica has."""
        try:
            return (await known_positions(self._reader, wanted))[1] if wanted else {}
        except (sqlite3.Error, ValueError) as error:  # closed meanwhile: "no active connection"
            raise LogUnavailable(f"the log cannot be read now: {error}") from error

    async def answers_to(self, rows: Sequence[FrameRow]) -> list[Appended]:
        """The answers to a frame of these rows that another process of this node has applied.

        A record is new where it is stored exactly as we sent it: received at the same microsecond, with the same bytes.
        """
        positions = await self.positions_of_keys([(row[0], row[3]) for row in rows])
        answers: list[Appended] = []
        seen: set[int] = set()
        for row in rows:
            position = positions[row[0], row[3]]
            ((leaf,),) = await self._fetch(SELECT_LEAF_HASH, (position,))
            is_new = position not in seen and record_leaf_hash(position, *row[:8], commitment=row[8]) == leaf
            seen.add(position)
            answers.append(Appended(position, duplicate=not is_new))
        return answers
