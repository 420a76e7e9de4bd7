"""The station that signs the log: on a schedule, or once, it vouches for the tree as it is now.

    look at the head ─► does it continue what was signed last? ─► sign ─► keep in the log ─► append to the file
                              └─ no: say so loudly, sign nothing

Who signs two histories has signed nothing; so the newest checkpoint kept and the newest in the file are both proved to be
beginnings of the tree before anything is signed. If we die between keeping and appending, the next run appends what the
file misses. It looks at the log only: ingest never notices it (law 3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import structlog

from tracker.evidence import checkpoint_file
from tracker.evidence.checkpoint_file import LockedFile
from tracker.errors import EvidenceError, HistoryChanged, NoteMalformed, NoteUnverified, TrackerError
from tracker.log.merkle.checkpoint import Checkpoint, checkpoint_text, open_checkpoint
from tracker.log.merkle.note import Signer, Verifier, sign_note
from tracker.log.merkle.tree import consistency_proof, verify_consistency
from tracker.log.contract import Log, TreeHead

RETRY_SECONDS = 60.0

log_line = structlog.get_logger("checkpoints")


class SignedCheckpoint(NamedTuple):
    """A checkpoint: the signed `note` about the tree of `size` records."""

    size: int
    note: str


class CheckpointObserver(Protocol):
    """What the station tells about itself (metrics)."""

    def checkpointed(self, size: int) -> None:
        """The log is signed up to `size`, now."""
        ...

    def checkpoint_failed(self) -> None:
        """It was not signed."""
        ...


class Checkpointer:
    """Signs one log. `former` are the public keys of signers before this one."""

    def __init__(
        self,
        log: Log,
        signer: Signer,
        *,
        file: Path,
        former: Sequence[Verifier] = (),
        observer: CheckpointObserver | None = None,
    ) -> None:
        self._log = log
        self._signer = signer
        self._file = file
        self._trusted = (signer.verifier, *former)
        self._watcher = observer

    async def sign(self) -> SignedCheckpoint | None:
        """Sign the log as it is now; when it has not grown, the checkpoint there is. None while it is empty.

        On return it is kept and in the file. Raises `HistoryChanged` (nothing was signed), `CheckpointUnwritten`,
        `LogError`.
        """
        try:
            async with checkpoint_file.locked(self._file) as held:
                made = await self._make(held)
        except TrackerError:
            if self._watcher is not None:
                self._watcher.checkpoint_failed()
            raise
        if self._watcher is not None:
            self._watcher.checkpointed(0 if made is None else made.size)
        return made

    async def run(self, every: float) -> None:
        """Make one now and every `every` seconds, for ever; the first as soon as there is a record. Failures are said."""
        while True:
            delay = every
            try:
                made = await self.sign()
                if made is None:
                    await self._log.wait(0, every)
                    delay = 0.0
                else:
                    log_line.info("the log is signed", size=made.size)
            except EvidenceError as error:
                delay = min(every, RETRY_SECONDS)
                log_line.critical("the log is not signed", error=type(error).__name__, reason=str(error))
            except TrackerError as error:
                delay = min(every, RETRY_SECONDS)
                log_line.error("no checkpoint now, trying again", reason=str(error))
            except Exception:
                # Whatever it is: the server goes on, and the next checkpoint is tried.
                delay = min(every, RETRY_SECONDS)
                log_line.exception("no checkpoint, trying again")
            await asyncio.sleep(delay)

    async def _make(self, held: LockedFile) -> SignedCheckpoint | None:
        kept, tail, head = await self._log.last_checkpoint(), held.tail(), await self._log.tree_head()
        if kept is not None:
            await self._expect_continued(kept[1], head, "kept in the log")
        if tail.note is not None:
            await self._expect_continued(tail.note, head, f"in {self._file}")
        if head.size == 0:
            return None
        made = None if kept is None else SignedCheckpoint(*kept)
        if made is None or made.size < head.size:
            note = sign_note(checkpoint_text(self._signer.name, head.size, head.root), [self._signer])
            if not await self._log.store_checkpoint(head.size, note):
                # Somebody with another file signed the same tree in this moment; theirs is the one that is kept.
                ((_, note),) = await self._log.checkpoints(after=head.size - 1, limit=1)
            made = SignedCheckpoint(head.size, note)
        missing = await self._log.checkpoints(after=tail.size)
        held.append(tail, [note for _, note in missing])
        return made

    async def _expect_continued(self, note: str, head: TreeHead, where: str) -> None:
        """Raise `HistoryChanged` unless the tree at `head` begins with what the note signed."""
        try:
            signed = open_checkpoint(note, self._trusted)
        except (NoteMalformed, NoteUnverified) as error:
            raise HistoryChanged(
                f"the newest checkpoint {where} cannot be believed: {error}. Nothing is signed"
            ) from None
        if signed.size > head.size:
            raise HistoryChanged(
                f"the newest checkpoint {where} signs {signed.size} records, the log has {head.size}: it was rolled back "
                "or replaced. Nothing is signed: bring the whole log back, and run `tracker verify`"
            )
        if not await is_consistent(self._log, signed, head):
            raise HistoryChanged(
                f"the log does not continue the newest checkpoint {where}, of {signed.size} records: something in it was "
                "changed. Nothing is signed: copy everything, and run `tracker verify`"
            )


async def is_consistent(log: Log, signed: Checkpoint, head: TreeHead) -> bool:
    """Whether the tree at `head` begins with the one that was signed (`signed.size` at most `head.size`)."""
    proof: list[bytes] = []
    if 0 < signed.size < head.size:
        try:
            proof = await consistency_proof(signed.size, head.size, log.tile)
        except IndexError:  # tiles are missing
            return False
    return verify_consistency(signed.size, signed.root, head.size, head.root, proof)
