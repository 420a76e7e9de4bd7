"""What stands in an evidence bundle: its files by name, their bounds, and the JSON of those that say how to read it.

    manifest.json    what this is, and the SHA-256 of every other file
    records.jsonl    a line a record: an envelope and its leaf (`lines.py`); erasures that these depend on come last
    proofs.json      for each line, that its leaf is in the tree
    timeline.json    what Tracker reads from the records, as the API answers it
    checkpoint.txt   the signed note about that tree        (not in a bundle of a log that nobody signs)
    key.txt          the public keys of checkpoints          (likewise)
    README.html      all of it in plain words

The README names the digest of the manifest without the README's own line; so each of the two fixes the other.
"""

from __future__ import annotations

import hashlib

import msgspec

FORMAT = "tracker/evidence-bundle/1"
MANIFEST, RECORDS, PROOFS, TIMELINE = "manifest.json", "records.jsonl", "proofs.json", "timeline.json"
CHECKPOINT, KEY, README = "checkpoint.txt", "key.txt", "README.html"

SMALL_BYTES = 64 * 1024
MAX_IN_MEMORY_BYTES = 128 * 1024 * 1024
MAX_BYTES = {
    MANIFEST: 1024 * 1024,
    RECORDS: 8 * 1024**3,
    PROOFS: MAX_IN_MEMORY_BYTES,
    TIMELINE: MAX_IN_MEMORY_BYTES,
    CHECKPOINT: SMALL_BYTES,
    KEY: SMALL_BYTES,
    README: MAX_IN_MEMORY_BYTES,
}
"""Every file that may be in a bundle, and how many bytes it may have. Only lines of records are not read at once."""

REQUIRED = (MANIFEST, RECORDS, PROOFS, TIMELINE, README)
PARTS = ("participants", "connections", "streams", "recordings", "supervisor_sessions", "timeline")
"""The lists of timeline.json, after `session`."""


class WriterVersion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which Tracker wrote the bundle, and which reading of the log its timeline is."""

    version: str
    reading: int


class SessionIdentity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose evidence it is."""

    id: str
    source: str
    vendor: str


class Tree(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The tree the proofs lead to; `root` in base64. `why_unsigned` None: checkpoint.txt is its signed note."""

    size: int
    root: str
    why_unsigned: str | None


class InferredEnd(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An end of the session that was worked out, perhaps from records that are not in the bundle. `at` with µs."""

    at: str
    reason: str


class ReadingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the timeline depends on besides the records.

    `hidden`: fields the operator lets nobody see. `stuck_after_ms`: silence after which an open session is called stuck.
    """

    hidden: list[str]
    stuck_after_ms: int
    inferred_end: InferredEnd | None


class Member(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the bundle; `sha256` in hex."""

    name: str
    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """manifest.json. `records` and `erasures` count lines of records.jsonl. `made_at` is the server's clock, with µs.

    `withheld`: positions of erasures whose bodies tell of sources the reader may not see.
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


class InclusionProof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The hashes (base64) from the leaf of a record to the root, lowest first (RFC 9162, 2.1.3.1)."""

    position: int
    hashes: list[str]


class Proofs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """proofs.json: `size` and `root` are those of the tree."""

    size: int
    root: str
    inclusion: list[InclusionProof]


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of manifest.json: there is one spelling."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def digest_without_readme(manifest: Manifest) -> str:
    """What the README names: the SHA-256 (hex) of the manifest without the README's own line."""
    rest = [each for each in manifest.files if each.name != README]
    return hashlib.sha256(encode_manifest(msgspec.structs.replace(manifest, files=rest))).hexdigest()
