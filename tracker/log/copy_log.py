"""Copy a log into another one, of either engine: the same records, positions, times, tree and checkpoints.

    compare roots       the target must be empty or hold the first records of the source; else it is refused
    copy records        as stored, a few hundred at a time ─► `append_raw`; an erasure record is appended alone, together
                        with the positions it erases. Data keys are rewrapped and stored first; bodies stay encrypted
    copy checkpoints    those that the target lacks ─► `store_signed_checkpoint`
    compare roots again

An interrupted copy is continued by the next run, from the last record of the target.
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
    """A log whose records can be read as stored."""

    async def erasures_made_by(self, after: int, until: int) -> dict[int, list[int]]:
        """Erasure record → the positions it erases, for the records with `after` < position <= `until`."""
        ...

    async def data_keys(self, after: int, until: int) -> dict[int, DataKey]:
        """Position → data key, for the encrypted records with `after` < position <= `until` that are not erased."""
        ...


class CopyTarget(Log, Protocol):
    """A log to which records can be appended as stored."""

    async def append_raw(
        self, rows: Sequence[FrameRow], erases: Sequence[int], keys: Sequence[DataKey | None]
    ) -> list[int]:
        """Append all or none of these records. Returns their positions.

        `erases`: the positions that the record erases, if the only one is an erasure record; else empty.
        `keys`: the data key of each record; None for an unencrypted or erased one.
        """
        ...

    async def store_signed_checkpoint(self, size: int, note: str, key: str) -> bool:
        """See `Appender.store_checkpoint`. `key`: the verifier key it is signed with; "" if unknown."""
        ...


class CopyResult(msgspec.Struct, frozen=True):
    """What both logs hold now: `records`, and the `root` (base64) of their tree. This run copied `new` of the records.

    `checkpoints`: how many checkpoints both hold. `keys`: the known verifier keys of these.
    """

    records: int
    new: int
    checkpoints: int
    root: str
    keys: list[str]


async def copy_log(
    source: CopySource, target: CopyTarget, progress: Progress | None = None, *, verifiers: Sequence[Verifier] = ()
) -> CopyResult:
    """Copy what the target lacks of the source. Closes neither.

    `verifiers`: public keys that may have signed the source's checkpoints. Each checkpoint is stored with the key that
    verified it. Raises `LogUnavailable` if the target is another log, `LogCorrupt` if the source's records do not match its
    tree, `LogError`.
    """
    began = await _expect_beginning(source, target)
    done = began
    async for rows, erases in _pieces(source, target.max_batch_bytes, began):
        is_encrypted = any(row[8] is not None for row in rows)
        keys = await source.data_keys(done, done + len(rows)) if is_encrypted else {}
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
    """The records after a position, in pieces for one `append_raw` each. An erasure record is a piece of its own."""
    async for chunk in source.read_stored(after):
        if [record.position for record in chunk] != list(range(after + 1, after + 1 + len(chunk))):
            raise LogCorrupt(f"positions are missing after {after}: find out with `tracker verify`, and copy nothing")
        if record_leaf_hashes(chunk) != [record.leaf for record in chunk]:
            raise LogCorrupt(
                "a record is not the one its leaf was made of: find it with `tracker verify`, copy nothing"
            )
        after = chunk[-1].position
        may_erase = any(record.source == TRACKER for record in chunk)
        made = await source.erasures_made_by(chunk[0].position - 1, after) if may_erase else {}
        piece: list[FrameRow] = []
        size = 0
        for record in chunk:
            row, erases, more = _row_of(record), made.get(record.position, []), max_frame_bytes([record])
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
    """The verifier key of each checkpoint that both hold now; "" if unknown."""
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
    except (NoteMalformed, NoteUnverified):  # copied nevertheless; `tracker verify` reports it
        return ""


def _row_of(record: StoredRecord) -> FrameRow:
    origin = msgspec.convert(record.origin, Origin)
    return (
        record.source, record.vendor, record.event, record.dedupe_key, record.received_at, origin, record.proof,
        record.body, record.commitment,
    )  # fmt: skip
