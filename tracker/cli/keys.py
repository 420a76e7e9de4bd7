"""`tracker rekey` and `tracker restore-keys`: wrap data keys with the current master key; restore a cluster's bucket of them."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from tracker.cli import output
from tracker.cli.arguments import Subparsers, add_command
from tracker.cli.output import print_json, print_line
from tracker.config.load import Config
from tracker.errors import ConfigInvalid
from tracker.server import cluster_stores, stores

if TYPE_CHECKING:
    from tracker.log.jetstream.restore_keys import RestoreResult

Progress = Callable[[int, int], None]


def add_to(subparsers: Subparsers) -> None:
    """Declare the commands."""
    add_command(
        subparsers, "rekey", run_rekey, "Wrap every data key with the current master key, after the master key changed."
    )
    summary = "Restore a cluster's bucket of data keys from this node's key store."
    parser = add_command(subparsers, "restore-keys", run_restore_keys, summary, as_json=True)
    parser.add_argument(
        "--partly",
        action="store_true",
        help="create the bucket even though this node lacks keys; then run it on the other nodes too",
    )


def run_rekey(arguments: argparse.Namespace) -> int:
    """Wrap every data key with the current master key."""
    with output.progress("rekey", "keys") as report:
        count = asyncio.run(rekey(arguments.config, report))
    current = arguments.config.sealing.masters[0].id
    print_line(f"{count} data keys were wrapped; the master key {current!r} now opens all of them")
    return 0


def run_restore_keys(arguments: argparse.Namespace) -> int:
    """Restore the bucket; 1 when keys are still missing."""
    with output.progress("restore keys", "entries") as report:
        restored = asyncio.run(restore_keys(arguments.config, partly=arguments.partly, progress=report))
    if arguments.json:
        print_json(restored)
    else:
        print_line(
            f"{restored.entries} of {restored.frames} entries were restored; the others need nothing from this node"
        )
        if restored.missing:
            print_line(
                f"the keys of {restored.missing} records are still missing, the first at position {restored.first}: "
                "run it on the other nodes too"
            )
        if restored.ahead:
            print_line(
                f"the keys of {restored.ahead} records that this node has not applied are missing: "
                "run it on a node that has them"
            )
    return 1 if restored.missing or restored.ahead else 0


async def rekey(config: Config, progress: Progress | None = None) -> int:
    """Wrap every data key with the current master key; returns how many changed. A server may run meanwhile.

    Raises `ConfigInvalid` without master keys, `LogError`.
    """
    if not config.sealing.masters:
        raise ConfigInvalid("sealing.keys: there is no master key: name one to encrypt bodies")
    key_store = await stores.open_key_store(config)
    try:
        # Rewrapping the last position removes the older master key's name, so positions come last.
        frames = await stores.rewrap_frame_keys(config, key_store)
        count, done = await key_store.count_outdated(), 0
        after: int | None = 0
        while after is not None:
            if progress is not None:
                progress(done, count)
            left = await key_store.count_outdated()
            after, done = await key_store.rewrap(after), count - left
        return count + frames
    finally:
        await key_store.close()


async def restore_keys(config: Config, *, partly: bool = False, progress: Progress | None = None) -> RestoreResult:
    """Add to the bucket what it lacks and this node has; create it when it is missing. A server may run meanwhile.

    `partly`: create it even where this node cannot make it complete. Raises `ConfigInvalid` without a cluster or without
    master keys, `LogError`.
    """
    if config.log.engine != "jetstream":
        raise ConfigInvalid("log.engine: only the nodes of a cluster have a bucket of data keys")
    if not config.sealing.masters:
        raise ConfigInvalid("sealing.keys: there is no master key: name the one that the other nodes have")
    # Restoring removes the keys of erased positions. On a diverged node these may be positions of other people's records.
    async with stores.tree_log(config) as log:
        await cluster_stores.expect_undiverged(config, log)
    key_store = await stores.open_key_store(config)
    try:
        return await cluster_stores.restore_keys(config, key_store, partly=partly, progress=progress)
    finally:
        await key_store.close()
