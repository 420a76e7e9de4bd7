"""The seam of the log: append-only, one gapless order of positions.

Laws every engine keeps (the suite is `tests/contracts/log_contract.py`):
positions are 1, 2, 3 … in commit order · append is all or nothing and returns after the data is durable · a repeat
returns the first position and burns none · readers see no position before all smaller ones · `wait` wakes readers.
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
    """The leaf of a record as it was made when the record was appended (`log/merkle/leaf.py`).

    `hash` is the leaf's, `kept` the digest of proof and body as they stand in the log; `commitment` and `salt` belong to
    sealed records: None in clear, and `salt` is None once the record is erased.
    """

    position: int
    hash: bytes
    digest: bytes
    commitment: bytes | None
    salt: bytes | None


class StoredRecord(NamedTuple):
    """A record as it stands in the log: `proof` and `body` sealed, or in clear (`commitment` None); `leaf` its leaf's hash."""

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


class Log(Protocol):
    """One log. All methods raise `LogUnavailable` when the store cannot answer; nothing was recorded then."""

    @property
    def max_batch_bytes(self) -> int:
        """What `append_all` may be given at once, weighed by `frames.weight`; more may be refused with `LogUnavailable`."""
        ...

    async def append(self, verified: Verified) -> Appended:
        """Durable on return: the record's position, or the first position of a repeat.

        Concurrent appends share one transaction (group commit). Raises `LogBusy` when the queue is over its bound and
        `LogUnavailable` when the store refuses; nothing of this delivery was recorded then.
        """
        ...

    def append_for(self, answer: asyncio.Future[Appended], verified: Verified) -> None:
        """Append, and tell `answer` (of the running loop) what `append` returns or raises, unless it is done by then.

        For whoever has many at once: no coroutine for each. Records of one source stand in the order of the calls.
        """
        ...

    async def append_all(self, batch: Sequence[Verified]) -> list[Appended]:
        """The same for many, in order, all in one transaction: either all are durable on return or none is."""
        ...

    async def head(self) -> int:
        """The last position, 0 when empty."""
        ...

    async def record(self, position: int) -> Record | None:
        """The record at a position, or None."""
        ...

    async def last_from_source(self, source: str) -> int:
        """The last position of a source, 0 when there is none. For sources with few records: it looks at all of them."""
        ...

    def read(self, after: int, *, limit: int | None = None) -> AsyncIterator[list[Record]]:
        """Records with positions greater than `after`, in order, in lists of bounded size, up to the present head."""
        ...

    async def wait(self, after: int, timeout: float) -> int:
        """Return the head as soon as it is greater than `after`, or after `timeout` seconds, whatever it is then."""
        ...

    async def close(self) -> None:
        """Commit what was accepted, then let go of the store. Idempotent."""
        ...

    async def append_erasure(self, verified: Verified, positions: Sequence[int]) -> Appended:
        """Append a record that says these earlier records are erased; from now on they are read as erased by it.

        Where one of them is an erasure itself, so are those that were read as erased by that one.

        Their keys are destroyed next, by whoever owns the key store (`destroy_keys`).
        """
        ...

    async def positions_from_source(self, source: str) -> list[int]:
        """All positions of a source, ascending. For sources with few records."""
        ...

    async def erased_positions(self, after: int, limit: int) -> list[tuple[int, int]]:
        """(position, position of the record that says it was erased) of erased records after a position, at most `limit`."""
        ...

    async def surplus_tile(self) -> tuple[int, int] | None:
        """(level, n) of a stored hash of the tree that there are not leaves enough for, or None, as it should be."""
        ...

    async def destroy_keys(self, positions: Sequence[int]) -> None:
        """Destroy the data keys of erased records. Durable on return. Raises `LogUnavailable` where none are sealed."""
        ...

    async def tree_head(self) -> TreeHead:
        """The tree over everything that is recorded now. No whole-log work."""
        ...

    async def tile(self, level: int, n: int) -> list[bytes]:
        """The hashes of a tile of the tree (`log/merkle/tree.py`): at most 256, [] where there is none."""
        ...

    async def leaf(self, position: int) -> StoredLeaf | None:
        """The leaf of the record at a position, or None."""
        ...

    def read_stored(self, after: int) -> AsyncIterator[list[StoredRecord]]:
        """Records as they stand in the log after a position, by position; gaps are not looked for (`verify` does)."""
        ...

    async def store_checkpoint(self, size: int, note: str) -> bool:
        """Keep a signed note about the tree of `size`, for ever; False when there is one of that size already."""
        ...

    async def checkpoints(self, *, after: int = 0, limit: int | None = None) -> list[tuple[int, str]]:
        """(size, note) of the checkpoints kept, by size, of trees larger than `after`."""
        ...

    async def cosignatures(self, size: int) -> list[str]:
        """The lines, with their newlines, by which other nodes vouch for the checkpoint of that size."""
        ...

    async def last_checkpoint(self) -> tuple[int, str] | None:
        """(size, note) of the largest tree with a checkpoint."""
        ...


class ServedLog(Log, Protocol):
    """A log that a server runs on."""

    async def check_writable(self) -> None:
        """Whether records could be taken now. Raises as `append` does."""
        ...


class Lag(NamedTuple):
    """How far a node is behind the others: messages of the stream that it has not applied, and for how many seconds.

    `seconds` is infinite before it was level for the first time since its start.
    """

    messages: int
    seconds: float


@runtime_checkable
class ClusteredLog(ServedLog, Protocol):
    """A log that many nodes share; this node's replica may be behind. `erasures` is set with each erasure applied here."""

    erasure_applied: asyncio.Event

    def lag(self) -> Lag:
        """How far this node is behind, as far as it knows."""
        ...

    def stop_reason(self) -> NodeDiverged | NodeOutdated | None:
        """Why this node takes nothing, and has to be asked nothing, until somebody mends it; None as it should be."""
        ...

    def set_divergence_check(self, diverged: Callable[[], object | None]) -> None:
        """From now on ask `diverged` whether this node's records are not those that were signed: then it is `stopped`.

        It goes on following the stream, so that it can say so there; it appends no records and destroys no shared keys.
        """
        ...

    def skipped_messages(self) -> int:
        """Messages of the stream passed over since this was opened: no node can have sent them."""
        ...

    def limit_shutdown(self, seconds: float) -> None:
        """What is accepted, or will be, is tried for no longer than so many seconds from now: the server stops."""
        ...

    def progress(self) -> tuple[int, int]:
        """(messages applied, messages in the stream)."""
        ...

    def servers(self) -> tuple[str, ...]:
        """The names of the servers that hold the stream."""
        ...

    async def wait_until_caught_up(self, timeout: float | None = None) -> bool:
        """Return True as soon as everything that was there at the start is applied; False after `timeout` seconds."""
        ...

    async def publish_tree_message(self, voucher: TreeMessage) -> None:
        """Say something about the tree; every node keeps it, this one on return. Raises `LogUnavailable`."""
        ...

    async def divergence_reports(self) -> list[DivergenceReport]:
        """What nodes said that hold another tree, and have not been made anew since."""
        ...

    async def quarantined_count(self) -> int:
        """How many messages about the tree are not signed with a key that this node knows: nothing rests on them."""
        ...

    async def signing_node(self, size: int) -> str | None:
        """The node that signed the checkpoint of that size."""
        ...

    async def announced_key(self) -> str | None:
        """The verifier key that the node of the first checkpoint said it signs with."""
        ...

    async def nodes_holding(self, size: int) -> list[str]:
        """The other nodes that signed or cosigned the checkpoint of that size, the signing one first."""
        ...

    async def peer_tile(self, node: str, level: int, n: int) -> Sequence[bytes]:
        """A tile of another node's tree, as that node has it now. Raises `LogUnavailable` where it does not answer."""
        ...

    async def publish_status(self, news: bytes) -> None:
        """Say something to every node that listens now; nothing keeps it. Raises `LogUnavailable`."""
        ...

    async def receive_statuses(self, heard: Callable[[bytes], None]) -> None:
        """From now on call `heard` with what any node says, this one too. Raises `LogUnavailable`."""
        ...

    async def answer_peers(self) -> None:
        """From now on answer other nodes that ask for our tiles. Raises `LogUnavailable`."""
        ...
