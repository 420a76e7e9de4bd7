"""A soak at half of the maximum load: `python -m bench.soak [--minutes 30] [--seed 1]`.

The first minute finds the most deliveries per second that 64 connections get answered. From then on half of that is sent:
calls of all vendors at the same time, 3 % of the deliveries repeated, 5 % out of order, while others read. Every one to three
minutes the server is killed (`kill -9`) or stopped, and started again; the last third runs without a restart. At the end:
every delivery answered 200 is in the log at its position exactly once, no gap; `verify --views` and `rebuild --check` find
nothing; memory is flat: once `WARM` deliveries have filled the caches, no run grows by more than `GROWTH` MiB per million,
and no warm run needs more than `BETWEEN` times what the first did. Prints a table; the exit code is 1 if a check failed.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import sys
import tempfile
import time
from array import array
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import aiohttp
import msgspec

from bench import report
from tests.support.server import READ, SECRETS, SOURCES, Running, now
from tracker.demo.calls import VENDORS, sign, whole_call
from tracker.log.sqlite.log import SqliteLog

START = 1_700_000_000_000_000
CONNECTIONS = 64
OPEN_CALLS = 200
WARM = 50_000
GROWTH = 40.0
BETWEEN = 1.3
READS = ("/v1/sessions?limit=50", "/v1/sessions?state=open&limit=20", "/v1/stats", "/readyz", "/v1/recordings?limit=20")


class Sending(NamedTuple):
    """One delivery: its vendor, its body, and the query of its URL."""

    vendor: str
    body: bytes
    query: str


def mark(source: str, body: bytes) -> int:
    """64 bits that identify a delivery."""
    return int.from_bytes(hashlib.blake2b(source.encode() + b"\0" + body, digest_size=8).digest())


class Traffic:
    """Endless deliveries of `open_calls` calls at once; some are repeated, some out of order."""

    def __init__(self, seed: int, open_calls: int = OPEN_CALLS) -> None:
        self._open_calls = open_calls
        self._chance = random.Random(seed)
        self._calls: list[deque[Sending]] = []
        self._again: deque[Sending] = deque()
        self._calls_made = 0

    def next(self) -> Sending:
        """The next delivery to send."""
        if self._again and self._chance.random() < 0.03:
            return self._again.popleft()
        while len(self._calls) < self._open_calls:
            self._calls.append(self._new())
        at = self._chance.randrange(self._open_calls)
        call = self._calls[at]
        if len(call) > 1 and self._chance.random() < 0.05:
            call[0], call[1] = call[1], call[0]
        sending = call.popleft()
        if not call:
            self._calls[at] = self._new()
        if self._chance.random() < 0.04 and len(self._again) < 5_000:
            self._again.append(sending)
        return sending

    def back(self, sending: Sending) -> None:
        """Put back a delivery without an answer: it is sent again soon."""
        self._calls[self._chance.randrange(len(self._calls))].appendleft(sending)

    def _new(self) -> deque[Sending]:
        vendor = VENDORS[self._calls_made % len(VENDORS)]
        sent = whole_call(vendor, START + self._calls_made * 20_000_000, seed=self._calls_made)
        self._calls_made += 1
        return deque(Sending(vendor, one.body, "&".join(f"{n}={v}" for n, v in one.query.items())) for one in sent)


class Ledger:
    """Every answer: the mark of each delivery by its position, and a count of each status."""

    def __init__(self) -> None:
        self.marks = array("Q", [0])
        self.statuses: Counter[int] = Counter()
        self.repeats = 0
        self.wrong: list[str] = []

    def answered(self, sending: Sending, status: int, body: bytes) -> None:
        """Record one answer."""
        self.statuses[status] += 1
        if status != 200:
            if status != 503:
                self.wrong.append(f"{sending.vendor}: {status} {body[:200]!r}")
            return
        answer = msgspec.json.decode(body)
        position, found = answer["position"], mark(SOURCES[sending.vendor], sending.body)
        self.repeats += answer["duplicate"]
        if position >= len(self.marks):
            self.marks.extend([0] * (position + 10_000 - len(self.marks)))
        if self.marks[position] not in (0, found):
            self.wrong.append(f"position {position} was answered for two deliveries")
        self.marks[position] = found


class Sender(asyncio.Protocol):
    """One connection: idle, or waiting for one answer."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._held = b""
        self._began = 0.0
        self._under_way: Sending | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Report the connection as idle."""
        self._transport = transport  # type: ignore[assignment]
        self._crowd.idle.append(self)

    def send(self, sending: Sending) -> None:
        """Send one request."""
        headers, suffix, _ = sign(sending.vendor, sending.body, SECRETS[sending.vendor], now())
        path = f"/hooks/{SOURCES[sending.vendor]}{suffix}" + (f"?{sending.query}" if sending.query else "")
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {path} HTTP/1.1\r\nHost: soak\r\n{lines}Content-Length: {len(sending.body)}\r\n\r\n"
        self._under_way, self._began = sending, time.perf_counter()
        self._transport.write(head.encode() + sending.body)

    def data_received(self, data: bytes) -> None:
        """Collect an answer until its content length is reached, then report it."""
        self._held += data
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            return
        found = re.search(rb"(?i)content-length: *(\d+)", self._held[:end])
        length = int(found[1]) if found else 0
        if len(self._held) < end + 4 + length or self._under_way is None:
            return
        status, body = int(self._held[9:12]), self._held[end + 4 :]
        sending, self._under_way, self._held = self._under_way, None, b""
        self._crowd.answered(self, sending, status, body, time.perf_counter() - self._began)

    def connection_lost(self, exc: Exception | None) -> None:
        """The server is gone: report the delivery that has no answer."""
        self._crowd.lost(self, self._under_way)


class Crowd:
    """All senders. `rate`: deliveries per second; infinite: as many as are answered."""

    def __init__(self, running: Running, traffic: Traffic) -> None:
        self.running = running
        self.traffic = traffic
        self.ledger = Ledger()
        self.idle: list[Sender] = []
        self.rate = float("inf")
        self.closing = False
        self.latencies: list[float] = []
        self.longest_silence = 0.0
        self._allowed = 0.0
        self._last = time.perf_counter()
        self._connecting: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Send forever, every few milliseconds. Deliveries that could not be sent within a second are skipped."""
        for _ in range(CONNECTIONS):
            self._connect()
        before = time.perf_counter()
        while True:
            await asyncio.sleep(0.004)
            at = time.perf_counter()
            self._allowed = min(self._allowed + self.rate * (at - before), self.rate)
            before = at
            self._pump()

    def _pump(self) -> None:
        while self._allowed >= 1 and self.idle and not self.closing:
            self._allowed -= 1
            self.idle.pop().send(self.traffic.next())

    def answered(self, sender: Sender, sending: Sending, status: int, body: bytes, seconds: float) -> None:
        """Handle one answer."""
        at = time.perf_counter()
        self.longest_silence, self._last = max(self.longest_silence, at - self._last), at
        if status == 200:
            self.latencies.append(seconds)
        else:
            self.traffic.back(sending)
        self.ledger.answered(sending, status, body)
        self.idle.append(sender)
        self._pump()

    def lost(self, sender: Sender, sending: Sending | None) -> None:
        """Handle a lost connection."""
        if sending is not None:
            self.traffic.back(sending)
        if sender in self.idle:
            self.idle.remove(sender)
        if not self.closing:
            self._connect()

    def _connect(self) -> None:
        task = asyncio.create_task(self._connected())
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connected(self) -> None:
        while not self.closing:
            try:
                port = int(self.running.url.rsplit(":", 1)[1])
                await asyncio.get_running_loop().create_connection(lambda: Sender(self), "127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                return


class Look(NamedTuple):
    """The server at one moment. Memory in MiB; `lag` in records, -1 if unknown."""

    life: int
    seconds: float
    answered: int
    anonymous: float
    resident: float
    files: int
    lag: int


class Watch:
    """Measures the server every second, and reads as users do."""

    def __init__(self, running: Running, crowd: Crowd) -> None:
        self.running, self.crowd = running, crowd
        self.looks: list[Look] = []
        self.endings: list[str] = []
        self.reads: list[float] = []
        self.read_statuses: Counter[int] = Counter()
        self.life = 0
        self.began = time.perf_counter()

    async def run(self) -> None:
        """Measure forever."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as web:
            number = 0
            while True:
                await asyncio.sleep(1)
                life = self.life
                lag = await self._lag(web)
                try:
                    self._look(life, lag)
                except (OSError, KeyError):  # the server is restarting
                    continue
                for path in (READS[number % len(READS)], READS[(number + 1) % len(READS)]):
                    await self._read(web, path)
                number += 1

    def _look(self, life: int, lag: int) -> None:
        if self.running.process is None:
            return
        process = Path(f"/proc/{self.running.process.pid}")
        fields = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        look = Look(
            life, time.perf_counter() - self.began, sum(self.crowd.ledger.statuses.values()),
            int(fields["RssAnon"].split()[0]) / 1024, int(fields["VmRSS"].split()[0]) / 1024,
            len(list((process / "fd").iterdir())), lag,
        )  # fmt: skip
        if life == self.life:
            self.looks.append(look)

    async def _lag(self, web: aiohttp.ClientSession) -> int:
        try:
            async with web.get(f"{self.running.url}/metrics") as answer:
                found = re.search(r"^tracker_projector_lag (\S+)", await answer.text(), re.MULTILINE)
                return int(float(found[1])) if found else -1
        except (aiohttp.ClientError, OSError, TimeoutError):
            return -1

    async def _read(self, web: aiohttp.ClientSession, path: str) -> None:
        began = time.perf_counter()
        try:
            async with web.get(self.running.url + path, headers=READ) as answer:
                page = await answer.read()
                self.read_statuses[answer.status] += 1
            if path.startswith("/v1/sessions") and answer.status == 200:
                for one in msgspec.json.decode(page)["items"][:1]:
                    async with web.get(f"{self.running.url}/v1/sessions/{one['id']}/timeline", headers=READ) as answer:
                        await answer.read()
                        self.read_statuses[answer.status] += 1
        except (aiohttp.ClientError, OSError, TimeoutError):
            self.read_statuses[0] += 1
        self.reads.append(time.perf_counter() - began)


async def restart(running: Running, watch: Watch, *, kill: bool) -> None:
    """Kill or stop the server, and start it again."""
    if kill:
        await running.kill()
    elif (code := await running.stop()) != 0:
        watch.crowd.ledger.wrong.append(f"a stop ended with {code}")
    watch.endings.append("killed" if kill else "stopped")
    watch.life += 1
    await running.start()


async def soak(running: Running, crowd: Crowd, watch: Watch, minutes: float, chance: random.Random) -> float:
    """Run everything but the checks; returns the maximum of answered deliveries per second."""
    await running.start(init=True)
    tasks = [asyncio.create_task(crowd.run()), asyncio.create_task(watch.run())]
    most = min(60.0, minutes * 12)
    await asyncio.sleep(most / 3)
    before, began = crowd.ledger.statuses[200], time.perf_counter()
    await asyncio.sleep(most * 2 / 3)
    maximum = (crowd.ledger.statuses[200] - before) / (time.perf_counter() - began)
    crowd.rate = maximum / 2
    crowd.latencies.clear()
    print(f"at most {maximum:.0f} per second; from now on {crowd.rate:.0f}", file=sys.stderr, flush=True)
    end = time.perf_counter() + minutes * 60 - most
    scale = min(1.0, minutes / 10)
    restarts_until = end - minutes * 20
    while time.perf_counter() < restarts_until:
        until = min(restarts_until, time.perf_counter() + chance.uniform(60, 180) * scale)
        await asyncio.sleep(max(0, until - time.perf_counter()))
        await restart(running, watch, kill=chance.random() < 0.6)
        print(f"  life {watch.life}: {crowd.ledger.statuses[200]} answered", file=sys.stderr, flush=True)
    await asyncio.sleep(max(0, end - time.perf_counter()))
    crowd.closing = True
    await asyncio.sleep(2)
    for task in tasks:
        if task.done():
            crowd.ledger.wrong.append(f"the soak itself failed: {task.exception()!r}")
        task.cancel()
    watch.endings.append("stopped")
    return maximum


async def compare_log(running: Running, ledger: Ledger) -> tuple[int, list[str]]:
    """Compare the log with the answers; returns (records, what is wrong)."""
    log = await SqliteLog.open(running.log_path)
    position, lost, found = 0, 0, array("Q")
    gaps = 0
    async for chunk in log.read(0):
        for record in chunk:
            position += 1
            gaps += record.position != position
            here = mark(record.source, record.body)
            expected = ledger.marks[position] if position < len(ledger.marks) else 0
            lost += expected not in (0, here)
            found.append(here)
    await log.close()
    lost += sum(1 for expected in ledger.marks[position + 1 :] if expected)
    unknown = sum(1 for expected in ledger.marks[1 : position + 1] if not expected)
    twice = len(found) - len(set(found))
    print(f"{'answered 200':34}{ledger.statuses[200]:12,} ({ledger.repeats:,} of them repeats)")
    print(f"{'records in the log':34}{position:12,} ({unknown:,} whose answer a kill cut off)")
    print(f"{'lost, gaps, twice':34}{lost:12,}{gaps:8,}{twice:8,}")
    return position, [f"{n} {what}" for what, n in (("lost", lost), ("gaps", gaps), ("twice", twice)) if n]


def slope(looks: list[Look]) -> float:
    """Growth of anonymous memory in MiB per million answers, by least squares."""
    xs = [look.answered / 1e6 for look in looks]
    ys = [look.anonymous for look in looks]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    across = sum((a - x) ** 2 for a in xs)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / across if across else 0.0


def print_runs(watch: Watch) -> list[str]:
    """Print a row for each run of the server; returns where memory grew."""
    print(
        f"{'life':>5}{'seconds':>9}{'answered':>10}{'MiB warm':>10}{'at end':>8}{'most':>7}{'resident':>10}"
        f"{'MiB/million':>13}{'files':>7}{'lag p50':>9}{'most':>8}  ended"
    )
    faults: list[str] = []
    first = 0.0
    for life, ending in enumerate(watch.endings):
        looks = [look for look in watch.looks if look.life == life]
        if not looks:
            continue
        warm = [look for look in looks if look.answered - looks[0].answered >= WARM]
        grown = slope(warm) if warm and warm[-1].answered - warm[0].answered >= WARM else None
        if warm:
            first = first or warm[0].anonymous
            if warm[0].anonymous > first * BETWEEN:
                faults.append(f"life {life} needs {warm[0].anonymous:.0f} MiB, the first {first:.0f}")
        if grown is not None and grown > GROWTH:
            faults.append(f"life {life} grows by {grown:.0f} MiB a million")
        lags = sorted(look.lag for look in looks if look.lag >= 0) or [-1]
        print(
            f"{life:5}{looks[-1].seconds - looks[0].seconds:9.0f}{looks[-1].answered - looks[0].answered:10,}"
            f"{f'{warm[0].anonymous:.0f}' if warm else '-':>10}{looks[-1].anonymous:8.0f}"
            f"{max(look.anonymous for look in looks):7.0f}{max(look.resident for look in looks):10.0f}"
            f"{'-' if grown is None else f'{grown:.1f}':>13}"
            f"{max(look.files for look in looks):7}{lags[len(lags) // 2]:9,}{lags[-1]:8,}  {ending}"
        )
    return faults


def percentiles(name: str, seconds: list[float]) -> None:
    """Print a row of percentiles."""
    found = sorted(seconds) or [0.0]
    p50, p99 = found[len(found) // 2] * 1000, found[int(len(found) * 0.99)] * 1000
    print(f"{name:34}{p50:9.1f} ms p50{p99:9.1f} ms p99{found[-1] * 1000:9.0f} ms most")


async def checked(running: Running) -> list[str]:
    """Run the two commands that compare everything."""
    faults: list[str] = []
    for command in (("verify", "--views"), ("rebuild", "--check")):
        began = time.perf_counter()
        code, out, stderr = await running.run(*command)
        print(f"{'tracker ' + ' '.join(command):34}{'exit ' + str(code):>12} in {time.perf_counter() - began:.0f} s")
        faults += [] if code == 0 else [f"{command}: {out[-400:]}{stderr[-400:]}"]
    return faults


async def until_projected(running: Running) -> float:
    """Wait until the views are at the end of the log; returns the seconds."""
    began = time.perf_counter()
    async with aiohttp.ClientSession() as web:
        await asyncio.sleep(1.1)  # the metric is at most a second old
        while time.perf_counter() - began < 300:
            async with web.get(f"{running.url}/metrics") as answer:
                found = re.search(r"^tracker_projector_lag (\S+)", await answer.text(), re.MULTILINE)
            if found and float(found[1]) == 0:
                break
            await asyncio.sleep(0.2)
    return time.perf_counter() - began


async def run_soak(folder: Path, minutes: float, seed: int) -> list[str]:
    """Run the soak, check, print the tables; returns what is wrong."""
    running, chance = Running(folder), random.Random(seed)
    crowd = Crowd(running, Traffic(seed))
    watch = Watch(running, crowd)
    try:
        maximum = await soak(running, crowd, watch, minutes, chance)
        behind = await until_projected(running)
        faults = list(crowd.ledger.wrong[:5])
        if (code := await running.stop()) != 0:
            faults.append(f"the last stop ended with {code}")
    finally:
        if running.process is not None:
            await running.kill()
    faults += print_runs(watch)
    killed = watch.endings.count("killed")
    print(f"{'most per second; then':34}{maximum:12,.0f}{maximum / 2:8,.0f}")
    print(f"{'minutes, lives, kills':34}{minutes:12.1f}{len(watch.endings):8}{killed:8}")
    print(f"{'statuses of deliveries':34}{dict(sorted(crowd.ledger.statuses.items()))}")
    percentiles("deliveries, restarts included", crowd.latencies)
    print(f"{'longest time without any answer':34}{crowd.longest_silence:9.1f} s")
    percentiles("reads", watch.reads)
    print(f"{'statuses of reads (0: no server)':34}{dict(sorted(watch.read_statuses.items()))}")
    print(f"{'views at the end of the log after':34}{behind:9.1f} s")
    wrong_reads = [status for status in watch.read_statuses if status not in (0, 200, 503)]
    faults += [f"reads got {wrong_reads}"] if wrong_reads else []
    printed = running.printed.read_text("utf-8", "replace")
    faults += ["a traceback in the server's log"] if "Traceback" in printed else []
    count, missing = await compare_log(running, crowd.ledger)
    files = {path.name: path.stat().st_size for path in folder.glob("*.db")}
    print(f"{'bytes per record, by file':34}{ {name: size // max(1, count) for name, size in sorted(files.items())} }")
    return faults + missing + await checked(running)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; returns the exit code."""
    parser = report.parser(__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    if options.smoke:
        options.minutes = 0.05
    with tempfile.TemporaryDirectory() as folder:
        faults = asyncio.run(run_soak(Path(folder), options.minutes, options.seed))
    print("faults:", faults or "none")
    return 1 if faults else 0


if __name__ == "__main__":
    report.run(main)
