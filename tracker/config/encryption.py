"""`[sealing]`: the master keys that wrap each record's data key, and where the key store is.

    keys = [{ id = "2026", secret_env = "TRACKER_MASTER_KEY" }]     the first wraps, the others only unwrap (rotation)

A master key is 32 random bytes, written as 64 hexadecimal digits or in base64. Without one, records are not encrypted.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

import msgspec

from tracker.config.secret_lookup import Lookup
from tracker.config.values import path_of
from tracker.errors import ConfigInvalid

KEY_BYTES = 32
HEX_DIGITS = 64
ADVICE = "write 32 random bytes as `openssl rand -hex 32` prints them"


class MasterTable(msgspec.Struct, frozen=True, kw_only=True):
    """One of `[sealing] keys` as it is written in the file."""

    id: str
    secret: str | None = None
    secret_env: str | None = None
    secret_file: str | None = None


class SealingTable(msgspec.Struct, frozen=True, kw_only=True):
    """`[sealing]` as it is written in the file."""

    keys: tuple[MasterTable, ...] = ()
    path: str = "data/keys.db"


class MasterKey(msgspec.Struct, frozen=True):
    """One master key. `repr` hides its bytes."""

    id: str
    key: bytes

    def __repr__(self) -> str:
        return f"MasterKey({self.id!r}, …)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What rich prints, in tracebacks too."""
        return [("id", self.id)]


class SealingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The master keys, the current one first; without any, records are not encrypted. `path` is the key store's."""

    masters: tuple[MasterKey, ...]
    path: Path


def read_sealing(table: SealingTable, folder: Path, lookup: Lookup) -> SealingConfig:
    """Keys fetched and checked. Raises `ConfigInvalid`."""
    masters: list[MasterKey] = []
    for n, each in enumerate(table.keys):
        where = f"sealing.keys[{n}]"
        if not each.id.strip():
            raise ConfigInvalid(
                f'{where}.id: empty: name the key, like "2026"; the key store notes which key wrapped each data key'
            )
        if any(master.id == each.id for master in masters):
            raise ConfigInvalid(f"{where}.id: {each.id!r} is used twice: give each key its own id")
        masters.append(MasterKey(each.id, _key(lookup.one(each, where, f"a master key: {ADVICE}"), where)))
    return SealingConfig(masters=tuple(masters), path=path_of(table.path, folder, "sealing.path", "data/keys.db"))


def _key(text: str, where: str) -> bytes:
    stripped = text.strip()
    try:
        key = bytes.fromhex(stripped) if len(stripped) == HEX_DIGITS else base64.b64decode(stripped, validate=True)
    except (ValueError, binascii.Error):
        raise ConfigInvalid(f"{where}: the master key is neither hexadecimal nor base64: {ADVICE}") from None
    if len(key) != KEY_BYTES:
        raise ConfigInvalid(f"{where}: the master key has {len(key)} bytes, it needs 32: {ADVICE}")
    return key
