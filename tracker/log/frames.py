"""The bytes of a frame: what one group commit of a node puts into the stream, as one message.

    "TKF" · version (1 byte) · packing (1 byte: "c" as it is, "z" zstd) · MessagePack of [id, node, records, erases]

A record stands as it is kept (sealed, or in clear), without its position: that is what the stream's order gives it.
Every node decides the same about every message: what is no frame at all is passed over, a frame of a newer Tracker stops
a node until it is upgraded, and what decodes here can be put into every replica.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import zstandard

from tracker.deliveries import Origin, Verified
from tracker.errors import LogCorrupt
from tracker.log.contract import KeptRecord

MAGIC = b"TKF"
VERSION = 1
CLEAR, ZSTD = b"c", b"z"
HEAD_BYTES = len(MAGIC) + 2
FRAME_BYTES = 512
"""What a frame weighs besides its records, with the headers of its message."""
RECORD_BYTES = 256
"""What a record weighs at most besides its texts, proof and body; sealed it has a commitment and a longer key."""
UNPACKED_BYTES = 256 * 1024 * 1024
"""A frame that claims to be larger is damaged, not one of ours: the server takes no message of that size."""
PACK_LEVEL = 1

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Commitment = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
FrameRow = tuple[str, str, str, str, Int64, Origin, bytes, bytes, Commitment | None]
"""source, vendor, event, dedupe_key (or its sealed name), received_at, origin, proof, body, commitment (None: in clear)"""


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """One group commit. `id`: 16 random bytes; `node`: who made it; `erases`: what its one record says is erased."""

    id: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    node: str
    records: list[FrameRow]
    erases: list[Int64] = []


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)


def row_of(verified: Verified) -> FrameRow:
    """A delivery as it is kept in clear."""
    return (
        verified.source, verified.vendor, verified.event, verified.dedupe_key,
        verified.received_at, verified.origin, verified.proof, verified.body, None,
    )  # fmt: skip


def weight(records: Sequence[Verified | KeptRecord]) -> int:
    """At most so many bytes these take in a frame, `FRAME_BYTES` besides."""
    return sum(
        RECORD_BYTES + len(each.body) + len(each.proof) + sum(map(_bytes_in, (each.source, each.vendor, each.event)))
        + _bytes_in(each.dedupe_key)
        for each in records
    )  # fmt: skip


def _bytes_in(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def encode(frame: Frame) -> bytes:
    """The bytes of the message; packed where that makes them fewer (sealed bodies are noise)."""
    plain = _encoder.encode(frame)
    packed = zstandard.ZstdCompressor(level=PACK_LEVEL).compress(plain)
    head = MAGIC + bytes([VERSION])
    return head + ZSTD + packed if len(packed) < len(plain) else head + CLEAR + plain


def decode(message: bytes) -> Frame | None:
    """The frame; None where the message is none. Raises `LogCorrupt` for a frame of a newer Tracker."""
    if message[: len(MAGIC)] != MAGIC or len(message) < HEAD_BYTES:
        return None
    version, packing = message[len(MAGIC)], message[len(MAGIC) + 1 : HEAD_BYTES]
    if version > VERSION:
        raise LogCorrupt(
            f"the stream holds frames of version {version}, this Tracker knows {VERSION}: start the newer Tracker"
        )
    try:
        return _decoder.decode(_unpacked(packing, message[HEAD_BYTES:]))
    except (msgspec.MsgspecError, zstandard.ZstdError, ValueError):  # nobody was answered for it
        return None


def _unpacked(packing: bytes, packed: bytes) -> bytes:
    if packing == CLEAR:
        return packed
    if packing != ZSTD:  # this version has no other
        raise ValueError("unknown packing")
    if zstandard.frame_content_size(packed) > UNPACKED_BYTES:
        raise ValueError("too large")
    return zstandard.ZstdDecompressor().decompress(packed, max_output_size=UNPACKED_BYTES)
