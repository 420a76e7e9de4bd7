"""The tables of config.toml: one struct each, every key with its default."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from tracker.config.evidence import EvidenceTable
from tracker.config.jetstream import JetstreamTable
from tracker.config.encryption import SealingTable

Engine = Literal["sqlite", "jetstream"]
Algorithm = Literal["HS256", "RS256", "EdDSA"]
Positive = Annotated[int, msgspec.Meta(ge=1)]


class Guarded(msgspec.Struct, frozen=True, kw_only=True):
    """A struct with secrets: printing it, also with `rich`, shows its name only."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({getattr(self, 'name', None) or getattr(self, 'id', None)!r}, …)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("name", getattr(self, "name", None) or getattr(self, "id", None))]


class ServerTable(msgspec.Struct, frozen=True, kw_only=True):
    """`[server]`."""

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8080
    max_body_bytes: Positive = 4 * 1024 * 1024
    shutdown_grace: str = "10s"


class LogTable(msgspec.Struct, frozen=True, kw_only=True):
    """`[log]`: `queue_bound` in records."""

    engine: Engine = "sqlite"
    path: str = "data/log.db"
    queue_bound: Positive = 10_000


class ViewsTable(msgspec.Struct, frozen=True, kw_only=True):
    """`[views]`."""

    path: str = "data/views.db"


class KeyTable(Guarded, frozen=True, kw_only=True):
    """One of `[access] keys`."""

    id: str
    algorithm: Algorithm = "HS256"
    secret: str | None = None
    secret_env: str | None = None
    secret_file: str | None = None
    public_key_file: str | None = None
    private_key_file: str | None = None


class AccessKey(msgspec.Struct, frozen=True):
    """One key of `[access]`. HS256 has a `secret`; RS256 and EdDSA a `public_key` to verify and a `private_key` to sign.

    Keys are PEM texts. Never printed: `repr` hides them.
    """

    id: str
    algorithm: Algorithm
    secret: str | None = None
    public_key: str | None = None
    private_key: str | None = None

    def __repr__(self) -> str:
        return f"AccessKey({self.id!r}, {self.algorithm!r}, …)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What rich prints, in tracebacks too."""
        return [("id", self.id), ("algorithm", self.algorithm)]


class AccessTable(msgspec.Struct, frozen=True, kw_only=True):
    """`[access]`: who may read."""

    keys: tuple[KeyTable, ...] = ()
    audience: str | None = None
    issuer: str | None = None


class SourceTable(Guarded, frozen=True, kw_only=True):
    """One `[[sources]]`. Which of its keys a vendor needs and accepts is checked in `server/sources.py`."""

    name: str
    vendor: str
    header: str | None = None
    hook_url: str | None = None
    accept_unbound_checksum: bool | None = None
    declaration: str | None = None
    secret: str | None = None
    secret_env: str | None = None
    secret_file: str | None = None
    secrets: tuple[str, ...] | None = None
    secrets_env: str | None = None
    secrets_file: str | None = None
    keys: dict[str, str] | None = None
    keys_env: str | None = None
    keys_file: str | None = None
    stuck_after: str = "12h"
    retention: str | None = None
    redact: tuple[str, ...] = ()


class FileTables(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file."""

    server: ServerTable = ServerTable()
    log: LogTable = LogTable()
    jetstream: JetstreamTable = JetstreamTable()
    views: ViewsTable = ViewsTable()
    evidence: EvidenceTable = EvidenceTable()
    sealing: SealingTable = SealingTable()
    access: AccessTable = AccessTable()
    sources: tuple[SourceTable, ...] = ()
