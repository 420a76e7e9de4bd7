"""Logs of complete signed calls, bundles made from them, and manipulated bundles."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from tests.support.server import READ_KEY, SECRETS
from tracker.cli.bundle import verify_bundle_file, write_bundle
from tracker.cli.init import init
from tracker.cli.rebuild import rebuild
from tracker.cli.records import read_records
from tracker.cli.sessions import find_sessions
from tracker.server.declarations import declare
from tracker.server import stores
from tracker.evidence.bundle import manifest as names, readme_page
from tracker.evidence.bundle.manifest import Manifest
from tracker.evidence.bundle.verify import BundleVerification
from tracker.config.load import Config, load
from tracker.demo.show import SOURCES, config_text
from tracker.demo.calls import VENDORS, SampleDelivery, delivery, whole_call
from tracker.log.merkle.note import Signer, sign_note
from tracker.server.sources import build_sources

START = 1_700_000_000_000_000
ORIGIN = "tracker.test/log"
SEALING = f'[sealing]\nkeys = [{{ id = "main", secret = "{"ab" * 32}" }}]\n'
Edit = Callable[[bytes], bytes]


def configured(folder: Path, *, sealed: bool = True) -> Config:
    """A config with every vendor; all its files are in `folder`."""
    folder.mkdir(exist_ok=True)
    text = config_text(folder, SECRETS, READ_KEY, 0)
    more = f'{SEALING}path = "{folder}/keys.db"\n' if sealed else ""
    key = f"{folder}/sign.key"
    more += f'[evidence]\nkey_file = "{key}"\nfile = "{folder}/checkpoints.txt"\norigin = "{ORIGIN}"\n'
    path = folder / "config.toml"
    path.write_text(text.replace("[access]", f"{more}[access]"), "utf-8")
    return load(path, {})


async def filled(config: Config, vendors: Sequence[str] = VENDORS, start: int = START) -> None:
    """Create the log, append complete calls of these vendors, interleaved by time, and build the views."""
    await init(config)
    calls = [(sent.at, vendor, sent) for vendor in vendors for sent in whole_call(vendor, start)]
    await append(config, [(vendor, sent) for _, vendor, sent in sorted(calls, key=lambda call: call[0])])


async def append(config: Config, deliveries: Sequence[tuple[str, SampleDelivery]]) -> None:
    """Verify and append signed deliveries, then rebuild the views."""
    sources = build_sources(config)
    async with stores.reading_log(config) as log:
        for vendor, sent in deliveries:
            name = SOURCES[vendor]
            await declare(config, log, name)
            arrived = delivery(vendor, sent, SECRETS[vendor], name=name, received_at=sent.at + 1234)
            await log.append(sources[name].verify(arrived))
    await rebuild(config)


async def sessions(config: Config) -> list[str]:
    """The ids of all sessions."""

    return [row["id"] for row in (await find_sessions(config, [("limit", "1000")]))["items"]]


async def session_of(config: Config, vendor: str) -> str:
    """The id of a vendor's session; the one with the most records if there are several."""
    found = [name for name in await sessions(config) if name.startswith(SOURCES[vendor] + ":")]
    counted = [(len([1 async for _ in read_records(config, session=name)]), name) for name in found]
    return max(counted)[1]


async def bundle(config: Config, session: str, to: Path) -> Path:
    """The bundle of a session."""
    return await write_bundle(config, session, to)


async def verified(path: Path, config: Config | None = None, **more: object) -> BundleVerification:
    """The result of `tracker verify`."""
    return await verify_bundle_file(path, config, **more)  # type: ignore[arg-type]


def failed(found: BundleVerification) -> dict[str, list[str]]:
    """The checks that failed: name → problems."""
    return {check.name: check.problems for check in found.checks if check.outcome == "failed"}


def outcomes(found: BundleVerification) -> dict[str, str]:
    """Check → "ok", "failed" or "not checked"."""
    return {check.name: check.outcome for check in found.checks}


def unpacked(path: Path) -> dict[str, bytes]:
    """The files in a bundle."""
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def packed(files: Mapping[str, bytes], to: Path) -> Path:
    """Write these files into a zip."""
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as into:
        for name, content in files.items():
            into.writestr(name, content)
    return to


def changed(path: Path, to: Path, edits: Mapping[str, Edit], *, corrected: bool = False) -> Path:
    """A bundle with some files edited. With `corrected`, manifest and README are written again so that all digests match.

    The manifest then says that nobody signed it, as a forger without a key would write.
    """
    files = unpacked(path)
    for name, edit in edits.items():
        before = files[name]
        files[name] = edit(before)
        assert files[name] != before, f"{name} was not changed"
    return packed(with_corrected_digests(files) if corrected else files, to)


def with_corrected_digests(files: dict[str, bytes], signer: Signer | None = None, **fields: object) -> dict[str, bytes]:
    """The files with a manifest and README that match them, signed again or by nobody. `fields`: of the manifest."""
    manifest = msgspec.json.decode(files[names.MANIFEST], type=Manifest)
    own = {names.MANIFEST, names.README, names.SIGNATURE}
    rest = {name: content for name, content in files.items() if name not in own}
    members = [
        names.Member(name=name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in rest.items()
    ]
    entries = msgspec.json.decode(files[names.TIMELINE])["timeline"]
    why = None if signer is not None or manifest.format == names.FORMAT_1 else "there is no key"
    manifest = msgspec.structs.replace(manifest, files=members, **({"why_unsigned": why} | fields))
    readme = b"".join(readme_page.page(manifest, entries))
    page = names.Member(name=names.README, size_bytes=len(readme), sha256=hashlib.sha256(readme).hexdigest())
    manifest = msgspec.structs.replace(manifest, files=[*members, page])
    corrected = {**rest, names.README: readme, names.MANIFEST: names.encode_manifest(manifest)}
    return corrected if signer is None else signed(corrected, signer)


def signed(files: dict[str, bytes], signer: Signer, origin: str = ORIGIN) -> dict[str, bytes]:
    """The files with a signature over their manifest."""
    note = sign_note(names.signed_text(origin, files[names.MANIFEST]), [signer])
    return files | {names.SIGNATURE: note.encode()}
