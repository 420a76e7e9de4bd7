"""Roots, proofs and notes equal those of an independent implementation: golang.org/x/mod/sumdb, of Go's checksum database.

No maintained and permissively licensed Python package makes trees and both kinds of proofs (pymerkle is GPL, sigstore
checks only inclusion, in private names). So this folder has the results of Go's implementation and the program that wrote them.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tracker.log.merkle.checkpoint import checkpoint_text, open_checkpoint
from tracker.log.merkle.hashing import leaf_hash
from tracker.log.merkle.note import Signer, Verifier, sign_note
from tracker.log.merkle.tree import (
    TILE_WIDTH,
    Frontier,
    consistency_proof,
    verify_consistency,
    inclusion_proof,
    inclusion_root,
    root_at,
)

VECTORS: list[dict[str, Any]] = [
    json.loads(line) for line in Path(__file__).with_name("go-tlog-vectors.jsonl").read_text("utf-8").splitlines()
]


def raw(text: str) -> bytes:
    return base64.b64decode(text)


def raws(texts: list[str]) -> list[bytes]:
    return [base64.b64decode(each) for each in texts]


@pytest.fixture(scope="module")
def levels() -> dict[int, list[bytes]]:
    """Every tile of the largest tree."""
    found: dict[int, list[bytes]] = {0: []}
    frontier = Frontier()
    for n in range(max(each["size"] for each in VECTORS)):
        leaf = leaf_hash(n.to_bytes(4, "big"))
        found[0].append(leaf)
        for level, _, root in frontier.append(leaf):
            found.setdefault(level, []).append(root)
    assert frontier.root() == raw(max(VECTORS, key=lambda each: each["size"])["root"])
    return found


def test_trees_and_proofs_equal_those_of_go(levels: dict[int, list[bytes]]) -> None:
    async def compare() -> None:
        for each in VECTORS:
            size, first, index = each["size"], each["first"], each["index"]

            async def tile(level: int, n: int) -> Sequence[bytes]:
                return levels.get(level, [])[n * TILE_WIDTH : (n + 1) * TILE_WIDTH]

            root, older = raw(each["root"]), raw(each["first_root"])
            assert (await root_at(size, tile), await root_at(first, tile)) == (root, older)
            inclusion, consistency = raws(each["inclusion"]), raws(each["consistency"])
            assert await inclusion_proof(index, size, tile) == inclusion
            assert await consistency_proof(first, size, tile) == consistency
            assert inclusion_root(index, size, levels[0][index], inclusion) == root
            assert verify_consistency(first, older, size, root, consistency)

    asyncio.run(compare())


def test_notes_equal_those_of_go() -> None:
    for each in VECTORS:
        signer = Signer.read(each["signer"])
        assert str(signer.verifier) == each["verifier"]
        text = checkpoint_text(signer.name, each["size"], raw(each["root"]))
        assert sign_note(text, [signer]) == each["checkpoint"]
        opened = open_checkpoint(each["checkpoint"], [Verifier.read(each["verifier"])])
        assert opened == (signer.name, each["size"], raw(each["root"]))
