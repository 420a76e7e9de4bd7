"""Every change of a bundle is found and named, even if all digests were corrected after it."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import bundles
from tests.support.bundles import changed, configured, failed, filled, outcomes, packed, session_of, unpacked, verified
from tracker.cli.rebuild import rebuild
from tracker.server import signing_keys, stores
from tracker.evidence.bundle import verify_timeline, zip_reader
from tracker.evidence.bundle.manifest import MAX_BYTES, PROOFS_END, InclusionProof, proof_piece, proofs_start
from tracker.config.load import Config
from tracker.log.merkle.checkpoint import checkpoint_text
from tracker.log.merkle.note import Signer, sign_note
from tracker.server.sources import build_sources

Edit = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = configured(tmp_path_factory.mktemp("log") / "log")
    asyncio.run(filled(config))
    return config


@pytest.fixture(scope="module")
def pristine(config: Config) -> Path:
    """The bundle of a LiveKit call from an encrypted log."""
    session = asyncio.run(session_of(config, "livekit"))
    return asyncio.run(bundles.bundle(config, session, config.path.parent / "it.zip"))


@pytest.fixture(scope="module")
def other(config: Config) -> dict[str, bytes]:
    """The files of another session's bundle, of the same log and checkpoint."""
    session = asyncio.run(session_of(config, "plugnmeet"))
    return unpacked(asyncio.run(bundles.bundle(config, session, config.path.parent / "other.zip")))


# Single bytes


@pytest.mark.parametrize("name", sorted(MAX_BYTES))
async def test_a_changed_byte_is_found_and_its_file_named(name: str, pristine: Path, tmp_path: Path) -> None:
    size = len(unpacked(pristine)[name])
    places = {0, size - 1, size // 2, *random.Random(name).sample(range(size), min(size, 8))}
    for at in sorted(places):
        path = changed(pristine, tmp_path / "bad.zip", {name: lambda content, at=at: flipped(content, at)})
        problems = failed(await verified(path))
        messages = [problem for check in problems.values() for problem in check]
        # Some fields of the manifest are contradicted only by the page or the timeline.
        assert any(name in problem for problem in messages) or ("timeline" in problems and name == "manifest.json"), (
            at,
            messages,
        )
        assert "manifest" in problems or name in {"manifest.json", "manifest.sig"}
        assert "signature" in problems or "manifest" in problems


@pytest.mark.parametrize("name", sorted(MAX_BYTES))
async def test_a_missing_file_is_named(name: str, pristine: Path, tmp_path: Path) -> None:
    files = unpacked(pristine)
    del files[name]
    problems = failed(await verified(packed(files, tmp_path / "bad.zip")))["manifest"]
    assert any(f"{name}" in problem and "missing" in problem for problem in problems)


async def test_no_byte_of_the_zip_itself_makes_it_crash(pristine: Path, tmp_path: Path) -> None:
    content = pristine.read_bytes()
    ends = struct.unpack("<H", content[26:28])[0]
    chance = random.Random(3)
    places = [*range(30 + ends), *range(len(content) - 500, len(content), 7), *chance.sample(range(len(content)), 30)]
    path = tmp_path / "bad.zip"
    for at in chance.sample(places, 60):
        path.write_bytes(flipped(content, at))
        await verified(path)
    for size in [0, 1, 21, 22, 100, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:size])
        assert failed(await verified(path))["file"]


# Changed by somebody who makes manifest and page fit again


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0x01]) + content[at + 1 :]


def line(n: int, edit: Callable[[dict[str, Any]], None]) -> Edit:
    """Edit the record in line n (from 0)."""

    def edited(content: bytes) -> bytes:
        lines = content.splitlines()
        parsed = json.loads(lines[n])
        edit(parsed)
        lines[n] = json.dumps(parsed, separators=(",", ":"), ensure_ascii=False).encode()
        return b"\n".join(lines) + b"\n"

    return edited


def document(edit: Callable[[Any], None]) -> Edit:
    def edited(content: bytes) -> bytes:
        parsed = json.loads(content)
        edit(parsed)
        if "inclusion" in parsed:
            return encoded_proofs(parsed)
        return json.dumps(parsed, separators=(",", ":"), ensure_ascii=False).encode()

    return edited


def encoded_proofs(parsed: dict[str, Any]) -> bytes:
    """proofs.json as Tracker writes it."""
    proofs = [InclusionProof(**each) for each in parsed["inclusion"]]
    pieces = [proof_piece(proof, n) for n, proof in enumerate(proofs)]
    return b"".join([proofs_start(parsed["size"], parsed["root"]), *pieces, PROOFS_END])


def other_hash(text: str) -> str:
    return base64.b64encode(flipped(base64.b64decode(text), 5)).decode()


def setting(*path: str | int, to: Any) -> Callable[[Any], None]:
    """Set the value at a path; a callable `to` gets the old value."""

    def edit(parsed: Any) -> None:
        for step in path[:-1]:
            parsed = parsed[step]
        parsed[path[-1]] = to(parsed[path[-1]]) if callable(to) else to

    return edit


def without_line(n: int) -> Edit:
    return lambda content: b"".join(each for k, each in enumerate(content.splitlines(keepends=True)) if k != n)


def swapped(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join([*lines[:3], lines[4], lines[3], *lines[5:]])


CHANGES = {
    "a body": ("records.jsonl", line(1, setting("body_text", to=lambda text: text.replace("alice", "mallo"))), "records", "position"),
    "a proof": ("records.jsonl", line(4, setting("proof_text", to=lambda text: text.replace('"', '"', 1) + " ")), "records", "position"),
    "the decoded proof": ("records.jsonl", line(4, setting("proof", to={"scheme": "jwt"})), "records", "is not encoded"),
    "a salt": ("records.jsonl", line(4, setting("leaf", "salt", to=other_hash)), "records", "salt"),
    "no salt": ("records.jsonl", line(4, setting("leaf", "salt", to=None)), "records", "salt is missing"),
    "a commitment": ("records.jsonl", line(4, setting("leaf", "commitment", to=other_hash)), "records", "leaf"),
    "no commitment": ("records.jsonl", line(4, setting("leaf", "commitment", to=None)), "records", "leaf"),
    "a digest": ("records.jsonl", line(4, setting("leaf", "kept", to=other_hash)), "records", "fields do not match its leaf"),
    "a leaf": ("records.jsonl", line(4, setting("leaf", "hash", to=other_hash)), "records", "leaf"),
    "a reception time": ("records.jsonl", line(4, setting("received_at", to="2023-11-14T22:13:23.000000Z")), "records", "leaf"),
    "an event": ("records.jsonl", line(4, setting("event", to="room_finished")), "records", "leaf"),
    "a dedupe key": ("records.jsonl", line(4, setting("dedupe_key", to="hmac:0")), "records", "leaf"),
    "an origin": ("records.jsonl", line(4, setting("origin", to="import")), "records", "leaf"),
    "a source": ("records.jsonl", line(4, setting("source", to="pnm")), "records", "another source"),
    "a position": ("records.jsonl", line(4, setting("position", to=lambda n: n + 1)), "records", "leaf"),
    "an unknown field": ("records.jsonl", line(4, setting("note", to="hello")), "records", "line 5"),
    "a record marked as erased": ("records.jsonl", line(4, setting("erased_by", to=60)), "records", "marked as erased"),
    "records in another order": ("records.jsonl", swapped, "records", "swapped"),
    "a record left out": ("records.jsonl", without_line(4), "records", "the manifest counts 0, 14"),
    "a record twice": ("records.jsonl", lambda content: content + content.splitlines(keepends=True)[-1], "records", "repeated"),
    "a truncated line": ("records.jsonl", lambda content: content[:-10], "records", "cut off"),
    "a proof of inclusion": ("proofs.json", document(setting("inclusion", 4, "hashes", 0, to=other_hash)), "inclusion", "position"),
    "a proof of inclusion cut short": ("proofs.json", document(setting("inclusion", 4, "hashes", to=lambda h: h[:-1])), "inclusion", "position"),
    "a proof of inclusion left out": ("proofs.json", document(lambda parsed: parsed["inclusion"].pop(4)), "inclusion", "no proof"),
    "proofs moved": ("proofs.json", document(lambda parsed: parsed["inclusion"].reverse()), "inclusion", "does not match the records"),
    "the size proved against": ("proofs.json", document(setting("size", to=lambda n: n + 1)), "inclusion", "a different tree"),
    "the signed size": ("checkpoint.txt", lambda note: re.sub(rb"\n[0-9]+\n", b"\n65536\n", note, count=1), "checkpoint", "does not fit"),
    "the signed origin": ("checkpoint.txt", lambda note: note.replace(b"tracker.test/log\n", b"tracker.test/lag\n", 1), "checkpoint", ""),
    "a malformed checkpoint": ("checkpoint.txt", lambda _note: b"hello\n", "checkpoint", "note"),
    "a key": ("key.txt", lambda _key: f"{Signer.generate('tracker.test/log').verifier}\n".encode(), "checkpoint", "signed by"),
    "a malformed key": ("key.txt", lambda key: key[:-9] + b"\n", "checkpoint", "key"),
    "an actor": ("timeline.json", document(setting("timeline", 1, "actor", to="mallory")), "timeline", "actor"),
    "a time": ("timeline.json", document(setting("timeline", 1, "at", to="2023-11-14T22:13:59.000Z")), "timeline", "at is"),
    "an entry left out": ("timeline.json", document(lambda parsed: parsed["timeline"].pop(1)), "timeline", "but is not in timeline.json"),
    "an entry put in": ("timeline.json", document(lambda parsed: parsed["timeline"].append(parsed["timeline"][0] | {"id": "9-9"})), "timeline", "follows from no record"),
    "entries in another order": ("timeline.json", document(lambda parsed: parsed["timeline"].reverse()), "timeline", "order"),
    "a presence time": ("timeline.json", document(setting("participants", 0, "presence_ms", to=1)), "timeline", "presence_ms"),
    "how the session ended": ("timeline.json", document(setting("session", "end", "reason", to="normal")), "timeline", "session: end"),
    "a session marked as stuck": ("timeline.json", document(setting("session", "stuck", to=True)), "timeline", "stuck"),
    "an overlap": ("timeline.json", document(lambda parsed: parsed["session"]["anomalies"].append({"kind": "overlap", "position": None, "detail": ""})), "timeline", "anomalies"),
    "an extra field": ("timeline.json", document(setting("verdict", to="guilty")), "timeline", "verdict"),
    "another encoding": ("timeline.json", lambda content: content.replace(b":", b": ", 1), "timeline", "was edited"),
    "no timeline at all": ("timeline.json", lambda _: b'{"timeline":[]}', "timeline", "participants"),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
async def test_a_change_is_named_even_if_all_digests_match(what: str, pristine: Path, tmp_path: Path) -> None:
    name, edit, check, words = CHANGES[what]
    found = failed(await verified(changed(pristine, tmp_path / "bad.zip", {name: edit}, corrected=True)))
    assert check in found, found
    assert any(words in problem for problem in found[check]), found[check]
    assert "manifest" not in found, "the digests were corrected, or the test tests nothing"


async def test_a_record_of_another_session_with_a_valid_proof_is_found(
    pristine: Path, other: dict[str, bytes], tmp_path: Path
) -> None:
    files = unpacked(pristine)
    records = files["records.jsonl"].splitlines(keepends=True)
    foreign = other["records.jsonl"].splitlines(keepends=True)[5]
    position = json.loads(foreign)["position"]
    proofs, proof = json.loads(files["proofs.json"]), json.loads(other["proofs.json"])["inclusion"][5]
    at = sum(json.loads(each)["position"] < position for each in records)
    files["records.jsonl"] = b"".join([*records[:at], foreign, *records[at:]])
    proofs["inclusion"].insert(at, proof)
    files["proofs.json"] = encoded_proofs(proofs)
    found = failed(await verified(packed(bundles.with_corrected_digests(files), tmp_path / "bad.zip")))
    assert "inclusion" not in found
    assert any("another source" in problem for problem in found["records"])
    assert any("does not belong to this session" in problem for problem in found["timeline"])


async def test_a_removed_record_and_proof_are_missed_in_the_timeline(pristine: Path, tmp_path: Path) -> None:
    files = unpacked(pristine)
    files["records.jsonl"] = without_line(4)(files["records.jsonl"])
    files["proofs.json"] = document(lambda parsed: parsed["inclusion"].pop(4))(files["proofs.json"])
    files["manifest.json"] = document(setting("records", to=13))(files["manifest.json"])
    found = failed(await verified(packed(bundles.with_corrected_digests(files), tmp_path / "bad.zip")))
    assert list(found) == ["timeline"]


async def test_a_readme_that_contradicts_the_timeline_is_found_even_if_the_log_signed_it(
    config: Config, pristine: Path, tmp_path: Path
) -> None:
    import hashlib  # noqa: PLC0415

    files = unpacked(pristine)
    readme = files["README.html"].replace(b"Alice", b"Malice").replace(b"user-alice", b"user-bob")
    assert readme != files["README.html"]
    manifest = json.loads(files["manifest.json"])
    manifest["files"][-1] |= {"size_bytes": len(readme), "sha256": hashlib.sha256(readme).hexdigest()}
    files["README.html"] = readme
    files["manifest.json"] = json.dumps(manifest, indent=2, ensure_ascii=False).encode() + b"\n"
    signer = signing_keys.signer(config)
    assert signer is not None
    found = failed(await verified(packed(bundles.signed(files, signer), tmp_path / "bad.zip"), config))
    assert list(found) == ["page"]


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("made_at",), "2024-01-01T00:00:00.000000Z"), (("tracker", "version"), "9.9"), (("tracker", "reading"), 99),
        (("session", "id"), "lk:another"), (("records",), 13), (("tree", "why_unsigned"), "nobody"),
        (("reading", "hidden"), ["name"]), (("reading", "stuck_after_ms"), 1), (("entries",), 3),
        (("reading", "inferred_end"), {"at": "2024-01-01T00:00:00.000000Z", "reason": "timeout"}),
        (("format",), "tracker/evidence-bundle/3"), (("more",), "words"), (("made_at",), "soon"), (("withheld",), [7]),
    ],
)  # fmt: skip
async def test_a_changed_manifest_is_found(path: tuple[str, ...], to: object, pristine: Path, tmp_path: Path) -> None:
    def edited(content: bytes) -> bytes:
        parsed = json.loads(content)
        setting(*path, to=to)(parsed)
        return json.dumps(parsed, indent=2, ensure_ascii=False).encode() + b"\n"

    assert failed(await verified(changed(pristine, tmp_path / "bad.zip", {"manifest.json": edited})))


async def test_a_bundle_signed_by_a_forger_is_found_with_the_known_key(
    config: Config, pristine: Path, tmp_path: Path
) -> None:
    """A forger has a key of their own: the bundle agrees with itself, and only the operator's key shows the forgery."""
    files = unpacked(pristine)
    forger = Signer.generate("tracker.test/log")
    size, root = (json.loads(files["manifest.json"])["tree"][name] for name in ("size", "root"))
    text = checkpoint_text("tracker.test/log", size, base64.b64decode(root))
    files["checkpoint.txt"], files["key.txt"] = sign_note(text, [forger]).encode(), f"{forger.verifier}\n".encode()
    path = packed(bundles.with_corrected_digests(files), tmp_path / "forged.zip")
    assert not failed(await verified(path))
    assert outcomes(await verified(path))["signer"] == "not checked"
    assert list(failed(await verified(path, config))) == ["signer"]


async def test_a_delivery_the_sender_did_not_sign_is_found_with_the_senders_secret(
    config: Config, tmp_path: Path
) -> None:
    """The operator adds a record and signs the log: bundle and log agree, but the vendor's signature is invalid."""
    forged_config = configured(tmp_path / "log")
    await filled(forged_config, ["openvidu"])
    source = build_sources(forged_config)["lk"]
    body = b'{"event":"room_started","room":{"sid":"RM_f","name":"r"},"id":"EV_f","createdAt":"1700000000"}'
    forged = source.verify_trusted(body, received_at=bundles.START, proof={"scheme": "jwt", "jwt": "a.b.c"})
    async with stores.reading_log(forged_config) as log:
        import msgspec  # noqa: PLC0415

        await log.append(msgspec.structs.replace(forged, origin="webhook"))

    await rebuild(forged_config)
    path = await bundles.bundle(forged_config, "lk:RM_f", tmp_path / "it.zip")
    assert not failed(await verified(path))
    assert list(failed(await verified(path, forged_config))) == ["vendors"]


async def test_of_a_large_timeline_the_first_line_that_differs_is_named(
    pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_timeline, "SMALL_JSON", 1000)
    path = tmp_path / "bad.zip"

    def cut(content: bytes) -> bytes:
        return content.replace(b'"name":"Alice"', b'"name":"Malice"', 1)

    (problem,) = failed(await verified(changed(pristine, path, {"timeline.json": cut}, corrected=True)))["timeline"]
    assert "line 3 of timeline.json has" in problem
    assert "Malice" in problem and "Alice" in problem  # noqa: PT018
    more: Edit = lambda content: content + b"\n"  # noqa: E731
    (problem,) = failed(await verified(changed(pristine, path, {"timeline.json": more})))["timeline"]
    assert "goes on after the last" in problem


# Malicious files


def zipped(to: Path, *members: tuple[str, bytes], **more: Any) -> Path:
    import warnings  # noqa: PLC0415

    with warnings.catch_warnings(), zipfile.ZipFile(to, "w", more.pop("how", zipfile.ZIP_DEFLATED)) as into:
        warnings.simplefilter("ignore")
        for name, content in members:
            into.writestr(name, content)
        into.comment = more.pop("comment", b"")
    return to


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "C:\\x", "records.jsonl/", "README.HTML", "a\x00b", "x" * 60_000, "é"]
)
async def test_unknown_file_names_are_refused(name: str, tmp_path: Path) -> None:
    (problem,) = failed(await verified(zipped(tmp_path / "bad.zip", (name, b"x"))))["file"]
    assert "which no bundle has" in problem
    assert not (tmp_path / "etc").exists()


async def test_a_duplicate_file_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "bad.zip", ("README.html", b"a"), ("README.html", b"b"))
    assert "more than once" in failed(await verified(path))["file"][0]


async def test_too_many_files_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "bad.zip", *((f"{n}", b"") for n in range(1000)))
    assert "1000 files" in failed(await verified(path))["file"][0]


async def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = zipped(tmp_path / "bad.zip", ("timeline.json", bytes(100 * 1024 * 1024)))
    assert "fill a disk" in failed(await verified(path))["file"][0]
    path = zipped(tmp_path / "bad.zip", ("key.txt", bytes(1024 * 1024)))
    assert "at most 65536 are allowed" in failed(await verified(path))["file"][0]


async def test_a_wrong_size_is_noticed_while_reading(pristine: Path, tmp_path: Path) -> None:
    content = pristine.read_bytes()
    (info,) = [each for each in zipfile.ZipFile(pristine).infolist() if each.filename == "proofs.json"]
    table = content.rindex(b"PK\x01\x02", 0, content.rindex(b"proofs.json"))
    lied = content[: table + 24] + struct.pack("<I", info.file_size - 7) + content[table + 28 :]
    (tmp_path / "bad.zip").write_bytes(lied)
    assert failed(await verified(tmp_path / "bad.zip"))


@pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
async def test_other_compression_methods_are_refused(how: int, tmp_path: Path) -> None:
    path = zipped(tmp_path / "bad.zip", ("README.html", b"a"), how=how)
    assert "compressed in a way" in failed(await verified(path))["file"][0]


async def test_hidden_bytes_before_between_or_after_the_files_are_refused(pristine: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.zip"
    path.write_bytes(b"#!/bin/sh\n" + pristine.read_bytes())
    assert "hidden" in failed(await verified(path))["file"][0]
    path.write_bytes(pristine.read_bytes() + b"more")
    assert failed(await verified(path))["file"]
    zipped(path, ("README.html", b"a"), comment=b"PK\x05\x06")
    assert failed(await verified(path))["file"]
    with zipfile.ZipFile(path, "w") as into:
        into.writestr("README.html", "what one program sees")
        into.filelist.clear()
        into.NameToInfo.clear()
        into.writestr("README.html", "what another sees")
    assert "hidden" in failed(await verified(path))["file"][0]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[" * 100_000, b"null", b"\xff\xfe", b'{"format":"tracker/evidence-bundle/1"}', b"1e999999", b'"' + b"\\ud800" * 9 + b'"'],
)  # fmt: skip
@pytest.mark.parametrize("name", ["manifest.json", "records.jsonl", "proofs.json", "timeline.json"])
async def test_broken_json_is_a_finding_and_no_crash(name: str, content: bytes, pristine: Path, tmp_path: Path) -> None:
    files = unpacked(pristine) | {name: content}
    found = await verified(packed(files, tmp_path / "bad.zip"))
    assert failed(found)
    assert len(found.checks) == 11


@pytest.mark.parametrize(
    "detail", ["[" * 900 + "]" * 900, "1" * 5000, '{"a":1e999}', '"x"', '{"a":"\\ud800"}', "null", "[[]]"]
)
async def test_a_detail_of_any_type_is_a_finding_and_no_crash(detail: str, pristine: Path, tmp_path: Path) -> None:
    files = unpacked(pristine)
    timeline = json.loads(files["timeline.json"])
    timeline["timeline"][0]["detail"] = "HERE"
    files["timeline.json"] = json.dumps(timeline).replace('"HERE"', detail).encode()
    found = failed(await verified(packed(files, tmp_path / "bad.zip")))
    assert {"manifest", "timeline"} <= set(found)


async def test_an_endless_line_is_not_kept_in_memory(
    pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_reader, "MAX_LINE_BYTES", 1024 * 1024)
    files = unpacked(pristine) | {"records.jsonl": random.Random(1).randbytes(3 * 1024 * 1024).replace(b"\n", b" ")}
    assert "has a line of more" in failed(await verified(packed(files, tmp_path / "bad.zip")))["records"][0]
