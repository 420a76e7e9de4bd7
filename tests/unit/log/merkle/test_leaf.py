"""Leaves computed in batches equal leaves computed one by one, and the definition in the documentation."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from tracker.log.merkle.leaf import record_leaf_hash
from tracker.log.merkle.leaf import record_leaf_hashes

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
RECORD = st.tuples(
    st.integers(1, 2**63 - 1), st.sampled_from(["lk", "ov", "ü"]), TEXT, TEXT, TEXT, st.integers(-(2**63), 2**63 - 1),
    st.sampled_from(["webhook", "import"]), st.binary(max_size=40), st.binary(max_size=60), st.none(),
    st.none() | st.binary(min_size=32, max_size=32),
)  # fmt: skip


def defined(record: tuple[object, ...]) -> bytes:
    """The leaf hash by docs/explanation/evidence.md, implemented again."""

    def framed(piece: bytes) -> bytes:
        return len(piece).to_bytes(4, "big") + piece

    position, source, vendor, event, key, received_at, origin, proof, body, _, commitment = record
    content_hash = hashlib.sha256(len(proof).to_bytes(8, "big") + proof + body).digest()
    pieces = [
        position.to_bytes(8, "big"), source.encode(), vendor.encode(), event.encode(), key.encode(),
        received_at.to_bytes(8, "big", signed=True), origin.encode(), content_hash, commitment or b"",
    ]  # fmt: skip
    return hashlib.sha256(b"\x00tracker/leaf/v1\n" + b"".join(map(framed, pieces))).digest()


@given(st.lists(RECORD, max_size=8))
def test_leaves_computed_in_a_batch_equal_leaves_computed_one_by_one(records: list[tuple[object, ...]]) -> None:
    expected = [record_leaf_hash(*record[:9], commitment=record[10]) for record in records]
    assert record_leaf_hashes(records) == expected == [defined(record) for record in records]
