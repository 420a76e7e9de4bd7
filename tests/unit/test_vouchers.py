"""What nodes say about the tree: every node reads the same in a message, whatever stands in it."""

from __future__ import annotations

import pytest

from tracker.log.vouchers import Complaint, Cosigned, Signed, Voucher, decode, encode, message_id


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
