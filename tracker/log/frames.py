"""The bytes of a frame: what one group commit of a node puts into the stream, as one message.

    "TKF" · version (1 byte) · packing (1 byte: "c" as it is, "z" zstd) · MessagePack of [id, node, records, erases]

A record stands as it is kept (sealed, or in clear), without its position: that is what the stream's order gives it.
Every node decides the same about every message, whoever sent it:

    a frame of a newer version     stops this node until it is upgraded
    what no node could have sent   is passed over as a whole: no frame, or one with a `flaw`
    everything else                is kept as it is, also of a source or vendor that nobody here knows

What is a flaw belongs to the version: another law is another `VERSION`, or two nodes would number records differently.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import msgspec
import zstandard

from tracker.domain.deliveries import TRACKER, Origin, Verified
from tracker.errors import LogUnavailable, NodeOutdated
from tracker.log.contract import StoredRecord

MAGIC = b"TKF"
VERSION = 2
UNCOMPRESSED, ZSTD = b"c", b"z"
HEAD_BYTES = len(MAGIC) + 2
FRAME_BYTES = 512
"""What a frame weighs besides its records, with the headers of its message."""
RECORD_BYTES = 256
"""What a record weighs at most besides its texts, proof and body; sealed it has a commitment and a longer key."""
MAX_UNPACKED_BYTES = 64 * 1024 * 1024
"""No NATS server takes a larger message, so none is written, packed or not; what unpacks to more is not unpacked."""
MAX_RECORDS = 10_000
"""A group commit has 500, `Log.append_all` as many as it is given."""
MAX_ERASED = 10_000
"""One erasure names 500; where it erases an earlier one, copied it brings what that one erased as well."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""Of sources and vendors, as config.toml has it: they are parts of addresses and ids."""
MAX_RECEIVED_AT = 253_402_300_799_999_999
"""The last microsecond of the year 9999: later ones are no dates."""
PACK_LEVEL = 1

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Commitment = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
FrameRow = tuple[str, str, str, str, Int64, Origin, bytes, bytes, Commitment | None]
"""source, vendor, event, dedupe_key (or its sealed name), received_at, origin, proof, body, commitment (None: in clear)"""


class Frame(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One group commit. `id`: 16 random bytes; `node`: who made it; `erases`: what its one record says is erased."""

    id: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    node: str
    records: list[FrameRow]
    erases: list[Int64] = []


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)


def frame_row(verified: Verified) -> FrameRow:
    """A delivery as it is kept in clear."""
    return (
        verified.source, verified.vendor, verified.event, verified.dedupe_key,
        verified.received_at, verified.origin, verified.proof, verified.body, None,
    )  # fmt: skip


def max_frame_bytes(records: Sequence[Verified | StoredRecord]) -> int:
    """At most so many bytes these take in a frame, `FRAME_BYTES` besides."""
    return sum(
        RECORD_BYTES + len(each.body) + len(each.proof) + sum(map(_bytes_in, (each.source, each.vendor, each.event)))
        + _bytes_in(each.dedupe_key)
        for each in records
    )  # fmt: skip


def _bytes_in(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def find_flaw(frame: Frame) -> str | None:
    """Why no node can have sent this, None where one can. Names and numbers only: nothing that a stranger wrote."""
    records = frame.records
    if not 1 <= len(records) <= MAX_RECORDS:
        return f"it has {len(records)} records, not 1 to {MAX_RECORDS}"
    if frame.erases and (len(records) != 1 or records[0][0] != TRACKER):
        return f"it erases, and is not one record of {TRACKER!r}"
    if len(frame.erases) > MAX_ERASED:
        return f"it erases {len(frame.erases)} records, more than {MAX_ERASED}"
    for n, row in enumerate(records):
        if NAME.fullmatch(row[0]) is None or NAME.fullmatch(row[1]) is None:
            return f"source or vendor of its record {n} is no name"
        if not 0 <= row[4] <= MAX_RECEIVED_AT:
            return f"its record {n} was received at no date"
    return None


def encode(frame: Frame) -> bytes:
    """The bytes of the message; packed where that makes them fewer (sealed bodies are noise).

    Raises `LogUnavailable` where every node would pass it over.
    """
    plain = _encoder.encode(frame)
    found = find_flaw(frame)
    if found is None and len(plain) > MAX_UNPACKED_BYTES:
        found = f"it has {len(plain)} bytes unpacked, more than {MAX_UNPACKED_BYTES}"
    if found is not None:
        raise LogUnavailable(f"this cannot be put into the stream: {found}")
    packed = zstandard.ZstdCompressor(level=PACK_LEVEL).compress(plain)
    head = MAGIC + bytes([VERSION])
    return head + ZSTD + packed if len(packed) < len(plain) else head + UNCOMPRESSED + plain


def decode(message: bytes, sequence: int = 0) -> Frame | str:
    """The frame, or why the message is none that a node can have sent: every node passes it over.

    Raises `NodeOutdated` for a frame of a newer Tracker; `sequence` names it there.
    """
    if message[: len(MAGIC)] != MAGIC or len(message) < HEAD_BYTES:
        return "it does not begin as a frame does"
    version, packing = message[len(MAGIC)], message[len(MAGIC) + 1 : HEAD_BYTES]
    if version > VERSION:
        raise NodeOutdated(
            f"frame {sequence} of the stream is of version {version}, this Tracker knows {VERSION}: upgrade this node"
        )
    if version != VERSION:
        return f"there is no version {version} of frames"
    try:
        frame = _decoder.decode(_unpacked(packing, message[HEAD_BYTES:]))
    # RecursionError: values in values in values.
    except (msgspec.MsgspecError, zstandard.ZstdError, ValueError, RecursionError) as error:
        return f"it cannot be unpacked ({type(error).__name__})"
    return find_flaw(frame) or frame


def _unpacked(packing: bytes, packed: bytes) -> bytes:
    if packing == UNCOMPRESSED:
        return packed
    if packing != ZSTD:  # this version has no other
        raise ValueError("unknown packing")
    if zstandard.frame_content_size(packed) > MAX_UNPACKED_BYTES:
        raise ValueError("too large")
    return zstandard.ZstdDecompressor().decompress(packed, max_output_size=MAX_UNPACKED_BYTES)
