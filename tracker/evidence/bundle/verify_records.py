"""Checks the records of a bundle one by one while they are unpacked: leaf, order, names, the sender's proof.

Only lines that are valid records go into the unpacked log. An erased record must be named by an erasure record that is in
the bundle too, with a leaf of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import msgspec

from tracker.evidence.bundle.manifest import PROOFS, RECORDS, Manifest, Proofs
from tracker.evidence.bundle.record_lines import RecordLine, leaf_faults, decode_line
from tracker.evidence.bundle.zip_reader import OpenBundle
from tracker.evidence.bundle.unpacked_log import UnpackedLog
from tracker.domain.deliveries import KEY_LOST, TRACKER
from tracker.log.erasure_records import EVENT, ErasureBody
from tracker.errors import BundleUnreadable
from tracker.log.merkle.note import decode_base64
from tracker.log.merkle.tree import inclusion_root
from tracker.evidence.verify_records import naming_faults, recheck_proof
from tracker.sources.contract import Source

PROGRESS_LINES = 100
"""Progress is reported after this many lines."""

Progress = Callable[[int, int], None]
"""(lines read, lines in all)"""


class RecordsResult(msgspec.Struct, kw_only=True):
    """The result of checking the records. `leaves`: (position, leaf hash) of each line, in order.

    `problems` are about leaves and order, `names` about event names and dedupe keys, `wrong` about senders' proofs;
    `proofs` counts the outcomes of those. `is_complete`: every line is a record, so that a timeline can be derived.
    """

    leaves: list[tuple[int, bytes]] = []
    problems: list[str] = []
    names: list[str] = []
    wrong: list[str] = []
    proofs: Counter[str] = msgspec.field(default_factory=Counter[str])
    erased: int = 0
    is_complete: bool = False


def check_records(
    bundle: OpenBundle,
    manifest: Manifest,
    log: UnpackedLog,
    sources: Mapping[str, Source] | None,
    progress: Progress | None = None,
) -> RecordsResult:
    """Check every record and add it to `log`. Raises nothing about the records: see the result."""
    return _RecordChecker(manifest, log, sources).run(bundle, progress)


def check_inclusion(bundle: OpenBundle, manifest: Manifest, leaves: list[tuple[int, bytes]]) -> tuple[list[str], str]:
    """Check the proofs that each leaf is in the tree the manifest names. Returns (problems, what was found)."""
    try:
        proofs = bundle.decoded(PROOFS, Proofs)
    except BundleUnreadable as error:
        return [str(error)], ""
    size, root = manifest.tree.size, decode_base64(manifest.tree.root)
    found: list[str] = []
    if (proofs.size, proofs.root) != (manifest.tree.size, manifest.tree.root):
        found.append(f"{PROOFS} is about a different tree than the manifest names")
    if [each.position for each in proofs.inclusion] != [position for position, _ in leaves]:
        found.append(f"{PROOFS} does not match the records: a record or a proof was added, removed or moved")
    by_position = {each.position: each for each in proofs.inclusion}
    for position, leaf in leaves:
        proof = by_position.get(position)
        if proof is None:
            found.append(f"position {position}: no proof that the record is in the log")
            continue
        hashes = [decode_base64(text) for text in proof.hashes]
        valid = [each for each in hashes if each is not None]
        if len(valid) != len(hashes) or inclusion_root(position - 1, size, leaf, valid) != root:
            found.append(f"position {position}: its leaf is not in the tree, or the proof was changed")
    return found, f"{len(leaves)} leaves are in the tree of {size} records"


class _RecordChecker:
    def __init__(self, manifest: Manifest, log: UnpackedLog, sources: Mapping[str, Source] | None) -> None:
        self._manifest = manifest
        self._log = log
        self._sources = sources
        self._derived_sources: dict[tuple[str, str], Source] = {}
        self._erased: dict[int, int] = {}
        self._erasures: dict[int, frozenset[int]] = {}
        self._withheld: list[int] = []
        self._counts = [0, 0]  # records of the session, erasure records
        self.result = RecordsResult()

    def run(self, bundle: OpenBundle, progress: Progress | None) -> RecordsResult:
        result, number = self.result, 0
        try:
            for number, line_bytes in enumerate(bundle.lines(RECORDS), 1):
                self._check_line(line_bytes, f"line {number} of {RECORDS}")
                if progress is not None and number % PROGRESS_LINES == 0:
                    progress(number, max(number, self._manifest.records + self._manifest.erasures))
            result.is_complete = len(result.leaves) == number
        except BundleUnreadable as error:
            result.problems.append(str(error))
        self._compare_counts()
        self._compare_erasures()
        result.erased = len(self._erased)
        return result

    def _check_line(self, line_bytes: bytes, where: str) -> None:
        try:
            line = decode_line(line_bytes)
        except BundleUnreadable as error:
            self.result.problems.append(f"{where} {error}")
            return
        record = line.record
        is_erasure = record.vendor == TRACKER and record.event == EVENT
        last = self.result.leaves[-1][0] if self.result.leaves else 0
        begins_erasures = is_erasure and self._counts[True] == 0
        if self._counts[True] and not is_erasure:
            self._add_problem(
                record.position, "it is a record of the session after the erasure records: it was moved or added"
            )
        elif record.position <= last and not begins_erasures:
            self._add_problem(record.position, f"it comes after position {last}: records were swapped or repeated")
        session = self._manifest.session
        if not is_erasure and (record.source, record.vendor) != (session.source, session.vendor):
            self._add_problem(record.position, "it is from another source than the session")
        self.result.problems += [f"position {record.position}: {fault}" for fault in leaf_faults(line)]
        self.result.leaves.append((record.position, line.leaf.hash))
        self._counts[is_erasure] += 1
        self._log.add(record.position, line_bytes, is_of_session=not is_erasure)
        if is_erasure:
            self._check_erasure(line)
        else:
            self._check_delivery(line)

    def _check_delivery(self, line: RecordLine) -> None:
        record = line.record
        if record.erased_by is not None:
            self._erased[record.position] = record.erased_by
        elif line.is_withheld:
            self._add_problem(record.position, "it is marked as withheld, which only erasure records can be")
            return
        self.result.names += [
            f"position {record.position}: {fault}" for fault in naming_faults(record, self._derived_sources)
        ]
        outcome, wrong = recheck_proof(record, self._sources or {})
        self.result.proofs[outcome] += 1
        if wrong is not None:
            self.result.wrong.append(f"position {record.position}: {wrong}")

    def _check_erasure(self, line: RecordLine) -> None:
        position = line.record.position
        if line.is_withheld:
            self._withheld.append(position)
            return
        try:
            erasure = msgspec.json.decode(line.record.body, type=ErasureBody)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._add_problem(position, f"it is no valid erasure record: {str(error)[:200]}")
            return
        self._erasures[position] = frozenset(each.position for each in erasure.erased)

    def _compare_counts(self) -> None:
        manifest = self._manifest
        expected = [manifest.records, manifest.erasures]
        if self._counts != expected:
            self.result.problems.append(
                f"the bundle has {self._counts[0]} records and {self._counts[1]} erasures, the manifest counts {expected[0]} and {expected[1]}"
            )
        if self._withheld != manifest.withheld:
            self.result.problems.append("the withheld erasures are not those in the manifest")

    def _compare_erasures(self) -> None:
        """Each erased record must be named by an erasure in the bundle, and each erasure must name one of them."""
        for position, by in self._erased.items():
            if by == KEY_LOST:
                self._add_problem(
                    position, "it has no body, and no record says that it was erased: its data key was lost or withheld"
                )
            elif by in self._erasures and position not in self._erasures[by]:
                self._add_problem(position, f"the erasure at position {by} does not name it")
            elif by not in self._erasures and by not in self._withheld:
                self._add_problem(position, f"the erasure at position {by} is not in this bundle")
        for position in {*self._erasures, *self._withheld} - set(self._erased.values()):
            self._add_problem(position, "this erasure names none of the records in the bundle")

    def _add_problem(self, position: int, what: str) -> None:
        self.result.problems.append(f"position {position}: {what}")
