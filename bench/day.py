"""A day of a large deployment, end to end: `python bench/day.py [--sessions 1000000] [--keep FOLDER] [--connections 64] [--rebuild]`.

The calls of `calls.py` on an arrival curve over 24 hours, all five vendors, merged into one stream by the time their servers
send: one delivery of 300 is lost, one of 60 comes twice, one of 30 late. They are signed and sent over HTTP, as fast as
they are answered, to a `tracker serve` of its own process, which verifies, appends and projects into its views meanwhile;
a third process asks the API all the time. Then the server is stopped, `tracker verify` and `tracker rebuild --check` run.
With `--rebuild` nobody waits for a projector that is behind when the last delivery is answered: the server is stopped, `tracker
rebuild` makes the views, and a server started on them has to go on from there.

Prints a line every 30 s, and in the end: deliveries, answers, sessions, bytes, the time of each phase and stage, processor
time and peak memory of the server, how far the projector was behind, and what the questions took. Exit code 1 when an
answer was wrong, a record is missing, or the views are not those of a rebuild. A million sessions are 13.6 million
deliveries and need some 30 GB at most (log, views, and the second views of the check).
"""

from __future__ import annotations

import argparse
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
import sys
import tempfile
import time
import urllib.parse
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from calls import DAY, HOUR, SECOND, calls, deliveries
from tests.support.server import READ, SECRETS, Running, now
from tracker.domain.deliveries import Delivery
from tracker.demo.show import SOURCES
from tracker.demo.calls import ISSUERS, sign
from tracker.log.sqlite.log import SqliteLog
from tracker.projector.projector import Projector
from tracker.sources import registry
from tracker.sources.contract import SourceSettings
from tracker.views.sqlite.views import SqliteViews

LOST, TWICE, LATE = 300, 60, 30
"""One of so many deliveries never comes, comes once more within a minute, comes up to ten seconds late."""
SAYS_EVERY = 30.0
ASKS_EVERY = 0.1
LOOKS_EVERY = 0.5
SAMPLE = 10_000
"""Deliveries whose stages are measured one by one, in this process."""

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
    """One delivery on its way: when it is sent (µs of the simulated day), whose, what."""

    at: int
    number: int
    vendor: str
    body: bytes
    query: dict[str, str]


def day(sessions: int, begin: int, *, hour: int = 0) -> Iterator[Out]:
    """Every delivery of the day by the moment it is sent; about as many calls are in memory as run at one time.

    `hour`: nothing of calls that begin before it.
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
    """One connection: the next delivery as soon as the last was answered; after a 503 the same again."""

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
        """Answers are small and have a length."""
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
        """The server went away: nothing is measured then."""
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
    """What was sent and answered."""

    def __init__(self) -> None:
        self.answers: Counter[int] = Counter()
        self.vendors: Counter[str] = Counter()
        self.duplicates = 0
        self.highest = 0
        self.bytes = 0


def ask(url: str, results: Any, stop: Any) -> None:
    """Ask the API in turns until told to stop; runs in a process of its own. Gives (question, ms)."""
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
    """What the server has taken so far."""

    cpu: float
    peak_mb: float
    threads: dict[int, float]
    """Processor time of each thread, by its number in the order they began."""


def server_of(pid: int) -> Server:
    """From /proc: seconds and MB."""
    tick = os.sysconf("SC_CLK_TCK")

    def cpu(stat: str) -> float:
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / tick

    peak = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    tasks = sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda path: int(path.name))
    threads = {n: cpu((task / "stat").read_text()) for n, task in enumerate(tasks)}
    return Server(cpu(Path(f"/proc/{pid}/stat").read_text()), int(peak.split()[1]) / 1024, threads)


class Asked:
    """What the asking process found."""

    def __init__(self) -> None:
        self.took: dict[str, list[float]] = {}
        self.behind = 0
        """Records that were answered and not in the views when the watcher last asked."""
        self.most_behind = 0

    def take(self, results: Any) -> None:
        """Everything it has told since."""
        while not results.empty():
            name, value = results.get()
            self.took.setdefault(name, []).append(value)


class Sent(NamedTuple):
    """The live part of the day."""

    tally: Tally
    asked: Asked
    sending: float
    catching_up: float | None
    """None: nobody waited for the views."""
    at_end_of_sending: Server
    server: Server


async def live(house: Running, sessions: int, connections: int, *, waits: bool) -> Sent:
    """Send everything, wait until the views are there if one `waits`, and say how it goes meanwhile."""
    assert house.process is not None
    pid = house.process.pid
    context = multiprocessing.get_context("spawn")
    results, stop = context.Queue(), context.Event()
    asking = context.Process(target=ask, args=(house.url, results, stop), daemon=True)
    asking.start()
    tally, asked = Tally(), Asked()
    begin = now() // DAY * DAY - DAY
    stream = day(sessions, begin)
    host, port = house.url.removeprefix("http://").rsplit(":", 1)
    loop = asyncio.get_running_loop()
    begun = time.monotonic()
    telling = asyncio.create_task(tell(pid, tally, asked, results, begun))
    watching = asyncio.create_task(watch(house.url, tally, asked))
    try:
        senders = [
            (await loop.create_connection(lambda: Sender(stream, tally), host, int(port)))[1]
            for _ in range(connections)
        ]
        await asyncio.gather(*(sender.done for sender in senders))
        sending, halfway = time.monotonic() - begun, server_of(pid)
        catching_up = None
        if waits:
            await level(house, tally)
            catching_up = time.monotonic() - begun - sending
    finally:
        telling.cancel()
        watching.cancel()
        stop.set()
    asking.join(120)
    asked.take(results)
    return Sent(tally, asked, sending, catching_up, halfway, server_of(pid))


async def level(house: Running, tally: Tally) -> None:
    """Wait until the views hold everything that was answered."""
    async with aiohttp_session() as web:
        while int((await reading(web, house.url)).get("X-Log-Position", 0)) < tally.highest:
            await asyncio.sleep(0.2)


def aiohttp_session() -> Any:
    import aiohttp

    return aiohttp.ClientSession(headers=READ)


async def reading(web: Any, url: str) -> Any:
    """The headers of a small read."""
    async with web.get(f"{url}/v1/sessions?limit=1") as answer:
        await answer.read()
        return answer.headers


async def watch(url: str, tally: Tally, asked: Asked) -> None:
    """How far the views are behind what was answered, again and again."""
    async with aiohttp_session() as web:
        while True:
            answered = tally.highest
            asked.behind = max(0, answered - int((await reading(web, url)).get("X-Log-Position", 0)))
            asked.most_behind = max(asked.most_behind, asked.behind)
            await asyncio.sleep(1.0)


async def tell(pid: int, tally: Tally, asked: Asked, results: Any, begun: float) -> None:
    """A line now and then."""
    before = 0
    while True:
        await asyncio.sleep(SAYS_EVERY)
        asked.take(results)
        done = sum(tally.answers.values())
        server = server_of(pid)
        print(
            f"{time.monotonic() - begun:6.0f} s  {done:,} answered, {(done - before) / SAYS_EVERY:,.0f}/s, views {asked.behind:,} behind, "
            f"server {server.cpu:.0f} s of processor time, {server.peak_mb:.0f} MB at most",
            flush=True,
        )
        before = done


async def stages(folder: Path) -> dict[str, float]:
    """Processor time of each stage, µs a delivery, over the first deliveries of a day; in this process, one after the other."""
    took: dict[str, float] = {}
    path = folder / "stages.db"

    def clock(name: str, begun: float) -> None:
        took[name] = (time.process_time() - begun) / SAMPLE * 1e6

    begun = time.process_time()
    outs = list(itertools.islice(day(SAMPLE, now() // DAY * DAY - DAY), SAMPLE))
    clock("(making it up)", begun)
    begun = time.process_time()
    proofs = [sign(out.vendor, out.body, SECRETS[out.vendor], now()) for out in outs]
    clock("(signing, at the sender)", begun)
    sources = {
        vendor: registry.build(
            SourceSettings(
                name=SOURCES[vendor], vendor=vendor, secrets=() if vendor in ISSUERS else (SECRETS[vendor],),
                keys={ISSUERS[vendor]: SECRETS[vendor]} if vendor in ISSUERS else {},
            )
        )
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
    await Projector(log, views, now=now).catch_up()
    clock("project, live", begun)
    await views.close()
    await log.close()
    for left in folder.glob("stages*"):
        left.unlink()
    return took


async def afterwards(house: Running, *command: str) -> bool:
    """One command of `tracker` to its end, and what it took and said last; whether it exited with 0."""
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"tracker {' '.join(command)} …", flush=True)
    running = asyncio.create_task(house.run(*command))
    peak = 0.0
    while not running.done():
        await asyncio.wait([running], timeout=LOOKS_EVERY)
        peak = max(peak, memory_of("tracker", command[0], str(house.config)))
    code, out, stderr = running.result()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    said = (out + stderr).strip().splitlines() or [""]
    print(
        f"tracker {' '.join(command)}: {time.monotonic() - begun:,.0f} s, {cpu:,.0f} s of processor time, "
        f"{peak:,.0f} MB at most, all its processes: {said[-1][:150]}",
        flush=True,
    )
    return code == 0


def memory_of(*words: str) -> float:
    """MB that the process with these words in its command line has now, with its children."""
    whole = 0.0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if set(words) <= set((process / "cmdline").read_text(errors="replace").split("\0")):
                family = [process.name, *(process / "task" / process.name / "children").read_text().split()]
                whole += sum(resident(int(each)) for each in family)
    return whole


def resident(pid: int) -> float:
    """MB of a process; 0 when it is gone."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024
    return 0.0


def percentile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def table(sent: Sent, took: dict[str, float], folder: Path, head: int, sessions: int) -> None:
    """The figures."""
    tally, asked = sent.tally, sent.asked
    answered = sum(tally.answers.values())
    log_bytes = sum(path.stat().st_size for path in folder.glob("log.db*"))
    views_bytes = sum(path.stat().st_size for path in folder.glob("views.db*"))
    print(
        f"\n{answered:,} deliveries answered ({tally.bytes / 1e6:,.0f} MB of bodies): {dict(sorted(tally.answers.items()))}"
    )
    print(f"{head:,} records, {tally.duplicates:,} repeats; {sessions:,} sessions; by vendor {dict(tally.vendors)}")
    print(
        f"log {log_bytes / 1e6:,.0f} MB, {log_bytes / head:.0f} bytes a record; views {views_bytes / 1e6:,.0f} MB, {views_bytes / head:.0f}"
    )
    print(f"sent and answered in {sent.sending:,.0f} s: {answered / sent.sending:,.0f} deliveries/s")
    if sent.catching_up is None:
        print(f"views {asked.behind:,} records behind then")
    else:
        whole = sent.sending + sent.catching_up
        print(
            f"views complete {sent.catching_up:,.0f} s later: {answered / whole:,.0f} deliveries/s end to end, "
            f"a day of this in {whole / 3600:.2f} h"
        )
    print(
        f"server: {sent.server.cpu:,.0f} s of processor time ({sent.server.cpu / answered * 1e6:.0f} µs a delivery; "
        f"{sent.at_end_of_sending.cpu:,.0f} s until all was answered), {sent.server.peak_mb:,.0f} MB at most"
    )
    busy = sorted(sent.server.threads.items(), key=lambda each: -each[1])[:4]
    print("  by thread: " + ", ".join(f"{'event loop' if n == 0 else f'thread {n}'} {cpu:,.0f} s" for n, cpu in busy))
    print(f"projector: {asked.most_behind:,} records behind at most")
    print("stages, µs of processor time a delivery: " + ", ".join(f"{name} {us:.0f}" for name, us in took.items()))
    print(f"\n{'asked meanwhile, ms':26}{'times':>7}{'p50':>9}{'p99':>9}{'longest':>9}")
    for name, each in asked.took.items():
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


async def stop(house: Running) -> None:
    """Let the server end as long as it takes: closing views of gigabytes writes what waits beside them."""
    if house.process is not None and house.process.returncode is None:
        house.process.send_signal(signal.SIGTERM)
        await house.process.wait()
    await house.stop()


async def run(folder: Path, sessions: int, connections: int, *, rebuild: bool) -> int:
    """The whole day; 0 when everything was as it must be."""
    took = await stages(folder)
    house = Running(folder)
    await house.start(init=True)
    fine = True
    try:
        sent = await live(house, sessions, connections, waits=not rebuild)
        if rebuild:
            await stop(house)
            fine = await afterwards(house, "rebuild")
            await house.start()
            await level(house, sent.tally)
    finally:
        await stop(house)
    head, found = await count(folder)
    table(sent, took, folder, head, found)
    fine = fine and set(sent.tally.answers) <= {200, 503} and head == sent.tally.highest
    fine = fine and head == sent.tally.answers[200] - sent.tally.duplicates
    for command in (("verify",), ("rebuild", "--check")):
        fine = await afterwards(house, *command) and fine
    print("everything is as it must be" if fine else "SOMETHING IS WRONG")
    return 0 if fine else 1


def main() -> None:
    """Say how large, run it, leave with its exit code."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--keep", type=Path, help="an empty folder for log and views, which stay")
    parser.add_argument("--rebuild", action="store_true", help="views that are behind in the end are made by a rebuild")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        sys.exit(asyncio.run(run(folder, given.sessions, given.connections, rebuild=given.rebuild)))


if __name__ == "__main__":
    main()
