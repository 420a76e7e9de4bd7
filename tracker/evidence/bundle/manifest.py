"""The files of an evidence bundle: their names, their size limits, and the JSON types of manifest.json and proofs.json.

    manifest.json    names the session and the SHA-256 of every other file
    manifest.sig     a signed note about the SHA-256 of manifest.json (missing if the node has no readable key)
    records.jsonl    one record per line: an envelope and its leaf (`record_lines.py`); erasure records come last
    proofs.json      for each line, the proof that its leaf is in the tree
    timeline.json    what Tracker derives from the records, as the API answers it
    checkpoint.txt   the signed note about that tree        (missing if nobody signs the log)
    key.txt          the public keys of checkpoints         (likewise)
    README.html      all of it for people

The README names the digest of the manifest without the README's own entry, and the manifest has the README's digest: a
change of one shows in the other.

Bundles of format 1 have no manifest.sig, and no page version in their manifest. They can still be read.
"""

from __future__ import annotations

import hashlib

import msgspec

from tracker.domain.record_json import format_micros
from tracker.domain.rows import SessionRow

FORMAT_1, FORMAT = "tracker/evidence-bundle/1", "tracker/evidence-bundle/2"
PAGE_1 = 1
"""The README's version in bundles of format 1."""
MANIFEST, RECORDS, PROOFS, TIMELINE = "manifest.json", "records.jsonl", "proofs.json", "timeline.json"
CHECKPOINT, KEY, README, SIGNATURE = "checkpoint.txt", "key.txt", "README.html", "manifest.sig"

SMALL_BYTES = 64 * 1024
MAX_IN_MEMORY_BYTES = 128 * 1024 * 1024
MAX_BYTES = {
    MANIFEST: 1024 * 1024,
    RECORDS: 2 * 1024**3 - 1,
    PROOFS: MAX_IN_MEMORY_BYTES,
    TIMELINE: MAX_IN_MEMORY_BYTES,
    CHECKPOINT: SMALL_BYTES,
    KEY: SMALL_BYTES,
    README: MAX_IN_MEMORY_BYTES,
    SIGNATURE: SMALL_BYTES,
}
"""Every file a bundle may have, and its size limit in bytes. A zip with larger files would need extra fields."""
MAX_LINE_BYTES = 32 * 1024 * 1024
"""The longest line of a file."""

REQUIRED = (MANIFEST, RECORDS, PROOFS, TIMELINE, README)
PARTS = ("participants", "connections", "streams", "recordings", "supervisor_sessions", "timeline")
"""The lists in timeline.json, after `session`."""


class WriterVersion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The Tracker that wrote the bundle, the `VIEWS_VERSION` of its timeline, the `PAGE_VERSION` of its README."""

    version: str
    reading: int
    page: int = PAGE_1


class SessionIdentity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The session that the bundle is about."""

    id: str
    source: str
    vendor: str


class Tree(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The tree that the proofs lead to; `root` in base64. `why_unsigned` is None if checkpoint.txt signs it."""

    size: int
    root: str
    why_unsigned: str | None


class InferredEnd(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A session end that no record reports; a rule inferred it, possibly from records outside the bundle. Times have µs.

    `at` is the last sign of life, `not_after` when the session was certainly over.
    """

    at: str
    reason: str
    not_after: str | None = None


def inferred_end(row: SessionRow) -> InferredEnd | None:
    """The inferred end of a session; None if it is open or its end is not inferred."""
    if row.end is None or row.end.provenance != "inferred" or row.ended_at is None:
        return None
    not_after = None if row.end.not_after is None else format_micros(row.end.not_after)
    return InferredEnd(at=format_micros(row.ended_at), reason=row.end.reason, not_after=not_after)


class ReadingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the timeline depends on besides the records.

    `hidden`: fields the operator shows to nobody. `stuck_after_ms`: silence after which an open session counts as stuck.
    """

    hidden: list[str]
    stuck_after_ms: int
    inferred_end: InferredEnd | None


class Member(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the bundle; `sha256` in hex."""

    name: str
    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """manifest.json. `declarations`, `records` and `erasures` count lines of records.jsonl, in this order. `made_at` is the server's time, with µs.

    `withheld`: positions of erasure records that are left out because they name sources the reader may not see.
    `unbound` counts records of the session whose proof does not cover the body. `entries` counts timeline entries. `why_unsigned` is None if manifest.sig signs the manifest.
    """

    format: str
    made_at: str
    tracker: WriterVersion
    session: SessionIdentity
    records: int
    erasures: int
    withheld: list[int]
    entries: int
    tree: Tree
    reading: ReadingSettings
    files: list[Member]
    declarations: int = 0
    unbound: int = 0
    why_unsigned: str | None = None

    @property
    def lines(self) -> int:
        """How many lines records.jsonl has."""
        return self.declarations + self.records + self.erasures


class InclusionProof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The hashes (base64) from a record's leaf to the root, lowest first (RFC 9162, 2.1.3.1)."""

    position: int
    hashes: list[str]


PROOFS_END = b"]}\n"


def proofs_start(size: int, root: str) -> bytes:
    """How proofs.json begins: the size and root (base64) of the tree. The proofs follow, then `PROOFS_END`."""
    return b'{"size":%d,"root":%s,"inclusion":[' % (size, msgspec.json.encode(root))


def proof_piece(proof: InclusionProof, n: int) -> bytes:
    """The proof with this number (from 0) in proofs.json."""
    return (b",\n" if n else b"\n") + msgspec.json.encode(proof)


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of manifest.json. Every manifest has exactly one encoding."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def signed_text(origin: str, manifest: bytes) -> str:
    """The text of manifest.sig: it signs these bytes of manifest.json as those of a bundle of the log named `origin`.

    The digest is hex: in base64, the text could be read as a checkpoint.
    """
    return f"{FORMAT}\n{origin}\n{hashlib.sha256(manifest).hexdigest()}\n"


def digest_without_readme(manifest: Manifest) -> str:
    """The SHA-256 (hex) of the manifest without the README's entry, as the README names it."""
    rest = [each for each in manifest.files if each.name != README]
    return hashlib.sha256(encode_manifest(msgspec.structs.replace(manifest, files=rest))).hexdigest()
