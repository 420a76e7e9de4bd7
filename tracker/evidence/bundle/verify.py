"""Verifies an evidence bundle offline, from the file alone and from keys and secrets that the verifier trusts.

    file         it can be read safely                           manifest     every file is the one it names
    signature    a trusted key signed the manifest
    records      each matches its leaf                           inclusion    each leaf leads to the tree's root
    checkpoint   that root is signed                             signer       by a trusted key
    names        event and dedupe key follow from the body       vendors      the senders' own signatures are valid
    timeline     it follows from the records                     page         the README matches it
    shipped      the checkpoint is among those shipped elsewhere

Each check is ok, failed, or not checked, with a reason: a forger wrote the manifest, so nothing in it may skip a check in
silence. Every check goes as far as it can, so that changes are named, until `MAX_PROBLEMS` are found in all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Literal, NamedTuple

import msgspec

from tracker.domain.record_json import parse_micros
from tracker.errors import BundleUnreadable, EvidenceError, LogCorrupt, NoteMalformed
from tracker.evidence.bundle import readme_page
from tracker.evidence.bundle.findings import MAX_PROBLEMS, Findings, TooManyProblems
from tracker.evidence.bundle.manifest import (
    CHECKPOINT, FORMAT_1, KEY, MANIFEST, README, REQUIRED, SIGNATURE, TIMELINE, Manifest, digest_without_readme,
)  # fmt: skip
from tracker.evidence.bundle.unpacked_log import UnpackedLog
from tracker.evidence.bundle.verify_records import Progress, RecordsResult, check_inclusion, check_records
from tracker.evidence.bundle.verify_signature import check_signature
from tracker.evidence.bundle.verify_timeline import NewViews, compare_timeline
from tracker.projector.declarations import using
from tracker.evidence.bundle.zip_reader import ContentComparison, OpenBundle, decoded, open_bundle
from tracker.log.merkle.checkpoint import Checkpoint, open_checkpoint, read_checkpoint
from tracker.log.merkle.cosignature import CosignerKey
from tracker.log.merkle.note import Verifier, decode_base64
from tracker.sources.contract import Source
from tracker.views.contract import VIEWS_VERSION

HEAD_BYTES = 4096
SHOWN_POSITIONS = 10
START_OF_ENTRIES, END_OF_TIMELINE = b'"timeline":[', b"]}\n"

Outcome = Literal["ok", "failed", "not checked"]

CHECK_NAMES = (
    "file", "manifest", "signature", "records", "inclusion", "checkpoint", "signer", "names", "vendors", "timeline",
    "page", "shipped",
)  # fmt: skip
SUBJECTS: Mapping[str, Sequence[str]] = {
    "signature": ("signature", "checkpoint", "signer"),
    "records": ("records", "inclusion", "names"),
    "timeline": ("timeline",),
    "page": ("page",),
}
"""What makes up a bundle, and the checks of each. `vendors` and `shipped` need what is not in a bundle."""


class Check(msgspec.Struct, kw_only=True):
    """One check. `about` says what was found, or why it was not checked; `problems` say what is wrong and where."""

    name: str
    outcome: Outcome
    about: str
    problems: list[str] = []


class BundleVerification(msgspec.Struct, kw_only=True):
    """The result for a bundle. `session` is None if the bundle could not be read as far as that.

    `unchecked`: the `SUBJECTS` that no check failed, but some check could not check; and those of `vendors` and `shipped`
    that were requested and not checked. `is_cut_short`: there may be more problems than those found.
    """

    bundle: str
    session: str | None = None
    records: int = 0
    checks: list[Check] = []
    unchecked: list[str] = []
    is_cut_short: bool = False

    @property
    def has_failed(self) -> bool:
        """Whether any check failed."""
        return any(check.outcome == "failed" for check in self.checks)


class TrustAnchors(NamedTuple):
    """What the verifier has from elsewhere: keys of the log and its cosigners, sources with their secrets, shipped notes.

    `sources` and `shipped` are None if none were given. `requested`: checks of `vendors` and `shipped` that count as
    unchecked where they cannot be made.
    """

    keys: Sequence[Verifier] = ()
    sources: Mapping[str, Source] | None = None
    shipped: Sequence[str] | None = None
    requested: Collection[str] = ()


NO_ANCHORS = TrustAnchors()


async def verify_bundle(
    path: Path, new_views: NewViews, trusted: TrustAnchors = NO_ANCHORS, progress: Progress | None = None
) -> BundleVerification:
    """Verify one bundle. Raises `OSError` if there is no such file; everything that is wrong with it is in the checks.

    `new_views` creates temporary views to project the records into.
    """
    verifier = _BundleVerifier(path.name, new_views, trusted, progress)
    try:
        with open_bundle(path) as bundle:
            await verifier.run(bundle)
    except BundleUnreadable as error:
        verifier.findings.add("file", str(error))
    except TooManyProblems:
        verifier.result.is_cut_short = True
    return verifier.finish()


class _BundleVerifier:
    def __init__(self, name: str, new_views: NewViews, trusted: TrustAnchors, progress: Progress | None) -> None:
        self._new_views = new_views
        self._trusted = trusted
        self._log_keys = [key for key in trusted.keys if not isinstance(key, CosignerKey)]
        self._progress = progress
        self.findings = Findings()
        self._abouts: dict[str, str] = {}
        """What the checks that were made found, if they found no problem."""
        self._skipped: dict[str, str] = {}
        """Why checks were not made."""
        self.result = BundleVerification(bundle=name)

    async def run(self, bundle: OpenBundle) -> None:
        """Make every check. Raises `BundleUnreadable`, `TooManyProblems`."""
        self._abouts["file"] = "it contains only the files of a bundle"
        manifest = self._manifest(bundle)
        if manifest is None:
            return
        self.result.session, self.result.records = manifest.session.id, manifest.records
        why_unsigned = manifest.tree.why_unsigned
        signed = None if why_unsigned is not None else self._check_checkpoint(bundle, manifest)
        self._check_manifest_signature(bundle, manifest, signed)
        if why_unsigned is not None:
            self._report_unsigned_tree(why_unsigned)
        with TemporaryFile() as spool, TemporaryDirectory() as folder:
            log = UnpackedLog(spool)
            records = check_records(bundle, manifest, log, self._trusted.sources, self.findings, self._progress)
            self._report_records(manifest, records)
            check_inclusion(bundle, manifest, records.leaves, self.findings)
            self._abouts["inclusion"] = f"{len(records.leaves)} leaves are in the tree of {manifest.tree.size} records"
            await self._check_timeline(bundle, manifest, log, records, Path(folder))
        self._check_page(bundle, manifest)

    def finish(self) -> BundleVerification:
        """The result. Every check that was not made is in it, with the reason."""
        result, problems = self.result, self.findings.problems
        why = f"the verification ended after {MAX_PROBLEMS} problems"
        for name in CHECK_NAMES:
            if name in problems:
                check = Check(name=name, outcome="failed", about="", problems=problems[name])
            elif name in self._skipped:
                check = Check(name=name, outcome="not checked", about=self._skipped[name])
            elif name in self._abouts:
                check = Check(name=name, outcome="ok", about=self._abouts[name])
            elif name == "shipped" and self._trusted.shipped is None:
                continue
            else:
                about = why if result.is_cut_short else "the bundle could not be read far enough"
                check = Check(name=name, outcome="not checked", about=about)
            result.checks.append(check)
        result.unchecked = list(self._unchecked())
        return result

    def _unchecked(self) -> Iterator[str]:
        outcomes = {check.name: check.outcome for check in self.result.checks}
        requested = {name: (name,) for name in ("vendors", "shipped") if name in self._trusted.requested}
        for subject, names in {**SUBJECTS, **requested}.items():
            found = {outcomes.get(name) for name in names}
            if "failed" not in found and "not checked" in found:
                yield subject

    def _manifest(self, bundle: OpenBundle) -> Manifest | None:
        try:
            manifest = bundle.manifest()
            parse_micros(manifest.made_at)
            if manifest.reading.inferred_end is not None:
                parse_micros(manifest.reading.inferred_end.at)
        except BundleUnreadable as error:
            self.findings.add("manifest", str(error))
            return None
        except (ValueError, OverflowError) as error:
            self.findings.add("manifest", f"a time in {MANIFEST} is invalid: {str(error)[:200]}")
            return None
        self._check_files(bundle, manifest)
        self._abouts["manifest"] = f"all {len(manifest.files)} files match it"
        return manifest

    def _check_files(self, bundle: OpenBundle, manifest: Manifest) -> None:
        names = [each.name for each in manifest.files]
        of_tree = () if manifest.tree.why_unsigned is not None else (CHECKPOINT, KEY)
        signature = () if _is_unsigned(manifest) else (SIGNATURE,)
        expected = {*REQUIRED, *of_tree} - {MANIFEST}
        found = [
            f"{name}: is not in the manifest" for name in bundle.sizes if name not in {MANIFEST, *signature, *names}
        ]
        found += [f"{name}: is in the manifest twice" for name, count in Counter(names).items() if count > 1]
        found += [f"{name}: is not in the manifest" for name in sorted(expected - set(names) - set(bundle.sizes))]
        found += [f"{name}: an unsigned bundle has no such file" for name in names if name not in expected]
        found += [f"{name} is missing: it was removed" for name in signature if name not in bundle.sizes]
        for problem in found:
            self.findings.add("manifest", problem)
        for each in manifest.files:
            if each.name not in bundle.sizes:
                self.findings.add("manifest", f"{each.name[:80]!r} is missing")
                continue
            try:
                is_as_named = bundle.sizes[each.name] == each.size_bytes and bundle.digest(each.name) == each.sha256
            except BundleUnreadable as error:
                self.findings.add("manifest", str(error))
                continue
            if not is_as_named:
                self.findings.add("manifest", f"{each.name} does not match the manifest: it was changed")

    def _check_manifest_signature(self, bundle: OpenBundle, manifest: Manifest, signed: Checkpoint | None) -> None:
        if manifest.format == FORMAT_1:
            self._skipped["signature"] = "bundles of format 1 have no signature: anyone could have written this one"
        elif manifest.why_unsigned is not None:
            self._skipped["signature"] = f"the bundle is not signed: {manifest.why_unsigned[:200]}"
        elif SIGNATURE not in bundle.sizes:
            self._skipped["signature"] = f"{SIGNATURE} is missing"
        else:
            origin = None if signed is None else signed.origin
            found = check_signature(bundle, origin, self._trusted.keys)
            for problem in found.problems:
                self.findings.add("signature", problem)
            if not found.is_checked:
                self._skipped["signature"] = found.about
            elif not found.problems:
                self._abouts["signature"] = found.about

    def _check_checkpoint(self, bundle: OpenBundle, manifest: Manifest) -> Checkpoint | None:
        """Check what signs the tree, and who did. Returns the content of the checkpoint, if it can be read."""
        signed = self._open(bundle, "checkpoint", None)
        if signed is not None and not _signs(signed, manifest):
            self.findings.add("checkpoint", f"{CHECKPOINT} signs a different tree than the manifest names")
        elif signed is not None:
            self._abouts["checkpoint"] = f"the tree of {signed.size} records of {signed.origin} is signed"
        if self._log_keys:
            self._abouts["signer"] = f"signed with a given key: {', '.join(key.label for key in self._log_keys)}"
            self._open(bundle, "signer", self._log_keys)
        elif self._trusted.keys:
            self._skipped["signer"] = "no key of the log was given, only keys of cosigners (--key)"
        else:
            why = "no key was given (--key): the bundle agrees with itself, but who made it is not checked"
            self._skipped["signer"] = why
        self._check_shipped(manifest)
        return signed

    def _report_unsigned_tree(self, why_unsigned: str) -> None:
        """A tree that nobody signed is wrong where a key was given to check it with, unless that key signed the manifest."""
        why = f"the tree is not signed: {why_unsigned[:200]}"
        has_anchor = bool(self._trusted.keys) or self._trusted.shipped is not None
        if has_anchor and "signature" not in self._abouts:
            self.findings.add("checkpoint", f"{why}; but a key or checkpoints were given to check it with")
        self._skipped["checkpoint"] = why
        self._skipped["signer"] = "the tree is not signed"
        if self._trusted.shipped is not None:
            self._skipped["shipped"] = "the tree is not signed"

    def _open(self, bundle: OpenBundle, check: str, keys: Sequence[Verifier] | None) -> Checkpoint | None:
        """The checkpoint, if one of these keys signed it; None: one of the bundle's own keys."""
        try:
            if keys is None:
                keys = [Verifier.read(line) for line in bundle.text(KEY).splitlines()]
            return open_checkpoint(bundle.text(CHECKPOINT), keys)
        except EvidenceError as error:
            self.findings.add(check, str(error))
            return None

    def _check_shipped(self, manifest: Manifest) -> None:
        if self._trusted.shipped is None:
            return
        is_shipped = False
        for note in self._trusted.shipped:
            try:
                signed = read_checkpoint(note)
            except NoteMalformed as error:
                self.findings.add("shipped", f"a shipped checkpoint cannot be read: {error}")
                continue
            if signed.size == manifest.tree.size:
                is_shipped = True
                if not _signs(signed, manifest):
                    self.findings.add(
                        "shipped",
                        f"a different tree of {signed.size} records was signed and shipped: one of the two is forged",
                    )
        if is_shipped:
            self._abouts["shipped"] = "the checkpoint is among the shipped ones"
        else:
            self._skipped["shipped"] = "no shipped checkpoint has this size: request a consistency proof"

    def _report_records(self, manifest: Manifest, records: RecordsResult) -> None:
        self._abouts["records"] = f"{manifest.records} records"
        self._abouts["records"] += f", {records.erased} of them erased" if records.erased else ""
        if records.unproved:
            self._skipped["records"] = (
                f"what erased the records at {_shown_positions(records.unproved)} was withheld: nothing here proves that "
                "they were erased, and not only left out"
            )
        self._abouts["names"] = "event names and dedupe keys follow from the bodies"
        if records.keyed:
            self._abouts["names"] += f"; {records.keyed} keys are hashed with a secret: only their leaves bind them"
        if records.unknown_vendors:
            self._skipped["names"] = _unknown(records.unknown_vendors)
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(records.proofs.items())) or "no records"
        if self._trusted.sources is None:
            self._skipped["vendors"] = "no secrets were given (--config): the senders' signatures are not checked"
        elif records.proofs["checked"]:
            self._abouts["vendors"] = outcomes
        else:
            self._skipped["vendors"] = outcomes

    async def _check_timeline(
        self, bundle: OpenBundle, manifest: Manifest, log: UnpackedLog, records: RecordsResult, folder: Path
    ) -> None:
        if manifest.tracker.reading > VIEWS_VERSION:
            self.findings.add("timeline", _newer("it was", "reading", manifest.tracker.reading, manifest))
            return
        if manifest.tracker.reading < VIEWS_VERSION:
            self._skipped["timeline"] = _older("it was", "reading", manifest.tracker.reading, VIEWS_VERSION, manifest)
            return
        if records.unknown_vendors:
            self._skipped["timeline"] = _unknown(records.unknown_vendors)
            return
        if not records.is_complete:
            self._skipped["timeline"] = "some records cannot be read, so no timeline can be derived"
            return
        try:
            with using(records.history):
                comparison = await compare_timeline(log, manifest, bundle, self._new_views, folder / "views.db")
        except LogCorrupt as error:
            if manifest.withheld:
                self._skipped["timeline"] = f"what remains of erased records was withheld: {error}"
            else:
                self.findings.add("timeline", str(error))
            return
        except BundleUnreadable as error:
            self.findings.add("timeline", str(error))
            return
        except Exception as error:
            # Unsigned records may contain anything, even what crashes the projection. Report that.
            problem = f"no timeline can be derived from these records ({type(error).__name__})"
            self.findings.add("timeline", problem)
            return
        for difference in comparison.differences:
            self.findings.add("timeline", difference)
        about = "it follows from the records"
        if manifest.reading.hidden:
            about += f", without the fields that the operator hides: {', '.join(manifest.reading.hidden)[:200]}"
        if comparison.from_outside:
            about += f"; known from outside the bundle, so not proved by it: {', '.join(comparison.from_outside)}"
        self._abouts["timeline"] = about

    def _check_page(self, bundle: OpenBundle, manifest: Manifest) -> None:
        page, known = manifest.tracker.page, readme_page.PAGE_VERSION
        try:
            if page > known:
                problem = _newer(f"{README} was", "page", page, manifest)
            elif page < known:
                head = next(bundle.chunks(README), b"")[:HEAD_BYTES]
                is_of_manifest = f'content="{digest_without_readme(manifest)}"'.encode() in head
                problem = None if is_of_manifest else f"{README} does not belong to this {MANIFEST}"
                self._skipped["page"] = _older(f"{README} was", "page", page, known, manifest)
            else:
                is_equal = _is_page_of(bundle, manifest)
                problem = None if is_equal else f"{README} does not match manifest and timeline: it was changed"
        except BundleUnreadable as error:
            problem = str(error)
        except (KeyError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            problem = f"no page can be made from {TIMELINE} ({type(error).__name__})"
        if problem is not None:
            self.findings.add("page", problem)
        self._abouts["page"] = f"{README} matches manifest and timeline"


def _is_page_of(bundle: OpenBundle, manifest: Manifest) -> bool:
    """Whether the README is the one of this manifest and timeline. Raises `BundleUnreadable`, and what rows raise."""
    files = [each for each in manifest.files if each.name != README]
    without_readme = msgspec.structs.replace(manifest, files=files)
    actual = ContentComparison(bundle.chunks(README))
    pieces = readme_page.page(without_readme, _entries(bundle))
    return all(map(actual.continues_with, pieces)) and actual.is_at_end()


def _entries(bundle: OpenBundle) -> Iterator[dict[str, object]]:
    """The timeline entries in timeline.json, one by one. Raises `BundleUnreadable`."""
    lines = bundle.lines(TIMELINE)
    for line in lines:
        if line in {START_OF_ENTRIES + b"\n", START_OF_ENTRIES + END_OF_TIMELINE}:
            break
    else:
        raise BundleUnreadable(f"{TIMELINE} has no timeline, or is not encoded as Tracker encodes it")
    for line in lines:
        row = line.removesuffix(END_OF_TIMELINE).removesuffix(b",\n")
        yield decoded(row, dict[str, object], f"a line of {TIMELINE}")


def _is_unsigned(manifest: Manifest) -> bool:
    return manifest.format == FORMAT_1 or manifest.why_unsigned is not None


def _signs(signed: Checkpoint, manifest: Manifest) -> bool:
    return (signed.size, signed.root) == (manifest.tree.size, decode_base64(manifest.tree.root))


def _older(what: str, kind: str, theirs: int, own: int, manifest: Manifest) -> str:
    return (
        f"{what} made with {kind} {theirs}, and this Tracker has {kind} {own}: Tracker {manifest.tracker.version[:40]} "
        "can check it"
    )


def _newer(what: str, kind: str, theirs: int, manifest: Manifest) -> str:
    return (
        f"{what} made with {kind} {theirs}, which this Tracker does not know: verify the bundle with Tracker "
        f"{manifest.tracker.version[:40]} or newer"
    )


def _unknown(vendors: Collection[str]) -> str:
    return f"this Tracker does not know the vendor {', '.join(sorted(vendors))}: use a newer version"


def _shown_positions(positions: Sequence[int]) -> str:
    more = len(positions) - SHOWN_POSITIONS
    return ", ".join(map(str, positions[:SHOWN_POSITIONS])) + (f" and {more} more" if more > 0 else "")
