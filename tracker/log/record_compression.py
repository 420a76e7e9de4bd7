"""Proof and body in one zstd frame, made small by a dictionary trained on the records of its source.

    compressed    proof empty, body = zstd( length of proof (8 bytes, big-endian) · proof · body )
                  the zstd frame names its dictionary and its content's size; it has no checksum: a record's leaf is over
                  the plain bytes

No record that Tracker writes has an empty proof, so compressed and plain records can be distinguished. A record that was received
with an empty proof and looks compressed is compressed as well. Sizes are checked before anything is decompressed: a frame
that claims more than `MAX_BYTES`, or has bytes behind it, is damaged.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import cast

import zstandard

from tracker.log.merkle.leaf import framed

MAGIC = b"\x28\xb5\x2f\xfd"
LEVEL = 1
"""Measured: level 3 makes records 1 % smaller for 1 µs more each, level 9 makes them 3 % smaller for 10 µs."""
DICTIONARY_BYTES = 16 * 1024
"""Measured against 8, 32 and 64 KiB: those are no better on any vendor's bodies."""
MAX_BYTES = 16 * 1024 * 1024
"""Larger records are stored uncompressed."""
MAX_SAMPLE_BYTES = 16 * 1024
"""Larger records are not used for training."""
TEST_RECORDS = 200
"""How many of the latest records a new dictionary is tested on, rather than trained on."""
MAX_SIZE_RATIO = 0.9
"""A new dictionary is used only if it makes the test records this much smaller than the one before it."""

Pair = tuple[bytes, bytes]
"""(proof, body)"""
_ID = struct.Struct("<I")


class Packer:
    """Compresses with one dictionary ("": none) and decompresses what was compressed with it. For one thread."""

    def __init__(self, dictionary: bytes = b"") -> None:
        """Raises `ValueError` where these bytes are not a dictionary."""
        self.dictionary = dictionary
        prepared = None
        if dictionary:
            try:
                prepared = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_FULLDICT)
                prepared.precompute_compress(level=LEVEL)  # pyright: ignore[reportUnknownMemberType] - its other parameter
            except zstandard.ZstdError as error:
                raise ValueError(str(error)) from None
        self._compressor = zstandard.ZstdCompressor(
            level=LEVEL, dict_data=prepared, write_checksum=False, write_content_size=True, write_dict_id=True
        )
        self._decompressor = zstandard.ZstdDecompressor(dict_data=prepared)

    def pack(self, proof: bytes, body: bytes) -> bytes | None:
        """One zstd frame of both, or None where that is no smaller."""
        if len(proof) + len(body) > MAX_BYTES - 8:
            return None
        frame = self._compressor.compress(framed(proof, body))
        return frame if len(frame) < len(proof) + len(body) or is_packed(proof, body) else None

    def unpack(self, frame: bytes) -> Pair:
        """(proof, body) of a frame that `dictionary_of` accepted. Raises `ValueError` for a damaged one."""
        try:
            plain = self._decompressor.decompress(frame, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from None
        end = 8 + int.from_bytes(plain[:8], "big")
        if end > len(plain):
            raise ValueError("the stated length of the proof exceeds the frame")
        return plain[8:end], plain[end:]


def is_packed(proof: bytes, body: bytes) -> bool:
    """Whether proof and body of an unencrypted record are stored compressed."""
    return not proof and body[:4] == MAGIC


def dictionary_of(frame: bytes) -> int:
    """The id of the dictionary that a zstd frame names, 0 where it names none. Nothing is decompressed.

    Raises `ValueError` where it is not a zstd frame, or claims more bytes than a record can have.
    """
    try:
        parameters = zstandard.get_frame_parameters(frame)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None
    if not 8 <= parameters.content_size <= MAX_BYTES:
        raise ValueError("its size is not that of a record")
    return parameters.dict_id


def with_id(dictionary: bytes, number: int) -> bytes:
    """The dictionary with this id. The id stands behind the magic number; every frame compressed with it names it."""
    return dictionary[:4] + _ID.pack(number) + dictionary[8:]


def train_better(latest: Sequence[Pair], current: bytes | None) -> bytes | None:
    """A dictionary trained on the latest records, or None where it is not clearly better than the current one.

    It is trained on all but the first 200, and must make those 200 a tenth smaller than `current` does (None: uncompressed).
    Takes some 50 ms of processor time; call it in a thread, as it releases the GIL.
    """
    usual = [pair for pair in latest if len(pair[0]) + len(pair[1]) <= MAX_SAMPLE_BYTES]
    tests, samples = usual[:TEST_RECORDS], [framed(*pair) for pair in usual[TEST_RECORDS:]]
    try:
        trained = zstandard.train_dictionary(
            DICTIONARY_BYTES, cast("list[bytes | bytearray | memoryview]", samples), level=LEVEL
        )
    except zstandard.ZstdError:  # too few samples, or nothing in common
        return None
    made = trained.as_bytes()
    return made if _packed_bytes(tests, made) <= MAX_SIZE_RATIO * _packed_bytes(tests, current) else None


def _packed_bytes(pairs: Sequence[Pair], dictionary: bytes | None) -> int:
    if dictionary is None:
        return sum(len(proof) + len(body) for proof, body in pairs)
    packer = Packer(dictionary)
    return sum(len(packer.pack(*pair) or b"".join(pair)) for pair in pairs)
