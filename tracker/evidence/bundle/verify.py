"""Verifies an evidence bundle offline, from the file alone and from keys and secrets that the verifier trusts.

    file         it can be read safely                           manifest     every file is the one it names
    records      each matches its leaf                           inclusion    each leaf leads to the tree's root
    checkpoint   that root is signed                             signer       by a trusted key
    names        event and dedupe key follow from the body       vendors      the senders' own signatures are valid
    timeline     it follows from the records                     page         the README matches it
    shipped      the checkpoint is among those shipped elsewhere

Every check goes as far as it can, so that every change is named. What cannot be checked is reported as not checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Literal, NamedTuple

import msgspec

from tracker.domain.record_json import parse_micros
from tracker.errors import BundleUnreadable, EvidenceError, LogCorrupt, NoteMalformed
from tracker.evidence.bundle import readme_page
from tracker.evidence.bundle.manifest import (
    CHECKPOINT, KEY, MANIFEST, README, REQUIRED, TIMELINE, Manifest, digest_without_readme,
)  # fmt: skip
from tracker.evidence.bundle.unpacked_log import UnpackedLog
from tracker.evidence.bundle.verify_records import Progress, RecordsResult, check_inclusion, check_records
from tracker.evidence.bundle.verify_timeline import NewViews, compare_timeline
from tracker.evidence.bundle.zip_reader import OpenBundle, open_bundle
from tracker.log.merkle.checkpoint import Checkpoint, open_checkpoint, read_checkpoint
from tracker.log.merkle.note import Verifier, decode_base64
from tracker.sources.contract import Source
from tracker.views.contract import VIEWS_VERSION

MAX_PROBLEMS = 20
HEAD_BYTES = 4096

Outcome = Literal["ok", "failed", "not checked"]


class Check(msgspec.Struct, kw_only=True):
    """One check. `about` says what was found, or why it was not checked; `problems` say what is wrong and where."""

    name: str
    outcome: Outcome
    about: str
    problems: list[str] = []


class BundleVerification(msgspec.Struct, kw_only=True):
    """The result for a bundle. `session` is None if the bundle could not be read as far as that."""

    bundle: str
    session: str | None = None
    records: int = 0
    checks: list[Check] = []

    @property
    def has_failed(self) -> bool:
        """Whether any check failed."""
        return any(check.outcome == "failed" for check in self.checks)


class TrustAnchors(NamedTuple):
    """What the verifier has from elsewhere: keys of checkpoints, sources with their secrets, shipped notes.

    `sources` and `shipped` are None if none were given.
    """

    keys: Sequence[Verifier] = ()
    sources: Mapping[str, Source] | None = None
    shipped: Sequence[str] | None = None


NO_ANCHORS = TrustAnchors()


async def verify_bundle(
    path: Path, new_views: NewViews, trusted: TrustAnchors = NO_ANCHORS, progress: Progress | None = None
) -> BundleVerification:
    """Verify one bundle. Raises `OSError` if there is no such file; everything that is wrong with it is in the checks.

    `new_views` creates temporary views to project the records into.
    """
    result = BundleVerification(bundle=path.name)
    verifier = _BundleVerifier(new_views, trusted, result, progress)
    try:
        with open_bundle(path) as bundle:
            await verifier.run(bundle)
    except BundleUnreadable as error:
        verifier.fail("file", str(error))
    verifier.add_skipped_checks()
    return result


CHECK_NAMES = (
    "file", "manifest", "records", "inclusion", "checkpoint", "signer", "names", "vendors", "timeline", "page", "shipped",
)  # fmt: skip


class _BundleVerifier:
    def __init__(
        self, new_views: NewViews, trusted: TrustAnchors, result: BundleVerification, progress: Progress | None
    ) -> None:
        self._new_views = new_views
        self._trusted = trusted
        self._result = result
        self._progress = progress

    async def run(self, bundle: OpenBundle) -> None:
        self._add("file", [], "it contains only the files of a bundle")
        manifest = self._manifest(bundle)
        if manifest is None:
            return
        self._result.session, self._result.records = manifest.session.id, manifest.records
        with TemporaryFile() as spool, TemporaryDirectory() as folder:
            log = UnpackedLog(spool)
            records = check_records(bundle, manifest, log, self._trusted.sources, self._progress)
            about = f"{manifest.records} records"
            about += f", {records.erased} of them erased" if records.erased else ""
            self._add("records", records.problems, about)
            self._add("inclusion", *check_inclusion(bundle, manifest, records.leaves))
            self._check_signature(bundle, manifest)
            self._add("names", records.names, "event names and dedupe keys follow from the bodies")
            self._check_vendors(records.proofs, records.wrong)
            await self._check_timeline(bundle, manifest, log, records, Path(folder))
        self._check_page(bundle, manifest)

    def fail(self, name: str, problem: str) -> None:
        """Fail a check for one reason."""
        self._result.checks = [check for check in self._result.checks if check.name != name]
        self._add(name, [problem], "")

    def add_skipped_checks(self) -> None:
        """Add every check that was not made, as not checked."""
        done = {check.name for check in self._result.checks}
        for name in CHECK_NAMES:
            if name not in done and (name != "shipped" or self._trusted.shipped is not None):
                self._skip(name, "the bundle could not be read far enough")
        self._result.checks.sort(key=lambda check: CHECK_NAMES.index(check.name))

    def _add(self, name: str, problems: Sequence[str], about: str) -> None:
        outcome: Outcome = "failed" if problems else "ok"
        self._result.checks.append(
            Check(name=name, outcome=outcome, about=about, problems=list(problems[:MAX_PROBLEMS]))
        )

    def _skip(self, name: str, why: str) -> None:
        self._result.checks.append(Check(name=name, outcome="not checked", about=why))

    def _manifest(self, bundle: OpenBundle) -> Manifest | None:
        try:
            manifest = bundle.manifest()
            parse_micros(manifest.made_at)
            if manifest.reading.inferred_end is not None:
                parse_micros(manifest.reading.inferred_end.at)
        except BundleUnreadable as error:
            self.fail("manifest", str(error))
            return None
        except (ValueError, OverflowError) as error:
            self.fail("manifest", f"a time in {MANIFEST} is invalid: {str(error)[:200]}")
            return None
        self._add("manifest", _manifest_faults(bundle, manifest), f"all {len(manifest.files)} files match it")
        return manifest

    def _check_signature(self, bundle: OpenBundle, manifest: Manifest) -> None:
        trusted = self._trusted
        if manifest.tree.why_unsigned is not None:
            why = f"the bundle is not signed: {manifest.tree.why_unsigned}"
            if trusted.keys or trusted.shipped is not None:
                self._add("checkpoint", [f"{why}; but a key or checkpoints were given to check it with"], "")
            else:
                self._skip("checkpoint", why)
            self._skip("signer", "the bundle is not signed")
            return
        try:
            note = bundle.text(CHECKPOINT)
            own = [Verifier.read(line) for line in bundle.text(KEY).splitlines()]
            signed = open_checkpoint(note, own)
        except EvidenceError as error:
            self._add("checkpoint", [str(error)], "")
        else:
            size, root = manifest.tree.size, manifest.tree.root
            problems = (
                [] if _signs(signed, size, root) else [f"{CHECKPOINT} signs a different tree than the manifest names"]
            )
            self._add("checkpoint", problems, f"the tree of {signed.size} records of {signed.origin} is signed")
        self._check_signer(bundle)
        self._check_shipped(manifest)

    def _check_signer(self, bundle: OpenBundle) -> None:
        if not self._trusted.keys:
            why = "no key was given (--key): the bundle agrees with itself, but who made it is not checked"
            self._skip("signer", why)
            return
        try:
            open_checkpoint(bundle.text(CHECKPOINT), self._trusted.keys)
        except EvidenceError as error:
            self._add("signer", [str(error)], "")
        else:
            self._add("signer", [], f"signed with a given key: {', '.join(key.label for key in self._trusted.keys)}")

    def _check_shipped(self, manifest: Manifest) -> None:
        if self._trusted.shipped is None:
            return
        problems: list[str] = []
        is_shipped = False
        for note in self._trusted.shipped:
            try:
                signed = read_checkpoint(note)
            except NoteMalformed as error:
                problems.append(f"a shipped checkpoint cannot be read: {error}")
                continue
            if signed.size == manifest.tree.size:
                is_shipped = True
                if not _signs(signed, manifest.tree.size, manifest.tree.root):
                    problems.append(
                        f"a different tree of {signed.size} records was signed and shipped: one of the two is forged"
                    )
        if problems or is_shipped:
            self._add("shipped", problems, "the checkpoint is among the shipped ones")
        else:
            self._skip("shipped", "no shipped checkpoint has this size: request a consistency proof")

    def _check_vendors(self, proofs: Counter[str], wrong: Sequence[str]) -> None:
        if self._trusted.sources is None:
            self._skip("vendors", "no secrets were given (--config): the senders' signatures are not checked")
            return
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(proofs.items())) or "no records"
        if wrong or proofs["checked"]:
            self._add("vendors", wrong, outcomes)
        else:
            self._skip("vendors", outcomes)

    async def _check_timeline(
        self, bundle: OpenBundle, manifest: Manifest, log: UnpackedLog, records: RecordsResult, folder: Path
    ) -> None:
        if not records.is_complete:
            self._skip("timeline", "some records cannot be read, so no timeline can be derived")
            return
        try:
            comparison = await compare_timeline(
                log, manifest, bundle.content(TIMELINE), self._new_views, folder / "views.db"
            )
        except LogCorrupt as error:
            if manifest.withheld:
                self._skip("timeline", f"what remains of erased records was withheld: {error}")
            else:
                self.fail("timeline", str(error))
            return
        except BundleUnreadable as error:
            self.fail("timeline", str(error))
            return
        except Exception as error:
            # Unsigned records may contain anything, even what crashes the projection. Report that.
            self.fail("timeline", f"no timeline can be derived from these records ({type(error).__name__})")
            return
        about = "it follows from the records"
        if comparison.from_outside:
            about += f"; known from outside the bundle, so not proved by it: {', '.join(comparison.from_outside)}"
        is_other_reading = manifest.tracker.reading != VIEWS_VERSION
        if comparison.differences and is_other_reading:
            self._skip(
                "timeline",
                f"it differs, but it was made with reading {manifest.tracker.reading} and this Tracker has reading {VIEWS_VERSION}: "
                f"verify it with Tracker {manifest.tracker.version[:40]}. First: {comparison.differences[0]}",
            )
        else:
            self._add("timeline", comparison.differences, about)

    def _check_page(self, bundle: OpenBundle, manifest: Manifest) -> None:
        files = [each for each in manifest.files if each.name != README]
        without_readme = msgspec.structs.replace(manifest, files=files)
        try:
            entries = bundle.decoded(TIMELINE, _Entries).timeline
            expected = b"".join(readme_page.page(without_readme, entries))
            actual = bundle.content(README)
        except BundleUnreadable as error:
            self.fail("page", str(error))
            return
        except (KeyError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            self.fail("page", f"no page can be made from {TIMELINE} ({type(error).__name__})")
            return
        if actual == expected:
            self._add("page", [], f"{README} matches manifest and timeline")
        elif f'content="{digest_without_readme(manifest)}"'.encode() not in actual[:HEAD_BYTES]:
            self.fail("page", f"{README} does not belong to this {MANIFEST}: one of them was changed")
        elif manifest.tracker.version != version("tracker"):
            why = f"{README} was written by Tracker {manifest.tracker.version[:40]}: do not rely on it, read {TIMELINE} instead"
            self._skip("page", why)
        else:
            self.fail("page", f"{README} does not match manifest and timeline: it was changed")


class _Entries(msgspec.Struct, frozen=True):
    timeline: list[dict[str, object]]


def _manifest_faults(bundle: OpenBundle, manifest: Manifest) -> list[str]:
    names = [each.name for each in manifest.files]
    expected = {*REQUIRED, *(() if manifest.tree.why_unsigned is not None else (CHECKPOINT, KEY))} - {MANIFEST}
    found = [f"{name}: is not in the manifest" for name in bundle.sizes if name not in {MANIFEST, *names}]
    found += [f"{name}: is in the manifest twice" for name, count in Counter(names).items() if count > 1]
    found += [f"{name}: is not in the manifest" for name in sorted(expected - set(names) - set(bundle.sizes))]
    found += [f"{name}: an unsigned bundle has no such file" for name in names if name not in expected]
    for each in manifest.files:
        if each.name not in bundle.sizes:
            found.append(f"{each.name[:80]!r} is missing")
            continue
        try:
            if bundle.sizes[each.name] != each.size_bytes or bundle.digest(each.name) != each.sha256:
                found.append(f"{each.name} does not match the manifest: it was changed")
        except BundleUnreadable as error:
            found.append(str(error))
    return found


def _signs(signed: Checkpoint, size: int, root: str) -> bool:
    return (signed.size, signed.root) == (size, decode_base64(root))
