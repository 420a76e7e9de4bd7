"""The files of an evidence bundle: their names, their size limits, and the JSON types of manifest.json and proofs.json.

    manifest.json    names the session and the SHA-256 of every other file
    records.jsonl    one record per line: an envelope and its leaf (`record_lines.py`); erasure records come last
    proofs.json      for each line, the proof that its leaf is in the tree
    timeline.json    what Tracker derives from the records, as the API answers it
    checkpoint.txt   the signed note about that tree        (missing if nobody signs the log)
    key.txt          the public keys of checkpoints         (likewise)
    README.html      all of it for people

The README names the digest of the manifest without the README's own entry, and the manifest has the README's digest: a
change of one shows in the other.
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
"""Every file a bundle may have, and its size limit in bytes. All but records.jsonl are read into memory."""

REQUIRED = (MANIFEST, RECORDS, PROOFS, TIMELINE, README)
PARTS = ("participants", "connections", "streams", "recordings", "supervisor_sessions", "timeline")
"""The lists in timeline.json, after `session`."""


class WriterVersion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The Tracker that wrote the bundle: its version, and the `READING` (`views/contract`) of its timeline."""

    version: str
    reading: int


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


class InferredEnd(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A session end that no record reports; a rule inferred it, possibly from records outside the bundle. `at` has µs."""

    at: str
    reason: str


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


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """manifest.json. `records` and `erasures` count lines of records.jsonl. `made_at` is the server's time, with µs.

    `withheld`: positions of erasure records that are left out because they name sources the reader may not see.
    `entries` counts timeline entries.
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
    """The hashes (base64) from a record's leaf to the root, lowest first (RFC 9162, 2.1.3.1)."""

    position: int
    hashes: list[str]


class Proofs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """proofs.json. `size` and `root` are those of the tree."""

    size: int
    root: str
    inclusion: list[InclusionProof]


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of manifest.json. Every manifest has exactly one encoding."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def digest_without_readme(manifest: Manifest) -> str:
    """The SHA-256 (hex) of the manifest without the README's entry, as the README names it."""
    rest = [each for each in manifest.files if each.name != README]
    return hashlib.sha256(encode_manifest(msgspec.structs.replace(manifest, files=rest))).hexdigest()
