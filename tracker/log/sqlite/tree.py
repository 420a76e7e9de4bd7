"""The tree's rows in a SQLite log: leaves and tiles go in with the records; tiles and checkpoints are read.

Between two appends the writer needs only the tree's right edge (`Frontier`). It stays in memory while no other process
appends. After that, and at the start, it is read again: at most 256 hashes a level, whatever the log's size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import aiosqlite

from tracker.log.merkle.leaf import record_leaf_hashes
from tracker.log.merkle.tree import TILE_WIDTH, Frontier, FullTile, ReadTile, load_frontier

LEAVES = "leaves (position, hash, commitment)"
TILES = "tiles (level, n, hash)"
ERASURES = "erasures (position, erased_by)"
SELECT_LEAVES = "SELECT hash FROM leaves WHERE position > ? AND position <= ? ORDER BY position"
SELECT_TILE = "SELECT hash FROM tiles WHERE level = ? AND n >= ? AND n < ? ORDER BY n"
SELECT_TREE_SIZE = "SELECT coalesce(max(position), 0) FROM leaves"
SELECT_LEAF = """
SELECT position, source, vendor, event, dedupe_key, received_at, origin, proof, body, hash, commitment
FROM leaves JOIN records USING (position) WHERE position = ?
"""
SELECT_ERASURES = """
    SELECT e.position, (
        WITH RECURSIVE later(n) AS (
            SELECT e.erased_by UNION ALL SELECT x.erased_by FROM later JOIN erasures AS x ON x.position = later.n
        )
        SELECT max(n) FROM later
    )
    FROM erasures AS e WHERE e.position > ? AND e.position <= ?"""
"""An erasure record may be erased too (it named other people); the last erasure says what is left."""
SELECT_POSITIONS_OF = "SELECT position FROM records WHERE source = ? ORDER BY position"
SELECT_POSITIONS_OF_EVENT = "SELECT position FROM records WHERE source = ? AND event = ? ORDER BY position"
SELECT_ERASED = SELECT_ERASURES.replace("e.position <= ?", "true ORDER BY e.position LIMIT ?")
SELECT_ERASURES_MADE = (
    "SELECT position, erased_by FROM erasures WHERE erased_by > ? AND erased_by <= ? ORDER BY position"
)
SELECT_SURPLUS_TILE = f"""
SELECT level, n FROM tiles
WHERE level > 7 OR (n + 1) * (1 << (8 * level)) > ({SELECT_TREE_SIZE}) ORDER BY level, n LIMIT 1
"""  # noqa: S608 - made of constants
SELECT_ENCRYPTED = (
    "SELECT position, commitment FROM leaves WHERE commitment IS NOT NULL AND position > ? AND position <= ?"
)
SELECT_COPIES = """
SELECT position, id, n FROM copies JOIN frames USING (sequence) WHERE position > ? AND position <= ?
ORDER BY position, sequence, n
"""
SELECT_ANY_ENCRYPTED = "SELECT 1 FROM leaves WHERE commitment IS NOT NULL LIMIT 1"
SELECT_SIZE_AND_FIRST_ENCRYPTED = """
SELECT (SELECT coalesce(max(position), 0) FROM leaves),
       (SELECT min(position) FROM leaves WHERE commitment IS NOT NULL)
"""
INSERT_CHECKPOINT = "INSERT INTO checkpoints (size, note) VALUES (?, ?)"
SELECT_CHECKPOINT = "SELECT 1 FROM checkpoints WHERE size = ?"
SELECT_CHECKPOINTS = "SELECT size, note FROM checkpoints WHERE size > ? ORDER BY size LIMIT ?"
SELECT_LAST_CHECKPOINT = "SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1"

Row = tuple[Any, ...]
Fetch = Callable[[str, Sequence[Any]], Any]


def tile_query(level: int, n: int) -> tuple[str, tuple[int, ...]]:
    """The statement that reads the hashes of one tile, and its parameters."""
    if level == 0:
        return SELECT_LEAVES, (n * TILE_WIDTH, (n + 1) * TILE_WIDTH)
    return SELECT_TILE, (level, n * TILE_WIDTH, (n + 1) * TILE_WIDTH)


def tiles_of(connection: aiosqlite.Connection) -> ReadTile:
    """Reads tiles through this connection."""

    async def tile(level: int, n: int) -> list[bytes]:
        return [row[0] for row in await connection.execute_fetchall(*tile_query(level, n))]

    return tile


def appended_tiles(
    frontier: Frontier, rows: Iterable[Row], commitments: Sequence[bytes | None]
) -> tuple[list[Row], list[FullTile]]:
    """The leaves and filled tiles of new record rows, in order; the frontier advances past them."""
    kept = [(*row[:9], None, commitment) for row, commitment in zip(rows, commitments, strict=True)]
    hashes = record_leaf_hashes(kept)
    return [(row[0], leaf, row[10]) for row, leaf in zip(kept, hashes, strict=True)], frontier.extend(hashes)


async def frontier_of(connection: aiosqlite.Connection) -> Frontier:
    """The tree's right edge, read from the file."""
    ((size,),) = await connection.execute_fetchall(SELECT_TREE_SIZE)
    return await load_frontier(size, tiles_of(connection))
