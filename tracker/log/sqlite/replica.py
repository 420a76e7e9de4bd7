"""A SQLite log that follows a stream: a node's replica. The same file, schema, tree and proofs; only the way in differs.

    messages in stream order ── apply ── one transaction:  first wins · dense positions · rows, leaves, tiles, erasures · cursor

The stream keeps what was acknowledged, so here synchronous=NORMAL is enough: after a power cut the file is as it was after
some transaction, cursor included, and what is missing is applied again, to the same positions. Several processes of a
node may follow into one file: the cursor is read under the write lock, and what it has passed is passed over.
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
from tracker.log.sqlite.trust import COUNT_ASIDE, TrustPolicy, TrustedKeys, about
from tracker.log.sqlite.file import create_file
from tracker.log.sqlite.dedupe import known_positions, place_rows
from tracker.log.sqlite.messages import store_statements
from tracker.log.cluster.messages import TreeMessage
from tracker.log.sqlite.bulk import insert_statements
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
# Two nodes may erase the same record, and a frame must never be one that cannot be applied.
INSERT_ERASURE_ONCE = """
INSERT INTO erasures (position, erased_by) SELECT ?1, ?2
WHERE ?1 BETWEEN 1 AND ?2 - 1 AND NOT EXISTS (SELECT 1 FROM erasures WHERE position = ?1)
"""

_log = structlog.get_logger("replica")


class Cursor(NamedTuple):
    """How far a replica is: the last message applied and its SHA-256 (b"" before the first), of which log and stream."""

    log_id: str
    stream: str
    sequence: int
    digest: bytes


class StreamEntry(NamedTuple):
    """A message of the stream as it is applied; one that is no frame has no rows."""

    sequence: int
    digest: bytes
    rows: Sequence[FrameRow] = ()
    erases: Sequence[int] = ()
    frame: bytes = b""
    said: TreeMessage | None = None

    @property
    def is_sealed(self) -> bool:
        """Whether some of its records have keys."""
        return any(row[8] is not None for row in self.rows)


class Replica(SqliteLog):
    """A log that only `apply` adds to.

    With a key store, `bring` gets the keys of sealed frames into it before their records are there, or they would be read
    as lost; `gone` is told the positions whose keys have to go from everywhere.
    """

    fetch_keys: Callable[[list[bytes]], Awaitable[None]] | None = None
    on_erased: Callable[[list[int]], None] | None = None
    trusted_keys: TrustedKeys | None = None
    """Whose word about the tree is kept (`believe`). None: everybody's."""
    has_encrypted = False
    """Whether a sealed record was applied since this was opened."""

    synchronous: ClassVar[str] = "NORMAL"

    @classmethod
    async def init(cls, path: str | Path, *, log_id: str, stream: str) -> None:
        """Make an empty replica, and its directory. Raises `LogUnavailable` when there is something at `path` already."""

        async def finish(connection: aiosqlite.Connection) -> None:
            await connection.execute(INSERT_CURSOR, (log_id, stream))

        await create_file(Path(path), finish)

    async def cursor(self) -> Cursor:
        """How far it is. Raises `LogCorrupt` where the file is a log of its own and no replica."""
        rows = await self._fetch(SELECT_CURSOR)
        if not rows:
            raise LogCorrupt(
                f"{self.path} is a log of its own, no replica of a stream: name another path for the replica"
            )
        return Cursor(*rows[0])

    async def apply(self, entries: Sequence[StreamEntry]) -> list[list[Appended] | None]:
        """Apply messages that follow one another, in one transaction; the answers to the records of each.

        None for one that was applied before. Raises `LogCorrupt` where messages are missing between the cursor and
        these, `LogUnavailable` when the file cannot take them now; nothing was applied then.
        """
        sealed = [entry.frame for entry in entries if entry.is_sealed]
        if sealed:
            self.has_encrypted = True
            if self.fetch_keys is not None:
                await self.fetch_keys(sealed)
        answers = await self._applied(entries)
        if self._sealing.vault is not None:
            await self._destroy_gone(self._sealing.vault, entries, answers)
        return answers

    async def _applied(self, entries: Sequence[StreamEntry]) -> list[list[Appended] | None]:
        async def write(connection: aiosqlite.Connection) -> Change[list[list[Appended] | None]]:
            ((sequence,),) = await connection.execute_fetchall("SELECT sequence FROM stream")
            fresh = [entry for entry in entries if entry.sequence > sequence]
            if not fresh:
                return Change([None] * len(entries))
            if [entry.sequence for entry in fresh] != list(range(sequence + 1, sequence + 1 + len(fresh))):
                raise LogCorrupt(f"{self.path}: messages of the stream are missing after {sequence}")
            change = await self._apply(connection, fresh)
            here = (UPDATE_CURSOR, (fresh[-1].sequence, fresh[-1].digest))
            flaws.extend(await self._hear(connection, fresh, change.answer))
            answers = [None] * (len(entries) - len(fresh)) + change.answer
            return Change(answers, change.frontier, [*change.statements, here])

        flaws: list[tuple[int, str, str]] = []
        answers = await self._group_commit.run_exclusive(lambda: self._in_transaction(write, remember=True))
        for sequence, what, why in flaws:
            _log.error("what somebody says about the tree is set aside", sequence=sequence, what=what, why=why)
        return answers

    async def _hear(
        self, connection: aiosqlite.Connection, fresh: Sequence[StreamEntry], answers: Sequence[list[Appended] | None]
    ) -> list[tuple[int, str, str]]:
        """Keep what these say about the tree; (sequence, what, why) of what is set aside. Their records are not here yet."""
        flaws: list[tuple[int, str, str]] = []
        if all(entry.said is None for entry in fresh):
            return flaws
        ((head,),) = await connection.execute_fetchall(SELECT_HEAD)
        for entry, given in zip(fresh, answers, strict=True):
            head = max([head, *(one.position for one in given or ())])
            if entry.said is None:
                continue
            if self.trusted_keys is None:
                for statement in store_statements(entry.said):
                    await connection.execute(*statement)
                continue
            believing = TrustPolicy(connection, self.trusted_keys)
            why = await believing.store(entry.said, head)
            if why is not None:
                await believing.quarantine(entry.sequence, entry.said, why)
                flaws.append((entry.sequence, about(entry.said), why))
        return flaws

    async def set_trusted_keys(self, known: TrustedKeys | None) -> None:
        """From now on keep only what is signed with a known key, also of what was set aside, if the file takes it now."""
        self.trusted_keys = known

        async def write(connection: aiosqlite.Connection) -> Change[None]:
            if known is not None:
                await TrustPolicy(connection, known).look_again()
            return Change(None)

        try:
            if await self.quarantined_count():
                await self._group_commit.run_exclusive(lambda: self._in_transaction(write, remember=False))
        except LogUnavailable as error:  # the next start looks again
            _log.warning("what was set aside is not looked at again now", reason=str(error))

    async def quarantined_count(self) -> int:
        """How many messages about the tree are not signed with a known key."""
        ((count,),) = await self._fetch(COUNT_ASIDE)
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
            if entry.frame and entry.is_sealed:
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
        sealed = [*insert_statements(FRAMES, frames), *insert_statements(COPIES, copies)]
        if not rows:
            return Change(answers, None, sealed)
        frontier, statements = await self._grown(connection, rows, commitments)
        return Change(answers, frontier, [*statements, *sealed, *((INSERT_ERASURE_ONCE, each) for each in erasures)])

    async def _destroy_gone(
        self, vault: KeyStore, entries: Sequence[StreamEntry], answers: Sequence[list[Appended] | None]
    ) -> None:
        """Destroy the keys here of what these erase, and of what they bring again though it is erased."""
        positions = [position for entry in entries for position in entry.erases]
        for entry, given in zip(entries, answers, strict=True):
            if given is not None and entry.is_sealed:
                again = [one.position for one in given if one.duplicate]
                positions += [each for each in again if await self._fetch(SELECT_IS_ERASED, (each,))]
        if positions:
            await vault.destroy_copies(await self.copies_of(positions))
            if self.on_erased is not None:
                self.on_erased(positions)

    async def copies_of(self, positions: Sequence[int]) -> list[EncryptedCopy]:
        """All sealed copies that the stream holds of these records."""
        found: list[EncryptedCopy] = []
        for position in positions:
            found += [
                EncryptedCopy(frame, n) for _, frame, n in await self._fetch(SELECT_COPIES, (position - 1, position))
            ]
        return found

    async def applied_among(self, frames: Collection[bytes]) -> set[bytes]:
        """Those of these sealed frames that it has applied. It looks from the newest on: the first ones cost the most."""
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
        """What a delivery would be known by here, and what it may be known by from before."""
        return self._sealing.dedupe_hashes(verified)

    async def positions_of_keys(self, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """Where those of the (source, dedupe key) are that this replica has applied."""
        try:
            return (await known_positions(self._reader, wanted))[1] if wanted else {}
        except (sqlite3.Error, ValueError) as error:  # closed meanwhile: "no active connection"
            raise LogUnavailable(f"the log cannot be read now: {error}") from error

    async def answers_to(self, rows: Sequence[FrameRow]) -> list[Appended]:
        """What applying a frame of these answered, when another process of this node has applied it.

        A record is ours where it stands exactly as we sent it: received at the same microsecond, with the same bytes.
        """
        positions = await self.positions_of_keys([(row[0], row[3]) for row in rows])
        answers: list[Appended] = []
        seen: set[int] = set()
        for row in rows:
            position = positions[row[0], row[3]]
            ((leaf,),) = await self._fetch(SELECT_LEAF_HASH, (position,))
            is_ours = position not in seen and record_leaf_hash(position, *row[:8], commitment=row[8]) == leaf
            seen.add(position)
            answers.append(Appended(position, duplicate=not is_ours))
        return answers
