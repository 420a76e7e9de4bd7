r"""The leaf of a record: every field an auditor relies on, framed so that no two records have the same bytes.

    leaf = "tracker/leaf/v1\n" then, each behind its length (4 bytes, big-endian):
           position (8 bytes, big-endian) · source · vendor · event · dedupe_key (UTF-8) ·
           received_at (8 bytes, big-endian, µs since 1970, signed) · origin (UTF-8) ·
           kept (32 bytes) · commitment (32 bytes, or empty where the record is kept in clear)

    framed(proof, body) = length of proof (8 bytes, big-endian) · proof · body
    kept                = SHA-256 of framed(proof, body) as they stand in the log: sealed, or in clear
    commitment          = HMAC-SHA256 with the record's salt over framed(proof, body) in clear

With salt and bytes anyone can check the commitment; without the salt (it goes when a record is erased) nothing can be
guessed from it. The leaf's hash is SHA-256 of 0x00 and the leaf. docs/explanation/evidence.md says the same for other languages.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import struct

from tracker.log.merkle.hashing import leaf_hash

PREFIX = b"tracker/leaf/v1\n"
_LENGTH = struct.Struct(">I")
_POSITION = struct.Struct(">IQ")
_MOMENT = struct.Struct(">Iq")
_FRAME = struct.Struct(">Q")


def framed(proof: bytes, body: bytes) -> bytes:
    """Both in one, so that no byte can move from one to the other."""
    return _FRAME.pack(len(proof)) + proof + body


def stored_digest(proof: bytes, body: bytes) -> bytes:
    """SHA-256 of what stands in the log."""
    return hashlib.sha256(framed(proof, body)).digest()


def compute_commitment(salt: bytes, proof: bytes, body: bytes) -> bytes:
    """What a sealed record says about its plain bytes."""
    return hmac.digest(salt, framed(proof, body), "sha256")


def leaf_bytes(
    position: int,
    source: str,
    vendor: str,
    event: str,
    dedupe_key: str,
    received_at: int,
    origin: str,
    kept: bytes,
    commitment: bytes = b"",
) -> bytes:
    """The bytes of a leaf."""
    return b"".join((
        PREFIX, _POSITION.pack(8, position),
        _text(source), _text(vendor), _piece(event.encode()), _piece(dedupe_key.encode()),
        _MOMENT.pack(8, received_at),
        _text(origin), _piece(kept), _piece(commitment),
    ))  # fmt: skip


def _piece(piece: bytes) -> bytes:
    return _LENGTH.pack(len(piece)) + piece


@functools.lru_cache(maxsize=1024)
def _text(text: str) -> bytes:
    # Names from config.toml and our own words: never what a sender chose.
    return _piece(text.encode())


def record_leaf_hash(
    position: int,
    source: str,
    vendor: str,
    event: str,
    dedupe_key: str,
    received_at: int,
    origin: str,
    proof: bytes,
    body: bytes,
    commitment: bytes | None = None,
) -> bytes:
    """The hash of the leaf of a record as it stands in the log (`proof` and `body` sealed, or in clear)."""
    kept = stored_digest(proof, body)
    return leaf_hash(
        leaf_bytes(position, source, vendor, event, dedupe_key, received_at, origin, kept, commitment or b"")
    )
