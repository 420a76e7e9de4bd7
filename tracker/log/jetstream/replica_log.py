"""The part of a clustered log that reads its replica, publishes messages about the tree, and asks other nodes.

publish_tree_message ──► <stream>.checkpoints, acknowledged ──► every node's replica, in stream order
peer_tile ─────────────► <stream>.tiles.<node>: a tile of that node's tree as it is now; stored nowhere
publish_status ────────► <stream>.nodes.<node>: that node's status; stored nowhere
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec
from nats.aio.msg import Msg

from tracker.domain.deliveries import Record
from tracker.errors import LogError, LogUnavailable
from tracker.log.cluster.messages import DivergenceReport, SignedTree, TreeMessage, encode, message_id
from tracker.log.contract import StoredLeaf, StoredRecord, TreeHead
from tracker.log.jetstream.replicator import Replicator
from tracker.log.jetstream.stream import Stream
from tracker.log.keys.key_store import DataKey
from tracker.log.merkle.hashing import HASH_BYTES
from tracker.log.sqlite.replica import Replica

PUBLISH_SECONDS = 10.0
ATTEMPT_SECONDS = 2.0
PAUSE_SECONDS = 0.2
TILE_SECONDS = 3.0


class ReplicaLog:
    """Everything of `ClusteredLog` that neither appends records nor tells how the node is doing.

    `checkpoint_key`: the verifier key of this node's checkpoints; "" where it signs none.
    """

    def __init__(self, replica: Replica, stream: Stream, replicator: Replicator, checkpoint_key: str) -> None:
        self.replica = replica
        self._stream = stream
        self._replicator = replicator
        self._checkpoint_key = checkpoint_key

    # `RecordReader` and `TreeReader`, from the replica

    async def head(self) -> int:
        return await self.replica.head()

    async def record(self, position: int) -> Record | None:
        return await self.replica.record(position)

    async def last_from_source(self, source: str) -> int:
        return await self.replica.last_from_source(source)

    def read(self, after: int, *, limit: int | None = None) -> AsyncIterator[list[Record]]:
        return self.replica.read(after, limit=limit)

    async def wait(self, after: int, timeout: float) -> int:
        return await self.replica.wait(after, timeout)

    async def positions_from_source(self, source: str) -> list[int]:
        return await self.replica.positions_from_source(source)

    async def erased_positions(self, after: int, limit: int) -> list[tuple[int, int]]:
        return await self.replica.erased_positions(after, limit)

    async def erasures_made_by(self, after: int, until: int) -> dict[int, list[int]]:
        """See `CopySource.erasures_made_by`."""
        return await self.replica.erasures_made_by(after, until)

    async def data_keys(self, after: int, until: int) -> dict[int, DataKey]:
        """See `CopySource.data_keys`."""
        return await self.replica.data_keys(after, until)

    async def surplus_tile(self) -> tuple[int, int] | None:
        return await self.replica.surplus_tile()

    async def tree_head(self) -> TreeHead:
        return await self.replica.tree_head()

    async def tile(self, level: int, n: int) -> list[bytes]:
        return await self.replica.tile(level, n)

    async def leaf(self, position: int) -> StoredLeaf | None:
        return await self.replica.leaf(position)

    def read_stored(self, after: int) -> AsyncIterator[list[StoredRecord]]:
        return self.replica.read_stored(after)

    async def checkpoints(self, *, after: int = 0, limit: int | None = None) -> list[tuple[int, str]]:
        return await self.replica.checkpoints(after=after, limit=limit)

    async def cosignatures(self, size: int) -> list[str]:
        return await self.replica.cosignatures(size)

    async def last_checkpoint(self) -> tuple[int, str] | None:
        return await self.replica.last_checkpoint()

    # What nodes published about the tree, from the replica

    async def quarantined_count(self) -> int:
        return await self.replica.quarantined_count()

    async def divergence_reports(self) -> list[DivergenceReport]:
        return await self.replica.divergence_reports()

    async def announced_key(self) -> str | None:
        return await self.replica.announced_key()

    async def signing_node(self, size: int) -> str | None:
        return await self.replica.signing_node(size)

    async def nodes_holding(self, size: int) -> list[str]:
        return [each for each in await self.replica.nodes_holding(size) if each != self._stream.config.node]

    # Publishing messages about the tree

    async def publish_tree_message(self, message: TreeMessage) -> None:
        """See `ClusteredLog.publish_tree_message`."""
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
        """See `ClusteredLog.peer_tile`."""
        request = msgspec.json.encode((level, n))
        answer = await self._stream.request_from_node(f"tiles.{node}", request, TILE_SECONDS)
        return [answer[at : at + HASH_BYTES] for at in range(0, len(answer), HASH_BYTES)]

    async def answer_peers(self) -> None:
        """See `ClusteredLog.answer_peers`."""

        async def answer(message: Msg) -> None:
            try:
                level, n = msgspec.json.decode(message.data, type=tuple[int, int])
                hashes = b"".join(await self.replica.tile(level, n))
                await self._stream.publish_unstored(message.reply, hashes)
            except (msgspec.MsgspecError, LogError):  # the node gets no answer, and asks another one
                return

        await self._stream.listen(f"tiles.{self._stream.config.node}", answer)

    async def publish_status(self, status: bytes) -> None:
        """See `ClusteredLog.publish_status`."""
        await self._stream.publish_unstored(f"{self._stream.name}.nodes.{self._stream.config.node}", status)

    async def receive_statuses(self, receive: Callable[[bytes], None]) -> None:
        """See `ClusteredLog.receive_statuses`."""

        async def received(message: Msg) -> None:
            receive(message.data)

        await self._stream.listen("nodes.*", received)
