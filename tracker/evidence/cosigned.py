"""Which other nodes vouch for a log's checkpoints, checked with their public keys."""

from __future__ import annotations

from collections.abc import Sequence

from tracker.errors import LogError, NoteMalformed, NoteUnverified
from tracker.log.merkle.cosignature import CosignerKey, cosigned, with_cosignatures
from tracker.log.merkle.note import read_note
from tracker.log.contract import Log
from tracker.evidence.verify_log import Fault, Verification


async def check_cosignatures(log: Log, known: Sequence[CosignerKey], found: Verification) -> None:
    """Go over all lines under the checkpoints kept; who vouches for how much, and lines that are wrong, are added to `found`."""
    told: dict[str, int] = {}
    try:
        for size, note in await log.checkpoints():
            for line in await log.cosignatures(size):
                try:
                    told |= dict.fromkeys(_vouching(note, line, known), size)
                except (NoteMalformed, NoteUnverified) as error:
                    found.faults.append(Fault(None, f"under the checkpoint of {size} records: {error}"))
    except LogError as error:
        found.faults.append(Fault(None, f"the cosignatures cannot be read: {error}"))
    found.cosigned = told


def _vouching(note: str, line: str, known: Sequence[CosignerKey]) -> list[str]:
    """Who the line is from: a key's label, or only a name where its key is not known."""
    whole = with_cosignatures(note, [line])
    by = [each.by.label for each in cosigned(whole, known)]
    return by or [f"{read_note(whole).signatures[-1].name} (its key is not known)"]
