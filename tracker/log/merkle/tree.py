"""The Merkle tree over the log, in tiles of 256 hashes: it grows in memory and is proved from stored tiles.

    level 0   leaf hashes, one a record; tile n holds those of positions 256·n + 1 … 256·n + 256
    level 1   the roots of full tiles of level 0, and so on

Full tiles never change, so a store only inserts. A growing tree needs at most 255 hashes a level in memory (`Frontier`). A
proof reads one tile per level (C2SP tlog-tiles). Leaf index = position - 1.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from tracker.log.merkle.hashing import EMPTY_ROOT, complete_root, fold_peaks, node_hash, peaks

TILE_WIDTH = 256
TILE_HEIGHT = 8

ReadTile = Callable[[int, int], Awaitable[Sequence[bytes]]]
"""(level, n) → the hashes of that tile that exist, in order."""

FullTile = tuple[int, int, bytes]
"""(level, n, hash): a tile of the level below became full; this is its root, the n-th hash of `level`."""


class Frontier:
    """The right edge of a growing tree: `levels[k]` are the hashes of the partial tile of level k."""

    __slots__ = ("levels", "size")

    def __init__(self, size: int = 0, levels: Iterable[Sequence[bytes]] = ()) -> None:
        self.size = size
        self.levels = [list(level) for level in levels]

    def copy(self) -> Frontier:
        """A copy to append to, and to discard if the store refuses."""
        return Frontier(self.size, self.levels)

    def append(self, leaf: bytes) -> list[FullTile]:
        """Append one leaf hash; returns the tiles it filled."""
        full: list[FullTile] = []
        self.size += 1
        level, found = 0, leaf
        while True:
            if level == len(self.levels):
                self.levels.append([])
            tile = self.levels[level]
            tile.append(found)
            if len(tile) < TILE_WIDTH:
                return full
            found = complete_root(tile)
            tile.clear()
            level += 1
            full.append((level, (self.size >> (TILE_HEIGHT * level)) - 1, found))

    def extend(self, leaves: Sequence[bytes]) -> list[FullTile]:
        """Append many leaf hashes in order; returns the tiles they filled."""
        full: list[FullTile] = []
        at = 0
        while at < len(leaves):
            full += self.append(leaves[at])
            # Leaves that do not fill the tile can be appended together.
            rest = leaves[at + 1 : at + TILE_WIDTH - len(self.levels[0])]
            self.levels[0] += rest
            self.size += len(rest)
            at += 1 + len(rest)
        return full

    def root(self) -> bytes:
        """The root of the tree."""
        return fold_peaks([peak for level in reversed(self.levels) for peak in peaks(level)])


def partial_widths(size: int) -> list[int]:
    """How many hashes the partial tile of each level holds in a tree of `size` leaves."""
    found: list[int] = []
    while size:
        found.append(size % TILE_WIDTH)
        size //= TILE_WIDTH
    return found


async def load_frontier(size: int, tile: ReadTile) -> Frontier:
    """The right edge of the tree of the first `size` leaves, read from the store: one tile per level."""
    levels: list[Sequence[bytes]] = []
    for level, width in enumerate(partial_widths(size)):
        n = size >> (TILE_HEIGHT * (level + 1))
        levels.append((await tile(level, n))[:width] if width else [])
    return Frontier(size, levels)


async def root_at(size: int, tile: ReadTile) -> bytes:
    """The root of the tree of the first `size` leaves."""
    return (await load_frontier(size, tile)).root() if size else EMPTY_ROOT


async def inclusion_proof(index: int, size: int, tile: ReadTile) -> list[bytes]:
    """The hashes that lead from leaf `index` (from 0) to the root of the first `size` leaves, lowest first.

    RFC 9162, 2.1.3.1. `0 <= index < size` must hold.
    """
    ranges: list[tuple[int, int]] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return await _subtrees(reversed(ranges), tile)


async def consistency_proof(first: int, second: int, tile: ReadTile) -> list[bytes]:
    """The hashes that prove the tree of `first` leaves to be the beginning of that of `second`. RFC 9162, 2.1.4.1.

    `0 < first <= second` must hold; it is empty when they are equal.
    """
    ranges: list[tuple[int, int]] = []
    start, end, is_whole = 0, second, True
    while first != end:
        middle = start + _split(end - start)
        if first <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start, is_whole = middle, False
    if not is_whole:
        ranges.append((start, end))
    return await _subtrees(reversed(ranges), tile)


def inclusion_root(index: int, size: int, leaf: bytes, proof: Sequence[bytes]) -> bytes | None:
    """The root an inclusion proof leads to; None when it does not fit that index and size. RFC 9162, 2.1.3.2."""
    if not 0 <= index < size:
        return None
    at, last, found = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return None
        if at & 1 or at == last:
            found = node_hash(step, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, step)
        at, last = at >> 1, last >> 1
    return found if last == 0 else None


def verify_consistency(first: int, first_root: bytes, second: int, second_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the proof shows the tree of `first` leaves to be the beginning of that of `second`. RFC 9162, 2.1.4.2."""
    if first == second:
        return first_root == second_root and not proof
    if first == 0:
        return not proof and first_root == EMPTY_ROOT
    if first > second or not proof:
        return False
    path = list(proof)
    if first & (first - 1) == 0:
        path.insert(0, first_root)
    at, last = first - 1, second - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    older = newer = path[0]
    for step in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            older, newer = node_hash(step, older), node_hash(step, newer)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            newer = node_hash(newer, step)
        at, last = at >> 1, last >> 1
    return last == 0 and older == first_root and newer == second_root


def _split(count: int) -> int:
    """The largest power of two smaller than `count` (> 1)."""
    return 1 << ((count - 1).bit_length() - 1)


async def _subtrees(ranges: Iterable[tuple[int, int]], tile: ReadTile) -> list[bytes]:
    """The roots over ranges of leaves; each tile is read once."""
    seen: dict[tuple[int, int], Sequence[bytes]] = {}

    async def known(level: int, n: int) -> Sequence[bytes]:
        if (level, n) not in seen:
            seen[level, n] = await tile(level, n)
        return seen[level, n]

    return [await _subtree(start, end, known) for start, end in ranges]


async def _subtree(start: int, end: int, tile: ReadTile) -> bytes:
    """The root over leaves `start` … `end` - 1: complete subtrees from the tiles, folded."""
    tops: list[bytes] = []
    while start < end:
        height = (end - start).bit_length() - 1
        level, inner = divmod(height, TILE_HEIGHT)
        first = start >> (TILE_HEIGHT * level)
        hashes = await tile(level, first // TILE_WIDTH)
        within = first % TILE_WIDTH
        tops.append(complete_root(hashes[within : within + (1 << inner)]))
        start += 1 << height
    return fold_peaks(tops)
