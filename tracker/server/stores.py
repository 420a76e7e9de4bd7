"""Opens and creates what config.toml names: the log, the views and the key store.

The server and the offline commands get their stores here, so that they cannot differ. Only the wiring in this package
names engines.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from tracker.config.load import Config
from tracker.errors import (
    LogMissing, LogUnavailable, ViewsDamaged, ViewsMissing, ViewsOutdated, ViewsPathWrong, ViewsUnavailable,
)  # fmt: skip
from tracker.log.contract import ClusteredLog, Log, ServedLog
from tracker.log.copy_log import CopySource
from tracker.log.file_lock import FileLock, lock
from tracker.log.group_commit import LogObserver
from tracker.log.keys.key_store import KeyStore, read_dedupe_secret_from
from tracker.log.sqlite.copy_target import SqliteCopyTarget
from tracker.log.sqlite.known_deliveries import KnownDeliveries, open_known_deliveries
from tracker.log.sqlite.log import SqliteLog
from tracker.server import cluster_stores, declarations
from tracker.server.sources import shipped_dictionaries
from tracker.views.sqlite.file import Inode, copy_file, is_views_file, move_aside, remove_damaged, swap_in
from tracker.views.sqlite.views import SqliteViews

if TYPE_CHECKING:
    from tracker.log.jetstream.log import JetstreamLog

_log = structlog.get_logger("stores")


async def create_log(config: Config, report: cluster_stores.Report | None = None) -> None:
    """Create the empty log; in a cluster the stream, unless it exists, and this node's replica. Raises `LogUnavailable`.

    `report`: in a cluster, gets a line that says whether the stream was created or joined.
    """
    if config.log.engine == "jetstream":
        await cluster_stores.create_log(config, report)
    else:
        await SqliteLog.create(config.log.path)


def lock_log(config: Config) -> FileLock:
    """Lock the log against other servers. Raises `LogMissing`, or `LogUnavailable` naming the process that holds it."""
    if not config.log.path.exists():
        raise LogMissing(f"there is no log at {config.log.path}: check log.path, or create one with `tracker init`")
    return lock(config.log.path)


async def open_log(config: Config, observe: LogObserver | None = None) -> ServedLog:
    """The existing log, to append to; with its key store where master keys are configured.

    In a cluster a `ClusteredLog`, which may be behind. Raises `LogMissing`, `LogCorrupt`, `LogUnavailable`.
    """
    if config.log.engine == "jetstream":
        return await cluster_stores.open_log(config, observe, await _configured_key_store(config))
    return await _open_file(config, observe)


async def open_followed_log(config: Config) -> SqliteLog:
    """The log that a server appends to, in a cluster this node's replica of it, for the projector: nothing is written.

    Raises `LogMissing`, `LogCorrupt`, `LogUnavailable`.
    """
    key_store = None
    if config.sealing.masters:
        key_store = await KeyStore.open(
            config.sealing.path, config.sealing.masters, shipped_dictionaries(), writable=False
        )
    return await SqliteLog.open(config.log.path, key_store=key_store, writable=False)


async def _open_file(config: Config, observe: LogObserver | None = None, *, check_schema: bool = True) -> SqliteLog:
    return await SqliteLog.open(
        config.log.path,
        queue_bound=config.log.queue_bound,
        observe=observe,
        key_store=await _configured_key_store(config),
        check_schema=check_schema,
    )


@asynccontextmanager
async def appending_log(config: Config) -> AsyncGenerator[Log]:
    """Open the log for appending; close it on leaving. A server may use it at the same time.

    In a cluster, wait until this node has caught up.
    """
    log = await open_log(config)
    try:
        await _expect_current(config, log)
        await declarations.use_recorded(log)
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def reading_log(config: Config) -> AsyncGenerator[SqliteLog]:
    """The log, in a cluster this node's replica of it, closed on leaving; a server may be running on it.

    A log with a changed schema opens too.
    """
    log = await _open_file(config, check_schema=False)
    try:
        await declarations.use_recorded(log)
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def tree_log(config: Config) -> AsyncGenerator[SqliteLog]:
    """The log for proofs, closed on leaving. It opens without master keys too; then encrypted bodies stay encrypted.

    A log with a changed schema opens too.
    """
    log = (
        await _open_file(config, check_schema=False)
        if config.sealing.masters
        else await SqliteLog.open(config.log.path, encrypted_unread=True, check_schema=False)
    )
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def copy_source(config: Config) -> AsyncGenerator[CopySource]:
    """The log to sign or to copy from, closed on leaving; bodies are not decrypted.

    In a cluster, wait until this node has caught up.
    """
    if config.log.engine == "jetstream":
        async with copy_target(config) as node:
            yield node
    else:
        async with tree_log(config) as log:
            yield log


@asynccontextmanager
async def copy_target(config: Config) -> AsyncGenerator[JetstreamLog | SqliteCopyTarget]:
    """The log to copy into, closed on leaving. In a cluster, wait until this node has caught up."""
    key_store = await _configured_key_store(config)
    if config.log.engine == "jetstream":
        log = await cluster_stores.open_log(config, key_store=key_store)
    else:
        log = await SqliteCopyTarget.open(config.log.path, key_store=key_store, encrypted_unread=True)
    try:
        await _expect_current(config, log)
        yield log
    finally:
        await log.close()


async def _expect_current(config: Config, log: Log) -> None:
    """Wait until a node of a cluster has caught up. Raises `NodeDiverged`."""
    if isinstance(log, ClusteredLog):
        await log.wait_until_caught_up()
        await cluster_stores.expect_undiverged(config, log)


async def expect_no_encrypted_records(config: Config) -> None:
    """Raise `LogUnavailable` when the log holds encrypted records already: a new key store could not open them."""
    try:
        await (await SqliteLog.open(config.log.path)).close()
    except LogUnavailable as error:
        if error.reason != "no_master_key":
            raise
        raise LogUnavailable(
            f"{config.log.path} has encrypted records, but their key store is not at {config.sealing.path}: "
            "bring it back, its keys cannot be created again"
        ) from None


async def create_key_store(config: Config, dedupe_secret: bytes | None = None) -> None:
    """Create the empty key store, in a cluster with the secret that all nodes share. Raises `LogUnavailable` when it exists.

    `dedupe_secret`: when a log is copied, the secret of the log that is copied from.
    """
    masters = config.sealing.masters
    if config.log.engine == "jetstream":
        dedupe_secret = await cluster_stores.share_dedupe_secret(config, masters, dedupe_secret)
    await KeyStore.create(config.sealing.path, masters, dedupe_secret)


async def open_key_store(config: Config) -> KeyStore:
    """The key store. Raises `LogMissing`, `LogCorrupt`, `LogUnavailable`."""
    return await KeyStore.open(config.sealing.path, config.sealing.masters, shipped_dictionaries())


async def _configured_key_store(config: Config) -> KeyStore | None:
    return await open_key_store(config) if config.sealing.masters else None


async def read_dedupe_secret(config: Config) -> bytes | None:
    """The secret that dedupe keys are hashed with; None where bodies are unencrypted."""
    masters = config.sealing.masters
    return await read_dedupe_secret_from(config.sealing.path, masters) if masters else None


@asynccontextmanager
async def known_deliveries(config: Config) -> AsyncGenerator[KnownDeliveries]:
    """What the log has already, in a cluster this node's replica of it; nothing is written. Closed on leaving."""
    async with open_known_deliveries(config.log.path, await read_dedupe_secret(config)) as known:
        yield known


async def rewrap_frame_keys(config: Config, key_store: KeyStore) -> int:
    """Wrap the frame keys of a cluster, here and in its bucket; how many changed here. Raises `LogError`."""
    count, after = 0, b""
    while after is not None:
        after, done = await key_store.rewrap_entries(after)
        count += done
    if config.log.engine == "jetstream":
        await cluster_stores.rewrap_bucket(config, key_store)
    return count


async def open_live_views(config: Config, *, writable: bool) -> SqliteViews:
    """The views of a running server: for the projector, which writes them, or to read.

    Where they cannot be opened now, they open themselves later (`repair_views`). Raises `ViewsPathWrong`, `LogUnavailable`.
    """
    try:
        return await _open_or_replace(config, writable=writable)
    except ViewsPathWrong:
        raise
    except ViewsUnavailable as error:
        _log.error("there are no views now: deliveries are recorded, readers get 503", reason=str(error))
        return SqliteViews(config.views_path, writable=writable)


async def repair_views(config: Config) -> None:
    """Do what opening the live views does, so that they can open themselves. Raises `ViewsUnavailable`, `LogUnavailable`."""
    await (await _open_or_replace(config, writable=True)).close()


async def _open_or_replace(config: Config, *, writable: bool) -> SqliteViews:
    """Missing, outdated or damaged views are replaced by empty ones, which the projector fills."""
    try:
        return await SqliteViews.open(config.views_path, writable=writable)
    except ViewsDamaged as error:
        await move_damaged_views(config, str(error))
    except ViewsMissing:
        _log.info("no views yet, building them from the log", path=str(config.views_path))
    except ViewsOutdated:
        _log.info("the views are of another version, rebuilding them from the log", path=str(config.views_path))
    await create_views(config)
    return await SqliteViews.open(config.views_path, writable=writable)


async def create_views(config: Config) -> None:
    """Create empty views at position 0; existing ones are swapped out, and what is no views file is moved aside."""
    expect_distinct_paths(config)
    await _move_foreign_file(config)
    await SqliteViews.create(config.views_path)


async def move_damaged_views(config: Config, reason: str, inode: Inode | None = None) -> bool:
    """Move the damaged views aside, and log it; returns whether there were any.

    `inode`: see `move_aside`. Raises `ViewsUnavailable`, `LogUnavailable`.
    """
    expect_distinct_paths(config)
    aside = await asyncio.to_thread(move_aside, config.views_path, inode)
    if aside is not None:
        _log.error(
            "the views are damaged: moved aside, and made again from the log", moved_to=str(aside), reason=reason
        )
    return aside is not None


async def _move_foreign_file(config: Config) -> None:
    path = config.views_path
    if path.exists() and not await asyncio.to_thread(is_views_file, path):
        await move_damaged_views(config, f"{path} is not a views file of Tracker")


async def remove_damaged_views(config: Config) -> None:
    """Delete damaged views that were moved aside. Raises `ViewsUnavailable`."""
    await asyncio.to_thread(remove_damaged, config.views_path)


def expect_distinct_paths(config: Config) -> None:
    """Raise `LogUnavailable` where creating views would overwrite the log."""
    if config.views_path.resolve() == config.log.path.resolve():
        raise LogUnavailable("log.path and views.path are the same file: give the views a path of their own")


@asynccontextmanager
async def reading_views(config: Config) -> AsyncGenerator[SqliteViews]:
    """The views for reading, closed on leaving. Raises `ViewsMissing`, `ViewsOutdated`, `ViewsUnavailable`."""
    async with views_at(config.views_path, writable=False) as views:
        yield views


@asynccontextmanager
async def views_at(path: Path, *, writable: bool) -> AsyncGenerator[SqliteViews]:
    """The views file at this path, closed on leaving. Raises `ViewsMissing`, `ViewsOutdated`, `ViewsUnavailable`."""
    views = await SqliteViews.open(path, writable=writable)
    try:
        yield views
    finally:
        await views.close()


@asynccontextmanager
async def new_views(path: Path, after: int = 0) -> AsyncGenerator[SqliteViews]:
    """Empty views at this path, for a rebuild to fill. Complete on leaving; useless after an error.

    `after`: for a part of a rebuild, which has only the records after this position. It is left ready to be merged.
    """
    views = await SqliteViews.build(path, after=after)
    try:
        yield views
        await (views.close_partial() if after else views.finish())
    finally:
        await views.close()


async def swap_views(new: Path, config: Config) -> None:
    """Replace the views in use with a finished, closed views file. What is damaged or no views file is moved aside.

    Raises `ViewsUnavailable`; then the old ones stay.
    """
    expect_distinct_paths(config)
    await _move_foreign_file(config)
    try:
        await asyncio.to_thread(swap_in, new, config.views_path)
    except ViewsDamaged as error:
        await move_damaged_views(config, str(error))
        await asyncio.to_thread(swap_in, new, config.views_path)


async def copy_views(config: Config, to: Path) -> None:
    """Copy the views in use, as they are at one moment."""
    await asyncio.to_thread(copy_file, config.views_path, to)
