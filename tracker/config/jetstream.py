"""`[jetstream]`: the cluster that keeps the log where `log.engine` says so; how to reach it and who this node is.

No secret stands in the file itself: passwords and tokens come from the environment or files of their own.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Annotated, Any

import msgspec

from tracker.config.secret_lookup import Lookup
from tracker.config.values import micros, path_of
from tracker.errors import ConfigInvalid

STREAM = re.compile(r"[A-Za-z0-9_-]{1,64}")
SERVER = re.compile(r"(nats|tls)://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
MONITORING = re.compile(r"https?://[^\s/@]+(/[^\s@]*)?")


class JetstreamTable(msgspec.Struct, frozen=True, kw_only=True):
    """`[jetstream]` as it stands in the file."""

    servers: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    stream: str = "tracker"
    node: str | None = None
    replicas: Annotated[int, msgspec.Meta(ge=1, le=5)] = 3
    monitoring: tuple[str, ...] = ()
    behind_at_most: str = "10s"
    signs: bool = True
    user: str | None = None
    password_env: str | None = None
    password_file: str | None = None
    token_env: str | None = None
    token_file: str | None = None
    credentials_file: str | None = None
    nkey_seed_file: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None


class JetstreamConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The same, secrets fetched; `behind_at_most` in seconds. Never printed: `repr` hides it."""

    servers: tuple[str, ...]
    stream: str
    node: str
    replicas: int
    monitoring: tuple[str, ...]
    behind_at_most: float
    signs: bool
    user: str | None = None
    password: str | None = None
    token: str | None = None
    credentials_file: Path | None = None
    nkey_seed_file: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def __repr__(self) -> str:
        return f"JetstreamConfig({self.stream!r}, …)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What rich prints, in tracebacks too."""
        return [("stream", self.stream)]


def read_jetstream(table: JetstreamTable, folder: Path, lookup: Lookup) -> JetstreamConfig:
    """Addresses checked, secrets fetched. Raises `ConfigInvalid`."""
    _expect_addresses(table)
    node = socket.gethostname().partition(".")[0] if table.node is None else table.node
    for key, name in (("stream", table.stream), ("node", node)):
        if STREAM.fullmatch(name) is None:
            raise ConfigInvalid(
                f"jetstream.{key}: {name!r} is part of an address: use letters, digits, '_' and '-', at most 64"
            )
    ways = [
        key for key in ("user", "token_env", "token_file", "credentials_file", "nkey_seed_file") if getattr(table, key)
    ]
    if len(ways) > 1:
        raise ConfigInvalid(f"jetstream.{ways[1]}: given beside {ways[0]}: keep one way of saying who this node is")
    password = lookup.text(table.password_env, table.password_file, "jetstream", "password")
    if (table.user is None) != (password is None):
        raise ConfigInvalid("jetstream.user: a user needs a password: write user and password_file (or password_env)")
    if (table.tls_cert is None) != (table.tls_key is None):
        raise ConfigInvalid("jetstream.tls_cert: a certificate needs its key: write tls_cert and tls_key")
    return JetstreamConfig(
        servers=table.servers, stream=table.stream, node=node, replicas=table.replicas, monitoring=table.monitoring,
        behind_at_most=micros(table.behind_at_most, "jetstream.behind_at_most") / 1_000_000, signs=table.signs,
        user=table.user, password=password, token=lookup.text(table.token_env, table.token_file, "jetstream", "token"),
        credentials_file=_file(table.credentials_file, folder, "credentials_file"),
        nkey_seed_file=_file(table.nkey_seed_file, folder, "nkey_seed_file"),
        tls_ca=_file(table.tls_ca, folder, "tls_ca"),
        tls_cert=_file(table.tls_cert, folder, "tls_cert"),
        tls_key=_file(table.tls_key, folder, "tls_key"),
    )  # fmt: skip


def _expect_addresses(table: JetstreamTable) -> None:
    if not table.servers:
        raise ConfigInvalid('jetstream.servers: empty: write servers = ["nats://127.0.0.1:4222"], all of the cluster')
    for n, server in enumerate(table.servers):
        if SERVER.fullmatch(server) is None:
            # Not shown: people write the password in front of the host.
            raise ConfigInvalid(
                f'jetstream.servers[{n}]: this is no address of a server: write one like "nats://nats-1.example:4222", '
                "and who we are under user and password_file"
            )
    for n, address in enumerate(table.monitoring):
        if MONITORING.fullmatch(address) is None:
            raise ConfigInvalid(f'jetstream.monitoring[{n}]: write an address like "http://nats-1.example:8222"')


def _file(name: str | None, folder: Path, key: str) -> Path | None:
    if name is None:
        return None
    path = path_of(name, folder, f"jetstream.{key}", "secrets/nats.creds")
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigInvalid(
            f"jetstream.{key}: the file cannot be read ({error.strerror}): check path and permissions; "
            f"a relative path starts at {folder}"
        ) from None
    return path
