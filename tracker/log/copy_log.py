"""Copy a log into another one, of the same engine or the other: the same records, positions, times, tree and checkpoints.

    the target's root at its size = the source's there?   it is empty, or the beginning of the source; else it is refused
    records as they stand, some hundred a time ─► take     an erasure with what it erases, in one piece
    their data keys, wrapped anew, before them             bodies stay sealed as they are
    checkpoints that the target does not have  ─► keep
    both roots, once more

If we die, the next run finds how far the target is and goes on from there.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

import msgspec

from tracker.domain.deliveries import TRACKER, Origin
from tracker.errors import LogCorrupt, LogUnavailable, NoteMalformed, NoteUnverified
from tracker.log.merkle.leaf import record_leaf_hashes
from tracker.log.merkle.note import Verifier, open_note
from tracker.log.merkle.tree import root_at
from tracker.log.contract import StoredRecord, Log
from tracker.log.frames import FrameRow, max_frame_bytes
from tracker.log.keys.key_store import DataKey

Progress = Callable[[int, int], None]


class CopySource(Log, Protocol):
    """A log that can be read as it stands."""

    async def erasures_made_by(self, after: int, until: int) -> dict[int, list[int]]:
        """What each of the records after a position and up to another one says is erased."""
        ...

    async def data_keys(self, after: int, until: int) -> dict[int, DataKey]:
        """What opens the sealed records after a position and up to another one, as far as it is still there."""
        ...


class CopyTarget(Log, Protocol):
    """A log that takes records as they stand."""

    async def append_raw(
        self, rows: Sequence[FrameRow], erases: Sequence[int], keys: Sequence[DataKey | None]
    ) -> list[int]:
        """Append these, all or none; their positions. `erases`: what the only one of them says is erased.

        `keys`: of each record, None for one in clear and for one that is erased.
        """
        ...

    async def store_signed_checkpoint(self, size: int, note: str, key: str) -> bool:
        """See `Log.keep_checkpoint`. `key`: the verifier key it is signed with, "" where that is not known."""
        ...


class CopyResult(msgspec.Struct, frozen=True):
    """Both logs now: `records` and `root` (base64) of the tree over them; `new` of them were copied by this run.

    `keys`: the verifier keys of the `checkpoints`, as far as they are known.
    """

    records: int
    new: int
    checkpoints: int
    root: str
    keys: list[str]


async def copy_log(
    source: CopySource, target: CopyTarget, progress: Progress | None = None, *, verifiers: Sequence[Verifier] = ()
) -> CopyResult:
    """Bring the target up to what the source has when this begins; closes neither.

    `verifiers`: public keys that the source's checkpoints may be signed with; the target is told which it was. Raises `LogUnavailable` where the target is another log, `LogCorrupt` where the source's records are not what its tree
    says, `LogError`.
    """
    began = await _expect_beginning(source, target)
    done = began
    async for rows, erases in _pieces(source, target.max_batch_bytes, began):
        is_sealed = any(row[8] is not None for row in rows)
        keys = await source.data_keys(done, done + len(rows)) if is_sealed else {}
        positions = await target.append_raw(rows, erases, [keys.get(done + 1 + n) for n in range(len(rows))])
        if positions != list(range(done + 1, done + 1 + len(rows))):
            raise LogUnavailable(
                f"the target gave a record another position than {done + 1}: somebody else writes to it"
            )
        done = positions[-1]
        if progress is not None:
            progress(done, max(done, await source.head()))
    signed_with = await _copy_checkpoints(source, target, done, verifiers)
    if await _expect_beginning(source, target) != done:
        raise LogUnavailable("somebody else writes to the target meanwhile: stop it first")
    root = (await target.tree_head()).root
    keys = list(dict.fromkeys(key for key in signed_with if key))
    return CopyResult(done, done - began, len(signed_with), base64.b64encode(root).decode(), keys)


async def _expect_beginning(source: CopySource, target: CopyTarget) -> int:
    """How many records the target has. Raises `LogUnavailable` unless they are the source's first ones."""
    held, whole = await target.tree_head(), await source.tree_head()
    if held.size > whole.size:
        raise LogUnavailable(
            f"the target has {held.size} records, more than the {whole.size} there are to copy: it is another log"
        )
    if held.size and held.root != await root_at(held.size, source.tile):
        raise LogUnavailable(
            f"the {held.size} records of the target are not the first ones of the log to copy: name an empty one"
        )
    return held.size


async def _pieces(source: CopySource, most_bytes: int, after: int) -> AsyncIterator[tuple[list[FrameRow], list[int]]]:
    """The records after a position in pieces that the target takes at once; one that erases something stands alone."""
    async for chunk in source.read_stored(after):
        if [record.position for record in chunk] != list(range(after + 1, after + 1 + len(chunk))):
            raise LogCorrupt(f"positions are missing after {after}: find out with `tracker verify`, and copy nothing")
        if record_leaf_hashes(chunk) != [record.leaf for record in chunk]:
            raise LogCorrupt(
                "a record is not the one its leaf was made of: find it with `tracker verify`, copy nothing"
            )
        after = chunk[-1].position
        is_ours = any(record.source == TRACKER for record in chunk)
        told = await source.erasures_made_by(chunk[0].position - 1, after) if is_ours else {}
        piece: list[FrameRow] = []
        size = 0
        for record in chunk:
            row, erases, more = _row_of(record), told.get(record.position, []), max_frame_bytes([record])
            if piece and (erases or size + more > most_bytes):
                yield piece, []
                piece, size = [], 0
            if erases:
                yield [row], erases
            else:
                piece.append(row)
                size += more
        if piece:
            yield piece, []


async def _copy_checkpoints(
    source: CopySource, target: CopyTarget, until: int, verifiers: Sequence[Verifier]
) -> list[str]:
    """The key of each that is in both now, "" where it is not known."""
    held = dict(await target.checkpoints())
    wanted = {size: note for size, note in await source.checkpoints() if size <= until}
    found: list[str] = []
    for size, note in wanted.items():
        found.append(_key_of(note, verifiers))
        if size not in held:
            await target.store_signed_checkpoint(size, note, found[-1])
    return found


def _key_of(note: str, verifiers: Sequence[Verifier]) -> str:
    try:
        return str(open_note(note, verifiers).signers[0])
    except (NoteMalformed, NoteUnverified):  # copied all the same: it is for `verify` to tell
        return ""


def _row_of(record: StoredRecord) -> FrameRow:
    origin = msgspec.convert(record.origin, Origin)
    return (
        record.source, record.vendor, record.event, record.dedupe_key, record.received_at, origin, record.proof,
        record.body, record.commitment,
    )  # fmt: skip
