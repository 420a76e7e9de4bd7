"""The data keys of one frame's encrypted records, as stored in the key bucket and in every node's key store.

entry            MessagePack of [master, [wrapped, wrapped, null, …]]
                 the n-th belongs to the n-th record; null: destroyed, or the record is not encrypted
wrapped          AES-256-GCM(master key, data key ‖ salt), with the frame's id and n as associated data
encrypted body   AES-256-GCM(data key, framed proof and body), with the record's dedupe hash as associated data: its
                 position is not known before it is in the stream
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from typing import NamedTuple

import msgspec

from tracker.errors import LogCorrupt

_LENGTH = struct.Struct(">I")


class FrameKeys(msgspec.Struct, frozen=True, array_like=True):
    """An entry. `master`: the id of the master key that wraps its data keys."""

    master: str
    wrapped: list[bytes | None]


class EncryptedCopy(NamedTuple):
    """One encrypted copy of a record in the stream: the n-th record of that frame."""

    frame: bytes
    n: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(FrameKeys)


def encode(keys: FrameKeys) -> bytes:
    """The bytes of an entry."""
    return _encoder.encode(keys)


def decode(entry: bytes) -> FrameKeys:
    """Read an entry. Raises `LogCorrupt`."""
    try:
        return _decoder.decode(entry)
    except msgspec.MsgspecError as error:
        raise LogCorrupt(f"the data keys of a frame cannot be read: {error}") from None


EMPTY_ENTRY = encode(FrameKeys("", []))
"""Replaces the entry of a frame that is not in the stream. A record of such a frame has no key."""


def without_keys(keys: FrameKeys, destroyed: Collection[int]) -> FrameKeys | None:
    """The entry without these keys; None where it has none of them."""
    if not any(n < len(keys.wrapped) and keys.wrapped[n] is not None for n in destroyed):
        return None
    return FrameKeys(keys.master, [None if n in destroyed else each for n, each in enumerate(keys.wrapped)])


def group_by_frame(copies: Iterable[EncryptedCopy]) -> dict[bytes, set[int]]:
    """Maps each frame to the `n` of its copies."""
    found: dict[bytes, set[int]] = {}
    for copy in copies:
        found.setdefault(copy.frame, set()).add(copy.n)
    return found


def wrapped_key_aad(frame: bytes, n: int) -> bytes:
    """The associated data of a wrapped data key."""
    return b"frame" + frame + _LENGTH.pack(n)


def record_aad(source: str, dedupe_hash: str) -> bytes:
    """The associated data of a body that was encrypted for a stream."""
    encoded = source.encode()
    return b"record" + _LENGTH.pack(len(encoded)) + encoded + dedupe_hash.encode()
