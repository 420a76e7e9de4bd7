"""Builds the log of a cluster from `[jetstream]`.

The NATS driver is imported here only, and only when it is needed: one machine does without it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tracker.config.encryption import MasterKey
from tracker.config.load import Config
from tracker.errors import ConfigInvalid, LogUnavailable, NodeDiverged
from tracker.evidence.signing_key import read_key
from tracker.log.cluster import divergence as log_divergence
from tracker.log.cluster.cosigner import Cosigner
from tracker.log.cluster.divergence import ComparedLog, Divergence
from tracker.log.contract import ClusteredLog
from tracker.log.group_commit import LogObserver
from tracker.log.keys.key_store import KeyStore
from tracker.log.sqlite.replica import Replica
from tracker.domain import clock
from tracker.server import signing_keys

if TYPE_CHECKING:
    from tracker.log.jetstream.log import JetstreamLog
    from tracker.log.jetstream.restore_keys import RestoreResult

LOG_ID_BYTES = 16

Report = Callable[[str], None]
"""Takes one line for the operator."""


async def create_log(config: Config, report: Report | None = None) -> None:
    """Create the stream, or join the one that another node created; then create this node's empty replica.

    `report` gets a line that says which of the two: with a mistyped name a node would begin a log of its own.
    Raises `LogUnavailable` when the replica exists, or when the stream cannot be created or would not keep a log.
    """
    _expect_driver()
    from tracker.log.jetstream.validation import join_stream  # noqa: PLC0415 - needs the driver

    if config.log.path.exists():
        raise LogUnavailable(f"{config.log.path} exists already; it is left unchanged")
    new_id = secrets.token_hex(LOG_ID_BYTES)
    log_id = await join_stream(config.jetstream, new_id)
    if report is not None:
        name = config.jetstream.stream
        report(
            f"created a new log, {log_id}, in a new stream {name!r}"
            if log_id == new_id
            else f"joined the log {log_id} in the existing stream {name!r}"
        )
    await Replica.init(config.log.path, log_id=log_id, stream=config.jetstream.stream)


async def open_log(
    config: Config, observe: LogObserver | None = None, key_store: KeyStore | None = None
) -> JetstreamLog:
    """This node's log, which may be behind the stream. Raises `LogMissing`, `LogCorrupt`, `LogUnavailable`."""
    _expect_driver()
    from tracker.log.jetstream.log import JetstreamLog  # noqa: PLC0415 - needs the driver

    return await JetstreamLog.open(
        config.log.path,
        config.jetstream,
        queue_bound=config.log.queue_bound,
        observe=observe,
        body_bytes=config.server.max_body_bytes,
        key_store=key_store,
        trusted_keys=signing_keys.trusted_keys(config),
        checkpoint_key=_checkpoint_key(config),
    )


async def share_dedupe_secret(config: Config, masters: Sequence[MasterKey], secret: bytes | None = None) -> bytes:
    """The secret that all nodes hash dedupe keys with, from the bucket of data keys; creates the bucket when missing.

    `secret`: the one to put into a new bucket; None makes a random one.
    Raises `LogUnavailable` when the bucket cannot be created, is wrapped by another master key, or may have been lost.
    """
    _expect_driver()
    from tracker.log.jetstream.encryption import join_key_bucket  # noqa: PLC0415 - needs the driver

    is_new_node = secret is None and not config.log.path.exists()
    return await join_key_bucket(config.jetstream, masters, secret, is_new_node=is_new_node)


async def rewrap_bucket(config: Config, key_store: KeyStore) -> int:
    """Wrap the data keys in the bucket with the current master key; how many frames changed. Raises `LogError`."""
    _expect_driver()
    from tracker.log.jetstream.encryption import rewrap_bucket as rewrap_stream_bucket  # noqa: PLC0415 - needs the driver

    return await rewrap_stream_bucket(config.jetstream, key_store)


async def restore_keys(
    config: Config, key_store: KeyStore, *, partly: bool, progress: Callable[[int, int], None] | None = None
) -> RestoreResult:
    """Restore the bucket of data keys from this node's key store. Raises `LogError`."""
    _expect_driver()
    from tracker.log.jetstream.restore_keys import restore_keys as restore_bucket  # noqa: PLC0415 - needs the driver

    return await restore_bucket(config.jetstream, config.log.path, key_store, partly=partly, progress=progress)


def tree_cosigner(config: Config, log: ClusteredLog) -> Cosigner:
    """What compares this node's tree with the signed checkpoints, and cosigns them. Raises `ConfigInvalid`."""
    return Cosigner(
        log, node=config.jetstream.node, origin=config.evidence.origin, signs=config.jetstream.signs,
        signer=signing_keys.cosigner(config), trusted=signing_keys.verifiers(config), now=clock.now,
    )  # fmt: skip


async def find_divergence(config: Config, log: ComparedLog) -> Divergence | None:
    """Where this node's records differ from a signed checkpoint; None where they agree. Raises `LogError`, `ConfigInvalid`."""
    return await log_divergence.find_divergence(log, signing_keys.verifiers(config), config.evidence.origin)


async def expect_undiverged(config: Config, log: ComparedLog) -> None:
    """Raise `NodeDiverged` when this is a node of a cluster and its records differ from a signed checkpoint."""
    found = await find_divergence(config, log) if config.log.engine == "jetstream" else None
    if found is not None:
        raise NodeDiverged(str(found))


def _expect_driver() -> None:
    if find_spec("nats") is None:
        raise ConfigInvalid(
            "log.engine: \"jetstream\" needs the NATS driver: install Tracker with its extra `cluster`, like pip install '.[cluster]'"
        )


def _checkpoint_key(config: Config) -> str:
    """The verifier key of this node's checkpoints; "" where it signs none."""
    signer = read_key(config.evidence.key_file, config.evidence.origin) if config.jetstream.signs else None
    return "" if signer is None else str(signer.verifier)
