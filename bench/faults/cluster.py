"""A cluster under load is broken: `python -m bench.faults.cluster [--only leader,ack …] [--quick] [--seconds 6]`.

Three JetStream servers that sync always, on a disk whose power can be cut; three `tracker serve`: a and b take deliveries
of all vendors, c is tailed. Node a reaches the servers through proxies. What gets no answer is sent again, to the other node.

    leader      kill -9 of the stream's leader, ten times          follower   kill -9 of a replica's server
    ingest      kill -9 of node b                                  reader     kill -9 of node c
    power       all servers at once, unsynced writes dropped       both       every delivery to both nodes at the same moment
    ack         the network between a and the leader is cut in the middle of an acknowledgement
    stall       the same, but nothing is closed: it only stops

At the end: every delivery answered 200 is there exactly once, on every node, at the position that was answered; no gap; roots
are equal; `verify` finds nothing; the tail of c saw every position once, in order, and so did a listener of its live stream. Exit code 1 when anything was found.
`--control` cuts the power of servers with the default sync interval: there acknowledged messages must be lost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

import aiohttp
import nats
import nats.errors
from nats.js.api import StreamConfig

from tests.support.cluster import Cluster, node
from tests.support.load import Live, Load, Tail
from tests.support.power_loss import Disk, why_not
from tests.support.tcp_proxy import ACKNOWLEDGEMENT, Proxy
from tests.support.server import READ, Running
from tracker.domain.deliveries import Record
from tracker.log.contract import TreeHead
from tracker.log.sqlite.log import SqliteLog

STREAM = "tracker"
A, B, C = range(3)


class House:
    """The cluster, its disk, the proxies before node a, three nodes, the load and the tail."""

    def __init__(self, folder: Path, disk: Disk | None, seed: int) -> None:
        self.folder, self.disk, self.drawn = folder, disk, random.Random(seed)
        self.cluster = Cluster(disk.path if disk else folder / "servers", gossip=False)
        self.proxies: list[Proxy] = []
        self.nodes: list[Running] = []
        self.load: Load
        self.tail: Tail
        self.live: Live

    async def start(self) -> House:
        await self.cluster.start()
        self.proxies = [await Proxy("127.0.0.1", int(url.rsplit(":", 1)[1])).start() for url in self.cluster.urls]
        for name in "abc":
            servers = [proxy.url for proxy in self.proxies] if name == "a" else None
            running = node(self.folder, name, self.cluster, stream=STREAM, servers=servers)
            self.nodes.append(await running.start(init=True))
        self.load, self.tail, self.live = Load(self.nodes[:2]), Tail(self.nodes[C]), Live(self.nodes[C])
        return self

    async def stop(self) -> None:
        if hasattr(self, "load"):
            await self.load.stop()
            await self.tail.stop()
            await self.live.stop()
        for node in self.nodes:
            if node.process is not None:
                await node.kill()
        for proxy in self.proxies:
            await proxy.stop()
        await self.cluster.stop()

    def row(self, what: str, again: float, agreed: float | None = None) -> None:
        leads = "" if agreed is None else f"{agreed:.2f}"
        print(f"{what:40}{leads:>14}{again:10.2f}{len(self.load.answered):10}", flush=True)


async def leader(house: House, times: int) -> None:
    """Answered again: by the nodes, with one server away."""
    for n in range(times):
        number = await house.cluster.leader_of(STREAM)
        killed = time.monotonic()
        house.cluster.kill(number)
        await house.cluster.leader_of(STREAM)
        agreed = time.monotonic() - killed
        house.row(f"leader killed, {n + 1}", await house.load.is_answered(killed), agreed)
        house.cluster.start_server(number)
        await house.cluster.ready()


async def follower(house: House, times: int) -> None:
    number = (await house.cluster.leader_of(STREAM) + 1) % 3
    killed = time.monotonic()
    house.cluster.kill(number)
    house.row("a replica's server killed", await house.load.is_answered(killed))
    house.cluster.start_server(number)
    await house.cluster.ready()


async def ingest(house: House, times: int) -> None:
    """Answered again: by the node that was killed."""
    killed = time.monotonic()
    await house.nodes[B].kill()
    await asyncio.sleep(1)
    await house.nodes[B].start()
    house.row("ingest node b killed, back after 1 s", await house.load.is_answered(killed, B))


async def reader(house: House, times: int) -> None:
    """Answered again: the tail goes on."""
    killed, seen = time.monotonic(), house.tail.seen
    await house.nodes[C].kill()
    await asyncio.sleep(1)
    await house.nodes[C].start()
    while house.tail.seen <= seen and time.monotonic() < killed + 60:
        await asyncio.sleep(0.02)
    house.row("reading node c killed, back after 1 s", time.monotonic() - killed)


async def power(house: House, times: int) -> None:
    """Answered again: after all servers have started again and agreed on a leader."""
    for n in range(times if house.disk else 0):
        assert house.disk is not None
        await asyncio.sleep(house.drawn.uniform(0.5, 2))
        cut = time.monotonic()
        house.cluster.kill()
        house.disk.cut_power()
        for number in range(3):
            house.cluster.start_server(number)
        await house.cluster.ready()
        house.row(f"power of all servers cut, {n + 1}", await house.load.is_answered(cut))


async def ack(house: House, times: int) -> None:
    for n in range(times):
        await _broken(house, "cut", f"cut within an acknowledgement, {n + 1}")


async def stall(house: House, times: int) -> None:
    await _broken(house, "stall", "stalled within an acknowledgement")


async def _broken(house: House, how: Literal["cut", "stall"], what: str) -> None:
    """Node a talks to the leader itself; that connection breaks as an acknowledgement passes. Answered again: by node a."""
    number = await house.cluster.leader_of(STREAM)
    for n, proxy in enumerate(house.proxies):
        proxy.mend() if n == number else proxy.cut()
    await house.load.is_answered(time.monotonic(), A)
    broken = house.proxies[number].cut_within(ACKNOWLEDGEMENT, how)
    for n, proxy in enumerate(house.proxies):
        if n != number:
            proxy.mend()
    await asyncio.wait_for(broken.wait(), 30)
    house.row(what, await house.load.is_answered(time.monotonic(), A))
    house.proxies[number].mend()


async def both(house: House, times: int) -> None:
    began = time.monotonic()
    house.load.both = True
    await asyncio.sleep(2 * times)
    house.load.both = False
    house.row("each delivery to both nodes at once", await house.load.is_answered(began))


Scenario = Callable[[House, int], Awaitable[None]]
SCENARIOS: dict[str, tuple[Scenario, int, int]] = {  # (what, how often, how often when quick)
    "both": (both, 5, 1), "leader": (leader, 10, 1), "follower": (follower, 1, 1), "ingest": (ingest, 1, 1),
    "reader": (reader, 1, 1), "ack": (ack, 5, 1), "stall": (stall, 1, 1), "power": (power, 3, 1),
}  # fmt: skip


async def head_of(web: aiohttp.ClientSession, node: Running) -> int:
    """The last position a node shows; -1 while it shows none."""
    with contextlib.suppress(aiohttp.ClientError, OSError, ValueError, TimeoutError):
        async with web.get(f"{node.url}/v1/records?limit=1", headers=READ) as answer:
            return int(answer.headers["X-Log-Position"]) if answer.status == 200 else -1
    return -1


async def checked(house: House) -> list[str]:
    """Nothing new is sent; then the laws, on every node. What was found."""
    await house.load.drain()
    deadline = time.monotonic() + 60
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as web:
        while True:
            heads = [await head_of(web, node) for node in house.nodes]
            if len(set(heads)) == 1 and heads[0] >= max(house.load.answered.values()):
                break
            if time.monotonic() > deadline:
                return [f"the nodes stay at {heads}"]
            await asyncio.sleep(0.1)
    await house.tail.reaches(heads[0])
    faults = house.load.faults + house.tail.faults + await house.live.matches(Live(house.nodes[A]))
    kept: list[list[Record]] = []
    roots: list[TreeHead] = []
    for node in house.nodes:
        code = await node.stop()
        faults += [] if code == 0 else [f"{node.folder.name} ended with {code}"]
        log = await SqliteLog.open(node.log_path)
        kept.append([record async for chunk in log.read(0) for record in chunk])
        roots.append(await log.tree_head())
        await log.close()
        code, out, complaint = await node.run("verify")
        faults += [] if code == 0 else [f"verify {node.folder.name}: {out}{complaint}"]
    faults += [
        f"{node.folder.name} keeps other records than a" for node, each in zip(house.nodes, kept) if each != kept[A]
    ]
    faults += [] if len(set(roots)) == 1 else [f"roots {roots}"]
    places = {(record.source, record.body): record.position for record in kept[A]}
    lost = sum(places.get(what) != position for what, position in house.load.answered.items())
    gaps = sum(record.position != n for n, record in enumerate(kept[A], 1))
    twice = len(kept[A]) - len({(record.source, record.dedupe_key) for record in kept[A]}) + len(kept[A]) - len(places)
    print(
        f"answered {len(house.load.answered)}, in the log {len(kept[A])}, lost {lost}, gaps {gaps}, twice {twice}, "
        f"not answered at first {dict(house.load.refused)}, tail {house.tail.seen}, live entries {len(house.live.ids)}"
    )
    return faults + [f"{n} {what}" for what, n in (("lost", lost), ("gaps", gaps), ("twice", twice)) if n]


async def broken(folder: Path, disk: Disk | None, only: list[str], *, quick: bool) -> list[str]:
    """All scenarios under one load; what was found."""
    house = House(folder, disk, seed=6)
    try:
        await house.start()
        house.load.start()
        print(f"{'':40}{'new leader s':>14}{'again s':>10}{'answered':>10}")
        for name in only:
            scenario, times, short = SCENARIOS[name]
            await scenario(house, short if quick else times)
            await asyncio.sleep(0.2 if quick else 2)
        return await checked(house)
    finally:
        await house.stop()


async def control(disk: Disk, sync: str | None, seconds: float) -> tuple[int, int]:
    """(acknowledged, still there) messages of a bare client after a power cut of servers that sync so."""
    async with Cluster(disk.path, sync=sync) as cluster:
        client = await nats.connect(servers=cluster.urls, error_cb=_quiet)
        js, acknowledged, drawn = client.jetstream(timeout=5), 0, random.Random(6)
        await js.add_stream(StreamConfig(name=STREAM, subjects=[f"{STREAM}.frames"], num_replicas=3))
        await asyncio.to_thread(disk.sync)  # the stream itself is older than the cut

        async def publish() -> None:
            nonlocal acknowledged
            while True:
                await js.publish(f"{STREAM}.frames", drawn.randbytes(5000))
                acknowledged += 1

        publishing = asyncio.create_task(publish())
        await asyncio.sleep(seconds)
        cluster.kill()
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        disk.cut_power()
        for number in range(3):
            cluster.start_server(number)
        kept, deadline = 0, time.monotonic() + 30  # that the stream does not come back is a loss too
        while not kept and time.monotonic() < deadline:
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                kept = (await js.stream_info(STREAM)).state.messages
                deadline = min(deadline, time.monotonic() + 3)
            await asyncio.sleep(0.1)
        await client.close()
        return acknowledged, kept


async def _quiet(_: Exception) -> None:
    """Connections are lost on purpose."""


def controls(folder: Path, *, quick: bool) -> list[str]:
    """The table of both ways of syncing; always has to keep everything, the default has to lose something."""
    faults = list[str]()
    print(f"{'sync_interval':20}{'acknowledged':>14}{'lost':>8}")
    for sync in ("always", None):
        lost_in_all = 0
        for n in range(1 if quick else 3):
            disk = Disk(folder / f"{sync}-{n}").mount()
            try:
                acknowledged, kept = asyncio.run(control(disk, sync, 1.5 if quick else 4))
            finally:
                disk.unmount()
            lost = max(0, acknowledged - kept)
            lost_in_all += lost
            print(f"{sync or 'default (2 min)':20}{acknowledged:14}{lost:8}", flush=True)
        if (sync is None) != bool(lost_in_all):
            faults.append(f"sync_interval {sync}: {lost_in_all} lost")
    return faults


def main() -> int:
    """The tables."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--only", default=",".join(SCENARIOS))
    asked.add_argument("--quick", action="store_true")
    asked.add_argument("--control", action="store_true")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, reason = Path(name), why_not()
        if reason:
            print("power cuts are skipped:", reason, flush=True)
        if given.control:
            faults = [] if reason else controls(folder, quick=given.quick)
        else:
            disk = None if reason else Disk(folder / "power").mount()
            try:
                faults = asyncio.run(broken(folder, disk, given.only.split(","), quick=given.quick))
            finally:
                if disk:
                    disk.unmount()
    print("faults:", faults or "none")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
