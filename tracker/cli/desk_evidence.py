"""What the command line does with the evidence, without a server: sign the log, prove a part of it, verify all of it.

A server may run on the same log meanwhile. Only `checkpoint` writes: a signed note, into the log and the file of checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from tracker.cli import desk
from tracker.server import stores
from tracker.api import evidence
from tracker.api.evidence import ConsistencyProof, InclusionProof
from tracker.evidence.checkpoint_file import read_shipped
from tracker.evidence.checkpointer import SignedCheckpoint
from tracker.config.load import Config
from tracker.errors import CheckpointUnwritten, ConfigInvalid, NoteMalformed, ParameterInvalid, ViewsError
from tracker.log.merkle.note import Verifier
from tracker.evidence.verify_records import check_erasures, check_proofs
from tracker.evidence.verify_log import (
    MAX_FAULTS, Fault, Progress, ShippedFile, Verification, check_cosignatures, verify_log,
)  # fmt: skip
from tracker.log.cluster.divergence import announced_keys
from tracker.server.sources import build_sources

Bars = Callable[[str, str], AbstractContextManager[Progress]]
"""(title, unit) → a progress bar."""


async def checkpoint(config: Config) -> SignedCheckpoint | None:
    """Sign the log as it is now; the checkpoint there is when it has not grown, None while it is empty.

    Raises `ConfigInvalid` without a key, `EvidenceError` (nothing was signed), `LogError`.
    """
    signer = stores.signer(config)
    if stores.cosigner(config) is not None:
        raise ConfigInvalid("jetstream.signs: this node cosigns: `tracker checkpoint` is for the one that signs")
    if signer is None:
        raise ConfigInvalid(
            f"evidence.key_file: there is no key at {config.evidence.key_file}: `tracker init` makes it"
        )
    async with stores.copy_source(config) as log:
        return await stores.checkpointer(config, log, signer).sign()


async def prove_inclusion(config: Config, position: int, size: int | None) -> InclusionProof:
    """See `api.evidence.prove_inclusion`."""
    async with stores.tree_log(config) as log:
        return await evidence.prove_inclusion(log, position, size)


async def prove_consistency(config: Config, first: int, second: int | None) -> ConsistencyProof:
    """See `api.evidence.prove_consistency`."""
    async with stores.tree_log(config) as log:
        return await evidence.prove_consistency(log, first, second)


async def verify(
    config: Config,
    bars: Bars,
    *,
    keys: Sequence[str] = (),
    files: Sequence[Path] = (),
    views: bool = False,
    proofs: bool = False,
    limit: int = MAX_FAULTS,
) -> Verification:
    """Verify the whole log; with `views` and `proofs` also what was made from it and what the vendors said.

    `keys`: verifier keys, or files that hold one, instead of the configured ones. `files`: checkpoints that were shipped,
    beside those on this machine. Raises `ConfigInvalid`, `ParameterInvalid`, `LogMissing`, `CheckpointUnwritten` (a file
    that cannot be read).
    """
    known = [read_verifier(text) for text in keys] or stores.verifiers(config)
    shipped = _shipped(config, files)
    async with stores.tree_log(config) as log:
        with bars("verify", "records") as bar:
            named = await announced_keys(log)
            found = await verify_log(log, known or named, shipped=shipped, progress=bar, max_faults=limit)
        found.named_key = next((str(each) for each in named if each not in known), None)
        found.is_named_only = found.named_key is not None and not known
        if not found.is_cut_short:
            await check_erasures(log, found)
            await check_cosignatures(log, stores.cosigners(config), found)
        if proofs:
            with bars("proofs", "records") as bar:
                await check_proofs(log, build_sources(config), found, progress=bar, max_faults=limit)
    if views:
        with bars("views", "records") as bar:
            await _check_views(config, found, bar)
    found.faults = sorted(found.faults, key=lambda fault: (fault.position is None, fault.position or 0))[:limit]
    return found


async def _check_views(config: Config, found: Verification, bar: Progress) -> None:
    try:
        checked = await desk.check(config, bar)
    except ViewsError as error:
        found.views = []
        found.faults.append(Fault(None, f"the views cannot be compared: {error}"))
        return
    found.views = checked.differences
    if checked.differences:
        found.faults.append(Fault(None, "the views do not follow from the log: run `tracker rebuild`"))


def _shipped(config: Config, files: Sequence[Path]) -> list[ShippedFile]:
    here = config.evidence.file
    paths = [*files, *([here] if here.exists() and here.resolve() not in {each.resolve() for each in files} else [])]
    try:
        return [ShippedFile(path.name, read_shipped(path)) for path in paths]
    except CheckpointUnwritten as error:
        raise ParameterInvalid("--checkpoints", str(error)) from None


def read_verifier(text: str) -> Verifier:
    """A verifier key, or the file that holds it. Raises `ParameterInvalid`."""
    try:
        path = Path(text)
        return Verifier.read(path.read_text("utf-8") if "+" not in text or path.exists() else text)
    except (NoteMalformed, OSError, UnicodeDecodeError) as error:
        raise ParameterInvalid("--key", f"is no verifier key and no file of one ({error})") from None
