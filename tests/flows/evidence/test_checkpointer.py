"""Checkpoints: signed when the log grew, stored, appended to the file, served; never two histories."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.server import READ, READ_KEY, SECRETS, Running
from tracker.evidence.checkpoint_file import locked, read_shipped
from tracker.evidence.checkpointer import Checkpointer
from tracker.cli.main import main
from tracker.config.load import load
from tracker.demo.show import config_text
from tracker.demo.calls import whole_call
from tracker.domain.deliveries import Verified
from tracker.errors import CheckpointUnwritten, ConfigInvalid, HistoryChanged
from tracker.log.merkle.checkpoint import open_checkpoint
from tracker.log.merkle.note import Signer, Verifier
from tracker.log.merkle.tree import inclusion_root, verify_consistency
from tests.support.memory_log import MemoryLog
from tracker.evidence.signing_key import create_key, read_key, read_verifiers

ORIGIN = "tracker.test/log"
SIGNER = Signer.generate(ORIGIN)


def delivery(n: int) -> Verified:
    return Verified(
        source="lk", vendor="livekit", event="room_started", dedupe_key=f"key-{n}", received_at=n, origin="webhook",
        proof=b"{}", body=b"{}",
    )  # fmt: skip


class Recorder:
    """Records what the checkpointer reports."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.failures = 0

    def checkpointed(self, size: int) -> None:
        self.sizes.append(size)

    def checkpoint_failed(self) -> None:
        self.failures += 1


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "checkpoints.txt"


def checkpointer(
    log: MemoryLog, file: Path, observer: Recorder | None = None, signer: Signer = SIGNER, **more: Any
) -> Checkpointer:
    return Checkpointer(log, signer, file=file, observer=observer, **more)


def sizes(file: Path) -> list[int | None]:
    return [each.size for each in read_shipped(file)]


async def test_it_signs_the_log_only_when_it_grew(file: Path) -> None:
    log, seen = MemoryLog(), Recorder()
    signing = checkpointer(log, file, seen)
    assert await signing.sign() is None
    await log.append(delivery(1))
    first = await signing.sign()
    assert first is not None
    assert open_checkpoint(first.note, [SIGNER.verifier]) == (ORIGIN, *(await log.tree_head()))
    assert await signing.sign() == first
    await log.append(delivery(2))
    second = await signing.sign()
    assert second is not None
    assert await log.checkpoints() == [first, second]
    assert file.read_text() == f"{first.note}\n{second.note}\n"
    assert (seen.sizes, seen.failures) == ([0, 1, 1, 2], 0)


@pytest.mark.parametrize("torn", [-1, -2, -30, -120, -100_000])
async def test_the_next_run_repairs_a_crash_between_storing_and_appending(file: Path, torn: int) -> None:
    log = MemoryLog()
    for n in range(1, 4):
        await log.append(delivery(n))
        await checkpointer(log, file).sign()
    whole = file.read_bytes()
    file.write_bytes(whole[: max(0, len(whole) + torn)])
    inode = file.stat().st_ino
    await checkpointer(log, file).sign()
    assert file.read_bytes() == whole
    assert file.stat().st_ino == inode


@pytest.mark.parametrize("cut", range(1, 260, 7))
async def test_after_a_crash_anywhere_in_a_note_the_file_grows_as_without_it(file: Path, cut: int) -> None:
    log = MemoryLog()
    for n in range(1, 3):
        await log.append(delivery(n))
        await checkpointer(log, file).sign()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) - cut])
    await log.append(delivery(3))
    await checkpointer(log, file).sign()
    assert file.read_bytes().startswith(whole)
    assert sizes(file) == [1, 2, 3]


async def test_foreign_text_in_the_file_stays_and_the_rest_is_readable(file: Path) -> None:
    log = MemoryLog()
    await log.append(delivery(1))
    await checkpointer(log, file).sign()
    with file.open("a") as foreign:
        foreign.write("a remark")
    await log.append(delivery(2))
    await checkpointer(log, file).sign()
    assert sizes(file) == [1, None, 2]


async def test_a_removed_file_is_written_again(file: Path) -> None:
    log = MemoryLog()
    for n in range(1, 4):
        await log.append(delivery(n))
        await checkpointer(log, file).sign()
    whole = file.read_bytes()
    file.unlink()
    await checkpointer(log, file).sign()
    assert file.read_bytes() == whole


async def test_a_log_that_shrank_or_changed_is_not_signed(file: Path) -> None:
    log, seen = MemoryLog(), Recorder()
    for n in range(1, 4):
        await log.append(delivery(n))
    await checkpointer(log, file).sign()
    whole = file.read_bytes()
    shorter, other = MemoryLog(), MemoryLog()
    await shorter.append(delivery(1))
    await other.append_all([delivery(n) for n in range(4, 9)])
    with pytest.raises(HistoryChanged, match="signs 3 records, the log has 1"):
        await checkpointer(shorter, file, seen).sign()
    with pytest.raises(HistoryChanged, match="does not continue"):
        await checkpointer(other, file, seen).sign()
    assert file.read_bytes() == whole
    assert await other.last_checkpoint() is None
    assert seen.failures == 2


async def test_a_new_key_continues_only_if_the_former_one_is_known(file: Path) -> None:
    log, new = MemoryLog(), Signer.generate(ORIGIN)
    await log.append(delivery(1))
    await checkpointer(log, file).sign()
    await log.append(delivery(2))
    with pytest.raises(HistoryChanged, match="is not trusted"):
        await checkpointer(log, file, signer=new).sign()
    made = await checkpointer(log, file, signer=new, former=[SIGNER.verifier]).sign()
    assert made is not None
    assert open_checkpoint(made.note, [new.verifier]).size == 2


async def test_without_a_writable_file_nothing_is_signed(tmp_path: Path) -> None:
    log, seen = MemoryLog(), Recorder()
    await log.append(delivery(1))
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointUnwritten):
        await checkpointer(log, tmp_path / "folder", seen).sign()
    assert await log.last_checkpoint() is None
    assert seen.failures == 1


async def test_concurrent_checkpointers_take_turns(file: Path) -> None:
    log = MemoryLog()
    checkpointers = [checkpointer(log, file) for _ in range(4)]
    for n in range(1, 9):
        await log.append(delivery(n))
        await asyncio.gather(*(each.sign() for each in checkpointers))
    assert sizes(file) == list(range(1, 9))
    async with locked(file):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await checkpointers[0].sign()


async def test_the_schedule_signs_the_first_record_soon_and_survives_failures(file: Path) -> None:
    log, seen = MemoryLog(), Recorder()
    running = asyncio.ensure_future(checkpointer(log, file, seen).run(0.05))
    await asyncio.sleep(0.02)
    await log.append(delivery(1))
    await asyncio.sleep(0.05)
    assert sizes(file) == [1]
    file.chmod(0)
    file.rename(file.with_name("away"))
    file.mkdir()
    await asyncio.sleep(0.15)
    assert seen.failures > 0
    file.rmdir()
    await log.append(delivery(2))
    await asyncio.sleep(0.15)
    assert sizes(file) == [1, 2]
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


def test_the_key_is_created_once_and_readable_only_by_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "data" / "key"
    before = os.umask(0)
    try:
        verifier = create_key(path, ORIGIN)
    finally:
        os.umask(before)
    assert verifier is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert create_key(path, ORIGIN) is None
    assert path.read_text() == text
    assert [each.name for each in path.parent.iterdir()] == ["key"]
    signer = read_key(path, ORIGIN)
    assert signer is not None
    assert signer.verifier == verifier
    assert read_key(tmp_path / "nothing", ORIGIN) is None
    with pytest.raises(ConfigInvalid, match="write origin = 'tracker.test/log'"):
        read_key(path, "another/log")
    path.write_text(text[:-9])
    with pytest.raises(ConfigInvalid, match=r"evidence.key_file") as raised:
        read_key(path, ORIGIN)
    assert text[30:60] not in str(raised.value)


def test_former_keys_are_read_or_reported() -> None:
    assert read_verifiers((str(SIGNER.verifier),)) == [SIGNER.verifier]
    with pytest.raises(ConfigInvalid, match=r"evidence.former_keys\[1\]"):
        read_verifiers((str(SIGNER.verifier), "nonsense"))


async def test_a_server_serves_checkpoints_key_and_proofs_that_verify(tmp_path: Path) -> None:
    running = await Running(tmp_path).start(init=True)
    try:
        async with aiohttp.ClientSession() as web:
            calls = whole_call("livekit", 1_700_000_000_000_000)
            for sent in calls[:2]:
                await running.post(web, "livekit", sent)
            first = await asyncio.wait_for(newest(running, web), 10)
            for sent in calls[2:]:
                assert (await running.post(web, "livekit", sent))[0] == 200
            code, printed, _ = await running.run("checkpoint")
            assert code == 0
            note = await text(running, web, "/v1/log/checkpoint")
            assert printed == note
            key = Verifier.read(await text(running, web, "/v1/log/key"))
            older, newer = open_checkpoint(first, [key]), open_checkpoint(note, [key])
            assert newer.size == len(calls)
            assert await text(running, web, "/v1/log/checkpoint", size=str(older.size)) == first
            proof = await running.get(web, "/v1/log/proof/inclusion", position="2")
            hashes = [base64.b64decode(each) for each in proof["hashes"]]
            leaf = base64.b64decode(proof["leaf_hash"])
            assert (proof["position"], proof["leaf_index"], proof["size"]) == (2, 1, newer.size)
            assert base64.b64decode(proof["root"]) == newer.root
            assert inclusion_root(1, newer.size, leaf, hashes) == newer.root
            between = await running.get(web, "/v1/log/proof/consistency", first=str(older.size))
            hashes = [base64.b64decode(each) for each in between["hashes"]]
            assert verify_consistency(older.size, older.root, newer.size, newer.root, hashes)
            for path, status, words in (
                ("/v1/log/checkpoint?size=99999", 404, "no checkpoint"),
                ("/v1/log/proof/inclusion", 400, "position"),
                ("/v1/log/proof/inclusion?position=0", 400, "position"),
                ("/v1/log/proof/inclusion?position=99999", 404, "99999"),
                ("/v1/log/proof/inclusion?position=2&size=1", 400, "size"),
                ("/v1/log/proof/inclusion?position=2&size=99999", 404, "99999"),
                ("/v1/log/proof/consistency?second=2", 400, "first"),
                ("/v1/log/proof/consistency?first=2&second=1", 400, "first"),
            ):
                async with web.get(running.url + path, headers=READ) as answer:
                    document = await answer.json(content_type=None)
                    assert (answer.status, words in document["detail"]) == (status, True), document
            async with web.get(running.url + "/v1/log/key") as answer:
                assert answer.status == 401
            _, narrow, _ = await running.run("token", "--scope", "read:sessions", "--source", "ov")
            bearer = {"Authorization": f"Bearer {narrow.strip()}"}
            async with web.get(running.url + "/v1/log/proof/inclusion?position=2", headers=bearer) as answer:
                assert answer.status == 404
            code, printed, _ = await running.run("proof", "inclusion", "2", "--json")
            assert (code, json.loads(printed)) == (0, proof)
            code, printed, _ = await running.run("proof", "consistency", str(older.size), "--json")
            assert (code, json.loads(printed)) == (0, between)
            code, printed, err = await running.run("verify", "--proofs", "--json")
            assert code == 0, printed + err
            result = json.loads(printed)
            assert (result["checkpoints"], result["shipped"], result["proofs"]) == (2, 2, {"checked": len(calls)})
            async with web.get(running.url + "/metrics") as answer:
                assert f"tracker_checkpoint_size {float(older.size)}" in await answer.text()
    finally:
        await running.stop()


async def test_without_a_key_everything_else_works_and_the_answer_says_what_to_do(tmp_path: Path) -> None:
    running = Running(tmp_path)
    assert (await running.run("init"))[0] == 0
    load(running.config, os.environ).evidence.key_file.unlink()
    await running.start()
    try:
        async with aiohttp.ClientSession() as web:
            assert (await running.post(web, "livekit", whole_call("livekit", 1_700_000_000_000_000)[0]))[0] == 200
            for path in ("/v1/log/checkpoint", "/v1/log/key"):
                async with web.get(running.url + path, headers=READ) as answer:
                    assert (answer.status, answer.content_type) == (404, "application/problem+json")
                    assert "tracker init" in (await answer.json(content_type=None))["detail"]
            proof = await running.get(web, "/v1/log/proof/inclusion", position="1", size="1")
            assert (proof["hashes"], proof["root"]) == ([], proof["leaf_hash"])
    finally:
        await running.stop()
    assert running.printed.read_text().count("no checkpoints") == 1
    for command, code in (("checkpoint", 2), ("init", 0), ("checkpoint", 0), ("init", 1), ("verify", 0)):
        assert await asyncio.to_thread(main, [command, "--config", str(running.config)]) == code


@pytest.mark.parametrize(
    ("line", "words"), [("former_keys = ['x']", "former_keys[0]"), ("origin = 'b/log'", "evidence.origin")]
)
async def test_a_wrong_key_is_reported_before_anything_starts(tmp_path: Path, line: str, words: str) -> None:
    running = Running(tmp_path)
    assert (await running.run("init"))[0] == 0
    running.config.write_text(f"{running.config.read_text()}\n[evidence]\n{line}\n")
    code, _, err = await running.run("serve")
    assert (code, words in err) == (2, True), err


async def test_with_the_schedule_off_checkpoints_are_made_on_demand_only(tmp_path: Path) -> None:
    text_of = config_text(tmp_path, SECRETS, READ_KEY, 0) + '\n[evidence]\nevery = "off"\n'
    running = await Running(tmp_path, config=text_of).start(init=True)
    try:
        async with aiohttp.ClientSession() as web:
            await running.post(web, "livekit", whole_call("livekit", 1_700_000_000_000_000)[0])
            async with web.get(running.url + "/v1/log/checkpoint", headers=READ) as answer:
                assert answer.status == 404
                assert "tracker checkpoint" in (await answer.json(content_type=None))["detail"]
            assert (await running.run("checkpoint"))[0] == 0
            assert ORIGIN != (await text(running, web, "/v1/log/checkpoint")).split("\n")[0]
    finally:
        await running.stop()


async def text(running: Running, web: aiohttp.ClientSession, path: str, **query: str) -> str:
    async with web.get(running.url + path, params=query, headers=READ) as answer:
        found = await answer.text()
        assert (answer.status, answer.content_type) == (200, "text/plain"), found
        return found


async def newest(running: Running, web: aiohttp.ClientSession) -> str:
    """The first checkpoint, as soon as the schedule made it."""
    while True:
        async with web.get(running.url + "/v1/log/checkpoint", headers=READ) as answer:
            if answer.status == 200:
                return await answer.text()
        await asyncio.sleep(0.05)
