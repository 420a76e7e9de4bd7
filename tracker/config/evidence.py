"""`[evidence]` of config.toml: the key that signs checkpoints, how often, and where they go."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tracker.config.values import micros, path_of
from tracker.errors import ConfigInvalid

OFF = "off"


class EvidenceTable(msgspec.Struct, frozen=True, kw_only=True):
    """`[evidence]` as written in the file."""

    key_file: str = "data/checkpoint.key"
    origin: str = "tracker.local/log"
    every: str = "1h"
    file: str = "data/checkpoints.txt"
    former_keys: tuple[str, ...] = ()
    cosigner_keys: tuple[str, ...] = ()


class EvidenceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where the signing key is, what the log is called, and where checkpoints go. `every` in µs, None: on demand only."""

    key_file: Path
    origin: str
    every: int | None
    file: Path
    former_keys: tuple[str, ...]
    cosigner_keys: tuple[str, ...] = ()


def read_evidence(table: EvidenceTable, folder: Path) -> EvidenceConfig:
    """The table's values; paths start at `folder`. Raises `ConfigInvalid`."""
    origin = table.origin
    if not origin or "+" in origin or any(each.isspace() or not each.isprintable() for each in origin):
        raise ConfigInvalid(
            'evidence.origin: this cannot name a log: write a name like an address, "tracker.example/log", '
            "without blanks and plus"
        )
    if "://" in origin:
        raise ConfigInvalid(f"evidence.origin: leave out the scheme: write {origin.partition('://')[2]!r}")
    return EvidenceConfig(
        key_file=path_of(table.key_file, folder, "evidence.key_file", "data/checkpoint.key"),
        origin=origin,
        every=None if table.every.strip() == OFF else _every(table.every),
        file=path_of(table.file, folder, "evidence.file", "data/checkpoints.txt"),
        former_keys=table.former_keys,
        cosigner_keys=table.cosigner_keys,
    )


def _every(text: str) -> int:
    try:
        return micros(text, "evidence.every")
    except ConfigInvalid as error:
        raise ConfigInvalid(f'{error}, or "off"') from None
