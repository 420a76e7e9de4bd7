"""What of a SQLite log proves it: tree, leaves, records as they stand, checkpoints. Reads, but for the checkpoints."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from tracker.errors import LogUnavailable
from tracker.log.merkle.leaf import stored_digest
from tracker.log.merkle.tree import root_at
from tracker.log.contract import StoredLeaf, StoredRecord, TreeHead
from tracker.log.sqlite.file import open_writer
from tracker.log.sqlite.dictionaries import DictionaryStore, bounded
from tracker.log.sqlite.tree import (
    INSERT_CHECKPOINT,
    SELECT_CHECKPOINT,
    SELECT_CHECKPOINTS,
    SELECT_LAST_CHECKPOINT,
    SELECT_ERASED,
    SELECT_ERASURES_TOLD,
    SELECT_LEAF,
    SELECT_POSITIONS_OF,
    SELECT_TILE_BEYOND,
    SELECT_TREE_SIZE,
    tile_question,
)
from tracker.log.sqlite.messages import (
    SELECT_COMPLAINTS,
    SELECT_COSIGNATURES,
    SELECT_HOLDERS,
    SELECT_NAMED_KEY,
    SELECT_SIGNING,
    read_divergence_reports,
)
from tracker.log.keys.frame_store import DataKey
from tracker.log.cluster.messages import DivergenceReport

COLUMNS = "position, source, vendor, event, dedupe_key, received_at, origin, proof, body"
KEPT_RECORDS = 500
SELECT_KEPT = f"""
SELECT {", ".join(f"records.{name}" for name in COLUMNS.split(", "))}, leaves.hash, leaves.commitment
FROM records LEFT JOIN leaves USING (position) WHERE records.position > ? ORDER BY records.position LIMIT ?
"""  # noqa: S608 - only column names are put in


class SqliteTreeReader(ABC):
    """The proving half of `Log`, over the reads of an engine."""

    path: Path
    _busy_timeout: float
    _packing: DictionaryStore

    @abstractmethod
    async def _fetch(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]: ...

    @abstractmethod
    async def head(self) -> int:
        """See `Log.head`."""

    @abstractmethod
    async def _keys(self, after: int, until: int) -> dict[int, DataKey]: ...

    async def tree_head(self) -> TreeHead:
        """See `Log.tree_head`."""
        ((size,),) = await self._fetch(SELECT_TREE_SIZE)
        # Full tiles never change and only the first `size` leaves are looked at: appends meanwhile do not disturb it.
        return TreeHead(size, await root_at(size, self.tile))

    async def tile(self, level: int, n: int) -> list[bytes]:
        """See `Log.tile`."""
        return [row[0] for row in await self._fetch(*tile_question(level, n))]

    async def leaf(self, position: int) -> StoredLeaf | None:
        """See `Log.leaf`."""
        rows = await self._fetch(SELECT_LEAF, (position,))
        if not rows:
            return None
        (row,) = rows
        leaf, commitment = row[9:]
        await self._packing.load(rows)
        proof, body = self._packing.as_it_came(row) if commitment is None else row[7:9]
        keys = await self._keys(position - 1, position)
        salt = keys[position].salt if position in keys else None
        return StoredLeaf(position, leaf, stored_digest(proof, body), commitment, salt)

    async def read_stored(self, after: int) -> AsyncIterator[list[StoredRecord]]:
        """See `Log.read_kept`."""
        after, until = max(after, 0), await self.head()
        while after < until:
            rows = await self._fetch(SELECT_KEPT, (after, KEPT_RECORDS))
            if not rows:
                return
            await self._packing.load(rows)
            for part in bounded(map(self._kept, rows)):
                yield part
            after = rows[-1][0]

    def _kept(self, row: tuple[Any, ...]) -> StoredRecord:
        if row[7] or row[10] is not None:
            return StoredRecord(*row)
        position, source, vendor, event, key, received_at, origin, _, _, leaf, _ = row
        proof, body = self._packing.as_it_came(row)
        return StoredRecord(position, source, vendor, event, key, received_at, origin, proof, body, leaf, None)

    async def positions_from_source(self, source: str) -> list[int]:
        """See `Log.positions_of`."""
        return [position for (position,) in await self._fetch(SELECT_POSITIONS_OF, (source,))]

    async def erased_positions(self, after: int, limit: int) -> list[tuple[int, int]]:
        """See `Log.erased`."""
        return [(position, by) for position, by in await self._fetch(SELECT_ERASED, (after, limit))]

    async def erasures_made_by(self, after: int, until: int) -> dict[int, list[int]]:
        """What each of the records after a position and up to another one says is erased."""
        found: dict[int, list[int]] = {}
        for position, by in await self._fetch(SELECT_ERASURES_TOLD, (after, until)):
            found.setdefault(by, []).append(position)
        return found

    async def data_keys(self, after: int, until: int) -> dict[int, DataKey]:
        """What opens the sealed records after a position and up to another one, as far as it is still there."""
        return await self._keys(after, until)

    async def surplus_tile(self) -> tuple[int, int] | None:
        """See `Log.tile_beyond`."""
        rows = await self._fetch(SELECT_TILE_BEYOND)
        return (rows[0][0], rows[0][1]) if rows else None

    async def store_checkpoint(self, size: int, note: str) -> bool:
        """See `Log.keep_checkpoint`. On a connection of its own: the writing one may be in a transaction."""
        try:
            connection = await open_writer(self.path, busy_timeout=self._busy_timeout)
            try:
                await connection.execute("BEGIN IMMEDIATE")
                if await connection.execute_fetchall(SELECT_CHECKPOINT, (size,)):
                    return False
                await connection.execute(INSERT_CHECKPOINT, (size, note))
                await connection.execute("COMMIT")
                return True
            finally:
                await connection.close()
        except sqlite3.Error as error:
            raise LogUnavailable(f"the checkpoint cannot be kept: {error}") from error

    async def checkpoints(self, *, after: int = 0, limit: int | None = None) -> list[tuple[int, str]]:
        """See `Log.checkpoints`."""
        rows = await self._fetch(SELECT_CHECKPOINTS, (after, -1 if limit is None else limit))
        return [(size, note) for size, note in rows]

    async def cosignatures(self, size: int) -> list[str]:
        """See `Log.cosignatures`."""
        return [line for _, line in await self._fetch(SELECT_COSIGNATURES, (size,))]

    async def signing_node(self, size: int) -> str | None:
        """The node that signed the checkpoint of that size, in a cluster."""
        return next((node for (node,) in await self._fetch(SELECT_SIGNING, (size,))), None)

    async def announced_key(self) -> str | None:
        """The verifier key that the node of the first checkpoint said it signs with, in a cluster."""
        return next((key for (key,) in await self._fetch(SELECT_NAMED_KEY)), None)

    async def nodes_holding(self, size: int) -> list[str]:
        """The nodes that signed or cosigned the checkpoint of that size, the signing one first."""
        return [node for (node,) in await self._fetch(SELECT_HOLDERS, (size,))]

    async def divergence_reports(self) -> list[DivergenceReport]:
        """What nodes said that hold another tree, and have not been made anew since."""
        return read_divergence_reports(await self._fetch(SELECT_COMPLAINTS))

    async def last_checkpoint(self) -> tuple[int, str] | None:
        """See `Log.last_checkpoint`."""
        rows = await self._fetch(SELECT_LAST_CHECKPOINT)
        return (rows[0][0], rows[0][1]) if rows else None
