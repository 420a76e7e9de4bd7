"""The bytes of a frame: one group commit of a node, as one message of the stream.

    "TKF" · version (1 byte) · compression (1 byte: "c" none, "z" zstd) · MessagePack of [id, node, records, erases]

A record stands in it as it is stored (encrypted, or plain), without its position: the order of the stream decides that.
Every node must decide the same about every message, no matter who sent it:

    a frame of a newer version        stops this node until it is upgraded
    a message no node can have sent   is skipped as a whole: it is not a frame, or it has a flaw (`find_flaw`)
    any other frame                   is stored as it is, also for a source or vendor that no node knows

What counts as a flaw is part of the version: another rule needs another `VERSION`, or two nodes would number records
differently.
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
"""The size of a frame without its records, including the headers of its message."""
RECORD_BYTES = 256
"""Upper bound of a record's size without its texts, proof and body. An encrypted one has a commitment and a longer key."""
MAX_UNPACKED_BYTES = 64 * 1024 * 1024
"""No NATS server accepts a larger message, so no larger frame is written, and none is decompressed beyond this."""
MAX_RECORDS = 10_000
"""A group commit has up to 500 records; `Log.append_all` as many as its caller passes."""
MAX_ERASED = 10_000
"""One erasure names up to 500. A copied erasure of an earlier erasure also brings what that one erased."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""Names of sources and vendors, as in config.toml: they are parts of URLs and ids."""
MAX_RECEIVED_AT = 253_402_300_799_999_999
"""The last microsecond of the year 9999: Python has no later dates."""
ZSTD_LEVEL = 1

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Commitment = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
FrameRow = tuple[str, str, str, str, Int64, Origin, bytes, bytes, Commitment | None]
"""source, vendor, event, dedupe_key (or its keyed hash), received_at, origin, proof, body, commitment (None: not encrypted)"""


class Frame(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One group commit. `id`: 16 random bytes. `node`: who made it. `erases`: positions that its only record erases."""

    id: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    node: str
    records: list[FrameRow]
    erases: list[Int64] = []


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)


def frame_row(verified: Verified) -> FrameRow:
    """The row of a delivery that is not encrypted."""
    return (
        verified.source, verified.vendor, verified.event, verified.dedupe_key,
        verified.received_at, verified.origin, verified.proof, verified.body, None,
    )  # fmt: skip


def max_frame_bytes(records: Sequence[Verified | StoredRecord]) -> int:
    """Upper bound of the bytes these records take in a frame, without `FRAME_BYTES`."""
    return sum(
        RECORD_BYTES + len(each.body) + len(each.proof) + sum(map(_utf8_bytes, (each.source, each.vendor, each.event)))
        + _utf8_bytes(each.dedupe_key)
        for each in records
    )  # fmt: skip


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def find_flaw(frame: Frame) -> str | None:
    """Why no node can have sent this frame; None for a frame in order. It quotes nothing that a stranger wrote."""
    records = frame.records
    if not 1 <= len(records) <= MAX_RECORDS:
        return f"it has {len(records)} records, not 1 to {MAX_RECORDS}"
    if frame.erases and (len(records) != 1 or records[0][0] != TRACKER):
        return f"it erases records, but is not a single record of {TRACKER!r}"
    if len(frame.erases) > MAX_ERASED:
        return f"it erases {len(frame.erases)} records, more than {MAX_ERASED}"
    for n, row in enumerate(records):
        if NAME.fullmatch(row[0]) is None or NAME.fullmatch(row[1]) is None:
            return f"the source or vendor of its record {n} is not a valid name"
        if not 0 <= row[4] <= MAX_RECEIVED_AT:
            return f"the time of its record {n} is not a valid date"
    return None


def encode(frame: Frame) -> bytes:
    """The bytes of the message, compressed where that makes it smaller (encrypted bodies do not compress).

    Raises `LogUnavailable` for a frame that every node would skip.
    """
    plain = _encoder.encode(frame)
    flaw = find_flaw(frame)
    if flaw is None and len(plain) > MAX_UNPACKED_BYTES:
        flaw = f"it has {len(plain)} bytes uncompressed, more than {MAX_UNPACKED_BYTES}"
    if flaw is not None:
        raise LogUnavailable(f"this cannot be published to the stream: {flaw}")
    compressed = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(plain)
    head = MAGIC + bytes([VERSION])
    return head + ZSTD + compressed if len(compressed) < len(plain) else head + UNCOMPRESSED + plain


def decode(message: bytes, sequence: int = 0) -> Frame | str:
    """The frame, or why no node can have sent the message: then every node skips it.

    Raises `NodeOutdated` for a frame of a newer Tracker; `sequence` names it there.
    """
    if message[: len(MAGIC)] != MAGIC or len(message) < HEAD_BYTES:
        return "it does not begin like a frame"
    version, compression = message[len(MAGIC)], message[len(MAGIC) + 1 : HEAD_BYTES]
    if version > VERSION:
        raise NodeOutdated(
            f"frame {sequence} of the stream is of version {version}, this Tracker knows {VERSION}: upgrade this node"
        )
    if version != VERSION:
        return f"its version {version} was never released"
    try:
        frame = _decoder.decode(_decompress(compression, message[HEAD_BYTES:]))
    # RecursionError: deeply nested values.
    except (msgspec.MsgspecError, zstandard.ZstdError, ValueError, RecursionError) as error:
        return f"it cannot be decoded ({type(error).__name__})"
    return find_flaw(frame) or frame


def _decompress(compression: bytes, data: bytes) -> bytes:
    if compression == UNCOMPRESSED:
        return data
    if compression != ZSTD:  # this version has no other
        raise ValueError("unknown compression")
    if zstandard.frame_content_size(data) > MAX_UNPACKED_BYTES:
        raise ValueError("too large")
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=MAX_UNPACKED_BYTES)
