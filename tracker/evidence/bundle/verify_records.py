"""The records of a bundle, checked one by one while they are unpacked: leaf, order, name, proof of the sender.

Only lines that are records at all go into the unpacked log. What was erased has to be named by an erasure that is here
too, with a leaf of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import msgspec

from tracker.evidence.bundle.manifest import PROOFS, RECORDS, Manifest, Proofs
from tracker.evidence.bundle.record_lines import RecordLine, leaf_faults, decode_line
from tracker.evidence.bundle.zip_reader import OpenBundle
from tracker.evidence.bundle.unpacked_log import UnpackedLog
from tracker.domain.deliveries import LOST, OURS
from tracker.log.erasure_records import EVENT, ErasureBody
from tracker.errors import BundleUnreadable
from tracker.log.merkle.note import decode_base64
from tracker.log.merkle.tree import inclusion_root
from tracker.evidence.verify_records import naming_faults, recheck_proof
from tracker.sources.contract import Source

PROGRESS_LINES = 100

Progress = Callable[[int, int], None]
"""(lines seen, all of them)"""


class RecordsResult(msgspec.Struct, kw_only=True):
    """What going over the records found. `leaves`: (position, leaf hash) of each line, in order.

    `problems` are about leaves and order, `names` about what does not follow from bodies, `wrong` about senders' proofs,
    `proofs` counts what became of those. `is_whole`: every line is a record, so that something may follow from them.
    """

    leaves: list[tuple[int, bytes]] = []
    problems: list[str] = []
    names: list[str] = []
    wrong: list[str] = []
    proofs: Counter[str] = msgspec.field(default_factory=Counter[str])
    erased: int = 0
    is_whole: bool = False


def check_records(
    bundle: OpenBundle,
    manifest: Manifest,
    log: UnpackedLog,
    sources: Mapping[str, Source] | None,
    progress: Progress | None = None,
) -> RecordsResult:
    """Check every record and put it into `log`. Raises nothing about what it finds."""
    return _Reading(manifest, log, sources).run(bundle, progress)


def check_inclusion(bundle: OpenBundle, manifest: Manifest, leaves: list[tuple[int, bytes]]) -> tuple[list[str], str]:
    """(problems, what was found) of the proofs that each leaf is in the tree the manifest names."""
    try:
        proofs = bundle.decoded(PROOFS, Proofs)
    except BundleUnreadable as error:
        return [str(error)], ""
    size, root = manifest.tree.size, decode_base64(manifest.tree.root)
    found: list[str] = []
    if (proofs.size, proofs.root) != (manifest.tree.size, manifest.tree.root):
        found.append(f"{PROOFS} is about another tree than the manifest names")
    if [each.position for each in proofs.inclusion] != [position for position, _ in leaves]:
        found.append(
            f"{PROOFS} is not about the records that are here: a record or a proof was added, removed or moved"
        )
    by_position = {each.position: each for each in proofs.inclusion}
    for position, leaf in leaves:
        proof = by_position.get(position)
        if proof is None:
            found.append(f"position {position}: no proof that the record is in the log")
            continue
        hashes = [decode_base64(text) for text in proof.hashes]
        whole = [each for each in hashes if each is not None]
        if len(whole) != len(hashes) or inclusion_root(position - 1, size, leaf, whole) != root:
            found.append(f"position {position}: its leaf is not in the tree, or the proof was changed")
    return found, f"{len(leaves)} leaves are in the tree of {size} records"


class _Reading:
    def __init__(self, manifest: Manifest, log: UnpackedLog, sources: Mapping[str, Source] | None) -> None:
        self._manifest = manifest
        self._log = log
        self._sources = sources
        self._readers: dict[tuple[str, str], Source] = {}
        self._erased: dict[int, int] = {}
        self._told: dict[int, frozenset[int]] = {}
        self._withheld: list[int] = []
        self._counts = [0, 0]
        self.found = RecordsResult()

    def run(self, bundle: OpenBundle, progress: Progress | None) -> RecordsResult:
        found, number = self.found, 0
        try:
            for number, written in enumerate(bundle.lines(RECORDS), 1):
                self._take(written, f"line {number} of {RECORDS}")
                if progress is not None and number % PROGRESS_LINES == 0:
                    progress(number, max(number, self._manifest.records + self._manifest.erasures))
            found.is_whole = len(found.leaves) == number
        except BundleUnreadable as error:
            found.problems.append(str(error))
        self._compare_counts()
        self._compare_erasures()
        found.erased = len(self._erased)
        return found

    def _take(self, written: bytes, where: str) -> None:
        try:
            line = decode_line(written)
        except BundleUnreadable as error:
            self.found.problems.append(f"{where} {error}")
            return
        record = line.record
        is_erasure = record.vendor == OURS and record.event == EVENT
        last = self.found.leaves[-1][0] if self.found.leaves else 0
        begins_erasures = is_erasure and self._counts[True] == 0
        if self._counts[True] and not is_erasure:
            self._complain(line, "a record of the session stands behind the erasures: it was moved or added")
        elif record.position <= last and not begins_erasures:
            self._complain(line, f"it stands behind position {last}: records were swapped or are here twice")
        session = self._manifest.session
        if not is_erasure and (record.source, record.vendor) != (session.source, session.vendor):
            self._complain(line, "it is of another source than the session")
        self.found.problems += [f"position {record.position}: {fault}" for fault in leaf_faults(line)]
        self.found.leaves.append((record.position, line.leaf.hash))
        self._counts[is_erasure] += 1
        self._log.put(record.position, written, is_of_session=not is_erasure)
        if is_erasure:
            self._take_erasure(line)
        else:
            self._take_delivery(line)

    def _take_delivery(self, line: RecordLine) -> None:
        record = line.record
        if record.erased_by is not None:
            self._erased[record.position] = record.erased_by
        elif line.is_withheld:
            self._complain(line, "only erasures are withheld, never what came from a sender")
            return
        self.found.names += [f"position {record.position}: {fault}" for fault in naming_faults(record, self._readers)]
        outcome, wrong = recheck_proof(record, self._sources or {})
        self.found.proofs[outcome] += 1
        if wrong is not None:
            self.found.wrong.append(f"position {record.position}: {wrong}")

    def _take_erasure(self, line: RecordLine) -> None:
        position = line.record.position
        if line.is_withheld:
            self._withheld.append(position)
            return
        try:
            erasure = msgspec.json.decode(line.record.body, type=ErasureBody)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._complain(line, f"no erasure can be read from it: {str(error)[:200]}")
            return
        self._told[position] = frozenset(each.position for each in erasure.erased)

    def _compare_counts(self) -> None:
        manifest = self._manifest
        wanted = [manifest.records, manifest.erasures]
        if self._counts != wanted:
            self.found.problems.append(
                f"{self._counts[0]} records and {self._counts[1]} erasures are here, the manifest counts {wanted[0]} and {wanted[1]}"
            )
        if self._withheld != manifest.withheld:
            self.found.problems.append("other erasures are withheld than the manifest says")

    def _compare_erasures(self) -> None:
        """Each erased record is named by an erasure that is here; an erasure that names none of them should not be."""
        for position, by in self._erased.items():
            if by == LOST:
                self._say(
                    position, "it has no bytes, and no record says that it was erased: its key was lost or withheld"
                )
            elif by in self._told and position not in self._told[by]:
                self._say(position, f"the erasure at position {by} does not name it")
            elif by not in self._told and by not in self._withheld:
                self._say(position, f"the erasure at position {by} is not in this bundle")
        for position in {*self._told, *self._withheld} - set(self._erased.values()):
            self._say(position, "this erasure is about none of the records here")

    def _complain(self, line: RecordLine, what: str) -> None:
        self._say(line.record.position, what)

    def _say(self, position: int, what: str) -> None:
        self.found.problems.append(f"position {position}: {what}")
