"""`[jetstream]`: the NATS cluster that keeps the log with `log.engine = "jetstream"`, and which node this is.

The file itself holds no secrets: passwords and tokens come from the environment or from files of their own.
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

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
SERVER = re.compile(r"(nats|tls)://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
MONITORING = re.compile(r"https?://[^\s/@]+(/[^\s@]*)?")


class JetstreamBase(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that are used as they are written in the file."""

    servers: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    stream: str = "tracker"
    replicas: Annotated[int, msgspec.Meta(ge=1, le=5)] = 3
    monitoring: tuple[str, ...] = ()
    signs: bool = True
    user: str | None = None


class JetstreamTable(JetstreamBase, frozen=True, kw_only=True):
    """`[jetstream]` as it is written in the file."""

    node: str | None = None
    behind_at_most: str = "10s"
    password_env: str | None = None
    password_file: str | None = None
    token_env: str | None = None
    token_file: str | None = None
    credentials_file: str | None = None
    nkey_seed_file: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None


class JetstreamConfig(JetstreamBase, frozen=True, kw_only=True):
    """The settings with secrets fetched; `behind_at_most` in seconds. `repr` hides everything but the stream's name."""

    node: str
    behind_at_most: float = 10.0
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

    @property
    def requires_tls(self) -> bool:
        """Whether servers may be talked to only over TLS."""
        return bool(self.tls_ca or self.tls_cert or any(each.startswith("tls://") for each in self.servers))

    @property
    def identity_keys(self) -> str:
        """The keys of config.toml that say who this node is; "" where there are none."""
        if self.user is not None:
            return "jetstream.user, password_file (or password_env)"
        if self.token is not None:
            return "jetstream.token_file (or token_env)"
        files = [key for key in ("credentials_file", "nkey_seed_file") if getattr(self, key) is not None]
        return f"jetstream.{files[0]}" if files else ""


def read_jetstream(table: JetstreamTable, folder: Path, lookup: Lookup) -> JetstreamConfig:
    """Addresses checked, secrets fetched. Raises `ConfigInvalid`."""
    _expect_addresses(table)
    node = socket.gethostname().partition(".")[0] if table.node is None else table.node
    for key, name in (("stream", table.stream), ("node", node)):
        if NAME.fullmatch(name) is None:
            raise ConfigInvalid(
                f"jetstream.{key}: {name!r} becomes part of a NATS subject: use letters, digits, '_' and '-', at most 64"
            )
    ways = [
        key for key in ("user", "token_env", "token_file", "credentials_file", "nkey_seed_file") if getattr(table, key)
    ]
    if len(ways) > 1:
        raise ConfigInvalid(
            f"jetstream.{ways[1]}: this and {ways[0]} both say who this node is: keep one way of saying it"
        )
    password = lookup.text(table.password_env, table.password_file, "jetstream", "password")
    if (table.user is None) != (password is None):
        raise ConfigInvalid("jetstream.user: a user needs a password: write user and password_file (or password_env)")
    if (table.tls_cert is None) != (table.tls_key is None):
        raise ConfigInvalid("jetstream.tls_cert: a certificate needs its key: write tls_cert and tls_key")
    return JetstreamConfig(
        **{field.name: getattr(table, field.name) for field in msgspec.structs.fields(JetstreamBase)},
        node=node,
        behind_at_most=micros(table.behind_at_most, "jetstream.behind_at_most") / 1_000_000,
        password=password,
        token=lookup.text(table.token_env, table.token_file, "jetstream", "token"),
        credentials_file=_file(table.credentials_file, folder, "credentials_file"),
        nkey_seed_file=_file(table.nkey_seed_file, folder, "nkey_seed_file"),
        tls_ca=_file(table.tls_ca, folder, "tls_ca"),
        tls_cert=_file(table.tls_cert, folder, "tls_cert"),
        tls_key=_file(table.tls_key, folder, "tls_key"),
    )


def _expect_addresses(table: JetstreamTable) -> None:
    if not table.servers:
        raise ConfigInvalid('jetstream.servers: empty: write servers = ["nats://127.0.0.1:4222"], all of the cluster')
    for n, server in enumerate(table.servers):
        if SERVER.fullmatch(server) is None:
            # Not shown: it may hold a password in front of the host.
            raise ConfigInvalid(
                f'jetstream.servers[{n}]: not a server address: write one like "nats://nats-1.example:4222", '
                "and the node's name and password under user and password_file"
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
