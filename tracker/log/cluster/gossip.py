"""The nodes of a cluster know of each other: each says every few seconds how it is; nothing of it is kept anywhere.

    this node's status ──► <stream>.nodes.<node> ──► every node ──► its sources page and metrics

A node that has said nothing for 15 s is shown as silent, and forgotten after a day. If messages are lost, the next ones say it all.
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

_log = structlog.get_logger("neighbours")

Short = Annotated[str, msgspec.Meta(max_length=200)]


class SourceActivity(msgspec.Struct, frozen=True, kw_only=True):
    """What a node's hooks saw of a source since the node was started; times in µs. "?" is no source of ours."""

    name: Short
    last_seen: int | None
    last_refused: tuple[int, Short] | None
    last_minute: int
    outcomes: dict[Short, int]


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a node is. `position` of its log; `views` of what is projected, None where it has none; times in µs.

    `behind_seconds` is None before it was level with the stream. `cosigned`: records of the largest signed tree that it
    found to be its own since its start. `diverged`: records of the signed tree that is not its own.
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
    """What a node said last, and how many µs ago."""

    status: NodeStatus
    ago: int

    @property
    def is_silent(self) -> bool:
        """Whether it should have said more since."""
        return self.ago > SILENT_US


_decoder = msgspec.json.Decoder(NodeStatus)


class NodeGossip:
    """All nodes as this one has heard them. `say` gives this node's status; `now` µs since the epoch."""

    def __init__(self, log: ClusteredLog, say: Callable[[], Awaitable[NodeStatus]], now: Callable[[], int]) -> None:
        self._log = log
        self._say = say
        self._now = now
        self._own: NodeStatus | None = None
        self._heard: dict[str, tuple[NodeStatus, int]] = {}
        self._told: set[str] = set()

    async def run(self) -> None:
        """Listen and say, for ever; whatever is in the way is tried again."""
        is_listening = False
        while True:
            try:
                self._own = await self._say()
                self._heard[self._own.node] = (self._own, self._now())
                if not is_listening:
                    await self._log.receive_statuses(self._hear)
                    is_listening = True
                await self._log.publish_status(msgspec.json.encode(self._own))
            except TrackerError as error:
                _log.debug("other nodes are not told how this one is", reason=str(error))
            self._notice()
            await asyncio.sleep(EVERY_SECONDS)

    def nodes(self) -> list[PeerStatus]:
        """By name, this one too."""
        now = self._now()
        return [PeerStatus(status, max(0, now - at)) for _, (status, at) in sorted(self._heard.items())]

    def others(self) -> list[NodeStatus]:
        """What the others said last."""
        return [each.status for each in self.nodes() if self._own is None or each.status.node != self._own.node]

    def live_count(self) -> int:
        """How many nodes are not silent, this one too."""
        return sum(not each.is_silent for each in self.nodes())

    def _hear(self, message: bytes) -> None:
        try:
            status = _decoder.decode(message)
        except (msgspec.MsgspecError, ValueError):  # of another Tracker's version, perhaps
            return
        own = self._own
        if own is not None and status.node == own.node:
            if status.started != own.started:
                self._warn(f"another node calls itself {own.node!r} too: give each a jetstream.node of its own")
            return
        if status.node in self._heard or len(self._heard) < MAX_NODES:
            self._heard[status.node] = (status, self._now())

    def _notice(self) -> None:
        before = self._now() - FORGOTTEN_US
        self._heard = {name: each for name, each in self._heard.items() if each[1] > before}
        signing = [each.status.node for each in self.nodes() if each.status.signs and not each.is_silent]
        if len(signing) > 1:
            self._warn(f"the nodes {', '.join(signing)} sign checkpoints: exactly one may (jetstream.signs)")

    def _warn(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            _log.critical("the cluster is not in order", reason=what)


def finite_seconds(seconds: float) -> float | None:
    """Seconds as they can be sent: None where they are infinite."""
    return None if math.isinf(seconds) else seconds
