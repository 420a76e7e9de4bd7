"""Checks the records of a bundle one by one while they are unpacked: leaf, order, names, the sender's proof.

Only lines that are valid records go into the unpacked log. An erased record must be named by an erasure record that is in
the bundle too, with a leaf of its own. Memory: one line, and 40 bytes for each record.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from enum import Enum

import msgspec

from tracker.domain.deliveries import KEY_LOST, TRACKER, Record
from tracker.errors import BundleUnreadable
from tracker.evidence.bundle.findings import Findings
from tracker.evidence.bundle.manifest import (
    PROOFS, PROOFS_END, RECORDS, InclusionProof, Manifest, proof_piece, proofs_start,
)  # fmt: skip
from tracker.evidence.bundle.record_lines import RecordLine, decode_line, leaf_faults
from tracker.evidence.bundle.unpacked_log import UnpackedLog
from tracker.evidence.bundle.zip_reader import OpenBundle, decoded, is_plausible
from tracker.evidence.proof_schemes import covers_body
from tracker.evidence.sources_in_force import SourcesInForce
from tracker.evidence.verify_records import KEYED_HASH_PREFIX, naming_faults, recheck_proof
from tracker.log.declaration_records import (
    EVENT as DECLARATION_EVENT,
    Declared,
    DeclarationHistory,
    read_declaration_record,
)
from tracker.log.erasure_records import EVENT, ErasureBody
from tracker.log.merkle.hashing import HASH_BYTES
from tracker.log.merkle.note import decode_base64
from tracker.log.merkle.tree import inclusion_root
from tracker.sources import registry
from tracker.sources.contract import Source
from tracker.sources.declared.reading import DeclarationWrong, read_declaration

PROGRESS_LINES = 100
"""Progress is reported after this many lines."""
MAX_PROOF_BYTES = 4096
"""A proof in proofs.json has at most 63 hashes."""

Progress = Callable[[int, int], None]
"""(lines read, lines in all)"""


class Leaves:
    """The positions and leaf hashes of the lines, in order."""

    def __init__(self) -> None:
        self.positions = array("q")
        self._hashes = bytearray()

    def add(self, position: int, leaf: bytes) -> None:
        """Add the leaf of the next line."""
        self.positions.append(position)
        self._hashes += leaf

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        for n, position in enumerate(self.positions):
            yield position, bytes(self._hashes[n * HASH_BYTES : (n + 1) * HASH_BYTES])


class _Part(Enum):
    """The parts of records.jsonl, in their order."""

    DECLARATION = "declaration record"
    SESSION = "record"
    ERASURE = "erasure record"


def _part_of(record: Record) -> _Part:
    if record.vendor != TRACKER:
        return _Part.SESSION
    return {EVENT: _Part.ERASURE, DECLARATION_EVENT: _Part.DECLARATION}.get(record.event, _Part.SESSION)


class RecordsResult(msgspec.Struct, kw_only=True):
    """What was read. `leaves`: of each line that is a record.

    `proofs` counts the outcomes of the senders' proofs. `erased` counts erased records, `keyed` those whose dedupe key is
    hashed with a secret. `unproved`: those of them whose
    erasure was withheld, so that nothing in the bundle says that it names them. `unknown_vendors`: vendors of records whose
    names cannot be checked. `history`: the declarations in the bundle. `is_complete`: every line is a record in its place, so
    that a timeline can be derived.
    """

    leaves: Leaves = msgspec.field(default_factory=Leaves)
    proofs: Counter[str] = msgspec.field(default_factory=Counter[str])
    erased: int = 0
    keyed: int = 0
    unproved: list[int] = []
    unknown_vendors: set[str] = set()
    is_complete: bool = False
    history: DeclarationHistory = msgspec.field(default_factory=DeclarationHistory)


def check_records(
    bundle: OpenBundle,
    manifest: Manifest,
    log: UnpackedLog,
    sources: Mapping[str, Source] | None,
    findings: Findings,
    progress: Progress | None = None,
) -> RecordsResult:
    """Check every record and add it to `log`. Problems are those of the checks `records`, `names` and `vendors`.

    Raises `TooManyProblems`.
    """
    return _RecordChecker(manifest, log, sources, findings).run(bundle, progress)


def check_inclusion(bundle: OpenBundle, manifest: Manifest, leaves: Leaves, findings: Findings) -> None:
    """Check the proofs that each leaf is in the tree the manifest names. Raises `TooManyProblems`."""
    if bundle.sizes.get(PROOFS, 0) > MAX_PROOF_BYTES * (len(leaves) + 1):
        findings.add("inclusion", f"{PROOFS} is larger than the proofs of {len(leaves)} records")
        return
    try:
        content = bundle.content(PROOFS)
        if content.count(b"{") > len(leaves) + 2:
            findings.add("inclusion", f"{PROOFS} has more proofs than there are records")
            return
        proofs = decoded(content, _Proofs, PROOFS)
        by_position = _proofs_by_position(proofs, content, leaves, findings)
    except BundleUnreadable as error:
        findings.add("inclusion", str(error))
        return
    size, root = manifest.tree.size, decode_base64(manifest.tree.root)
    if (proofs.size, proofs.root) != (manifest.tree.size, manifest.tree.root):
        findings.add("inclusion", f"{PROOFS} is about a different tree than the manifest names")
    for position, leaf in leaves:
        raw = by_position.get(position)
        if raw is None:
            findings.add("inclusion", f"position {position}: no proof that the record is in the log")
            continue
        hashes = [decode_base64(text) for text in _decode_proof(raw).hashes]
        valid = [each for each in hashes if each is not None]
        if len(valid) != len(hashes) or inclusion_root(position - 1, size, leaf, valid) != root:
            findings.add("inclusion", f"position {position}: its leaf is not in the tree, or the proof was changed")


class _Proofs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """proofs.json, with each proof still undecoded."""

    size: int
    root: str
    inclusion: list[msgspec.Raw]


_decode_proof = msgspec.json.Decoder(InclusionProof).decode


def _proofs_by_position(
    proofs: _Proofs, content: bytearray, leaves: Leaves, findings: Findings
) -> dict[int, msgspec.Raw]:
    """The proofs by position. Raises `BundleUnreadable`."""
    found: dict[int, msgspec.Raw] = {}
    as_written = hashlib.sha256(proofs_start(proofs.size, proofs.root))
    for n, raw in enumerate(proofs.inclusion):
        try:
            proof = _decode_proof(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BundleUnreadable(f"{PROOFS} is malformed: {str(error)[:300]}") from None
        as_written.update(proof_piece(proof, n))
        found[proof.position] = raw
    if list(found) != list(leaves.positions) or len(found) != len(proofs.inclusion):
        findings.add(
            "inclusion", f"{PROOFS} does not match the records: a record or a proof was added, removed or moved"
        )
    as_written.update(PROOFS_END)
    if as_written.digest() != hashlib.sha256(content).digest():
        findings.add("inclusion", f"{PROOFS} is not encoded as Tracker encodes it: it was edited")
    return found


class _RecordChecker:
    def __init__(
        self, manifest: Manifest, log: UnpackedLog, sources: Mapping[str, Source] | None, findings: Findings
    ) -> None:
        self._manifest = manifest
        self._log = log
        self._configured = sources or {}
        self._findings = findings
        self._erased: dict[int, int] = {}
        self._erasures: dict[int, frozenset[int]] = {}
        self._withheld: list[int] = []
        self._unbound = 0
        self._counts = dict.fromkeys(_Part, 0)
        self.result = RecordsResult()
        self._sources = SourcesInForce(self._configured, self.result.history)

    def run(self, bundle: OpenBundle, progress: Progress | None) -> RecordsResult:
        result, number = self.result, 0
        try:
            for number, line_bytes in enumerate(bundle.lines(RECORDS), 1):
                self._check_line(line_bytes, f"line {number} of {RECORDS}")
                if progress is not None and number % PROGRESS_LINES == 0:
                    progress(number, max(number, self._manifest.lines))
            result.is_complete = self._log.records == number
        except BundleUnreadable as error:
            self._findings.add("records", str(error))
        self._compare_counts()
        self._compare_erasures()
        result.erased = len(self._erased)
        return result

    def _check_line(self, line_bytes: bytes, where: str) -> None:
        try:
            line = decode_line(line_bytes)
        except BundleUnreadable as error:
            self._findings.add("records", f"{where} {error}")
            return
        record = line.record
        part = _part_of(record)
        is_in_order = self._check_order(record, part)
        session = self._manifest.session
        if part is not _Part.SESSION and record.source != TRACKER:
            self._add_problem(record.position, f"this {part.value} has the name of a source, which no log has")
        elif part is _Part.SESSION and (record.source, record.vendor) != (session.source, session.vendor):
            self._add_problem(record.position, "it is from another source than the session")
        for fault in leaf_faults(line):
            self._add_problem(record.position, fault)
        self.result.leaves.add(record.position, line.leaf.hash)
        self._counts[part] += 1
        check = {
            _Part.DECLARATION: self._check_declaration,
            _Part.SESSION: self._check_delivery,
            _Part.ERASURE: self._check_erasure,
        }[part]
        is_readable = check(line)
        if is_in_order and is_readable:
            self._log.add(record.position, line_bytes, is_of_session=part is _Part.SESSION)

    def _check_order(self, record: Record, part: _Part) -> bool:
        """Whether the line is in its place: declarations, then the session's records, then erasures; each ascending."""
        last = self.result.leaves.positions[-1] if self.result.leaves else 0
        order = list(_Part)
        later = [each for each in order[order.index(part) + 1 :] if self._counts[each]]
        if later:
            self._add_problem(record.position, f"it comes after the {later[0].value}s: it was moved or added")
        elif record.position <= last and self._counts[part]:
            self._add_problem(record.position, f"it comes after position {last}: records were swapped or repeated")
        else:
            return True
        return False

    def _check_declaration(self, line: RecordLine) -> bool:
        """Check a declaration record. Returns whether it can be read; then it names and interprets the records."""
        position, session = line.record.position, self._manifest.session
        body = None if line.is_withheld else read_declaration_record(line.record)
        if body is None or body.source != session.source:
            self._add_problem(position, "it is no declaration of the session's source")
            return False
        try:
            read_declaration(body.declaration)
        except DeclarationWrong as error:
            self._add_problem(position, f"its declaration has mistakes: {error.mistakes[0]}")
            return False
        before = self.result.history.of_source.get(session.source, ())
        self.result.history = DeclarationHistory({session.source: (*before, Declared(position, body.declaration))})
        self._sources = SourcesInForce(self._configured, self.result.history)
        return True

    def _check_delivery(self, line: RecordLine) -> bool:
        """Check a record of the session. Returns whether it can be interpreted."""
        record = line.record
        if record.erased_by is not None:
            self._erased[record.position] = record.erased_by
            if line.leaf.commitment is None:
                self._add_problem(record.position, "it is unencrypted, so nothing erased it: its bytes were left out")
        elif line.is_withheld:
            self._add_problem(record.position, "it is marked as withheld, which only erasure records can be")
            return False
        elif not is_plausible(record.body):
            self._add_problem(record.position, "its body has very many tiny values: it was made to fill the memory")
            return False
        elif record.vendor not in registry.VENDORS:
            self.result.unknown_vendors.add(record.vendor[:80])
        self._unbound += not covers_body(record)
        self.result.keyed += record.dedupe_key.startswith(KEYED_HASH_PREFIX)
        for fault in naming_faults(record, self._sources):
            self._findings.add("names", f"position {record.position}: {fault}")
        outcome, wrong = recheck_proof(record, self._sources)
        self.result.proofs[outcome] += 1
        if wrong is not None:
            self._findings.add("vendors", f"position {record.position}: {wrong}")
        return True

    def _check_erasure(self, line: RecordLine) -> bool:
        """Check an erasure record. Returns whether it can be read; a withheld one counts as read."""
        position = line.record.position
        if line.is_withheld:
            self._withheld.append(position)
            return True
        if line.record.erased_by is not None:
            self._add_problem(position, "this erasure was erased by a later one, which must be in the bundle instead")
            return False
        try:
            erasure = decoded(line.record.body, ErasureBody, "it is no valid erasure record: its body")
        except BundleUnreadable as error:
            self._add_problem(position, str(error))
            return False
        self._erasures[position] = frozenset(each.position for each in erasure.erased)
        return True

    def _compare_counts(self) -> None:
        manifest = self._manifest
        stated = {
            _Part.DECLARATION: manifest.declarations,
            _Part.SESSION: manifest.records,
            _Part.ERASURE: manifest.erasures,
        }
        if self._counts != stated:
            found = ", ".join(f"{count} {part.value}s" for part, count in self._counts.items())
            expected = ", ".join(str(count) for count in stated.values())
            self._findings.add("records", f"the bundle has {found}; the manifest counts {expected}")
        if self._unbound != manifest.unbound:
            self._findings.add(
                "records",
                f"the proofs of {self._unbound} records do not cover their body, the manifest counts {manifest.unbound}",
            )
        if self._withheld != manifest.withheld:
            self._findings.add("records", "the withheld erasures are not those in the manifest")

    def _compare_erasures(self) -> None:
        """Each erased record must be named by an erasure in the bundle, and each erasure must name one of them."""
        for position, by in self._erased.items():
            if by == KEY_LOST:
                self._add_problem(
                    position, "it has no body, and no record says that it was erased: its data key was lost or withheld"
                )
            elif by <= position:
                self._add_problem(position, f"the erasure at position {by} is older than it")
            elif by in self._withheld:
                self.result.unproved.append(position)
            elif by not in self._erasures:
                self._add_problem(position, f"the erasure at position {by} is not in this bundle")
            elif position not in self._erasures[by]:
                self._add_problem(position, f"the erasure at position {by} does not name it")
        for position in sorted({*self._erasures, *self._withheld} - set(self._erased.values())):
            self._add_problem(position, "this erasure names none of the records in the bundle")
        named = frozenset[int]().union(*self._erasures.values())
        for position in self.result.leaves.positions:
            if position in named and position not in self._erased:
                self._add_problem(position, "an erasure in this bundle erased it, but its bytes are here")

    def _add_problem(self, position: int, what: str) -> None:
        self._findings.add("records", f"position {position}: {what}")
