"""The contract of the log: append-only, one gapless order of positions.

Laws that every engine keeps (the suite is `tests/contracts/log_contract.py`):
positions are 1, 2, 3 … in commit order · an append is all or nothing and returns after the data is durable · a duplicate
returns the first position and uses none · readers see no position before all smaller ones · `wait` wakes readers.

    RecordReader   records by position: what projectors need
    TreeReader     what proves the log: Merkle tree, stored records, checkpoints, erasures
    Appender       what adds to the log
    Log            all three · ServedLog: a server can run on it · ClusteredLog: many nodes share it
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from tracker.domain.deliveries import Appended, Record, Verified
from tracker.errors import NodeDiverged, NodeOutdated
from tracker.log.cluster.messages import DivergenceReport, TreeMessage


class TreeHead(NamedTuple):
    """The Merkle tree over the first `size` records; `root` is 32 bytes."""

    size: int
    root: bytes


class StoredLeaf(NamedTuple):
    """The leaf of a record, as it was made when the record was appended (`log/merkle/leaf.py`).

    `hash` is the leaf's. `digest` is that of proof and body as they are stored. `commitment` and `salt` belong to encrypted
    records: both are None for others, and `salt` is None once the record is erased.
    """

    position: int
    hash: bytes
    digest: bytes
    commitment: bytes | None
    salt: bytes | None


class StoredRecord(NamedTuple):
    """A record as it is stored: `proof` and `body` encrypted, or plain (`commitment` None). `leaf` is its leaf's hash."""

    position: int
    source: str
    vendor: str
    event: str
    dedupe_key: str
    received_at: int
    origin: str
    proof: bytes
    body: bytes
    leaf: bytes | None
    commitment: bytes | None


class RecordReader(Protocol):
    """Reads records by position. All methods raise `LogUnavailable` when the store cannot answer."""

    async def head(self) -> int:
        """The last position, 0 when empty."""
        ...

    async def record(self, position: int) -> Record | None:
        """The record at a position, or None."""
        ...

    async def last_from_source(self, source: str) -> int:
        """The last position of a source, 0 when there is none. It reads all records of the source: use it for small ones."""
        ...

    def read(self, after: int, *, limit: int | None = None) -> AsyncIterator[list[Record]]:
        """Records with positions greater than `after`, in order, in lists of bounded size, up to the present head."""
        ...

    async def wait(self, after: int, timeout: float) -> int:
        """Return the head as soon as it is greater than `after`, or the present head after `timeout` seconds."""
        ...


class TreeReader(Protocol):
    """Reads what proves the log. All methods raise `LogUnavailable` when the store cannot answer."""

    async def tree_head(self) -> TreeHead:
        """The tree over everything that is recorded now. Does not read the whole log."""
        ...

    async def tile(self, level: int, n: int) -> list[bytes]:
        """The hashes of a tile of the tree (`log/merkle/tree.py`): at most 256, [] where there is none."""
        ...

    async def surplus_tile(self) -> tuple[int, int] | None:
        """(level, n) of a stored tile hash that has too few leaves below it. None in an intact tree."""
        ...

    async def leaf(self, position: int) -> StoredLeaf | None:
        """The leaf of the record at a position, or None."""
        ...

    def read_stored(self, after: int) -> AsyncIterator[list[StoredRecord]]:
        """Records after a position as they are stored, in order. Gaps are not reported here: `tracker verify` finds them."""
        ...

    async def checkpoints(self, *, after: int = 0, limit: int | None = None) -> list[tuple[int, str]]:
        """(size, note) of the stored checkpoints of trees larger than `after`, by size."""
        ...

    async def last_checkpoint(self) -> tuple[int, str] | None:
        """(size, note) of the largest tree with a checkpoint."""
        ...

    async def cosignatures(self, size: int) -> list[str]:
        """The lines, with their newlines, by which other nodes cosigned the checkpoint of that size."""
        ...

    async def positions_from_source(self, source: str, *, event: str | None = None) -> list[int]:
        """All positions of a source, ascending; with `event` only those of this name. For sources with few records."""
        ...

    async def erased_positions(self, after: int, limit: int) -> list[tuple[int, int]]:
        """(position, position of the record that says it was erased), after a position, at most `limit`."""
        ...


class Appender(Protocol):
    """Adds to the log. When a method raises `LogError`, it recorded nothing."""

    @property
    def max_batch_bytes(self) -> int:
        """How much `append_all` takes at once, by `frames.max_frame_bytes`; it may refuse more with `LogUnavailable`."""
        ...

    async def append(self, verified: Verified) -> Appended:
        """Durable on return: the record's position, or the first position of a duplicate.

        Concurrent appends share one transaction (group commit). Raises `LogBusy` when the queue is over its bound and
        `LogUnavailable` when the store refuses.
        """
        ...

    def append_for(self, answer: asyncio.Future[Appended], verified: Verified) -> None:
        """Append, and resolve `answer` (of the running loop) with what `append` returns or raises.

        For callers with many deliveries at once: it needs no coroutine for each. Records of one source keep the order of
        the calls. A cancelled `answer` is left alone.
        """
        ...

    async def append_all(self, batch: Sequence[Verified]) -> list[Appended]:
        """Append many in order, in one transaction: either all are durable on return or none is."""
        ...

    async def append_erasure(self, verified: Verified, positions: Sequence[int]) -> Appended:
        """Append a record that says these earlier records are erased. From now on they are read as erased by it.

        Where one of them is an erasure itself, the records it erased are read as erased by the new one. Their keys are
        destroyed next, with `destroy_keys`.
        """
        ...

    async def destroy_keys(self, positions: Sequence[int]) -> None:
        """Destroy the data keys of erased records. Durable on return. Raises `LogUnavailable` in a log without encryption."""
        ...

    async def store_checkpoint(self, size: int, note: str) -> bool:
        """Store a signed note about the tree of `size`, for ever; False when there is one of that size already."""
        ...


class Log(RecordReader, TreeReader, Appender, Protocol):
    """A whole log, opened for reading and appending."""

    async def close(self) -> None:
        """Commit what was accepted, then release the store. Idempotent."""
        ...


class ServedLog(Log, Protocol):
    """A log that a server can run on."""

    async def check_writable(self) -> None:
        """Check that records could be appended now. Raises as `append` does."""
        ...


class Lag(NamedTuple):
    """How far a node is behind: messages of the stream that it has not applied, and for how many seconds.

    `seconds` is infinite until the node has caught up for the first time since its start.
    """

    messages: int
    seconds: float


@runtime_checkable
class ClusteredLog(ServedLog, Protocol):
    """A log that many nodes share. This node's replica may be behind.

    `erasure_applied` is set with each erasure that is applied here.
    """

    erasure_applied: asyncio.Event

    def lag(self) -> Lag:
        """How far this node is behind, as far as it knows."""
        ...

    def stop_reason(self) -> NodeDiverged | NodeOutdated | None:
        """Why this node neither accepts deliveries nor answers readers until an operator repairs it; None in order."""
        ...

    def set_divergence_check(self, diverged: Callable[[], object | None]) -> None:
        """From now on call `diverged` to learn whether this node's records differ from the signed ones.

        While it returns something, the node has a `stop_reason`: it appends no records and destroys no shared keys. It still
        follows the stream, so that it can publish its report there.
        """
        ...

    def skipped_messages(self) -> int:
        """Messages of the stream skipped since this was opened: no node can have sent them."""
        ...

    def limit_shutdown(self, seconds: float) -> None:
        """Give pending and later appends at most this many seconds from now: the server is stopping."""
        ...

    def progress(self) -> tuple[int, int]:
        """(messages applied, messages in the stream)."""
        ...

    def servers(self) -> tuple[str, ...]:
        """The names of the NATS servers that hold the stream."""
        ...

    async def wait_until_caught_up(self, timeout: float | None = None) -> bool:
        """Return True as soon as everything that was there at the start is applied; False after `timeout` seconds."""
        ...

    async def publish_tree_message(self, message: TreeMessage) -> None:
        """Publish a message about the tree. Every node stores it, this one before the return. Raises `LogUnavailable`."""
        ...

    async def divergence_reports(self) -> list[DivergenceReport]:
        """The reports of nodes that hold another tree and have not been replaced since."""
        ...

    async def quarantined_count(self) -> int:
        """How many messages about the tree no known key signed. Nothing depends on them."""
        ...

    async def signing_node(self, size: int) -> str | None:
        """The node that signed the checkpoint of that size."""
        ...

    async def announced_key(self) -> str | None:
        """The verifier key that the node of the first checkpoint announced with it."""
        ...

    async def nodes_holding(self, size: int) -> list[str]:
        """The other nodes that signed or cosigned the checkpoint of that size, the signing node first."""
        ...

    async def peer_tile(self, node: str, level: int, n: int) -> Sequence[bytes]:
        """A tile of another node's tree, as that node has it now. Raises `LogUnavailable` where it does not answer."""
        ...

    async def publish_status(self, status: bytes) -> None:
        """Send this node's status to every node that listens now. It is stored nowhere. Raises `LogUnavailable`."""
        ...

    async def receive_statuses(self, receive: Callable[[bytes], None]) -> None:
        """From now on call `receive` with each node's status, this node's too. Raises `LogUnavailable`."""
        ...

    async def answer_peers(self) -> None:
        """From now on answer other nodes that ask for tiles of this node's tree. Raises `LogUnavailable`."""
        ...
