r"""Cosignatures: others say that they saw the same tree, as https://c2sp.org/tlog-cosignature has it, with Ed25519.

    <checkpoint text>
                                                     key id = SHA-256(name ‖ "\n" ‖ 0x04 ‖ public key)[:4]
    — <log's key> base64(key id ‖ signature)
    — <cosigner>  base64(key id ‖ seconds ‖ signature over "cosignature/v1\ntime <seconds>\n" ‖ checkpoint text)

`seconds` since the epoch, 8 bytes, big-endian: at that moment the cosigner held a tree that begins with this one. Whoever
knows only the log's key passes these lines over: they are signatures of keys he does not know.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

from tracker.errors import NoteMalformed, NoteUnverified
from tracker.log.merkle.note import SIGNATURE_PREFIX, Signer, Verifier, compute_key_id, parse_key, read_note

COSIGNATURE = b"\x04"
_TIME = struct.Struct(">Q")
SIGNATURE_BYTES = 64
MAX_SECONDS = 2**63 - 1


class CosignerKey(NamedTuple):
    """The public key of a cosigner."""

    name: str
    public: bytes

    @classmethod
    def from_signer(cls, signer: Signer) -> Self:
        """The cosigner that this private key makes."""
        return cls(signer.name, signer.verifier.public)

    @classmethod
    def read(cls, text: str) -> Self:
        """From its verifier key: name+hex(key id)+base64(0x04 ‖ public key). Raises `NoteMalformed`."""
        name, given, public = parse_key(text.strip(), "cosigner's verifier key", COSIGNATURE)
        found = cls(name, public)
        if found.id != given:
            raise NoteMalformed(f"the verifier key of {name} does not have the id it names: copy it again, all of it")
        return found

    @property
    def id(self) -> bytes:
        """The 4 bytes that name the key in a signature."""
        return compute_key_id(self.name, COSIGNATURE, self.public)

    @property
    def label(self) -> str:
        """How people name the key: name+hex(id)."""
        return f"{self.name}+{self.id.hex()}"

    def __str__(self) -> str:
        return f"{self.label}+{base64.b64encode(COSIGNATURE + self.public).decode()}"


class Cosignature(NamedTuple):
    """Who vouches for a checkpoint, and when (seconds since the epoch)."""

    key: CosignerKey
    seconds: int


def cosign(text: str, signer: Signer, seconds: int) -> str:
    """The line, with its newline, that says: at this moment I hold a tree that begins with the one of this checkpoint.

    Whoever calls has looked.
    """
    made = _TIME.pack(seconds) + signer.sign(_statement(text, seconds))
    return f"{SIGNATURE_PREFIX}{signer.name} {base64.b64encode(CosignerKey.from_signer(signer).id + made).decode()}\n"


def with_cosignatures(note: str, lines: Iterable[str]) -> str:
    """The note with these lines under its own. Raises `NoteMalformed`."""
    cosigned = note + "".join(lines)
    read_note(cosigned)
    return cosigned


def verify_cosignatures(note: str, known: Sequence[CosignerKey]) -> list[Cosignature]:
    """Who of the known cosigners vouches for a note; lines of others are passed over.

    Raises `NoteMalformed`; `NoteUnverified` when a line in the name of one of them is not his.
    """
    read = read_note(note)
    keys = {(each.name, each.id): each for each in known}
    found: dict[CosignerKey, Cosignature] = {}
    for name, key_id, made in read.signatures:
        key = keys.get((name, key_id))
        if key is None:
            continue
        if len(made) != _TIME.size + SIGNATURE_BYTES:
            raise NoteUnverified(f"the cosignature of {key.label} is not one")
        (seconds,) = _TIME.unpack_from(made)
        if seconds > MAX_SECONDS or not _fits(key, read.text, seconds, made[_TIME.size :]):
            raise NoteUnverified(f"the cosignature of {key.label} does not fit the text")
        found[key] = Cosignature(key, seconds)
    return list(found.values())


def _fits(key: CosignerKey, text: str, seconds: int, signature: bytes) -> bool:
    return Verifier(key.name, key.public).verifies(_statement(text, seconds), signature)


def _statement(text: str, seconds: int) -> str:
    return f"cosignature/v1\ntime {seconds}\n{text}"
