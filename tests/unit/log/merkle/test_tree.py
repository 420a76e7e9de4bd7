"""Roots and proofs, compared with RFC 9162's recursive definitions and with published test vectors."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker.log.merkle.hashing import EMPTY_ROOT, leaf_hash, node_hash
from tracker.log.merkle.tree import (
    TILE_WIDTH,
    Frontier,
    consistency_proof,
    verify_consistency,
    load_frontier,
    inclusion_proof,
    inclusion_root,
    root_at,
)

# The leaves and roots of the certificate-transparency reference implementation.
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def mth(leaves: Sequence[bytes]) -> bytes:
    """RFC 9162, 2.1.1, literally."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(mth(leaves[:k]), mth(leaves[k:]))


def path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """RFC 9162, 2.1.3.1, literally."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: Sequence[bytes], b: bool) -> list[bytes]:
    """RFC 9162, 2.1.4.1, literally."""
    if m == len(leaves):
        return [] if b else [mth(leaves)]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m <= k:
        return [*subproof(m, leaves[:k], b), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def grown(count: int) -> tuple[Frontier, list[bytes], Callable[[int, int], Awaitable[Sequence[bytes]]]]:
    """A tree of `count` leaves, and its tiles as a store would return them."""
    leaves = [leaf_hash(n.to_bytes(4, "big")) for n in range(count)]
    stored: dict[int, list[bytes]] = {0: leaves}
    frontier = Frontier()
    for leaf in leaves:
        for level, n, found in frontier.append(leaf):
            assert n == len(stored.setdefault(level, []))
            stored[level].append(found)

    async def tile(level: int, n: int) -> Sequence[bytes]:
        return stored.get(level, [])[n * TILE_WIDTH : (n + 1) * TILE_WIDTH]

    return frontier, leaves, tile


def run(awaitable: Any) -> Any:
    return asyncio.run(awaitable)


def test_roots_equal_those_of_the_reference_implementation() -> None:
    frontier = Frontier()
    assert frontier.root() == EMPTY_ROOT
    for text, root in zip(INPUTS, ROOTS, strict=True):
        frontier.append(leaf_hash(bytes.fromhex(text)))
        assert frontier.root().hex() == root


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 1500), st.data())
def test_every_proof_equals_the_definition_of_the_standard(count: int, data: st.DataObject) -> None:
    frontier, leaves, tile = grown(count)
    size = data.draw(st.integers(1, count))
    index = data.draw(st.integers(0, size - 1))
    first = data.draw(st.integers(1, size))
    root, older = mth(leaves[:size]), mth(leaves[:first])
    assert run(root_at(size, tile)) == root
    assert run(load_frontier(size, tile)).root() == root
    if size == count:
        assert frontier.root() == root
    proof = run(inclusion_proof(index, size, tile))
    assert proof == path(index, leaves[:size])
    assert inclusion_root(index, size, leaves[index], proof) == root
    between = run(consistency_proof(first, size, tile))
    assert between == subproof(first, leaves[:size], True)
    assert verify_consistency(first, older, size, root, between)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 600), st.data())
def test_no_changed_proof_leads_to_the_root(count: int, data: st.DataObject) -> None:
    _, leaves, tile = grown(count)
    index = data.draw(st.integers(0, count - 1))
    root = mth(leaves)
    proof = run(inclusion_proof(index, count, tile))
    other = data.draw(st.integers(0, count - 1).filter(lambda n: n != index))
    assert inclusion_root(other, count, leaves[index], proof) != root
    assert inclusion_root(index, count, leaves[other], proof) != root
    assert inclusion_root(index, count, leaves[index], [*proof, leaves[0]]) is None
    assert inclusion_root(index, count, leaves[index], proof[:-1]) is None or len(proof) == 0
    first = data.draw(st.integers(1, count - 1))
    between = run(consistency_proof(first, count, tile))
    assert not verify_consistency(first, leaf_hash(b"another"), count, root, between)
    assert not verify_consistency(first, mth(leaves[:first]), count, leaf_hash(b"another"), between)
    assert not verify_consistency(first, mth(leaves[:first]), count, root, between[:-1])


@given(st.lists(st.integers(0, 700), max_size=6))
def test_leaves_added_in_batches_make_the_same_tree(counts: list[int]) -> None:
    one, many, n = Frontier(), Frontier(), 0
    for count in counts:
        leaves = [leaf_hash(each.to_bytes(4, "big")) for each in range(n, n + count)]
        assert many.extend(leaves) == [full for leaf in leaves for full in one.append(leaf)]
        assert (many.size, many.levels) == (one.size, one.levels)
        n += count


@pytest.mark.parametrize("size", [255, 256, 257, 65_535, 65_536, 65_537])
def test_a_frontier_read_from_tiles_grows_like_the_original(size: int) -> None:
    frontier, _, tile = grown(size)
    again = run(load_frontier(size, tile))
    assert again.levels[: len(frontier.levels)] == frontier.levels[: len(again.levels)]
    leaf = leaf_hash(b"next")
    assert again.append(leaf) == frontier.append(leaf)
    assert again.root() == frontier.root()
