"""Attacks with request bodies: their cost for the server and for authentic deliveries at the same time.

    python -m bench.faults.bodies [--attackers 1 20] [--seconds 10] [--only NAME]

Each attack runs alone, from separate processes, against a new server. One client delivers authentic webhooks over one
connection throughout. A row shows the wait of the slowest and of the median delivery (ms), the most processor time that
the server's event loop used while one delivery waited (ms, whatever else runs on this machine), the server's peak memory
(MiB), and the attackers' answers. The attackers run at the lowest priority: elsewhere they would take no core from the server.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from bench import report
from tests.support.bombs import gzip_bomb
from tests.support.server import Running, now
from tracker.demo.calls import whole_call

ROW = "{:36}{:>4}{:>10}{:>10}{:>10}{:>8}  {}"


def head(path: str, length: int, *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {length}", *lines, "", ""]).encode()


def attack(name: str, port: int, seconds: float, answers: multiprocessing.Queue, body: bytes) -> None:
    """One attacker, in a separate process: reports the first lines of the answers."""
    os.nice(19)
    found: Counter[str] = Counter()
    until = time.monotonic() + seconds
    held: list[socket.socket] = []
    while time.monotonic() < until:
        try:
            peer = socket.create_connection(("127.0.0.1", port), 5)
            peer.settimeout(max(0.1, until - time.monotonic()))
            if name.startswith("gzip"):
                peer.sendall(head(PATHS[name], len(body), "Content-Encoding: gzip") + body)
                found[peer.recv(64).split(b"\r\n")[0].decode() or "closed"] += 1
                peer.recv(1 << 16)
                peer.close()
            elif name.startswith("half deliveries"):
                if len(held) >= 400:
                    time.sleep(0.2)
                    peer.close()
                    continue
                peer.sendall(head(PATHS[name], 4_000_000) + bytes(30_000))
                held.append(peer)
                found["held"] += 1
            elif name.startswith("half"):
                if len(held) >= 150:
                    time.sleep(0.2)
                    peer.close()
                    continue
                kind = "multipart/form-data; boundary=x" if "multipart" in name else "application/x-www-form-urlencoded"
                sent = (
                    b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n'
                    if "multipart" in name
                    else b"token="
                )
                size = 4_000_000
                peer.settimeout(2)
                try:
                    peer.sendall(
                        head(PATHS[name], size + 100, f"Content-Type: {kind}")
                        + sent
                        + bytes(65 + n % 26 for n in range(1000)) * (size // 1000 - 1)
                    )
                except OSError as error:
                    found[type(error).__name__] += 1
                held.append(peer)
                found["held"] += 1
            else:  # slow readers
                if len(held) >= 400:
                    time.sleep(0.2)
                    peer.close()
                    continue
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                peer.sendall(f"GET {PATHS[name]} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                held.append(peer)
                found["held"] += 1
        except OSError as error:
            found[type(error).__name__] += 1
            time.sleep(0.05)
    answers.put(dict(found))


PATHS = {
    "gzip bomb to /hooks/ov": "/hooks/ov",
    "gzip bomb to /healthz": "/healthz",
    "gzip bomb to /sign-in": "/sign-in",
    "gzip bomb to /v1/sessions": "/v1/sessions",
    "half deliveries to /hooks/ov": "/hooks/ov",
    "half forms to /sign-in": "/sign-in",
    "half multipart to /sign-in": "/sign-in",
    "static file, never read": "/docs/rapidoc-min.js",
}


def memory(pid: int) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def processor_ms(pid: int) -> float:
    """Of the event loop's thread."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e6


async def play(name: str, attackers: int, seconds: float, body: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="tracker-bodies-") as folder:
        running = await Running(Path(folder)).start(init=True)
        port = int(running.url.rsplit(":", 1)[1])
        assert running.process is not None
        answers: multiprocessing.Queue = multiprocessing.Queue()
        many = attackers
        workers = [
            multiprocessing.Process(target=attack, args=(name, port, seconds, answers, body)) for _ in range(many)
        ]
        waits: list[float] = []
        busy: list[float] = []
        largest = memory(running.process.pid)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(120)) as web:
            deliveries = [d for n in range(50) for d in whole_call("openvidu", now(), seed=n)]
            began = time.monotonic()
            for worker in workers:
                worker.start()
            for sent in deliveries:
                if time.monotonic() - began > seconds:
                    break
                before, used = time.perf_counter(), processor_ms(running.process.pid)
                status, _ = await running.post(web, "openvidu", sent)
                waits.append(time.perf_counter() - before)
                busy.append(processor_ms(running.process.pid) - used)
                assert status == 200, status
                largest = max(largest, memory(running.process.pid))
                await asyncio.sleep(0.02)
        found: Counter[str] = Counter()
        for _ in workers:
            found.update(await asyncio.to_thread(answers.get, True, 60))
        for worker in workers:
            worker.join(10)
            worker.kill()
        await running.kill()
        summary = ", ".join(f"{count} × {what}" for what, count in found.most_common(4))
        print(
            ROW.format(
                name,
                attackers,
                f"{max(waits) * 1000:.0f}",
                f"{sorted(waits)[len(waits) // 2] * 1000:.1f}",
                f"{max(busy):.0f}",
                f"{largest:.0f}",
                summary,
            ),
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit code."""
    parser = report.parser(__doc__)
    parser.add_argument("--attackers", type=int, nargs="+", default=[1, 20])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--only")
    options = parser.parse_args(argv)
    if options.smoke:
        options.attackers, options.seconds, options.only = [1], 0.2, options.only or next(iter(PATHS))
    body = gzip_bomb(60 * 64)
    print(ROW.format("attack", "n", "slowest", "median", "busy", "MiB", "attackers were answered"))
    for name in PATHS:
        if options.only and options.only not in name:
            continue
        for attackers in options.attackers:
            asyncio.run(play(name, attackers, options.seconds, body))
    return 0


if __name__ == "__main__":
    report.run(main)
