"""Node gossip: each node of a cluster publishes its status every few seconds. The status is stored nowhere.

    this node's status ──► <stream>.nodes.<node> ──► every node ──► its sources page and metrics

A node that has published nothing for 15 s is shown as silent, and forgotten after a day. Each message holds the whole status,
so a lost one does not matter.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
import structlog

from tracker.errors import TrackerError
from tracker.log.contract import ClusteredLog

EVERY_SECONDS = 3.0
SILENT_US = 15_000_000
FORGOTTEN_US = 24 * 3_600 * 1_000_000
MAX_NODES = 100

_log = structlog.get_logger("gossip")

Short = Annotated[str, msgspec.Meta(max_length=200)]


class SourceActivity(msgspec.Struct, frozen=True, kw_only=True):
    """What a node's hooks received for a source since the node was started; times in µs. "?": no configured source."""

    name: Short
    last_seen: int | None
    last_refused: tuple[int, Short] | None
    last_minute: int
    outcomes: dict[Short, int]


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The status of a node. `position` of its log; `views`: projected position, None without views; times in µs.

    `behind_seconds` is None until it has caught up with the stream. `cosigned`: size of the largest signed tree that it found
    to be its own since its start. `diverged`: size of the signed tree that is not its own. `doubt`: why it does not trust
    the newest checkpoint.
    """

    node: Short
    role: Short
    version: Short
    started: int
    position: int
    views: int | None
    behind_messages: int
    behind_seconds: float | None
    signs: bool
    cosigned: int
    diverged: int | None
    doubt: Annotated[str, msgspec.Meta(max_length=2_000)] | None
    sources: list[SourceActivity]


class PeerStatus(msgspec.Struct, frozen=True):
    """The last status of a node, and how many µs ago it arrived."""

    status: NodeStatus
    ago: int

    @property
    def is_silent(self) -> bool:
        """Whether a newer status is overdue."""
        return self.ago > SILENT_US


_decoder = msgspec.json.Decoder(NodeStatus)


class NodeGossip:
    """All nodes that this node knows of. `own_status` returns this node's; `now` in µs since the epoch."""

    def __init__(
        self, log: ClusteredLog, own_status: Callable[[], Awaitable[NodeStatus]], now: Callable[[], int]
    ) -> None:
        self._log = log
        self._own_status = own_status
        self._now = now
        self._own: NodeStatus | None = None
        self._received: dict[str, tuple[NodeStatus, int]] = {}
        self._warned: set[str] = set()

    async def run(self) -> None:
        """Publish and receive for ever; on an error, try again next time."""
        is_listening = False
        while True:
            try:
                self._own = await self._own_status()
                self._received[self._own.node] = (self._own, self._now())
                if not is_listening:
                    await self._log.receive_statuses(self._receive)
                    is_listening = True
                await self._log.publish_status(msgspec.json.encode(self._own))
            except TrackerError as error:
                _log.debug("the status of this node could not be published", reason=str(error))
            self._review()
            await asyncio.sleep(EVERY_SECONDS)

    def nodes(self) -> list[PeerStatus]:
        """The last status of every node, this one included, sorted by name."""
        now = self._now()
        return [PeerStatus(status, max(0, now - at)) for _, (status, at) in sorted(self._received.items())]

    def others(self) -> list[NodeStatus]:
        """The last status of each other node."""
        return [each.status for each in self.nodes() if self._own is None or each.status.node != self._own.node]

    def live_count(self) -> int:
        """How many nodes are not silent, this one included."""
        return sum(not each.is_silent for each in self.nodes())

    def _receive(self, message: bytes) -> None:
        try:
            status = _decoder.decode(message)
        except (msgspec.MsgspecError, ValueError):  # perhaps of another version of Tracker
            return
        own = self._own
        if own is not None and status.node == own.node:
            if status.started != own.started:
                self._warn(f"another node is also named {own.node!r}: give each node a jetstream.node of its own")
            return
        if status.node in self._received or len(self._received) < MAX_NODES:
            self._received[status.node] = (status, self._now())

    def _review(self) -> None:
        """Forget old nodes; warn when more than one signs."""
        before = self._now() - FORGOTTEN_US
        self._received = {name: each for name, each in self._received.items() if each[1] > before}
        signing = [each.status.node for each in self.nodes() if each.status.signs and not each.is_silent]
        if len(signing) > 1:
            self._warn(
                f"the nodes {', '.join(signing)} sign checkpoints: only one may, set jetstream.signs on the others"
            )

    def _warn(self, reason: str) -> None:
        if reason not in self._warned:
            self._warned.add(reason)
            _log.critical("the cluster is misconfigured", reason=reason)


def finite_seconds(seconds: float) -> float | None:
    """Seconds as JSON can carry them: None where they are infinite."""
    return None if math.isinf(seconds) else seconds
