"""The background task of a node that compares its tree with the signed one, cosigns it, and reports a divergence.

    newest checkpoint in this node's log ─► this node's own root at that size?
        the same  ─► cosign: the line goes into the stream, and to every node
        different ─► stop projecting · find the first record that differs · report to every node · stay stopped until repaired

A replica has every record of a checkpoint that it stores, so there is nothing to wait for. The comparison runs again at every
start: a node that has diverged stays diverged. If we die half-way, the next start finds the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from tracker.errors import LogError, NoteMalformed, NoteUnverified
from tracker.log.cluster.divergence import Divergence, announced_keys, own_root, trusted_checkpoint
from tracker.log.cluster.messages import CosignedTree, DivergenceReport
from tracker.log.contract import ClusteredLog
from tracker.log.merkle.checkpoint import Checkpoint
from tracker.log.merkle.cosignature import CosignerKey, cosign
from tracker.log.merkle.diff import Difference, first_difference
from tracker.log.merkle.note import SIGNATURE_PREFIX, Signer, Verifier, read_note
from tracker.log.merkle.tree import root_at

EVERY_SECONDS = 1.0

_log = structlog.get_logger("cosigner")


class Cosigner:
    """Compares one node's tree with each new checkpoint. `signer` cosigns; it is None on the signing node.

    `trusted`: keys that must have signed a checkpoint; where there are none, the key that the first one announced.

    `compared` is set once the newest checkpoint was compared, `halted` when this node has diverged.
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
        """Of nodes that have diverged and have not been replaced since, this one included."""
        self.doubt: str | None = None
        """Why the newest checkpoint is not trusted, or that another node signs too."""
        self.cosigned_size = 0
        """Size of the largest signed tree that this node has found to be its own since its start."""
        self.quarantined = 0
        """How many messages about the tree no known key signed. They change nothing."""
        self._log = log
        self._node = node
        self._origin = origin
        self._signs = signs
        self._signer = signer
        self._trusted = trusted
        self._now = now
        self._compared_size = 0
        self._has_reported = False

    async def run(self) -> None:
        """Compare with each new checkpoint, for ever; on an error, try again."""
        await self._answer_peers()
        while True:
            try:
                await self._compare()
            except LogError as error:
                _log.warning("the newest checkpoint cannot be compared now, trying again", reason=str(error))
            await asyncio.sleep(EVERY_SECONDS)

    def metrics(self) -> tuple[int, int, int, int, int]:
        """(is this node diverged, how many nodes are, is there a doubt, `cosigned_size`, `quarantined`)."""
        is_diverged, is_in_doubt = self.diverged is not None, self.doubt is not None
        return int(is_diverged), len(self.divergence_reports), int(is_in_doubt), self.cosigned_size, self.quarantined

    async def _answer_peers(self) -> None:
        while True:
            try:
                await self._log.answer_peers()
            except LogError as error:
                _log.warning("other nodes cannot ask this one for tiles now, trying again", reason=str(error))
                await asyncio.sleep(EVERY_SECONDS)
            else:
                return

    async def _compare(self) -> None:
        newest = await self._log.last_checkpoint()
        is_first = not self.compared.is_set()
        is_new = newest is not None and newest[0] > self._compared_size and self.diverged is None
        is_same_tree = newest is not None and is_new and await self._is_own_tree(*newest)
        # Before anything is published: reading works without a connection.
        self.compared.set()
        if newest is not None and is_same_tree:
            if not is_first:
                await self._notice_another_signer(newest[0])
            await self._cosign(*newest)
            self.cosigned_size = newest[0]
        if newest is not None and is_new:
            self._compared_size = newest[0]
        if self.diverged is not None:
            await self._report(self.diverged)
        self._log_new_reports(await self._log.divergence_reports())
        self.quarantined = await self._log.quarantined_count()

    async def _is_own_tree(self, size: int, note: str) -> bool:
        """Whether this node holds the tree that a trusted checkpoint signs. Sets `diverged` where it holds another one."""
        signed = self._read_trusted(size, note, self._trusted or await announced_keys(self._log))
        if signed is None:
            return False
        root = await own_root(self._log, size)
        if root == signed.root:
            return True
        self.diverged = Divergence(size, root, signed.root)
        self.halted.set()
        _log.critical("this node has diverged", size=size, root=root.hex(), signed_root=signed.root.hex())
        return False

    def _read_trusted(self, size: int, note: str, trusted: Sequence[Verifier]) -> Checkpoint | None:
        """The content of the note; None where it cannot be trusted: that is a doubt, and nothing is cosigned."""
        try:
            signed = trusted_checkpoint(size, note, trusted, self._origin)
        except (NoteMalformed, NoteUnverified) as error:
            self._set_doubt(f"the checkpoint of {size} records cannot be trusted: {error}")
            return None
        self.doubt = None
        return signed

    async def _notice_another_signer(self, size: int) -> None:
        by = await self._log.signing_node(size)
        # Checkpoints that are there at the start may be from a time when another node signed.
        if self._signs and by not in {None, self._node}:
            self._set_doubt(f"node {by} signs checkpoints too: only one node may, set jetstream.signs on the others")

    def _set_doubt(self, reason: str) -> None:
        self.doubt = reason
        _log.critical("checkpoints are not in order", reason=reason)

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

    async def _report(self, found: Divergence) -> None:
        if found.difference is None:
            difference = await self._find_difference(found)
            if difference is not None:
                found = self.diverged = found._replace(difference=difference)
                _log.critical("the first record that differs", position=difference.position)
        if not self._has_reported:
            position = None if found.difference is None else found.difference.position
            await self._log.publish_tree_message(DivergenceReport(self._node, found.size, found.root, position))
            # Someone who guessed the message could have published its id first: for a while the servers drop repeats.
            self._has_reported = any(each.node == self._node for each in await self._log.divergence_reports())

    async def _find_difference(self, found: Divergence) -> Difference | None:
        for node in await self._log.nodes_holding(found.size):

            async def there(level: int, n: int, node: str = node) -> Sequence[bytes]:
                return await self._log.peer_tile(node, level, n)

            try:
                # Only a node that holds the signed tree can show where this node differs from it.
                if await root_at(found.size, there) == found.signed_root:
                    return await first_difference(found.size, self._log.tile, there)
            except (LogError, IndexError) as error:
                _log.info("a node did not answer which record differs", node=node, reason=str(error))
        return None

    def _log_new_reports(self, reports: list[DivergenceReport]) -> None:
        for each in reports:
            if each not in self.divergence_reports and each.node != self._node:
                _log.critical("another node has diverged", node=each.node, size=each.size, position=each.position)
        self.divergence_reports = reports
