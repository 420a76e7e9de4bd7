"""A SQLite log that follows a stream: a node's replica. The same file, schema, tree and proofs; only the way in differs.

    messages in stream order ── apply ── one transaction:  first wins · dense positions · rows, leaves, tiles, erasures · cursor

The stream keeps what was acknowledged, so here synchronous=NORMAL is enough: after a power cut the file is as it was after
some transaction, cursor included, and what is missing is applied again, to the same positions. Several processes of a
node may follow into one file: the cursor is read under the write lock, and what it has passed is passed over.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import aiosqlite

from tracker.deliveries import Appended
from tracker.errors import LogCorrupt, LogUnavailable
from tracker.evidence.leaf import record_leaf
from tracker.log.frames import FrameRow
from tracker.log.sqlite import Change, SqliteLog
from tracker.log.sqlite_file import make
from tracker.log.sqlite_placing import known, placed_at
from tracker.log.sqlite_vouching import keeping
from tracker.log.vouchers import Voucher

INSERT_CURSOR = "INSERT INTO stream (one, log_id, name, sequence, digest) VALUES (1, ?, ?, 0, x'')"
SELECT_CURSOR = "SELECT log_id, name, sequence, digest FROM stream"
UPDATE_CURSOR = "UPDATE stream SET sequence = ?, digest = ?"
SELECT_LEAF_HASH = "SELECT hash FROM leaves WHERE position = ?"
# Two nodes may erase the same record, and a frame must never be one that cannot be applied.
INSERT_ERASURE_ONCE = """
INSERT INTO erasures (position, erased_by) SELECT ?1, ?2
WHERE ?1 BETWEEN 1 AND ?2 - 1 AND NOT EXISTS (SELECT 1 FROM erasures WHERE position = ?1)
"""


class Cursor(NamedTuple):
    """How far a replica is: the last message applied and its SHA-256 (b"" before the first), of which log and stream."""

    log_id: str
    stream: str
    sequence: int
    digest: bytes


class Entry(NamedTuple):
    """A message of the stream as it is applied; one that is no frame has no rows."""

    sequence: int
    digest: bytes
    rows: Sequence[FrameRow] = ()
    erases: Sequence[int] = ()
    said: Voucher | None = None


class Replica(SqliteLog):
    """A log that only `apply` adds to."""

    synchronous: ClassVar[str] = "NORMAL"

    @classmethod
    async def begin(cls, path: str | Path, *, log_id: str, stream: str) -> None:
        """Make an empty replica, and its directory. Raises `LogUnavailable` when there is something at `path` already."""

        async def finish(connection: aiosqlite.Connection) -> None:
            await connection.execute(INSERT_CURSOR, (log_id, stream))

        await make(Path(path), finish)

    async def cursor(self) -> Cursor:
        """How far it is. Raises `LogCorrupt` where the file is a log of its own and no replica."""
        rows = await self._fetch(SELECT_CURSOR)
        if not rows:
            raise LogCorrupt(
                f"{self.path} is a log of its own, no replica of a stream: name another path for the replica"
            )
        return Cursor(*rows[0])

    async def apply(self, entries: Sequence[Entry]) -> list[list[Appended] | None]:
        """Apply messages that follow one another, in one transaction; the answers to the records of each.

        None for one that was applied before. Raises `LogCorrupt` where messages are missing between the cursor and
        these, `LogUnavailable` when the file cannot take them now; nothing was applied then.
        """

        async def write(connection: aiosqlite.Connection) -> Change[list[list[Appended] | None]]:
            ((sequence,),) = await connection.execute_fetchall("SELECT sequence FROM stream")
            fresh = [entry for entry in entries if entry.sequence > sequence]
            if not fresh:
                return Change([None] * len(entries))
            if [entry.sequence for entry in fresh] != list(range(sequence + 1, sequence + 1 + len(fresh))):
                raise LogCorrupt(f"{self.path}: messages of the stream are missing after {sequence}")
            change = await self._apply(connection, fresh)
            here = (UPDATE_CURSOR, (fresh[-1].sequence, fresh[-1].digest))
            answers = [None] * (len(entries) - len(fresh)) + change.answer
            said = [each for entry in fresh if entry.said is not None for each in keeping(entry.said)]
            return Change(answers, change.frontier, [*change.statements, *said, here])

        return await self._group_commit.alone(lambda: self._in_transaction(write, remember=True))

    async def _apply(
        self, connection: aiosqlite.Connection, fresh: Sequence[Entry]
    ) -> Change[list[list[Appended] | None]]:
        head, positions = await known(connection, [(row[0], row[3]) for entry in fresh for row in entry.rows])
        rows: list[tuple[Any, ...]] = []
        commitments: list[bytes | None] = []
        answers: list[list[Appended] | None] = []
        erasures: list[tuple[int, int]] = []
        for entry in fresh:
            given, kept = placed_at(head, positions, entry.rows)
            answers.append(given)
            if kept:
                head = kept[-1][0]
                erasures += [(position, kept[0][0]) for position in entry.erases]
                rows += kept
                commitments += [row[8] for row, one in zip(entry.rows, given, strict=True) if not one.duplicate]
        if not rows:
            return Change(answers)
        frontier, statements = await self._grown(connection, rows, commitments)
        return Change(answers, frontier, [*statements, *((INSERT_ERASURE_ONCE, each) for each in erasures)])

    async def positions_of_keys(self, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """Where those of the (source, dedupe key) are that this replica has applied."""
        try:
            return (await known(self._reader, wanted))[1] if wanted else {}
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
            is_ours = position not in seen and record_leaf(position, *row[:8], commitment=row[8]) == leaf
            seen.add(position)
            answers.append(Appended(position, duplicate=not is_ours))
        return answers
