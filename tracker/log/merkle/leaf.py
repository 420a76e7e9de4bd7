r"""The leaf of a record: every field an auditor relies on, framed so that no two records have the same bytes.

    leaf = "tracker/leaf/v1\n" then, each behind its length (4 bytes, big-endian):
           position (8 bytes, big-endian) · source · vendor · event · dedupe_key (UTF-8) ·
           received_at (8 bytes, big-endian, µs since 1970, signed) · origin (UTF-8) ·
           kept (32 bytes) · commitment (32 bytes, or empty where the record is not encrypted)

    framed(proof, body) = length of proof (8 bytes, big-endian) · proof · body
    kept                = SHA-256 of framed(proof, body) as they are stored: encrypted, or plain
    commitment          = HMAC-SHA256 with the record's salt over the plain framed(proof, body)

With salt and bytes anyone can check the commitment. Without the salt, which is destroyed when a record is erased, nothing
can be guessed from it. The leaf's hash is SHA-256 of 0x00 and the leaf. docs/explanation/evidence.md specifies the same for other
languages.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import struct
from collections.abc import Iterable

from tracker.log.merkle.hashing import leaf_hash

PREFIX = b"tracker/leaf/v1\n"
StoredFields = tuple[int, str, str, str, str, int, str, bytes, bytes, bytes | None, bytes | None]
"""position, source, vendor, event, dedupe_key, received_at, origin, proof, body, (stored leaf), commitment"""

_LENGTH = struct.Struct(">I")
_POSITION = struct.Struct(">IQ")
_TIME = struct.Struct(">Iq")
_PROOF_LENGTH = struct.Struct(">Q")
_START = struct.Struct(f">{1 + len(PREFIX)}sIQ")
_NO_COMMITMENT = _LENGTH.pack(0)
_DIGEST_LENGTH = _LENGTH.pack(32)


def framed(proof: bytes, body: bytes) -> bytes:
    """Both as one byte string, so that no byte can move from one to the other."""
    return _PROOF_LENGTH.pack(len(proof)) + proof + body


def stored_digest(proof: bytes, body: bytes) -> bytes:
    """SHA-256 of proof and body as they are stored."""
    return hashlib.sha256(framed(proof, body)).digest()


def compute_commitment(salt: bytes, proof: bytes, body: bytes) -> bytes:
    """What the leaf of an encrypted record says about its plain bytes."""
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
    """The bytes of a leaf. `kept`: the digest of proof and body as they are stored."""
    return b"".join((
        PREFIX, _POSITION.pack(8, position),
        _with_length_cached(source), _with_length_cached(vendor), _with_length(event.encode()),
        _with_length(dedupe_key.encode()),
        _TIME.pack(8, received_at),
        _with_length_cached(origin), _with_length(kept), _with_length(commitment),
    ))  # fmt: skip


def _with_length(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


@functools.lru_cache(maxsize=1024)
def _with_length_cached(text: str) -> bytes:
    # Only for names from config.toml and our own words, never for what a sender chose.
    return _with_length(text.encode())


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
    """The hash of the leaf of a record as it is stored (`proof` and `body` encrypted, or plain)."""
    kept = stored_digest(proof, body)
    return leaf_hash(
        leaf_bytes(position, source, vendor, event, dedupe_key, received_at, origin, kept, commitment or b"")
    )


def record_leaf_hashes(records: Iterable[StoredFields]) -> list[bytes]:
    """The leaf hash of each record as it is stored, in order: for those who read a whole log.

    The same hashes as `record_leaf_hash`, twice as fast: what repeats from record to record (source, vendor, event, origin)
    is framed once. A test holds the two to each other.
    """
    names: dict[tuple[str, str, str], bytes] = {}
    origins: dict[str, bytes] = {}
    hashes: list[bytes] = []
    sha, start, length, time, proof_length = (
        hashlib.sha256, _START.pack, _LENGTH.pack, _TIME.pack, _PROOF_LENGTH.pack,
    )  # fmt: skip
    first = b"\x00" + PREFIX
    for position, source, vendor, event, dedupe_key, received_at, origin, proof, body, _, commitment in records:
        framed_names = names.get((source, vendor, event))
        if framed_names is None:
            framed_names = b"".join(_with_length(name.encode()) for name in (source, vendor, event))
            names[source, vendor, event] = framed_names
        framed_origin = origins.get(origin)
        if framed_origin is None:
            framed_origin = origins[origin] = _with_length(origin.encode()) + _DIGEST_LENGTH
        key = dedupe_key.encode()
        leaf = sha(
            start(first, 8, position) + framed_names + length(len(key)) + key + time(8, received_at) + framed_origin
            + sha(proof_length(len(proof)) + proof + body).digest()
            + (_NO_COMMITMENT if commitment is None else length(len(commitment)) + commitment)
        )  # fmt: skip
        hashes.append(leaf.digest())
    return hashes
