"""Whether a node's records are the signed ones: which checkpoint is trusted, and whether this node's root matches it.

Commands check a node's own files once, before they append, erase or rebuild. A running server checks again with each new
checkpoint, and reports to the other nodes (`log/cluster/cosigner.py`).
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
    """This node's records differ from the signed ones. Roots at `size`; `root` is b"" where it has fewer records.

    `difference` None: no node has reported yet which record differs, or only hashes above the leaves differ.
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
    """A log that stores which key the node of its first checkpoint announced."""

    async def announced_key(self) -> str | None:
        """The verifier key."""
        ...


class ComparedLog(AnnouncedKeyReader, Protocol):
    """A log that can be compared with its newest checkpoint."""

    async def head(self) -> int: ...

    async def tile(self, level: int, n: int) -> list[bytes]: ...

    async def last_checkpoint(self) -> tuple[int, str] | None: ...


async def announced_keys(log: AnnouncedKeyReader) -> list[Verifier]:
    """The keys to trust on a node without configured keys. All nodes agree: every node has the same first checkpoint."""
    announced = await log.announced_key()
    try:
        return [] if announced is None else [Verifier.read(announced)]
    except NoteMalformed:
        return []


async def trusted_keys(log: object, configured: Sequence[Verifier]) -> Sequence[Verifier]:
    """The configured keys; where there are none, the key that the log's first checkpoint announced. Raises `LogError`."""
    return configured or (await announced_keys(log) if isinstance(log, AnnouncedKeyReader) else [])


async def find_divergence(log: ComparedLog, trusted: Sequence[Verifier], origin: str) -> Divergence | None:
    """How the log differs from its newest checkpoint; None where it does not. Raises `LogError`.

    `trusted`: keys that must have signed the checkpoint; where there are none, the announced key. A checkpoint that cannot
    be trusted proves nothing: None.
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
    """The content of a checkpoint that is stored as one of `size` records. Raises `NoteMalformed`, `NoteUnverified`."""
    signed = open_checkpoint(note, trusted)
    if (signed.origin, signed.size) != (origin, size):
        raise NoteMalformed(f"it is about {signed.size} records of {signed.origin!r}")
    return signed


async def own_root(log: ComparedLog, size: int) -> bytes:
    """The root over a log's first `size` records; b"" where it has fewer."""
    if await log.head() < size:
        return b""
    try:
        return await root_at(size, log.tile)
    except IndexError:
        return b""
