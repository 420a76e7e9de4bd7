"""Faults in a cluster under load: `python -m bench.faults.cluster [--only leader,ack …] [--quick]`.

Three JetStream servers with `sync_interval: always`, on a disk whose power can be cut. Three `tracker serve`: a and b get
deliveries of all vendors, and the records of c are read. Node a reaches the servers through proxies. Deliveries without an
answer are sent again to the other node.

    leader      kill -9 of the stream's leader, ten times          follower   kill -9 of a replica's server
    ingest      kill -9 of node b                                  reader     kill -9 of node c
    power       all servers at once, unsynced writes are lost      both       every delivery to both nodes at the same moment
    ack         the connection between a and the leader is cut in the middle of an acknowledgement
    stall       the same, but the connection stays open and carries nothing more

At the end: every delivery answered 200 is there exactly once, on every node, at its position; no gap; roots are equal;
`verify` finds nothing; the reader of c saw every position once, in order, and so did the reader of its live stream.
The exit code is 1 if a check failed.
`--control` cuts the power of servers with the default sync interval: they must lose acknowledged messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Literal

import aiohttp
import nats
import nats.errors
from nats.js.api import StreamConfig

from bench import report
from tests.support.cluster import Cluster, node
from tests.support.load import Live, Load, Tail
from tests.support.power_loss import Disk, missing_requirement
from tests.support.tcp_proxy import ACKNOWLEDGEMENT, Proxy
from tests.support.server import READ, Running
from tracker.domain.deliveries import Record
from tracker.log.contract import TreeHead
from tracker.log.sqlite.log import SqliteLog

STREAM = "tracker"
A, B, C = range(3)


class Deployment:
    """The cluster, its disk, the proxies before node a, three nodes, the load and the readers."""

    def __init__(self, folder: Path, disk: Disk | None, seed: int) -> None:
        self.folder, self.disk, self.chance = folder, disk, random.Random(seed)
        self.cluster = Cluster(disk.path if disk else folder / "servers", gossip=False)
        self.proxies: list[Proxy] = []
        self.nodes: list[Running] = []
        self.load: Load
        self.tail: Tail
        self.live: Live

    async def start(self) -> Deployment:
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
        for running in self.nodes:
            if running.process is not None:
                await running.kill()
        for proxy in self.proxies:
            await proxy.stop()
        await self.cluster.stop()

    def print_row(self, what: str, again: float, agreed: float | None = None) -> None:
        """`again`: seconds until deliveries were answered again; `agreed`: until there was a new leader."""
        leads = "" if agreed is None else f"{agreed:.2f}"
        print(f"{what:40}{leads:>14}{again:10.2f}{len(self.load.answered):10}", flush=True)


async def leader(deployment: Deployment, times: int) -> None:
    """Measured until every node answers again, while one server is down."""
    for n in range(times):
        number = await deployment.cluster.leader_of(STREAM)
        killed = time.monotonic()
        deployment.cluster.kill(number)
        await deployment.cluster.leader_of(STREAM)
        agreed = time.monotonic() - killed
        deployment.print_row(f"leader killed, {n + 1}", await deployment.load.wait_for_recovery(killed), agreed)
        deployment.cluster.start_server(number)
        await deployment.cluster.ready()


async def follower(deployment: Deployment, times: int) -> None:
    number = (await deployment.cluster.leader_of(STREAM) + 1) % 3
    killed = time.monotonic()
    deployment.cluster.kill(number)
    deployment.print_row("a replica's server killed", await deployment.load.wait_for_recovery(killed))
    deployment.cluster.start_server(number)
    await deployment.cluster.ready()


async def ingest(deployment: Deployment, times: int) -> None:
    """Measured until the killed node answers again."""
    killed = time.monotonic()
    await deployment.nodes[B].kill()
    await asyncio.sleep(1)
    await deployment.nodes[B].start()
    deployment.print_row("ingest node b killed, back after 1 s", await deployment.load.wait_for_recovery(killed, B))


async def reader(deployment: Deployment, times: int) -> None:
    """Measured until the reader of node c sees new records again."""
    killed, seen = time.monotonic(), deployment.tail.seen
    await deployment.nodes[C].kill()
    await asyncio.sleep(1)
    await deployment.nodes[C].start()
    while deployment.tail.seen <= seen and time.monotonic() < killed + 60:
        await asyncio.sleep(0.02)
    deployment.print_row("reading node c killed, back after 1 s", time.monotonic() - killed)


async def power(deployment: Deployment, times: int) -> None:
    """Measured until every node answers again, after all servers have restarted and elected a leader."""
    for n in range(times if deployment.disk else 0):
        assert deployment.disk is not None
        await asyncio.sleep(deployment.chance.uniform(0.5, 2))
        cut = time.monotonic()
        deployment.cluster.kill()
        deployment.disk.cut_power()
        for number in range(3):
            deployment.cluster.start_server(number)
        await deployment.cluster.ready()
        deployment.print_row(f"power of all servers cut, {n + 1}", await deployment.load.wait_for_recovery(cut))


async def ack(deployment: Deployment, times: int) -> None:
    for n in range(times):
        await _break_connection(deployment, "cut", f"cut within an acknowledgement, {n + 1}")


async def stall(deployment: Deployment, times: int) -> None:
    await _break_connection(deployment, "stall", "stalled within an acknowledgement")


async def _break_connection(deployment: Deployment, how: Literal["cut", "stall"], what: str) -> None:
    """Let node a reach only the leader, and break that connection during an acknowledgement. Measured until a answers."""
    number = await deployment.cluster.leader_of(STREAM)
    for n, proxy in enumerate(deployment.proxies):
        proxy.mend() if n == number else proxy.cut()
    await deployment.load.wait_for_recovery(time.monotonic(), A)
    happened = deployment.proxies[number].cut_within(ACKNOWLEDGEMENT, how)
    for n, proxy in enumerate(deployment.proxies):
        if n != number:
            proxy.mend()
    await asyncio.wait_for(happened.wait(), 30)
    deployment.print_row(what, await deployment.load.wait_for_recovery(time.monotonic(), A))
    deployment.proxies[number].mend()


async def both(deployment: Deployment, times: int) -> None:
    began = time.monotonic()
    deployment.load.both = True
    await asyncio.sleep(2 * times)
    deployment.load.both = False
    deployment.print_row("each delivery to both nodes at once", await deployment.load.wait_for_recovery(began))


Fault = Callable[[Deployment, int], Awaitable[None]]
FAULTS: dict[str, tuple[Fault, int, int]] = {  # name → (fault, times, times with --quick)
    "both": (both, 5, 1), "leader": (leader, 10, 1), "follower": (follower, 1, 1), "ingest": (ingest, 1, 1),
    "reader": (reader, 1, 1), "ack": (ack, 5, 1), "stall": (stall, 1, 1), "power": (power, 3, 1),
}  # fmt: skip


async def head_of(web: aiohttp.ClientSession, node: Running) -> int:
    """The last position that a node shows; -1 if it does not answer."""
    with contextlib.suppress(aiohttp.ClientError, OSError, ValueError, TimeoutError):
        async with web.get(f"{node.url}/v1/records?limit=1", headers=READ) as answer:
            return int(answer.headers["X-Log-Position"]) if answer.status == 200 else -1
    return -1


async def check(deployment: Deployment) -> list[str]:
    """Stop the load, then check every node; returns what is wrong."""
    await deployment.load.drain()
    deadline = time.monotonic() + 60
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as web:
        while True:
            heads = [await head_of(web, node) for node in deployment.nodes]
            if len(set(heads)) == 1 and heads[0] >= max(deployment.load.answered.values()):
                break
            if time.monotonic() > deadline:
                return [f"the nodes stay at {heads}"]
            await asyncio.sleep(0.1)
    await deployment.tail.reaches(heads[0])
    faults = deployment.load.faults + deployment.tail.faults + await deployment.live.matches(Live(deployment.nodes[A]))
    records: list[list[Record]] = []
    roots: list[TreeHead] = []
    for running in deployment.nodes:
        code = await running.stop()
        faults += [] if code == 0 else [f"{running.folder.name} ended with {code}"]
        log = await SqliteLog.open(running.log_path)
        records.append([record async for chunk in log.read(0) for record in chunk])
        roots.append(await log.tree_head())
        await log.close()
        code, out, stderr = await running.run("verify")
        faults += [] if code == 0 else [f"verify {running.folder.name}: {out}{stderr}"]
    faults += [
        f"{running.folder.name} holds other records than a"
        for running, each in zip(deployment.nodes, records)
        if each != records[A]
    ]
    faults += [] if len(set(roots)) == 1 else [f"roots {roots}"]
    positions = {(record.source, record.body): record.position for record in records[A]}
    lost = sum(positions.get(what) != position for what, position in deployment.load.answered.items())
    gaps = sum(record.position != n for n, record in enumerate(records[A], 1))
    twice = (
        len(records[A])
        - len({(record.source, record.dedupe_key) for record in records[A]})
        + len(records[A])
        - len(positions)
    )
    print(
        f"answered {len(deployment.load.answered)}, in the log {len(records[A])}, lost {lost}, gaps {gaps}, twice {twice}, "
        f"not answered at first {dict(deployment.load.refused)}, tail {deployment.tail.seen}, live entries {len(deployment.live.ids)}"
    )
    return faults + [f"{n} {what}" for what, n in (("lost", lost), ("gaps", gaps), ("twice", twice)) if n]


async def run_faults(folder: Path, disk: Disk | None, only: list[str], *, quick: bool) -> list[str]:
    """All faults under one load; returns what is wrong."""
    deployment = Deployment(folder, disk, seed=6)
    try:
        await deployment.start()
        deployment.load.start()
        print(f"{'':40}{'new leader s':>14}{'again s':>10}{'answered':>10}")
        for name in only:
            fault, times, short = FAULTS[name]
            await fault(deployment, short if quick else times)
            await asyncio.sleep(0.2 if quick else 2)
        return await check(deployment)
    finally:
        await deployment.stop()


async def control(disk: Disk, sync: str | None, seconds: float) -> tuple[int, int]:
    """(acknowledged, stored) messages of a plain client after a power cut of servers with this sync interval."""
    async with Cluster(disk.path, sync=sync) as cluster:
        client = await nats.connect(servers=cluster.urls, error_cb=_quiet)
        js, acknowledged, chance = client.jetstream(timeout=5), 0, random.Random(6)
        await js.add_stream(StreamConfig(name=STREAM, subjects=[f"{STREAM}.frames"], num_replicas=3))
        await asyncio.to_thread(disk.sync)  # the stream itself must survive the cut

        async def publish() -> None:
            nonlocal acknowledged
            while True:
                await js.publish(f"{STREAM}.frames", chance.randbytes(5000))
                acknowledged += 1

        publishing = asyncio.create_task(publish())
        await asyncio.sleep(seconds)
        cluster.kill()
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        disk.cut_power()
        for number in range(3):
            cluster.start_server(number)
        stored, deadline = 0, time.monotonic() + 30  # a stream that does not come back is a loss too
        while not stored and time.monotonic() < deadline:
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                stored = (await js.stream_info(STREAM)).state.messages
                deadline = min(deadline, time.monotonic() + 3)
            await asyncio.sleep(0.1)
        await client.close()
        return acknowledged, stored


async def _quiet(_: Exception) -> None:
    """Ignore errors: the program breaks connections on purpose."""


def run_controls(folder: Path, *, quick: bool) -> list[str]:
    """Print the table of both sync intervals. `always` has to keep everything, the default has to lose something."""
    faults = list[str]()
    print(f"{'sync_interval':20}{'acknowledged':>14}{'lost':>8}")
    for sync in ("always", None):
        lost_in_all = 0
        for n in range(1 if quick else 3):
            disk = Disk(folder / f"{sync}-{n}").mount()
            try:
                acknowledged, stored = asyncio.run(control(disk, sync, 1.5 if quick else 4))
            finally:
                disk.unmount()
            lost = max(0, acknowledged - stored)
            lost_in_all += lost
            print(f"{sync or 'default (2 min)':20}{acknowledged:14}{lost:8}", flush=True)
        if (sync is None) != bool(lost_in_all):
            faults.append(f"sync_interval {sync}: {lost_in_all} lost")
    return faults


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; returns the exit code."""
    parser = report.parser(__doc__)
    parser.add_argument("--only", default=",".join(FAULTS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--control", action="store_true")
    options = parser.parse_args(argv)
    if options.smoke:
        options.only, options.quick = "ingest", True
    with tempfile.TemporaryDirectory() as name:
        folder, reason = Path(name), missing_requirement()
        if reason:
            print("power cuts are skipped:", reason, flush=True)
        if options.control:
            faults = [] if reason else run_controls(folder, quick=options.quick)
        else:
            disk = None if reason else Disk(folder / "power").mount()
            try:
                faults = asyncio.run(run_faults(folder, disk, options.only.split(","), quick=options.quick))
            finally:
                if disk:
                    disk.unmount()
    print("faults:", faults or "none")
    return 1 if faults else 0


if __name__ == "__main__":
    report.run(main)
