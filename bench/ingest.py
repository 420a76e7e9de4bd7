"""Ingest beside what it can be compared with: `python bench/ingest.py [--vendor livekit] [--connections 64] [--seconds 4]`.

Every mode of `ingest_server.py` is a server process of its own, loaded over real HTTP by this one with deliveries signed
beforehand; modes take turns, three rounds, the best counts. Prints deliveries per second, CPU microseconds of the server
per delivery, p50 and p99 in milliseconds, and the ratio to the bare server.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ingest_server import NOW, SECRET

from tracker.demo_calls import VENDORS, sign, whole_call

MODES = ("bare", "verify", "no-tree", "tracker", "sealed", "eventsourcing")


class Measured(NamedTuple):
    """One mode of one round."""

    rate: float
    cpu_us: float
    p50_ms: float
    p99_ms: float


def requests_of(vendor: str, count: int) -> list[bytes]:
    """Whole HTTP requests, each a delivery never sent before, signed for `NOW`."""
    found: list[bytes] = []
    seed = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while len(found) < count:
            for sent in whole_call(vendor, 1_700_000_000_000_000 + seed * 3_600_000_000, seed=seed):
                headers, suffix, _ = sign(vendor, sent.body, SECRET, NOW)
                lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                head = (
                    f"POST /hooks/s{suffix} HTTP/1.1\r\nHost: bench\r\n{lines}Content-Length: {len(sent.body)}\r\n\r\n"
                )
                found.append(head.encode() + sent.body)
            seed += 1
    return found[:count]


class Sender(asyncio.Protocol):
    """One connection: the next request as soon as the last was answered."""

    def __init__(self, queue: list[bytes], latencies: list[float], done: asyncio.Event) -> None:
        self._queue = queue
        self._latencies = latencies
        self._done = done
        self._held = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._next()

    def data_received(self, data: bytes) -> None:
        """Answers are small and have a length; the next request goes out when one is whole."""
        self._held += data
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._held[:end].lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        if len(self._held) < end + 4 + length:
            return
        if not self._held.startswith(b"HTTP/1.1 200"):
            raise SystemExit(self._held.decode())
        self._held = b""
        self._latencies.append(time.perf_counter() - self._sent_at)
        self._next()

    def _next(self) -> None:
        if self._queue:
            self._sent_at = time.perf_counter()
            self._transport.write(self._queue.pop())
        else:
            self._done.set()
            self._transport.close()


async def load(port: int, requests: Sequence[bytes], connections: int) -> tuple[float, list[float]]:
    """Send them all; seconds, and the latency of each."""
    queue, latencies, done = list(requests), [], []
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    for _ in range(connections):
        event = asyncio.Event()
        done.append(event.wait())
        await loop.create_connection(lambda event=event: Sender(queue, latencies, event), "127.0.0.1", port)
    await asyncio.gather(*done)
    return time.perf_counter() - started, latencies


def measure(mode: str, vendor: str, requests: Sequence[bytes], connections: int, options: list[str]) -> Measured:
    """One mode, from an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(__file__).with_name("ingest_server.py"))
        server = subprocess.Popen(
            [sys.executable, program, mode, vendor, folder, *options], stdout=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        port = int(server.stdout.readline())
        asyncio.run(load(port, requests[:500], connections))
        before = cpu_of(server.pid)
        seconds, latencies = asyncio.run(load(port, requests[500:], connections))
        cpu = cpu_of(server.pid) - before
        server.terminate()
        server.wait()
    latencies.sort()
    count = len(latencies)
    return Measured(
        count / seconds, cpu / count * 1e6, latencies[count // 2] * 1000, latencies[int(count * 0.99)] * 1000
    )


def cpu_of(process: int) -> float:
    """CPU seconds a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def main() -> None:
    """The table."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--vendor", choices=VENDORS, default="livekit")
    asked.add_argument("--connections", type=int, default=64)
    asked.add_argument("--requests", type=int, default=12_000)
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--modes", default=",".join(MODES))
    asked.add_argument("--uvloop", action="store_true")
    given = asked.parse_args()
    requests = requests_of(given.vendor, given.requests + 500)
    options = ["--uvloop"] if given.uvloop else []
    best: dict[str, Measured] = {}
    for _ in range(given.rounds):
        for mode in given.modes.split(","):
            found = measure(mode, given.vendor, requests, given.connections, options)
            if mode not in best or found.rate > best[mode].rate:
                best[mode] = found
    size = sum(map(len, requests)) // len(requests)
    print(f"{given.vendor}, {given.connections} connections, {given.requests} requests of {size} bytes on the wire")
    print(f"{'':15}{'per second':>11}{'of bare':>9}{'CPU us':>8}{'p50 ms':>8}{'p99 ms':>8}")
    bare = best.get("bare", next(iter(best.values())))
    for mode, found in best.items():
        print(
            f"{mode:15}{found.rate:11.0f}{found.rate / bare.rate:9.2f}{found.cpu_us:8.0f}{found.p50_ms:8.2f}{found.p99_ms:8.2f}"
        )


if __name__ == "__main__":
    main()
