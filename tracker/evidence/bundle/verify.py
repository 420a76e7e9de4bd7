"""Verifying an evidence bundle, offline: no server, no log, nothing but the file, and the keys somebody trusts.

    file         can it be read without harm                     manifest     is every file the one it names
    records      does each make its leaf                         inclusion    does each leaf lead to the tree's root
    checkpoint   is that root signed                             signer       by a key that somebody vouches for
    names        do event and dedupe key follow from the body    vendors      do the senders' own signatures hold
    timeline     is it what the records say                      page         does the README say the same
    shipped      is the checkpoint among those sent elsewhere

Every check goes as far as it can, so that all that was changed is named. What cannot be checked is said, never passed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Literal, NamedTuple

import msgspec

from tracker.evidence.bundle.verify_timeline import NewViews, compare_timeline
from tracker.evidence.bundle import readme_page
from tracker.evidence.bundle.manifest import (
    CHECKPOINT,
    KEY,
    MANIFEST,
    REQUIRED,
    README,
    TIMELINE,
    Manifest,
    digest_without_readme,
)
from tracker.evidence.bundle.zip_reader import OpenBundle, open_bundle
from tracker.evidence.bundle.unpacked_log import UnpackedLog
from tracker.evidence.bundle.verify_records import Progress, RecordsResult, check_inclusion, check_records
from tracker.domain.record_json import exact_micros
from tracker.errors import BundleUnreadable, EvidenceError, LogCorrupt, NoteMalformed
from tracker.log.merkle.checkpoint import Checkpoint, open_checkpoint, read_checkpoint
from tracker.log.merkle.note import Verifier, decode_base64
from tracker.sources.contract import Source
from tracker.views.contract import READING

MAX_PROBLEMS = 20
HEAD_BYTES = 4096

Outcome = Literal["ok", "failed", "not checked"]


class Check(msgspec.Struct, kw_only=True):
    """One check: `about` says what was found or why it was not checked; `problems` what is wrong, where."""

    name: str
    outcome: Outcome
    about: str
    problems: list[str] = []


class BundleVerification(msgspec.Struct, kw_only=True):
    """What became of a bundle. `session` None: it could not even be read so far."""

    bundle: str
    session: str | None = None
    records: int = 0
    checks: list[Check] = []

    @property
    def has_failed(self) -> bool:
        """Whether any check failed."""
        return any(check.outcome == "failed" for check in self.checks)


class TrustAnchors(NamedTuple):
    """What the verifier has from elsewhere: keys of checkpoints, secrets of senders (None: none given), notes that were shipped."""

    keys: Sequence[Verifier] = ()
    sources: Mapping[str, Source] | None = None
    shipped: Sequence[str] | None = None


NO_ANCHORS = TrustAnchors()


async def verify_bundle(
    path: Path, new_views: NewViews, trusted: TrustAnchors = NO_ANCHORS, progress: Progress | None = None
) -> BundleVerification:
    """Verify one bundle. Raises `OSError` where there is no such file; whatever is wrong with it is in the checks."""
    found = BundleVerification(bundle=path.name)
    verifying = _Verifying(new_views, trusted, found, progress)
    try:
        with open_bundle(path) as bundle:
            await verifying.run(bundle)
    except BundleUnreadable as error:
        verifying.fail("file", str(error))
    verifying.tell_the_rest()
    return found


CHECK_NAMES = (
    "file", "manifest", "records", "inclusion", "checkpoint", "signer", "names", "vendors", "timeline", "page", "shipped",
)  # fmt: skip


class _Verifying:
    def __init__(
        self, new_views: NewViews, trusted: TrustAnchors, found: BundleVerification, progress: Progress | None
    ) -> None:
        self._new_views = new_views
        self._trusted = trusted
        self._found = found
        self._progress = progress

    async def run(self, bundle: OpenBundle) -> None:
        self._add("file", [], "it holds nothing but what a bundle holds")
        manifest = self._manifest(bundle)
        if manifest is None:
            return
        self._found.session, self._found.records = manifest.session.id, manifest.records
        with TemporaryFile() as spool, TemporaryDirectory() as folder:
            log = UnpackedLog(spool)
            read = check_records(bundle, manifest, log, self._trusted.sources, self._progress)
            about = f"{manifest.records} records"
            about += f", {read.erased} of them erased" if read.erased else ""
            self._add("records", read.problems, about)
            self._add("inclusion", *check_inclusion(bundle, manifest, read.leaves))
            self._check_signature(bundle, manifest)
            self._add("names", read.names, "event names and dedupe keys follow from the bodies")
            self._check_vendors(read.proofs, read.wrong)
            await self._check_timeline(bundle, manifest, log, read, Path(folder))
        self._check_page(bundle, manifest)

    def fail(self, name: str, problem: str) -> None:
        """A check that failed for one reason."""
        self._found.checks = [check for check in self._found.checks if check.name != name]
        self._add(name, [problem], "")

    def tell_the_rest(self) -> None:
        """Say of every check that was not made that it was not."""
        done = {check.name for check in self._found.checks}
        for name in CHECK_NAMES:
            if name not in done and (name != "shipped" or self._trusted.shipped is not None):
                self._skip(name, "the bundle cannot be read so far")
        self._found.checks.sort(key=lambda check: CHECK_NAMES.index(check.name))

    def _add(self, name: str, problems: Sequence[str], about: str) -> None:
        outcome: Outcome = "failed" if problems else "ok"
        self._found.checks.append(
            Check(name=name, outcome=outcome, about=about, problems=list(problems[:MAX_PROBLEMS]))
        )

    def _skip(self, name: str, why: str) -> None:
        self._found.checks.append(Check(name=name, outcome="not checked", about=why))

    def _manifest(self, bundle: OpenBundle) -> Manifest | None:
        try:
            manifest = bundle.manifest()
            exact_micros(manifest.made_at)
            if manifest.reading.inferred_end is not None:
                exact_micros(manifest.reading.inferred_end.at)
        except BundleUnreadable as error:
            self.fail("manifest", str(error))
            return None
        except (ValueError, OverflowError) as error:
            self.fail("manifest", f"{MANIFEST} holds no moment where one has to be: {str(error)[:200]}")
            return None
        self._add("manifest", _manifest_faults(bundle, manifest), f"{len(manifest.files)} files are those it names")
        return manifest

    def _check_signature(self, bundle: OpenBundle, manifest: Manifest) -> None:
        trusted = self._trusted
        if manifest.tree.why_unsigned is not None:
            why = f"nobody signed this: {manifest.tree.why_unsigned}"
            if trusted.keys or trusted.shipped is not None:
                self._add("checkpoint", [f"{why}; but a key or checkpoints were given to check it with"], "")
            else:
                self._skip("checkpoint", why)
            self._skip("signer", "nobody signed this")
            return
        try:
            note = bundle.text(CHECKPOINT)
            own = [Verifier.read(line) for line in bundle.text(KEY).splitlines()]
            signed = open_checkpoint(note, own)
        except EvidenceError as error:
            self._add("checkpoint", [str(error)], "")
        else:
            size, root = manifest.tree.size, manifest.tree.root
            problems = [] if _says(signed, size, root) else [f"{CHECKPOINT} signs another tree than the manifest names"]
            self._add("checkpoint", problems, f"the tree of {signed.size} records of {signed.origin} is signed")
        self._check_signer(bundle)
        self._check_shipped(manifest)

    def _check_signer(self, bundle: OpenBundle) -> None:
        if not self._trusted.keys:
            why = "no key was given (--key): that the bundle agrees with itself is checked, not who made it"
            self._skip("signer", why)
            return
        try:
            open_checkpoint(bundle.text(CHECKPOINT), self._trusted.keys)
        except EvidenceError as error:
            self._add("signer", [str(error)], "")
        else:
            self._add(
                "signer", [], f"signed with a key that was given: {', '.join(k.label for k in self._trusted.keys)}"
            )

    def _check_shipped(self, manifest: Manifest) -> None:
        if self._trusted.shipped is None:
            return
        problems: list[str] = []
        held = 0
        for note in self._trusted.shipped:
            try:
                signed = read_checkpoint(note)
            except NoteMalformed as error:
                problems.append(f"a checkpoint that was shipped cannot be read: {error}")
                continue
            if signed.size == manifest.tree.size:
                held += 1
                if not _says(signed, manifest.tree.size, manifest.tree.root):
                    problems.append(
                        f"another tree of {signed.size} records was signed and shipped: one of them is forged"
                    )
        if problems or held:
            self._add("shipped", problems, "the checkpoint is among those that were shipped")
        else:
            self._skip("shipped", "no checkpoint of this size was shipped: ask for a proof of consistency")

    def _check_vendors(self, proofs: Counter[str], wrong: Sequence[str]) -> None:
        if self._trusted.sources is None:
            self._skip(
                "vendors", "no secrets were given (--config): whether the senders signed the bodies is not checked"
            )
            return
        told = ", ".join(f"{count} {what}" for what, count in sorted(proofs.items())) or "no records"
        if wrong or proofs["checked"]:
            self._add("vendors", wrong, told)
        else:
            self._skip("vendors", told)

    async def _check_timeline(
        self, bundle: OpenBundle, manifest: Manifest, log: UnpackedLog, read: RecordsResult, folder: Path
    ) -> None:
        if not read.is_whole:
            self._skip("timeline", "the records cannot be read, so nothing follows from them")
            return
        try:
            again = await compare_timeline(
                log, manifest, bundle.content(TIMELINE), self._new_views, folder / "views.db"
            )
        except LogCorrupt as error:
            if manifest.withheld:
                self._skip("timeline", f"what is left of erased records was withheld: {error}")
            else:
                self.fail("timeline", str(error))
            return
        except BundleUnreadable as error:
            self.fail("timeline", str(error))
            return
        except Exception as error:
            # Records nobody signed may hold anything, also what no reading of ours was made for; we only have to say so.
            self.fail("timeline", f"nothing can be made of these records ({type(error).__name__})")
            return
        about = "it is what the records say"
        if again.from_outside:
            about += f"; taken from outside of this bundle, so not proved by it: {', '.join(again.from_outside)}"
        other = manifest.tracker.reading != READING
        if again.differences and other:
            self._skip(
                "timeline",
                f"it differs, but was read by reading {manifest.tracker.reading} of Tracker, this one has reading {READING}: "
                f"verify it with Tracker {manifest.tracker.version[:40]}. First: {again.differences[0]}",
            )
        else:
            self._add("timeline", again.differences, about)

    def _check_page(self, bundle: OpenBundle, manifest: Manifest) -> None:
        files = [each for each in manifest.files if each.name != README]
        bare = msgspec.structs.replace(manifest, files=files)
        try:
            entries = bundle.decoded(TIMELINE, _Entries).timeline
            made = b"".join(readme_page.page(bare, entries))
            given = bundle.content(README)
        except BundleUnreadable as error:
            self.fail("page", str(error))
            return
        except (KeyError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            self.fail("page", f"no page can be made of {TIMELINE} ({type(error).__name__})")
            return
        if made == given:
            self._add("page", [], f"{README} says what manifest and timeline say")
        elif f'content="{digest_without_readme(manifest)}"'.encode() not in given[:HEAD_BYTES]:
            self.fail("page", f"{README} is not the page of this {MANIFEST}: one of the two was changed")
        elif manifest.tracker.version != version("tracker"):
            why = f"{README} was written by Tracker {manifest.tracker.version[:40]}: do not rely on it, read {TIMELINE}"
            self._skip("page", why)
        else:
            self.fail("page", f"{README} does not say what manifest and timeline say")


class _Entries(msgspec.Struct, frozen=True):
    timeline: list[dict[str, object]]


def _manifest_faults(bundle: OpenBundle, manifest: Manifest) -> list[str]:
    names = [each.name for each in manifest.files]
    expected = {*REQUIRED, *(() if manifest.tree.why_unsigned is not None else (CHECKPOINT, KEY))} - {MANIFEST}
    found = [f"{name}: the manifest does not name it" for name in bundle.sizes if name not in {MANIFEST, *names}]
    found += [f"{name}: the manifest names it twice" for name, count in Counter(names).items() if count > 1]
    found += [f"{name}: the manifest does not name it" for name in sorted(expected - set(names) - set(bundle.sizes))]
    found += [f"{name}: a bundle that nobody signed has no such file" for name in names if name not in expected]
    for each in manifest.files:
        if each.name not in bundle.sizes:
            found.append(f"{each.name[:80]!r} is missing")
            continue
        try:
            if bundle.sizes[each.name] != each.size_bytes or bundle.digest(each.name) != each.sha256:
                found.append(f"{each.name} is not the file the manifest names: it was changed")
        except BundleUnreadable as error:
            found.append(str(error))
    return found


def _says(signed: Checkpoint, size: int, root: str) -> bool:
    return (signed.size, signed.root) == (size, decode_base64(root))
