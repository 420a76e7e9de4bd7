"""The first difference of two trees is found from their tiles alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest

from tracker.log.merkle.diff import Difference, first_difference
from tracker.log.merkle.tree import TILE_WIDTH, Frontier, ReadTile


def leaf(n: int, *, other: bool = False) -> bytes:
    return hashlib.sha256(f"{n}{other}".encode()).digest()


def tree(leaves: Sequence[bytes]) -> tuple[ReadTile, list[tuple[int, int]]]:
    """A function that reads the tree's tiles, and the list of its requests."""
    tiles: dict[int, list[bytes]] = {0: list(leaves)}
    for level, _, found in Frontier().extend(leaves):
        tiles.setdefault(level, []).append(found)
    requests: list[tuple[int, int]] = []

    async def tile(level: int, n: int) -> list[bytes]:
        requests.append((level, n))
        return tiles.get(level, [])[n * TILE_WIDTH : (n + 1) * TILE_WIDTH]

    return tile, requests


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 512, 700, 65_536, 66_000])
@pytest.mark.parametrize("where", [0.0, 0.3, 0.7, 1.0])
async def test_the_first_difference_is_found_with_one_tile_for_each_level(size: int, where: float) -> None:
    first = min(size - 1, int(size * where))
    leaves = [leaf(n) for n in range(size)]
    others = leaves[:first] + [leaf(n, other=n in {first, size - 1}) for n in range(first, size)]
    (here, _), (there, requests) = tree(leaves), tree(others)
    found = await first_difference(size, here, there)
    assert found == Difference(first + 1, leaf(first), leaf(first, other=True))
    assert len(requests) <= 3


async def test_records_that_only_one_tree_has_differ() -> None:
    leaves = [leaf(n) for n in range(300)]
    found = await first_difference(300, tree(leaves[:280])[0], tree(leaves)[0])
    assert found == Difference(281, b"", leaves[280])


async def test_equal_leaves_do_not_differ() -> None:
    leaves = [leaf(n) for n in range(600)]
    assert await first_difference(600, tree(leaves)[0], tree(leaves + leaves)[0]) is None
