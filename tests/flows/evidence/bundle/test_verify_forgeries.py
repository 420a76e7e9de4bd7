"""What a forger without the log's key can write does not verify, however well it fits together. Honest twins do.

Every forgery is a whole bundle: its digests, its README and its counts agree. The forger has bundles of the log, and every
program. The exit codes are those of `tracker verify FORGED --key KEY`: 1 where something is found wrong, 3 where the
forger turned a check off, never 0.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from tests.support import bundles
from tests.support.bundles import (
    ORIGIN, START, configured, filled, packed, session_of, signed, unpacked, with_corrected_digests,
)  # fmt: skip
from tests.support.paths import ROOT
from tests.support.samples import SAMPLES
from tracker.api.auth import SCOPES, Reader
from tracker.api.bundles import make_bundle
from tracker.cli.erase import erase
from tracker.cli.main import main
from tracker.cli.rebuild import rebuild
from tracker.cli.sessions import api_context
from tracker.config.load import Config, load
from tracker.domain.record_json import parse_micros
from tracker.evidence.bundle import readme_page
from tracker.evidence.bundle.build import timeline_json
from tracker.evidence.bundle.contents import bundle_contents
from tracker.evidence.bundle.manifest import (
    FORMAT_1, PROOFS_END, InclusionProof, Manifest, encode_manifest, proof_piece, proofs_start, signed_text,
)  # fmt: skip
from tracker.evidence.bundle.unpacked_log import UnpackedLog
from tracker.log.merkle.checkpoint import checkpoint_text
from tracker.log.merkle.cosignature import CosignerKey
from tracker.log.merkle.note import Signer, sign_note
from tracker.privacy.erasure import Selection
from tracker.projector.projector import Projector
from tracker.server import signing_keys, stores
from tracker.server.evidence import bundle_settings
from tracker.views.contract import VIEWS_VERSION

Files = dict[str, bytes]


class SignedBundle(NamedTuple):
    """A log with calls, its keys, and the honest bundle of one of them."""

    config: Config
    signer: Signer
    files: Files

    @property
    def key(self) -> str:
        return str(self.signer.verifier)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> SignedBundle:
    config = configured(tmp_path_factory.mktemp("log") / "log")
    asyncio.run(filled(config, ["livekit", "plugnmeet"]))
    signer = signing_keys.signer(config)
    assert signer is not None
    path = asyncio.run(
        bundles.bundle(config, asyncio.run(session_of(config, "livekit")), config.path.parent / "it.zip")
    )
    return SignedBundle(config, signer, unpacked(path))


class Verified(NamedTuple):
    code: int
    checks: dict[str, Any]
    unchecked: list[str]

    def words(self, name: str) -> str:
        check = self.checks[name]
        return " ".join([check["outcome"], check["about"], *check["problems"]])


Verify = Callable[..., Verified]


@pytest.fixture
def verify(
    tmp_path: Path, ours: SignedBundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Verify:
    """Run `tracker verify --json` on these files, or on a zip, with the log's key; from a folder that holds nothing else."""
    monkeypatch.chdir(tmp_path)

    def run(bundle: Files | Path, *arguments: str, keys: tuple[str, ...] | None = None) -> Verified:
        path = bundle if isinstance(bundle, Path) else packed(bundle, tmp_path / "verified.zip")
        named = [part for key in ((ours.key,) if keys is None else keys) for part in ("--key", key)]
        code = main(["verify", str(path), *named, *arguments, "--json"])
        found = json.loads(capsys.readouterr().out)
        return Verified(code, {check["name"]: check for check in found["checks"]}, found["unchecked"])

    return run


def edited_manifest(files: Files, **fields: object) -> Files:
    """The files with other fields in the manifest, and the README that follows from it. Unsigned."""
    return with_corrected_digests(dict(files), None, **fields)


def manifest_of(files: Files) -> Manifest:
    return msgspec.json.decode(files["manifest.json"], type=Manifest)


def writer(files: Files, **fields: object) -> object:
    return msgspec.structs.replace(manifest_of(files).tracker, **fields)


def renamed(files: Files, *names: str) -> Files:
    """The files with Alice called Mallory in these."""
    changed = {name: files[name].replace(b"Alice", b"Mallory") for name in names}
    assert all(changed[name] != files[name] for name in names)
    return files | changed


# The honest twins


def test_an_honest_bundle_verifies_whole(ours: SignedBundle, verify: Verify) -> None:
    found = verify(ours.files)
    assert (found.code, found.unchecked) == (0, [])
    assert "signed with a given key" in found.words("signature")


def test_without_a_key_an_honest_bundle_is_not_checked_for_who_made_it(ours: SignedBundle, verify: Verify) -> None:
    found = verify(ours.files, keys=())
    assert (found.code, found.unchecked) == (3, ["signature"])
    assert "no key was given" in found.words("signature")
    assert verify(ours.files, "--allow-unchecked", "signature", keys=()).code == 0


@pytest.mark.parametrize("name", ["encrypted", "plain", "erased"])
def test_a_bundle_of_format_1_is_read_and_reaches_three_at_best(name: str, verify: Verify) -> None:
    folder = SAMPLES / "bundles"
    key = (folder / f"format-1-{name.replace('erased', 'encrypted')}.key").read_text()
    found = verify(folder / f"format-1-{name}.zip", keys=(key,))
    assert found.code == 3
    assert {"signature", "page"} <= set(found.unchecked)
    assert found.checks["signer"]["outcome"] == found.checks["records"]["outcome"] == "ok"
    assert "format 1" in found.words("signature")
    assert "Tracker 0.1.0 can check it" in found.words("page")
    allowed = [part for name in found.unchecked for part in ("--allow-unchecked", name)]
    assert verify(folder / f"format-1-{name}.zip", *allowed, keys=(key,)).code == 0


def test_what_may_be_unchecked_is_named_one_by_one(ours: SignedBundle, verify: Verify) -> None:
    older = edited_manifest(ours.files, tracker=writer(ours.files, reading=VIEWS_VERSION - 1))
    assert verify(older).unchecked == ["signature", "timeline"]
    assert verify(older, "--allow-unchecked", "timeline").code == 3
    assert verify(older, "--allow-unchecked", "timeline", "--allow-unchecked", "signature").code == 0
    assert verify(older, "--allow-unchecked", "page", "--allow-unchecked", "records").code == 3


@pytest.mark.parametrize("name", ["vendors", "manifest", "everything", ""])
def test_only_the_four_names_can_be_allowed(name: str, ours: SignedBundle, verify: Verify) -> None:
    with pytest.raises(SystemExit) as ended:
        verify(ours.files, "--allow-unchecked", name)
    assert ended.value.code == 2


def test_what_failed_is_never_allowed(ours: SignedBundle, verify: Verify) -> None:
    bad = ours.files | {"manifest.sig": ours.files["manifest.sig"].replace(b"log\n", b"lag\n", 1)}
    everything = [part for name in ("signature", "records", "timeline", "page") for part in ("--allow-unchecked", name)]
    assert verify(bad, *everything).code == 1


# Who signed it


def test_files_changed_under_the_old_signature_are_found(ours: SignedBundle, verify: Verify) -> None:
    forged = with_corrected_digests(renamed(ours.files, "timeline.json"))
    forged["manifest.sig"] = ours.files["manifest.sig"]
    manifest = msgspec.json.decode(forged["manifest.json"])
    del manifest["why_unsigned"]
    forged["manifest.json"] = msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"
    found = verify(forged)
    assert found.code == 1
    assert "is about another manifest.json" in found.words("signature")


def test_a_signature_that_was_taken_away_is_missed(ours: SignedBundle, verify: Verify) -> None:
    stripped = {name: content for name, content in ours.files.items() if name != "manifest.sig"}
    found = verify(stripped)
    assert found.code == 1
    assert "manifest.sig is missing: it was removed" in found.words("manifest")


def test_a_bundle_that_says_that_nobody_signed_it_is_not_checked(ours: SignedBundle, verify: Verify) -> None:
    found = verify(edited_manifest(ours.files))
    assert (found.code, found.unchecked) == (3, ["signature"])
    assert "the bundle is not signed" in found.words("signature")


def test_the_signature_of_a_forger_is_found_with_the_known_key(ours: SignedBundle, verify: Verify) -> None:
    forged = with_corrected_digests(dict(ours.files), Signer.generate(ORIGIN))
    assert verify(forged).code == 1
    assert "which is not a given key" in verify(forged).words("signature")
    assert verify(forged, keys=()).code == 3


def test_the_signature_of_another_bundle_of_the_same_log_does_not_fit(
    ours: SignedBundle, verify: Verify, tmp_path: Path
) -> None:
    session = asyncio.run(session_of(ours.config, "plugnmeet"))
    other = unpacked(asyncio.run(bundles.bundle(ours.config, session, tmp_path / "other.zip")))
    assert verify(other).code == 0
    assert verify(ours.files | {"manifest.sig": other["manifest.sig"]}).code == 1


def test_a_checkpoint_is_no_signature_of_a_bundle(ours: SignedBundle, verify: Verify) -> None:
    found = verify(ours.files | {"manifest.sig": ours.files["checkpoint.txt"]})
    assert found.code == 1
    assert "is about another manifest.json" in found.words("signature")


def test_a_line_added_to_the_signature_is_found(ours: SignedBundle, verify: Verify) -> None:
    note = ours.files["manifest.sig"].decode()
    more = sign_note(note.split("\n\n")[0] + "\n", [Signer.generate("judge.example")]).splitlines()[-1]
    found = verify(ours.files | {"manifest.sig": f"{note}{more}\n".encode()})
    assert found.code == 1
    assert "something was added" in found.words("signature")


def test_the_key_of_another_trusted_log_signs_nothing_of_this_one(ours: SignedBundle, verify: Verify) -> None:
    other = Signer.generate("other.test/log")
    keys = (ours.key, str(other.verifier))
    assert verify(ours.files, keys=keys).code == 0
    for origin in (ORIGIN, "other.test/log"):
        whole = edited_manifest(ours.files)
        forged = signed(with_corrected_digests(whole, other), other, origin)
        assert verify(forged, keys=keys).code == 1, origin
    tree = manifest_of(ours.files).tree
    note = sign_note(checkpoint_text(ORIGIN, tree.size, base64.b64decode(tree.root)), [other])
    forged = dict(ours.files) | {"checkpoint.txt": note.encode(), "key.txt": f"{other.verifier}\n".encode()}
    found = verify(with_corrected_digests(forged, other), keys=keys)
    assert found.code == 1
    assert "but signed by the key of another" in found.words("signer")


def test_a_log_that_is_named_like_a_node_is_no_node(ours: SignedBundle, verify: Verify) -> None:
    other = Signer.generate(f"{ORIGIN}/b")
    forged = with_corrected_digests(dict(ours.files), other)
    found = verify(forged, keys=(ours.key, str(other.verifier)))
    assert (found.code, found.unchecked) == (3, ["signature"])
    # And a node signs as a node, not as the log.
    node = Signer.generate(ORIGIN)
    forged = with_corrected_digests(dict(ours.files), node)
    assert verify(forged, keys=(ours.key, str(CosignerKey.from_signer(node)))).code == 1


def test_a_cosigning_node_signs_with_its_own_key_which_has_to_be_given(ours: SignedBundle, verify: Verify) -> None:
    node, forger = Signer.generate(f"{ORIGIN}/b"), Signer.generate(f"{ORIGIN}/b")
    bundle = with_corrected_digests(dict(ours.files), node)
    cosigner = str(CosignerKey.from_signer(node))
    assert verify(bundle, keys=(ours.key, cosigner)).code == 0
    found = verify(bundle)
    assert (found.code, found.unchecked) == (3, ["signature"])
    assert "give its key, too" in found.words("signature")
    found = verify(bundle, keys=(cosigner,))
    assert (found.code, found.unchecked) == (3, ["signature"])
    assert "no key of the log was given" in found.words("signer")
    forged = with_corrected_digests(dict(ours.files), forger)
    assert verify(forged, keys=(ours.key, cosigner)).code == 3
    text = signed_text(ORIGIN, bundle["manifest.json"])
    line = base64.b64encode(node.verifier.id + forger.sign(text)).decode()
    broken = bundle | {"manifest.sig": f"{text}\n— {node.name} {line}\n".encode()}
    found = verify(broken, keys=(ours.key, cosigner))
    assert found.code == 1
    assert "does not fit the text" in found.words("signature")


# What the manifest says to leave out


@pytest.mark.parametrize("signs", [False, True], ids=["unsigned", "signed by the log"])
def test_an_older_reading_is_not_checked_and_names_the_version_that_checks_it(
    signs: bool, ours: SignedBundle, verify: Verify
) -> None:
    files = renamed(ours.files, "timeline.json")
    tracker = writer(files, reading=VIEWS_VERSION - 1, version="0.0.9")
    forged = with_corrected_digests(dict(files), ours.signer if signs else None, tracker=tracker)
    found = verify(forged)
    assert found.code == 3
    assert found.unchecked == (["timeline"] if signs else ["signature", "timeline"])
    assert "Tracker 0.0.9 can check it" in found.words("timeline")


@pytest.mark.parametrize("signs", [False, True], ids=["unsigned", "signed by the log"])
@pytest.mark.parametrize("what", ["reading", "page"])
def test_a_newer_reading_or_page_is_refused(what: str, signs: bool, ours: SignedBundle, verify: Verify) -> None:
    newer = {"reading": VIEWS_VERSION + 1} if what == "reading" else {"page": readme_page.PAGE_VERSION + 1}
    tracker = writer(ours.files, version="7.0", **newer)
    forged = with_corrected_digests(dict(ours.files), ours.signer if signs else None, tracker=tracker)
    found = verify(forged)
    assert found.code == 1
    assert "verify the bundle with Tracker 7.0 or newer" in found.words({"reading": "timeline"}.get(what, what))


def test_an_older_page_is_not_checked_whatever_it_holds(ours: SignedBundle, verify: Verify) -> None:
    forged = edited_manifest(ours.files, tracker=writer(ours.files, page=1, version="0.0.9"))
    page = forged["README.html"].replace(b"</h1>", b"</h1><script src=https://evil.example></script>")
    forged = with_page(forged, page)
    found = verify(forged)
    assert (found.code, found.unchecked) == (3, ["signature", "page"])
    assert "Tracker 0.0.9 can check it" in found.words("page")


def with_page(files: Files, page: bytes) -> Files:
    """The files with this README, which the manifest names."""
    manifest = manifest_of(files)
    *rest, own = manifest.files
    own = msgspec.structs.replace(own, size_bytes=len(page), sha256=hashlib.sha256(page).hexdigest())
    manifest = msgspec.structs.replace(manifest, files=[*rest, own])
    return files | {"README.html": page, "manifest.json": encode_manifest(manifest)}


@pytest.mark.parametrize("version", ["0.0.9", "7.0", ""])
def test_another_version_number_does_not_skip_the_page(version: str, ours: SignedBundle, verify: Verify) -> None:
    forged = edited_manifest(ours.files, tracker=writer(ours.files, version=version))
    assert verify(forged).code == 3
    page = forged["README.html"].replace(b"</h1>", b"</h1><script>alert(1)</script>")
    found = verify(with_page(forged, page))
    assert found.code == 1
    assert "it was changed" in found.words("page")


def test_a_bundle_of_format_2_called_format_1_does_not_pass(ours: SignedBundle, verify: Verify) -> None:
    tracker = writer(ours.files, page=1)
    forged = with_corrected_digests(dict(ours.files), None, format=FORMAT_1, why_unsigned=None, tracker=tracker)
    found = verify(forged)
    assert (found.code, found.unchecked) == (3, ["signature", "page"])
    forged = with_corrected_digests(dict(ours.files), None, format=FORMAT_1, why_unsigned=None)
    assert "no bundle of format 1 has" in verify(forged).words("manifest")


def test_hidden_names_are_named_and_need_the_signature(ours: SignedBundle, verify: Verify, tmp_path: Path) -> None:
    folder = tmp_path / "hiding"
    shutil.copytree(ours.config.path.parent, folder)
    text = (folder / "config.toml").read_text("utf-8").replace(str(ours.config.path.parent), str(folder))
    (folder / "config.toml").write_text(text.replace("[[sources]]", '[[sources]]\nredact = ["name"]'), "utf-8")
    config = load(folder / "config.toml", {})
    asyncio.run(rebuild(config))
    session = asyncio.run(session_of(config, "livekit"))
    honest = unpacked(asyncio.run(bundles.bundle(config, session, tmp_path / "hiding.zip")))
    found = verify(honest)
    assert found.code == 0
    assert "without the fields that the operator hides: name" in found.words("timeline")
    assert b"<b>The operator hides fields:</b> <code>name</code>" in honest["README.html"]

    # The forger's twin: made from a bundle in which nothing is hidden.
    reading = msgspec.structs.replace(manifest_of(ours.files).reading, hidden=["name"])
    hidden = ours.files | {"timeline.json": honest["timeline.json"]}
    found = verify(edited_manifest(hidden, reading=reading))
    assert (found.code, found.unchecked) == (3, ["signature"])
    assert "hides: name" in found.words("timeline")
    assert verify(edited_manifest(hidden)).code == 1, "the fields are hidden, and nothing says so"


@pytest.fixture(scope="module")
def narrowed(ours: SignedBundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[SignedBundle, Files, Files]:
    """A log where an erasure took records of two sources: the log, a bundle made before, and one that withholds the erasure."""
    folder = tmp_path_factory.mktemp("erased") / "log"
    config = configured(folder)
    asyncio.run(filled(config, ["livekit", "plugnmeet"]))
    signer = signing_keys.signer(config)
    assert signer is not None
    session = asyncio.run(session_of(config, "livekit"))
    before = unpacked(asyncio.run(bundles.bundle(config, session, folder / "before.zip")))
    asyncio.run(erase(config, [Selection(why="before", before=START + 10_000_000)]))

    async def narrow() -> None:
        async with api_context(config) as context:
            context = msgspec.structs.replace(context, bundle_settings=bundle_settings(config, context.log))
            with (folder / "narrow.zip").open("w+b") as file:
                await make_bundle(context, Reader("narrow", frozenset(SCOPES), ("lk",)), session, file)

    asyncio.run(narrow())
    return SignedBundle(config, signer, {}), before, unpacked(folder / "narrow.zip")


def lines_of(files: Files) -> list[dict[str, Any]]:
    return [json.loads(line) for line in files["records.jsonl"].splitlines()]


def test_a_withheld_erasure_leaves_records_and_timeline_unchecked(
    narrowed: tuple[SignedBundle, Files, Files], verify: Verify
) -> None:
    its, _, honest = narrowed
    found = verify(honest, keys=(its.key,))
    assert (found.code, sorted(found.unchecked)) == (3, ["records", "timeline"])
    erased = [str(line["position"]) for line in lines_of(honest) if line["erased_by"]]
    assert ", ".join(erased[:3]) in found.words("records")
    assert b"it does not prove that they were erased" in honest["README.html"]
    allowed = ("--allow-unchecked", "records", "--allow-unchecked", "timeline")
    assert verify(honest, *allowed, keys=(its.key,)).code == 0


def test_a_withheld_erasure_borrowed_from_another_bundle_hides_no_record(
    narrowed: tuple[SignedBundle, Files, Files], verify: Verify
) -> None:
    """The forger blanks a record that nobody erased, and names the withheld erasure of another bundle for it."""
    its, before, honest = narrowed
    lines = lines_of(honest)
    victim = next(line for line in lines if line["erased_by"] is None and line["vendor"] != "tracker")
    erasure = lines[-1]
    victim |= {"erased_by": erasure["position"], "proof": {}, "proof_text": "{}", "body_text": ""}
    victim["leaf"]["salt"] = None
    encoded = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    assert encoded != honest["records.jsonl"]
    forged = edited_manifest(honest | {"records.jsonl": encoded})
    found = verify(forged, keys=(its.key,))
    assert found.code == 3
    assert set(found.unchecked) == {"signature", "records", "timeline"}
    assert str(victim["position"]) in found.words("records")
    # With the erasure itself in the bundle, it would have to name the record.
    session = asyncio.run(session_of(its.config, "livekit"))
    full = unpacked(
        asyncio.run(bundles.bundle(its.config, session, its.config.path.parent / f"{victim['position']}.zip"))
    )
    assert verify(full, keys=(its.key,)).code == 0
    whole = lines_of(full)
    (mine,) = [line for line in whole if line["position"] == victim["position"]]
    mine.update(victim)
    encoded = b"".join(msgspec.json.encode(line) + b"\n" for line in whole)
    forged = with_corrected_digests(full | {"records.jsonl": encoded}, its.signer)
    found = verify(forged, keys=(its.key,))
    assert found.code == 1
    assert "does not name it" in found.words("records")


def test_the_bytes_of_an_erased_record_cannot_be_put_back(
    narrowed: tuple[SignedBundle, Files, Files], verify: Verify
) -> None:
    """An old bundle holds them; beside the erasure that took them they are out of place, even if the log signed it."""
    its, before, _ = narrowed
    session = asyncio.run(session_of(its.config, "livekit"))
    after = unpacked(asyncio.run(bundles.bundle(its.config, session, its.config.path.parent / "after.zip")))
    old, new = (files["records.jsonl"].splitlines(keepends=True) for files in (before, after))
    assert old[0] != new[0]
    forged = with_corrected_digests(after | {"records.jsonl": b"".join([old[0], *new[1:]])}, its.signer)
    found = verify(forged, keys=(its.key,))
    assert found.code == 1
    assert "an erasure in this bundle erased it, but its bytes are here" in found.words("records")


async def timeline_of(files: Files, manifest: Manifest, folder: Path) -> bytes:
    """timeline.json of these records, as Tracker makes it."""
    with (folder / "spool").open("w+b") as spool:
        log = UnpackedLog(spool)
        for line in files["records.jsonl"].splitlines(keepends=True):
            log.add(json.loads(line)["position"], line, is_of_session=True)
        async with stores.new_views(folder / "views.db") as views:
            await Projector(log, views).catch_up()
            row = await views.session(manifest.session.id)
            assert row is not None
            stuck_before = parse_micros(manifest.made_at) - manifest.reading.stuck_after_ms * 1000
            contents = bundle_contents(views, row, stuck_before=stuck_before)
            return b"".join([piece async for piece in timeline_json(contents, lambda _: None)])


def test_a_record_left_out_with_all_it_meant_needs_the_signature(
    ours: SignedBundle, verify: Verify, tmp_path: Path
) -> None:
    """The best that a forger can do: every check but that of the signature finds a true bundle of fewer records."""
    manifest = manifest_of(ours.files)
    lines = ours.files["records.jsonl"].splitlines(keepends=True)
    proofs = json.loads(ours.files["proofs.json"])["inclusion"]
    joins = [n for n, line in enumerate(lines) if b"participant_joined" in line]
    kept = [n for n in range(len(lines)) if n != joins[-1]]
    files = ours.files | {"records.jsonl": b"".join(lines[n] for n in kept)}
    pieces = [proof_piece(InclusionProof(**proofs[n]), k) for k, n in enumerate(kept)]
    files["proofs.json"] = b"".join([proofs_start(manifest.tree.size, manifest.tree.root), *pieces, PROOFS_END])
    files["timeline.json"] = asyncio.run(timeline_of(files, manifest, tmp_path))
    entries = len(json.loads(files["timeline.json"])["timeline"])
    forged = edited_manifest(files, records=len(kept), entries=entries)
    found = verify(forged)
    assert (found.code, found.unchecked) == (3, ["signature"])
    assert {check["outcome"] for name, check in found.checks.items() if name not in {"signature", "vendors"}} == {"ok"}
    forged["manifest.sig"] = ours.files["manifest.sig"]
    assert verify(forged).code == 1


NEWER_TRACKER = """
import asyncio, msgspec, sys
from pathlib import Path
from tests.support import bundles
from tracker.config.load import load
from tracker.sources import registry

registry.add(msgspec.structs.replace(registry.VENDORS["livekit"], name="zoomzoom"))
folder = Path(sys.argv[1])
bundles.configured(folder)
path = folder / "config.toml"
path.write_text(path.read_text().replace('vendor = "livekit"', 'vendor = "zoomzoom"'))
config = load(path, {})
asyncio.run(bundles.filled(config, ["livekit"]))
asyncio.run(bundles.bundle(config, asyncio.run(bundles.session_of(config, "livekit")), folder / "it.zip"))
"""


def test_records_of_a_vendor_that_only_a_newer_tracker_knows_are_not_checked(verify: Verify, tmp_path: Path) -> None:
    folder = tmp_path / "newer"
    done = subprocess.run(
        [sys.executable, "-c", NEWER_TRACKER, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    key = str(Signer.read((folder / "sign.key").read_text()).verifier)
    found = verify(folder / "it.zip", keys=(key,))
    assert (found.code, found.unchecked) == (3, ["records", "timeline"])
    assert "does not know the vendor zoomzoom" in found.words("names")


def test_an_unencrypted_record_cannot_be_erased(verify: Verify, tmp_path: Path) -> None:
    """No log erases one. So a record without bytes is one that the forger blanked, whatever erasure is named for it."""
    config = configured(tmp_path / "log", sealed=False)
    asyncio.run(filled(config, ["livekit"]))
    session = asyncio.run(session_of(config, "livekit"))
    honest = unpacked(asyncio.run(bundles.bundle(config, session, tmp_path / "it.zip")))
    signer = signing_keys.signer(config)
    assert signer is not None
    assert verify(honest, keys=(str(signer.verifier),)).code == 0
    lines = lines_of(honest)
    lines[3] |= {"erased_by": 10, "proof": {}, "proof_text": "{}", "body_text": ""}
    encoded = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    forged = with_corrected_digests(honest | {"records.jsonl": encoded}, signer)
    found = verify(forged, keys=(str(signer.verifier),))
    assert found.code == 1
    assert "it is unencrypted, so nothing erased it" in found.words("records")


# vendors and shipped


def test_vendors_and_shipped_change_the_code_only_if_asked_for(
    ours: SignedBundle, verify: Verify, tmp_path: Path
) -> None:
    found = verify(ours.files)
    assert (found.code, found.checks["vendors"]["outcome"]) == (0, "not checked")
    at = str(ours.config.path)
    assert verify(ours.files, "--config", at).checks["vendors"]["outcome"] == "ok"
    assert verify(ours.files, "--config", at, "--proofs").code == 0
    unknown = tmp_path / "unknown.toml"
    text = Path(at).read_text("utf-8")
    unknown.write_text(text.replace('name = "lk"', 'name = "other"'), "utf-8")
    found = verify(ours.files, "--config", str(unknown))
    assert (found.code, found.checks["vendors"]["outcome"]) == (0, "not checked")
    found = verify(ours.files, "--config", str(unknown), "--proofs")
    assert (found.code, found.unchecked) == (3, ["vendors"])
    other = tmp_path / "checkpoints.txt"
    other.write_text(sign_note(checkpoint_text(ORIGIN, 1, bytes(32)), [ours.signer]))
    found = verify(ours.files, "--checkpoints", str(other))
    assert (found.code, found.unchecked) == (3, ["shipped"])
    assert verify(ours.files, "--checkpoints", str(ours.config.evidence.file)).code == 0


# The end of the verification


def test_the_verification_ends_after_twenty_problems(ours: SignedBundle, verify: Verify, tmp_path: Path) -> None:
    bad = with_corrected_digests(ours.files | {"records.jsonl": b"{}\n" * 100_000})
    found = verify(bad)
    assert found.code == 1
    assert sum(len(check["problems"]) for check in found.checks.values()) == 20
    assert "ended after 20 problems" in found.words("timeline")
