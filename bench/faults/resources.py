"""Resources that run out: `python -m bench.faults.resources [--only disk,limits …]`.

A resource is taken from a running server, then given back. Meanwhile deliveries get 503 with Retry-After (or are recorded
late), /healthz stays 200 and /readyz reports the problem. Afterwards, without a restart, deliveries are recorded, /readyz is
200, and no answered delivery is missing. Cases that need root or strace are skipped without them, with a message.
Prints a table; the exit code is 1 if a check failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from bench import report
from bench.faults.server_power import restart_in_own_mount_namespace
from tests.support.senders import start_large_upload
from tests.support.server import SECRETS, SOURCES, Running, now
from tracker.demo.calls import sign
from tracker.log.sqlite.log import SqliteLog

faults: list[str] = []
ENOUGH = 400
"""MiB that a server needs at most above its idle memory."""
JUMPING = "import sys, pathlib, time; from tracker.domain import clock; from tracker.cli import main as cli\noffset = pathlib.Path(sys.argv.pop(1))\nclock.now = lambda: time.time_ns() // 1000 + int(offset.read_text() or 0)\nsys.exit(cli.main())"


async def send(running: Running, web: aiohttp.ClientSession, n: int, size: int = 3000) -> tuple[int, str, int]:
    """Send one delivery of about `size` bytes; returns status (0: no answer), Retry-After, position."""
    body = json.dumps({"event": "test", "n": n, "at": now(), "text": os.urandom(size // 2).hex()}).encode()
    headers, suffix, _ = sign("openvidu", body, SECRETS["openvidu"], now())
    try:
        async with web.post(f"{running.url}/hooks/{SOURCES['openvidu']}{suffix}", data=body, headers=headers) as answer:
            answered = await answer.json(content_type=None)
            return answer.status, answer.headers.get("Retry-After", ""), answered.get("position", 0)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return 0, "", 0


async def status(running: Running, path: str) -> int:
    """The status of a path that needs no token, on a new connection."""
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=8)) as web:
            async with web.get(running.url + path) as answer:
                return answer.status
    except (aiohttp.ClientError, TimeoutError):
        return 0


async def case(
    name: str, running: Running, take: Callable[[], Any], give: Callable[[], Any], *,
    statuses: set[int] = {503}, ready: set[int] = {503}, size: int = 3000, count: int = 12,
    says: bytes = b"delivery not recorded",
) -> None:  # fmt: skip
    """Take a resource, measure, give it back, measure again; prints one row."""
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as web:
        before = [await send(running, web, 0)]
        printed = running.printed.stat().st_size
        take()
        answers = [answer for n in range(3) for answer in [await send(running, web, n, size)]]
        many = asyncio.gather(*(send(running, web, n, size) for n in range(count)))
        await asyncio.sleep(0.3)
        readyz, healthz = await status(running, "/readyz"), await status(running, "/healthz")
        answers += await many
        found = {answer[0] for answer in answers}
        give()
        after, ready_after = (0, "", 0), 0
        for _ in range(20):
            after, ready_after = await send(running, web, 99), await status(running, "/readyz")
            if (after[0], ready_after) == (200, 200):
                break
            await asyncio.sleep(0.5)
    patient = all(retry for code, retry, _ in answers if code == 503)
    reports_count = running.printed.read_bytes()[printed:].count(says)
    good = (
        found & statuses == statuses
        and found <= statuses | {200}
        and readyz in ready
        and healthz in {200} | (ready & {0})
    )
    good = good and (after[0], ready_after) == (200, 200) and patient and (bool(reports_count) or not says)
    lost = await missing(running, [*before, *answers, after])
    if not good or lost:
        faults.append(name)
    counts = " ".join(f"{code or 'none'}:{sum(a[0] == code for a in answers)}" for code in sorted(found))
    print(
        f"{name:26}{counts:22}{readyz:8}{healthz:9}{after[0]:8}{ready_after:8}{lost:6}{reports_count:7}{'' if good else '  !'}",
        flush=True,
    )


async def missing(running: Running, answers: list[tuple[int, str, int]]) -> int:
    """How many deliveries answered 200 are not in the log."""
    log = await SqliteLog.open(running.log_path)
    head = await log.head()
    positions = [record.position async for chunk in log.read(0) for record in chunk]
    await log.close()
    return sum(code == 200 and not 0 < at <= head for code, _, at in answers) + (positions != list(range(1, head + 1)))


@asynccontextmanager
async def serving(folder: Path) -> AsyncGenerator[Running]:
    """A server with an empty log in that folder; stopped at the end."""
    running = Running(folder)
    await running.start(init=True)
    try:
        yield running
    finally:
        with contextlib.suppress(TimeoutError):
            await running.stop()


def run(*command: str) -> None:
    """Run a command that has to succeed."""
    subprocess.run(command, check=True, capture_output=True)


def pid_of(running: Running) -> int:
    """The server's process id."""
    assert running.process is not None
    return running.process.pid


async def disk(space: Path) -> None:
    """Fill a small file system."""
    mount = space / "small"
    mount.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(mount))
    try:
        async with serving(mount) as running:
            ballast = mount / "ballast"

            def fill() -> None:
                with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                    while True:
                        file.write(bytes(65536))
                with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
                    while True:
                        file.write(bytes(512))

            await case("disk full", running, fill, ballast.unlink, size=20_000)
    finally:
        run("umount", "-l", str(mount))


async def limits(space: Path) -> None:
    """Lower the process's limits from outside, and raise them again."""
    async with serving(space / "limits") as running:
        pid = pid_of(running)

        def limit(what: int, value: int) -> Callable[[], None]:
            return lambda: resource.prlimit(pid, what, (value, resource.prlimit(pid, what)[1])) and None

        endless = resource.RLIM_INFINITY
        wal = running.log_path.with_name("log.db-wal")
        await case(
            "file size limit", running, lambda: limit(resource.RLIMIT_FSIZE, wal.stat().st_size + 6000)(),
            limit(resource.RLIMIT_FSIZE, endless),
        )  # fmt: skip
        held: list[sqlite3.Connection] = []

        def lock() -> None:
            held.append(sqlite3.connect(running.log_path, isolation_level=None))
            held[0].execute("BEGIN IMMEDIATE")

        await case("locked by another process", running, lock, lambda: held[0].execute("ROLLBACK"), count=4)
        held[0].close()
        idle: list[socket.socket] = []
        soft = resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]

        def crowd() -> None:
            limit(resource.RLIMIT_NOFILE, 1000)()
            address = ("127.0.0.1", int(running.url.rsplit(":", 1)[1]))
            idle.extend(socket.create_connection(address) for _ in range(850))

        def leave() -> None:
            for each in idle:
                each.close()

        await case(
            "no file descriptors", running, crowd, leave,
            count=20, says=b"no file descriptors for more connections: they get 503",
        )  # fmt: skip
        limit(resource.RLIMIT_NOFILE, soft)()
        code, _, stderr = await running.run("serve")
        print(f"{'a second serve':26}exit {code}: {stderr.strip()[-90:]}")
        if code != 1 or str(pid) not in stderr:
            faults.append("second serve")


async def memory(space: Path) -> None:
    """`ENOUGH` more memory than it uses, and many large bodies; then less than it uses."""
    await little_memory(space, ENOUGH)
    await no_memory(space)


async def little_memory(space: Path, mib: int) -> None:
    """Allow `mib` MiB more than it has mapped, and send bodies of three times that: it lives and answers 200 or 503."""
    folder = space / f"more-{mib}"
    folder.mkdir()
    async with serving(folder) as running, aiohttp.ClientSession() as web:
        pid, port = pid_of(running), int(running.url.rsplit(":", 1)[1])
        answers = [await send(running, web, n) for n in range(3)]
        mapped = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * 4096
        endless = resource.prlimit(pid, resource.RLIMIT_AS)
        printed = running.printed.stat().st_size
        resource.prlimit(pid, resource.RLIMIT_AS, (mapped + mib * 2**20, endless[1]))
        found = Counter(await asyncio.gather(*(send_large(port) for _ in range(3 * mib // 4))))
        small = [await send(running, web, n) for n in range(3)]
        ready, healthz = await status(running, "/readyz"), await status(running, "/healthz")
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_AS, endless)
        after, ready_after = await send(running, web, 99), await status(running, "/readyz")
        lost = await missing(running, [*answers, *small, after])
    reports_count = running.printed.read_bytes()[printed:].count(b"delivery not recorded")
    good = set(found) <= {"200", "503", "none"} and {each[0] for each in small} <= {200, 503}
    good = good and (after[0], ready_after, healthz) == (200, 200, 200) and reports_count == found["503"]
    if not good or lost:
        faults.append(f"memory, {mib} MiB more")
    counts = " ".join(f"{code}:{count}" for code, count in sorted(found.items()))
    print(
        f"{f'memory: {mib} MiB more':26}{counts:22}{ready:8}{healthz:9}{after[0]:8}{ready_after:8}{lost:6}{reports_count:7}"
        f"{'' if good else '  !'}",
        flush=True,
    )


async def send_large(port: int) -> str:
    """Send a delivery of 4 MB on its own connection, its last bytes after a second; returns the status."""
    try:
        reader, writer = await start_large_upload(port)
        await asyncio.sleep(1)
        writer.write(b"y" * 988 + b'"}')
        first_line = await asyncio.wait_for(reader.readline(), 40)
        writer.close()
        return first_line[9:12].decode() or "none"
    except (OSError, TimeoutError):
        return "none"


async def no_memory(space: Path) -> None:
    """Less memory than it uses. Python may die anywhere: then nothing may be lost, and a restart continues."""
    async with serving(space) as running:
        pid = pid_of(running)
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * 4096
        wanted = (pages + 4_000_000, resource.prlimit(pid, resource.RLIMIT_AS)[1])
        before = resource.prlimit(pid, resource.RLIMIT_AS)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as web:
            answers = [await send(running, web, n) for n in range(3)]
            resource.prlimit(pid, resource.RLIMIT_AS, wanted)
            answers += await asyncio.gather(*(send(running, web, n, 3_500_000) for n in range(12)))
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_AS, before)
            await asyncio.sleep(0.5)
            assert running.process is not None
            ended = running.process.returncode is not None
            if ended:
                await running.start()
            after = await send(running, web, 100)
        lost = await missing(running, [*answers, after])
        found = {answer[0] for answer in answers}
        counts = " ".join(f"{code or 'none'}:{sum(a[0] == code for a in answers)}" for code in sorted(found))
        print(
            f"{'memory: less than it uses':26}{counts:22}{'':17}{after[0]:8}{'':8}{lost:6}{'  the process ended' if ended else ''}",
            flush=True,
        )
        if lost or after[0] != 200 or found - {0, 200, 503}:
            faults.append("memory limit")


async def traced(space: Path) -> None:
    """System calls fail or take long, by strace."""
    async with serving(space / "traced") as running:
        refused, slow = b"delivery not recorded", b"the log is slow"
        for name, what, statuses, ready, says in (
            ("fdatasync fails: EIO", "fdatasync,fsync:error=EIO", {503}, {503}, refused),
            ("pwrite fails: ENOSPC", "pwrite64:error=ENOSPC", {503}, {503}, refused),
            (
                "every write fails: EROFS",
                "pwrite64,fdatasync,fsync,ftruncate,fallocate:error=EROFS",
                {503},
                {503},
                refused,
            ),
            ("slow disk, 300 ms a sync", "fdatasync,fsync:delay_enter=300000", {200}, {200, 503}, b""),
            ("slow disk, 3 s a sync", "fdatasync,fsync:delay_enter=3000000", {200}, {503}, slow),
        ):
            processes: list[subprocess.Popen[bytes]] = []

            def attach(what: str = what, processes: list[subprocess.Popen[bytes]] = processes) -> None:
                calls = what.split(":")[0]
                command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={what}"]
                processes.append(subprocess.Popen([*command, "-p", str(pid_of(running))], stderr=subprocess.DEVNULL))
                import time

                time.sleep(0.7)

            def detach(processes: list[subprocess.Popen[bytes]] = processes) -> None:
                processes[0].terminate()
                processes[0].wait(10)

            await case(name, running, attach, detach, statuses=statuses, ready=ready, says=says)


async def read_only(space: Path) -> None:
    """ext4 turns read-only under a running server, as it does after an error. Only a new mount heals it."""
    image, mount = space / "image", space / "ext4"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    run("mkfs.ext4", "-q", str(image))
    run("mount", "-o", "loop,errors=remount-ro", str(image), str(mount))
    device = Path(
        subprocess.run(["findmnt", "-no", "SOURCE", str(mount)], capture_output=True, text=True).stdout.strip()
    ).name
    running = Running(mount)
    outside = space / "outside"
    outside.mkdir()
    running.printed = outside / "server.txt"
    try:
        await running.start(init=True)
        async with aiohttp.ClientSession() as web:
            first = [await send(running, web, n) for n in range(20)]
            os.sync()  # config.toml and other files that the server does not sync
            Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("1")
            answers = [await send(running, web, n) for n in range(5)]
        found = {answer[:2] for answer in answers}
        print(
            f"{'read-only under it':26}{found!s:22}{await status(running, '/readyz'):8}{await status(running, '/healthz'):9}"
        )
        if found != {(503, "1")} or {answer[0] for answer in first} != {200}:
            faults.append("read-only")
        for command in ("sessions", "records", "verify"):
            code, out, stderr = await running.run(command)
            print(f"{'  tracker ' + command:26}exit {code}: {(stderr or out).strip()[-90:]!r}")
        await running.kill()
        for command in ("sessions", "records", "verify", "serve"):
            code, out, stderr = await running.run(command)
            print(f"{'  stopped, ' + command:26}exit {code}: {(stderr or out).strip()[-90:]!r}")
        run("umount", str(mount))
        subprocess.run(["fsck.ext4", "-y", str(image)], capture_output=True)
        run("mount", "-o", "loop", str(image), str(mount))
        await running.start()
        async with aiohttp.ClientSession() as web:
            after = await send(running, web, 1000)
        await running.stop()
        lost = await missing(running, [*first, after])
        run("mount", "-o", "remount,ro", str(mount))
        for command in ("sessions", "records", "verify"):
            code, out, stderr = await running.run(command)
            print(f"{'  clean and ro, ' + command:26}exit {code}: {(stderr or out).strip()[-90:]!r}")
        print(f"{'  mounted again':26}{after[0]}, lost {lost}")
        if after[0] != 200 or lost:
            faults.append("mounted again")
    finally:
        if running.process is not None:
            await running.kill()
        run("umount", "-l", str(mount))


async def clock(space: Path) -> None:
    """The server's clock jumps an hour ahead and a day back: proofs with a time are refused meanwhile, others are accepted."""
    folder = space / "clock"
    folder.mkdir()
    running = Running(folder)
    offset = folder / "offset"
    offset.write_text("0")
    code, _, stderr = await running.run("init")
    assert code == 0, stderr
    real = asyncio.create_subprocess_exec

    async def jumping(*command: str, **named: Any) -> Any:
        return await real(sys.executable, "-c", JUMPING, str(offset), *command[3:], **named)

    asyncio.create_subprocess_exec = jumping  # type: ignore[assignment]
    try:
        await running.start()
    finally:
        asyncio.create_subprocess_exec = real
    from tracker.demo.calls import SampleDelivery

    expected = {
        "right": (200, 200, 200),
        "an hour ahead": (200, 401, 401),
        "a day back": (200, 401, 200),
        "right again": (200, 200, 200),
    }
    async with aiohttp.ClientSession() as web:
        for n, (name, jump) in enumerate(
            (("right", 0), ("an hour ahead", 3600), ("a day back", -86400), ("right again", 0))
        ):
            printed = running.printed.stat().st_size
            offset.write_text(str(jump * 1_000_000))
            found: list[int] = []
            for vendor in ("openvidu", "openvidu_meet", "livekit"):
                body = json.dumps({"event": "room_started", "id": f"{n}", "createdAt": "1"}).encode()
                sent = SampleDelivery("room_started", body, now())
                found.append((await running.post(web, vendor, sent))[0])
            position = (await send(running, web, n))[2]
            if not jump:  # a read token is valid for a limited time too
                await running.get(web, "/v1/sessions", at_least=str(position))
            ready = await status(running, "/readyz")
            print(f"{'clock ' + name:26}header {found[0]}, HMAC {found[1]}, JWT {found[2]}{ready:8}")
            await asyncio.sleep(1.2)
            if n and b"the clock jumped" not in running.printed.read_bytes()[printed:]:
                faults.append(f"clock {name}: the jump is not in the log")
            if found[0] != 200 or ready != 200 or (n in {0, 3} and found != [200] * 3):
                faults.append(f"clock {name}: expected {expected[name]}")
    await running.stop()
    code, out, stderr = await running.run("rebuild", "--check")
    print(f"{'  rebuild --check':26}exit {code}")
    if code:
        faults.append("clock: " + out + stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit code."""
    cases = {"disk": disk, "limits": limits, "memory": memory, "traced": traced, "read-only": read_only, "clock": clock}
    parser = report.parser(__doc__)
    parser.add_argument("--only", default=",".join(cases))
    options = parser.parse_args(argv)
    restart_in_own_mount_namespace("bench.faults.resources", argv)
    if options.smoke:
        options.only = "clock"
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(
        f"{'taken away':26}{'answers':22}{'/readyz':>8}{'/healthz':>9}{'after':>8}{'/readyz':>8}{'lost':>6}{'lines':>7}"
    )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as space:
        for name in options.only.split(","):
            if (name in {"disk", "read-only"} and os.geteuid()) or (name == "traced" and not shutil.which("strace")):
                print(f"{name:26}skipped: needs {'strace' if name == 'traced' else 'root'}")
                continue
            (Path(space) / name).mkdir()
            for part in ("limits", "traced"):
                (Path(space) / name / part).mkdir()
            asyncio.run(cases[name](Path(space) / name))
    print("faults:", faults or "none")
    return 1 if faults else 0


if __name__ == "__main__":
    report.run(main)
