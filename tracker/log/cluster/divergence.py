"""Whether a node's records are those that were signed: which checkpoints are believed, and this node's own root beside theirs.

Asked once of a node's own files before it takes, erases or rebuilds. A running server asks again with each new checkpoint,
and tells the other nodes (`log/cluster/cosigner.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from tracker.errors import NoteMalformed, NoteUnverified
from tracker.log.merkle.checkpoint import Checkpoint, open_checkpoint
from tracker.log.merkle.diff import Difference
from tracker.log.merkle.note import Verifier
from tracker.log.merkle.tree import root_at


class Divergence(NamedTuple):
    """This node's records are not those that were signed: roots at `size`; `root` is b"" where it has fewer records.

    `difference` None: nobody has told yet which record it is, or only hashes above the leaves differ.
    """

    size: int
    root: bytes
    signed_root: bytes
    difference: Difference | None = None

    def __str__(self) -> str:
        where = "" if self.difference is None else f", from position {self.difference.position} on"
        return (
            f"this node has diverged: its first {self.size} records are not those of the signed checkpoint{where}. Stop it, "
            "keep its files, and start it empty (docs/guides/cluster-troubleshoot.md)"
        )


@runtime_checkable
class AnnouncedKeyReader(Protocol):
    """A log that knows which key the node of its first checkpoint said it signs with."""

    async def announced_key(self) -> str | None:
        """Its verifier key."""
        ...


async def announced_keys(log: AnnouncedKeyReader) -> list[Verifier]:
    """What is believed on a node that was told no key: every node has the same first checkpoint."""
    named = await log.announced_key()
    try:
        return [] if named is None else [Verifier.read(named)]
    except NoteMalformed:
        return []


async def trusted_keys(log: object, known: Sequence[Verifier]) -> Sequence[Verifier]:
    """The keys that are known; where there are none, the one that the log names. Raises `LogError`."""
    return known or (await announced_keys(log) if isinstance(log, AnnouncedKeyReader) else [])


class TreeLog(Protocol):
    """A log with a tree."""

    async def head(self) -> int:
        """See `Log.head`."""
        ...

    async def tile(self, level: int, n: int) -> list[bytes]:
        """See `Log.tile`."""
        ...


class ComparedLog(TreeLog, AnnouncedKeyReader, Protocol):
    """A log with checkpoints and a tree."""

    async def last_checkpoint(self) -> tuple[int, str] | None:
        """See `Log.last_checkpoint`."""
        ...


async def find_divergence(log: ComparedLog, trusted: Sequence[Verifier], origin: str) -> Divergence | None:
    """How the log differs from its newest checkpoint, None where it does not. Raises `LogError`.

    `trusted`: keys that it has to be signed with; where there are none, the key that came with the first one. One that is
    not to be believed tells nothing.
    """
    newest = await log.last_checkpoint()
    if newest is None:
        return None
    try:
        signed = trusted_checkpoint(*newest, trusted or await announced_keys(log), origin)
    except (NoteMalformed, NoteUnverified):
        return None
    root = await own_root(log, signed.size)
    return None if root == signed.root else Divergence(signed.size, root, signed.root)


def trusted_checkpoint(size: int, note: str, trusted: Sequence[Verifier], origin: str) -> Checkpoint:
    """What a checkpoint that is kept as one of `size` records says. Raises `NoteMalformed`, `NoteUnverified`."""
    signed = open_checkpoint(note, trusted)
    if (signed.origin, signed.size) != (origin, size):
        raise NoteMalformed(f"it is about {signed.size} records of {signed.origin!r}")
    return signed


async def own_root(log: TreeLog, size: int) -> bytes:
    """The root of a log's first records; b"" where it does not have so many."""
    if await log.head() < size:
        return b""
    try:
        return await root_at(size, log.tile)
    except IndexError:
        return b""
