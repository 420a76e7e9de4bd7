"""What nodes publish about the tree, as it travels in the stream beside the frames.

    SignedTree        the signing node: this is the checkpoint of that many records
    CosignedTree      another node: I hold a tree that begins with it
    DivergenceReport  another node: I do not; the first record that differs is at that position

JSON, one a message. As with frames, every node decides the same about every message, and skips what is none of these.
`log/sqlite/trust.py` decides whose signatures count, where the messages are stored. `log/cluster/cosigner.py` compares what
they say with the tree.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec

Size = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Text = Annotated[str, msgspec.Meta(max_length=65_536)]
Line = Annotated[str, msgspec.Meta(max_length=1_000)]
Root = Annotated[bytes, msgspec.Meta(max_length=32)]
Name = Annotated[str, msgspec.Meta(max_length=500)]


class SignedTree(msgspec.Struct, frozen=True, tag="signed"):
    """A checkpoint: the signed `note` about the tree of `size` records. `key`: the verifier key of the node that signed."""

    node: Name
    size: Size
    note: Text
    key: Line = ""


class CosignedTree(msgspec.Struct, frozen=True, tag="cosigned"):
    """A cosignature `line`, with its newline, under the checkpoint of `size`. `name` is the key's, `key` its text."""

    node: Name
    size: Size
    name: Name
    line: Line
    key: Line = ""


class DivergenceReport(msgspec.Struct, frozen=True, tag="complaint"):
    """`root` is the node's own at that size, b"" where it has fewer records; `position` None: not found."""

    node: Name
    size: Size
    root: Root
    position: Size | None


TreeMessage = SignedTree | CosignedTree | DivergenceReport

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[TreeMessage] = msgspec.json.Decoder(TreeMessage)


def encode(message: TreeMessage) -> bytes:
    """The bytes of the message."""
    return _encoder.encode(message)


def message_id(data: bytes) -> str:
    """The id by which the NATS servers recognise a repeat of the message."""
    return hashlib.sha256(data).hexdigest()


def decode(data: bytes) -> TreeMessage | None:
    """The message; None where it is none of these."""
    try:
        message = _decoder.decode(data)
        _encoder.encode(message).decode("utf-8")
    except (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError):
        return None
    return message
