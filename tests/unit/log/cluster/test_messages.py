"""What nodes say about the tree: every node reads the same in a message, whatever stands in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracker.log.sqlite.replica import Entry, Replica
from tracker.log.cluster.messages import Complaint, Cosigned, Signed, Voucher, decode, encode, message_id


@pytest.mark.parametrize(
    "voucher",
    [
        Signed("a", 5, "a note\n\n— of it\n", "log+00000000+key"),
        Cosigned("b", 5, "log/b", "— log/b AAAA\n"),
        Complaint("b", 2**63 - 1, b"", None),
        Complaint("ü", 1, bytes(32), 1),
    ],
)
def test_what_is_said_is_read(voucher: Voucher) -> None:
    assert decode(encode(voucher)) == voucher
    assert message_id(encode(voucher)) == message_id(encode(voucher))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"TKF",
        b"null",
        b'{"type":"signed"}',
        b'{"type":"another","node":"a","size":1}',
        b'{"type":"signed","node":"a","size":0,"note":""}',
        b'{"type":"signed","node":"a","size":9223372036854775808,"note":""}',
        b'{"type":"signed","node":"\xff","size":1,"note":""}',
        b'{"type":"signed","node":"\\ud800","size":1,"note":""}',
        b'{"type":"complaint","node":"a","size":1,"root":"?","position":null}',
        b"[" * 100_000,
    ],
)
def test_what_says_nothing_of_ours_is_passed_over(message: bytes) -> None:
    assert decode(message) is None


@pytest.mark.parametrize("settling", [Signed("b", 3, "note\n"), Cosigned("b", 3, "log/b", "line\n")])
async def test_a_complaint_is_settled_by_a_larger_tree_that_the_node_signs_or_cosigns(
    tmp_path: Path, settling: Voucher
) -> None:
    await Replica.begin(tmp_path / "log.db", log_id="x", stream="s")
    log = await Replica.open(tmp_path / "log.db")
    said = [Complaint("b", 2, bytes(32), 1), Signed("a", 2, "note\n"), Cosigned("c", 3, "log/c", "line\n"), settling]
    for n, each in enumerate(said, 1):
        assert await log.complaints() == said[: int(n > 1)]
        await log.apply([Entry(n, b"", said=each)])
    assert await log.complaints() == []
    await log.close()


def test_what_is_deeply_nested_is_passed_over() -> None:
    assert decode(b'{"type":"signed","x":' + b"[" * 200_000 + b"]" * 200_000 + b"}") is None
