"""A day of a large deployment, end to end: `python -m bench.day [--sessions 1000000] [--keep FOLDER] [--connections 64] [--rebuild]`.

The calls of `calls.py` of all five vendors, on an arrival curve over 24 hours, merged into one stream by sending time: one
delivery in 300 is lost, one in 60 is sent twice, one in 30 late. They are signed and sent over HTTP as fast as they are
answered to a `tracker serve`, which verifies, appends and projects them. A third process reads from the API throughout.
Then the server is stopped, and `tracker verify` and `tracker rebuild --check` run.
With `--rebuild` the program does not wait for the projector after the last answer: it stops the server, runs `tracker
rebuild`, and starts a server, which has to continue on those views.

Prints a line every 30 s, and at the end: deliveries, answers, sessions, bytes, the time of each phase and stage, processor
time and peak memory of the server, the projector's largest lag, and the latency of reads. Exit code 1 if an answer was
wrong, a record is missing, or the views differ from a rebuild. A million sessions are 13.6 million deliveries and need at
most about 30 GB (log, views, and the second views of the check).
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import http.client
import itertools
import json
import multiprocessing
import os
import random
import resource
import signal
import tempfile
import time
import urllib.parse
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import report
from bench.calls import DAY, HOUR, SECOND, calls, deliveries
from tests.support.server import READ, SECRETS, Running, now
from tracker.domain.deliveries import Delivery
from tracker.demo.show import SOURCES
from tracker.demo.calls import settings, sign
from tracker.log.sqlite.log import SqliteLog
from tracker.projector.projector import Projector
from tracker.sources import registry
from tracker.views.sqlite.views import SqliteViews

LOST, TWICE, LATE = 300, 60, 30
"""One delivery in this many is lost, is sent again within a minute, is up to ten seconds late."""
SAYS_EVERY = 30.0
ASKS_EVERY = 0.1
LOOKS_EVERY = 0.5
SAMPLE = 10_000
"""Deliveries whose stages are measured separately, in this process."""

QUESTIONS = {
    "sessions": "/v1/sessions?limit=50",
    "open sessions": "/v1/sessions?state=open&limit=50",
    "of a source, recorded": "/v1/sessions?source=lk&has=recording",
    "a person": "/v1/sessions?identity=Person%2077",
    "q": "/v1/sessions?q=Person%20123",
    "a session": "/v1/sessions/{id}",
    "its timeline": "/v1/sessions/{id}/timeline",
    "its records": "/v1/sessions/{id}/records",
    "stats": "/v1/stats",
}


class Out(NamedTuple):
    """One delivery to send: when (µs of the simulated day), of which vendor, what."""

    at: int
    number: int
    vendor: str
    body: bytes
    query: dict[str, str]


def day(sessions: int, begin: int, *, hour: int = 0) -> Iterator[Out]:
    """Every delivery of the day, by sending time. Only calls that are open at the same time are in memory.

    `hour`: leaves out calls that begin before it.
    """
    chance = random.Random(7)
    waiting: list[Out] = []
    numbers = itertools.count()
    for plan in itertools.dropwhile(lambda plan: plan.start < begin + hour * HOUR, calls(sessions, begin, 1)):
        while waiting and waiting[0].at < plan.start:
            yield heapq.heappop(waiting)
        for sent in deliveries(plan):
            drawn = chance.random()
            if drawn < 1 / LOST:
                continue
            late = chance.randrange(10 * SECOND) if chance.random() < 1 / LATE else 0
            heapq.heappush(waiting, Out(sent.at + late, next(numbers), plan.vendor, sent.body, sent.query))
            if chance.random() < 1 / TWICE:
                again = sent.at + late + chance.randrange(60 * SECOND)
                heapq.heappush(waiting, Out(again, next(numbers), plan.vendor, sent.body, sent.query))
    while waiting:
        yield heapq.heappop(waiting)


def request_of(out: Out) -> bytes:
    """The whole HTTP request, signed now."""
    headers, suffix, _ = sign(out.vendor, out.body, SECRETS[out.vendor], now())
    query = f"?{urllib.parse.urlencode(out.query)}" if out.query else ""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST /hooks/{SOURCES[out.vendor]}{suffix}{query} HTTP/1.1\r\nHost: day\r\n{lines}Content-Length: {len(out.body)}\r\n\r\n"
    return head.encode() + out.body


class Sender(asyncio.Protocol):
    """One connection, which sends the next delivery as soon as the last was answered, and the same again after a 503."""

    def __init__(self, stream: Iterator[Out], tally: Tally) -> None:
        self._stream = stream
        self._tally = tally
        self._held = b""
        self._sending: Out | None = None
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport: Any = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        """Collect an answer; answers are small and have a length."""
        self._held += data
        head, found, body = self._held.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]):
            return
        self._held = b""
        status = int(head[9:12])
        self._tally.answers[status] += 1
        if status == 503:
            asyncio.get_running_loop().call_later(1.0, self._send)
            return
        if status == 200:
            answer = json.loads(body)
            self._tally.duplicates += answer["duplicate"]
            self._tally.highest = max(self._tally.highest, answer["position"])
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        """The server is gone: fail."""
        if not self.done.done():
            self.done.set_exception(ConnectionError(f"the server closed a connection: {exc}"))

    def _next(self) -> None:
        self._sending = next(self._stream, None)
        if self._sending is None:
            if not self.done.done():
                self.done.set_result(None)
            self._transport.close()
            return
        self._tally.vendors[self._sending.vendor] += 1
        self._tally.bytes += len(self._sending.body)
        self._send()

    def _send(self) -> None:
        assert self._sending is not None
        self._transport.write(request_of(self._sending))


class Tally:
    """Counts of what was sent and answered."""

    def __init__(self) -> None:
        self.answers: Counter[int] = Counter()
        self.vendors: Counter[str] = Counter()
        self.duplicates = 0
        self.highest = 0
        self.bytes = 0


def read_forever(url: str, results: Any, stop: Any) -> None:
    """Send the reads in turns until `stop` is set, in a separate process. Puts (name, ms) into `results`."""
    host = url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=120)
    session = ""
    while not stop.is_set():
        for name, path in QUESTIONS.items():
            begun = time.perf_counter()
            connection.request("GET", path.replace("{id}", session), headers=READ)
            answer = connection.getresponse()
            body = answer.read()
            took = (time.perf_counter() - begun) * 1000
            if answer.status == 200:
                results.put((name, took))
            if name == "sessions" and answer.status == 200 and json.loads(body)["items"]:
                session = urllib.parse.quote(json.loads(body)["items"][-1]["id"], safe="")
            time.sleep(ASKS_EVERY)


class Server(NamedTuple):
    """Resources that the server has used so far."""

    cpu: float
    peak_mb: float
    threads: dict[int, float]
    """Processor time by thread number, in the order of their start."""


def server_of(pid: int) -> Server:
    """Read them from /proc, in seconds and MB."""
    tick = os.sysconf("SC_CLK_TCK")

    def cpu(stat: str) -> float:
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / tick

    peak = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    tasks = sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda path: int(path.name))
    threads = {n: cpu((task / "stat").read_text()) for n, task in enumerate(tasks)}
    return Server(cpu(Path(f"/proc/{pid}/stat").read_text()), int(peak.split()[1]) / 1024, threads)


class ReaderTally:
    """Latencies of the reader process, and the lag of the views."""

    def __init__(self) -> None:
        self.took: dict[str, list[float]] = {}
        self.behind = 0
        """Answered records that were not in the views at the last check."""
        self.most_behind = 0

    def take(self, results: Any) -> None:
        """Take all new results."""
        while not results.empty():
            name, value = results.get()
            self.took.setdefault(name, []).append(value)


class Sent(NamedTuple):
    """The result of the live part of the day."""

    tally: Tally
    reads: ReaderTally
    sending: float
    catching_up: float | None
    """None: the program did not wait for the views."""
    at_end_of_sending: Server
    server: Server


async def live(running: Running, sessions: int, connections: int, *, waits: bool) -> Sent:
    """Send everything and print progress; if `waits`, wait until the views are level."""
    assert running.process is not None
    pid = running.process.pid
    context = multiprocessing.get_context("spawn")
    results, stop = context.Queue(), context.Event()
    reader = context.Process(target=read_forever, args=(running.url, results, stop), daemon=True)
    reader.start()
    tally, reads = Tally(), ReaderTally()
    begin = now() // DAY * DAY - DAY
    stream = day(sessions, begin)
    host, port = running.url.removeprefix("http://").rsplit(":", 1)
    loop = asyncio.get_running_loop()
    begun = time.monotonic()
    printing = asyncio.create_task(print_progress(pid, tally, reads, results, begun))
    watching = asyncio.create_task(watch(running.url, tally, reads))
    try:
        senders = [
            (await loop.create_connection(lambda: Sender(stream, tally), host, int(port)))[1]
            for _ in range(connections)
        ]
        await asyncio.gather(*(sender.done for sender in senders))
        sending, halfway = time.monotonic() - begun, server_of(pid)
        catching_up = None
        if waits:
            await level(running, tally)
            catching_up = time.monotonic() - begun - sending
    finally:
        printing.cancel()
        watching.cancel()
        stop.set()
    reader.join(120)
    reads.take(results)
    return Sent(tally, reads, sending, catching_up, halfway, server_of(pid))


async def level(running: Running, tally: Tally) -> None:
    """Wait until the views have every answered delivery."""
    async with aiohttp_session() as web:
        while int((await reading(web, running.url)).get("X-Log-Position", 0)) < tally.highest:
            await asyncio.sleep(0.2)


def aiohttp_session() -> Any:
    import aiohttp

    return aiohttp.ClientSession(headers=READ)


async def reading(web: Any, url: str) -> Any:
    """The headers of a small read."""
    async with web.get(f"{url}/v1/sessions?limit=1") as answer:
        await answer.read()
        return answer.headers


async def watch(url: str, tally: Tally, reads: ReaderTally) -> None:
    """Measure every second how far the views are behind the answers."""
    async with aiohttp_session() as web:
        while True:
            answered = tally.highest
            reads.behind = max(0, answered - int((await reading(web, url)).get("X-Log-Position", 0)))
            reads.most_behind = max(reads.most_behind, reads.behind)
            await asyncio.sleep(1.0)


async def print_progress(pid: int, tally: Tally, reads: ReaderTally, results: Any, begun: float) -> None:
    """Print a line every `SAYS_EVERY` seconds."""
    before = 0
    while True:
        await asyncio.sleep(SAYS_EVERY)
        reads.take(results)
        done = sum(tally.answers.values())
        server = server_of(pid)
        print(
            f"{time.monotonic() - begun:6.0f} s  {done:,} answered, {(done - before) / SAYS_EVERY:,.0f}/s, views {reads.behind:,} behind, "
            f"server {server.cpu:.0f} s of processor time, {server.peak_mb:.0f} MB at most",
            flush=True,
        )
        before = done


async def stages(folder: Path) -> dict[str, float]:
    """Processor time of each stage, µs per delivery, for the first deliveries of a day; measured one after the other here."""
    took: dict[str, float] = {}
    path = folder / "stages.db"

    def clock(name: str, begun: float) -> None:
        took[name] = (time.process_time() - begun) / SAMPLE * 1e6

    begun = time.process_time()
    outs = list(itertools.islice(day(SAMPLE, now() // DAY * DAY - DAY), SAMPLE))
    clock("(generate)", begun)
    begun = time.process_time()
    proofs = [sign(out.vendor, out.body, SECRETS[out.vendor], now()) for out in outs]
    clock("(signing, at the sender)", begun)
    sources = {
        vendor: registry.build(settings(vendor, SECRETS[vendor], name=SOURCES[vendor]))
        for vendor in SOURCES
    }  # fmt: skip
    begun = time.process_time()
    verified = [
        sources[out.vendor].verify(
            Delivery(
                source=SOURCES[out.vendor], body=out.body, received_at=now(),
                headers={name.lower(): value for name, value in headers.items()}, query=out.query, token=suffix.strip("/") or None,
            )
        )
        for out, (headers, suffix, _) in zip(outs, proofs, strict=True)
    ]  # fmt: skip
    clock("verify", begun)
    await SqliteLog.create(path)
    log = await SqliteLog.open(path)
    begun = time.process_time()
    for k in range(0, SAMPLE, 64):
        await asyncio.gather(*(log.append(each) for each in verified[k : k + 64]))
    clock("append, 64 at a time", begun)
    await SqliteViews.create(folder / "stages-views.db")
    views = await SqliteViews.open(folder / "stages-views.db", writable=True)
    begun = time.process_time()
    await Projector(log, views).catch_up()
    clock("project, live", begun)
    await views.close()
    await log.close()
    for left in folder.glob("stages*"):
        left.unlink()
    return took


async def run_command(running: Running, *command: str) -> bool:
    """Run a `tracker` command and print its cost and its last line; returns whether it exited with 0."""
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"tracker {' '.join(command)} …", flush=True)
    command_task = asyncio.create_task(running.run(*command))
    peak = 0.0
    while not command_task.done():
        await asyncio.wait([command_task], timeout=LOOKS_EVERY)
        peak = max(peak, memory_of("tracker", command[0], str(running.config)))
    code, out, stderr = command_task.result()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    output = (out + stderr).strip().splitlines() or [""]
    print(
        f"tracker {' '.join(command)}: {time.monotonic() - begun:,.0f} s, {cpu:,.0f} s of processor time, "
        f"{peak:,.0f} MB at most, all its processes: {output[-1][:150]}",
        flush=True,
    )
    return code == 0


def memory_of(*words: str) -> float:
    """MB that the processes with these words in their command line use now, with their children."""
    whole = 0.0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if set(words) <= set((process / "cmdline").read_text(errors="replace").split("\0")):
                family = [process.name, *(process / "task" / process.name / "children").read_text().split()]
                whole += sum(resident(int(each)) for each in family)
    return whole


def resident(pid: int) -> float:
    """MB of a process; 0 if it is gone."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024
    return 0.0


def percentile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def table(sent: Sent, took: dict[str, float], folder: Path, head: int, sessions: int) -> None:
    """Print the figures."""
    tally, reads = sent.tally, sent.reads
    answered = sum(tally.answers.values())
    log_bytes = sum(path.stat().st_size for path in folder.glob("log.db*"))
    views_bytes = sum(path.stat().st_size for path in folder.glob("views.db*"))
    print(
        f"\n{answered:,} deliveries answered ({tally.bytes / 1e6:,.0f} MB of bodies): {dict(sorted(tally.answers.items()))}"
    )
    print(f"{head:,} records, {tally.duplicates:,} repeats; {sessions:,} sessions; by vendor {dict(tally.vendors)}")
    print(
        f"log {log_bytes / 1e6:,.0f} MB, {log_bytes / head:.0f} bytes per record; views {views_bytes / 1e6:,.0f} MB, {views_bytes / head:.0f}"
    )
    print(f"sent and answered in {sent.sending:,.0f} s: {answered / sent.sending:,.0f} deliveries/s")
    if sent.catching_up is None:
        print(f"views {reads.behind:,} records behind then")
    else:
        whole = sent.sending + sent.catching_up
        print(
            f"views complete {sent.catching_up:,.0f} s later: {answered / whole:,.0f} deliveries/s end to end, "
            f"a day of this in {whole / 3600:.2f} h"
        )
    print(
        f"server: {sent.server.cpu:,.0f} s of processor time ({sent.server.cpu / answered * 1e6:.0f} µs per delivery; "
        f"{sent.at_end_of_sending.cpu:,.0f} s until the last answer), {sent.server.peak_mb:,.0f} MB at most"
    )
    busy = sorted(sent.server.threads.items(), key=lambda each: -each[1])[:4]
    print("  by thread: " + ", ".join(f"{'event loop' if n == 0 else f'thread {n}'} {cpu:,.0f} s" for n, cpu in busy))
    print(f"projector: {reads.most_behind:,} records behind at most")
    print("stages, µs of processor time per delivery: " + ", ".join(f"{name} {us:.0f}" for name, us in took.items()))
    print(f"\n{'reads meanwhile, ms':26}{'times':>7}{'p50':>9}{'p99':>9}{'longest':>9}")
    for name, each in reads.took.items():
        print(f"{name:26}{len(each):7}{percentile(each, 0.5):9.1f}{percentile(each, 0.99):9.1f}{max(each):9.1f}")


async def count(folder: Path) -> tuple[int, int]:
    """Records in the log, sessions in the views."""
    log = await SqliteLog.open(folder / "log.db")
    views = await SqliteViews.open(folder / "views.db", writable=False)
    head = await log.head()
    sessions = (await views.stats(from_at=-(2**62), to_at=2**62, sources=None))["sessions"]
    await views.close()
    await log.close()
    return head, sessions


async def stop(running: Running) -> None:
    """Stop the server without a time limit: closing large views writes their WAL back."""
    if running.process is not None and running.process.returncode is None:
        running.process.send_signal(signal.SIGTERM)
        await running.process.wait()
    await running.stop()


async def run(folder: Path, sessions: int, connections: int, *, rebuild: bool) -> int:
    """Run the whole day; returns 0 if every check passed."""
    took = await stages(folder)
    running = Running(folder)
    await running.start(init=True)
    fine = True
    try:
        sent = await live(running, sessions, connections, waits=not rebuild)
        if rebuild:
            await stop(running)
            fine = await run_command(running, "rebuild")
            await running.start()
            await level(running, sent.tally)
    finally:
        await stop(running)
    head, found = await count(folder)
    table(sent, took, folder, head, found)
    fine = fine and set(sent.tally.answers) <= {200, 503} and head == sent.tally.highest
    fine = fine and head == sent.tally.answers[200] - sent.tally.duplicates
    for command in (("verify",), ("rebuild", "--check")):
        fine = await run_command(running, *command) and fine
    print("all checks passed" if fine else "A CHECK FAILED")
    return 0 if fine else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the options and run the day; returns the exit code."""
    warnings.simplefilter("ignore")
    parser = report.parser(__doc__)
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--keep", type=Path, help="an empty folder for log and views, which stay")
    parser.add_argument("--rebuild", action="store_true", help="views that are behind in the end are made by a rebuild")
    options = parser.parse_args(argv)
    if options.smoke:
        options.sessions = 2
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        return asyncio.run(run(folder, options.sessions, options.connections, rebuild=options.rebuild))


if __name__ == "__main__":
    report.run(main)
