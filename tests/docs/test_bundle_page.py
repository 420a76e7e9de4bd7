"""docs/reference/bundle.md: its program, which imports nothing of Tracker, accepts true bundles and no others."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import DOCS
from tests.support import bundles
from tests.support.bundles import configured, filled, session_of, unpacked
from tracker.cli.erase import erase, select_person
from tracker.server import signing_keys
from tracker.evidence.bundle import manifest
from tracker.evidence.bundle.verify import CHECK_NAMES, SUBJECTS
from tracker.log.merkle.note import Signer

PAGE = (DOCS / "reference" / "bundle.md").read_text("utf-8")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert "tracker." not in code
    path = tmp_path_factory.mktemp("program") / "check.py"
    path.write_text(code, "utf-8")
    return path


def run(program: Path, bundle: Path, key: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-I", str(program), str(bundle), key], capture_output=True, text=True)


@pytest.mark.parametrize("kind", ["sealed", "in clear", "erased"])
def test_the_program_accepts_a_true_bundle_and_no_other(kind: str, program: Path, tmp_path: Path) -> None:
    config = configured(tmp_path / "log", sealed=kind != "in clear")
    asyncio.run(filled(config, ["livekit"]))
    if kind == "erased":
        selection = asyncio.run(select_person(config, "user-alice"))
        asyncio.run(erase(config, [selection]))
    session = asyncio.run(session_of(config, "livekit"))
    path = asyncio.run(bundles.bundle(config, session, tmp_path / "it.zip"))
    key = str(signing_keys.verifiers(config)[0])
    good = run(program, path, key)
    assert good.returncode == 0, good.stderr
    assert "records are in tracker.test/log" in good.stdout

    files = unpacked(path)
    for name, old, new in [
        ("records.jsonl", b"daily-standup", b"daily-stand-up"),
        ("records.jsonl", b'"origin":"webhook"', b'"origin":"import"'),
        ("proofs.json", b'"hashes":["', b'"hashes":["AAAA'),
        ("checkpoint.txt", b"tracker.test/log\n", b"tracker.test/lag\n"),
    ]:
        edited = files | {name: files[name].replace(old, new, 1)}
        assert edited[name] != files[name]
        signer = signing_keys.signer(config)
        covered = bundles.with_corrected_digests(edited, signer)
        assert run(program, bundles.packed(covered, tmp_path / "bad.zip"), key).returncode != 0
        if kind != "sealed":
            break
    edited = files | {"README.html": b"another story"}
    assert run(program, bundles.packed(edited, tmp_path / "bad.zip"), key).returncode != 0
    unsigned = bundles.with_corrected_digests(files)
    assert "manifest.sig" in run(program, bundles.packed(unsigned, tmp_path / "bad.zip"), key).stderr
    forged = bundles.with_corrected_digests(files, Signer.generate(bundles.ORIGIN))
    assert "InvalidSignature" in run(program, bundles.packed(forged, tmp_path / "bad.zip"), key).stderr


def test_every_file_and_every_check_is_on_the_page() -> None:
    for name in (*manifest.MAX_BYTES, *CHECK_NAMES, *SUBJECTS):
        assert f"`{name}`" in PAGE, name
    for part in manifest.PARTS:
        assert f"`{part}`" in PAGE, part
