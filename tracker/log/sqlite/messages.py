"""What nodes say about the tree, in a SQLite log: kept once, whatever is said again, and read back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracker.log.sqlite.bulk import Statement
from tracker.log.cluster.messages import DivergenceReport, CosignedTree, SignedTree, TreeMessage

INSERT_CHECKPOINT_ONCE = """
INSERT INTO checkpoints (size, note) SELECT ?1, ?2 WHERE NOT EXISTS (SELECT 1 FROM checkpoints WHERE size = ?1)
"""
INSERT_SIGNING_ONCE = "INSERT OR IGNORE INTO signings (size, node, key) VALUES (?, ?, ?)"
INSERT_COSIGNATURE_ONCE = "INSERT OR IGNORE INTO cosignatures (size, name, node, line) VALUES (?, ?, ?, ?)"
INSERT_COMPLAINT_ONCE = "INSERT OR IGNORE INTO divergence_reports (size, node, root, position) VALUES (?, ?, ?, ?)"
SELECT_COSIGNATURES = "SELECT name, line FROM cosignatures WHERE size = ? ORDER BY name"
SELECT_HOLDERS = """
SELECT node FROM signings WHERE size = ?1 UNION ALL SELECT node FROM cosignatures WHERE size = ?1
"""
SELECT_NAMED_KEY = "SELECT key FROM signings WHERE key <> '' ORDER BY size LIMIT 1"
SELECT_SIGNING = "SELECT node FROM signings WHERE size = ?"
# A node that was made anew and has cosigned a larger tree since, or signed it, has settled what it complained about.
SELECT_COMPLAINTS = """
SELECT size, node, root, position FROM divergence_reports AS c
WHERE NOT EXISTS (SELECT 1 FROM cosignatures AS s WHERE s.node = c.node AND s.size > c.size)
AND NOT EXISTS (SELECT 1 FROM signings AS s WHERE s.node = c.node AND s.size > c.size) ORDER BY size, node LIMIT 1000
"""


def store_statements(voucher: TreeMessage) -> list[Statement]:
    """What keeps it; nothing happens where it is kept already."""
    match voucher:
        case SignedTree():
            signing = (INSERT_SIGNING_ONCE, (voucher.size, voucher.node, voucher.key))
            return [(INSERT_CHECKPOINT_ONCE, (voucher.size, voucher.note)), signing]
        case CosignedTree():
            return [(INSERT_COSIGNATURE_ONCE, (voucher.size, voucher.name, voucher.node, voucher.line))]
        case DivergenceReport():
            row = (voucher.size, voucher.node, voucher.root, voucher.position)
            return [(INSERT_COMPLAINT_ONCE, row)]


def read_divergence_reports(rows: Sequence[tuple[Any, ...]]) -> list[DivergenceReport]:
    """The rows of `SELECT_COMPLAINTS`."""
    return [DivergenceReport(node, size, root, position) for size, node, root, position in rows]
