"""Erasure of a person: no file contains their bytes, timelines keep their shape, older proofs still verify."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from tests.support.server import READ, READ_KEY, SECRETS, Running, now
from tracker.cli import erase
from tracker.server import child_command, stores
from tracker.evidence.bundle.record_lines import leaf_faults, decode_line
from tracker.cli.main import main
from tracker.config.load import load
from tracker.demo.show import config_text
from tracker.demo.calls import SOURCES, whole_call
from tracker.privacy.erasure import Eraser, Selection
from tracker.log.erasure_records import ErasedRecord, ErasureBody, make_erasure_record
from tracker.log.merkle.tree import Frontier
from tracker.log.file_lock import lock
from tracker.server.metrics import Metrics
from tracker.privacy.retention import erase_once
from tracker.views.sqlite.views import SqliteViews
from tracker.views.sqlite.file import copy_file, swap_in

START = 1_700_000_000_000_000
MASTER = "ab" * 32
SEALING = f'[sealing]\nkeys = [{{ id = "main", secret = "{MASTER}" }}]\n'
Run = Callable[..., tuple[int, str, str]]


def sealed_config(folder: Path) -> str:
    text = config_text(folder, SECRETS, READ_KEY, 0)
    evidence = f'[evidence]\nkey_file = "{folder}/sign.key"\nfile = "{folder}/checkpoints.txt"\n'
    return text.replace("[access]", f'{SEALING}path = "{folder}/keys.db"\n{evidence}[access]')


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    config = tmp_path / "config.toml"
    config.write_text(sealed_config(tmp_path), "utf-8")

    def command(name: str, *arguments: str) -> tuple[int, str, str]:
        code = main([name, "--config", str(config), *arguments])
        out, stderr = capsys.readouterr()
        return code, out, stderr

    return command


@pytest.fixture
def filled(run: Run, tmp_path: Path) -> Run:
    """An encrypted log with whole calls of all vendors, and its views. The imported files are deleted."""
    assert run("init")[0] == 0
    for vendor, source in SOURCES.items():
        path = tmp_path / f"{vendor}.jsonl"
        path.write_bytes(b"\n".join(sent.body for sent in whole_call(vendor, START)) + b"\n")
        code, _, stderr = run("import", source, str(path))
        assert code == 0, stderr
        path.unlink()
    assert run("rebuild")[0] == 0
    return run


def on_disk(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def shape(run: Run, session: str) -> list[tuple[str, str, str]]:
    entries = json.loads(run("timeline", session, "--json")[1])["items"]
    return [(entry["at"], entry["kind"], entry["provenance"]) for entry in entries]


def sessions_of(run: Run, source: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(run("sessions", "--source", source, "--json")[1])["items"]
    return found


def test_a_dry_run_lists_and_changes_nothing(filled: Run, tmp_path: Path) -> None:
    before = (tmp_path / "keys.db").read_bytes()
    code, out, _ = filled("erase", "--identity", "user-alice")
    assert code == 0
    assert "would be erased" in out
    assert "positions " in out
    assert "nothing was changed" in out
    assert (tmp_path / "keys.db").read_bytes() == before
    (plan,) = json.loads(filled("erase", "--identity", "user-alice", "--json")[1])["items"]
    assert plan["people"] == 1
    assert len(plan["positions"]) > 5


def test_an_erasure_waits_for_a_running_rebuild(filled: Run, tmp_path: Path) -> None:
    """The earlier rebuild swaps in views that show the erased person, so the erasure rebuilds after it."""
    views, other_views = tmp_path / "views.db", tmp_path / "theirs.db"
    copy_file(views, other_views)
    other_lock = lock(tmp_path / "views.db-rebuild")
    command = [sys.executable, "-m", "tracker", "erase", "--config", str(tmp_path / "config.toml"), "--yes"]
    with subprocess.Popen([*command, "--identity", "user-alice"], stderr=subprocess.PIPE, text=True) as erasing:
        assert erasing.stderr is not None
        assert any("waiting for another rebuild to end" in line for line in erasing.stderr)
        assert erasing.poll() is None
        swap_in(other_views, views)
        other_lock.close()
        _, stderr = erasing.communicate(timeout=60)
    assert erasing.returncode == 0, stderr
    assert b"user-alice" not in on_disk(tmp_path)
    assert filled("rebuild", "--check")[0] == 0


def test_an_erasure_is_refused_while_the_views_lack_much_of_the_log(
    filled: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erase, "MAX_LAG", 20)
    keys = (tmp_path / "keys.db").read_bytes()
    for path in tmp_path.glob("views.db*"):
        path.unlink()
    asyncio.run(SqliteViews.create(tmp_path / "views.db"))
    for selection in (("--identity", "user-alice"), ("--session", "lk:RM_1")):
        code, _, stderr = filled("erase", *selection, "--yes")
        assert (code, "the views are at position 0 of " in stderr) == (1, True), stderr
    assert (tmp_path / "keys.db").read_bytes() == keys
    assert filled("rebuild", "--wait")[0] == 0
    assert filled("erase", "--identity", "user-alice", "--yes")[0] == 0


def test_no_file_contains_an_erased_person_and_the_timeline_keeps_its_shape(filled: Run, tmp_path: Path) -> None:
    (session,) = sessions_of(filled, "lk")
    name = str(session["id"])
    shape_before = shape(filled, name)
    assert b"user-alice" in on_disk(tmp_path)
    assert filled("checkpoint")[0] == 0

    assert filled("erase", "--identity", "user-alice", "--yes")[0] == 0

    assert b"user-alice" not in on_disk(tmp_path)
    assert shape(filled, name) == shape_before
    (after,) = sessions_of(filled, "lk")
    unchanged = ("id", "participants", "peak_participants", "participant_ms", "duration_ms", "completeness", "state")
    assert {field: after[field] for field in unchanged} == {field: session[field] for field in unchanged}
    entries = json.loads(filled("timeline", name, "--json")[1])["items"]
    actors = {entry["actor"] for entry in entries if entry["actor"]}
    assert "user-bob" in actors
    assert any(actor.startswith("erased-") for actor in actors)
    assert "user-alice" not in filled("export")[1]

    code, out, stderr = filled("verify")
    assert code == 0, out + stderr
    assert filled("rebuild", "--check")[0] == 0
    assert filled("rebuild")[0] == 0
    assert shape(filled, name) == shape_before
    (plan,) = json.loads(filled("erase", "--identity", "user-alice", "--json")[1])["items"]
    assert plan["positions"] == []


def people_of(run: Run, source: str) -> list[str]:
    """People with connections in the first session of a source; OpenVidu and Meet name them by connection."""
    entries = json.loads(run("timeline", str(sessions_of(run, source)[0]["id"]), "--json")[1])["items"]
    return sorted({str(entry["actor"]) for entry in entries if entry["kind"] == "participant.joined"})


def test_two_people_of_one_call_can_be_erased_one_after_the_other(filled: Run, tmp_path: Path) -> None:
    (session,) = sessions_of(filled, "ov")
    name = str(session["id"])
    shape_before = shape(filled, name)
    both = people_of(filled, "ov")
    assert len(both) == 2
    for person in both:
        assert filled("erase", "--identity", person, "--yes")[0] == 0
        assert person.encode() not in on_disk(tmp_path)
    assert shape(filled, name) == shape_before
    (after,) = sessions_of(filled, "ov")
    assert (after["participants"], after["participant_ms"]) == (session["participants"], session["participant_ms"])
    assert filled("verify", "--proofs", "--views")[0] == 0
    bundle = tmp_path / "bundle.zip"
    assert filled("export", "--evidence", name, "--out", str(bundle))[0] == 0
    assert filled("verify", str(bundle))[0] == 0


def test_erasing_a_session_also_erases_what_an_earlier_erasure_left_of_others(filled: Run, tmp_path: Path) -> None:
    (session,) = sessions_of(filled, "ov")
    name = str(session["id"])
    first, second = people_of(filled, "ov")
    assert filled("erase", "--identity", first, "--yes")[0] == 0
    assert second.encode() in on_disk(tmp_path)
    assert filled("erase", "--session", name, "--yes")[0] == 0
    assert second.encode() not in on_disk(tmp_path)
    (plan,) = json.loads(filled("erase", "--session", name, "--json")[1])["items"]
    assert (plan["positions"], plan["erasures"]) == ([], [])


def test_an_erasure_interrupted_before_its_rebuild_is_finished_by_the_next_one(filled: Run, tmp_path: Path) -> None:
    config = load(tmp_path / "config.toml", {})

    # The lock cannot be opened, so it ends after keys are destroyed and before views are rebuilt.
    lock = tmp_path / f"{config.views_path.name}-rebuild.lock"
    lock.mkdir()
    assert filled("erase", "--identity", "user-alice", "--yes")[0] != 0
    lock.rmdir()
    left = tmp_path / f"{config.views_path.name}-held"
    left.write_bytes(b"a check died: user-alice")
    assert b"user-alice" in config.views_path.read_bytes()
    assert filled("erase", "--identity", "user-alice", "--yes")[0] == 0
    assert b"user-alice" not in on_disk(tmp_path)
    assert not config.views_path.with_name(config.views_path.name + "-erasing").exists()


@pytest.mark.parametrize("source", SOURCES.values())
def test_an_erased_session_keeps_its_shape_without_its_people(filled: Run, tmp_path: Path, source: str) -> None:
    session = sessions_of(filled, source)[0]
    shape_before = shape(filled, str(session["id"]))
    code, out, stderr = filled("erase", "--session", str(session["id"]), "--yes")
    assert code == 0, out + stderr
    # A session whose room is named after its person has a new id.
    (after,) = [each for each in sessions_of(filled, source) if each["started_at"] == session["started_at"]]
    assert shape(filled, str(after["id"])) == shape_before
    for field in ("participants", "peak_participants", "participant_ms", "duration_ms", "completeness"):
        assert after[field] == session[field], field
    entries = filled("timeline", str(after["id"]), "--json")[1]
    for word in ("alice", "bob", "Alice", "Bob", "10.0.", "203.0."):
        assert word not in entries, word
    assert filled("verify")[0] == 0
    assert filled("rebuild", "--check")[0] == 0


def test_old_records_are_erased_per_source(filled: Run) -> None:
    (plan,) = json.loads(filled("erase", "--before", "2100-01-01", "--source", "ov", "--json")[1])["items"]
    assert plan["sources"] == {"ov": 18}
    assert filled("erase", "--before", "2100-01-01", "--source", "ov", "--yes")[0] == 0
    exported = [json.loads(line) for line in filled("export")[1].splitlines()]
    assert {line["body_text"] for line in exported if line["source"] == "ov"} == {""}
    assert all(line["body_text"] for line in exported if line["source"] == "lk")
    assert filled("verify")[0] == 0


def test_records_in_clear_text_cannot_be_erased_and_the_output_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(config_text(tmp_path, SECRETS, READ_KEY, 0), "utf-8")
    file = tmp_path / "lk.jsonl"
    file.write_bytes(b"\n".join(sent.body for sent in whole_call("livekit", START)))
    for command in (["init"], ["import", "lk", str(file)], ["rebuild"]):
        assert main([command[0], "--config", str(config), *command[1:]]) == 0
    capsys.readouterr()
    assert main(["erase", "--config", str(config), "--identity", "user-alice"]) == 1
    assert "kept in clear" in capsys.readouterr().out
    assert main(["erase", "--config", str(config), "--identity", "user-alice", "--yes"]) == 2
    config.write_text(sealed_config(tmp_path), "utf-8")
    assert main(["init", "--config", str(config)]) == 0
    capsys.readouterr()
    assert main(["erase", "--config", str(config), "--identity", "user-alice", "--yes"]) == 1
    assert "cannot be erased" in capsys.readouterr().out


async def test_a_repeat_of_an_erased_delivery_is_a_duplicate_and_restores_nothing(tmp_path: Path) -> None:
    running = await Running(tmp_path, config=sealed_config(tmp_path)).start(init=True)
    try:
        async with aiohttp.ClientSession() as web:
            call = whole_call("livekit", now() - 3_600_000_000)
            for sent in call:
                status, reply = await running.post(web, "livekit", sent)
                assert (status, reply["duplicate"]) == (200, False)
            found = await running.get(web, "/v1/sessions", at_least=str(reply["position"]))
            name = found["items"][0]["id"]
            code, out, stderr = await running.run("erase", "--identity", "user-alice", "--yes")
            assert code == 0, out + stderr
            for sent in call:
                status, reply = await running.post(web, "livekit", sent)
                assert (status, reply["duplicate"]) == (200, True)
            people = await running.get(web, f"/v1/sessions/{name}/participants")
            assert "user-alice" not in json.dumps(people)
            assert len(people["items"]) == 2
            record = await running.get(web, "/v1/records/2")
            assert "user-alice" not in json.dumps(record)
            assert (record["body"], record["proof"], record["erased_by"] > 2) == (None, {}, True)
            async with web.get(f"{running.url}/v1/records/2/body", headers=READ) as answer:
                assert (answer.status, (await answer.json())["type"]) == (410, "urn:tracker:problem:erased")
        assert b"user-alice" not in on_disk(tmp_path)
    finally:
        await running.stop()


async def test_retention_erases_old_records_and_counts_them(tmp_path: Path) -> None:
    text = sealed_config(tmp_path).replace('name = "lk"', 'name = "lk"\nretention = "1s"')
    running = Running(tmp_path, config=text)
    assert (await running.run("init"))[0] == 0
    for vendor, source in (("livekit", "lk"), ("plugnmeet", "pnm")):
        file = tmp_path / f"{vendor}.jsonl"
        file.write_bytes(b"\n".join(sent.body for sent in whole_call(vendor, START)))
        assert (await running.run("import", source, str(file)))[0] == 0
        file.unlink()
    assert (await running.run("rebuild"))[0] == 0
    await asyncio.sleep(1.1)
    metrics = Metrics(now)
    await erase_once(functools.partial(child_command.run, running.config), metrics)
    assert b'tracker_erased_records_total{source="lk"} 14.0' in metrics.render()[0]
    code, out, _ = await running.run("export", "--source", "pnm")
    assert code == 0
    assert "participant_joined" in out
    assert '\\"identity\\"' in out
    assert '\\"identity\\"' not in (await running.run("export", "--source", "lk"))[1]
    assert b"user-alice" not in on_disk(tmp_path)
    assert (await running.run("verify"))[0] == 0


async def test_an_interrupted_erasure_is_finished_by_the_next_start(tmp_path: Path) -> None:
    running = Running(tmp_path, config=sealed_config(tmp_path))
    assert (await running.run("init"))[0] == 0
    file = tmp_path / "lk.jsonl"
    file.write_bytes(b"\n".join(sent.body for sent in whole_call("livekit", START)))
    assert (await running.run("import", "lk", str(file)))[0] == 0
    config = load(running.config, {})
    log = await stores.open_log(config)
    eraser = Eraser(log, Selection(why="session", positions=(2, 3)), now=now)
    plan = await eraser.plan()
    assert plan.positions == [2, 3]
    erasure = ErasureBody(why="session", at=now(), erased=[ErasedRecord(2, []), ErasedRecord(3, [])])
    await log.append_erasure(make_erasure_record(erasure), [2, 3])
    # Interrupted here: the keys are still there.
    await log.close()
    await running.start()
    assert await running.stop() == 0
    with closing(sqlite3.connect(tmp_path / "keys.db")) as keys:
        assert keys.execute("SELECT count(*) FROM keys WHERE position IN (2, 3)").fetchone() == (0,)


def test_a_hidden_field_is_shown_only_in_the_raw_record(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        sealed_config(tmp_path).replace('name = "ov"', 'name = "ov"\nredact = ["platform", "ip"]'), "utf-8"
    )
    assert run("init")[0] == 0
    file = tmp_path / "ov.jsonl"
    file.write_bytes(b"\n".join(sent.body for sent in whole_call("openvidu", START)))
    assert run("import", "ov", str(file))[0] == 0
    assert run("rebuild")[0] == 0
    (session,) = sessions_of(run, "ov")
    entries = json.loads(run("timeline", str(session["id"]), "--json")[1])["items"]
    assert entries
    assert not [entry for entry in entries if {"platform", "ip"} & entry["detail"].keys()]
    assert '\\"platform\\"' in run("export")[1]
    assert run("rebuild", "--check")[0] == 0


def test_a_name_is_found_at_any_depth_of_json(run: Run, tmp_path: Path) -> None:
    person = 'Zoë "Zo" O\\Neil'
    deep = json.dumps({"metadata": json.dumps({"metadata": json.dumps({"guest": person})})})
    body = json.dumps({"event": "room_started", "id": "EV_1", "room": {"sid": "RM_1", "name": "r", "metadata": deep}})
    file = tmp_path / "lk.jsonl"
    file.write_text(body, "utf-8")
    assert run("init")[0] == 0
    assert run("import", "lk", str(file))[0] == 0
    assert run("rebuild")[0] == 0
    (plan,) = json.loads(run("erase", "--identity", person, "--json")[1])["items"]
    assert plan["positions"] == [1]
    code, _, stderr = run("erase", "--identity", "Bo")
    assert (code, "at least 3 bytes" in stderr) == (2, True)


def test_every_leaf_of_an_encrypted_log_can_be_computed_from_its_export(filled: Run, tmp_path: Path) -> None:
    assert filled("erase", "--identity", "user-alice", "--yes")[0] == 0
    out = filled("export", "--leaves")[1]
    lines = [decode_line(line.encode() + b"\n") for line in out.split("\n") if line]
    assert len(lines) > 60
    assert [fault for line in lines for fault in leaf_faults(line)] == []
    frontier = Frontier()
    for line in lines:
        frontier.append(line.leaf.hash)
    assert base64.b64encode(frontier.root()).decode() in filled("verify")[1]
    assert filled("export", "--leaves", "--out", str(tmp_path / "all.jsonl"))[0] == 0
    assert (tmp_path / "all.jsonl").read_text("utf-8") == out


@pytest.mark.parametrize("person", ["participant", "stream", "unknown", "server", "room_sid"])
def test_a_person_named_like_a_word_of_tracker_can_be_erased(run: Run, tmp_path: Path, person: str) -> None:
    file = tmp_path / "lk.jsonl"
    call = b"\n".join(sent.body for sent in whole_call("livekit", START)).replace(b"user-alice", person.encode())
    file.write_bytes(call)
    assert run("init")[0] == 0
    assert run("import", "lk", str(file))[0] == 0
    assert run("rebuild")[0] == 0
    (session,) = sessions_of(run, "lk")
    shape_before = shape(run, str(session["id"]))
    assert run("erase", "--identity", person, "--yes")[0] == 0
    (after,) = sessions_of(run, "lk")
    assert shape(run, str(after["id"])) == shape_before
    assert after["vendor_ids"] == session["vendor_ids"]
    people = {entry["actor"] for entry in json.loads(run("timeline", str(after["id"]), "--json")[1])["items"]}
    assert person not in people
    assert "user-bob" in people
