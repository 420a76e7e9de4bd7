"""Bundles of sessions of every vendor, and their verification without the log they came from."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from pathlib import Path

import msgspec
import pytest

from tests.support import bundles as support
from tests.support.bundles import START, configured, failed, filled, outcomes, session_of, unpacked, verified
from tests.support.samples import samples
from tracker.api import bundles
from tracker.cli.erase import erase, select_person, select_session
from tracker.cli.import_files import import_files
from tracker.cli.init import init
from tracker.cli.rebuild import rebuild
from tracker.cli.sessions import READER, api_context
from tracker.server import signing_keys
from tracker.server.evidence import bundle_settings
from tracker.server import stores
from tracker.evidence.bundle import build, manifest as contents
from tracker.config.load import Config
from tracker.demo.show import SOURCES
from tracker.demo.calls import VENDORS, whole_call
from tracker.privacy.erasure import Selection
from tracker.errors import HistoryChanged, ParameterInvalid
from tracker.log.merkle.checkpoint import open_checkpoint
from tracker.log.merkle.cosignature import CosignerKey
from tracker.log.merkle.note import Signer, Verifier
from tracker.cli.main import main
from tracker.server.sources import build_sources

SIGNED_BY_THE_SENDER = {"openvidu_meet", "livekit", "plugnmeet", "jaas", "bigbluebutton", "declared"}


@pytest.fixture(scope="module", params=["sealed", "in clear"])
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = configured(tmp_path_factory.mktemp("log") / "log", sealed=request.param == "sealed")
    asyncio.run(filled(config))
    return config


@pytest.mark.parametrize("vendor", VENDORS)
async def test_the_bundle_of_a_call_verifies(config: Config, vendor: str, tmp_path: Path) -> None:
    session = await session_of(config, vendor)
    path = await support.bundle(config, session, tmp_path / "it.zip")

    untrusting = await verified(path)
    assert not failed(untrusting)
    assert untrusting.session == session
    assert {name for name, outcome in outcomes(untrusting).items() if outcome != "ok"} == {
        "signature",
        "signer",
        "vendors",
    }
    assert untrusting.unchecked == ["signature"]

    trusting = await verified(path, config)
    assert not failed(trusting)
    assert outcomes(trusting)["signer"] == outcomes(trusting)["signature"] == "ok"
    assert trusting.unchecked == []
    assert outcomes(trusting)["vendors"] == ("ok" if vendor in SIGNED_BY_THE_SENDER else "not checked")


async def test_every_file_has_the_content_of_its_name(config: Config, tmp_path: Path) -> None:
    session = await session_of(config, "livekit")
    files = unpacked(await support.bundle(config, session, tmp_path / "it.zip"))
    assert set(files) == set(contents.MAX_BYTES)
    key = Verifier.read(files["key.txt"].decode())
    signed = open_checkpoint(files["checkpoint.txt"].decode(), [key])
    manifest = json.loads(files["manifest.json"])
    assert manifest["tree"]["size"] == signed.size
    lines = [json.loads(line) for line in files["records.jsonl"].splitlines()]
    assert [line["body_text"].encode() for line in lines] == [sent.body for sent in whole_call("livekit", START)]
    timeline = json.loads(files["timeline.json"])
    assert timeline["session"]["id"] == session
    assert len(timeline["timeline"]) == manifest["entries"]
    assert list(timeline) == ["session", *contents.PARTS]


async def test_the_records_of_a_bundle_can_be_imported_again(config: Config, tmp_path: Path) -> None:
    files = unpacked(await support.bundle(config, await session_of(config, "plugnmeet"), tmp_path / "it.zip"))
    (tmp_path / "records.jsonl").write_bytes(files["records.jsonl"])
    (report,) = await import_files(config, "pnm", [tmp_path / "records.jsonl"])
    assert (report.new, report.unreadable) == (0, [])


async def test_the_page_has_no_script_and_escapes_names(tmp_path: Path) -> None:
    config = configured(tmp_path / "log", sealed=False)
    await filled(config, ["livekit"])
    name = "<script>alert(1)</script>\u202e"
    body = json.dumps({
        "event": "participant_joined", "room": {"sid": "RM_x", "name": "<img src=x>"}, "id": "EV_x", "createdAt": "1700000000",
        "participant": {"sid": "PA_x", "identity": name, "joinedAt": "1700000000"},
    }).encode()  # fmt: skip
    async with stores.reading_log(config) as log:
        source = build_sources(config)["lk"]
        await log.append(source.verify_trusted(body, received_at=START, proof={"scheme": "import"}))
    await rebuild(config)
    path = await support.bundle(config, "lk:RM_x", tmp_path / "it.zip")
    readme = unpacked(path)["README.html"].decode()
    assert "<script" not in readme
    assert "<img" not in readme
    assert "\u202e" not in readme
    assert "&lt;script&gt;alert(1)" in readme
    assert not failed(await verified(path))


async def test_every_session_of_the_samples_has_a_bundle_that_verifies(tmp_path: Path) -> None:
    """All samples mixed, with runs that end each other: facts from other records are named, the rest follows from the bundle."""
    config = configured(tmp_path / "log", sealed=False)
    await init(config)
    sources = build_sources(config)
    everything = list(samples())
    random.Random(7).shuffle(everything)
    async with stores.reading_log(config) as log:
        await log.append_all(
            [
                sources[SOURCES[sample.vendor]].verify_trusted(
                    sample.body, received_at=sample.now + n, proof={"scheme": "import"}
                )
                for n, sample in enumerate(everything)
            ]
        )
    await rebuild(config)
    outside = 0
    for n, session in enumerate(await support.sessions(config)):
        found = await verified(await support.bundle(config, session, tmp_path / f"{n}.zip"))
        assert not failed(found), session
        (timeline,) = (check for check in found.checks if check.name == "timeline")
        outside += "outside" in timeline.about
    assert outside > 2


async def test_a_running_session_has_a_bundle_too(tmp_path: Path) -> None:
    config = configured(tmp_path / "log")
    await init(config)
    await support.append(config, [("livekit", sent) for sent in whole_call("livekit", START)[:5]])
    path = await support.bundle(config, await session_of(config, "livekit"), tmp_path / "it.zip")
    assert json.loads(unpacked(path)["timeline.json"])["session"]["stuck"] is True
    assert not failed(await verified(path, config))


async def test_hidden_fields_are_missing_in_the_timeline_and_the_bundle_verifies(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    configured(folder)
    text = (folder / "config.toml").read_text("utf-8")
    (folder / "config.toml").write_text(
        text.replace("[[sources]]", '[[sources]]\nredact = ["name", "reason"]'), "utf-8"
    )
    from tracker.config.load import load  # noqa: PLC0415

    config = load(folder / "config.toml", {})
    await filled(config)
    path = await support.bundle(config, await session_of(config, "livekit"), tmp_path / "it.zip")
    files = unpacked(path)
    assert json.loads(files["manifest.json"])["reading"]["hidden"] == ["name", "reason"]
    assert {person["name"] for person in json.loads(files["timeline.json"])["participants"]} == {None}
    assert not failed(await verified(path))


# Signing


async def test_a_checkpoint_is_made_only_if_the_newest_does_not_cover_the_records(tmp_path: Path) -> None:
    config = configured(tmp_path / "log")
    await filled(config, ["livekit"])
    session = await session_of(config, "livekit")
    first = unpacked(await support.bundle(config, session, tmp_path / "1.zip"))
    async with stores.reading_log(config) as log:
        assert len(await log.checkpoints()) == 1
    await support.append(config, [("plugnmeet", sent) for sent in whole_call("plugnmeet", START)])
    second = unpacked(await support.bundle(config, session, tmp_path / "2.zip"))
    assert first["checkpoint.txt"] == second["checkpoint.txt"]
    await support.bundle(config, await session_of(config, "plugnmeet"), tmp_path / "3.zip")
    async with stores.reading_log(config) as log:
        assert len(await log.checkpoints()) == 2


async def test_without_a_signing_key_the_bundle_says_that_it_is_not_signed(tmp_path: Path) -> None:
    config = configured(tmp_path / "log", sealed=False)
    await filled(config, ["livekit"])
    config.evidence.key_file.unlink()
    path = await support.bundle(config, await session_of(config, "livekit"), tmp_path / "it.zip")
    files = unpacked(path)
    assert "checkpoint.txt" not in files
    assert "no signing key" in json.loads(files["manifest.json"])["tree"]["why_unsigned"]
    assert "This bundle is not signed" in files["README.html"].decode()
    assert json.loads(files["manifest.json"])["why_unsigned"] == build.NO_OWN_KEY
    assert "manifest.sig" not in files
    found = await verified(path)
    assert not failed(found)
    assert outcomes(found)["checkpoint"] == outcomes(found)["signer"] == outcomes(found)["signature"] == "not checked"
    assert found.unchecked == ["signature"]
    # With a key given, a missing signature is a failure.
    assert "checkpoint" in failed(await verified(path, None, keys=[str(Signer.generate("someone").verifier)]))


async def test_a_log_that_was_rolled_back_gives_no_bundle(tmp_path: Path) -> None:
    config = configured(tmp_path / "log", sealed=False)
    await filled(config, ["livekit"])
    session = await session_of(config, "livekit")
    old = config.log.path.read_bytes()
    await support.append(config, [("plugnmeet", sent) for sent in whole_call("plugnmeet", START)])
    await support.bundle(config, await session_of(config, "plugnmeet"), tmp_path / "1.zip")
    for ending in ("-wal", "-shm"):
        config.log.path.with_name(config.log.path.name + ending).unlink(missing_ok=True)
    config.log.path.write_bytes(old)
    await rebuild(config)
    with pytest.raises(HistoryChanged):
        await support.bundle(config, session, tmp_path / "2.zip")
    assert not (tmp_path / "2.zip").exists()


async def test_a_bundle_is_compared_with_the_shipped_checkpoints(tmp_path: Path) -> None:
    config = configured(tmp_path / "log")
    await filled(config, ["livekit"])
    path = await support.bundle(config, await session_of(config, "livekit"), tmp_path / "it.zip")
    assert outcomes(await verified(path, None, files=[config.evidence.file]))["shipped"] == "ok"

    # The same operator and key, but a different log of the same size.
    other = configured(tmp_path / "other")
    shutil.copy(config.evidence.key_file, other.evidence.key_file)
    await init(other)
    await support.append(other, [("livekit", sent) for sent in whole_call("livekit", START, seed=5)])
    forged = await support.bundle(other, await session_of(other, "livekit"), tmp_path / "forged.zip")
    assert not failed(await verified(forged, config))
    (problem,) = failed(await verified(forged, config, files=[config.evidence.file]))["shipped"]
    assert "a different tree" in problem


# Erasures


async def test_after_an_erasure_old_bundles_verify_and_new_ones_have_pseudonyms(tmp_path: Path) -> None:
    config = configured(tmp_path / "log")
    await filled(config, ["livekit", "plugnmeet"])
    erased, other = await session_of(config, "livekit"), await session_of(config, "plugnmeet")
    before = await support.bundle(config, other, tmp_path / "before.zip")
    itself = await support.bundle(config, erased, tmp_path / "itself.zip")

    await erase(config, [await select_session(config, erased)])

    assert not failed(await verified(before, config))
    assert not failed(await verified(itself, config))
    after = await support.bundle(config, erased, tmp_path / "after.zip")
    found = await verified(after, config)
    assert not failed(found)
    files = unpacked(after)
    assert json.loads(files["manifest.json"])["erasures"] == 1
    assert b"alice" not in b"".join(files.values()).lower()
    assert "erased-" in files["README.html"].decode()
    was, now = (json.loads(unpacked(each)["timeline.json"])["timeline"] for each in (itself, after))
    assert [(entry["at"], entry["kind"]) for entry in was] == [(entry["at"], entry["kind"]) for entry in now]
    assert not failed(await verified(await support.bundle(config, other, tmp_path / "2.zip"), config))


async def test_after_erasing_one_person_a_bundle_has_erased_and_other_records(tmp_path: Path) -> None:
    config = configured(tmp_path / "log")
    await filled(config, ["livekit", "plugnmeet"])
    await erase(config, [await select_person(config, "user-alice")])
    path = await support.bundle(config, await session_of(config, "livekit"), tmp_path / "it.zip")
    found = await verified(path, config)
    assert not failed(found)
    assert outcomes(found)["vendors"] == "ok"
    lines = [json.loads(line) for line in unpacked(path)["records.jsonl"].splitlines()]
    assert {bool(line["erased_by"]) for line in lines} == {True, False}
    assert b"user-alice" not in b"".join(unpacked(path).values())


async def test_a_missing_erasure_record_is_noticed(tmp_path: Path) -> None:
    config = configured(tmp_path / "log")
    await filled(config, ["livekit"])
    session = await session_of(config, "livekit")
    await erase(config, [await select_session(config, session)])
    path = await support.bundle(config, session, tmp_path / "it.zip")
    files = unpacked(path)
    files["records.jsonl"] = b"".join(files["records.jsonl"].splitlines(keepends=True)[:-1])
    found = failed(await verified(support.packed(support.with_corrected_digests(files), tmp_path / "bad.zip")))
    assert "is not in this bundle" in found["records"][-1]
    assert found["timeline"]


async def test_erasures_that_name_other_sources_are_withheld_from_readers_who_may_not_see_those(tmp_path: Path) -> None:
    config = configured(tmp_path / "log")
    await filled(config, ["livekit", "plugnmeet"])
    await erase(config, [Selection(why="before", before=START * 2)])
    from tracker.api.auth import SCOPES, Reader  # noqa: PLC0415

    session = await session_of(config, "livekit")
    async with api_context(config) as api:
        api = msgspec.structs.replace(api, bundle_settings=bundle_settings(config, api.log))
        with (tmp_path / "it.zip").open("w+b") as file:
            await bundles.make_bundle(api, Reader("narrow", frozenset(SCOPES), ("lk",)), session, file)
    found = await verified(tmp_path / "it.zip", config)
    assert not failed(found)
    assert outcomes(found)["timeline"] == "not checked"
    assert json.loads(unpacked(tmp_path / "it.zip")["manifest.json"])["withheld"]
    assert b"plugnmeet" not in b"".join(unpacked(tmp_path / "it.zip").values())


@pytest.mark.parametrize("is_key_known", [True, False])
async def test_records_that_another_node_has_not_signed_yet_give_an_unsigned_bundle_that_says_so(
    tmp_path: Path, is_key_known: bool
) -> None:
    config = configured(tmp_path / "log")
    await filled(config, ["livekit"])

    async def keys() -> list[Verifier]:
        return signing_keys.verifiers(config) if is_key_known else []

    session = await session_of(config, "livekit")
    async with api_context(config) as api:
        bundling = bundle_settings(config, api.log)._replace(sign=None, keys=keys)
        api = msgspec.structs.replace(api, bundle_settings=bundling)
        with (tmp_path / "it.zip").open("w+b") as file:
            await bundles.make_bundle(api, READER, session, file)
    assert outcomes(await verified(tmp_path / "it.zip"))["checkpoint"] == "not checked"
    why_unsigned = json.loads(unpacked(tmp_path / "it.zip")["manifest.json"])["tree"]["why_unsigned"]
    assert ("has not signed all of these records yet" in why_unsigned) is is_key_known


async def test_a_node_whose_records_are_in_no_checkpoint_yet_signs_the_bundle_with_its_own_key(tmp_path: Path) -> None:
    """A cosigning node: the bundle is whole, its tree is not signed yet. That is nothing wrong, and not all that there is."""
    config = configured(tmp_path / "log")
    await filled(config, ["livekit"])
    node, log_key = Signer.generate(f"{support.ORIGIN}/b"), signing_keys.verifiers(config)[0]
    session = await session_of(config, "livekit")
    async with api_context(config) as context:
        settings = bundle_settings(config, context.log)._replace(sign=None, signer=node)
        context = msgspec.structs.replace(context, bundle_settings=settings)
        with (tmp_path / "it.zip").open("w+b") as file:
            await bundles.make_bundle(context, READER, session, file)
    keys = [str(log_key), str(CosignerKey.from_signer(node))]
    found = await verified(tmp_path / "it.zip", keys=keys)
    assert not failed(found)
    assert (outcomes(found)["signature"], found.unchecked) == ("ok", ["signature"])
    assert "Its tree is not signed" in unpacked(tmp_path / "it.zip")["README.html"].decode()
    # Without the node's key, anyone could have written that the tree is not signed.
    assert "checkpoint" in failed(await verified(tmp_path / "it.zip", keys=keys[:1]))


# The command line


@pytest.mark.parametrize("key", [None, b"garbage", b"\xff"])
def test_without_a_readable_key_an_export_is_unsigned_and_says_so(
    key: bytes | None, cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(tmp_path / "log")
    asyncio.run(filled(config, ["livekit"]))
    session = asyncio.run(session_of(config, "livekit"))
    config.evidence.key_file.unlink()
    if key is None:
        config.evidence.key_file.mkdir()
    else:
        config.evidence.key_file.write_bytes(key)
    code, _, err = cli("export", "--config", str(config.path), "--evidence", session, "--out", "it.zip")
    assert code == 0, err
    assert "not checked: signature: the bundle is not signed: The node that made it has no readable key" in err
    files = unpacked(tmp_path / "it.zip")
    assert "manifest.sig" not in files
    assert "<b>This bundle is not signed.</b>" in files["README.html"].decode()
    assert cli("verify", "it.zip")[0] == 3


@pytest.fixture
def cli(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_the_command_line_makes_and_verifies_a_bundle(config: Config, cli, tmp_path: Path) -> None:
    at = str(config.path)
    session = asyncio.run(session_of(config, "livekit"))
    code, out, err = cli("export", "--config", at, "--evidence", session)
    assert code == 0, err
    (path,) = tmp_path.glob("evidence-lk_*.zip")
    assert path.name in out
    # From the file alone: there is no config.toml here.
    code, out, err = cli("verify", path.name)
    assert code == 3, err
    assert "everything that was checked is correct; not checked: signature, signer, vendors" in out
    assert "--allow-unchecked signature" in out
    key = signing_keys.verifiers(config)[0]
    code, out, _ = cli("verify", path.name, "--key", str(key), "--json")
    assert code == 0
    assert json.loads(out)["session"] == session
    assert {check["name"]: check["outcome"] for check in json.loads(out)["checks"]}["signer"] == "ok"
    code, out, _ = cli("verify", path.name, "--key", str(Signer.generate("tracker.test/log").verifier))
    assert code == 1
    assert "do not rely on this bundle" in out
    assert cli("verify", path.name, "--config", at)[0] == 0


def test_the_command_line_refuses_what_cannot_be_done(config: Config, cli, tmp_path: Path) -> None:
    at = str(config.path)
    assert cli("export", "--config", at, "--evidence", "nothing")[0] == 2
    assert cli("export", "--config", at, "--evidence", "x", "--source", "lk")[0] == 2
    (tmp_path / "there.zip").write_bytes(b"precious")
    session = asyncio.run(session_of(config, "livekit"))
    assert cli("export", "--config", at, "--evidence", session, "--out", "there.zip")[0] == 2
    assert (tmp_path / "there.zip").read_bytes() == b"precious"
    assert cli("verify", "no-such.zip")[0] == 2
    assert cli("verify", "there.zip", "--views")[0] == 2
    assert cli("verify", "there.zip", "--key", "nonsense+")[0] == 2
    code, out, _ = cli("verify", "there.zip")
    assert code == 1
    assert "cannot be unpacked" in out


async def test_a_bundle_is_never_written_over_a_file(config: Config, tmp_path: Path) -> None:
    (tmp_path / "there.zip").touch()
    with pytest.raises(ParameterInvalid):
        await support.bundle(config, await session_of(config, "livekit"), tmp_path / "there.zip")


async def test_an_end_known_from_other_records_is_compared_and_named(tmp_path: Path) -> None:
    """A restart of the server ended the session, and the bundle has no record of that."""
    config = configured(tmp_path / "log", sealed=False)
    await init(config)
    first, second = tmp_path / "CDR.2023-11-14_22-13-00.log", tmp_path / "CDR.2023-11-15_22-14-00.log"
    first.write_bytes(b"\n".join(sent.body for sent in whole_call("openvidu", START)[:6]) + b"\n")
    second.write_bytes(b"\n".join(sent.body for sent in whole_call("openvidu", START + 86_400_000_000, seed=9)) + b"\n")
    await import_files(config, "ov", [first, second])
    await rebuild(config)
    (session,) = [name for name in await support.sessions(config) if str(START // 1000) in name]
    path = await support.bundle(config, session, tmp_path / "it.zip")
    end = json.loads(unpacked(path)["manifest.json"])["reading"]["inferred_end"]
    assert end["reason"] == "server_shutdown"
    found = await verified(path)
    assert not failed(found)
    (timeline,) = (check for check in found.checks if check.name == "timeline")
    assert "not proved by it: the end of the session" in timeline.about
    readme = unpacked(path)["README.html"].decode()
    assert "that includes the end of the session (server_shutdown)" in readme

    def later(content: bytes) -> bytes:
        return content.replace(end["at"].encode(), b"2030-01-01T00:00:00.000000Z")

    assert "timeline" in failed(
        await verified(support.changed(path, tmp_path / "bad.zip", {"manifest.json": later}, corrected=True))
    )
