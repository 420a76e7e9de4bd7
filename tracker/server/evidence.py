"""Builds what signs the log and what makes evidence bundles of it."""

from __future__ import annotations

import asyncio

from tracker.config.load import Config
from tracker.evidence.bundle.build import BundleSettings
from tracker.evidence.checkpointer import Checkpointer, CheckpointObserver
from tracker.log.cluster.divergence import trusted_keys
from tracker.log.contract import Log
from tracker.log.merkle.note import Signer
from tracker.server import signing_keys
from tracker.server.sources import redacted_fields
from tracker.views.sqlite.snapshot import open_snapshot

MAX_CONCURRENT_BUNDLES = 2
"""Each bundle in the making holds a temporary file, and a core while it compresses."""


def build_checkpointer(
    config: Config, log: Log, signer: Signer, observer: CheckpointObserver | None = None
) -> Checkpointer:
    """The checkpointer of this log. Raises `ConfigInvalid`."""
    former = signing_keys.former_verifiers(config)
    return Checkpointer(log, signer, file=config.evidence.file, former=former, observer=observer)


def bundle_settings(config: Config, log: Log, observer: CheckpointObserver | None = None) -> BundleSettings:
    """The operator's side of an evidence bundle: keys, redaction, and a limit. Raises `ConfigInvalid`.

    A key file that cannot be read gives bundles without a signature: a reader of the log need not be its signer.
    """
    own = signing_keys.bundle_signer(config)
    signer = own if own is not None and own.name == config.evidence.origin else None
    return BundleSettings(
        sign=None if signer is None else build_checkpointer(config, log, signer, observer).sign,
        keys=lambda: trusted_keys(log, signing_keys.bundle_keys(config)),
        signer=own,
        origin=config.evidence.origin,
        hidden=redacted_fields(config),
        open_snapshot=lambda: open_snapshot(config.views_path),
        gate=asyncio.Semaphore(MAX_CONCURRENT_BUNDLES),
    )
