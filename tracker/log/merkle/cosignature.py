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

from tracker.errors import NoteUnverified
from tracker.log.merkle.note import SIGNATURE_PREFIX, Signer, Verifier, read_note

COSIGNATURE = b"\x04"
SIGNATURE_BYTES = 64
MAX_SECONDS = 2**63 - 1
_TIME = struct.Struct(">Q")


class CosignerKey(Verifier):
    """The public key of a cosigner, as text: name+hex(key id)+base64(0x04 ‖ public key)."""

    algorithm = COSIGNATURE
    kind = "cosigner's verifier key"

    @classmethod
    def from_signer(cls, signer: Signer) -> Self:
        """The cosigner that this private key makes."""
        return cls(signer.name, signer.verifier.public)


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
        if seconds > MAX_SECONDS or not key.verifies(_statement(read.text, seconds), signature[_TIME.size :]):
            raise NoteUnverified(f"the cosignature of {key.label} does not fit the text")
        found[key] = Cosignature(key, seconds)
    return list(found.values())


def _statement(text: str, seconds: int) -> str:
    return f"cosignature/v1\ntime {seconds}\n{text}"
