"""Senders for several nodes of a cluster, and readers of one node, which survive failures of the nodes.

load = Load([a, b]); load.start() … await load.drain()     # which deliveries were answered, and when
tail = Tail(c) … await tail.reaches(position, seconds)     # every position once, in order, or a fault
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence

import aiohttp

from tests.support.server import READ, SOURCES, Running
from tracker.demo.calls import VENDORS, SampleDelivery, whole_call

START = 1_700_000_000_000_000
SENDERS = 32
ANSWER_SECONDS = 25


def deliveries() -> Iterator[tuple[str, SampleDelivery]]:
    """An endless series of different deliveries: complete calls of all vendors."""
    for call in itertools.count():
        for vendor in VENDORS:
            yield from ((vendor, sent) for sent in whole_call(vendor, START + call * 3_600_000_000, seed=call))


class Load:
    """Senders that repeat an unanswered delivery to the next node. With `both`, they send each delivery to all nodes at once."""

    def __init__(self, nodes: Sequence[Running], *, senders: int = SENDERS) -> None:
        self.both = False
        self.answered: dict[tuple[str, bytes], int] = {}
        self.faults: list[str] = []
        self.refused: collections.Counter[str] = collections.Counter()
        self._nodes, self._senders, self._source, self._stopping = nodes, senders, deliveries(), False
        self._times: list[list[tuple[float, float]]] = [[] for _ in nodes]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._send(turn)) for turn in range(self._senders)]

    async def drain(self) -> None:
        """Begin no new deliveries, and wait until all begun ones are answered."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _send(self, turn: int) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS)) as web:
            while not self._stopping:
                vendor, sent = next(self._source)
                waiting = self._chosen(turn)
                while waiting:
                    ends = await asyncio.gather(*(self._post(web, node, vendor, sent) for node in waiting))
                    if all(ends):
                        break
                    await asyncio.sleep(0.1)
                    turn += 1
                    waiting = self._chosen(turn)
                turn += 1

    def _chosen(self, turn: int) -> list[int]:
        return list(range(len(self._nodes))) if self.both else [turn % len(self._nodes)]

    async def _post(self, web: aiohttp.ClientSession, node: int, vendor: str, sent: SampleDelivery) -> bool:
        """Send one delivery; whether the answer is final."""
        began = time.monotonic()
        try:
            status, answer = await self._nodes[node].post(web, vendor, sent)
        except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
            self.refused[type(error).__name__] += 1
            return False
        if status == 503:
            self.refused["503"] += 1
            return False
        if status != 200:
            self.faults.append(f"{status} {answer}")
            return True
        key = (SOURCES[vendor], sent.body)
        if self.answered.setdefault(key, answer["position"]) != answer["position"]:
            self.faults.append(f"answered {self.answered[key]}, then {answer['position']}")
        self._times[node].append((began, time.monotonic()))
        return True

    def recovery_seconds(self, when: float, *nodes: int) -> float:
        """Seconds from `when` until each of these nodes (default: all) answered a delivery sent after it; inf if one has not yet."""
        return max(
            min((end - when for began, end in self._times[node] if began >= when), default=float("inf"))
            for node in nodes or range(len(self._nodes))
        )

    async def wait_for_recovery(self, since: float, *nodes: int, seconds: float = 90) -> float:
        """Wait for `recovery_seconds` and return it. Raises `AssertionError` if there is no answer within `seconds`."""
        deadline = time.monotonic() + seconds
        while (recovered := self.recovery_seconds(since, *nodes)) == float("inf"):
            assert time.monotonic() < deadline, f"no delivery was answered: {self.refused}"
            await asyncio.sleep(0.02)
        return recovered


class Tail:
    """A reader of one node's records that resumes after its last position."""

    def __init__(self, node: Running) -> None:
        self.seen, self.interrupted = 0, 0
        self.faults: list[str] = []
        self._node = node
        self._task = asyncio.create_task(self._follow())

    async def reaches(self, position: int, seconds: float = 60) -> None:
        """Wait until the tail has read this position as its last."""
        deadline = time.monotonic() + seconds
        while self.seen < position and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        if self.seen != position:
            self.faults.append(f"the tail ended at {self.seen} of {position}")
        await self.stop()

    async def stop(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _follow(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as web:
            while True:
                found: list[dict[str, int]] | None = None
                with contextlib.suppress(aiohttp.ClientError, OSError, ValueError, TimeoutError):
                    query = {"after": str(self.seen), "limit": "1000"}
                    async with web.get(f"{self._node.url}/v1/records", params=query, headers=READ) as answer:
                        found = (await answer.json())["items"] if answer.status == 200 else None
                self.interrupted += found is None
                for item in found or ():
                    if item["position"] != self.seen + 1:
                        self.faults.append(f"the tail saw {item['position']} after {self.seen}")
                    self.seen = item["position"]
                if not found:
                    await asyncio.sleep(0.05)


class Live:
    """A client of one node's live stream from its beginning that reconnects with the last id it received."""

    def __init__(self, node: Running) -> None:
        self.ids: list[tuple[int, int]] = []
        self._node = node
        self._task = asyncio.create_task(self._follow())

    async def matches(self, other: Live, seconds: float = 60) -> list[str]:
        """Wait until both received the same entries, and stop both. Returns the faults."""
        deadline = time.monotonic() + seconds
        while (not self.ids or self.ids != other.ids) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        await self.stop()
        await other.stop()
        faults = (
            [] if self.ids == other.ids else [f"live streams of {len(self.ids)} and {len(other.ids)} entries differ"]
        )
        return faults + [f"{b} came live after {a}" for a, b in itertools.pairwise(self.ids) if b <= a]

    async def stop(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _follow(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=5)) as web:
            while True:
                last = "-".join(map(str, self.ids[-1])) if self.ids else "0-0"
                with contextlib.suppress(aiohttp.ClientError, OSError, ValueError, TimeoutError):
                    async with web.get(f"{self._node.url}/v1/live", headers=READ | {"Last-Event-ID": last}) as answer:
                        async for line in answer.content:
                            if line.startswith(b"id: "):
                                position, _, n = line[4:].strip().partition(b"-")
                                self.ids.append((int(position), int(n)))
                await asyncio.sleep(0.05)
