"""`tracker copy`: copies the log into that of another config.toml; both then have the same root."""

from __future__ import annotations

import argparse
import asyncio
import os

from tracker.cli import output
from tracker.cli.arguments import Subparsers, add_command
from tracker.cli.output import print_json, print_line
from tracker.config.load import Config
from tracker.errors import ConfigInvalid, LogUnavailable
from tracker.log import copy_log as log_copy
from tracker.log.cluster.divergence import trusted_keys
from tracker.log.contract import Log
from tracker.log.copy_log import CopyResult, Progress
from tracker.privacy.erasure import finish
from tracker.server import signing_keys, stores
from tracker.server.sources import load_config


def add_to(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = add_command(subparsers, "copy", run, "Copy the log into that of another config.toml.", as_json=True)
    parser.add_argument(
        "--to",
        metavar="FILE",
        required=True,
        help="the config.toml of the log to copy into: one machine's, or a cluster node's",
    )


def run(arguments: argparse.Namespace) -> int:
    """Copy the log."""
    to = load_config(arguments.to, os.environ)
    with output.progress("copy", "records") as report:
        copied = asyncio.run(copy(arguments.config, to, report))
    if arguments.json:
        print_json(copied)
        return 0
    print_line(
        f"both logs have {copied.records} records ({copied.new} of them new), with {copied.checkpoints} checkpoints; "
        f"root {copied.root}"
    )
    if unknown := unknown_keys(copied, to):
        keys = ", ".join(f'"{key}"' for key in unknown)
        print_line(
            f"the checkpoints are signed with a key that {to.path} does not name: copy its file to {to.evidence.key_file}, "
            f"or write under [evidence]: former_keys = [{keys}]"
        )
    return 0


async def copy(config: Config, to: Config, progress: Progress | None = None) -> CopyResult:
    """Copy the log of `config` into that of `to`; after a copy that ended early, the rest.

    Creates the target where it is missing, and locks it against servers. Raises `ConfigInvalid` when both are the same
    log, `LogError`.
    """
    if config.log.path.resolve() == to.log.path.resolve():
        raise ConfigInvalid(f"log.path: {config.path} and {to.path} name the same file: there is nothing to copy")
    async with stores.copy_source(config) as source:
        await _create_target(to, await stores.read_dedupe_secret(config))
        with stores.lock_log(to):
            async with stores.copy_target(to) as target:
                # Before it continues, too: an earlier run may have died between an erasure record and its keys.
                await _finish_erasures(to, target)
                keys = [*signing_keys.verifiers(config), *await trusted_keys(source, [])]
                copied = await log_copy.copy_log(source, target, progress, verifiers=keys)
                await _finish_erasures(to, target)
                return copied


def unknown_keys(copied: CopyResult, to: Config) -> list[str]:
    """The keys of the copied checkpoints that the target's config does not name. Raises `ConfigInvalid`."""
    known = {str(each) for each in signing_keys.verifiers(to)}
    return [key for key in copied.keys if key not in known]


async def _finish_erasures(to: Config, target: Log) -> None:
    if to.sealing.masters:
        await finish(target)


async def _create_target(to: Config, dedupe_secret: bytes | None) -> None:
    """Create the log and key store of the target where they are missing; `dedupe_secret` None: the source is unencrypted."""
    if dedupe_secret is not None and not to.sealing.masters:
        raise ConfigInvalid(f"sealing.keys: the log to copy is encrypted: name a master key in {to.path} too")
    if to.sealing.masters:
        if not to.sealing.path.exists():
            await stores.create_key_store(to, dedupe_secret)
        if dedupe_secret is not None and await stores.read_dedupe_secret(to) != dedupe_secret:
            raise LogUnavailable(
                f"{to.sealing.path} is the key store of another log and would not recognise duplicates: "
                "name an empty target"
            )
    if not to.log.path.exists():
        await stores.create_log(to)
