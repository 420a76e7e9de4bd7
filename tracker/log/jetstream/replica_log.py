"""The part of a clustered log that reads its replica, publishes messages about the tree, and asks other nodes.

publish_tree_message ──► <stream>.checkpoints, acknowledged ──► every node's replica, in stream order
peer_tile ─────────────► <stream>.tiles.<node>: a tile of that node's tree as it is now; stored nowhere
publish_status ────────► <stream>.nodes.<node>: that node's status; stored nowhere
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec
from nats.aio.msg import Msg

from tracker.errors import LogError, LogUnavailable
from tracker.log.cluster.messages import SignedTree, TreeMessage, encode, message_id
from tracker.log.jetstream.replicator import Replicator
from tracker.log.jetstream.stream import Stream
from tracker.log.merkle.hashing import HASH_BYTES
from tracker.log.sqlite.replica import Replica

PUBLISH_SECONDS = 10.0
ATTEMPT_SECONDS = 2.0
PAUSE_SECONDS = 0.2
TILE_SECONDS = 3.0


class ReplicaLog:
    """Everything of `ClusteredLog` that neither appends records nor reports the state of the node.

    `checkpoint_key`: the verifier key of this node's checkpoints; "" where it signs none.
    """

    def __init__(self, replica: Replica, stream: Stream, replicator: Replicator, checkpoint_key: str) -> None:
        self.replica = replica
        self._stream = stream
        self._replicator = replicator
        self._checkpoint_key = checkpoint_key
        # `RecordReader`, `TreeReader` and `CopySource`: the replica answers.
        self.head = replica.head
        self.record = replica.record
        self.last_from_source = replica.last_from_source
        self.read = replica.read
        self.wait = replica.wait
        self.positions_from_source = replica.positions_from_source
        self.erased_positions = replica.erased_positions
        self.erasures_made_by = replica.erasures_made_by
        self.data_keys = replica.data_keys
        self.surplus_tile = replica.surplus_tile
        self.tree_head = replica.tree_head
        self.tile = replica.tile
        self.leaf = replica.leaf
        self.read_stored = replica.read_stored
        self.checkpoints = replica.checkpoints
        self.cosignatures = replica.cosignatures
        self.last_checkpoint = replica.last_checkpoint
        # What nodes published about the tree.
        self.quarantined_count = replica.quarantined_count
        self.divergence_reports = replica.divergence_reports
        self.announced_key = replica.announced_key
        self.signing_node = replica.signing_node

    async def nodes_holding(self, size: int) -> list[str]:
        return [each for each in await self.replica.nodes_holding(size) if each != self._stream.config.node]

    # Publishing messages about the tree

    async def publish_tree_message(self, message: TreeMessage) -> None:
        data = encode(message)
        try:
            async with asyncio.timeout(PUBLISH_SECONDS):
                await self._replicator.reached(await self._publish(data))
        except TimeoutError:
            raise LogUnavailable("this node's message about the tree is not in the stream yet: try again") from None

    async def _publish(self, data: bytes) -> int:
        while True:
            try:
                return await self._stream.publish(data, message_id(data), ATTEMPT_SECONDS, subject="checkpoints")
            except LogUnavailable:  # there may be a leader again in a moment
                await asyncio.sleep(PAUSE_SECONDS)

    async def store_checkpoint(self, size: int, note: str) -> bool:
        """Store a signed note on every node. See `Appender.store_checkpoint`."""
        if await self._note_of(size) is not None:
            return False
        await self.publish_tree_message(SignedTree(self._stream.config.node, size, note, self._checkpoint_key))
        return await self._note_of(size) == note

    async def store_signed_checkpoint(self, size: int, note: str, key: str) -> bool:
        """Store a checkpoint of a log that is being copied. `key`: its verifier key, "" where that is not known.

        False when there is one of that size already. Raises `LogUnavailable`, also where this node does not know the key.
        """
        if await self._note_of(size) is not None:
            return False
        await self.publish_tree_message(SignedTree(self._stream.config.node, size, note, key))
        if await self._note_of(size) is None:
            raise LogUnavailable(
                f"the checkpoint of {size} records is signed with a key that this node does not know: compare it, and write "
                f'under [evidence] of this node: former_keys = ["{key}"]'
                if key
                else f"the key that signed the checkpoint of {size} records is not known: name it under "
                "evidence.former_keys of the log to copy"
            )
        return True

    async def _note_of(self, size: int) -> str | None:
        found = await self.replica.checkpoints(after=size - 1, limit=1)
        return next((note for each, note in found if each == size), None)

    # Other nodes, outside the stream

    async def peer_tile(self, node: str, level: int, n: int) -> Sequence[bytes]:
        request = msgspec.json.encode((level, n))
        answer = await self._stream.request_from_node(f"tiles.{node}", request, TILE_SECONDS)
        return [answer[at : at + HASH_BYTES] for at in range(0, len(answer), HASH_BYTES)]

    async def answer_peers(self) -> None:

        async def answer(message: Msg) -> None:
            try:
                level, n = msgspec.json.decode(message.data, type=tuple[int, int])
                hashes = b"".join(await self.replica.tile(level, n))
                await self._stream.publish_unstored(message.reply, hashes)
            except (msgspec.MsgspecError, LogError):  # the node gets no answer, and asks another one
                return

        await self._stream.listen(f"tiles.{self._stream.config.node}", answer)

    async def publish_status(self, status: bytes) -> None:
        await self._stream.publish_unstored(f"{self._stream.name}.nodes.{self._stream.config.node}", status)

    async def receive_statuses(self, receive: Callable[[bytes], None]) -> None:

        async def received(message: Msg) -> None:
            receive(message.data)

        await self._stream.listen("nodes.*", received)
