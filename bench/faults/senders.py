"""Misbehaving senders: `python -m bench.faults.senders [--idle 10000] [--mad 400] [--seconds 8]`.

A real server over real HTTP. Slow heads, half bodies, idle connections and malicious bodies; then one source that sends
without limit beside a calm one. Prints a table; the exit code is 1 if an answer is wrong, a 5xx comes that is not
back-pressure, or the calm source is refused. `--quick`: the short run of `make test`.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from bench import report
from tests.support.server import SECRETS, SOURCES, Running, now
from tracker.demo.calls import sign, whole_call

ROW = "{:42}{:>34}"
faults: list[str] = []


def print_row(what: str, found: object, expected: object = None) -> None:
    """Print one row; count a fault if it is not as expected."""
    bad = expected is not None and found != expected
    if bad:
        faults.append(what)
    print(ROW.format(what, str(found)), f"  expected {expected}" if bad else "", flush=True)


def memory(running: Running) -> float:
    """Resident memory of the server in MiB."""
    assert running.process is not None
    text = Path(f"/proc/{running.process.pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def port_of(running: Running) -> int:
    """The port it listens on."""
    return int(running.url.rsplit(":", 1)[1])


async def raw(running: Running, request: bytes, seconds: float = 5.0) -> str:
    """The first line of the answer to these bytes; `silent` or `closed` if there is none."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(running))
    try:
        writer.write(request)
        return (await asyncio.wait_for(reader.readline(), seconds)).decode("latin1").strip() or "closed"
    except TimeoutError:
        return "silent"
    except ConnectionError:
        return "closed"
    finally:
        writer.close()


BODIES = {
    "deep JSON (100,000 arrays)": b"[" * 100_000 + b"]" * 100_000,
    "deep objects (50,000)": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "4 MiB of one text": b'{"event":"' + b"x" * (4 * 1024 * 1024 - 12) + b'"}',
    "invalid UTF-8": b'{"event":"\xff\xfe\xc3("}',
    "lone surrogates": b'{"event":"\\ud800","sessionId":"\\udfff"}',
    "duplicate keys": b'{"event":"a","event":"sessionCreated","sessionId":"s","sessionId":"t"}',
    "NaN and Infinity": b'{"event":"sessionCreated","sessionId":"s","timestamp":NaN,"x":-Infinity}',
    "400-digit numbers": b'{"event":"sessionCreated","sessionId":"s","timestamp":' + b"9" * 400 + b"}",
    "1e999": b'{"event":"sessionCreated","sessionId":"s","timestamp":1e999}',
    "NUL bytes": b'{"event":"sessionCreated","sessionId":"\\u0000","timestamp":1}\x00',
    "an empty body": b"",
    "null": b"null",
    "100,000 keys": json.dumps({f"k{n}": n for n in range(100_000)}).encode(),
}


async def bodies(running: Running, web: aiohttp.ClientSession) -> None:
    """An authentic body is recorded, whatever it holds, and the views follow."""
    headers = {"Authorization": SECRETS["openvidu"]}
    signed, _, _ = sign("openvidu", b"{}", SECRETS["openvidu"], now())
    headers |= signed
    position = 0
    for name, body in BODIES.items():
        began = time.perf_counter()
        async with web.post(f"{running.url}/hooks/ov", data=body, headers=headers) as answer:
            body_of_answer = await answer.json(content_type=None)
            position = body_of_answer.get("position", position)
            print_row(name, f"{answer.status} in {(time.perf_counter() - began) * 1000:.0f} ms")
            if answer.status != 200:
                faults.append(name)
    for name, data, more, wanted in (
        ("gzip", gzip.compress(b'{"event":"zipped"}'), {"Content-Encoding": "gzip"}, 200),
        ("gzip bomb (1 GiB)", gzip.compress(bytes(1 << 26)) * 16, {"Content-Encoding": "gzip"}, 413),
        ("broken gzip", b"\x1f\x8b" + b"x" * 50, {"Content-Encoding": "gzip"}, 400),
        ("4 MiB + 1", b"x" * (4 * 1024 * 1024 + 1), {}, 413),
    ):
        async with web.post(f"{running.url}/hooks/ov", data=data, headers=headers | more) as answer:
            print_row(name, answer.status, wanted)

    async def chunks():
        for n in range(1000):
            yield b"%d," % n

    async with web.post(f"{running.url}/hooks/ov", data=chunks(), headers=headers) as answer:
        print_row("chunked, 1,000 pieces", answer.status, 200)
        position = (await answer.json())["position"]
    await running.get(web, "/v1/sessions", at_least=str(position))
    print_row("views afterwards", "at the head", "at the head")


async def slow(running: Running, web: aiohttp.ClientSession, count: int, *, wait: bool) -> None:
    """Heads sent byte by byte, and bodies that stop half-way: others are served meanwhile."""
    held = [await asyncio.open_connection("127.0.0.1", port_of(running)) for _ in range(count)]
    for n, (_, writer) in enumerate(held):
        body = b"Content-Length: 1000\r\n\r\nhalf" if n % 2 else b""
        writer.write(b"POST /hooks/ov HTTP/1.1\r\nHost: x\r\n" + body)
    began = time.perf_counter()
    status, _ = await send_one(running, web, "openvidu", 0)
    print_row(f"a delivery, with {count} slow senders", f"{status} in {(time.perf_counter() - began) * 1000:.0f} ms")
    if wait:
        seconds = 0
        while seconds < 100 and not all(reader.at_eof() for reader, _ in held):
            for reader, writer in held:
                if not reader.at_eof() and not writer.is_closing():
                    writer.write(b"X") if held.index((reader, writer)) % 2 == 0 else None
            await asyncio.gather(*(drain(reader) for reader, _ in held))
            seconds += 1
        print_row("all of them are closed after", f"{seconds} s")
        if seconds >= 100:
            faults.append("slow senders are not closed")
    for _, writer in held:
        writer.close()


async def drain(reader: asyncio.StreamReader) -> None:
    """Read for one second."""
    try:
        async with asyncio.timeout(1):
            while await reader.read(1000):
                pass
    except (TimeoutError, ConnectionError):
        pass


async def send_one(running: Running, web: aiohttp.ClientSession, vendor: str, n: int) -> tuple[int, float]:
    """Send a new delivery; returns status and seconds."""
    body = json.dumps({"event": "test", "n": n, "vendor": vendor, "at": time.time_ns()}).encode()
    headers, suffix, _ = sign(vendor, body, SECRETS[vendor], now())
    began = time.perf_counter()
    async with web.post(f"{running.url}/hooks/{SOURCES[vendor]}{suffix}", data=body, headers=headers) as answer:
        await answer.read()
        return answer.status, time.perf_counter() - began


async def idle(running: Running, web: aiohttp.ClientSession, count: int) -> None:
    """Connections without a request."""
    before = memory(running)
    held = []
    for _ in range(count):
        held.append(await asyncio.open_connection("127.0.0.1", port_of(running)))
    status, seconds = await send_one(running, web, "openvidu", 0)
    with_them = memory(running)
    print_row(f"a delivery, with {count} idle connections", f"{status} in {seconds * 1000:.0f} ms")
    print_row("memory for each of them", f"{(with_them - before) * 1024 / count:.1f} KiB")
    if status != 200:
        faults.append("idle connections")
    for _, writer in held:
        writer.close()
    await asyncio.sleep(0.5)


async def large(running: Running, count: int) -> None:
    """`count` connections send 4 MB each at the same time; prints the server's memory meanwhile."""
    headers, suffix, _ = sign("openvidu", b"", SECRETS["openvidu"], now())
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    size, piece, statuses, most = 4_000_000, b"x" * 50_000, Counter[str](), 0.0
    head = f"POST /hooks/{SOURCES['openvidu']}{suffix} HTTP/1.1\r\nHost: x\r\n{lines}Content-Length: {size}\r\n\r\n".encode()

    async def one_large(n: int) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(running))
            answer = asyncio.create_task(reader.readline())
            answer.add_done_callback(lambda done: done.cancelled() or done.exception())
            opening = b'{"event":"large","n":%6d,"text":"' % n
            writer.write(head + opening)
            left = size - len(opening) - 2
            while left and not answer.done():
                writer.write(piece[:left])
                left -= min(left, len(piece))
                await writer.drain()
            writer.write(b'"}')
            statuses[(await asyncio.wait_for(answer, 120))[9:12].decode() or "none"] += 1
            writer.close()
        except (OSError, TimeoutError):
            statuses["none"] += 1

    async def look() -> None:
        nonlocal most
        while True:
            most = max(most, memory(running))
            await asyncio.sleep(0.1)

    looking = asyncio.create_task(look())
    await asyncio.gather(*(one_large(n) for n in range(count)))
    looking.cancel()
    print_row(f"4 MB on each of {count} connections", dict(sorted(statuses.items())))
    print_row("maximum memory meanwhile", f"{most:.0f} MiB")
    if not set(statuses) <= {"200", "503", "none"} or not statuses["200"]:
        faults.append("large bodies")


async def mad(running: Running, connections: int, seconds: float) -> None:
    """One source sends as fast as it can on many connections; another sends twenty times a second."""
    end = time.monotonic() + seconds
    counts: dict[int, int] = {}
    calm: list[tuple[int, float]] = []
    sent = whole_call("openvidu", now())[0]
    headers, suffix, _ = sign("openvidu", sent.body, SECRETS["openvidu"], now())

    async def rage(web: aiohttp.ClientSession, n: int) -> None:
        number = 0
        while time.monotonic() < end:
            number += 1
            body = b'{"event":"mad","n":%d,"m":%d}' % (n, number)
            async with web.post(f"{running.url}/hooks/ov{suffix}", data=body, headers=headers) as answer:
                counts[answer.status] = counts.get(answer.status, 0) + 1

    async def stay_calm(web: aiohttp.ClientSession) -> None:
        n = 0
        while time.monotonic() < end:
            calm.append(await send_one(running, web, "livekit", n := n + 1))
            await asyncio.sleep(0.05)

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as raging, aiohttp.ClientSession() as quiet:
        await asyncio.gather(stay_calm(quiet), *(rage(raging, n) for n in range(connections)))
    times = sorted(second for _, second in calm)
    print_row(f"mad source, {connections} connections", f"{sum(counts.values()) / seconds:.0f}/s {counts}")
    print_row(
        "calm source meanwhile, p50 and max", f"{times[len(times) // 2] * 1000:.0f} ms, {times[-1] * 1000:.0f} ms"
    )
    print_row("calm source refused", sum(status != 200 for status, _ in calm), 0)


async def fill_queue(running: Running) -> None:
    """Another process locks the log while both sources send: one source fills its share of the queue, the other still gets in."""
    import sqlite3

    other = sqlite3.connect(running.log_path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as web:
        first = [asyncio.create_task(send_one(running, web, "openvidu", n)) for n in range(60)]
        await asyncio.sleep(0.7)
        calm = [asyncio.create_task(send_one(running, web, "livekit", n)) for n in range(2)]
        await asyncio.sleep(0.7)
        refused = sum(task.done() and task.result()[0] == 503 for task in first)
        print_row("mad source over its share of 16", f"{refused} of 60 get 503")
        print_row("calm source waits and is not refused", [task.done() for task in calm], [False, False])
        other.execute("ROLLBACK")
        other.close()
        print_row("calm source once the log is free", [status for status, _ in await asyncio.gather(*calm)], [200, 200])
        await asyncio.gather(*first)
        print_row("mad source once the log is free", (await send_one(running, web, "openvidu", 1000))[0], 200)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit code."""
    parser = report.parser(__doc__)
    parser.add_argument("--idle", type=int, default=10_000)
    parser.add_argument("--mad", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(argv)
    options.quick = options.quick or options.smoke
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(misbehave(options))
    print("faults:", faults or "none")
    return 1 if faults else 0


async def misbehave(options: argparse.Namespace) -> None:
    """Run every sender, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        running = Running(Path(folder))
        text = running.config.read_text("utf-8")
        await running.start(init=True)
        try:
            # A new connection for each request: the server closes one whose body it refused.
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as web:
                await bodies(running, web)
                await slow(running, web, 20 if options.quick else 400, wait=not options.quick)
                await idle(running, web, 200 if options.quick else options.idle)
                await large(running, 40 if options.quick else options.idle)
                await mad(running, 20 if options.quick else options.mad, 1 if options.quick else options.seconds)
                print_row("memory at the end", f"{memory(running):.0f} MiB")
            print_row("exit code", await running.stop(), 0)
            running.config.write_text(text.replace('engine = "sqlite"', 'engine = "sqlite"\nqueue_bound = 16'), "utf-8")
            await running.start()
            await fill_queue(running)
        finally:
            await running.stop()


if __name__ == "__main__":
    report.run(main)
