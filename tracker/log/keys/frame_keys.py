"""The data keys of the sealed records of one frame, as they stand in the bucket and in every node's key store.

MessagePack of [master, [wrapped, wrapped, null, …]]      the n-th belongs to the n-th record; null: destroyed, or in clear

wrapped       AES-256-GCM(master key, data key ‖ salt; the frame's id and n are authenticated with it)
sealed body   AES-256-GCM(data key, framed proof and body; what the log knows the record by is authenticated with it:
              which position it gets is not known before the stream has it)
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from typing import NamedTuple

import msgspec

from tracker.errors import LogCorrupt

_LENGTH = struct.Struct(">I")


class FrameKeys(msgspec.Struct, frozen=True, array_like=True):
    """`master`: the id of the master key that wraps them."""

    master: str
    wrapped: list[bytes | None]


class EncryptedCopy(NamedTuple):
    """One sealed copy of a record in the stream: the n-th of that frame."""

    frame: bytes
    n: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(FrameKeys)


def encode(keys: FrameKeys) -> bytes:
    """The bytes of an entry."""
    return _encoder.encode(keys)


def decode(entry: bytes) -> FrameKeys:
    """Raises `LogCorrupt`."""
    try:
        return _decoder.decode(entry)
    except msgspec.MsgspecError as error:
        raise LogCorrupt(f"the data keys of a frame cannot be read: {error}") from None


EMPTY_ENTRY = encode(FrameKeys("", []))
"""What stands for an entry that was swept: its frame was not in the stream. A record of it has no key."""


def without_keys(keys: FrameKeys, gone: Collection[int]) -> FrameKeys | None:
    """The same without these; None where none of them is there any more."""
    if not any(n < len(keys.wrapped) and keys.wrapped[n] is not None for n in gone):
        return None
    return FrameKeys(keys.master, [None if n in gone else each for n, each in enumerate(keys.wrapped)])


def group_by_frame(copies: Iterable[EncryptedCopy]) -> dict[bytes, set[int]]:
    """The same, by frame."""
    found: dict[bytes, set[int]] = {}
    for copy in copies:
        found.setdefault(copy.frame, set()).add(copy.n)
    return found


def wrapped_key_aad(frame: bytes, n: int) -> bytes:
    """What a wrapped data key is bound to."""
    return b"frame" + frame + _LENGTH.pack(n)


def record_aad(source: str, name: str) -> bytes:
    """What a body sealed for a stream is bound to: the name that the log knows the record by."""
    told = source.encode()
    return b"record" + _LENGTH.pack(len(told)) + told + name.encode()
