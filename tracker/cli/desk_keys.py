"""`tracker restore-keys`: the bucket of data keys that the nodes of a cluster share, put back from what this node has of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tracker.server import cluster_stores, stores
from tracker.config.load import Config
from tracker.errors import ConfigInvalid

if TYPE_CHECKING:
    from tracker.log.jetstream.restore_keys import RestoreResult


async def restore_keys(
    config: Config, *, partly: bool = False, progress: Callable[[int, int], None] | None = None
) -> RestoreResult:
    """Put back what the bucket lacks and this node has; make it where there is none. A server may run meanwhile.

    `partly`: make it also where this node cannot make it whole. Raises `ConfigInvalid` where nothing is sealed or there is
    no cluster, `LogError`.
    """
    if config.log.engine != "jetstream":
        raise ConfigInvalid("log.engine: only the nodes of a cluster have a bucket of data keys")
    if not config.sealing.masters:
        raise ConfigInvalid("sealing.keys: there is no master key: name the one that the other nodes have")
    # It takes out what is erased, by position: on a node that has diverged those may be other people's.
    async with stores.tree_log(config) as log:
        await stores.expect_undiverged(config, log)
    vault = await stores.open_key_store(config)
    try:
        return await cluster_stores.restore_keys(config, vault, partly=partly, progress=progress)
    finally:
        await vault.close()
