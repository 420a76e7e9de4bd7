"""Where two trees begin to differ, found from the top down: one tile per level, whatever the size."""

from __future__ import annotations

from itertools import zip_longest
from typing import NamedTuple

from tracker.log.merkle.tree import TILE_HEIGHT, TILE_WIDTH, ReadTile, partial_widths


class Difference(NamedTuple):
    """The first record that differs: its position, and its leaf hash in both trees; b"" where a tree has none."""

    position: int
    here: bytes
    there: bytes


async def first_difference(size: int, here: ReadTile, there: ReadTile) -> Difference | None:
    """The first of `size` leaves that differs. None where all leaves are the same and only hashes above them differ."""
    n = 0
    for level in reversed(range(len(partial_widths(size)))):
        count = min(TILE_WIDTH, (size >> (TILE_HEIGHT * level)) - n * TILE_WIDTH)
        pairs = zip_longest((await here(level, n))[:count], (await there(level, n))[:count], fillvalue=b"")
        # Where all full tiles are the same, the difference is in the partial tile behind them.
        at, ours, theirs = next(((i, a, b) for i, (a, b) in enumerate(pairs) if a != b), (count, b"", b""))
        if level == 0 and at < count:
            return Difference(n * TILE_WIDTH + at + 1, ours, theirs)
        n = n * TILE_WIDTH + at
    return None
