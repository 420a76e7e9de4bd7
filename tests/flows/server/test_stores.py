"""`tracker serve` and the commands with a changed or damaged log or views file."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from tests.support.server import READ, Running, now
from tracker.demo.calls import whole_call

SWALLOW = "CREATE TRIGGER swallow BEFORE INSERT ON records BEGIN SELECT RAISE(IGNORE); END"


def run_sql(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.executescript(sql)


async def test_serve_and_import_refuse_a_log_with_a_planted_trigger_and_verify_names_it(tmp_path: Path) -> None:
    running = Running(tmp_path)
    assert (await running.run("init"))[0] == 0
    run_sql(running.log_path, SWALLOW)
    lines = tmp_path / "lines.jsonl"
    lines.write_bytes(whole_call("livekit", now())[0].body)
    for command in (("serve",), ("import", "lk", str(lines))):
        code, out, stderr = await running.run(*command)
        assert code != 0, command
        assert "the trigger 'swallow' was added" in stderr, command
        assert "Traceback" not in out + stderr
    code, out, _ = await running.run("verify")
    assert code == 1
    assert "the trigger 'swallow' was added" in out


async def test_after_a_trigger_is_planted_a_running_server_answers_no_delivery(tmp_path: Path) -> None:
    running = await Running(tmp_path).start(init=True)
    first, second = whole_call("livekit", now())[:2]
    try:
        async with aiohttp.ClientSession() as web:
            assert (await running.post(web, "livekit", first))[0] == 200
            run_sql(running.log_path, SWALLOW)
            status, problem = await running.post(web, "livekit", second)
            assert status == 503
            assert "swallow" not in str(problem)
            async with web.get(f"{running.url}/readyz") as answer:
                assert answer.status == 503
            assert "the trigger 'swallow' was added" in running.printed.read_text()
            run_sql(running.log_path, "DROP TRIGGER swallow")
            assert await running.post(web, "livekit", second) == (200, {"position": 2, "duplicate": False})
    finally:
        await running.stop()


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def make_foreign(path: Path) -> None:
    path.unlink()
    run_sql(path, "CREATE TABLE mine (n); INSERT INTO mine VALUES (7)")


def garble_a_page(path: Path) -> None:
    """Damage only the pages of the entries, which are not read when the file is opened."""
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        ((page, size),) = file.execute(
            "SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_schema WHERE name = 'entries'"
        )
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(bytes(range(256)) * (size // 256))


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut in half": cut_in_half,
    "foreign": make_foreign,
    "random": lambda path: path.write_bytes(os.urandom(70_000)),
    "a garbled page": garble_a_page,
}


async def settled(running: Running, web: aiohttp.ClientSession, before: object) -> None:
    """Wait until reads are answered as before."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        async with web.get(f"{running.url}/v1/sessions", headers=READ) as answer:
            if answer.status == 200 and await answer.json() == before:
                return
        await asyncio.sleep(0.2)
    pytest.fail(f"the views did not come back: {running.printed.read_text()[-3_000:]}")


@pytest.mark.parametrize(
    ("name", "when"),
    [
        *((name, "before the start") for name in ("empty", "a garbled page")),
        ("foreign", "while it runs"),
        *(
            pytest.param(name, "before the start", marks=pytest.mark.long)
            for name in ("cut in half", "foreign", "random")
        ),
        *(pytest.param(name, "while it runs", marks=pytest.mark.long) for name in ("empty", "cut in half", "random")),
    ],
)
async def test_damaged_views_are_moved_aside_and_rebuilt_while_deliveries_are_answered(
    tmp_path: Path, name: str, when: str
) -> None:
    running = await Running(tmp_path).start(init=True)
    views, damage = tmp_path / "views.db", DAMAGES[name]
    first, *others = whole_call("livekit", now())
    try:
        async with aiohttp.ClientSession() as web:
            for sent in others:
                _, reply = await running.post(web, "livekit", sent)
            before = await running.get(web, "/v1/sessions", at_least=str(reply["position"]))
            if when == "before the start":
                await running.stop()
                damage(views)
                await running.start()
            else:
                # With another inode, because SQLite has the old file's pages in memory.
                shutil.copy(views, tmp_path / "other.db")
                damage(tmp_path / "other.db")
                os.replace(tmp_path / "other.db", views)
            assert (await running.post(web, "livekit", others[0]))[0] == 200
            deadline = time.monotonic() + 30
            while not list(tmp_path.glob("views.db.damaged-*")):
                assert time.monotonic() < deadline, running.printed.read_text()
                await running.text(web, f"/v1/sessions/{before['items'][0]['id']}/timeline")
                await asyncio.sleep(0.2)
            await settled(running, web, before)
            # The projector reports it after the file has its new name.
            while "the views are damaged: moved aside" not in running.printed.read_text():
                assert time.monotonic() < deadline + 30, running.printed.read_text()
                await asyncio.sleep(0.1)
            assert (await running.post(web, "livekit", first))[0] == 200
    finally:
        await running.stop()
    assert (await running.run("rebuild", "--check"))[0] == 0


UNSEEN_DAMAGES = {
    "a state that cannot be read": "UPDATE session_states SET state = x'ff'",
    "a row that cannot be read": "UPDATE sessions SET doc = x'ff'",
    "a trigger that swallows rows": "CREATE TRIGGER x BEFORE INSERT ON entries BEGIN SELECT RAISE(IGNORE); END",
    "a renamed column": "ALTER TABLE sessions RENAME COLUMN joined TO joiners",
}
"""SQLite itself sees none of it."""


@pytest.mark.parametrize("name", UNSEEN_DAMAGES)
async def test_views_that_somebody_changed_are_made_again_while_deliveries_are_answered(
    tmp_path: Path, name: str
) -> None:
    running = await Running(tmp_path).start(init=True)
    *others, last = whole_call("livekit", now())
    try:
        async with aiohttp.ClientSession() as web:
            for sent in others:
                _, reply = await running.post(web, "livekit", sent)
            (session,) = (await running.get(web, "/v1/sessions", at_least=str(reply["position"])))["items"]
            if "state" in name:  # a running server still has it in memory
                await running.stop()
            run_sql(tmp_path / "views.db", UNSEEN_DAMAGES[name])
            if "state" in name:
                await running.start()
            _, reply = await running.post(web, "livekit", last)
            async with asyncio.timeout(30):
                while not list(tmp_path.glob("views.db.damaged-*")):
                    status, page = await running.text(web, f"/sessions/{session['id']}")
                    assert status in {200, 503}, page
                    await asyncio.sleep(0.2)
            await running.until(web, "/readyz", status=200)
            assert "the views are damaged: moved aside" in running.printed.read_text()
            session = await running.get(web, f"/v1/sessions/{session['id']}", at_least=str(reply["position"]))
            assert session["state"] == "ended"
    finally:
        await running.stop()
    assert "Traceback" not in running.printed.read_text()
    assert (await running.run("rebuild", "--check"))[0] == 0


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
async def test_without_a_file_for_the_views_deliveries_are_recorded_and_readers_get_503(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    running = Running(tmp_path)
    assert (await running.run("init"))[0] == 0
    views = tmp_path / "views.db"
    views.unlink(missing_ok=True)
    make(views)
    await running.start()
    try:
        async with aiohttp.ClientSession() as web:
            _, reply = await running.post(web, "livekit", whole_call("livekit", now())[0])
            assert reply["position"] == 1
            status, problem = await running.text(web, "/v1/sessions")
            assert (status, json.loads(problem)["type"]) == (503, "urn:tracker:problem:views-unavailable")
            assert (await running.text(web, "/"))[0] == 503
            assert "views.path names a" in await running.until(web, "/readyz?for=reads", "views.path", status=503)
            assert (await running.text(web, "/readyz?for=hooks"))[0] == 200
            assert "move it away, or correct views.path" in running.printed.read_text()
            views.rename(tmp_path / "elsewhere")
            await running.until(web, "/readyz", status=200)
            assert len((await running.get(web, "/v1/sessions", at_least="1"))["items"]) == 1
    finally:
        assert await running.stop() == 0
    assert "Traceback" not in running.printed.read_text()


async def test_offline_commands_name_damaged_views_in_one_line_and_a_rebuild_repairs_them(tmp_path: Path) -> None:
    running = Running(tmp_path)
    assert (await running.run("init"))[0] == 0
    lines = tmp_path / "lines.jsonl"
    lines.write_bytes(b"\n".join(sent.body for sent in whole_call("livekit", now())))
    assert (await running.run("import", "lk", str(lines)))[0] == 0
    for damage in (DAMAGES["empty"], DAMAGES["cut in half"], DAMAGES["foreign"], DAMAGES["random"]):
        assert (await running.run("rebuild"))[0] == 0
        damage(tmp_path / "views.db")
        code, out, stderr = await running.run("timeline", "nobody")
        assert code != 0
        assert (out, stderr.count("\n")) == ("", 1), stderr
        assert "tracker rebuild" in stderr, stderr
    code, _, stderr = await running.run("rebuild")
    assert code == 0, stderr
    assert (await running.run("rebuild", "--check"))[0] == 0


async def test_a_views_path_that_is_another_file_of_tracker_is_refused(tmp_path: Path) -> None:
    running = Running(tmp_path)
    assert (await running.run("init"))[0] == 0
    (tmp_path / "views.db").unlink(missing_ok=True)
    other = tmp_path / "other"
    other.mkdir()
    assert (await Running(other).run("init"))[0] == 0
    (tmp_path / "views.db").symlink_to(other / "log.db")
    code, _, stderr = await running.run("serve")
    assert code != 0
    assert "names a log" in stderr
    assert (await Running(other).run("verify"))[0] == 0
