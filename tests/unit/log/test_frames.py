"""The bytes of a frame: what comes back, what is passed over, what stops a node."""

from __future__ import annotations

import secrets

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contracts.log_contract import delivery
from tracker.errors import LogCorrupt
from tracker.log.frames import CLEAR, FRAME_BYTES, MAGIC, VERSION, ZSTD, Frame, decode, encode, row_of, weight

ID = b"i" * 16
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


def frame(*bodies: bytes) -> Frame:
    return Frame(ID, "a", [row_of(delivery(f"k{n}", body=body)) for n, body in enumerate(bodies)])


@given(st.lists(st.tuples(TEXT, TEXT, st.binary(max_size=200), st.integers(-(2**63), 2**63 - 1)), max_size=5))
def test_what_goes_in_comes_out(drawn: list[tuple[str, str, bytes, int]]) -> None:
    records = [(source, "v", "e", key, at, "import", b"{}", body, None) for source, key, body, at in drawn]
    sent = Frame(ID, "node", records, [1, 2])
    assert decode(encode(sent)) == sent


def test_commitments_travel() -> None:
    sent = Frame(ID, "a", [("s", "v", "e", "k", 1, "webhook", b"", b"sealed", b"c" * 32)])
    assert decode(encode(sent)) == sent


def test_what_repeats_is_packed_and_noise_is_not() -> None:
    packed, noise = encode(frame(b'{"event":"participant_joined"}' * 50)), encode(frame(secrets.token_bytes(900)))
    assert (packed[4:5], noise[4:5]) == (ZSTD, CLEAR)
    assert len(packed) < 300
    assert len(noise) < 900 + 200


@given(st.lists(st.tuples(TEXT, st.binary(max_size=300)), min_size=1, max_size=20))
def test_no_frame_is_heavier_than_it_was_weighed(drawn: list[tuple[str, bytes]]) -> None:
    batch = [delivery(key, body=body, event=key * 3) for key, body in drawn]
    assert len(encode(Frame(ID, "n" * 64, [row_of(each) for each in batch]))) <= weight(batch) + FRAME_BYTES


@pytest.mark.parametrize(
    "message",
    [
        b"", b"TKF", b"TK", b"hello", MAGIC + bytes([VERSION]) + CLEAR, MAGIC + bytes([VERSION]) + ZSTD + b"no zstd",
        MAGIC + bytes([VERSION]) + b"q...",
        MAGIC + bytes([VERSION]) + CLEAR + msgspec.msgpack.encode([b"short", "a", []]),
        MAGIC + bytes([VERSION]) + CLEAR + msgspec.msgpack.encode([ID, "a", [["s", "v", "e", "k", 2**63, "import", b"", b"", None]]]),
        MAGIC + bytes([VERSION]) + CLEAR + msgspec.msgpack.encode([ID, "a", [["s", "v", "e", "k", 1, "guess", b"", b"", None]]]),
        MAGIC + bytes([VERSION]) + CLEAR + msgspec.msgpack.encode([ID, "a", [["s", "v", "e", "k", 1, "import", b"", b"", b"c"]]]),
    ],
)  # fmt: skip
def test_what_is_no_frame_of_ours_is_none(message: bytes) -> None:
    assert decode(message) is None


def test_a_frame_of_a_newer_tracker_is_not_passed_over() -> None:
    with pytest.raises(LogCorrupt, match="start the newer Tracker"):
        decode(MAGIC + bytes([VERSION + 1]) + CLEAR + b"...")


def test_a_frame_that_claims_to_be_huge_is_not_unpacked() -> None:
    # A zstd frame header that says 2^40 bytes are in it.
    header = b"\x28\xb5\x2f\xfd\xe0" + (2**40).to_bytes(8, "little")
    assert decode(MAGIC + bytes([VERSION]) + ZSTD + header) is None
