"""Ingest compared with simpler servers: `python -m bench.ingest` takes five minutes; see `--help` for shorter runs.

Every mode of `ingest_server.py` is a separate server process. This process sends deliveries over real HTTP, signed
beforehand, each once. Modes take turns, and the fastest round counts. For each vendor and number of connections:

    per second, of bare    deliveries answered per second, and relative to the bare server in the same run
    p50 … p99.9            milliseconds from the last byte written to the answer
    CPU us, of bare        processor time of the server per delivery, all threads, and the bare server's time divided by it
    busy                   processor time divided by elapsed time: near 1, the server is the limit, not the load

The load is one process that writes whole requests and parses only the start and the end of an answer. It shares the
machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import report
from bench.report import Row
from bench.ingest_server import NOW, SECRET

from tracker.demo.calls import VENDORS, sign, whole_call

PROOFS = {
    "openvidu": "a header", "openvidu_meet": "an HMAC over the body", "livekit": "a JWT naming the body",
    "plugnmeet": "a JWT naming the body", "streamrec": "a token in the address",
}  # fmt: skip
MODES = ("bare", "verify", "tracker", "eventsourcing")
MORE_MODES = (*MODES, "no-tree", "sealed")
WARM = 2_000
"""Deliveries before the measurement: a source's dictionary is trained once, after its first 1,000 records."""


class Measured(NamedTuple):
    """One mode under one load; `latencies` in seconds, sorted."""

    rate: float
    cpu_us: float
    busy: float
    latencies: list[float]

    def ms(self, part: float) -> float:
        """The latency that `part` of the deliveries did not exceed."""
        return self.latencies[min(len(self.latencies) - 1, int(len(self.latencies) * part))] * 1000


def requests_of(vendor: str, count: int) -> list[bytes]:
    """Whole HTTP requests with different deliveries, signed for `NOW`."""
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
    """One connection, which sends the next request as soon as the last one was answered."""

    def __init__(self, queue: list[bytes], latencies: list[float], done: Callable[[], None]) -> None:
        self._queue = queue
        self._latencies = latencies
        self._done = done
        self._held = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport: Any = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        """Send the next request when the answer, one flat JSON object, is complete."""
        if self._held:
            data = self._held + data
        if not data.endswith(b"}"):
            self._held = data
            return
        self._held = b""
        if not data.startswith(b"HTTP/1.1 200"):
            raise SystemExit(data.decode())
        self._latencies.append(time.perf_counter() - self._sent_at)
        self._next()

    def _next(self) -> None:
        if self._queue:
            self._transport.write(self._queue.pop())
            self._sent_at = time.perf_counter()
        else:
            self._done()
            self._transport.close()


async def load(port: int, requests: Sequence[bytes], connections: int) -> tuple[float, list[float]]:
    """Send all requests; returns the seconds it took and the latency of each."""
    queue, latencies = list(requests), []
    loop = asyncio.get_running_loop()
    left, all_done = connections, asyncio.Event()

    def done() -> None:
        nonlocal left
        left -= 1
        if not left:
            all_done.set()

    started = time.perf_counter()
    for _ in range(connections):
        await loop.create_connection(lambda: Sender(queue, latencies, done), "127.0.0.1", port)
    await all_done.wait()
    return time.perf_counter() - started, latencies


@contextlib.contextmanager
def serving(mode: str, vendor: str, loop: str) -> Generator[tuple[int, int]]:
    """Start one mode in an empty folder; yields (process id, port)."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench.ingest_server", mode, vendor, folder, loop]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                yield server.pid, int(server.stdout.readline())
            finally:
                server.terminate()


def measure(process: int, port: int, requests: Sequence[bytes], connections: int) -> Measured:
    """Measure one load."""
    before = cpu_of(process)
    seconds, latencies = run(load(port, requests, connections))
    cpu = cpu_of(process) - before
    count = len(latencies)
    return Measured(count / seconds, cpu / count * 1e6, cpu / seconds, sorted(latencies))


def run(work: Any) -> Any:
    """Run on uvloop if it is installed, because it uses the least processor time."""
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - not on every system

        return uvloop.run(work)
    return asyncio.run(work)


def cpu_of(process: int) -> float:
    """CPU seconds that the living threads of a process have used, by the kernel's scheduler."""
    used = 0
    for thread in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(OSError):
            used += int((thread / "schedstat").read_text().split()[0])
    return used / 1e9


def counts(requests: int, connections: int) -> int:
    """The number of requests: fewer for few connections, which take longer and need fewer for a stable figure."""
    return max(1000, requests * min(connections, 32) // 32)


def table(vendor: str, options: argparse.Namespace) -> list[Row]:
    """Measure and print one vendor with all loads; returns the headline figures."""
    loads: list[int] = options.connections
    needed = sum(counts(options.requests, connections) for connections in loads)
    requests = requests_of(vendor, WARM + needed)
    best: dict[tuple[str, int], Measured] = {}
    for _ in range(options.rounds):
        for mode in options.modes:
            with serving(mode, vendor, options.loop) as (process, port):
                run(load(port, requests[:WARM], 8))
                start = WARM
                for connections in loads:
                    end = start + counts(options.requests, connections)
                    found = measure(process, port, requests[start:end], connections)
                    start = end
                    if (mode, connections) not in best or found.rate > best[mode, connections].rate:
                        best[mode, connections] = found
    size = sum(map(len, requests)) // len(requests)
    print(f"\n{vendor}: {PROOFS[vendor]}; {size} bytes a request, {options.loop}")
    print(f"{'':14}{'conns':>6}{'per second':>11}{'of bare':>8}{'p50':>7}{'p90':>7}{'p99':>7}{'p99.9':>7}"
          f"{'CPU us':>8}{'of bare':>8}{'busy':>6}")  # fmt: skip
    for connections in loads:
        bare = best.get(("bare", connections))
        for mode in options.modes:
            found = best[mode, connections]
            rate, cpu = (found.rate / bare.rate, bare.cpu_us / found.cpu_us) if bare else (0, 0)
            print(f"{mode:14}{connections:6}{found.rate:11.0f}{rate:8.2f}"
                  + "".join(f"{found.ms(part):7.2f}" for part in (0.5, 0.9, 0.99, 0.999))
                  + f"{found.cpu_us:8.0f}{cpu:8.2f}{found.busy:6.2f}", flush=True)  # fmt: skip
    return headlines(vendor, loads, best)


def headlines(vendor: str, loads: Sequence[int], best: dict[tuple[str, int], Measured]) -> list[Row]:
    """Of Tracker: with one connection the latency, with more the rate and p99; relative to the other servers of this run."""
    rows: list[Row] = []
    for connections in loads:
        ours, bare, peer = (best.get((mode, connections)) for mode in ("tracker", "bare", "eventsourcing"))
        what = f"{PROOFS[vendor]}, {connections} connection{'s' if connections > 1 else ''}"
        if ours is None:
            continue
        if connections == 1:
            if peer is not None:
                rows.append(
                    Row("ingest", f"{what}, p50", ours.ms(0.5), "ms", ours.ms(0.5) / peer.ms(0.5), "eventsourcing")
                )
            continue
        if bare is not None:
            rows.append(Row("ingest", what, ours.rate, "/s", ours.rate / bare.rate, "the bare server"))
            rows.append(
                Row("ingest", f"{what}, p99", ours.ms(0.99), "ms", ours.ms(0.99) / bare.ms(0.99), "the bare server")
            )
        if peer is not None:
            rows.append(Row("ingest", what, ours.rate, "/s", ours.rate / peer.rate, "eventsourcing"))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables."""

    def listed(text: str) -> list[str]:
        return text.split(",")

    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",")]

    parser = report.parser(__doc__)
    parser.add_argument("--vendors", type=listed, default=list(PROOFS)[:3], help=f"of {','.join(VENDORS)}")
    parser.add_argument("--connections", type=numbers, default=[1, 16, 64, 256])
    parser.add_argument("--modes", type=listed, default=list(MODES), help=f"of {','.join(MORE_MODES)}")
    parser.add_argument(
        "--requests", type=int, default=8_000, help="a load of 32 connections or more; fewer send fewer"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop", help="of the servers, every mode")
    options = parser.parse_args(argv)
    if options.smoke:
        options.vendors, options.connections, options.requests, options.rounds = ["openvidu"], [1, 64], 200, 1
    if "eventsourcing" in options.modes and importlib.util.find_spec("eventsourcing") is None:
        print("eventsourcing is left out: it is not installed (pip install '.[bench]')", file=sys.stderr)
        options.modes = [mode for mode in options.modes if mode != "eventsourcing"]
    report.write([row for vendor in options.vendors for row in table(vendor, options)], options)
    return 0


if __name__ == "__main__":
    report.run(main)
