"""Request bodies are decompressed within bounds of output, members and expansion."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.ingest.decompression import MAX_MEMBERS, STEP_BYTES, TooLarge, Undecodable, decompress

LIMIT = 4 * 1024 * 1024


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


PACKED: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("x-gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
]
bodies = st.one_of(
    st.binary(max_size=1000),
    st.builds(lambda part, times: part * times, st.binary(min_size=1, max_size=40), st.integers(1, 6000)),
)


@pytest.mark.parametrize(("encoding", "pack"), PACKED)
@given(body=bodies)
async def test_a_compressed_body_is_decompressed_unchanged(
    encoding: str, pack: Callable[[bytes], bytes], body: bytes
) -> None:
    assert await decompress(pack(body), encoding, LIMIT) == body


@pytest.mark.parametrize(("encoding", "pack"), PACKED)
@pytest.mark.parametrize("size", [0, 1, STEP_BYTES - 1, STEP_BYTES, STEP_BYTES + 1, 3 * STEP_BYTES])
async def test_a_body_of_whole_steps_is_decompressed_and_a_truncated_one_is_refused(
    encoding: str, pack: Callable[[bytes], bytes], size: int
) -> None:
    packed = pack(bytes(n % 251 for n in range(size)))
    assert len(await decompress(packed, encoding, LIMIT)) == size
    for cut in {0, 1, len(packed) // 2, len(packed) - 1}:
        with pytest.raises(Undecodable):
            await decompress(packed[:cut], encoding, LIMIT)


async def test_the_limit_is_on_the_decompressed_body() -> None:
    body = gzip.compress(b"x" * 1000)
    assert len(await decompress(body, "gzip", 1000)) == 1000
    with pytest.raises(TooLarge):
        await decompress(body, "gzip", 999)


async def test_a_body_that_expands_too_much_is_refused_long_before_the_limit() -> None:
    with pytest.raises(TooLarge, match="expands"):
        await decompress(gzip.compress(bytes(16 * 1024 * 1024)), "gzip", 1 << 40)


async def test_members_are_joined_and_their_number_is_bounded() -> None:
    assert await decompress(gzip.compress(b"a") + gzip.compress(b"b"), "gzip", LIMIT) == b"ab"
    with pytest.raises(Undecodable, match="streams"):
        await decompress(gzip.compress(b"") * (MAX_MEMBERS + 1), "gzip", LIMIT)
    with pytest.raises(Undecodable, match="streams"):
        await decompress(zlib.compress(b"a") + zlib.compress(b"b"), "deflate", LIMIT)


@given(junk=st.binary(max_size=200))
async def test_junk_is_refused_and_nothing_else_is_raised(junk: bytes) -> None:
    for encoding in ("gzip", "deflate"):
        try:
            await decompress(junk, encoding, LIMIT)
        except Undecodable:
            pass


async def test_junk_behind_a_stream_is_refused() -> None:
    with pytest.raises(Undecodable):
        await decompress(gzip.compress(b"a") + b"junk", "gzip", LIMIT)
