"""The cluster, with and without Tracker: `python -m bench.jetstream [--events 50000] [--only bare|tracker]`.

Three servers on this machine that sync always. Every publisher and reader is a separate process. Stored events have about
600 bytes. `bare`: nats-py alone publishes Tracker's frames, one in flight like a node, and reads them again, uncompressed and
compressed with zstd like Tracker's. `tracker ingest`: appends until they are answered, that is acknowledged and applied on
the node, with the tree. `tracker catch-up`: an empty node reads what two nodes wrote.
Prints events per second of all processes of a row together, and the processor time per event of one process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import nats
import structlog
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig
from nats.js.errors import ServiceUnavailableError

from bench import report
from tests.support.cluster import Cluster
from tracker.domain.deliveries import Verified
from tracker.log.frames import UNCOMPRESSED, MAGIC, VERSION, Frame, decode, encode, frame_row
from tracker.log.jetstream.log import JetstreamLog
from tracker.log.jetstream.validation import join_stream
from tracker.config.jetstream import JetstreamConfig
from tracker.log.sqlite.replica import Replica

STARTED = 1_700_000_000_000_000
PROOF = b'{"iss":"APIx1","sha256":"ok","nbf":1700000000,"exp":1700000300}'


class Measurement(NamedTuple):
    """What one process measured."""

    events: int
    seconds: float
    cpu_seconds: float
    bytes: int = 0


def event(node: str, n: int, drawn: random.Random) -> Verified:
    """A `participant_joined` of 600 bytes with its proof; a sixth of it are ids that do not compress."""
    body = {
        "event": "participant_joined", "createdAt": str(1_700_000_000 + n // 50), "id": f"EV_{drawn.getrandbits(96):024x}",
        "room": {"sid": f"RM_{drawn.getrandbits(64):016x}", "name": f"{node}-room-{n // 40}", "emptyTimeout": 300,
                 "creationTime": str(1_700_000_000 + n // 2000), "turnPassword": "", "enabledCodecs": []},
        "participant": {"sid": f"PA_{drawn.getrandbits(64):016x}", "identity": f"user-{drawn.randrange(100_000)}",
                        "state": "ACTIVE", "joinedAt": str(1_700_000_000 + n // 50), "name": f"Participant {n % 40}",
                        "version": 3, "permission": {"canSubscribe": True, "canPublish": True, "canPublishData": True}},
    }  # fmt: skip
    return Verified(
        source="lk", vendor="livekit", event="participant_joined", dedupe_key=f"{node}:{body['id']}",
        received_at=STARTED + n, origin="webhook", proof=PROOF, body=json.dumps(body, separators=(",", ":")).encode(),
    )  # fmt: skip


def events(node: str, count: int) -> list[Verified]:
    drawn = random.Random(node)
    return [event(node, n, drawn) for n in range(count)]


def frames(node: str, records: Sequence[Verified], size: int, *, packed: bool) -> list[tuple[bytes, bytes]]:
    """Tracker's frames of `size` events each as (frame id, bytes); `packed`: compressed, to about a tenth."""
    found: list[tuple[bytes, bytes]] = []
    for n in range(0, len(records), size):
        frame = Frame(os.urandom(16), node, [frame_row(each) for each in records[n : n + size]])
        found.append(
            (
                frame.id,
                encode(frame) if packed else MAGIC + bytes([VERSION]) + UNCOMPRESSED + msgspec.msgpack.encode(frame),
            )
        )
    return found


async def bare_publish(urls: list[str], stream: str, node: str, count: int, size: int, *, packed: bool) -> Measurement:
    """Publish one frame at a time: the next one after the acknowledgement."""
    prepared = frames(node, events(node, count), size, packed=packed)
    client = await nats.connect(servers=urls)
    js = client.jetstream(timeout=15)
    await _wait_for_start()
    began, cpu = time.perf_counter(), time.process_time()
    for name, frame in prepared:
        await js.publish(f"{stream}.frames", frame, headers={"Nats-Msg-Id": name.hex()})
    measured = Measurement(
        count, time.perf_counter() - began, time.process_time() - cpu, sum(len(frame) for _, frame in prepared)
    )
    await client.close()
    return measured


async def bare_read(urls: list[str], stream: str, node: str, count: int, size: int, *, packed: bool) -> Measurement:
    """Read the stream from beginning to end: pull in batches, decode, store nothing."""
    client = await nats.connect(servers=urls)
    js = client.jetstream(timeout=15)
    await _wait_for_start()
    began, cpu = time.perf_counter(), time.process_time()
    config = ConsumerConfig(ack_policy=AckPolicy.NONE, num_replicas=1, mem_storage=True)
    pull = await js.pull_subscribe(f"{stream}.frames", stream=stream, config=config)
    seen = weight = 0
    while seen < count:
        try:
            messages = await pull.fetch(64, timeout=10)
        except ServiceUnavailableError:  # the consumer was just created and is not ready yet
            continue
        for message in messages:
            weight += len(message.data)
            frame = decode(message.data)
            seen += len(frame.records) if isinstance(frame, Frame) else 0
    measured = Measurement(seen, time.perf_counter() - began, time.process_time() - cpu, weight)
    await client.close()
    return measured


async def tracker_ingest(urls: list[str], stream: str, node: str, count: int, size: int, *, folder: str) -> Measurement:
    """Append by twice as many callers as a frame has events, so that the next frame fills while one is sent."""
    records = iter(events(node, count))
    log = await _opened(urls, stream, node, folder)
    await log.wait_until_caught_up()

    async def call() -> None:
        for each in records:
            await log.append(each)

    await _wait_for_start()
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(call() for _ in range(2 * size)))
    measured = Measurement(count, time.perf_counter() - began, time.process_time() - cpu)
    await log.close()
    return measured


async def tracker_catch_up(
    urls: list[str], stream: str, node: str, count: int, size: int, *, folder: str
) -> Measurement:
    """Catch up from empty to the end of the stream: rows, leaves and tree. The time to connect counts too."""
    await _wait_for_start()
    began, cpu = time.perf_counter(), time.process_time()
    log = await _opened(urls, stream, node, folder)
    while (head := await log.wait(count - 1, 1)) < count:
        pass
    measured = Measurement(head, time.perf_counter() - began, time.process_time() - cpu)
    await log.close()
    return measured


async def _opened(urls: list[str], stream: str, node: str, folder: str) -> JetstreamLog:
    settings = JetstreamConfig(servers=tuple(urls), stream=stream, node=node, replicas=3)
    path = Path(folder) / f"{stream}-{node}" / "log.db"
    await Replica.init(path, log_id=await join_stream(settings, stream), stream=stream)
    return await JetstreamLog.open(path, settings)


WORK = {
    "bare publish": bare_publish, "bare read": bare_read,
    "tracker ingest": tracker_ingest, "tracker catch-up": tracker_catch_up,
}  # fmt: skip


async def _wait_for_start() -> None:
    """Report that this process is prepared, and wait for the start signal: all processes of a row start at once."""
    print("prepared", flush=True)
    await asyncio.to_thread(sys.stdin.readline)


async def row(
    what: str, cluster: Cluster, stream: str, nodes: Sequence[str], count: int, size: int, **more: Any
) -> list[Measurement]:
    """Run the same work in one process for each node."""
    workers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.jetstream", "--work",
            json.dumps({"what": what, "urls": cluster.urls, "stream": stream, "node": node, "count": count, "size": size} | more),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )
        for node in nodes
    ]  # fmt: skip
    for worker in workers:
        assert worker.stdout is not None
        assert await worker.stdout.readline() == b"prepared\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(b"go\n")
    measured = [Measurement(*json.loads((await worker.communicate())[0])) for worker in workers]
    print(
        f"{what + (', zstd' if more.get('packed') else ''):22} {len(nodes):5} {size or '':>6} {sum(each.events / each.seconds for each in measured):10,.0f} "
        f"{sum(each.cpu_seconds for each in measured) / sum(each.events for each in measured) * 1e6:8.1f}", flush=True,
    )  # fmt: skip
    return measured


async def make_stream(cluster: Cluster, name: str) -> None:
    client = await nats.connect(servers=cluster.urls)
    config = StreamConfig(name=name, subjects=[f"{name}.frames"], num_replicas=3, deny_delete=True, deny_purge=True)
    await client.jetstream(timeout=10).add_stream(config)
    await client.close()


async def table(count: int, only: str | None, sizes: Sequence[int]) -> None:
    """Print the table: all rows in one run, on one cluster."""
    with tempfile.TemporaryDirectory() as folder:
        async with Cluster(Path(folder) / "servers") as cluster:
            print(f"{'':22} {'nodes':>5} {'frame':>6} {'events/s':>10} {'cpu us':>8}")
            for size in sizes:
                if only != "tracker":
                    await bare_rows(cluster, count, size)
                if only != "bare":
                    await tracker_rows(cluster, count, size, folder)


async def bare_rows(cluster: Cluster, count: int, size: int) -> None:
    for packed in (False, True):
        for nodes in (("a",), ("a", "b")):
            stream = f"bare-{size}-{len(nodes)}-{packed}"
            await make_stream(cluster, stream)
            await row("bare publish", cluster, stream, nodes, count, size, packed=packed)
        await row("bare read", cluster, f"bare-{size}-2-{packed}", ("r",), 2 * count, size, packed=packed)


async def tracker_rows(cluster: Cluster, count: int, size: int, folder: str) -> None:
    for nodes in (("a",), ("a", "b")):
        await row("tracker ingest", cluster, f"log-{size}-{len(nodes)}", nodes, count, size, folder=folder)
    await row("tracker catch-up", cluster, f"log-{size}-2", ("c",), 2 * count, size, folder=folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit code."""
    parser = report.parser(__doc__)
    parser.add_argument("--events", type=int, default=50_000, help="of each process")
    parser.add_argument("--only", choices=("bare", "tracker"))
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.smoke:
        options.events, options.only = 100, options.only or "tracker"
    if options.work:
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
        what = json.loads(options.work)
        print(json.dumps(asyncio.run(WORK[what.pop("what")](**what))))
    else:
        asyncio.run(table(options.events, options.only, (100,) if options.smoke else (100, 500)))
    return 0


if __name__ == "__main__":
    report.run(main)
