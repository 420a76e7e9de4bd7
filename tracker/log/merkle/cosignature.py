r"""Cosignatures: other parties confirm that they saw the same tree (https://c2sp.org/tlog-cosignature, with Ed25519).

    <checkpoint text>
                                                     key id = SHA-256(name ‖ "\n" ‖ 0x04 ‖ public key)[:4]
    — <log's key> base64(key id ‖ signature)
    — <cosigner>  base64(key id ‖ seconds ‖ signature over "cosignature/v1\ntime <seconds>\n" ‖ checkpoint text)

`seconds` since the epoch, 8 bytes, big-endian: at that time the cosigner held a tree that begins with this one. Verifiers
that know only the log's key skip these lines as signatures of unknown keys.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

from tracker.errors import NoteMalformed, NoteUnverified
from tracker.log.merkle.note import SIGNATURE_PREFIX, Signer, Verifier, compute_key_id, parse_key, read_note

COSIGNATURE = b"\x04"
SIGNATURE_BYTES = 64
MAX_SECONDS = 2**63 - 1
_TIME = struct.Struct(">Q")


class CosignerKey(NamedTuple):
    """The public key of a cosigner."""

    name: str
    public: bytes

    @classmethod
    def from_signer(cls, signer: Signer) -> Self:
        """The public half of this private key, as a cosigner's."""
        return cls(signer.name, signer.verifier.public)

    @classmethod
    def read(cls, text: str) -> Self:
        """From its verifier key: name+hex(key id)+base64(0x04 ‖ public key). Raises `NoteMalformed`."""
        name, stated_id, public = parse_key(text.strip(), "cosigner's verifier key", COSIGNATURE)
        key = cls(name, public)
        if key.id != stated_id:
            raise NoteMalformed(f"the verifier key of {name} does not have the id it names: copy it again, all of it")
        return key

    @property
    def id(self) -> bytes:
        """The 4 bytes that name the key in a signature."""
        return compute_key_id(self.name, COSIGNATURE, self.public)

    @property
    def label(self) -> str:
        """The key's short name for people: name+hex(id)."""
        return f"{self.name}+{self.id.hex()}"

    def __str__(self) -> str:
        return f"{self.label}+{base64.b64encode(COSIGNATURE + self.public).decode()}"


class Cosignature(NamedTuple):
    """Which key cosigned a checkpoint, and when (seconds since the epoch)."""

    key: CosignerKey
    seconds: int


def cosign(text: str, signer: Signer, seconds: int) -> str:
    """The cosignature line, with its newline: at this time the signer holds a tree that begins with this checkpoint's.

    The caller has compared the trees.
    """
    signature = _TIME.pack(seconds) + signer.sign(_statement(text, seconds))
    encoded = base64.b64encode(CosignerKey.from_signer(signer).id + signature).decode()
    return f"{SIGNATURE_PREFIX}{signer.name} {encoded}\n"


def with_cosignatures(note: str, lines: Iterable[str]) -> str:
    """The note with these lines under its own. Raises `NoteMalformed`."""
    cosigned = note + "".join(lines)
    read_note(cosigned)
    return cosigned


def verify_cosignatures(note: str, known: Sequence[CosignerKey]) -> list[Cosignature]:
    """The cosignatures of known keys under a note. Lines of other keys are ignored.

    Raises `NoteMalformed`; `NoteUnverified` when a line under the name of a known key does not verify.
    """
    read = read_note(note)
    keys = {(each.name, each.id): each for each in known}
    found: dict[CosignerKey, Cosignature] = {}
    for name, key_id, signature in read.signatures:
        key = keys.get((name, key_id))
        if key is None:
            continue
        if len(signature) != _TIME.size + SIGNATURE_BYTES:
            raise NoteUnverified(f"the cosignature of {key.label} has the wrong length")
        (seconds,) = _TIME.unpack_from(signature)
        verifier = Verifier(key.name, key.public)
        if seconds > MAX_SECONDS or not verifier.verifies(_statement(read.text, seconds), signature[_TIME.size :]):
            raise NoteUnverified(f"the cosignature of {key.label} does not fit the text")
        found[key] = Cosignature(key, seconds)
    return list(found.values())


def _statement(text: str, seconds: int) -> str:
    return f"cosignature/v1\ntime {seconds}\n{text}"
