"""`tracker export --evidence` and `tracker verify BUNDLE`: makes an evidence bundle, verifies one offline."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from tracker.api import bundles
from tracker.cli import output
from tracker.cli.output import print_error, print_json, print_line, print_table, printable
from tracker.cli.sessions import READER, api_context, find_session
from tracker.config.load import Config
from tracker.errors import CheckpointUnwritten, NoteMalformed, ParameterInvalid
from tracker.evidence.bundle.findings import MAX_PROBLEMS
from tracker.evidence.bundle.verify import SUBJECTS, BundleVerification, Check, TrustAnchors, verify_bundle
from tracker.evidence.bundle.verify_records import Progress
from tracker.evidence.checkpoint_file import ShippedNote, read_shipped
from tracker.evidence.signing_key import read_cosigners
from tracker.log.private_files import create_private
from tracker.log.merkle.cosignature import CosignerKey
from tracker.log.merkle.note import Verifier
from tracker.server import signing_keys, stores
from tracker.server.evidence import bundle_settings
from tracker.server.sources import build_sources
from tracker.sources.contract import Source

MARKS = {"ok": "ok", "failed": "FAILED", "not checked": "not checked"}
UNCHECKED = 3
"""Exit code: everything that was checked holds, but not everything was checked."""


def run_export(arguments: argparse.Namespace) -> int:
    """Write a bundle and verify the file; 1 when it does not verify."""
    config: Config = arguments.config
    for name in ("id", "source", "after"):
        if getattr(arguments, name):
            raise ParameterInvalid("--evidence", "names the session already: leave ID, --source and --after out")
    path = asyncio.run(write_bundle(config, arguments.evidence, arguments.out))
    found = asyncio.run(_verify_with_progress(path, config))
    if found.has_failed:
        print_error(f"wrote {path}, but it does not verify:")
        _print_verification(found, ())
        return 1
    print_line(f"wrote {path}: {found.records} records; check it anywhere with `tracker verify {path} --key KEY`")
    for check in found.checks:
        if check.outcome == "not checked" and any(check.name in SUBJECTS[each] for each in found.unchecked):
            print_error(printable(f"not checked: {check.name}: {check.about}"))
    return 0


def run_verify(arguments: argparse.Namespace) -> int:
    """Verify a bundle and print every check; 1 when one failed, 3 when too few were made."""
    if arguments.views:
        raise ParameterInvalid("--views", "is for a whole log; the timeline of a bundle is checked anyway")
    if arguments.proofs and arguments.config is None:
        raise ParameterInvalid("--proofs", "needs the senders' secrets: name their config.toml with --config")
    found = asyncio.run(
        _verify_with_progress(
            arguments.bundle, arguments.config, arguments.key, arguments.checkpoints, wants_proofs=arguments.proofs
        )
    )
    if arguments.json:
        print_json(found)
    else:
        _print_verification(found, arguments.allow_unchecked)
    return exit_code(found, arguments.allow_unchecked)


def exit_code(found: BundleVerification, allowed: Collection[str]) -> int:
    """0 when everything holds, 1 when something does not, 3 when something was not checked that is not `allowed` to be."""
    if found.has_failed:
        return 1
    return UNCHECKED if set(found.unchecked) - set(allowed) else 0


async def _verify_with_progress(
    bundle: Path,
    config: Config | None,
    keys: tuple[str, ...] = (),
    files: tuple[Path, ...] = (),
    *,
    wants_proofs: bool = False,
) -> BundleVerification:
    with output.progress("verify", "records") as report:
        return await verify_bundle_file(
            bundle, config, keys=keys, files=files, wants_proofs=wants_proofs, progress=report
        )


def _print_verification(found: BundleVerification, allowed: Collection[str]) -> None:
    rows = [(check.name, MARKS[check.outcome], _finding(check)) for check in found.checks]
    print_line(printable(f"{found.bundle}: {(found.session or 'no session can be read')[:500]}"))
    print_table("Checks", ("check", "result", "what"), rows)
    if found.is_cut_short:
        print_line(f"there may be more problems: the verification ended after {MAX_PROBLEMS}")
    if found.has_failed:
        print_line("do not rely on this bundle: it was changed, or damaged on its way")
        return
    unchecked = [check.name for check in found.checks if check.outcome == "not checked"]
    rest = f"; not checked: {', '.join(unchecked)}" if unchecked else ""
    print_line(f"everything that was checked is correct{rest}")
    missing = [name for name in found.unchecked if name not in allowed]
    if missing:
        print_line(f"exit code 3: nothing here shows that this was not forged: {', '.join(missing)}")
        allow = [f"--allow-unchecked {name}" for name in missing if name in SUBJECTS]
        if allow:
            print_line(f"to accept that: {' '.join(allow)}")


def _finding(check: Check) -> str:
    return "; ".join(check.problems) or check.about


async def write_bundle(config: Config, any_id: str, to: Path | None) -> Path:
    """Write the bundle of a session into a new file, and return its path. None for `to`: named after the session.

    Raises `NotFound`, `Ambiguous`, `ParameterInvalid` (the file exists, or cannot be written), `LogError`, `ViewsError`,
    `EvidenceError` (the log cannot be signed). After an error, no file is left.
    """
    async with api_context(config) as plain:
        context = msgspec.structs.replace(plain, bundle_settings=bundle_settings(config, plain.log))
        session = await find_session(context.views, any_id)
        path = to or Path(bundles.bundle_file_name(session.id))
        try:
            create_private(path)
            file = path.open("w+b")
        except FileExistsError:
            raise ParameterInvalid("--out", f"{path} exists and is not overwritten: name a new file") from None
        except OSError as error:
            raise ParameterInvalid("--out", f"{path} cannot be written: {error.strerror or error}") from None
        try:
            with file:
                await bundles.make_bundle(context, READER, session.id, file)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return path


async def verify_bundle_file(
    bundle: Path,
    config: Config | None,
    *,
    keys: Sequence[str] = (),
    files: Sequence[Path] = (),
    wants_proofs: bool = False,
    progress: Progress | None = None,
) -> BundleVerification:
    """Verify a bundle with `keys` (or those of `config`), `files` of checkpoints, and the secrets in `config`.

    `wants_proofs`: senders' proofs that cannot be checked count as unchecked, as shipped checkpoints do with `files`. Raises `ParameterInvalid` (a key or file that cannot be read), `ConfigInvalid`.
    """
    sources: Mapping[str, Source] | None = None if config is None else build_sources(config)
    known = [read_any_key(text) for text in keys] or ([] if config is None else _configured_keys(config))
    shipped = [note.text for path in files for note in _shipped(path)] if files else None
    requested = [name for name, is_wanted in (("vendors", wants_proofs), ("shipped", files)) if is_wanted]
    trusted = TrustAnchors(known, sources, shipped, requested)
    try:
        return await verify_bundle(bundle, stores.new_views, trusted, progress)
    except OSError as error:
        raise ParameterInvalid("BUNDLE", f"{bundle} cannot be read: {error.strerror or error}") from None


def read_verifier(text: str) -> Verifier:
    """A verifier key, or the one in this file. Raises `ParameterInvalid`."""
    return _read_key(text, (Verifier,))


def read_any_key(text: str) -> Verifier:
    """A verifier key of a log or of a cosigner, or the one in this file. Raises `ParameterInvalid`."""
    return _read_key(text, (CosignerKey, Verifier))


def _read_key(text: str, kinds: Sequence[type[Verifier]]) -> Verifier:
    try:
        path = Path(text)
        text = path.read_text("utf-8") if "+" not in text or path.exists() else text
        for kind in kinds[:-1]:
            with contextlib.suppress(NoteMalformed):
                return kind.read(text)
        return kinds[-1].read(text)
    except (NoteMalformed, OSError, UnicodeDecodeError) as error:
        raise ParameterInvalid("--key", f"is neither a verifier key nor a file that holds one ({error})") from None


def _configured_keys(config: Config) -> list[Verifier]:
    own = signing_keys.bundle_signer(config)
    cosigners = read_cosigners(config.evidence.cosigner_keys)
    if own is not None and own.name != config.evidence.origin:
        cosigners.append(CosignerKey.from_signer(own))
    return [*signing_keys.bundle_keys(config), *cosigners]


def _shipped(path: Path) -> list[ShippedNote]:
    try:
        return [note for note in read_shipped(path) if note.size is not None]
    except CheckpointUnwritten as error:
        raise ParameterInvalid("--checkpoints", str(error)) from None
