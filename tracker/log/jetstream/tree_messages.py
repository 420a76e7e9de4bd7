"""What a node says about the tree, and what it asks other nodes.

vouch     ──► <stream>.checkpoints, acknowledged ──► every node's replica, in stream order
hashes_of ──► <stream>.tiles.<node>: what the tree of that node is made of, as it stands there now; nothing keeps it
tell_nodes ─► <stream>.nodes.<node>: how that node is; nothing keeps it
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec
from nats.aio.msg import Msg

from tracker.errors import LogError, LogUnavailable
from tracker.log.merkle.hashing import HASH_BYTES
from tracker.log.jetstream.replicator import Replicator
from tracker.log.jetstream.replica_log import ReplicaReader
from tracker.log.jetstream.stream import Stream
from tracker.log.cluster.messages import DivergenceReport, SignedTree, TreeMessage, encode, message_id

VOUCH_SECONDS = 10.0
ATTEMPT_SECONDS = 2.0
PAUSE_SECONDS = 0.2
HASHES_SECONDS = 3.0


class ClusterReplica(ReplicaReader):
    """The half of a clustered log that is about its tree."""

    _stream: Stream
    _replicator: Replicator

    async def publish_tree_message(self, voucher: TreeMessage) -> None:
        """Say something about the tree; every node keeps it, this one on return. Raises `LogUnavailable`."""
        data = encode(voucher)
        try:
            async with asyncio.timeout(VOUCH_SECONDS):
                await self._replicator.reached(await self._vouched(data))
        except TimeoutError:
            raise LogUnavailable("what this node says about the tree is not in the stream yet: try again") from None

    async def _vouched(self, data: bytes) -> int:
        while True:
            try:
                return await self._stream.publish(data, message_id(data), ATTEMPT_SECONDS, subject="checkpoints")
            except LogUnavailable:  # there may be a leader again in a moment
                await asyncio.sleep(PAUSE_SECONDS)

    async def store_checkpoint(self, size: int, note: str) -> bool:
        """See `Log.keep_checkpoint`: every node keeps it."""
        if await self._note_of(size) is not None:
            return False
        settings = self._stream.settings
        await self.publish_tree_message(SignedTree(settings.node, size, note, settings.key))
        return await self._note_of(size) == note

    async def store_signed_checkpoint(self, size: int, note: str, key: str) -> bool:
        """Keep a checkpoint that another log was signed with; `key`: the verifier key, "" where it is not known.

        False when there is one of that size already. Raises `LogUnavailable`, also where this node does not know the key.
        """
        if await self._note_of(size) is not None:
            return False
        await self.publish_tree_message(SignedTree(self._stream.settings.node, size, note, key))
        if await self._note_of(size) is None:
            raise LogUnavailable(
                f"the checkpoint of {size} records is signed with a key that this node does not know: compare it, and write "
                f'under [evidence] of this node: former_keys = ["{key}"]'
                if key
                else f"nobody says which key the checkpoint of {size} records is signed with: name it under "
                "evidence.former_keys of the log to copy"
            )
        return True

    async def quarantined_count(self) -> int:
        """See `ClusteredLog.set_aside`."""
        return await self.replica.quarantined_count()

    async def _note_of(self, size: int) -> str | None:
        found = await self.replica.checkpoints(after=size - 1, limit=1)
        return next((note for each, note in found if each == size), None)

    async def divergence_reports(self) -> list[DivergenceReport]:
        """See `ClusteredLog.complaints`."""
        return await self.replica.divergence_reports()

    async def announced_key(self) -> str | None:
        """See `ClusteredLog.named_key`."""
        return await self.replica.announced_key()

    async def nodes_holding(self, size: int) -> list[str]:
        """See `ClusteredLog.holders_of`."""
        return [each for each in await self.replica.nodes_holding(size) if each != self._stream.settings.node]

    async def signing_node(self, size: int) -> str | None:
        """See `ClusteredLog.signer_of`."""
        return await self.replica.signing_node(size)

    async def peer_tile(self, node: str, level: int, n: int) -> Sequence[bytes]:
        """See `ClusteredLog.hashes_of`."""
        asked = msgspec.json.encode((level, n))
        answer = await self._stream.request_from_node(f"tiles.{node}", asked, HASHES_SECONDS)
        return [answer[at : at + HASH_BYTES] for at in range(0, len(answer), HASH_BYTES)]

    async def publish_status(self, news: bytes) -> None:
        """See `ClusteredLog.tell_nodes`."""
        await self._stream.publish_unstored(f"{self._stream.name}.nodes.{self._stream.settings.node}", news)

    async def receive_statuses(self, heard: Callable[[bytes], None]) -> None:
        """See `ClusteredLog.hear_nodes`."""

        async def hear(message: Msg) -> None:
            heard(message.data)

        await self._stream.listen("nodes.*", hear)

    async def answer_peers(self) -> None:
        """See `ClusteredLog.answer_neighbours`."""

        async def answer(message: Msg) -> None:
            try:
                level, n = msgspec.json.decode(message.data, type=tuple[int, int])
                hashes = b"".join(await self.replica.tile(level, n))
                await self._stream.publish_unstored(message.reply, hashes)
            except (msgspec.MsgspecError, LogError):  # whoever asked is not answered, and asks another one
                return

        await self._stream.listen(f"tiles.{self._stream.settings.node}", answer)
