"""Verifies a whole log: every record is the one that was appended, and every checkpoint holds.

    stored record ─► leaf ─► is it the stored leaf?                      finds changed bytes and fields, swapped or inserted records
                       └─► tree ─► are these the stored tiles?           finds a changed tile or leaf
                             └─► at each checkpoint's size: is this the signed root?
                                   checkpoints in the log                finds records and tree changed together
                                   checkpoints shipped in a file         finds log, tree and checkpoints replaced together

Only the public keys and the shipped files are trusted; everything else is computed again, in one pass. Where a leaf does
not match its record, the tree continues with the stored leaf, so that one changed record is one fault. docs/explanation/evidence.md
says what cannot be noticed.
"""

from __future__ import annotations

import asyncio
import base64
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from tracker.errors import LogError, NoteMalformed, NoteUnverified
from tracker.evidence.checkpoint_file import ShippedNote
from tracker.log.contract import Log, StoredRecord
from tracker.log.merkle.checkpoint import Checkpoint, open_checkpoint
from tracker.log.merkle.cosignature import CosignerKey, verify_cosignatures, with_cosignatures
from tracker.log.merkle.leaf import record_leaf_hashes
from tracker.log.merkle.note import Verifier, read_note
from tracker.log.merkle.tree import TILE_WIDTH, Frontier

MAX_FAULTS = 20
MAX_LIST_RECORDS = 1_000
"""The log reads records in lists of at most this length."""

Progress = Callable[[int, int], None]
"""(records verified, records in the log)"""


class Fault(msgspec.Struct, frozen=True):
    """Something that is wrong. `position` is None where the fault belongs to no record."""

    position: int | None
    what: str


class Verification(msgspec.Struct, kw_only=True):
    """The result of verifying a log. `root` (base64) is that of the tree over all `records`, computed from them.

    `checkpoints` and `shipped` count the checkpoints that hold. `proofs` counts records by the outcome of checking their
    vendor's proof (`evidence/verify_records.py`), None if that was not requested; likewise `views`, the rows that do not
    follow from the log. `cosigned`: other node of a cluster → size of the largest checkpoint it cosigned. `named_key`:
    the verifier key that only the log itself names; with `is_named_only`, checkpoints were checked with nothing else.
    """

    records: int = 0
    root: str = ""
    checkpoints: int = 0
    shipped: int = 0
    proofs: dict[str, int] | None = None
    views: list[str] | None = None
    cosigned: dict[str, int] = {}
    named_key: str | None = None
    is_named_only: bool = False
    faults: list[Fault] = []
    is_cut_short: bool = False


class ShippedFile(NamedTuple):
    """A checkpoint file that was kept elsewhere: its name and its parts."""

    name: str
    notes: Sequence[ShippedNote]


class _SignedRoot(NamedTuple):
    """A root that a checkpoint signs. `where` names the checkpoint; `is_in_log` is False for shipped ones."""

    root: bytes
    where: str
    is_in_log: bool


async def verify_log(
    log: Log,
    keys: Sequence[Verifier],
    *,
    shipped: Sequence[ShippedFile] = (),
    progress: Progress | None = None,
    max_faults: int = MAX_FAULTS,
) -> Verification:
    """Verify everything that is in the log now against itself, its checkpoints and the shipped ones.

    `keys` are the public keys that may have signed checkpoints. Raises nothing about the log: see `Verification.faults`.
    """
    return await _LogVerifier(log, keys, max_faults).run(shipped, progress)


class _LogVerifier:
    def __init__(self, log: Log, keys: Sequence[Verifier], max_faults: int) -> None:
        self._log = log
        self._keys = keys
        self._max_faults = max_faults
        self._frontier = Frontier()
        self._tiles: dict[int, list[bytes]] = defaultdict(list)
        self._signed_roots: dict[int, list[_SignedRoot]] = defaultdict(list)
        self._sizes_left: list[int] = []
        """Sizes of signed trees that were not reached yet, descending."""
        self._opened: dict[str, Checkpoint] = {}
        self._broken = [0, 0]
        """Checkpoints that do not hold: shipped ones, those in the log."""
        self._gap: int | None = None
        self.result = Verification()

    async def run(self, shipped: Sequence[ShippedFile], progress: Progress | None) -> Verification:
        """Verify everything. Checkpoints are read first: meanwhile the log may grow, but never shrink."""
        result = self.result
        try:
            stored = await self._log.checkpoints()
            self._read_stored_checkpoints(stored)
            for each in shipped:
                self._read_shipped(each, stored)
            self._sizes_left = sorted(self._signed_roots, reverse=True)
            self._compare_signed_roots()
            size, root = await self._stored_tree_head()
            await self._verify_records(await self._log.head(), progress)
            if not result.is_cut_short:
                await self._compare_tree(size, root)
        except LogError as error:
            self._fault(await self._first_unreadable(), f"the log cannot be read here: {error}")
            result.is_cut_short = True
        if not result.is_cut_short:
            self._report_missing_records()
        result.records = self._frontier.size
        result.root = base64.b64encode(self._frontier.root()).decode()
        return result

    async def _first_unreadable(self) -> int:
        """The first unreadable position in the list that could not be read; its first if each alone can be read."""
        after = self._frontier.size
        for position in range(after + 1, after + 1 + MAX_LIST_RECORDS):
            try:
                await self._log.leaf(position)
            except LogError:
                return position
        return after + 1

    async def _stored_tree_head(self) -> tuple[int, bytes]:
        """Size and root of the stored tree. (0, b"") where tiles are missing: comparing the tiles reports those."""
        try:
            return await self._log.tree_head()
        except IndexError:
            return 0, b""

    def _fault(self, position: int | None, what: str) -> None:
        self.result.faults.append(Fault(position, what))

    def _read_stored_checkpoints(self, stored: Sequence[tuple[int, str]]) -> None:
        if stored and not self._keys:
            self._fault(
                None, f"the log has {len(stored)} checkpoints, but there is no key to check them with: use --key"
            )
            return
        for size, note in stored:
            where = f"the checkpoint of {size} records in the log"
            signed = self._open(note, where)
            if signed is not None and signed.size != size:
                self._fault(size, f"{where} signs {signed.size} records: it was moved")
            elif signed is not None:
                self._signed_roots[size].append(_SignedRoot(signed.root, where, is_in_log=True))

    def _read_shipped(self, shipped: ShippedFile, stored: Sequence[tuple[int, str]]) -> None:
        stored_sizes = {size for size, _ in stored}
        for each in shipped.notes:
            where = f"line {each.line} of {shipped.name}"
            if each.size is None:
                # The file may end in the beginning of a note; the next checkpoint completes it.
                if each is not shipped.notes[-1] or not any(note.startswith(each.text) for _, note in stored):
                    self._fault(None, f"{where} is no checkpoint: the file was edited or damaged")
                continue
            where = f"the checkpoint of {each.size} records in {where}"
            signed = self._open(each.text, where)
            if signed is None:
                continue
            self._signed_roots[signed.size].append(_SignedRoot(signed.root, where, is_in_log=False))
            if signed.size not in stored_sizes:
                self._fault(signed.size, f"{where} is not in the log: it was removed there, or this is a different log")

    def _open(self, note: str, where: str) -> Checkpoint | None:
        """What a note signs, if a known key signed it. Each note is checked once."""
        signed = self._opened.get(note)
        if signed is None:
            try:
                signed = self._opened[note] = open_checkpoint(note, self._keys)
            except NoteMalformed as error:
                self._fault(None, f"{where} is damaged: {error}")
            except NoteUnverified as error:
                self._fault(None, f"{where} is not trusted: {error}")
        return signed

    async def _verify_records(self, head: int, progress: Progress | None) -> None:
        async for chunk in self._log.read_stored(0):
            leaves = record_leaf_hashes(chunk)
            first, last = self._frontier.size + 1, self._frontier.size + len(chunk)
            # Positions ascend, so the first and the last one show whether any is missing.
            is_dense = chunk[0].position == first and chunk[-1].position == last
            if not is_dense or leaves != [record.leaf for record in chunk]:
                self._verify_one_by_one(chunk, leaves)
            elif self._sizes_left and self._sizes_left[-1] <= last:
                for leaf in leaves:
                    self._append_leaf(leaf)
            else:
                for level, _, found in self._frontier.extend(leaves):
                    self._tiles[level].append(found)
            if progress is not None:
                progress(self._frontier.size, max(head, self._frontier.size))
            if self._gap is not None or len(self.result.faults) >= self._max_faults:
                self.result.is_cut_short = True
                return
            await asyncio.sleep(0)

    def _verify_one_by_one(self, chunk: Sequence[StoredRecord], leaves: Sequence[bytes]) -> None:
        """Records of which at least one is wrong."""
        for record, leaf in zip(chunk, leaves, strict=True):
            if record.position != self._frontier.size + 1:
                self._report_gap(record.position)
                return
            if record.leaf is None:
                self._fault(record.position, "the record has no leaf: it was not added by Tracker")
            elif record.leaf != leaf:
                self._fault(
                    record.position, "the record does not match its leaf: a field, its bytes or the leaf was changed"
                )
            self._append_leaf(record.leaf or leaf)

    def _append_leaf(self, leaf: bytes) -> None:
        for level, _, found in self._frontier.append(leaf):
            self._tiles[level].append(found)
        self._compare_signed_roots()

    def _compare_signed_roots(self) -> None:
        """Compare the root with what is signed about a tree of exactly this size."""
        if not self._sizes_left or self._sizes_left[-1] != self._frontier.size:
            return
        size, root = self._frontier.size, self._frontier.root()
        for signed in self._signed_roots.pop(self._sizes_left.pop()):
            if signed.root == root:
                if signed.is_in_log:
                    self.result.checkpoints += 1
                else:
                    self.result.shipped += 1
                continue
            self._broken[signed.is_in_log] += 1
            if self._broken[signed.is_in_log] == 1:
                since = "at or before this position, a record was changed, removed or inserted"
                self._fault(size, f"{signed.where} does not hold: {since}, together with its leaf")

    def _report_gap(self, position: int) -> None:
        """Report a record at the wrong position. There is no tree to compare with after it."""
        expected = self._gap = self._frontier.size + 1
        if position > expected:
            missing = f"position {expected}" if position == expected + 1 else f"positions {expected} to {position - 1}"
            self._fault(expected, f"{missing} of the log: the record is missing; the next one is at {position}")
        else:
            self._fault(position, f"there is a record at {position} where {expected} is expected")

    async def _compare_tree(self, size: int, root: bytes) -> None:
        """Compare the stored tree with the computed one, tile by tile, then the roots."""
        if size > self._frontier.size:
            self._fault(
                self._frontier.size + 1, f"the tree has {size} leaves: the records from here to the end were removed"
            )
            return
        for level, hashes in sorted(self._tiles.items()):
            for n in range(0, len(hashes), TILE_WIDTH):
                stored = await self._log.tile(level, n // TILE_WIDTH)
                for at, (found, expected) in enumerate(zip(stored, hashes[n : n + TILE_WIDTH], strict=False)):
                    if found != expected and not self._has_fault_below(level, n + at):
                        self._fault(*_tile_fault(level, n + at, "does not follow from its leaves"))
                        return
                if len(stored) < len(hashes[n : n + TILE_WIDTH]):
                    self._fault(*_tile_fault(level, n + len(stored), "is missing"))
                    return
        beyond = await self._log.surplus_tile()
        if beyond is not None:
            level, n = beyond
            self._fault(
                size,
                f"hash {n} of level {level} of the stored tree is about records that do not exist: it was inserted",
            )
        if size == self._frontier.size and root != self._frontier.root():
            self._fault(size, "the root of the stored tree does not follow from the records")

    def _has_fault_below(self, level: int, n: int) -> bool:
        """Whether a record below this hash has a fault already, so that the hash has to differ."""
        width = TILE_WIDTH**level
        return any(n * width < (fault.position or 0) <= (n + 1) * width for fault in self.result.faults)

    def _report_missing_records(self) -> None:
        """Report checkpoints that sign more records than the log has."""
        last = self._frontier.size
        beyond = sorted((size, signed) for size, roots in self._signed_roots.items() if size > last for signed in roots)
        for is_in_log in (True, False):
            some = [(size, signed) for size, signed in beyond if signed.is_in_log is is_in_log]
            if some:
                size, signed = some[-1]
                self._fault(
                    last + 1,
                    f"{signed.where} signs more records than the {last} in the log: the last {size - last} were removed, "
                    "or the file was rolled back to an older copy",
                )


def _tile_fault(level: int, n: int, what: str) -> tuple[int, str]:
    first = n * TILE_WIDTH**level + 1
    return (
        first,
        f"hash {n} of level {level} of the stored tree {what}: the tree of positions {first} to {first + TILE_WIDTH**level - 1} was changed",
    )


async def check_cosignatures(log: Log, keys: Sequence[CosignerKey], found: Verification) -> None:
    """Check the cosignatures of all checkpoints. Adds to `found` who cosigned up to which size, and the faults."""
    cosigned_sizes: dict[str, int] = {}
    try:
        for size, note in await log.checkpoints():
            for line in await log.cosignatures(size):
                try:
                    cosigned_sizes |= dict.fromkeys(_cosigner_labels(note, line, keys), size)
                except (NoteMalformed, NoteUnverified) as error:
                    found.faults.append(Fault(None, f"a cosignature of the checkpoint of {size} records: {error}"))
    except LogError as error:
        found.faults.append(Fault(None, f"the cosignatures cannot be read: {error}"))
    found.cosigned = cosigned_sizes


def _cosigner_labels(note: str, line: str, keys: Sequence[CosignerKey]) -> list[str]:
    """Who made the cosignature in this line: the key's label, or only a name if no such key is known."""
    signed = with_cosignatures(note, [line])
    labels = [each.key.label for each in verify_cosignatures(signed, keys)]
    return labels or [f"{read_note(signed).signatures[-1].name} (its key is not known)"]
