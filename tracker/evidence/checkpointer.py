"""Signs the log: makes a checkpoint, a signed note about the log's tree, on a schedule or on demand.

    read the head ─► does it continue the last checkpoint? ─► sign ─► store in the log ─► append to the file
                            └─ no: report it, sign nothing

A signer that signs two different histories proves nothing. Therefore, before anything is signed, the newest checkpoint in
the log and the newest in the file are both proved to be prefixes of the present tree. If we die between storing and
appending, the next run appends what the file lacks. Ingest does not notice this background task (law 3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import structlog

from tracker.errors import EvidenceError, HistoryChanged, NoteMalformed, NoteUnverified, TrackerError
from tracker.evidence import checkpoint_file
from tracker.evidence.checkpoint_file import LockedFile
from tracker.log.contract import Log, TreeHead
from tracker.log.merkle.checkpoint import Checkpoint, checkpoint_text, open_checkpoint
from tracker.log.merkle.note import Signer, Verifier, sign_note
from tracker.log.merkle.tree import consistency_proof, verify_consistency

RETRY_SECONDS = 60.0

_log = structlog.get_logger("checkpoints")


class SignedCheckpoint(NamedTuple):
    """A checkpoint: the signed `note` about the tree of `size` records."""

    size: int
    note: str


class CheckpointObserver(Protocol):
    """What the checkpointer reports while it runs. The server counts it (`server/metrics`)."""

    def checkpointed(self, size: int) -> None:
        """The log is signed up to `size` records."""
        ...

    def checkpoint_failed(self) -> None:
        """The log could not be signed."""
        ...


class Checkpointer:
    """Signs one log. `former` are the public keys that signed it before."""

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
        self._observer = observer

    async def sign(self) -> SignedCheckpoint | None:
        """Sign the log as it is now. If it has not grown, return the last checkpoint; if it is empty, None.

        On return the checkpoint is in the log and in the file. Raises `HistoryChanged` (nothing was signed),
        `CheckpointUnwritten`, `LogError`.
        """
        try:
            async with checkpoint_file.locked(self._file) as file:
                checkpoint = await self._sign(file)
        except TrackerError:
            if self._observer is not None:
                self._observer.checkpoint_failed()
            raise
        if self._observer is not None:
            self._observer.checkpointed(0 if checkpoint is None else checkpoint.size)
        return checkpoint

    async def run(self, every: float) -> None:
        """Sign now and every `every` seconds, for ever; an empty log as soon as it has a record. Failures are logged."""
        while True:
            delay = every
            try:
                checkpoint = await self.sign()
                if checkpoint is None:
                    await self._log.wait(0, every)
                    delay = 0.0
                else:
                    _log.info("the log is signed", size=checkpoint.size)
            except EvidenceError as error:
                delay = min(every, RETRY_SECONDS)
                _log.critical("the log is not signed", error=type(error).__name__, reason=str(error))
            except TrackerError as error:
                delay = min(every, RETRY_SECONDS)
                _log.error("no checkpoint now, trying again", reason=str(error))
            except Exception:
                # A bug here must not stop the server: log it and try again.
                delay = min(every, RETRY_SECONDS)
                _log.exception("no checkpoint, trying again")
            await asyncio.sleep(delay)

    async def _sign(self, file: LockedFile) -> SignedCheckpoint | None:
        stored, tail, head = await self._log.last_checkpoint(), file.tail(), await self._log.tree_head()
        if stored is not None:
            await self._expect_continued(stored[1], head, "in the log")
        if tail.note is not None:
            await self._expect_continued(tail.note, head, f"in {self._file}")
        if head.size == 0:
            return None
        checkpoint = None if stored is None else SignedCheckpoint(*stored)
        if checkpoint is None or checkpoint.size < head.size:
            note = sign_note(checkpoint_text(self._signer.name, head.size, head.root), [self._signer])
            if not await self._log.store_checkpoint(head.size, note):
                # Another process with another file stored a checkpoint of this tree first: use that one.
                ((_, note),) = await self._log.checkpoints(after=head.size - 1, limit=1)
            checkpoint = SignedCheckpoint(head.size, note)
        missing = await self._log.checkpoints(after=tail.size)
        file.append(tail, [note for _, note in missing])
        return checkpoint

    async def _expect_continued(self, note: str, head: TreeHead, where: str) -> None:
        """Raise `HistoryChanged` unless the tree at `head` begins with the one the note signs."""
        try:
            signed = open_checkpoint(note, self._trusted)
        except (NoteMalformed, NoteUnverified) as error:
            raise HistoryChanged(
                f"the newest checkpoint {where} is not trusted: {error}. Nothing was signed: run `tracker verify`"
            ) from None
        if signed.size > head.size:
            raise HistoryChanged(
                f"the newest checkpoint {where} signs {signed.size} records, the log has {head.size}: it was rolled back "
                "or replaced. Nothing was signed: restore the complete log, and run `tracker verify`"
            )
        if not await is_consistent(self._log, signed, head):
            raise HistoryChanged(
                f"the log does not continue the newest checkpoint {where}, of {signed.size} records: something in it was "
                "changed. Nothing was signed: copy all files, and run `tracker verify`"
            )


async def is_consistent(log: Log, signed: Checkpoint, head: TreeHead) -> bool:
    """Whether the tree at `head` begins with the signed one (`signed.size` at most `head.size`)."""
    proof: list[bytes] = []
    if 0 < signed.size < head.size:
        try:
            proof = await consistency_proof(signed.size, head.size, log.tile)
        except IndexError:  # tiles are missing
            return False
    return verify_consistency(signed.size, signed.root, head.size, head.root, proof)
