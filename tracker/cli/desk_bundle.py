"""Evidence bundles on the command line: make one from the files of a log, verify one without any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from tracker.cli import desk_reading
from tracker.server import stores
from tracker.api import bundles
from tracker.evidence.bundle.verify_records import Progress
from tracker.evidence.bundle.verify import BundleVerification, TrustAnchors, verify_bundle
from tracker.evidence.checkpoint_file import ShippedNote, read_shipped
from tracker.config.load import Config
from tracker.cli.desk_evidence import read_verifier
from tracker.errors import CheckpointUnwritten, ParameterInvalid
from tracker.sources.contract import Source
from tracker.server.sources import build_sources


async def make(config: Config, any_id: str, to: Path | None) -> Path:
    """Write the bundle of a session into a new file, named after it where `to` is None; the file.

    Raises `NotFound`, `Ambiguous`, `ParameterInvalid` (the file exists, or cannot be written), `LogError`, `ViewsError`,
    `EvidenceError` (the log cannot be signed). Whatever is raised, no file is left.
    """
    async with desk_reading.door_of(config) as plain:
        door = msgspec.structs.replace(plain, bundle_settings=stores.bundle_settings(config, plain.log))
        session = await desk_reading.only_session(door.views, any_id)
        path = to or Path(bundles.bundle_file_name(session.id))
        try:
            file = path.open("x+b")
        except FileExistsError:
            raise ParameterInvalid("--out", f"{path} exists and is not overwritten: name a new file") from None
        except OSError as error:
            raise ParameterInvalid("--out", f"{path} cannot be written: {error.strerror or error}") from None
        try:
            with file:
                await bundles.make_bundle(door, desk_reading.READER, session.id, file)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return path


async def verify(
    bundle: Path,
    config: Config | None,
    *,
    keys: Sequence[str] = (),
    files: Sequence[Path] = (),
    progress: Progress | None = None,
) -> BundleVerification:
    """Verify a bundle with what is trusted.

    That is `keys` (or those of `config`), `files` of checkpoints that were shipped, and the senders' secrets in `config`.
    Raises `ParameterInvalid` (a key or file that cannot be read), `ConfigInvalid`.
    """
    sources: Mapping[str, Source] | None = None if config is None else build_sources(config)
    known = [read_verifier(text) for text in keys] or ([] if config is None else stores.verifiers(config))
    shipped = [note.text for path in files for note in _shipped(path)] if files else None
    try:
        return await verify_bundle(bundle, stores.new_views, TrustAnchors(known, sources, shipped), progress)
    except OSError as error:
        raise ParameterInvalid("BUNDLE", f"{bundle} cannot be read: {error.strerror or error}") from None


def _shipped(path: Path) -> list[ShippedNote]:
    try:
        return [note for note in read_shipped(path) if note.size is not None]
    except CheckpointUnwritten as error:
        raise ParameterInvalid("--checkpoints", str(error)) from None
