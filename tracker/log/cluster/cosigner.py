"""The station where a node compares its tree with what the signing node signed, and says what it finds to all the others.

    newest checkpoint in this node's log ─► this node's own root at that size?
        the same ─► cosign: the line goes into the stream, and to every node
        another  ─► stop projecting · find the first record that differs · complain to every node · say so until it is mended

A replica has every record of a checkpoint that it keeps, so nothing is waited for. It is looked at again at every start:
a node that has diverged stays so however often it is started. If we die half-way, the next start finds the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from tracker.log.cluster.divergence import Divergence, trusted_checkpoint, announced_keys, own_root
from tracker.errors import LogError, NoteMalformed, NoteUnverified
from tracker.log.merkle.checkpoint import Checkpoint
from tracker.log.merkle.cosignature import CosignerKey, cosign
from tracker.log.merkle.diff import Difference, first_difference
from tracker.log.merkle.note import SIGNATURE_PREFIX, Signer, Verifier, read_note
from tracker.log.merkle.tree import root_at
from tracker.log.contract import ClusteredLog
from tracker.log.cluster.messages import DivergenceReport, CosignedTree

LOOK_SECONDS = 1.0

_log = structlog.get_logger("vouching")


class Cosigner:
    """What one node finds. `signer` cosigns; None on the signing node.

    `trusted`: keys that checkpoints have to be signed with; where there are none, the key that came with the first one.

    `looked` is set once the newest checkpoint was compared, `halted` when this node has diverged.
    """

    def __init__(
        self,
        log: ClusteredLog,
        *,
        node: str,
        origin: str,
        signs: bool,
        signer: Signer | None,
        trusted: Sequence[Verifier],
        now: Callable[[], int],
    ) -> None:
        self.compared = asyncio.Event()
        self.halted = asyncio.Event()
        self.diverged: Divergence | None = None
        self.divergence_reports: list[DivergenceReport] = []
        """Of nodes that have diverged and were not made anew since, this one too."""
        self.doubt: str | None = None
        """Why the newest checkpoint is not believed, or that somebody else signs, too."""
        self.cosigned_size = 0
        """Records of the largest tree that this node has found to be the signed one since it was started."""
        self.quarantined = 0
        """Messages about the tree that nobody known has signed: they move nothing."""
        self._log = log
        self._node = node
        self._origin = origin
        self._signs = signs
        self._signer = signer
        self._trusted = trusted
        self._now = now
        self._compared = 0
        self._has_complained = False

    async def run(self) -> None:
        """Look at what is signed, for ever; whatever is in the way is tried again."""
        await self._answer_neighbours()
        while True:
            try:
                await self._look()
            except LogError as error:
                _log.warning("what is signed cannot be compared now, trying again", reason=str(error))
            await asyncio.sleep(LOOK_SECONDS)

    def metrics(self) -> tuple[int, int, int, int, int]:
        """For metrics: is this node diverged, how many are, is there a doubt, records of the largest tree found ours, `aside`."""
        is_diverged, is_in_doubt = self.diverged is not None, self.doubt is not None
        return int(is_diverged), len(self.divergence_reports), int(is_in_doubt), self.cosigned_size, self.quarantined

    async def _answer_neighbours(self) -> None:
        while True:
            try:
                await self._log.answer_peers()
            except LogError as error:
                _log.warning("other nodes cannot ask this one now, trying again", reason=str(error))
                await asyncio.sleep(LOOK_SECONDS)
            else:
                return

    async def _look(self) -> None:
        newest = await self._log.last_checkpoint()
        is_first = not self.compared.is_set()
        is_new = newest is not None and newest[0] > self._compared and self.diverged is None
        is_ours = newest is not None and is_new and await self._is_ours(*newest)
        # Before anything is said: reading goes on without a connection, too.
        self.compared.set()
        if newest is not None and is_ours:
            if not is_first:
                await self._notice_another_signer(newest[0])
            await self._cosign(*newest)
            self.cosigned_size = newest[0]
        if newest is not None and is_new:
            self._compared = newest[0]
        if self.diverged is not None:
            await self._complain(self.diverged)
        self._hear(await self._log.divergence_reports())
        self.quarantined = await self._log.quarantined_count()

    async def _is_ours(self, size: int, note: str) -> bool:
        """Whether this node holds the tree that a checkpoint signs. Where it is to be believed, and it does not: diverged."""
        signed = self._believed(size, note, self._trusted or await announced_keys(self._log))
        if signed is None:
            return False
        root = await own_root(self._log, size)
        if root == signed.root:
            return True
        self.diverged = Divergence(size, root, signed.root)
        self.halted.set()
        _log.critical("this node has diverged", size=size, root=root.hex(), signed_root=signed.root.hex())
        return False

    def _believed(self, size: int, note: str, trusted: Sequence[Verifier]) -> Checkpoint | None:
        """What the note says, None where it is not to be believed: then it is said once, and nothing is cosigned."""
        try:
            signed = trusted_checkpoint(size, note, trusted, self._origin)
        except (NoteMalformed, NoteUnverified) as error:
            self._doubt(f"the checkpoint of {size} records cannot be believed: {error}")
            return None
        self.doubt = None
        return signed

    async def _notice_another_signer(self, size: int) -> None:
        by = await self._log.signing_node(size)
        # What is there at the start may be from a time when another node signed.
        if self._signs and by not in {None, self._node}:
            self._doubt(f"node {by} signs checkpoints, too: exactly one may (jetstream.signs)")

    def _doubt(self, what: str) -> None:
        self.doubt = what
        _log.critical("checkpoints are not in order", reason=what)

    async def _cosign(self, size: int, note: str) -> None:
        signer = self._signer
        if signer is None:
            return
        if any(line.startswith(f"{SIGNATURE_PREFIX}{signer.name} ") for line in await self._log.cosignatures(size)):
            return
        line = cosign(read_note(note).text, signer, self._now() // 1_000_000)
        await self._log.publish_tree_message(
            CosignedTree(self._node, size, signer.name, line, str(CosignerKey.from_signer(signer)))
        )

    async def _complain(self, found: Divergence) -> None:
        if found.difference is None:
            difference = await self._difference(found)
            if difference is not None:
                found = self.diverged = found._replace(difference=difference)
                _log.critical("the first record that differs", position=difference.position)
        if not self._has_complained:
            position = None if found.difference is None else found.difference.position
            await self._log.publish_tree_message(DivergenceReport(self._node, found.size, found.root, position))
            # Whoever guessed the message could have taken its id: the servers pass a repeat over for a while.
            self._has_complained = any(each.node == self._node for each in await self._log.divergence_reports())

    async def _difference(self, found: Divergence) -> Difference | None:
        for node in await self._log.nodes_holding(found.size):

            async def there(level: int, n: int, node: str = node) -> Sequence[bytes]:
                return await self._log.peer_tile(node, level, n)

            try:
                # Whoever holds what was signed can say where we differ from it.
                if await root_at(found.size, there) == found.signed_root:
                    return await first_difference(found.size, self._log.tile, there)
            except (LogError, IndexError) as error:
                _log.info("a node does not say which record differs", node=node, reason=str(error))
        return None

    def _hear(self, complaints: list[DivergenceReport]) -> None:
        for each in complaints:
            if each not in self.divergence_reports and each.node != self._node:
                _log.critical("another node has diverged", node=each.node, size=each.size, position=each.position)
        self.divergence_reports = complaints
