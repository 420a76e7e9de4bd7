"""A line of records.jsonl: a record as the importer reads it, and what is needed to compute its leaf.

    {…envelope…, "proof_text": …, "erased_by": …, "withheld": …, "leaf": {"hash": …, "kept": …, "commitment": …, "salt": …}}

There is one spelling: what is read is written again and compared, so nothing can be added that nobody looks at. Hashes
are base64. Of an erased record only the leaf is left; what it said is in the record at `erased_by`.
"""

from __future__ import annotations

import base64
import json
from typing import NamedTuple

import msgspec

from tracker.domain.deliveries import Origin, Record
from tracker.domain.record_json import envelope, exact_micros
from tracker.errors import BundleUnreadable
from tracker.log.merkle.hashing import HASH_BYTES, leaf_hash
from tracker.log.merkle.leaf import compute_commitment, stored_digest, leaf_bytes
from tracker.log.merkle.note import decode_base64
from tracker.log.contract import StoredLeaf

POSITION_LIMIT = 2**63
MAX_PROOF_BYTES = 1024 * 1024


class RecordLine(NamedTuple):
    """A record and its leaf; `is_withheld`: its bytes are left out, because they tell of what the reader may not see."""

    record: Record
    leaf: StoredLeaf
    is_withheld: bool = False

    @property
    def has_bytes(self) -> bool:
        """Whether proof and body are here as they came."""
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


_read = msgspec.json.Decoder(_JsonLine).decode


def encode_line(line: RecordLine) -> bytes:
    """The bytes of the line, with its newline. Raises `ValueError` where the proof is no JSON."""
    record, leaf = line.record, line.leaf
    told = envelope(record) | {
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
    return msgspec.json.encode(told) + b"\n"


def decode_line(written: bytes) -> RecordLine:
    """The line these bytes are. Raises `BundleUnreadable` for anything `write_line` would write otherwise."""
    try:
        told = _read(written)
        body = told.body_text.encode() if told.body_text is not None else base64.b64decode(told.body_b64 or "")
        proof, leaf = told.proof_text.encode(), told.leaf
        if not 0 < told.position < POSITION_LIMIT or len(proof) > MAX_PROOF_BYTES:
            raise ValueError("its position or its proof is nothing a log holds")
        record = Record(
            position=told.position,
            source=told.source,
            vendor=told.vendor,
            event=told.event,
            dedupe_key=told.dedupe_key,
            received_at=exact_micros(told.received_at),
            origin=told.origin,
            proof=proof,
            body=body,
            erased_by=told.erased_by,
        )
        kept = StoredLeaf(
            told.position,
            _hash(leaf.hash),
            _hash(leaf.kept),
            None if leaf.commitment is None else _hash(leaf.commitment),
            None if leaf.salt is None else _bytes(leaf.salt),
        )
        line = RecordLine(record, kept, told.withheld)
        same = encode_line(line) == written
    except (ValueError, RecursionError, OverflowError) as error:
        raise BundleUnreadable(f"is no record of a bundle: {str(error)[:200]}") from None
    if not same:
        raise BundleUnreadable("is not written as Tracker writes it: something in it was changed, added or left out")
    return line


def leaf_faults(line: RecordLine) -> list[str]:
    """What of a line does not fit its own leaf, in words; empty when all of it does."""
    record, leaf = line.record, line.leaf
    found: list[str] = []
    if line.has_bytes:
        if leaf.commitment is None:
            if leaf.digest != stored_digest(record.proof, record.body):
                found.append("its body or proof is not what its leaf was made of")
        elif leaf.salt is None:
            found.append("its salt is missing: body and proof cannot be compared with its leaf")
        elif compute_commitment(leaf.salt, record.proof, record.body) != leaf.commitment:
            found.append("its body, proof or salt is not what its leaf was made of")
    elif record.body or json.loads(record.proof) != {} or leaf.salt is not None:
        found.append("it is said to be erased or withheld, and has bytes all the same")
    made = leaf_hash(
        leaf_bytes(
            record.position, record.source, record.vendor, record.event, record.dedupe_key, record.received_at,
            record.origin, leaf.digest, leaf.commitment or b"",
        )
    )  # fmt: skip
    if made != leaf.hash:
        found.append("its fields do not make its leaf: a field, a digest or the leaf was changed")
    return found


def _encoded(found: bytes | None) -> str | None:
    return None if found is None else base64.b64encode(found).decode()


def _bytes(text: str) -> bytes:
    found = decode_base64(text)
    if found is None:
        raise ValueError("base64 has one spelling")
    return found


def _hash(text: str) -> bytes:
    found = _bytes(text)
    if len(found) != HASH_BYTES:
        raise ValueError("a hash has 32 bytes")
    return found
