"""A line of records.jsonl: a record in the form that the importer reads (`record_to_json`), and what its leaf is computed from.

    {… the fields of `record_to_json` …, "proof_text": …, "erased_by": …, "withheld": …, "leaf": {"hash": …, "kept": …, "commitment": …, "salt": …}}

Every line has exactly one encoding: a line that was read is encoded again and compared, so nothing can be added that no
check looks at. Hashes are base64. Of an erased record only the leaf remains; `erased_by` is the record that erased it.
"""

from __future__ import annotations

import base64
import json
from typing import NamedTuple

import msgspec

from tracker.domain.deliveries import Origin, Record
from tracker.domain.record_json import record_to_json, parse_micros
from tracker.errors import BundleUnreadable
from tracker.log.merkle.hashing import HASH_BYTES, leaf_hash
from tracker.log.merkle.leaf import compute_commitment, leaf_bytes, stored_digest
from tracker.log.merkle.note import decode_base64
from tracker.log.contract import StoredLeaf

POSITION_LIMIT = 2**63
"""Positions are below this."""
MAX_PROOF_BYTES = 1024 * 1024


class RecordLine(NamedTuple):
    """A record and its leaf. `is_withheld`: proof and body are left out, because the reader may not see them."""

    record: Record
    leaf: StoredLeaf
    is_withheld: bool = False

    @property
    def has_bytes(self) -> bool:
        """Whether the line has the original proof and body."""
        return self.record.erased_by is None and not self.is_withheld


class _Leaf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    hash: str
    kept: str
    commitment: str | None
    salt: str | None


class _JsonLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    position: int
    source: str
    vendor: str
    event: str
    dedupe_key: str
    received_at: str
    origin: Origin
    proof: msgspec.Raw
    body_text: str | None = None
    body_b64: str | None = None
    proof_text: str
    erased_by: int | None
    withheld: bool
    leaf: _Leaf


_decode = msgspec.json.Decoder(_JsonLine).decode


def encode_line(line: RecordLine) -> bytes:
    """The line as bytes, with its newline. Raises `ValueError` if the proof is no JSON."""
    record, leaf = line.record, line.leaf
    fields = record_to_json(record) | {
        "proof_text": record.proof.decode("utf-8"),
        "erased_by": record.erased_by,
        "withheld": line.is_withheld,
        "leaf": {
            "hash": _encoded(leaf.hash),
            "kept": _encoded(leaf.digest),
            "commitment": _encoded(leaf.commitment),
            "salt": _encoded(leaf.salt),
        },
    }
    return msgspec.json.encode(fields) + b"\n"


def decode_line(line_bytes: bytes) -> RecordLine:
    """Decode a line. Raises `BundleUnreadable` unless it is exactly what `encode_line` writes."""
    try:
        fields = _decode(line_bytes)
        body = fields.body_text.encode() if fields.body_text is not None else base64.b64decode(fields.body_b64 or "")
        proof, leaf = fields.proof_text.encode(), fields.leaf
        if not 0 < fields.position < POSITION_LIMIT or len(proof) > MAX_PROOF_BYTES:
            raise ValueError("its position or proof is out of bounds")
        record = Record(
            position=fields.position,
            source=fields.source,
            vendor=fields.vendor,
            event=fields.event,
            dedupe_key=fields.dedupe_key,
            received_at=parse_micros(fields.received_at),
            origin=fields.origin,
            proof=proof,
            body=body,
            erased_by=fields.erased_by,
        )
        stored_leaf = StoredLeaf(
            fields.position,
            _hash(leaf.hash),
            _hash(leaf.kept),
            None if leaf.commitment is None else _hash(leaf.commitment),
            None if leaf.salt is None else _bytes(leaf.salt),
        )
        line = RecordLine(record, stored_leaf, fields.withheld)
        is_canonical = encode_line(line) == line_bytes
    except (ValueError, RecursionError, OverflowError) as error:
        raise BundleUnreadable(f"is no record of a bundle: {str(error)[:200]}") from None
    if not is_canonical:
        raise BundleUnreadable("is not encoded as Tracker encodes it: something in it was changed, added or removed")
    return line


def leaf_faults(line: RecordLine) -> list[str]:
    """What in a line does not match its own leaf, in words; empty if everything matches."""
    record, leaf = line.record, line.leaf
    found: list[str] = []
    if line.has_bytes:
        if leaf.commitment is None:
            if leaf.digest != stored_digest(record.proof, record.body):
                found.append("its body or proof does not match its leaf")
        elif leaf.salt is None:
            found.append("its salt is missing: body and proof cannot be compared with its leaf")
        elif compute_commitment(leaf.salt, record.proof, record.body) != leaf.commitment:
            found.append("its body, proof or salt does not match its leaf")
    elif record.body or json.loads(record.proof) != {} or leaf.salt is not None:
        found.append("it is marked as erased or withheld, but has a body, proof or salt")
    computed = leaf_hash(
        leaf_bytes(
            record.position, record.source, record.vendor, record.event, record.dedupe_key, record.received_at,
            record.origin, leaf.digest, leaf.commitment or b"",
        )
    )  # fmt: skip
    if computed != leaf.hash:
        found.append("its fields do not match its leaf: a field, a digest or the leaf was changed")
    return found


def _encoded(found: bytes | None) -> str | None:
    return None if found is None else base64.b64encode(found).decode()


def _bytes(text: str) -> bytes:
    found = decode_base64(text)
    if found is None:
        raise ValueError("invalid or non-canonical base64")
    return found


def _hash(text: str) -> bytes:
    found = _bytes(text)
    if len(found) != HASH_BYTES:
        raise ValueError(f"a hash must have {HASH_BYTES} bytes")
    return found
