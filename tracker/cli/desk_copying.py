"""`tracker copy`: open the log to copy and the one to copy into, make that where it is missing, and let nobody else at it."""

from __future__ import annotations

from tracker.log import copy_log
from tracker.server import stores
from tracker.config.load import Config
from tracker.log.copy_log import CopyResult, Progress
from tracker.privacy.erasure import finish
from tracker.errors import ConfigInvalid, LogUnavailable
from tracker.log.cluster.divergence import trusted_keys
from tracker.log.contract import Log


async def copy(config: Config, to: Config, progress: Progress | None = None) -> CopyResult:
    """Copy the log of `config` into that of `to`, or the rest of it after a copy that ended early.

    Raises `ConfigInvalid` where both are the same, `LogError`.
    """
    if config.log.path.resolve() == to.log.path.resolve():
        raise ConfigInvalid(f"log.path: {config.path} and {to.path} name the same file: nothing is to be copied")
    async with stores.copy_source(config) as source:
        await _make(to, await stores.dedupe_secret(config))
        with stores.lock_log(to):
            async with stores.copy_target(to) as target:
                # Before it goes on, too: an earlier run may have died between an erasure and its keys.
                await _finished(to, target)
                keys = [*stores.verifiers(config), *await trusted_keys(source, [])]
                copied = await copy_log.copy_log(source, target, progress, verifiers=keys)
                await _finished(to, target)
                return copied


async def _finished(to: Config, target: Log) -> None:
    if to.sealing.masters:
        await finish(target)


def unnamed(copied: CopyResult, to: Config) -> list[str]:
    """The keys of the checkpoints that were copied which the config of the target does not name. Raises `ConfigInvalid`."""
    named = {str(each) for each in stores.verifiers(to)}
    return [key for key in copied.keys if key not in named]


async def _make(to: Config, names: bytes | None) -> None:
    """Make what is missing. `names`: what dedupe keys of the log to copy are hashed with, None where it is in clear."""
    if names is not None and not to.sealing.masters:
        raise ConfigInvalid(f"sealing.keys: the log to copy is sealed: name a master key in {to.path} too")
    if to.sealing.masters:
        if not to.sealing.path.exists():
            await stores.create_key_store(to, names)
        if names is not None and await stores.dedupe_secret(to) != names:
            raise LogUnavailable(
                f"{to.sealing.path} is the key store of another log, it would not know repeats: name an empty target"
            )
    if not to.log.path.exists():
        await stores.create_log(to)
