"""Going over a whole log: is every record the one that was appended, does every checkpoint hold.

    record as it stands ─► leaf ─► the leaf that was stored?            a byte, a field, two swapped, one put in
                            └─► tree ─► the tiles that were stored?     a tile, a leaf
                                  └─► at every checkpoint's size: the root that was signed?
                                        kept in the log                 records and tree changed together
                                        shipped in a file               log, tree and checkpoints replaced together

Nothing is believed but the public keys and the shipped file; everything else is computed again, in one pass. Where a leaf
does not fit its record, the tree goes on with the stored one, so that one changed record is one fault. What cannot be
noticed is in docs/explanation/evidence.md.
"""

from __future__ import annotations

import asyncio
import base64
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from tracker.evidence.checkpoint_file import ShippedNote
from tracker.errors import LogError, NoteMalformed, NoteUnverified
from tracker.log.merkle.checkpoint import Checkpoint, open_checkpoint
from tracker.log.merkle.cosignature import CosignerKey, verify_cosignatures, with_cosignatures
from tracker.log.merkle.leaves import record_leaf_hashes
from tracker.log.merkle.note import Verifier, read_note
from tracker.log.merkle.tree import TILE_WIDTH, Frontier
from tracker.log.contract import StoredRecord, Log

MAX_FAULTS = 20
MAX_LIST_RECORDS = 1_000
"""No list of records that is read at once is longer."""

Progress = Callable[[int, int], None]
"""(records seen, all of them)"""


class Fault(msgspec.Struct, frozen=True):
    """Something that cannot be right; `position` is None where it has none."""

    position: int | None
    what: str


class Verification(msgspec.Struct, kw_only=True):
    """What going over the log found. `root` (base64) is that of the tree over all `records`, computed from them.

    `checkpoints` and `shipped` count those that hold. `proofs` counts records by what became of their vendor's proof
    (`evidence/verify_records.py`), and is None where it was not asked for; so is `views`, the rows that do not follow from the log.
    `cosigned`: other nodes of a cluster → records of the largest checkpoint that they vouch for. `named_key`: the verifier
    key that the log itself names and nobody else does; with `is_named_only` it is the one checkpoints were checked with.
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
    """A file of checkpoints, by its name and pieces."""

    name: str
    notes: Sequence[ShippedNote]


class _Signed(NamedTuple):
    root: bytes
    where: str
    is_kept: bool


async def verify_log(
    log: Log,
    keys: Sequence[Verifier],
    *,
    shipped: Sequence[ShippedFile] = (),
    progress: Progress | None = None,
    max_faults: int = MAX_FAULTS,
) -> Verification:
    """Verify everything that is in the log now against itself, its checkpoints and the shipped ones.

    `keys` are the public keys checkpoints may be signed with. Raises nothing about what it finds: that is in `faults`.
    """
    return await _Pass(log, keys, max_faults).run(shipped, progress)


class _Pass:
    def __init__(self, log: Log, keys: Sequence[Verifier], limit: int) -> None:
        self._log = log
        self._keys = keys
        self._limit = limit
        self._frontier = Frontier()
        self._tiles: dict[int, list[bytes]] = defaultdict(list)
        self._wanted: dict[int, list[_Signed]] = defaultdict(list)
        self._due: list[int] = []
        self._opened: dict[str, Checkpoint] = {}
        self._broken = [0, 0]
        self._gap: int | None = None
        self.found = Verification()

    async def run(self, shipped: Sequence[ShippedFile], progress: Progress | None) -> Verification:
        """The whole pass. What is signed is read first: the log may grow meanwhile, never shrink."""
        found = self.found
        try:
            kept = await self._log.checkpoints()
            self._read_kept(kept)
            for each in shipped:
                self._read_shipped(each, kept)
            self._due = sorted(self._wanted, reverse=True)
            self._look()
            size, root = await self._stored()
            await self._go_over(await self._log.head(), progress)
            if not found.is_cut_short:
                await self._compare_tree(size, root)
        except LogError as error:
            self._fault(await self._first_unreadable(), f"the log cannot be read here: {error}")
            found.is_cut_short = True
        if not found.is_cut_short:
            self._tell_unreached()
        found.records = self._frontier.size
        found.root = base64.b64encode(self._frontier.root()).decode()
        return found

    async def _first_unreadable(self) -> int:
        """Where, in the list of records that could not be read; its beginning where each alone can be."""
        after = self._frontier.size
        for position in range(after + 1, after + 1 + MAX_LIST_RECORDS):
            try:
                await self._log.leaf(position)
            except LogError:
                return position
        return after + 1

    async def _stored(self) -> tuple[int, bytes]:
        """Size and root of the tree as it is stored; no root where tiles are missing, which the comparison will tell."""
        try:
            return await self._log.tree_head()
        except IndexError:
            return 0, b""

    def _fault(self, position: int | None, what: str) -> None:
        self.found.faults.append(Fault(position, what))

    def _read_kept(self, kept: Sequence[tuple[int, str]]) -> None:
        if kept and not self._keys:
            self._fault(None, f"{len(kept)} checkpoints are kept, and no key to check them with: name one with --key")
            return
        for size, note in kept:
            where = f"the checkpoint of {size} records that is kept in the log"
            signed = self._believed(note, where)
            if signed is not None and signed.size != size:
                self._fault(size, f"{where} signs {signed.size}: it was moved")
            elif signed is not None:
                self._wanted[size].append(_Signed(signed.root, where, is_kept=True))

    def _read_shipped(self, shipped: ShippedFile, kept: Sequence[tuple[int, str]]) -> None:
        sizes = {size for size, _ in kept}
        for each in shipped.notes:
            where = f"line {each.line} of {shipped.name}"
            if each.size is None:
                # A torn end is the beginning of a note that the next run completes.
                if each is not shipped.notes[-1] or not any(note.startswith(each.text) for _, note in kept):
                    self._fault(None, f"{where} is no checkpoint: the file was edited or damaged")
                continue
            where = f"the checkpoint of {each.size} records in {where}"
            signed = self._believed(each.text, where)
            if signed is None:
                continue
            self._wanted[signed.size].append(_Signed(signed.root, where, is_kept=False))
            if signed.size not in sizes:
                self._fault(
                    signed.size, f"{where} is not kept in the log: it was removed there, or the log is another one"
                )

    def _believed(self, note: str, where: str) -> Checkpoint | None:
        """What a note says, when a known key signed it; the same note is not opened twice."""
        signed = self._opened.get(note)
        if signed is None:
            try:
                signed = self._opened[note] = open_checkpoint(note, self._keys)
            except NoteMalformed as error:
                self._fault(None, f"{where} is damaged: {error}")
            except NoteUnverified as error:
                self._fault(None, f"{where} cannot be believed: {error}")
        return signed

    async def _go_over(self, head: int, progress: Progress | None) -> None:
        async for chunk in self._log.read_stored(0):
            leaves = record_leaf_hashes(chunk)
            first, last = self._frontier.size + 1, self._frontier.size + len(chunk)
            # Positions ascend, so the ends tell whether they are dense.
            is_whole = chunk[0].position == first and chunk[-1].position == last
            if not is_whole or leaves != [record.leaf for record in chunk]:
                self._take_doubtful(chunk, leaves)
            elif self._due and self._due[-1] <= last:
                for leaf in leaves:
                    self._grow(leaf)
            else:
                for level, _, found in self._frontier.extend(leaves):
                    self._tiles[level].append(found)
            if progress is not None:
                progress(self._frontier.size, max(head, self._frontier.size))
            if self._gap is not None or len(self.found.faults) >= self._limit:
                self.found.is_cut_short = True
                return
            await asyncio.sleep(0)

    def _take_doubtful(self, chunk: Sequence[StoredRecord], leaves: Sequence[bytes]) -> None:
        """Records of which one at least is not as it should be."""
        for record, leaf in zip(chunk, leaves, strict=True):
            if record.position != self._frontier.size + 1:
                self._tell_gap(record.position)
                return
            if record.leaf is None:
                self._fault(record.position, "it has no leaf: the record was put in around Tracker")
            elif record.leaf != leaf:
                self._fault(
                    record.position,
                    "the record is not the one its leaf was made of: a field, its bytes or the leaf was changed",
                )
            self._grow(record.leaf or leaf)

    def _grow(self, leaf: bytes) -> None:
        """One leaf into the tree, and a look at it."""
        for level, _, found in self._frontier.append(leaf):
            self._tiles[level].append(found)
        self._look()

    def _look(self) -> None:
        """Compare with what is signed about a tree of just this size."""
        if self._due and self._due[-1] == self._frontier.size:
            self._compare(self._frontier.size, self._wanted.pop(self._due.pop()))

    def _tell_gap(self, position: int) -> None:
        """A record is not where it should be; after the first such place there is no tree to compare with."""
        expected = self._gap = self._frontier.size + 1
        if position > expected:
            missing = f"position {expected}" if position == expected + 1 else f"positions {expected} to {position - 1}"
            self._fault(expected, f"{missing} of the log: no record is there; the next one is at {position}")
        else:
            self._fault(position, f"a record stands at {position} where {expected} has to be")

    def _compare(self, size: int, wanted: Sequence[_Signed]) -> None:
        root = self._frontier.root()
        for signed in wanted:
            if signed.root == root:
                if signed.is_kept:
                    self.found.checkpoints += 1
                else:
                    self.found.shipped += 1
                continue
            self._broken[signed.is_kept] += 1
            if self._broken[signed.is_kept] == 1:
                since = "at or before that position, something was changed, removed or put in"
                self._fault(size, f"{signed.where} does not hold: {since}, with its leaf")

    async def _compare_tree(self, size: int, root: bytes) -> None:
        """The stored tree beside the computed one, tile by tile, then the roots."""
        if size > self._frontier.size:
            self._fault(
                self._frontier.size + 1, f"the tree has {size} leaves: the records after this place were removed"
            )
            return
        for level, hashes in sorted(self._tiles.items()):
            for n in range(0, len(hashes), TILE_WIDTH):
                stored = await self._log.tile(level, n // TILE_WIDTH)
                for at, (have, want) in enumerate(zip(stored, hashes[n : n + TILE_WIDTH], strict=False)):
                    if have != want and not self._is_told(level, n + at):
                        self._fault(*_tile_fault(level, n + at, "is not what its leaves make"))
                        return
                if len(stored) < len(hashes[n : n + TILE_WIDTH]):
                    self._fault(*_tile_fault(level, n + len(stored), "is missing"))
                    return
        beyond = await self._log.surplus_tile()
        if beyond is not None:
            level, n = beyond
            self._fault(
                size, f"hash {n} of level {level} of the stored tree is about records that are not there: it was put in"
            )
        if size == self._frontier.size and root != self._frontier.root():
            self._fault(size, "the stored tree has another root than its records")

    def _is_told(self, level: int, n: int) -> bool:
        """Whether something under this hash is a fault already: then it was bound to differ."""
        width = TILE_WIDTH**level
        return any(n * width < (fault.position or 0) <= (n + 1) * width for fault in self.found.faults)

    def _tell_unreached(self) -> None:
        """Checkpoints about more records than there are."""
        last = self._frontier.size
        beyond = sorted((size, signed) for size, wanted in self._wanted.items() if size > last for signed in wanted)
        for is_kept in (True, False):
            some = [(size, signed) for size, signed in beyond if signed.is_kept is is_kept]
            if some:
                size, signed = some[-1]
                self._fault(
                    last + 1,
                    f"{signed.where} signs more than the {last} records there are: the last {size - last} were removed, "
                    "or the file was rolled back to an older copy",
                )


def _tile_fault(level: int, n: int, what: str) -> tuple[int, str]:
    first = n * TILE_WIDTH**level + 1
    return (
        first,
        f"hash {n} of level {level} of the stored tree {what}: the tree of positions {first} to {first + TILE_WIDTH**level - 1} was changed",
    )


async def check_cosignatures(log: Log, keys: Sequence[CosignerKey], found: Verification) -> None:
    """Check the cosignatures under all checkpoints. Adds to `found` who cosigned up to which size, and faults."""
    cosigned_sizes: dict[str, int] = {}
    try:
        for size, note in await log.checkpoints():
            for line in await log.cosignatures(size):
                try:
                    cosigned_sizes |= dict.fromkeys(_cosigner_labels(note, line, keys), size)
                except (NoteMalformed, NoteUnverified) as error:
                    found.faults.append(Fault(None, f"under the checkpoint of {size} records: {error}"))
    except LogError as error:
        found.faults.append(Fault(None, f"the cosignatures cannot be read: {error}"))
    found.cosigned = cosigned_sizes


def _cosigner_labels(note: str, line: str, keys: Sequence[CosignerKey]) -> list[str]:
    """Who made the cosignature in this line: the key's label, or only a name if no such key is known."""
    signed = with_cosignatures(note, [line])
    labels = [each.key.label for each in verify_cosignatures(signed, keys)]
    return labels or [f"{read_note(signed).signatures[-1].name} (its key is not known)"]
