"""Proof and body in one zstd frame, small through a dictionary of what its source usually says.

    packed    proof empty, body = zstd( length of proof (8 bytes, big-endian) · proof · body )
              the frame names its dictionary and its content's size; it has no checksum, a record's leaf is over the plain bytes

No record of ours has an empty proof, so the two can be told apart; one that came so and looks packed is packed as well.
What unpacks is bounded before it is unpacked: a frame that claims more than `MOST_BYTES` is damage, not a record of ours,
and so is one with bytes behind it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import cast

import zstandard

from tracker.log.merkle.leaf import framed

MAGIC = b"\x28\xb5\x2f\xfd"
LEVEL = 1
"""Measured: 3 makes it 1 % smaller for 1 µs a record more, 9 makes it 3 % smaller for 10 µs."""
DICTIONARY_BYTES = 16 * 1024
"""Measured beside 8, 32 and 64 KiB: the others are no smaller on any vendor's bodies."""
MAX_BYTES = 16 * 1024 * 1024
"""Larger records are kept as they came."""
TRAINED_BYTES = 16 * 1024
"""Larger records are not trained on."""
HELD_OUT = 200
WORTH = 0.9
"""How small a dictionary must make what it was not trained on, beside the one before it."""

Pair = tuple[bytes, bytes]
"""(proof, body)"""
_ID = struct.Struct("<I")


class Packer:
    """Packs with one dictionary and unpacks what was packed with it; "": without any. For one thread."""

    def __init__(self, dictionary: bytes = b"") -> None:
        """Raises `ValueError` where it is no dictionary."""
        self.dictionary = dictionary
        kept = None
        if dictionary:
            try:
                kept = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_FULLDICT)
                kept.precompute_compress(level=LEVEL)  # pyright: ignore[reportUnknownMemberType] - its other parameter
            except zstandard.ZstdError as error:
                raise ValueError(str(error)) from None
        self._compressor = zstandard.ZstdCompressor(
            level=LEVEL, dict_data=kept, write_checksum=False, write_content_size=True, write_dict_id=True
        )
        self._decompressor = zstandard.ZstdDecompressor(dict_data=kept)

    def pack(self, proof: bytes, body: bytes) -> bytes | None:
        """One frame of both, or None where they are better kept as they came."""
        if len(proof) + len(body) > MAX_BYTES - 8:
            return None
        frame = self._compressor.compress(framed(proof, body))
        return frame if len(frame) < len(proof) + len(body) or is_packed(proof, body) else None

    def unpack(self, frame: bytes) -> Pair:
        """(proof, body) of a frame that `dictionary_of` let through. Raises `ValueError` where it is none of ours."""
        try:
            plain = self._decompressor.decompress(frame, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from None
        end = 8 + int.from_bytes(plain[:8], "big")
        if end > len(plain):
            raise ValueError("its proof is longer than the whole")
        return plain[8:end], plain[end:]


def is_packed(proof: bytes, body: bytes) -> bool:
    """Whether proof and body stand in the log packed (of a record in clear)."""
    return not proof and body[:4] == MAGIC


def dictionary_of(frame: bytes) -> int:
    """The id of the dictionary a frame names, 0 where it names none.

    Raises `ValueError` where it is no frame, or claims to hold more than a record of ours; nothing is unpacked for that.
    """
    try:
        said = zstandard.get_frame_parameters(frame)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None
    if not 8 <= said.content_size <= MAX_BYTES:
        raise ValueError("its size is not that of a record")
    return said.dict_id


def with_id(dictionary: bytes, number: int) -> bytes:
    """A dictionary with this id: it stands behind the magic number, and every frame packed with it names it."""
    return dictionary[:4] + _ID.pack(number) + dictionary[8:]


def train_better(latest: Sequence[Pair], than: bytes | None) -> bytes | None:
    """A dictionary trained on all but the first 200 of these, if it packs those a tenth smaller than `than` (None: plain).

    Some 50 ms of the processor; for a thread, the GIL is free meanwhile.
    """
    usual = [pair for pair in latest if len(pair[0]) + len(pair[1]) <= TRAINED_BYTES]
    held_out, samples = usual[:HELD_OUT], [framed(*pair) for pair in usual[HELD_OUT:]]
    try:
        trained = zstandard.train_dictionary(
            DICTIONARY_BYTES, cast("list[bytes | bytearray | memoryview]", samples), level=LEVEL
        )
    except zstandard.ZstdError:  # too few, or nothing in common
        return None
    made = trained.as_bytes()
    return made if _packed_bytes(held_out, made) <= WORTH * _packed_bytes(held_out, than) else None


def _packed_bytes(pairs: Sequence[Pair], dictionary: bytes | None) -> int:
    if dictionary is None:
        return sum(len(proof) + len(body) for proof, body in pairs)
    packer = Packer(dictionary)
    return sum(len(packer.pack(*pair) or b"".join(pair)) for pair in pairs)
