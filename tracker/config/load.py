"""Reads config.toml into frozen structs, once, before anything starts; fetches secrets and makes paths absolute.

    config.toml ─► tables (every key known? every value of its type?) ─► secrets from environment and files ─► Config

A mistake raises `ConfigInvalid`, which names the key by its full path (`sources[1].stuck_after`) and says how to fix it; it
never holds a secret. Whether a source fits its vendor is checked in `server/sources.py`. Every key is described in
docs/reference/configuration.md, and a test compares the two.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

import msgspec

from tracker.config.evidence import EvidenceConfig, read_evidence
from tracker.config.jetstream import JetstreamConfig, read_jetstream
from tracker.config.declarations import declaration_text
from tracker.config.encryption import SealingConfig, read_sealing
from tracker.config.secret_lookup import MAP_KEYS, SECRET_KEYS, Lookup
from tracker.config.schema import AccessKey, Algorithm, Engine, FileTables, Guarded, KeyTable, ServerTable, SourceTable
from tracker.config.values import expect_apart, micros, path_of
from tracker.errors import ConfigInvalid

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
HOOK_URL = re.compile(r"https?://[^\s/#]+/[^\s#]*", re.ASCII)
VENDOR_OPTIONS = ("header", "hook_url", "accept_unbound_checksum", "declaration")
"""Keys of `[[sources]]` that only some vendors have."""
HOST = re.compile(r"[A-Za-z0-9.:%\[\]_-]+")


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where to listen. Port 0 takes a free one; `shutdown_grace` in seconds."""

    host: str
    port: int
    max_body_bytes: int
    shutdown_grace: float

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach `host`."""
        host = self.host.strip("[]")
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host.lower() == "localhost"


class LogConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The log's engine and file; `queue_bound` in records."""

    engine: Engine
    path: Path
    queue_bound: int


class AccessConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Who may read. Without keys, the server accepts connections on loopback only."""

    keys: tuple[AccessKey, ...] = ()
    audience: str | None = None
    issuer: str | None = None


class SourceConfig(Guarded, frozen=True, kw_only=True):
    """One source, secrets fetched. `stuck_after` and `retention` in µs (None: records are never erased by age).

    `secrets_key`: the key of the table that `secrets` or `keys` were read from. `header`: None where the table has none.
    `options`: those of the vendor's own options that the table has.
    `declaration`: its text.
    `redact`: names of fields that views and API do not show, in addition to those that every source hides.
    """

    name: str
    vendor: str
    options: frozenset[str] = frozenset()
    header: str | None = None
    hook_url: str = ""
    accept_unbound_checksum: bool = False
    declaration: str = ""
    secrets_key: str | None = None
    secrets: tuple[str, ...] = ()
    keys: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    stuck_after: int
    retention: int | None = None
    redact: tuple[str, ...] = ()


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """All of config.toml with defaults; `path` is the file."""

    path: Path
    server: ServerConfig
    log: LogConfig
    jetstream: JetstreamConfig
    views_path: Path
    evidence: EvidenceConfig
    sealing: SealingConfig
    access: AccessConfig
    sources: tuple[SourceConfig, ...]

    def source(self, name: str) -> SourceConfig:
        """The source of that name. Raises `ConfigInvalid`, which names the existing ones."""
        for source in self.sources:
            if source.name == name:
                return source
        named = ", ".join(source.name for source in self.sources) or "none"
        raise ConfigInvalid(f"no source is named {name!r} in {self.path}: use one of its [[sources]]: {named}")


def load(path: Path | str, environ: Mapping[str, str]) -> Config:
    """Read and check `path`; relative paths in it are relative to its directory. Raises `ConfigInvalid`."""
    real = Path(path).absolute()
    try:
        raw = tomllib.loads(real.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigInvalid(
            f"{path} does not exist: name the file with --config, or write an example with `tracker init --config {path}`"
        ) from None
    except OSError as error:
        raise ConfigInvalid(f"{path} cannot be read ({error.strerror}): check path and permissions") from None
    except UnicodeDecodeError:
        raise ConfigInvalid(f"{path} is not UTF-8: save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid(f"{path} is not TOML: {error}: correct the line") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, a thousand brackets
        raise ConfigInvalid(
            f"{path} is not TOML that can be read: shorten a number that is too long, or reduce the nesting"
        ) from None
    return read(raw, real, environ)


def read(raw: Mapping[str, Any], path: Path, environ: Mapping[str, str]) -> Config:
    """Check a parsed file. `path` names it in messages; relative paths start at its directory. Raises `ConfigInvalid`."""
    _expect_known(raw, FileTables, "")
    tables = _convert(raw)
    lookup = Lookup(environ, path.parent)
    log_path, views_path = _paths(tables, path.parent)
    evidence = read_evidence(tables.evidence, path.parent)
    sealing = read_sealing(tables.sealing, path.parent, lookup)
    sources = _sources(tables.sources, lookup)
    for n, source in enumerate(sources):
        if source.retention is not None and not sealing.masters:
            raise ConfigInvalid(
                f"sources[{n}].retention: unencrypted records cannot be erased: name a master key under [sealing] keys"
            )
    expect_apart({
        "log.path": log_path, "views.path": views_path, "sealing.path": sealing.path,
        "evidence.key_file": evidence.key_file, "evidence.file": evidence.file,
    })  # fmt: skip
    return Config(
        path=path,
        server=_server(tables.server),
        log=LogConfig(engine=tables.log.engine, path=log_path, queue_bound=tables.log.queue_bound),
        jetstream=read_jetstream(tables.jetstream, path.parent, lookup),
        views_path=views_path,
        evidence=evidence,
        sealing=sealing,
        access=AccessConfig(
            keys=_access_keys(tables.access.keys, lookup),
            audience=_non_empty(tables.access.audience, "access.audience"),
            issuer=_non_empty(tables.access.issuer, "access.issuer"),
        ),
        sources=sources,
    )


def _convert(raw: Mapping[str, Any]) -> FileTables:
    try:
        return msgspec.convert(raw, FileTables)
    except msgspec.ValidationError as error:
        # Like "Expected `int`, got `str` - at `$.server.port`": the types, never the value.
        what, _, where = str(error).replace(" | null`", "`").replace("`object`", "`table`").partition(" - at ")
        key = where.strip("`").removeprefix("$").removeprefix(".") or "the file"
        missing = re.fullmatch(r"Object missing required field `(\w+)`", what)
        if missing:
            raise ConfigInvalid(f"{key}.{missing[1]}: missing; write {missing[1]} = …") from None
        raise ConfigInvalid(f"{key}: {what[:1].lower()}{what[1:]}: {_advice(key)}") from None


def _advice(key: str) -> str:
    """How to fix a value of the wrong type."""
    for end, words in (("log.engine", Engine), ("algorithm", Algorithm)):
        if key.endswith(end):
            return f"write one of {', '.join(get_args(words))}"
    if key == "sources":
        return "write each source under a [[sources]] of its own"
    if key == "access.keys":
        return 'write keys = [{ id = "main", secret_env = "TRACKER_READ_KEY" }]'
    if key.endswith(".keys"):
        return 'write keys = { issuer = "secret" }'
    return "correct the value"


def _server(table: ServerTable) -> ServerConfig:
    if HOST.fullmatch(table.host) is None:
        raise ConfigInvalid('server.host: this is not an address: write one like "127.0.0.1", "::1" or "0.0.0.0"')
    return ServerConfig(
        host=table.host,
        port=table.port,
        max_body_bytes=table.max_body_bytes,
        shutdown_grace=micros(table.shutdown_grace, "server.shutdown_grace") / 1_000_000,
    )


def _paths(tables: FileTables, folder: Path) -> tuple[Path, Path]:
    """The paths of the log and the views. Raises `ConfigInvalid`, also where both are one file: a rebuild would replace the log."""
    log = path_of(tables.log.path, folder, "log.path", "data/log.db")
    views = path_of(tables.views.path, folder, "views.path", "data/views.db")
    if os.path.realpath(log) == os.path.realpath(views):
        raise ConfigInvalid(
            "views.path: this is the same file as log.path, and a rebuild of the views would replace the log: "
            'give the views a file of their own, like "data/views.db"'
        )
    return log, views


def _non_empty(text: str | None, key: str) -> str | None:
    if text is not None and not text.strip():
        raise ConfigInvalid(f"{key}: empty: write what tokens must carry, or remove the key")
    return text


def _expect_known(raw: object, table: type[msgspec.Struct], path: str) -> None:
    """Raise `ConfigInvalid` at the first key that `table` does not have; the conversion reports wrong types."""
    if not isinstance(raw, Mapping):
        return
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(table)}
    for key, value in cast("Mapping[str, object]", raw).items():
        where = f"{path}.{key}" if path else key
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            advice = f"did you mean {close[0]!r}?" if close else f"the keys here are {', '.join(sorted(fields))}"
            raise ConfigInvalid(f"{where}: unknown key; {advice}")
        inner = _table_type(fields[key])
        if inner is not None and inner is fields[key]:
            _expect_known(value, inner, where)
        elif inner is not None and isinstance(value, list):
            for n, each in enumerate(cast("list[object]", value)):
                _expect_known(each, inner, f"{where}[{n}]")


def _table_type(kind: Any) -> type[msgspec.Struct] | None:
    for each in (kind, *get_args(kind)):
        if isinstance(each, type) and issubclass(each, msgspec.Struct):
            return each
    return None


def _sources(tables: tuple[SourceTable, ...], lookup: Lookup) -> tuple[SourceConfig, ...]:
    found: dict[str, int] = {}
    sources: list[SourceConfig] = []
    for n, table in enumerate(tables):
        where = f"sources[{n}]"
        if NAME.fullmatch(table.name) is None:
            raise ConfigInvalid(
                f"{where}.name: {table.name!r} is not a valid name: use letters, digits, '_', '.' and '-', at most 64, because it becomes part of an address"
            )
        if table.name in found:
            raise ConfigInvalid(
                f"{where}.name: {table.name!r} is already the name of sources[{found[table.name]}]: "
                "names are part of addresses and ids, give each source its own"
            )
        found[table.name] = n
        sources.append(_source(table, where, lookup))
    return tuple(sources)


def _source(table: SourceTable, where: str, lookup: Lookup) -> SourceConfig:
    if table.header is not None and HEADER.fullmatch(table.header) is None:
        # The value is not shown: it may be the whole header line, with the secret.
        raise ConfigInvalid(
            f'{where}.header: this is not the name of a header: write only the name, like "Authorization"'
        )
    if table.hook_url is not None and HOOK_URL.fullmatch(table.hook_url) is None:
        raise ConfigInvalid(
            f"{where}.hook_url: this is not an address: write the URL as it is registered at the sender, like"
            f' "https://tracker.example/hooks/{table.name}"'
        )
    key = lookup.secrets_key(table, where)
    return SourceConfig(
        name=table.name,
        vendor=table.vendor,
        options=frozenset(name for name in VENDOR_OPTIONS if getattr(table, name) is not None),
        header=table.header,
        hook_url=table.hook_url or "",
        accept_unbound_checksum=table.accept_unbound_checksum or False,
        declaration=(
            ""
            if table.declaration is None
            else declaration_text(table.declaration, lookup.folder, f"{where}.declaration")
        ),
        secrets_key=key,
        secrets=lookup.secrets(table, key, where) if key in SECRET_KEYS else (),
        keys=lookup.keys(table, key, where) if key in MAP_KEYS else {},
        stuck_after=micros(table.stuck_after, f"{where}.stuck_after"),
        retention=None if table.retention is None else micros(table.retention, f"{where}.retention"),
        redact=table.redact,
    )


def _access_keys(tables: tuple[KeyTable, ...], lookup: Lookup) -> tuple[AccessKey, ...]:
    keys: list[AccessKey] = []
    for n, table in enumerate(tables):
        where = f"access.keys[{n}]"
        if not table.id:
            raise ConfigInvalid(f'{where}.id: empty: name the key, like "main"; tokens have this name as `kid`')
        if any(key.id == table.id for key in keys):
            raise ConfigInvalid(f"{where}.id: {table.id!r} is used twice: give each key its own id")
        keys.append(AccessKey(table.id, table.algorithm, *lookup.access_key(table, where)))
    return tuple(keys)
