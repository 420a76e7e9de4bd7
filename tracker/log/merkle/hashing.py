"""How leaves and nodes are hashed: RFC 6962, section 2.1 (the same in RFC 9162), with SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
"""The root of a tree without leaves."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of one leaf. The 0x00 keeps a leaf from being read as a node."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node over its two children, 32 bytes each."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def complete_root(hashes: Sequence[bytes]) -> bytes:
    """The root over 2^k hashes of one level."""
    level, sha = list(hashes), hashlib.sha256
    while len(level) > 1:
        # `node_hash`, inlined: reading a whole log comes here once a record.
        level = [sha(b"\x01" + level[n] + level[n + 1]).digest() for n in range(0, len(level), 2)]
    return level[0]


def peaks(hashes: Sequence[bytes]) -> list[bytes]:
    """The roots of the complete subtrees over these hashes, largest (leftmost) first."""
    found: list[bytes] = []
    start, count = 0, len(hashes)
    while start < count:
        width = 1 << ((count - start).bit_length() - 1)
        found.append(complete_root(hashes[start : start + width]))
        start += width
    return found


def fold_peaks(tops: Sequence[bytes]) -> bytes:
    """The root over peaks, leftmost first."""
    if not tops:
        return EMPTY_ROOT
    root = tops[-1]
    for peak in reversed(tops[:-1]):
        root = node_hash(peak, root)
    return root
