"""The encoding of frames: which are decoded, which are skipped, which stop a node."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.contracts.log_contract import delivery
from tracker.config import load
from tracker.errors import LogUnavailable, NodeOutdated
from tracker.log import frames
from tracker.log.frames import (
    UNCOMPRESSED,
    FRAME_BYTES,
    MAX_RECEIVED_AT,
    MAGIC,
    VERSION,
    ZSTD,
    Frame,
    FrameRow,
    decode,
    encode,
    frame_row,
    max_frame_bytes,
)

ID = b"i" * 16
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NAMES = st.from_regex(frames.NAME, fullmatch=True)
HEAD = MAGIC + bytes([VERSION])


def frame(*bodies: bytes) -> Frame:
    return Frame(ID, "a", [frame_row(delivery(f"k{n}", body=body)) for n, body in enumerate(bodies)])


@given(
    st.lists(st.tuples(NAMES, TEXT, st.binary(max_size=200), st.integers(0, MAX_RECEIVED_AT)), min_size=1, max_size=5)
)
def test_an_encoded_frame_is_decoded_unchanged(drawn: list[tuple[str, str, bytes, int]]) -> None:
    records = [(source, "v", "e", key, at, "import", b"{}", body, None) for source, key, body, at in drawn]
    sent = Frame(ID, "node", records)
    assert decode(encode(sent)) == sent


def test_a_frame_carries_commitments() -> None:
    sent = Frame(ID, "a", [("s", "v", "e", "k", 1, "webhook", b"", b"sealed", b"c" * 32)])
    assert decode(encode(sent)) == sent


def test_repetitive_records_are_compressed_and_random_ones_are_not() -> None:
    packed, noise = encode(frame(b'{"event":"participant_joined"}' * 50)), encode(frame(secrets.token_bytes(900)))
    assert (packed[4:5], noise[4:5]) == (ZSTD, UNCOMPRESSED)
    assert len(packed) < 300
    assert len(noise) < 900 + 200


@given(st.lists(st.tuples(TEXT, st.binary(max_size=300)), min_size=1, max_size=20))
def test_no_frame_is_larger_than_its_estimate(drawn: list[tuple[str, bytes]]) -> None:
    batch = [delivery(key, body=body, event=key * 3) for key, body in drawn]
    assert len(encode(Frame(ID, "n" * 64, [frame_row(each) for each in batch]))) <= max_frame_bytes(batch) + FRAME_BYTES


@pytest.mark.parametrize(
    "message",
    [
        b"", b"TKF", b"TK", b"hello", MAGIC + bytes([VERSION]) + UNCOMPRESSED, MAGIC + bytes([VERSION]) + ZSTD + b"no zstd",
        MAGIC + bytes([VERSION]) + b"q...",
        MAGIC + bytes([VERSION]) + UNCOMPRESSED + msgspec.msgpack.encode([b"short", "a", []]),
        MAGIC + bytes([VERSION]) + UNCOMPRESSED + msgspec.msgpack.encode([ID, "a", [["s", "v", "e", "k", 2**63, "import", b"", b"", None]]]),
        MAGIC + bytes([VERSION]) + UNCOMPRESSED + msgspec.msgpack.encode([ID, "a", [["s", "v", "e", "k", 1, "guess", b"", b"", None]]]),
        MAGIC + bytes([VERSION]) + UNCOMPRESSED + msgspec.msgpack.encode([ID, "a", [["s", "v", "e", "k", 1, "import", b"", b"", b"c"]]]),
    ],
)  # fmt: skip
def test_other_bytes_are_no_frame(message: bytes) -> None:
    assert isinstance(decode(message), str)


def test_a_frame_of_a_newer_version_is_not_skipped() -> None:
    with pytest.raises(NodeOutdated, match=r"frame 17 .* version 3, this Tracker knows 2: upgrade this node"):
        decode(MAGIC + bytes([VERSION + 1]) + UNCOMPRESSED + b"...", 17)


def test_a_frame_that_claims_to_be_huge_is_not_decompressed() -> None:
    # A zstd frame header that claims 2^40 bytes.
    header = b"\x28\xb5\x2f\xfd\xe0" + (2**40).to_bytes(8, "little")
    assert decode(HEAD + ZSTD + header) == "it cannot be decoded (ValueError)"


def test_a_compression_bomb_is_not_decompressed_whatever_size_it_claims() -> None:
    for sized in (True, False):
        bomb = zstandard.ZstdCompressor(write_content_size=sized).compressobj(2**28 if sized else -1)
        packed = b"".join(bomb.compress(bytes(2**20)) for _ in range(256)) + bomb.flush()
        assert len(packed) < 2**16
        assert "cannot be decoded" in str(decode(HEAD + ZSTD + packed))


ROW = frame_row(delivery("k"))


def changed(n: int, value: object) -> FrameRow:
    row: Any = (*ROW[:n], value, *ROW[n + 1 :])
    return row


@pytest.mark.parametrize(
    ("records", "erases", "why"),
    [
        ([], [], "it has 0 records"),
        ([ROW] * 10_001, [], "it has 10001 records"),
        ([changed(0, "l\0k")], [], "source or vendor of its record 0"),
        ([ROW, changed(0, "")], [], "source or vendor of its record 1"),
        ([changed(0, "a/b")], [], "source or vendor"),
        ([changed(0, "lk\n")], [], "source or vendor"),
        ([changed(0, "ä")], [], "source or vendor"),
        ([changed(0, "l" * 65)], [], "source or vendor"),
        ([changed(1, "<b>")], [], "source or vendor"),
        ([changed(4, -1)], [], "not a valid date"),
        ([changed(4, MAX_RECEIVED_AT + 1)], [], "not a valid date"),
        ([ROW], [1], "it erases"),
        ([changed(0, "tracker"), ROW], [1], "it erases"),
        ([changed(0, "tracker")], [1] * 10_001, "it erases 10001 records"),
    ],
)  # fmt: skip
def test_records_that_no_node_can_have_sent_are_no_frame_and_cannot_be_encoded(
    records: list[FrameRow], erases: list[int], why: str
) -> None:
    sent = Frame(ID, "a", records, erases)
    assert why in str(decode(HEAD + UNCOMPRESSED + msgspec.msgpack.encode(sent)))
    with pytest.raises(LogUnavailable, match=why):
        encode(sent)


def test_a_record_of_an_unknown_vendor_is_decoded() -> None:
    sent = Frame(ID, "a", [changed(1, "vendor-of-tomorrow")])
    assert decode(encode(sent)) == sent


def test_deeply_nested_bytes_and_additional_fields_are_no_frame() -> None:
    row = msgspec.msgpack.encode(ROW)
    nested = b"\x91" * 100_000 + b"\x90"
    start = b"\x95\xc4\x10" + ID + b"\xa1a"
    assert "cannot be decoded" in str(decode(HEAD + UNCOMPRESSED + start + b"\x91" + row + b"\x90" + nested))
    assert "cannot be decoded" in str(decode(HEAD + UNCOMPRESSED + start + nested))


def test_no_frame_is_made_that_decompresses_to_more_than_nodes_accept() -> None:
    with pytest.raises(LogUnavailable, match="bytes uncompressed"):
        encode(frame(bytes(40 * 2**20), bytes(40 * 2**20)))


def test_names_in_frames_follow_the_rule_of_the_configuration() -> None:
    assert frames.NAME.pattern == load.NAME.pattern
