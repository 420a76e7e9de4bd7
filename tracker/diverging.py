"""Whether a node's records are those that were signed, asked once of its own files: before it takes, erases or rebuilds.

A running server asks again with each new checkpoint, and tells the other nodes (`vouching.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tracker.errors import NoteMalformed, NoteUnverified
from tracker.evidence.checkpoint_text import open_checkpoint
from tracker.evidence.notes import Verifier
from tracker.evidence.tree import root_at
from tracker.vouching import Divergence, NamingLog, named_keys


class ComparedLog(NamingLog, Protocol):
    """A log with checkpoints and a tree."""

    async def last_checkpoint(self) -> tuple[int, str] | None:
        """See `Log.last_checkpoint`."""
        ...

    async def head(self) -> int:
        """See `Log.head`."""
        ...

    async def tile(self, level: int, n: int) -> list[bytes]:
        """See `Log.tile`."""
        ...


async def divergence(log: ComparedLog, trusted: Sequence[Verifier], origin: str) -> Divergence | None:
    """How the log differs from its newest checkpoint, None where it does not. Raises `LogError`.

    `trusted`: keys that it has to be signed with; where there are none, the key that came with the first one. One that is
    not to be believed tells nothing.
    """
    newest = await log.last_checkpoint()
    if newest is None:
        return None
    size, note = newest
    try:
        signed = open_checkpoint(note, trusted or await named_keys(log))
    except (NoteMalformed, NoteUnverified):
        return None
    if (signed.origin, signed.size) != (origin, size):
        return None
    try:
        root = await root_at(size, log.tile) if await log.head() >= size else b""
    except IndexError:
        root = b""
    return None if root == signed.root else Divergence(size, root, signed.root)
