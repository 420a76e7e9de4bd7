"""Where configuration becomes rooms: the only file that names engines.

`service` (live) and `desk` (offline) both get their stores and sources here, so that they cannot differ.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from tracker.log.cluster import divergence as diverging
from tracker.domain import clock
from tracker.server import cluster_stores
from tracker.api.auth import Access, AccessKey
from tracker.evidence.bundle.build import BundleSettings
from tracker.evidence.checkpointer import Checkpointer, CheckpointObserver
from tracker.config.load import AccessKeyConfig, Config
from tracker.log.copy_log import CopySource
from tracker.errors import LogMissing, LogUnavailable, NodeDiverged, ViewsMissing, ViewsOutdated
from tracker.log.merkle.cosignature import CosignerKey
from tracker.log.merkle.note import Signer, Verifier
from tracker.log.contract import ClusteredLog, Log, ServedLog
from tracker.log.group_commit import LogObserver
from tracker.log.file_lock import FileLock, lock
from tracker.log.sqlite.log import SqliteLog
from tracker.log.sqlite.trust import TrustedKeys
from tracker.log.sqlite.copy_target import SqliteCopyTarget
from tracker.log.keys.key_store import MasterKey, KeyStore
from tracker.evidence.signing_key import create_key, read_cosigners, read_key, read_verifiers
from tracker.server.sources import shipped_dictionaries
from tracker.log.cluster.divergence import Divergence, trusted_keys
from tracker.log.cluster.cosigner import Cosigner
from tracker.views.sqlite.views import SqliteViews
from tracker.views.sqlite.snapshot import open_snapshot
from tracker.views.sqlite.file import copy, swap_in

if TYPE_CHECKING:
    from tracker.log.jetstream.log import JetstreamLog

BUNDLES = 2
"""Evidence bundles made at once: each holds a temporary file, and a core for as long as it compresses."""

_log = structlog.get_logger("joining")


def hidden(config: Config) -> Mapping[str, frozenset[str]]:
    """Fields that views do not show, by source."""
    return {each.name: frozenset(each.redact) for each in config.sources if each.redact}


async def create_log(config: Config, told: cluster_stores.Told | None = None) -> None:
    """Make the empty log; in a cluster the stream, where there is none, and this node's replica. Raises `LogUnavailable`.

    `told`: whether the stream was made or joined.
    """
    if config.log.engine == "jetstream":
        await cluster_stores.create(config, told)
    else:
        await SqliteLog.create(config.log.path)


def lock_log(config: Config) -> FileLock:
    """Keep other servers away from the log. Raises `LogMissing`, `LogUnavailable` naming who serves it."""
    if not config.log.path.exists():
        raise LogMissing(f"there is no log at {config.log.path}: check log.path, or make one with `tracker init`")
    return lock(config.log.path)


async def open_log(config: Config, observe: LogObserver | None = None) -> ServedLog:
    """The existing log, to append to, with its key store where master keys are configured.

    In a cluster a `ClusteredLog`, which may be behind. Raises `LogMissing`, `LogCorrupt`, `LogUnavailable`.
    """
    if config.log.engine == "jetstream":
        return await cluster_stores.open_log(config, _known(config), observe, await _vault_of(config))
    return await _open_file(config, observe)


async def _open_file(config: Config, observe: LogObserver | None = None) -> SqliteLog:
    return await SqliteLog.open(
        config.log.path, queue_bound=config.log.queue_bound, observe=observe, vault=await _vault_of(config)
    )


async def _vault_of(config: Config) -> KeyStore | None:
    return await open_key_store(config) if config.sealing.masters else None


async def expect_unsealed(config: Config) -> None:
    """Raise `LogUnavailable` when the log holds sealed records already: their keys cannot be made again."""
    try:
        await (await SqliteLog.open(config.log.path)).close()
    except LogUnavailable as error:
        if "sealed" not in str(error):
            raise
        raise LogUnavailable(
            f"{config.log.path} has sealed records, but their key store is not at {config.sealing.path}: "
            "bring it back, its keys cannot be made again"
        ) from None


def masters(config: Config) -> list[MasterKey]:
    """The configured master keys, the current one first."""
    return [MasterKey(each.id, each.key) for each in config.sealing.masters]


async def open_key_store(config: Config) -> KeyStore:
    """The key store. Raises `LogMissing`, `LogCorrupt`, `LogUnavailable`."""
    return await KeyStore.open(config.sealing.path, masters(config), shipped_dictionaries())


async def rewrap_frames(config: Config, vault: KeyStore) -> int:
    """Wrap what belongs to a cluster, here and in its bucket; how many keys were wrapped anew here. Raises `LogError`."""
    count, after = 0, b""
    while after is not None:
        after, done = await vault.rewrap_entries(after)
        count += done
    if config.log.engine == "jetstream":
        await cluster_stores.rewrap(config, vault)
    return count


async def create_key_store(config: Config, names: bytes | None = None) -> None:
    """Make the empty key store, in a cluster with what all nodes share. Raises `LogUnavailable` when there is one.

    `names`: what dedupe keys are hashed with in the log that is copied into it.
    """
    found = masters(config)
    if config.log.engine == "jetstream":
        names = await cluster_stores.join_names(config, found, names)
    await KeyStore.create(config.sealing.path, found, names)


async def dedupe_secret(config: Config) -> bytes | None:
    """What dedupe keys are hashed with; None where bodies are kept in clear."""
    if not config.sealing.masters:
        return None
    vault = await open_key_store(config)
    await vault.close()
    return vault.dedupe_secret


async def open_live_views(config: Config) -> SqliteViews:
    """The views for the projector. Missing or outdated ones are made anew, empty: the projector fills them again."""
    try:
        return await SqliteViews.open(config.views_path, writable=True)
    except ViewsMissing:
        _log.info("there are no views yet: they are made from the log", path=str(config.views_path))
    except ViewsOutdated:
        _log.info("the views are another version's: they are made anew from the log", path=str(config.views_path))
    await create_views(config)
    return await SqliteViews.open(config.views_path, writable=True)


async def create_views(config: Config) -> None:
    """Empty views at checkpoint 0; views that were there are swapped out."""
    expect_distinct_paths(config)
    await SqliteViews.create(config.views_path)


def expect_distinct_paths(config: Config) -> None:
    """Raise `LogUnavailable` where making views would write over the log."""
    if config.views_path.resolve() == config.log.path.resolve():
        raise LogUnavailable("log.path and views.path are the same file: give the views a path of their own")


@asynccontextmanager
async def appending_log(config: Config) -> AsyncGenerator[Log]:
    """The log to append to, closed on leaving; a server may be running on it. A node of a cluster catches up first."""
    log = await open_log(config)
    try:
        if isinstance(log, ClusteredLog):
            await log.wait_until_caught_up()
            await expect_undiverged(config, log)
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def reading_log(config: Config) -> AsyncGenerator[SqliteLog]:
    """The log, in a cluster this node's replica of it, closed on leaving; a server may be running on it."""
    log = await _open_file(config)
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def tree_log(config: Config) -> AsyncGenerator[SqliteLog]:
    """The same for whoever proves it and reads no body: without master keys, sealed records stay sealed."""
    log = (
        await _open_file(config) if config.sealing.masters else await SqliteLog.open(config.log.path, sealed_stay=True)
    )
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def copy_source(config: Config) -> AsyncGenerator[CopySource]:
    """The log to sign or to copy, closed on leaving; no body of it is read. A node of a cluster catches up first."""
    if config.log.engine == "jetstream":
        async with copy_target(config) as node:
            yield node
    else:
        async with tree_log(config) as log:
            yield log


@asynccontextmanager
async def copy_target(config: Config) -> AsyncGenerator[JetstreamLog | SqliteCopyTarget]:
    """The log to copy into, closed on leaving. A node of a cluster catches up first."""
    if config.log.engine == "jetstream":
        log = await cluster_stores.open_log(config, _known(config), vault=await _vault_of(config))
    else:
        log = await SqliteCopyTarget.open(config.log.path, vault=await _vault_of(config), sealed_stay=True)
    try:
        if isinstance(log, ClusteredLog):
            await log.wait_until_caught_up()
            await expect_undiverged(config, log)
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def reading_views(config: Config) -> AsyncGenerator[SqliteViews]:
    """The views for reading, closed on leaving. Raises `ViewsMissing`, `ViewsOutdated`, `ViewsUnavailable`."""
    views = await SqliteViews.open(config.views_path, writable=False)
    try:
        yield views
    finally:
        await views.close()


@asynccontextmanager
async def views_at(path: Path, *, writable: bool) -> AsyncGenerator[SqliteViews]:
    """The views file at a path of its own, closed on leaving."""
    views = await SqliteViews.open(path, writable=writable)
    try:
        yield views
    finally:
        await views.close()


@asynccontextmanager
async def new_views(path: Path, after: int = 0) -> AsyncGenerator[SqliteViews]:
    """Empty views at a path of their own, for a rebuild to fill; whole on leaving, worthless after an error.

    `after`: of the records after that position, and on leaving put by for others to absorb.
    """
    views = await SqliteViews.build(path, after=after)
    try:
        yield views
        await (views.close_partial() if after else views.finish())
    finally:
        await views.close()


async def swap_views(new: Path, config: Config) -> None:
    """Give a finished, closed views file the place of those in use. Raises `ViewsUnavailable`; the old ones stay then."""
    expect_distinct_paths(config)
    await asyncio.to_thread(swap_in, new, config.views_path)


async def copy_views(config: Config, to: Path) -> None:
    """Copy the views in use, as they are at one moment."""
    await asyncio.to_thread(copy, config.views_path, to)


def create_signer(config: Config) -> Verifier | None:
    """Make the key that signs checkpoints; None when there is one: it stays. Raises `ConfigInvalid`."""
    return create_key(config.evidence.key_file, _key_name(config))


def signer(config: Config) -> Signer | None:
    """The key that signs checkpoints, None where there is no file or another node signs. Raises `ConfigInvalid`."""
    return None if _cosigns(config) else read_key(config.evidence.key_file, config.evidence.origin)


def cosigner(config: Config) -> Signer | None:
    """The key that cosigns what another node signs, None where this node signs or has none. Raises `ConfigInvalid`."""
    return read_key(config.evidence.key_file, _key_name(config)) if _cosigns(config) else None


def cosigners(config: Config) -> list[CosignerKey]:
    """The public keys of nodes that cosign, this one's too. Raises `ConfigInvalid`."""
    own = cosigner(config)
    return [*read_cosigners(config.evidence.cosigner_keys), *([] if own is None else [CosignerKey.from_signer(own)])]


def public_key(config: Config) -> str | None:
    """The verifier key of what this node signs or cosigns with; None without one. Raises `ConfigInvalid`."""
    signing, cosigning = signer(config), cosigner(config)
    if signing is not None:
        return str(signing.verifier)
    return None if cosigning is None else str(CosignerKey.from_signer(cosigning))


def _cosigns(config: Config) -> bool:
    return config.log.engine == "jetstream" and not config.jetstream.signs


def _key_name(config: Config) -> str:
    return f"{config.evidence.origin}/{config.jetstream.node}" if _cosigns(config) else config.evidence.origin


def verifiers(config: Config) -> list[Verifier]:
    """Every public key that checkpoints of this log may be signed with. Raises `ConfigInvalid`."""
    present = signer(config)
    former = read_verifiers(config.evidence.former_keys)
    return former if present is None else [present.verifier, *former]


def _known(config: Config) -> TrustedKeys:
    return TrustedKeys(verifiers(config), cosigners(config))


def checkpointer(config: Config, log: Log, signing: Signer, watcher: CheckpointObserver | None = None) -> Checkpointer:
    """What signs the log."""
    former = read_verifiers(config.evidence.former_keys)
    return Checkpointer(log, signing, file=config.evidence.file, former=former, observer=watcher)


def tree_cosigner(config: Config, log: ClusteredLog) -> Cosigner:
    """What compares this node with what is signed."""
    return Cosigner(
        log, node=config.jetstream.node, origin=config.evidence.origin, signs=config.jetstream.signs,
        signer=cosigner(config), trusted=verifiers(config), now=clock.now,
    )  # fmt: skip


async def divergence(config: Config, log: diverging.ComparedLog) -> Divergence | None:
    """How a node's records differ from what is signed. Raises `LogError`, `ConfigInvalid`."""
    return await diverging.find_divergence(log, verifiers(config), config.evidence.origin)


async def expect_undiverged(config: Config, log: diverging.ComparedLog) -> None:
    """Raise `NodeDiverged` where they do, in a cluster."""
    found = await divergence(config, log) if config.log.engine == "jetstream" else None
    if found is not None:
        raise NodeDiverged(str(found))


def bundle_settings(config: Config, log: Log, watcher: CheckpointObserver | None = None) -> BundleSettings:
    """What evidence bundles need of the operator. Raises `ConfigInvalid`."""
    signing = signer(config)
    return BundleSettings(
        sign=None if signing is None else checkpointer(config, log, signing, watcher).sign,
        keys=lambda: trusted_keys(log, verifiers(config)),
        hidden=hidden(config),
        open_snapshot=lambda: open_snapshot(config.views_path),
        gate=asyncio.Semaphore(BUNDLES),
    )


def access(config: Config) -> Access:
    """Who may read."""
    keys = [access_key(key) for key in config.access.keys]
    return Access(keys, audience=config.access.audience, issuer=config.access.issuer, now=clock.now)


def access_key(key: AccessKeyConfig) -> AccessKey:
    """One key of the read door."""
    return AccessKey(
        id=key.id, algorithm=key.algorithm, secret=key.secret, public_key=key.public_key, private_key=key.private_key
    )
