"""Where configuration becomes a log of many nodes. Only here is the driver of NATS asked for: one machine needs none."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from tracker.config.load import Config
from tracker.errors import ConfigInvalid, LogUnavailable
from tracker.log.group_commit import LogObserver
from tracker.log.sqlite.trust import TrustedKeys
from tracker.log.sqlite.replica import Replica
from tracker.evidence.signing_key import read_key
from tracker.log.keys.key_store import MasterKey, KeyStore

if TYPE_CHECKING:
    from tracker.log.jetstream.log import JetstreamLog
    from tracker.log.jetstream.connection import StreamSettings
    from tracker.log.jetstream.restore_keys import RestoreResult

ID_BYTES = 16
Told = Callable[[str], None]


async def create(config: Config, told: Told | None = None) -> None:
    """Make the stream, or find the one that another node has made; then this node's empty replica of it.

    `told` is told which: with a mistyped name a node would begin a log of its own.

    Raises `LogUnavailable` where there is a replica, or the stream cannot be made or would not keep a log.
    """
    _engine()
    from tracker.log.jetstream.validation import join_stream  # noqa: PLC0415 - see the top

    if config.log.path.exists():
        raise LogUnavailable(f"{config.log.path} exists already: it is left as it is")
    new = secrets.token_hex(ID_BYTES)
    log_id = await join_stream(_settings(config), new)
    if told is not None:
        name = config.jetstream.stream
        told(
            f"began a new log, {log_id}, in a new stream {name!r}"
            if log_id == new
            else f"joined the log {log_id} in the stream {name!r}, which was there"
        )
    await Replica.init(config.log.path, log_id=log_id, stream=config.jetstream.stream)


async def join_names(config: Config, masters: Sequence[MasterKey], names: bytes | None = None) -> bytes:
    """What all nodes hash dedupe keys with: as the bucket of data keys says, which is made where there is none.

    `names`: what it says then; without, something new.

    Raises `LogUnavailable` where it cannot be made, is wrapped by another master key, or may have been lost.
    """
    _engine()
    from tracker.log.jetstream.encryption import join_key_bucket  # noqa: PLC0415 - see the top

    is_new_node = names is None and not config.log.path.exists()
    return await join_key_bucket(_settings(config), masters, names, is_new_node=is_new_node)


async def rewrap(config: Config, vault: KeyStore) -> int:
    """Wrap the data keys in the bucket by the current master key; how many frames were wrapped anew. Raises `LogError`."""
    _engine()
    from tracker.log.jetstream.encryption import rewrap_bucket  # noqa: PLC0415 - see the top

    return await rewrap_bucket(_settings(config), vault)


async def restore_keys(
    config: Config, vault: KeyStore, *, partly: bool, progress: Callable[[int, int], None] | None = None
) -> RestoreResult:
    """Put the bucket of data keys back from what this node has. Raises `LogError`."""
    _engine()
    from tracker.log.jetstream.restore_keys import restore_keys  # noqa: PLC0415 - see the top

    return await restore_keys(_settings(config), config.log.path, vault, partly=partly, progress=progress)


async def open_log(
    config: Config, known: TrustedKeys, observe: LogObserver | None = None, vault: KeyStore | None = None
) -> JetstreamLog:
    """This node's log; it may be behind the stream. `known`: whose word about the tree is kept. Raises `LogMissing`, `LogCorrupt`, `LogUnavailable`."""
    _engine()
    from tracker.log.jetstream.log import JetstreamLog  # noqa: PLC0415 - see the top

    return await JetstreamLog.open(
        config.log.path,
        _settings(config),
        queue_bound=config.log.queue_bound,
        observe=observe,
        body_bytes=config.server.max_body_bytes,
        vault=vault,
        known=known,
    )


def _engine() -> ModuleType:
    try:
        import nats  # noqa: PLC0415 - see the top
    except ImportError:
        raise ConfigInvalid(
            "log.engine: \"jetstream\" needs the driver of NATS: pip install 'tracker[cluster]'"
        ) from None
    return nats


def _settings(config: Config) -> StreamSettings:
    from tracker.log.jetstream.connection import StreamSettings  # noqa: PLC0415 - see the top

    told = config.jetstream
    signing = read_key(config.evidence.key_file, config.evidence.origin) if told.signs else None
    return StreamSettings(
        servers=told.servers, stream=told.stream, node=told.node, replicas=told.replicas, user=told.user,
        password=told.password, token=told.token, credentials_file=told.credentials_file,
        nkey_seed_file=told.nkey_seed_file, tls_ca=told.tls_ca, tls_cert=told.tls_cert, tls_key=told.tls_key,
        key="" if signing is None else str(signing.verifier),
    )  # fmt: skip
