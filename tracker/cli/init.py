"""`tracker init`: creates config.toml, the log, its signing key and its key store; each only where it is missing."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import get_args

from tracker.cli.arguments import Subparsers, add_command
from tracker.cli.output import print_line
from tracker.config.load import Config
from tracker.config.schema import Engine
from tracker.errors import ConfigInvalid
from tracker.server import signing_keys, stores
from tracker.server.sources import load_config


def add_to(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = add_command(subparsers, "init", run, "Create the log, once; and a config.toml where there is none.")
    parser.add_argument("--engine", choices=get_args(Engine), help="the engine of the log, as in config.toml")
    parser.set_defaults(needs_config=False)


def run(arguments: argparse.Namespace) -> int:
    """Create config.toml where there is none, then the log."""
    path = Path(arguments.config)
    if not path.exists():
        _write_new(path, _example_config(arguments.engine))
        print_line(f"wrote {path}: add your sources to it")
    config = load_config(path, os.environ)
    if arguments.engine not in {None, config.log.engine}:
        raise ConfigInvalid(
            f'log.engine: {path} says "{config.log.engine}": write engine = "{arguments.engine}" under [log]'
        )
    created = asyncio.run(init(config, print_line))
    print_line(f"created {' and '.join(map(str, created))}; start with `tracker serve --config {path}`")
    key = signing_keys.public_key(config)
    if config.log.engine == "jetstream" and key is not None:
        print_line(f"this node {'signs' if config.jetstream.signs else 'cosigns'} with the key {key}")
    if not config.sealing.masters:
        print_line("bodies are kept in clear: to encrypt them, name a master key under [sealing] before the first call")
    return 0


async def init(config: Config, report: Callable[[str], None] | None = None) -> list[Path]:
    """Create the empty log, its signing key, and its key store where master keys are configured; returns the new files.

    An existing log gets the signing key or the key store that it lacks, when that was configured later. Raises
    `LogUnavailable` when everything exists. `report`: in a cluster, gets a line that says whether the stream was created
    or joined.
    """
    created: list[Path] = []
    # Keys first: a log without its keys is useless, keys without a log are harmless.
    if config.sealing.masters and not config.sealing.path.exists():
        if config.log.path.exists():
            await stores.expect_no_encrypted_records(config)
        await stores.create_key_store(config)
        created.append(config.sealing.path)
    if signing_keys.create_signing_key(config) is not None:
        created.append(config.evidence.key_file)
    if not (created and config.log.path.exists()):
        await stores.create_log(config, report)
        created.append(config.log.path)
    return created


def _example_config(engine: str | None) -> bytes:
    """The example config.toml; for a cluster with `[jetstream]` uncommented."""
    text = (resources.files("tracker.config") / "example.toml").read_bytes()
    if engine != "jetstream":
        return text
    before, after = text.replace(b'engine = "sqlite"   ', b'engine = "jetstream"').split(b"# [jetstream]\n")
    table, rest = after.split(b"\n\n", 1)
    # `node` stays commented out: each node has its own name, and all nodes may share one file.
    lines = [line if line.startswith(b"# node") else line.removeprefix(b"# ") for line in table.split(b"\n")]
    return before + b"\n".join([b"[jetstream]", *lines, b"", rest])


def _write_new(path: Path, text: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(text)
    except OSError as error:
        raise ConfigInvalid(
            f"{path} cannot be written ({error.strerror}): choose another place with --config"
        ) from None
