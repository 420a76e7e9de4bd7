"""What nodes say about the tree, as it travels in the stream beside the frames.

    Signed      the signing node: this is the checkpoint of so many records
    Cosigned    another node: I hold a tree that begins with it
    Complaint   another node: I do not; the first record that differs is at that position

JSON, one to a message. Like frames, every node decides the same about every message: what is none of these is passed over.
Whose signatures are believed is decided where they are kept (`log/sqlite/trust.py`); what they say is compared with the tree
in `tracker/log/cluster/cosigner.py`.
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
    """A checkpoint: the signed `note` about the tree of `size` records. `key`: the verifier key of the node's signatures."""

    node: Name
    size: Size
    note: Text
    key: Line = ""


class CosignedTree(msgspec.Struct, frozen=True, tag="cosigned"):
    """The cosignature `line`, with its newline, under the checkpoint of `size`; `name` is the key's, `key` its text."""

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


def encode(voucher: TreeMessage) -> bytes:
    """The bytes of the message."""
    return _encoder.encode(voucher)


def message_id(data: bytes) -> str:
    """What the servers know a repeat of the message by."""
    return hashlib.sha256(data).hexdigest()


def decode(message: bytes) -> TreeMessage | None:
    """What it says; None where the message is none of these."""
    try:
        found = _decoder.decode(message)
        _encoder.encode(found).decode("utf-8")
    except (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError):
        return None
    return found
